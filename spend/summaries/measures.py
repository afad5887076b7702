"""What is summed of entries and calls, and by which expressions: pages, `/api/spend`, files, metrics and the audit.

An entry counts as one attempt, with its BILLED figures. A call counts as one of its outcome. What a call that was
not served may have cost counts as spent, and the call has a model then and only then: CHARGED (docs/adr/0021).
"""

from collections.abc import Iterable

from django.db.models import F, Q, Sum

from spend.models import Outcome, Route

BILLED = ["cost_ticks", "input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens"]
OUTCOMES = [outcome.value for outcome in Outcome]
MEASURES = ["attempts", *BILLED, *OUTCOMES]
"""The columns of a quarter of an hour and of a day, in the order in which figures stand in a tuple."""
TAG_MEASURES = ["attempts", "cost_ticks", "input_tokens", "output_tokens", "calls"]
"""The columns of a quarter of an hour of a tag, in that order."""
DOWNGRADE_MEASURES = ["attempts", "cost_ticks", "asked_ticks", "unpriced"]
"""The same of a day's downgrades."""

CHARGED = ~Q(model="")
"""Of calls, and of their sums: those that are in what was spent."""
CHARGED_CALLS = Sum(F("served") + F("refused") + F("failed") + F("handoff"), filter=CHARGED, default=0)
DOWNGRADED = Sum("served", filter=Q(route=Route.DOWNGRADE), default=0)
"""Calls that a model served to which policy had moved them."""


def sums_of(names: Iterable[str]) -> dict[str, Sum]:
    """For `annotate`, in the order of `names`."""
    return {f"sum_{name}": Sum(name) for name in names}


def add_to(total: list[int], figures: Iterable[int]) -> None:
    """Raises ValueError where they are not as many."""
    total[:] = [before + figure for before, figure in zip(total, figures, strict=True)]
