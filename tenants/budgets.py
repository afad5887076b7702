"""A tenant's budgets: which bind it, and how they are set.

Setting them touches limits only. What was spent is in spend's windows, which are keyed by what they
count and not by a budget's row, so it stays whatever happens here.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from django.conf import settings
from django.db import transaction

from tenants.configured import DEFAULT_HARD_CAP, DEFAULT_SOFT_CAP
from tenants.models import Budget, Scope, Tenant, percents_of
from tenants.periods import Period


@dataclass(frozen=True)
class EffectiveBudget:
    """A budget as it binds calls now: a row with its top-ups, or the default that has no row."""

    scope: str
    period: str
    limit_ticks: int
    soft_cap: Decimal
    hard_cap: Decimal
    alert_percents: tuple[int, ...] = ()

    @property
    def soft_ticks(self) -> int:
        """Use at or above this is past the soft cap."""
        return math.ceil(self.limit_ticks * self.soft_cap)

    @property
    def hard_ticks(self) -> int:
        """Use up to and including this is admitted."""
        return math.floor(self.limit_ticks * self.hard_cap)


def effective_budgets(tenant: Tenant, budgets: Iterable[Budget], top_up_ticks: int = 0) -> list[EffectiveBudget]:
    """What binds `tenant`: `budgets` (its own, the installation's), and the default if none is on the tenant itself.

    `top_up_ticks` is the sum of its running top-ups; it raises the tenant's daily limit.
    """
    rows = list(budgets)
    if not any(row.scope == Scope.TENANT for row in rows):
        rows.append(default_budget(tenant))
    return [_effective(row, top_up_ticks if _is_daily(row) else 0) for row in rows]


def default_budget(tenant: Tenant) -> Budget:
    """The budget of a tenant that has none of its own; derived, never saved."""
    return Budget(
        tenant=tenant,
        scope=Scope.TENANT,
        period=Period.DAY,
        limit_ticks=settings.DEFAULT_DAILY_BUDGET_TICKS,
        soft_cap=DEFAULT_SOFT_CAP,
        hard_cap=DEFAULT_HARD_CAP,
    )


def _is_daily(budget: Budget) -> bool:
    return budget.scope == Scope.TENANT and budget.period == Period.DAY


def _effective(budget: Budget, top_up_ticks: int) -> EffectiveBudget:
    return EffectiveBudget(
        scope=budget.scope,
        period=budget.period,
        limit_ticks=budget.limit_ticks + top_up_ticks,
        soft_cap=budget.soft_cap,
        hard_cap=budget.hard_cap,
        alert_percents=percents_of(budget.alert_percents),
    )


def locked_budgets(tenant: Tenant) -> dict[tuple[str, str], Budget]:
    """The tenant's rows by scope and period. Nobody else changes them until the transaction ends."""
    Tenant.objects.select_for_update().get(pk=tenant.pk)
    return {(row.scope, row.period): row for row in tenant.budgets.all()}


@transaction.atomic
def replace_budgets(tenant: Tenant, wanted: Iterable[Budget]) -> None:
    """Make `wanted` (no two of one scope and period) the tenant's budgets. A row that stays equal is not touched."""
    standing = locked_budgets(tenant)
    for budget in wanted:
        _write(tenant, standing.pop((budget.scope, budget.period), None), budget)
    for row in standing.values():
        row.delete()


@transaction.atomic
def set_budget(tenant: Tenant, wanted: Budget) -> None:
    """Make or change the tenant's one budget of that scope and period; the others stay."""
    _write(tenant, locked_budgets(tenant).get((wanted.scope, wanted.period)), wanted)


def _write(tenant: Tenant, row: Budget | None, wanted: Budget) -> None:
    """Row by row, by `save`: a bulk statement would leave no audit trail."""
    row = row or Budget(tenant=tenant, scope=wanted.scope, period=wanted.period)
    terms = {name: getattr(wanted, name) for name in ("limit_ticks", "soft_cap", "hard_cap")}
    # 1 and 1.0000 are equal caps, but would look like a change in the trail.
    changes = {name: value for name, value in terms.items() if getattr(row, name) != value}
    for name, value in changes.items():
        setattr(row, name, value)
    if changes or row.pk is None:
        row.save()


def installation_budgets(budgets: Iterable[Budget]) -> list[EffectiveBudget]:
    """What binds every call, whoever's it is."""
    return [_effective(row, 0) for row in budgets]
