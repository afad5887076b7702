"""Sums of what happened: daily sums as far as they reach, and the rollups and the ledger after that.

See `spend.summaries.daily`: adding the two is right at any moment, whenever the daily sums were last made.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import date, datetime
from typing import Any, NamedTuple, TypeVar
from zoneinfo import ZoneInfo

from django.db.models import Case, Count, Min, Q, QuerySet, Sum, When
from django.db.models.functions import TruncDate

from dashboard.date_spans import Span, midnight
from spend.models import Call, DailyRollup, LedgerEntry, Rollup, RollupMark, Route
from spend.summaries.buckets import bucket_of
from spend.summaries.measures import BILLED, DOWNGRADED, MEASURES, sums_of
from tenants.models import Tenant
from tenants.periods import BEGINNING

Result = TypeVar("Result")


@dataclass(slots=True)
class Figures:
    attempts: int = 0
    cost_ticks: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    served: int = 0
    refused: int = 0
    failed: int = 0
    handoff: int = 0
    downgraded: int = 0

    def add(self, other: "Figures") -> None:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    @property
    def calls(self) -> int:
        return self.served + self.refused + self.failed + self.handoff

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    @property
    def unserved(self) -> int:
        return self.refused + self.handoff

    @property
    def unserved_ticks(self) -> int:
        """About what refused and handed off calls would have cost: as much as served ones do. That is no saving."""
        return self.unserved * self.cost_ticks // self.served if self.served else 0


ALL_SUMS = {**sums_of(MEASURES), "sum_downgraded": DOWNGRADED}
"""In the order of the fields of Figures."""


class Row(NamedTuple):
    day: date
    model: str
    route: str
    figures: Figures


def total_of(rows: Iterable[Row]) -> Figures:
    total = Figures()
    for row in rows:
        total.add(row.figures)
    return total


def grouped(rows: Iterable[Row], by: str) -> dict[Any, Figures]:
    """Sums by one of a row's fields, in the order in which its values first come."""
    groups: dict[Any, Figures] = defaultdict(Figures)
    for row in rows:
        groups[getattr(row, by)].add(row.figures)
    return dict(groups)


def mark_of(tenant: Tenant) -> datetime:
    """The instant up to which the tenant's days are summed, in the zone it has now."""
    mark = RollupMark.objects.filter(tenant=tenant, time_zone=tenant.time_zone).first()
    return mark.through if mark else BEGINNING


def at_mark(tenant: Tenant, read: Callable[[datetime], Result]) -> Result:
    """What `read` gives for the tenant's mark, read again if the mark moved meanwhile: a sum made from both
    sides of a moving mark would count some things twice."""
    while True:
        mark = mark_of(tenant)
        result = read(mark)
        if mark_of(tenant) == mark:
            return result


def summed_range(span: Span, mark: datetime) -> tuple[date, date]:
    """The days to take from the daily sums: none where those are of another zone or not there."""
    return (span.first, span.last) if mark > BEGINNING else (date.max, date.min)


def mark_for(span: Span, mark: datetime) -> datetime:
    """The mark by which to read a part of a span: of a day that is not whole nothing is taken from daily sums."""
    return mark if span.is_whole else BEGINNING


def daily_rows(tenant: Tenant, span: Span, mark: datetime) -> list[Row]:
    """What happened in the span by day, model and route, in days' order."""
    summed = (
        DailyRollup.objects.filter(tenant=tenant, day__range=summed_range(span, mark))
        .order_by("day")
        .values_list("day", "model", "route")
        .annotate(**ALL_SUMS)
    )
    rows = [Row(day, model, route, Figures(*map(int, sums))) for day, model, route, *sums in summed]
    return [*rows, *_live_rows(tenant, max(mark, span.starts_at), span.ends_at, span.zone)]


def _live_rows(tenant: Tenant, starts_at: datetime, ends_at: datetime, zone: ZoneInfo) -> list[Row]:
    rows = (
        _buckets(tenant, starts_at, ends_at)
        .annotate(day=TruncDate("bucket", tzinfo=zone))
        .order_by("day")
        .values_list("day", "model", "route")
        .annotate(**ALL_SUMS)
    )
    return [Row(day, model, route, Figures(*map(int, sums))) for day, model, route, *sums in rows]


def rows_of(tenant: Tenant, span: Span, mark: datetime) -> list[Row]:
    """As `daily_rows`, of spans that begin or end within a day, too."""
    return [row for part in span.parts for row in _rows_of_part(tenant, part, mark)]


def _rows_of_part(tenant: Tenant, part: Span, mark: datetime) -> list[Row]:
    if part.is_whole:
        return daily_rows(tenant, part, mark)
    until = bucket_of(part.ends_at)
    rest = [
        Row(part.last, each.model, each.route, each.figures)
        for each in _within_a_bucket(tenant, until, part.ends_at)
    ]  # fmt: skip
    return [*_live_rows(tenant, part.starts_at, until, part.zone), *rest]


def _buckets(tenant: Tenant, starts_at: datetime, ends_at: datetime) -> QuerySet[Rollup]:
    return Rollup.objects.filter(tenant=tenant, bucket__gte=starts_at, bucket__lt=ends_at)


class Bucket(NamedTuple):
    at: datetime
    model: str
    figures: Figures
    route: str = ""


def _within_a_bucket(tenant: Tenant, starts_at: datetime, ends_at: datetime) -> list[Bucket]:
    """What a rollup cannot tell: the beginning of a quarter of an hour, from the ledger and the calls themselves.

    Where single calls were removed it is left out."""
    when = {"tenant": tenant, "at__gte": starts_at, "at__lt": ends_at}
    entries = LedgerEntry.objects.filter(**when).order_by().values_list("model", "route")
    calls = Call.objects.filter(**when).order_by().values_list("model", "route", "outcome")
    return [
        *(
            Bucket(starts_at, model, Figures(attempts, *map(int, sums)), route)
            for model, route, attempts, *sums in entries.annotate(Count("pk"), **sums_of(BILLED))
        ),
        *(
            Bucket(starts_at, model, _counted(route, outcome, count), route)
            for model, route, outcome, count in calls.annotate(Count("pk"))
        ),
    ]


def _counted(route: str, outcome: str, count: int) -> Figures:
    is_downgraded = outcome == "served" and route == Route.DOWNGRADE
    return Figures(**{outcome: count}, downgraded=count if is_downgraded else 0)


def buckets_of(tenant: Tenant, span: Span) -> list[Bucket]:
    """Quarters of an hour with their cost by model; of one that the span ends in, what was spent until then."""
    until = bucket_of(span.ends_at)
    whole = _cost_by_bucket(_buckets(tenant, span.starts_at, until))
    rest = _within_a_bucket(tenant, until, span.ends_at) if until < span.ends_at else []
    return [*whole, *(bucket for bucket in rest if bucket.figures.cost_ticks)]


def buckets_since(tenant: Tenant, starts_at: datetime) -> list[Bucket]:
    """Quarters of an hour with their cost by model, from `starts_at` on."""
    return _cost_by_bucket(Rollup.objects.filter(tenant=tenant, bucket__gte=starts_at))


def _cost_by_bucket(rollups: QuerySet[Rollup]) -> list[Bucket]:
    rows = rollups.order_by("bucket").values_list("bucket", "model").annotate(Sum("cost_ticks"))
    return [Bucket(at, model, Figures(cost_ticks=int(ticks))) for at, model, ticks in rows if ticks]


def first_spend_at(tenant: Tenant) -> datetime | None:
    first: datetime | None = Rollup.objects.filter(tenant=tenant).aggregate(first=Min("bucket"))["first"]
    return first


class TenantSums(NamedTuple):
    today: Figures
    month: Figures

    def add(self, figures: Figures, *, is_today: bool) -> None:
        self.month.add(figures)
        if is_today:
            self.today.add(figures)


def sums_of_tenants(tenants: Iterable[Tenant], now: datetime) -> dict[str, TenantSums]:
    """Each tenant's today and this month, on its own calendar, in a handful of queries for all of them."""
    calendars = {tenant.id: _Calendar.of(tenant, now) for tenant in tenants}
    while True:
        marks = _marks(calendars)
        sums = _sums_at(marks, calendars)
        if _marks(calendars) == marks:
            return sums


def marks_of(tenants: Iterable[Tenant]) -> dict[str, datetime]:
    """Of each tenant the instant up to which its days are summed, in the zone it has now; of none that has no sums."""
    zones = {tenant.id: tenant.time_zone for tenant in tenants}
    return {mark.tenant_id: mark.through for mark in _rows_of_marks(zones) if mark.time_zone == zones[mark.tenant_id]}


def _rows_of_marks(tenant_ids: Collection[str]) -> QuerySet[RollupMark]:
    return RollupMark.objects.filter(tenant_id__in=tenant_ids)


def _sums_at(marks: Mapping[str, datetime], calendars: Mapping[str, "_Calendar"]) -> dict[str, TenantSums]:
    sums = {tenant_id: TenantSums(Figures(), Figures()) for tenant_id in calendars}
    for tenant_id, is_today, figures in _summed_days(calendars, marks):
        sums[tenant_id].add(figures, is_today=is_today)
    for tenant_id, at, figures in _live_buckets(calendars, marks):
        calendar = calendars[tenant_id]
        if at >= max(marks.get(tenant_id, BEGINNING), calendar.month_starts_at):
            sums[tenant_id].add(figures, is_today=at >= calendar.today_starts_at)
    return sums


class _Calendar(NamedTuple):
    time_zone: str
    today: date
    today_starts_at: datetime
    month_starts_at: datetime

    @classmethod
    def of(cls, tenant: Tenant, now: datetime) -> "_Calendar":
        today = now.astimezone(tenant.zone).date()
        return cls(tenant.time_zone, today, midnight(today, tenant.zone), midnight(today.replace(day=1), tenant.zone))


def _marks(calendars: Mapping[str, _Calendar]) -> dict[str, datetime]:
    marks = _rows_of_marks(calendars)
    return {mark.tenant_id: mark.through for mark in marks if mark.time_zone == calendars[mark.tenant_id].time_zone}


def _summed_days(
    calendars: Mapping[str, _Calendar], marks: Mapping[str, datetime]
) -> Iterator[tuple[str, bool, Figures]]:
    """Daily sums of each tenant's month, today's apart, in one query whichever dates the Earth has just now."""
    by_today: dict[date, list[str]] = defaultdict(list)
    for tenant_id in marks:
        by_today[calendars[tenant_id].today].append(tenant_id)
    this_month, today = Q(pk__in=[]), Q(pk__in=[])
    for day, tenant_ids in by_today.items():
        this_month |= Q(tenant_id__in=tenant_ids, day__range=(day.replace(day=1), day))
        today |= Q(tenant_id__in=tenant_ids, day=day)
    days = DailyRollup.objects.filter(this_month).annotate(is_today=Case(When(today, then=True), default=False))
    for tenant_id, is_today, *sums in days.order_by().values_list("tenant_id", "is_today").annotate(**ALL_SUMS):
        yield tenant_id, bool(is_today), Figures(*map(int, sums))


def _live_buckets(
    calendars: Mapping[str, _Calendar], marks: Mapping[str, datetime]
) -> Iterator[tuple[str, datetime, Figures]]:
    """Buckets after the marks; where marks differ, some before them too, which the caller leaves out."""
    starts = [max(marks.get(tenant_id, BEGINNING), day.month_starts_at) for tenant_id, day in calendars.items()]
    buckets = Rollup.objects.filter(tenant_id__in=calendars, bucket__gte=min(starts, default=BEGINNING)).order_by()
    for tenant_id, at, *sums in buckets.values_list("tenant_id", "bucket").annotate(**ALL_SUMS):
        yield tenant_id, at, Figures(*map(int, sums))
