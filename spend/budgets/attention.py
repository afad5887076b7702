"""What needs an operator: budgets that stop or degrade, models that fail or end, entries to look into.

Reads everything at once, in a handful of queries however many tenants there are.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from fractions import Fraction
from zoneinfo import ZoneInfo

from django.conf import settings
from django.db.models import Q, QuerySet
from django.utils import timezone

from spend.budgets.refusing import REFUSING, mostly_over_budget, state_told
from spend.budgets.usage import Use
from spend.codes import OPERATORS_TO_MEND
from spend.models import Breaker, CatalogueModel, LedgerEntry, Window, is_shut_down
from spend.pricing.rates import prices_in_force
from tenants.budgets import EffectiveBudget, budgets_in_force
from tenants.models import DowngradeRule, RouteStep, Scope, Tenant
from tenants.periods import bounds

SHUTDOWN_NOTICE = timedelta(days=30)
REVIEW_WITHIN = timedelta(days=30)
UTC_ZONE = ZoneInfo("UTC")
DEFAULT_ROUTE_NAME = "the default route"

WindowsByKey = Mapping[tuple[str, str, datetime], Window]


@dataclass(frozen=True)
class ModelFault:
    """A model on somebody's route that a call cannot use, or soon cannot."""

    model_id: str
    fault: str
    users: Sequence[str]
    is_final: bool


@dataclass(frozen=True)
class TenantUse:
    """A tenant with its tightest budget, and whether most of its latest calls no longer fitted what is left."""

    tenant: Tenant
    use: Use
    is_over_budget: bool

    @property
    def state(self) -> str:
        return state_told(self.use, is_over_budget=self.is_over_budget)


@dataclass(frozen=True)
class Attention:
    stopped: list[TenantUse]
    refusing: list[TenantUse]
    degraded: list[TenantUse]
    paused: list[Tenant]
    installation: list[Use]
    failing: list[Breaker]
    faults: list[ModelFault]
    expired: int
    overruns: int
    impossible: int


def attention(now: datetime) -> Attention:
    tenants = list(Tenant.objects.prefetch_related("route_steps", "downgrade_rules"))
    open_to_calls = [each for each in tightest_uses(tenants, now) if each.tenant.is_active]
    return Attention(
        stopped=[each for each in open_to_calls if each.state == "stopped"],
        refusing=[each for each in open_to_calls if each.state == REFUSING],
        degraded=[each for each in open_to_calls if each.state in {"degraded", "warned"}],
        paused=[tenant for tenant in tenants if not tenant.is_active and not tenant.archived_at],
        installation=[use for use in installation_uses(now) if use.state != "active"],
        failing=list(
            Breaker.objects.select_related("model").filter(
                Q(opened_at__isnull=False) | Q(failures__gt=0, last_failure__in=OPERATORS_TO_MEND)
            )
        ),
        faults=list(model_faults(now)),
        expired=to_review(now).filter(is_expired=True).count(),
        overruns=to_review(now).filter(is_overrun=True, is_expired=False).count(),
        impossible=impossible_to_review(now).count(),
    )


def tightest_uses(tenants: Collection[Tenant], now: datetime) -> list[TenantUse]:
    """One for each of `tenants`, in their order; route steps and rules should be prefetched."""
    over_budget = mostly_over_budget([tenant.id for tenant in tenants], now)
    return [
        TenantUse(tenant, tightest_of(uses), is_over_budget=tenant.id in over_budget)
        for tenant, uses in uses_of(tenants, now)
    ]


def uses_of(tenants: Collection[Tenant], now: datetime) -> Iterator[tuple[Tenant, list[Use]]]:
    """Each tenant's own budgets with their current windows; route steps and rules should be prefetched.

    A window that no call made yet is shown empty; the tenant's page works out what it opens with.
    """
    in_force = budgets_in_force(now, tenants).of_tenants
    budgets = {tenant: [each for each in of_it if each.scope == Scope.TENANT] for tenant, of_it in in_force.items()}
    starts = {bounds(b.period, each.zone, now).starts_at for each in tenants for b in budgets[each.id]}
    windows = _windows([each.id for each in tenants], Scope.TENANT, starts)
    for tenant in tenants:
        can_downgrade = bool(tenant.effective_downgrades())
        yield tenant, [_use(tenant, budget, windows, can_downgrade, now) for budget in budgets[tenant.id]]


def _windows(tenant_ids: Collection[str], scope: Scope, starts: Iterable[datetime]) -> WindowsByKey:
    current = Window.objects.filter(tenant_id__in=tenant_ids, scope=scope, subject="", starts_at__in=list(starts))
    return {(window.tenant_id, window.period, window.starts_at): window for window in current}


def _use(tenant: Tenant, budget: EffectiveBudget, windows: WindowsByKey, can_downgrade: bool, now: datetime) -> Use:
    starts_at, ends_at = bounds(budget.period, tenant.zone, now)
    window = windows.get((tenant.id, budget.period, starts_at))
    empty = Window(tenant_id=tenant.id, scope=budget.scope, period=budget.period, starts_at=starts_at, ends_at=ends_at)
    return Use(budget, window or empty, can_downgrade)


def installation_uses(now: datetime) -> list[Use]:
    whole = Tenant(id="", time_zone=UTC_ZONE.key)
    budgets = budgets_in_force(now, []).of_installation
    starts = {bounds(budget.period, UTC_ZONE, now).starts_at for budget in budgets}
    windows = _windows([""], Scope.INSTALLATION, starts)
    return [_use(whole, budget, windows, can_downgrade=True, now=now) for budget in budgets]


def tightest_of(uses: Iterable[Use]) -> Use:
    """The use nearest its hard cap; a tenant has at least one budget."""
    return max(uses, key=_fullness)


def _fullness(use: Use) -> Fraction:
    return Fraction(use.window.spent_ticks + use.window.held_ticks, max(1, use.budget.hard_ticks))


def to_review(now: datetime) -> QuerySet[LedgerEntry]:
    """Recent entries whose bill is unknown or above the hold, and that no operator looked into yet."""
    return _not_reviewed(now).filter(Q(is_overrun=True) | Q(is_expired=True))


def impossible_to_review(now: datetime) -> QuerySet[LedgerEntry]:
    """Recent entries whose provider gave usage that cannot be. By themselves: they have an index of their own."""
    return _not_reviewed(now).filter(is_usage_impossible=True)


def _not_reviewed(now: datetime) -> QuerySet[LedgerEntry]:
    return LedgerEntry.objects.filter(at__gte=now - REVIEW_WITHIN, review__isnull=True)


def models_in_use() -> dict[str, list[str]]:
    """Every model that a call can be routed to, and by what: "the default route", "acme-corp"."""
    users: dict[str, list[str]] = defaultdict(list)
    for model_id in [*settings.DEFAULT_ROUTE, *(to_model for _, to_model in settings.DEFAULT_DOWNGRADES)]:
        users[model_id].append(DEFAULT_ROUTE_NAME)
    steps = RouteStep.objects.values_list("tenant_id", "model_id")
    rules = DowngradeRule.objects.values_list("tenant_id", "to_model_id")
    for tenant_id, model_id in [*steps, *rules]:
        users[model_id].append(tenant_id)
    return {model_id: list(dict.fromkeys(names)) for model_id, names in users.items()}


def model_faults(now: datetime) -> Iterator[ModelFault]:
    """The models in use that calls cannot be served by, and those that end soon."""
    in_use, prices = models_in_use(), prices_in_force(now)
    models = CatalogueModel.objects.in_bulk(list(in_use))
    today = timezone.localdate(now, UTC_ZONE)
    for model_id, users in sorted(in_use.items()):
        model = models.get(model_id)
        if fault := fault_of(model, is_priced=model_id in prices, now=now):
            yield ModelFault(model_id, fault, users, is_final=True)
        elif model and ends_soon(model, today):
            yield ModelFault(model_id, f"ends on {model.shutdown_on}", users, is_final=False)


def fault_of(model: CatalogueModel | None, *, is_priced: bool, now: datetime) -> str | None:
    """Why a call of this model would not be served, None where it would."""
    if model is None:
        return "is not in the catalogue"
    if not model.is_enabled:
        return "is disabled"
    if not is_priced:
        return "has no price"
    if is_shut_down(model.shutdown_on, now):
        return f"was shut down on {model.shutdown_on}"
    return None


def names_with_faults(models: Iterable[CatalogueModel], now: datetime) -> dict[str, str]:
    """By id, what to call each model where it is chosen: "grok-5", or "grok-5 (is disabled)"."""
    prices = prices_in_force(now)
    faults = ((model, fault_of(model, is_priced=model.pk in prices, now=now)) for model in models)
    return {model.pk: f"{model.pk} ({fault})" if fault else model.pk for model, fault in faults}


def ends_soon(model: CatalogueModel, today: date) -> bool:
    return model.shutdown_on is not None and model.shutdown_on - today <= SHUTDOWN_NOTICE
