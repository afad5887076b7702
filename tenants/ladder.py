"""A budget's ladder: its soft cap, and further steps above it, at each of which calls get less. Pure.

The soft cap is the first step, and moves calls one downgrade down the tenant's rules. A further step moves them
further down, or lowers how long an answer may be. What a step asks for lasts until the hard cap.

As text, which is how a budget keeps its further steps: "85 %: 2 downgrades, 95 %: 256 tokens".
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

MOST_FURTHER_STEPS = 4
FEWEST_DOWNGRADES, MOST_DOWNGRADES = 2, 9
"""Of a further step: one downgrade is the soft cap's."""
MOST_TOKENS = 1_000_000
STEP = re.compile(r"(\d{1,3}(?:\.\d{1,4})?) ?(%?) ?: ?(\d{1,7}) (downgrades?|tokens?)")
EXAMPLE = "85 %: 2 downgrades, 95 %: 256 tokens"


class StepMark(NamedTuple):
    """A further step of one limit: from which use on, in ticks, and what calls get then.

    `downgrades` is how far down the tenant's rules they are moved, `max_tokens` the longest answer; 0 leaves it.
    """

    from_ticks: int
    downgrades: int
    max_tokens: int


@dataclass(frozen=True, slots=True)
class FurtherStep:
    """From `share` of the limit on: so many downgrades, or answers of at most so many tokens; the other is 0."""

    share: Decimal
    downgrades: int = 0
    max_tokens: int = 0

    def mark(self, limit_ticks: int) -> StepMark:
        return StepMark(math.ceil(limit_ticks * self.share), self.downgrades, self.max_tokens)

    def __str__(self) -> str:
        what = f"{self.downgrades} downgrades" if self.downgrades else f"{self.max_tokens} tokens"
        return f"{(self.share * 100).normalize():f} %: {what}"


def steps_of(text: str) -> tuple[FurtherStep, ...]:
    """The steps of a text, by their shares. Raises ValueError for what is no such list."""
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    return tuple(sorted(map(_step_of, parts), key=lambda step: step.share))


def text_of(steps: Iterable[FurtherStep]) -> str:
    """As it is kept, by their shares. Raises ValueError for a step that makes no sense by itself."""
    ordered = sorted(steps, key=lambda step: step.share)
    for step in ordered:
        _check_by_itself(step)
    return ", ".join(map(str, ordered))


def kept_within(text: str, soft_cap: Decimal, hard_cap: Decimal) -> str:
    """The further steps that still lie between the caps, where a budget gets others."""
    return text_of(step for step in steps_of(text) if soft_cap < step.share <= hard_cap)


def _step_of(text: str) -> FurtherStep:
    if not (found := STEP.fullmatch(text)):
        raise ValueError(f"{text!r} is no step: write them as in {EXAMPLE}.")
    number, percent, count, what = found.groups()
    share = Decimal(number) / 100 if percent else Decimal(number)
    return FurtherStep(share, **{"downgrades" if what.startswith("downgrade") else "max_tokens": int(count)})


def check(steps: Sequence[FurtherStep], soft_cap: Decimal, hard_cap: Decimal) -> None:
    """That they lie between the caps and that each asks for more than those before it. Raises ValueError."""
    if len(steps) > MOST_FURTHER_STEPS:
        raise ValueError(f"There are at most {MOST_FURTHER_STEPS} further steps.")
    before: list[FurtherStep] = []
    for step in steps:
        _check_by_itself(step)
        if not soft_cap < step.share <= hard_cap:
            raise ValueError(f"{step}: a further step is above the soft cap, and at most at the hard cap.")
        if any(step.share == each.share for each in before):
            raise ValueError(f"{step}: there is another step at the same share.")
        if any(_asks_no_more(step, each) for each in before):
            raise ValueError(f"{step}: a step asks for more than those below it.")
        before.append(step)


def _check_by_itself(step: FurtherStep) -> None:
    if step.share != round(step.share, 4):
        raise ValueError(f"{step}: a share has at most 4 decimals, a percent 2.")
    if bool(step.downgrades) == bool(step.max_tokens):
        raise ValueError("A step asks for downgrades, or for shorter answers.")
    if step.downgrades and not FEWEST_DOWNGRADES <= step.downgrades <= MOST_DOWNGRADES:
        raise ValueError(
            f"{step}: a further step asks for {FEWEST_DOWNGRADES} to {MOST_DOWNGRADES} downgrades; "
            "the soft cap asks for one."
        )
    if step.max_tokens > MOST_TOKENS:
        raise ValueError(f"{step}: an answer has at most {MOST_TOKENS:,} tokens.")


def _asks_no_more(step: FurtherStep, before: FurtherStep) -> bool:
    if step.downgrades and before.downgrades:
        return step.downgrades <= before.downgrades
    return bool(step.max_tokens and before.max_tokens) and step.max_tokens >= before.max_tokens


def step_at(use_ticks: int, soft_ticks: int, further: Sequence[StepMark]) -> int:
    """How many steps of a ladder such a use has reached: 0 below the soft cap, 1 past it."""
    return (use_ticks >= soft_ticks) + sum(use_ticks >= mark.from_ticks for mark in further)


def words_of(further: Sequence[StepMark], step: int, can_downgrade: bool) -> str:
    """What calls get on a step (1 is the soft cap's) of a ladder with these further steps: "cheapest models"."""
    reached = further[: step - 1]
    downgrades, deepest = (max((mark.downgrades for mark in marks), default=0) for marks in (reached, further))
    shortest = min((mark.max_tokens for mark in reached if mark.max_tokens), default=0)
    models = (
        "cheaper models" if not downgrades else "cheapest models" if downgrades == deepest else "yet cheaper models"
    )
    answers = f"answers of at most {shortest:,} tokens"
    told = [models] * can_downgrade + [answers] * bool(shortest)
    return ", ".join(told) or "nothing changes, for there is no downgrade"
