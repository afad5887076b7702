"""A call's steps in plain words. Pure.

Each step is an object as the chat path wrote it; what is not known here is shown as it is.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from spend.codes import CALL_CODES, FailureCode, StepCode, words_of
from tenants.money import usd_string

GOOD, BAD, PLAIN = "good", "bad", "plain"
TONES: dict[str, str] = {
    StepCode.HELD: GOOD,
    StepCode.SERVED: GOOD,
    StepCode.SETTLED: GOOD,
    StepCode.FAILED: BAD,
    StepCode.BROKE_OFF: BAD,
    StepCode.REFUSED: BAD,
    StepCode.HANDED_OFF: BAD,
}


@dataclass(frozen=True)
class Step:
    """One sentence, how it sounds, and what else is known."""

    text: str
    tone: str
    details: list[tuple[str, str]]


def reason_of(code: str) -> str:
    """Why a call was refused or failed, as a sentence; nothing for none."""
    return CALL_CODES.get(code) or failure_of(code)


def failure_of(code: str) -> str:
    """Why an attempt failed, as a sentence; nothing for none."""
    if FailureCode.known(code):
        words = words_of(code)
        return f"{words[0].upper()}{words[1:]}."
    return f"Code: {code}." if code else ""


def sentences_of(steps: Iterable[Any]) -> list[Step]:
    return [_step(step if isinstance(step, Mapping) else {"note": step}) for step in steps]


def _step(step: Mapping[str, Any]) -> Step:
    known = {"model", "decision", "code"}
    decision, code, model = (str(step.get(name) or "") for name in ("decision", "code", "model"))
    step_code = StepCode.known(decision)
    sentence = step_code.words.format(model=model or "The model") if step_code else ""
    sentence = sentence or ": ".join(filter(None, [model, decision.replace("_", " ")])) or "Step"
    if code:
        sentence = f"{sentence} {failure_of(code)}"
    details = [_detail(name, value) for name, value in step.items() if name not in known and value not in (None, "")]
    return Step(sentence, TONES.get(decision, PLAIN), details)


def _detail(name: str, value: Any) -> tuple[str, str]:
    """A field as a label and a value; whole ticks as USD."""
    if name.endswith("_ticks") and isinstance(value, int):
        label = name.removesuffix("_ticks").removesuffix("_usd")
        return label.replace("_", " "), f"${usd_string(value)}"
    return name.replace("_", " "), str(value)
