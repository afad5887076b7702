"""What an answer says of the budget: the tightest of the windows that bound the call."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from guard.policy.snapshot import TenantPolicy
from spend.budgets.usage import remaining_ticks, state_of
from spend.ledger.rules import Limit, Standing
from tenants.models import Scope
from tenants.money import usd_string

STATE_HEADER = "X-Guard-Budget-State"
STEP_HEADER = "X-Guard-Budget-Step"
SEVERITY = ("active", "warned", "degraded", "stopped")


@dataclass(frozen=True, slots=True)
class BudgetStatus:
    """A window's state and figures, in ticks."""

    state: str
    limit_ticks: int
    spent_ticks: int
    remaining_ticks: int
    resets_at: datetime | None
    step: int = 0
    steps: int = 0
    """On which step of how many of its ladder; both 0 where it has a soft cap alone."""

    def stopped(self) -> "BudgetStatus":
        """As a refused call sees it: with its own worst case the use is past the hard cap."""
        return replace(self, state="stopped")

    def headers(self, tenant: TenantPolicy, now: datetime) -> dict[str, str]:
        headers = {STATE_HEADER: self.state}
        if self.steps:
            headers[STEP_HEADER] = f"{self.step}/{self.steps}"
        if not tenant.hide_money:
            headers["X-Guard-Budget-Limit-Usd"] = usd_string(self.limit_ticks)
            headers["X-Guard-Budget-Remaining-Usd"] = usd_string(self.remaining_ticks)
        if self.resets_at is not None:
            headers["X-Guard-Budget-Reset"] = str(seconds_until(self.resets_at, now))
        return headers

    def body(self, tenant: TenantPolicy) -> dict[str, Any]:
        money = {
            "limitUsd": usd_string(self.limit_ticks),
            "spentUsd": usd_string(self.spent_ticks),
            "remainingUsd": usd_string(self.remaining_ticks),
        }
        resets_at = self.resets_at and self.resets_at.isoformat().replace("+00:00", "Z")
        steps = {"step": self.step, "steps": self.steps} if self.steps else {}
        return {"state": self.state, **steps, **({} if tenant.hide_money else money), "resetsAt": resets_at}


def seconds_until(instant: datetime, now: datetime) -> int:
    """Whole seconds, rounded up, so that who waits them finds the instant past."""
    return max(0, -int((now - instant).total_seconds() // 1))


def tightest(limits: Sequence[Limit], standings: Sequence[Standing], *, can_downgrade: bool) -> BudgetStatus:
    """The window in the worst state, and of those the one with the least left.

    The installation's own windows bind too, but what others have spent is not this tenant's to read.
    """
    statuses = [
        _status(limit, standing, can_downgrade)
        for limit, standing in zip(limits, standings, strict=True)
        if limit.key.scope != Scope.INSTALLATION
    ]
    return min(statuses, key=lambda status: (-SEVERITY.index(status.state), status.remaining_ticks))


def refusing(
    limits: Sequence[Limit], standings: Sequence[Standing], binding: Sequence[int], *, can_downgrade: bool
) -> BudgetStatus:
    """The tightest of the windows that a call does not fit: stopped.

    Where only the installation's do not fit it, the tenant's own say how they stand, which is not stopped.
    """
    own = [position for position in binding if limits[position].key.scope != Scope.INSTALLATION]
    if not own:
        return tightest(limits, standings, can_downgrade=can_downgrade)
    chosen = [(limits[position], standings[position]) for position in own]
    return tightest(*zip(*chosen, strict=True), can_downgrade=can_downgrade).stopped()


def _status(limit: Limit, standing: Standing, can_downgrade: bool) -> BudgetStatus:
    spent, held = standing
    return BudgetStatus(
        state=state_of(limit.limit_ticks, limit.soft_ticks, limit.hard_ticks, spent, held, can_downgrade),
        limit_ticks=limit.limit_ticks,
        spent_ticks=spent,
        remaining_ticks=remaining_ticks(limit.hard_ticks, spent, held),
        resets_at=limit.ends_at,
        step=limit.step_at(spent + held) if limit.further else 0,
        steps=1 + len(limit.further) if limit.further else 0,
    )
