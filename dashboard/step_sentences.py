"""A call's steps in plain words. Pure.

Each step is an object as the chat path wrote it; what is not known here is shown as it is.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from spend.failure_words import WORDS, words_of
from tenants.money import usd_string

DECISIONS = {
    "held": "{model} fitted the budget. Its worst case was set aside and the call was sent.",
    "served": "{model} answered.",
    "usage_not_believed": "{model}'s provider gave figures of usage that are impossible. They were counted instead.",
    "settled": "{model} answered and its real cost was booked.",
    "does_not_fit": "{model} would not have fitted what was left of the budget.",
    "held_by_other_calls": "{model} would have fitted, if nothing were held for other calls in flight.",
    "past_soft_cap": "{model} was passed over: the budget was past its soft cap, so a cheaper model was tried first.",
    "circuit_open": "{model} was skipped: it had failed several times in a row and is being spared for a minute.",
    "no_provider_key": "{model} was skipped: the guard has no key for its provider.",
    "failed": "{model} failed.",
    "rate_limited": "{model} was skipped: its provider had asked to be left alone for a moment.",
    "refused": "The call was refused.",
    "unknown_model": "{model} is not in the catalogue.",
    "model_disabled": "{model} is switched off.",
    "shut_down": "{model} was shut down by its provider.",
    "no_price": "{model} has no price, and what has no price is never called.",
    "adapted": "For {model} the request was made fit: what it refuses and doesn't change the meaning was left out or "
    "mapped.",
    "rejected": "{model} refused the request as it was, so another one was tried.",
    "no_tools": "{model} was passed over: it does not call functions as this request wants it.",
    "no_json_schema": "{model} was passed over: it does not answer by a JSON schema.",
    "no_images": "{model} was passed over: it takes no images.",
    "no_choices": "{model} was passed over: it does not give several choices.",
    "no_logprobs": "{model} was passed over: it gives no log probabilities.",
    "conversation_kept": "{model} was not used: another one served this conversation before, and having it cached is "
    "no dearer.",
    "thinks_longer": "{model} was passed over: it usually thinks for longer than the maximum that was asked for.",
    "too_long": "{model} was passed over: the prompt is longer than its context.",
    "images_not_priced": "{model} cannot take images here: they have no price.",
}

CODES = {
    "interrupted": "Its worker died, or was away for longer than the lease. What was held is charged.",
    "budget_exceeded": "No model on the route fitted what was left of the budget.",
    "budget_held": "What was left of the budget was held for other calls in flight.",
    "all_models_failed": "Every model on the route failed or was being spared.",
    "ledger_unavailable": "The ledger could not be written, so no model was called.",
    "invalid_request": "The request was not valid.",
    "forbidden": "The call was not allowed.",
}

GOOD, BAD, PLAIN = "good", "bad", "plain"
TONES = {"held": GOOD, "served": GOOD, "settled": GOOD, "failed": BAD, "refused": BAD}


@dataclass(frozen=True)
class Step:
    """One sentence, how it sounds, and what else is known."""

    text: str
    tone: str
    details: list[tuple[str, str]]


def reason_of(code: str) -> str:
    """An error's code as a sentence; nothing for none."""
    if code in WORDS:
        words = words_of(code)
        return f"{words[0].upper()}{words[1:]}."
    return CODES.get(code, f"Code: {code}.") if code else ""


def story_of(steps: Iterable[Any]) -> list[Step]:
    return [_step(step if isinstance(step, Mapping) else {"note": step}) for step in steps]


def _step(step: Mapping[str, Any]) -> Step:
    known = {"model", "decision", "code"}
    decision, code, model = (str(step.get(name) or "") for name in ("decision", "code", "model"))
    sentence = DECISIONS.get(decision, "").format(model=model or "The model")
    sentence = sentence or ": ".join(filter(None, [model, decision.replace("_", " ")])) or "Step"
    if code:
        sentence = f"{sentence} {reason_of(code)}"
    details = [_detail(name, value) for name, value in step.items() if name not in known and value not in (None, "")]
    return Step(sentence, TONES.get(decision, PLAIN), details)


def _detail(name: str, value: Any) -> tuple[str, str]:
    """A field as a label and a value; whole ticks as USD."""
    if name.endswith("_ticks") and isinstance(value, int):
        label = name.removesuffix("_ticks").removesuffix("_usd")
        return label.replace("_", " "), f"${usd_string(value)}"
    return name.replace("_", " "), str(value)
