"""What a weekly summary says: of each tenant what a week cost against the one before, and what to do about it."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from django.contrib.auth.models import User
from django.db.models import Sum

from spend.models import LedgerEntry, Outcome, Rollup
from spend.summaries.daily import downgrades
from spend.summaries.measures import DOWNGRADED, OUTCOMES, add_to, sums_of
from spend.summaries.removed import RemovedError
from spend.summaries.reports import GroupBy, Report, Selection, report
from tenants.models import Tenant
from tenants.money import TICKS_PER_USD, usd_rounded

MOST_TENANTS = 20
TEN_CENTS = TICKS_PER_USD // 10
TOP = 3
WEEK = timedelta(days=7)
ROSE_PERCENT = 25
MANY_DOWNGRADED_PERCENT = 30


@dataclass(frozen=True)
class TenantWeek:
    """One tenant's week. Money is in ticks, as text it is exact to the cent or to its hundredth."""

    tenant: Tenant
    spent_ticks: int
    before_ticks: int
    calls: int
    refused: int
    handed_off: int
    downgraded: int
    saved_ticks: int
    models: list[tuple[str, int]]
    customers: list[tuple[str, int]]

    @property
    def spent(self) -> str:
        return money(self.spent_ticks)

    @property
    def saved(self) -> str:
        return money(self.saved_ticks)

    @property
    def change(self) -> str:
        return change_of(self.spent_ticks, self.before_ticks)

    @property
    def top_models(self) -> list[tuple[str, str]]:
        return [(name, money(ticks)) for name, ticks in self.models]

    @property
    def top_customers(self) -> list[tuple[str, str]]:
        return [(name, money(ticks)) for name, ticks in self.customers]

    @property
    def next_steps(self) -> list[str]:
        """In words, what most needs a look first; never empty."""
        steps = []
        if self.refused or self.handed_off:
            steps.append("Calls were turned away. The tenant's page says which budget was spent: is it to be raised?")
        if self.calls and self.downgraded * 100 > self.calls * MANY_DOWNGRADED_PERCENT:
            steps.append("Cheaper models answered many calls. If answers got worse, raise the limit or the soft cap.")
        if self.before_ticks and self.spent_ticks * 100 > self.before_ticks * (100 + ROSE_PERCENT):
            steps.append("Spend rose by more than a quarter. The customers above are where to look first.")
        return steps or ["Nothing needs you."]


@dataclass(frozen=True)
class WeeklyReport:
    """A week, `first` to `last` in `zone`, of up to MOST_TENANTS tenants, the dearest first."""

    first: date
    last: date
    zone: ZoneInfo
    tenants: list[TenantWeek]
    omitted: int
    spent_ticks: int
    before_ticks: int

    @property
    def spent(self) -> str:
        return money(self.spent_ticks)

    @property
    def change(self) -> str:
        return change_of(self.spent_ticks, self.before_ticks)


def money(ticks: int) -> str:
    """In cents, or in hundredths of them where it is little."""
    return f"${usd_rounded(ticks, 2 if abs(ticks) >= TEN_CENTS else 4)}"


def change_of(now_ticks: int, before_ticks: int) -> str:
    """Against the week before, in dollars and percent."""
    if not before_ticks:
        return "nothing in the week before"
    percent = (now_ticks - before_ticks) * 100 // before_ticks
    if now_ticks == before_ticks:
        return "as in the week before"
    more = "more" if now_ticks > before_ticks else "less"
    return f"{money(abs(now_ticks - before_ticks))} ({abs(percent)} %) {more} than the week before"


def weekly_report(user: User, week: date, zone: ZoneInfo) -> WeeklyReport:
    """Of the tenants the user is a member of; of all, where the user is of the staff and a member of none."""
    starts_at, ends_at = _midnight(week, zone), _midnight(week + WEEK, zone)
    tenants = {tenant.pk: tenant for tenant in _tenants_of(user)}
    spent = _spent(tenants, starts_at, ends_at)
    before = _spent(tenants, _midnight(week - WEEK, zone), starts_at)
    ranked = sorted(tenants.values(), key=lambda tenant: (-spent.get(tenant.pk, 0), tenant.pk))
    return WeeklyReport(
        first=week,
        last=week + timedelta(days=6),
        zone=zone,
        tenants=[_tenant_week(each, starts_at, ends_at, before.get(each.pk, 0)) for each in ranked[:MOST_TENANTS]],
        omitted=max(0, len(ranked) - MOST_TENANTS),
        spent_ticks=sum(spent.values()),
        before_ticks=sum(before.values()),
    )


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, time(), tzinfo=zone)


def _tenants_of(user: User) -> list[Tenant]:
    own = list(Tenant.objects.filter(members=user, archived_at=None))
    return own or list(Tenant.objects.filter(archived_at=None) if user.is_staff else ())


def _spent(tenant_ids: Iterable[str], starts_at: datetime, ends_at: datetime) -> dict[str, int]:
    rows = Rollup.objects.filter(tenant__in=list(tenant_ids), bucket__gte=starts_at, bucket__lt=ends_at).order_by()
    return {name: int(ticks) for name, ticks in rows.values_list("tenant_id").annotate(Sum("cost_ticks"))}


def _tenant_week(tenant: Tenant, starts_at: datetime, ends_at: datetime, before_ticks: int) -> TenantWeek:
    selection = Selection(tenant.pk, starts_at, ends_at)
    by_model = report(selection, GroupBy.MODEL)
    counts = _counts(tenant, starts_at, ends_at)
    return TenantWeek(
        tenant=tenant,
        spent_ticks=by_model.totals.cost_ticks,
        before_ticks=before_ticks,
        models=_top(by_model),
        customers=_top(_by_customer(selection)),
        saved_ticks=_saved(tenant, starts_at, ends_at),
        **counts,
    )


def _counts(tenant: Tenant, starts_at: datetime, ends_at: datetime) -> dict[str, int]:
    rows = Rollup.objects.filter(tenant=tenant, bucket__gte=starts_at, bucket__lt=ends_at)
    sums: dict[str, Any] = rows.aggregate(downgraded=DOWNGRADED, **sums_of(OUTCOMES))
    by_outcome = {outcome: int(sums[f"sum_{outcome}"] or 0) for outcome in OUTCOMES}
    return {
        "calls": sum(by_outcome.values()),
        "refused": by_outcome[Outcome.REFUSED],
        "handed_off": by_outcome[Outcome.HANDED_OFF],
        "downgraded": int(sums["downgraded"]),
    }


def _by_customer(selection: Selection) -> Report | None:
    try:
        return report(selection, GroupBy.CUSTOMER)
    except RemovedError:  # single calls of a week that is told very late
        return None


def _top(made: Report | None) -> list[tuple[str, int]]:
    named = [(str(name), sums.cost_ticks) for (name, *_), sums in made.groups.items() if name] if made else []
    return [(name, ticks) for name, ticks in named if ticks][:TOP]


def _saved(tenant: Tenant, starts_at: datetime, ends_at: datetime) -> int:
    """What downgraded answers would have cost more at the models that were asked for."""
    entries = LedgerEntry.objects.filter(tenant=tenant, at__gte=starts_at, at__lt=ends_at)
    total = [0, 0, 0, 0]
    for figures in downgrades(entries, tenant.zone).values():
        add_to(total, figures)
    return total[2] - total[1]
