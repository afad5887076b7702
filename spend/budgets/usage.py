"""Budgets as they stand: what was used of them, and the state that follows from it.

A state is derived from the window each time it is asked for, never stored.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import chain

from django.db.models import F, Q, QuerySet
from django.utils import timezone

from spend.ledger.rules import WindowKey
from spend.ledger.window_opening import spent_in
from spend.models import Window
from tenants.budgets import EffectiveBudget, budgets_in_force
from tenants.ladder import step_at, words_of
from tenants.models import Scope, Tenant
from tenants.periods import bounds

MOST_TEMPLATE_WINDOWS = 200
"""Windows of keys, customers and conversations in one answer; a tenant may have very many."""


def state_of(limit_ticks: int, soft_ticks: int, hard_ticks: int, spent: int, held: int, can_downgrade: bool) -> str:
    """`active`, `warned`, `degraded` or `stopped`; all amounts in ticks.

    Holds count towards the soft cap, since they steer the next call, but do not stop a budget: they may
    come back.
    """
    if spent >= hard_ticks:
        return "stopped"
    if spent + held >= soft_ticks:
        return "degraded" if can_downgrade else "warned"
    return "active"


def remaining_ticks(hard_ticks: int, spent_ticks: int, held_ticks: int) -> int:
    """What the next call's hold may take; never below zero, though an overrun may have passed the cap."""
    return max(0, hard_ticks - spent_ticks - held_ticks)


@dataclass(frozen=True)
class Use:
    """A budget with one of its windows."""

    budget: EffectiveBudget
    window: Window
    can_downgrade: bool

    @property
    def scope_id(self) -> str:
        return self.window.subject or self.window.tenant_id

    @property
    def remaining_ticks(self) -> int:
        return remaining_ticks(self.budget.hard_ticks, self.window.spent_ticks, self.window.held_ticks)

    @property
    def steps(self) -> int:
        """How many steps its ladder has; 0 where it has a soft cap alone."""
        return 1 + len(self.budget.further) if self.budget.further else 0

    @property
    def step(self) -> int:
        """How many of them are reached."""
        use_ticks = self.window.spent_ticks + self.window.held_ticks
        return step_at(use_ticks, self.budget.soft_ticks, self.budget.further) if self.steps else 0

    @property
    def step_words(self) -> str:
        """ "on step 2 of 3: cheapest models"; empty below the ladder, or where there is none."""
        if not self.step:
            return ""
        return f"on step {self.step} of {self.steps}: {words_of(self.budget.further, self.step, self.can_downgrade)}"

    @property
    def state(self) -> str:
        budget, window = self.budget, self.window
        return state_of(
            limit_ticks=budget.limit_ticks,
            soft_ticks=budget.soft_ticks,
            hard_ticks=budget.hard_ticks,
            spent=window.spent_ticks,
            held=window.held_ticks,
            can_downgrade=self.can_downgrade,
        )


@dataclass(frozen=True)
class Uses:
    """The windows of a tenant's budgets; `omitted` counts those of keys, customers and so on left out."""

    windows: list[Use]
    omitted: int


def current_uses(tenant: Tenant, now: datetime | None = None) -> Uses:
    """Every window that bounds the tenant's calls now; the installation's, which others fill too, are not shown.

    A window of the tenant's own scope is there before its first call; one of a key, a customer or a
    conversation once a call made it, the most used first, `MOST_TEMPLATE_WINDOWS` at most.
    """
    now = now or timezone.now()
    budgets = budgets_in_force(now, [tenant]).of_tenants[tenant.id]
    others = _template_windows(tenant, budgets, now)
    shown = list(others[:MOST_TEMPLATE_WINDOWS])
    uses = list(_uses(tenant, budgets, [*_own_windows(tenant, budgets, now), *shown]))
    return Uses(uses, omitted=others.count() - len(shown) if len(shown) == MOST_TEMPLATE_WINDOWS else 0)


def every_use(tenant: Tenant, now: datetime) -> Iterator[Use]:
    """As `current_uses`, and none left out; read as they are asked for."""
    budgets = budgets_in_force(now, [tenant]).of_tenants[tenant.id]
    others = _template_windows(tenant, budgets, now).iterator()
    return _uses(tenant, budgets, chain(_own_windows(tenant, budgets, now), others))


def uses_of(tenant: Tenant, scope: str, subject: str, now: datetime) -> list[Use]:
    """Budgets of one key, customer or conversation, each with its window of now or the one its next call would make."""
    budgets = [each for each in budgets_in_force(now, [tenant]).of_tenants[tenant.id] if each.scope == scope]
    return list(_uses(tenant, budgets, [_window_of(tenant, budget, now, subject) for budget in budgets]))


def _uses(tenant: Tenant, budgets: Iterable[EffectiveBudget], windows: Iterable[Window]) -> Iterator[Use]:
    by_key, can_downgrade = {(each.scope, each.period): each for each in budgets}, bool(tenant.effective_downgrades())
    return (Use(by_key[window.scope, window.period], window, can_downgrade) for window in windows)


def _own_windows(tenant: Tenant, budgets: Iterable[EffectiveBudget], now: datetime) -> list[Window]:
    return [_window_of(tenant, budget, now) for budget in budgets if budget.scope == Scope.TENANT]


def _window_of(tenant: Tenant, budget: EffectiveBudget, now: datetime, subject: str = "") -> Window:
    """The window of now, or, before its first call, the one that call would make."""
    starts_at, ends_at = bounds(budget.period, tenant.zone, now)
    key = WindowKey(tenant.id, budget.scope, subject, budget.period, starts_at)
    if window := Window.objects.filter(**key._asdict()).first():
        return window
    opening = spent_in(key, ends_at)
    return Window(**key._asdict(), ends_at=ends_at, opening_ticks=opening, spent_ticks=opening)


def _template_windows(tenant: Tenant, budgets: Iterable[EffectiveBudget], now: datetime) -> QuerySet[Window]:
    matching = Q(pk__in=[])
    for budget in budgets:
        if budget.scope != Scope.TENANT:
            starts_at = bounds(budget.period, tenant.zone, now).starts_at
            matching |= Q(scope=budget.scope, period=budget.period, starts_at=starts_at)
    windows = Window.objects.filter(matching, tenant_id=tenant.id)
    return windows.order_by(-(F("spent_ticks") + F("held_ticks")), "id")
