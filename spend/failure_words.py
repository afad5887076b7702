"""What a failed attempt's code means, in words for people; the chat path writes the codes. Pure."""

WORDS = {
    "timeout": "it did not answer in time",
    "connection_failed": "its provider could not be reached",
    "bad_answer": "its provider's answer made no sense",
    "server_error": "its provider had an error of its own",
    "error_within_answer": "its provider sent an error in place of an answer",
    "rate_limited": "its provider has too many requests from this account at the moment",
    "model_not_found": "its provider does not know this model, or the base URL is wrong",
    "no_provider_key": "the guard has no key for its provider",
    "provider_refused_key": "its provider refused the guard's key, or gives that key no access to this model",
    "provider_out_of_money": "the account at its provider is out of money: add credit there",
    "answered_with_page": "its address answered with a page, not as a model provider: check {base_url}",
    "redirected": "its address sends elsewhere, and no prompt is sent after it: check {base_url}",
    "content_filter": "its provider refused what was said in the call",
    "rejected": "its provider rejected the request",
    "circuit_open": "it had failed several times in a row and is being spared for a minute",
}
BASE_URLS = {"xai": "XAI_BASE_URL", "openai": "OPENAI_BASE_URL"}
OPERATORS_TO_MEND = frozenset(
    {"provider_refused_key", "provider_out_of_money", "answered_with_page", "redirected", "model_not_found"}
)
"""Failures that no waiting ends."""


def words_of(code: str, provider: str = "") -> str:
    """Half a sentence about the model; the code itself where it is not known here."""
    return WORDS.get(code, code).format(base_url=BASE_URLS.get(provider, "the provider's base URL"))
