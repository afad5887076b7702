"""How a budget's use is shown: amounts, a bar of spent and held, the state, and what a limit would do."""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from django.utils.text import capfirst
from django.utils.timezone import localtime

from spend.budgets.attention import TenantUse
from spend.budgets.refusing import REFUSING
from spend.budgets.usage import Use
from tenants.models import Scope
from tenants.money import TICKS_PER_USD, usd_rounded
from tenants.periods import Period

STATE_COLOURS = {
    "active": "success",
    "warned": "warning",
    "degraded": "warning",
    REFUSING: "danger",
    "stopped": "danger",
}
PERIOD_NAMES = {Period.DAY: "Today", Period.WEEK: "This week", Period.MONTH: "This month", Period.TOTAL: "In total"}


@dataclass(frozen=True)
class Bar:
    """A budget's use, ready to be drawn. Shares are percent of the limit; spent and held fit the bar.

    `further_shares` are the steps after the soft cap, `step` says on which it is.
    """

    title: str
    state: str
    colour: str
    spent_usd: str
    held_usd: str
    limit_usd: str
    left_usd: str
    spent_share: Decimal
    held_share: Decimal
    soft_share: Decimal
    further_shares: list[tuple[Decimal, str]]
    step: str
    ends: str
    limit_ticks: int
    spent_ticks: int
    held_ticks: int


def bar_of(use: Use, zone: Any, state: str = "") -> Bar:
    """With the budget's own state, or one that says more."""
    budget, window, state = use.budget, use.window, state or use.state
    places = places_of(use)
    spent_share = min(Decimal(100), _share(window.spent_ticks, budget.limit_ticks))
    return Bar(
        title=title_of(use),
        state=state,
        colour=STATE_COLOURS[state],
        spent_usd=usd_rounded(window.spent_ticks, places),
        held_usd=usd_rounded(window.held_ticks, places) if window.held_ticks else "",
        limit_usd=usd_rounded(budget.limit_ticks, places),
        left_usd=usd_rounded(use.remaining_ticks, places),
        spent_share=spent_share,
        held_share=min(100 - spent_share, _share(window.held_ticks, budget.limit_ticks)),
        soft_share=_share(budget.soft_ticks, budget.limit_ticks),
        further_shares=[
            (_share(mark.from_ticks, budget.limit_ticks), f"step {number}")
            for number, mark in enumerate(budget.further, 2)
        ],
        step=capfirst(use.step_words),
        ends=f"{localtime(window.ends_at, zone):%a %-d %b, %H:%M} {zone.key}" if window.ends_at else "",
        limit_ticks=budget.limit_ticks,
        spent_ticks=window.spent_ticks,
        held_ticks=window.held_ticks,
    )


def bar_of_tenant(each: TenantUse) -> Bar:
    return bar_of(each.use, each.tenant.zone, each.state)


def places_of(use: Use) -> int:
    """Decimals of its amounts: cents, or hundredths of them where the limit is small."""
    return 2 if use.budget.limit_ticks >= TICKS_PER_USD // 10 else 4


def bars_of(uses: Iterable[Use], zone: Any) -> list[Bar]:
    return [bar_of(use, zone) for use in uses]


def title_of(use: Use) -> str:
    period = PERIOD_NAMES[Period(use.budget.period)]
    if use.budget.scope in {Scope.TENANT, Scope.INSTALLATION}:
        return period
    return f"{period}, {use.budget.scope} {use.window.subject}"


def _share(ticks: int, limit_ticks: int) -> Decimal:
    return round(Decimal(100) * ticks / limit_ticks, 1) if limit_ticks else Decimal(100)


def effect_of(use: Use) -> str:
    """What a budget as it stands does, in a sentence: "Today: 4.10 of 5.00 USD spent. …"."""
    window, places = use.window, places_of(use)
    held = f", {usd_rounded(window.held_ticks, places)} held" if window.held_ticks else ""
    spent = f"{usd_rounded(window.spent_ticks, places)} of {usd_rounded(use.budget.limit_ticks, places)} USD spent"
    effect = f"It is {use.step_words}." if use.step and use.state != "stopped" else EFFECTS[use.state]
    return f"{title_of(use)}: {spent}{held}. {effect}"


EFFECTS = {
    "active": "Calls go on.",
    "warned": "That is past the soft cap: the tenant is warned.",
    "degraded": "That is past the soft cap: calls move to cheaper models at once.",
    "stopped": "The tenant is stopped at once.",
}
