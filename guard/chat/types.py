"""A call on its way: what has happened to it, the hold it stands under, and what it comes to."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from django.utils import timezone

from guard.call import ChatCall
from guard.chat.billing import Sent
from guard.http.errors import InvalidRequest
from guard.policy.adapt import Adapted
from guard.policy.budget_status import BudgetStatus, tightest
from guard.policy.last_served import LastServed
from guard.policy.routing import Plan
from guard.policy.snapshot import TenantPolicy
from guard.telemetry.trace import Trace
from spend.capabilities import Lesson
from spend.codes import FailureCode, StepCode
from spend.ledger.rules import Limit, Offer, Record, Reserved, Standing
from spend.models import Outcome, Route
from spend.pricing.cost import Usage

if TYPE_CHECKING:
    from guard.providers.client import Provider, ProviderStream

Served = TypeVar("Served")
Send = Callable[["Provider", dict[str, Any], Mapping[str, str], float | None], Awaitable[Served]]
"""A provider, the request, its tracing headers, and the model's own limit of seconds to begin in, if it has one."""


@dataclass(slots=True)
class CallProgress:
    """What has happened to a call so far: for its record, and for planning its next attempt."""

    call: ChatCall
    trace: Trace
    started: float = field(default_factory=monotonic)
    started_at: datetime = field(default_factory=timezone.now)
    steps: list[dict[str, Any]] = field(default_factory=list)
    failed: dict[str, FailureCode] = field(default_factory=dict)
    refused: dict[str, InvalidRequest] = field(default_factory=dict)
    """What each model that refused the request said of it."""
    learned: dict[str, tuple[Lesson, ...]] = field(default_factory=dict)
    """What those refusals taught, and the next attempt of the model will heed."""
    adapted: Adapted | None = None
    """The request as it was sent last."""
    last: LastServed | None = None
    """The latest answer in its conversation."""
    cost_ticks: int = 0
    charged: Offer | None = None
    """The last that did not serve and yet may have been billed."""
    retry_after_s: float = 0
    """The longest that a provider of this call wants to be left alone."""
    sent: "Hold | None" = None
    """The last hold under which a provider was called."""

    def note(self, model: str, decision: StepCode, **facts: Any) -> None:
        self.steps.append({"model": model, "decision": decision, **facts})

    def note_left_out(self, planned: Plan) -> None:
        """Once each, though every plan of the call leaves them out: it says why another model served."""
        for model, why in planned.left_out:
            if {"model": model, "decision": why} not in self.steps:
                self.note(model, why)

    @property
    def duration_ms(self) -> int:
        return int((monotonic() - self.started) * 1000)

    def record(self, outcome: Outcome, code: str = "", offer: Offer | None = None) -> Record:
        return Record(
            caller=self.call.caller,
            outcome=outcome,
            at=self.started_at,
            model=offer.model if offer else "",
            route=offer.route if offer else "",
            code=code,
            cost_ticks=self.cost_ticks,
            duration_ms=self.duration_ms,
            steps=tuple(self.steps),
            asked=self.call.ask.recorded(),
        )


@dataclass(frozen=True, slots=True)
class Hold:
    """A hold that stands, with the limits it was made under and how they stood then."""

    reserved: Reserved
    limits: tuple[Limit, ...]
    standings: tuple[Standing, ...]

    def status(self, tenant: TenantPolicy, standings: tuple[Standing, ...] | None = None) -> BudgetStatus:
        """`standings` may go on with those of windows that counted the call and did not bind it."""
        own = (standings or self.standings)[: len(self.limits)]
        return tightest(self.limits, own, can_downgrade=bool(tenant.downgrades))

    def status_after(self, cost_ticks: int, tenant: TenantPolicy) -> BudgetStatus:
        """How the budget stands once this hold is settled, as far as this call can tell beforehand."""
        hold_ticks = self.reserved.hold_ticks
        standings = [Standing(spent + cost_ticks, held - hold_ticks) for spent, held in self.standings]
        return self.status(tenant, tuple(standings))


@dataclass(frozen=True, slots=True)
class Opened:
    """A stream whose first event has come: from here on its settlement is `guard.chat.streaming`'s duty."""

    stream: "ProviderStream"
    hold: Hold
    progress: CallProgress
    sent: Sent


@dataclass(frozen=True, slots=True)
class Answer:
    """What the provider answered, and what the guard has to say of it. `request_id` is its call's in the ledger."""

    request_id: str
    completion: Mapping[str, Any]
    usage: Usage
    model: str
    route: Route | str
    cost_ticks: int
    budget: BudgetStatus
    is_replay: bool = False
    adapted: tuple[str, ...] = ()
    """What was left out or mapped for the model that served."""
    lowered_max_tokens: int | None = None
    """The maximum of output tokens that was allowed, where that is less than was asked for."""
    call_id: UUID | None = None
    """Its call's in the ledger; of answers that an earlier version kept for a replay nobody knows it."""
