"""What a call comes to."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from guard.policy.budget_status import BudgetStatus
from spend.models import Route
from spend.pricing.cost import Usage


@dataclass(frozen=True, slots=True)
class Answer:
    """What the provider answered, and what the guard has to say of it. `request_id` is its call's in the ledger."""

    request_id: str
    completion: Mapping[str, Any]
    usage: Usage
    model: str
    route: Route
    cost_ticks: int
    budget: BudgetStatus
    is_replay: bool = False
    adapted: tuple[str, ...] = ()
    """What was left out or mapped for the model that served."""
    lowered_max_tokens: int | None = None
    """The maximum of output tokens that was allowed, where that is less than was asked for."""
