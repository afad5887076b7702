"""What some tenants spent day by day of late, for a line beside each."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from django.db.models import Sum

from dashboard.date_spans import midnight
from dashboard.queries.sums import marks_of
from spend.models import DailyRollup, Rollup
from tenants.models import Tenant
from tenants.periods import BEGINNING

DAYS = 14
WEEK = 7


@dataclass(frozen=True)
class Trend:
    """Ticks of each of the last DAYS whole days, oldest first; two weeks, so that the weekdays are the same."""

    days: list[int]

    @property
    def week(self) -> int:
        return sum(self.days[-WEEK:])

    @property
    def week_before(self) -> int:
        return sum(self.days[:-WEEK])

    @property
    def points(self) -> str:
        """As a line in a box of 100 by 24."""
        most = max(self.days) or 1
        steps = len(self.days) - 1
        return " ".join(f"{100 * index // steps},{23 - 22 * ticks // most}" for index, ticks in enumerate(self.days))


def trends_of(tenants: Sequence[Tenant], now: datetime) -> dict[str, Trend]:
    """In two queries, for the few tenants of a page: daily sums up to each mark, the rollups after it."""
    days = {tenant.id: _days_of(tenant, now) for tenant in tenants}
    while True:
        marks = marks_of(tenants)
        ticks = _ticks(tenants, days, marks)
        if marks_of(tenants) == marks:
            break
    return {
        tenant_id: Trend([ticks.get((tenant_id, day), 0) for day in of_tenant]) for tenant_id, of_tenant in days.items()
    }


def _days_of(tenant: Tenant, now: datetime) -> list[date]:
    today = now.astimezone(tenant.zone).date()
    return [today - timedelta(days=ago) for ago in range(DAYS, 0, -1)]


Ticks = dict[tuple[str, date], int]


def _ticks(tenants: Sequence[Tenant], days: dict[str, list[date]], marks: dict[str, datetime]) -> Ticks:
    ticks = _summed(marks, min((each[0] for each in days.values()), default=date.max))
    zones = {tenant.id: tenant.zone for tenant in tenants}
    since = {
        tenant_id: max(marks.get(tenant_id, BEGINNING), midnight(days[tenant_id][0], zone))
        for tenant_id, zone in zones.items()
    }
    live = Rollup.objects.filter(tenant__in=since, bucket__gte=min(since.values(), default=BEGINNING)).order_by()
    for tenant_id, at, cost_ticks in live.values_list("tenant_id", "bucket").annotate(Sum("cost_ticks")):
        if at >= since[tenant_id]:
            key = (tenant_id, at.astimezone(zones[tenant_id]).date())
            ticks[key] = ticks.get(key, 0) + int(cost_ticks)
    return ticks


def _summed(marks: dict[str, datetime], first: date) -> Ticks:
    rows = DailyRollup.objects.filter(tenant__in=[*marks, ""], day__gte=first).order_by()
    sums = rows.values_list("tenant_id", "day").annotate(Sum("cost_ticks"))
    return {(tenant_id, day): int(cost_ticks) for tenant_id, day, cost_ticks in sums}
