"""A tenant's budgets: which bind it, and how they are set.

Setting them touches limits only. What was spent is in spend's windows, which are keyed by what they
count and not by a budget's row, so it stays whatever happens here.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from functools import cached_property
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import Q

from tenants.configured import DEFAULT_HARD_CAP, DEFAULT_SOFT_CAP
from tenants.ladder import StepMark, steps_of
from tenants.models import Budget, Scope, Tenant, TopUp, percents_of
from tenants.periods import Period

DAILY = (Scope.TENANT, Period.DAY)
"""The budget that a top-up raises."""
TERMS = ("limit_ticks", "soft_cap", "hard_cap", "reserve", "further_steps")
"""The fields of a row by which it binds calls. Which percents are alerted is beside them."""
MOST_NAMED = 500
"""Of more tenants than this the rows of all are read: naming them would take longer, and databases have bounds."""


@dataclass(frozen=True)
class EffectiveBudget:
    """A budget as it binds calls now: a row with its top-ups, or the default that has no row."""

    scope: str
    period: str
    limit_ticks: int
    soft_cap: Decimal
    hard_cap: Decimal
    alert_percents: tuple[int, ...] = ()
    reserve: Decimal = Decimal(0)
    further_steps: str = ""

    @cached_property
    def further(self) -> tuple[StepMark, ...]:
        """The steps of its ladder after the soft cap, lowest first."""
        return tuple(step.mark(self.limit_ticks) for step in steps_of(self.further_steps))

    @property
    def reserve_ticks(self) -> int:
        """What below the hard cap only conversations that have begun may use."""
        return math.ceil(self.limit_ticks * self.reserve)

    @property
    def soft_ticks(self) -> int:
        """Use at or above this is past the soft cap."""
        return math.ceil(self.limit_ticks * self.soft_cap)

    @property
    def hard_ticks(self) -> int:
        """Use up to and including this is admitted."""
        return math.floor(self.limit_ticks * self.hard_cap)


@dataclass(frozen=True)
class BudgetsInForce:
    """What binds calls at one instant: every call, and those of each tenant that was asked for, by its id.

    `turns` has when a top-up of each of those tenants begins or ends next, where it has one.
    """

    of_installation: list[EffectiveBudget]
    of_tenants: dict[str, list[EffectiveBudget]]
    turns: dict[str, datetime] = field(default_factory=dict)


def budgets_in_force(now: datetime, tenants: Collection[Tenant]) -> BudgetsInForce:
    """Of the installation and of `tenants`: by two queries, however many they are.

    A tenant with no budget on itself has the default. Top-ups that run now raise a tenant's daily limit.
    """
    budgets, top_ups = Budget.objects.all(), TopUp.objects.filter(ends_at__gt=now)
    if len(tenants) <= MOST_NAMED:
        budgets = budgets.filter(Q(tenant__in=tenants) | Q(tenant__isnull=True))
        top_ups = top_ups.filter(tenant__in=tenants)
    rows: defaultdict[str | None, list[Budget]] = defaultdict(list)
    for row in budgets:
        rows[row.tenant_id].append(row)
    running_ticks, turns = Counter[str](), dict[str, datetime]()
    for top_up in top_ups:
        running_ticks[top_up.tenant_id] += top_up.amount_ticks if top_up.starts_at <= now else 0
        turn = top_up.ends_at if top_up.starts_at <= now else top_up.starts_at
        turns[top_up.tenant_id] = min(turn, turns.get(top_up.tenant_id, turn))
    return BudgetsInForce(
        [effective(row) for row in rows[None]],
        {tenant.id: _of_tenant(tenant, rows[tenant.id], running_ticks[tenant.id]) for tenant in tenants},
        turns,
    )


def _of_tenant(tenant: Tenant, rows: list[Budget], top_up_ticks: int) -> list[EffectiveBudget]:
    if not any(row.scope == Scope.TENANT for row in rows):
        rows = [*rows, default_budget(tenant)]
    return [effective(row, top_up_ticks if (row.scope, row.period) == DAILY else 0) for row in rows]


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


def effective(budget: Budget, top_up_ticks: int = 0) -> EffectiveBudget:
    """A row, saved or not, as it would bind calls."""
    return EffectiveBudget(
        scope=budget.scope,
        period=budget.period,
        limit_ticks=budget.limit_ticks + top_up_ticks,
        soft_cap=budget.soft_cap,
        hard_cap=budget.hard_cap,
        alert_percents=percents_of(budget.alert_percents),
        reserve=budget.reserve,
        further_steps=budget.further_steps,
    )


def terms_of(row: Budget) -> dict[str, Any]:
    return {name: getattr(row, name) for name in TERMS}


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
    # 1 and 1.0000 are equal caps, but would look like a change in the trail.
    changes = {name: value for name, value in terms_of(wanted).items() if getattr(row, name) != value}
    for name, value in changes.items():
        setattr(row, name, value)
    if changes or row.pk is None:
        row.save()
