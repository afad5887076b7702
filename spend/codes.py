"""The codes that are written of calls and their attempts, each with what it means in words for people. Pure.

A code is a word in the database, in logs and in answers; here alone is what it says. The wordings are the managers';
`guard.simulation.wording` has the same reasons in the conditional, for the operator who asks beforehand.
"""

from enum import StrEnum
from typing import Self


class Worded(StrEnum):
    """A code with its words, in which `{model}` and `{base_url}` stand for what the reader should see."""

    words: str

    def __new__(cls, code: str, words: str = "") -> Self:
        member = str.__new__(cls, code)
        member._value_ = code
        member.words = words
        return member

    @classmethod
    def known(cls, code: str) -> Self | None:
        """The member of this code; None for one that an older or a newer version wrote."""
        try:
            return cls(code)
        except ValueError:
            return None


class FailureCode(Worded):
    """Why an attempt failed: half a sentence about its model."""

    TIMEOUT = "timeout", "it did not answer in time"
    CONNECTION_FAILED = "connection_failed", "its provider could not be reached"
    BAD_ANSWER = "bad_answer", "its provider's answer made no sense"
    SERVER_ERROR = "server_error", "its provider had an error of its own"
    ERROR_WITHIN_ANSWER = "error_within_answer", "its provider sent an error in place of an answer"
    RATE_LIMITED = "rate_limited", "its provider has too many requests from this account at the moment"
    MODEL_NOT_FOUND = "model_not_found", "its provider does not know this model, or the base URL is wrong"
    NO_PROVIDER_KEY = "no_provider_key", "the guard has no key for its provider"
    PROVIDER_REFUSED_KEY = (
        "provider_refused_key",
        "its provider refused the guard's key, or gives that key no access to this model",
    )
    PROVIDER_OUT_OF_MONEY = "provider_out_of_money", "the account at its provider is out of money: add credit there"
    ANSWERED_WITH_PAGE = (
        "answered_with_page",
        "its address answered with a page, not as a model provider: check {base_url}",
    )
    REDIRECTED = "redirected", "its address sends elsewhere, and no prompt is sent after it: check {base_url}"
    ADDRESS_NOT_ALLOWED = (
        "address_not_allowed",
        "its address leads into this network, where ALLOW_PRIVATE_TARGETS does not let it",
    )
    CONTENT_FILTER = "content_filter", "its provider refused what was said in the call"
    REJECTED = "rejected", "its provider rejected the request"
    CIRCUIT_OPEN = "circuit_open", "it had failed several times in a row and is being spared for a minute"
    INTERRUPTED = (
        "interrupted",
        "its worker died, or was away for longer than the lease, so what was held is charged",
    )
    INTERNAL_ERROR = "internal_error", "something went wrong in the guard itself"


class StepCode(Worded):
    """What was decided of a model at one step of a call: a sentence."""

    HELD = "held", "{model} fitted the budget. Its worst case was set aside and the call was sent."
    SERVED = "served", "{model} answered."
    USAGE_NOT_BELIEVED = (
        "usage_not_believed",
        "{model}'s provider gave figures of usage that are impossible. They were counted instead.",
    )
    SETTLED = "settled", "{model} answered and its real cost was booked."
    DOES_NOT_FIT = "does_not_fit", "{model} would not have fitted what was left of the budget."
    HELD_BY_OTHER_CALLS = (
        "held_by_other_calls",
        "{model} would have fitted, if nothing were held for other calls in flight.",
    )
    PAST_SOFT_CAP = (
        "past_soft_cap",
        "{model} was passed over: the budget was past its soft cap, so a cheaper model was tried first.",
    )
    PAST_FURTHER_STEP = (
        "past_further_step",
        "{model} was passed over: the budget had reached a further step, so a still cheaper model was tried first.",
    )
    SHORTENED = "shortened", "{model} was asked for a shorter answer, as the step that the budget had reached wants."
    CIRCUIT_OPEN = (
        "circuit_open",
        "{model} was skipped: it had failed several times in a row and is being spared for a minute.",
    )
    NO_PROVIDER_KEY = "no_provider_key", "{model} was skipped: the guard has no key for its provider."
    PROVIDER_OFF = "provider_off", "{model} was skipped: its provider is switched off."
    FAILED = "failed", "{model} failed."
    BROKE_OFF = "broke_off", "{model}'s answer broke off in the middle. What had come of it was charged."
    RATE_LIMITED = "rate_limited", "{model} was skipped: its provider had asked to be left alone for a moment."
    REFUSED = "refused", "The call was refused."
    HANDED_OFF = "handed_off", "The customer was given the tenant's own words in place of an answer."
    UNKNOWN_MODEL = "unknown_model", "{model} is not in the catalogue."
    MODEL_DISABLED = "model_disabled", "{model} is switched off."
    SHUT_DOWN = "shut_down", "{model} was shut down by its provider."
    NO_PRICE = "no_price", "{model} has no price, and what has no price is never called."
    ADAPTED = (
        "adapted",
        "For {model} the request was made fit: what it refuses and doesn't change the meaning was left out or mapped.",
    )
    REJECTED = "rejected", "{model} refused the request as it was, so another one was tried."
    NO_CHAT = "no_chat", "{model} was passed over: it makes embeddings, and no chat."
    NO_TOOLS = "no_tools", "{model} was passed over: it does not call functions as this request wants it."
    NO_JSON_SCHEMA = "no_json_schema", "{model} was passed over: it does not answer by a JSON schema."
    NO_IMAGES = "no_images", "{model} was passed over: it takes no images."
    NO_CHOICES = "no_choices", "{model} was passed over: it does not give several choices."
    NO_LOGPROBS = "no_logprobs", "{model} was passed over: it gives no log probabilities."
    CONVERSATION_KEPT = (
        "conversation_kept",
        "{model} was not used: another one served this conversation before, and having it cached is no dearer.",
    )
    THINKS_LONGER = (
        "thinks_longer",
        "{model} was passed over: it usually thinks for longer than the maximum that was asked for.",
    )
    TOO_LONG = "too_long", "{model} was passed over: the prompt is longer than its context."
    IMAGES_NOT_PRICED = "images_not_priced", "{model} cannot take images here: they have no price."


CALL_CODES = {
    "budget_exceeded": "No model on the route fitted what was left of the budget.",
    "budget_held": "What was left of the budget was held for other calls in flight.",
    "rate_limited": "There were more calls at once, or in a minute, than its key or its tenant may make.",
    "all_models_failed": "Every model on the route failed or was being spared.",
    "ledger_unavailable": "The ledger could not be written, so no model was called.",
    "invalid_request": "The request was not valid.",
    "content_filter": "The provider refused what was said in the request.",
    "forbidden": "The call was not allowed.",
    "idempotency_conflict": "A call with the same Idempotency-Key was still in flight.",
    "idempotency_mismatch": "Its Idempotency-Key had been used with another body.",
    "internal_error": "Something went wrong in the guard itself.",
}
"""Why a call was refused or failed, by the code of its error (`guard.http.errors`)."""

BASE_URLS = {"xai": "XAI_BASE_URL", "openai": "OPENAI_BASE_URL"}
OPERATORS_TO_MEND = frozenset(
    {
        FailureCode.PROVIDER_REFUSED_KEY,
        FailureCode.PROVIDER_OUT_OF_MONEY,
        FailureCode.ANSWERED_WITH_PAGE,
        FailureCode.REDIRECTED,
        FailureCode.ADDRESS_NOT_ALLOWED,
        FailureCode.MODEL_NOT_FOUND,
    }
)
"""Failures that no waiting ends."""


def words_of(code: str, provider: str = "") -> str:
    """Half a sentence about the model; the code itself where it is not known here."""
    if (failure := FailureCode.known(code)) is None:
        return code
    return failure.words.format(base_url=BASE_URLS.get(provider, "the provider's base URL"))
