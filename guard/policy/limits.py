"""The limits that bind a call, each on the window that it counts in now."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from zoneinfo import ZoneInfo

from guard.policy.snapshot import BudgetPolicy, Policy, TenantPolicy
from spend.ledger.rules import Limit, WindowKey
from tenants.models import Scope
from tenants.periods import Bounds, Period, bounds


@dataclass(slots=True)
class Clock:
    """The bounds of each zone's current periods, worked out once a period and not once a call."""

    current: dict[tuple[str, Period], Bounds] = field(default_factory=dict)

    def bounds(self, period: Period, zone: ZoneInfo, now: datetime) -> Bounds:
        found = self.current.get((zone.key, period))
        if found is None or now < found.starts_at or (found.ends_at is not None and now >= found.ends_at):
            found = self.current[(zone.key, period)] = bounds(period, zone, now)
        return found


UTC_ZONE = ZoneInfo("UTC")
CLOCK = Clock()


def limits_of(
    policy: Policy,
    tenant: TenantPolicy,
    key_id: int,
    customer: str,
    conversation: str,
    now: datetime,
    *,
    has_begun: bool = False,
    clock: Clock = CLOCK,
) -> tuple[Limit, ...]:
    """Every limit that binds a call at `now`: the installation's, then the tenant's own.

    `has_begun` is whether its conversation was answered before, and so may use the budgets' reserves.
    """
    subjects = {
        Scope.TENANT: "",
        Scope.KEY: str(key_id),
        Scope.CUSTOMER: customer,
        Scope.CONVERSATION: conversation,
    }
    named = [budget for budget in tenant.budgets if budget.scope is Scope.TENANT or subjects[budget.scope]]
    return tuple(
        [_limit(budget, "", "", UTC_ZONE, now, has_begun, clock) for budget in policy.installation]
        + [_limit(budget, tenant.id, subjects[budget.scope], tenant.zone, now, has_begun, clock) for budget in named]
    )


def all_reset_at(limits: Sequence[Limit]) -> datetime | None:
    """When the last of these windows turns over; None where one never does, being a budget in total."""
    ends = [limit.ends_at for limit in limits]
    return None if None in ends else max(filter(None, ends), default=None)


def _limit(
    budget: BudgetPolicy,
    tenant_id: str,
    subject: str,
    zone: ZoneInfo,
    now: datetime,
    has_begun: bool,
    clock: Clock,
) -> Limit:
    starts_at, ends_at = clock.bounds(budget.period, zone, now)
    key = WindowKey(tenant_id, budget.scope.value, subject, budget.period.value, starts_at)
    cap_ticks = budget.cap_ticks(has_begun=has_begun)
    return Limit(key, ends_at, budget.limit_ticks, budget.soft_ticks, cap_ticks, budget.further)
