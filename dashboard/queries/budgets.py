"""Where tenants stand: the tightest budget of each, with its window of now."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import Q

from dashboard.queries.sums import Figures, TenantSums
from spend.budgets.refusing import REFUSING, mostly_over_budget, state_told
from spend.budgets.usage import Use
from spend.models import Window
from tenants.budgets import EffectiveBudget, budgets_in_force
from tenants.models import DowngradeRule, RouteStep, Scope, Tenant
from tenants.periods import Period, bounds

LONGEST = {Period.DAY: timedelta(days=2), Period.WEEK: timedelta(days=8), Period.MONTH: timedelta(days=32)}
"""No window of the period that began longer ago can still run."""

PAUSED = "paused"
SEVERITY = ("stopped", REFUSING, "degraded", "warned", "active")


@dataclass(frozen=True)
class Standing:
    """A tenant with its sums and the budget of its own that is used up furthest."""

    tenant: Tenant
    today: Figures
    month: Figures
    tightest: Use
    is_over_budget: bool

    @property
    def state(self) -> str:
        return state_told(self.tightest, is_over_budget=self.is_over_budget) if self.tenant.is_active else PAUSED

    @property
    def urgency(self) -> tuple[int, int, str]:
        """Sorts the ones that need a look first."""
        severity = SEVERITY.index(self.state) if self.tenant.is_active else len(SEVERITY)
        return (severity, -used_ppm(self.tightest), str(self.tenant).lower())


def used_ppm(use: Use) -> int:
    """Spent and held, in millionths of the limit."""
    used = use.window.spent_ticks + use.window.held_ticks
    return used * 1_000_000 // use.budget.limit_ticks if use.budget.limit_ticks else 1_000_000


def _downgrading(tenant_ids: Collection[str]) -> set[str]:
    """As `Tenant.effective_downgrades`: by rules of their own, or the default's on the default route."""
    ruled = set(DowngradeRule.objects.filter(tenant__in=tenant_ids).values_list("tenant_id", flat=True))
    routed = set(RouteStep.objects.filter(tenant__in=tenant_ids).values_list("tenant_id", flat=True))
    return ruled | (set(tenant_ids) - routed if settings.DEFAULT_DOWNGRADES else set())


def standings(tenants: Sequence[Tenant], sums: Mapping[str, TenantSums], now: datetime) -> list[Standing]:
    """One for each of `tenants`, those that need a look first."""
    ids = [tenant.id for tenant in tenants]
    budgets, downgrading = budgets_in_force(now, tenants).of_tenants, _downgrading(ids)
    windows, over_budget = _windows_of_now(ids, now), mostly_over_budget(ids, now)
    found = [
        Standing(
            tenant,
            *sums[tenant.id],
            tightest=_tightest(
                [
                    Use(budget, _window(tenant, budget, windows, sums[tenant.id], now), tenant.id in downgrading)
                    for budget in budgets[tenant.id]
                    if budget.scope == Scope.TENANT
                ]
            ),
            is_over_budget=tenant.id in over_budget,
        )
        for tenant in tenants
    ]
    return sorted(found, key=lambda standing: standing.urgency)


WindowOf = tuple[str, str, datetime]


def _windows_of_now(tenant_ids: Sequence[str], now: datetime) -> dict[WindowOf, Window]:
    recent = Q(period=Period.TOTAL)
    for period, longest in LONGEST.items():
        recent |= Q(period=period, starts_at__gt=now - longest)
    windows = Window.objects.filter(recent, tenant_id__in=tenant_ids, scope=Scope.TENANT, subject="").order_by()
    return {(window.tenant_id, window.period, window.starts_at): window for window in windows}


def _tightest(uses: Iterable[Use]) -> Use:
    return min(uses, key=lambda use: (SEVERITY.index(use.state), -used_ppm(use)))


def _window(
    tenant: Tenant, budget: EffectiveBudget, windows: Mapping[WindowOf, Window], sums: TenantSums, now: datetime
) -> Window:
    """The window of now; before its first call one that opens with what the sums say was spent."""
    starts_at, ends_at = bounds(budget.period, tenant.zone, now)
    if window := windows.get((tenant.id, budget.period, starts_at)):
        return window
    spent = {Period.DAY: sums.today, Period.MONTH: sums.month}.get(Period(budget.period), Figures()).cost_ticks
    return Window(
        tenant_id=tenant.id, scope=budget.scope, period=budget.period, starts_at=starts_at, ends_at=ends_at,
        opening_ticks=spent, spent_ticks=spent,
    )  # fmt: skip
