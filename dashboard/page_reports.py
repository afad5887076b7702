"""What each page shows, put together from the queries."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Q, QuerySet

from dashboard.charts import Line, StackedChart, by_day, by_hour, by_slot
from dashboard.date_spans import Span, midnight, span_before
from dashboard.forecast import Forecast, forecast, pace_since
from dashboard.queries.budgets import PAUSED, SEVERITY, Standing, standings, used_ppm
from dashboard.queries.cached import CachedSaving, cached_saving
from dashboard.queries.earlier import Earlier, earlier_of
from dashboard.queries.savings import Savings, savings_of
from dashboard.queries.subjects import Subject, Subjects, every_tag, top_conversations, top_customers
from dashboard.queries.sums import (
    Bucket,
    Figures,
    Row,
    at_mark,
    buckets_of,
    buckets_since,
    daily_rows,
    first_spend_at,
    grouped,
    rows_of,
    sums_of_tenants,
    total_of,
)
from dashboard.queries.trends import Trend, trends_of
from spend.budgets.refusing import mostly_over_budget, state_told
from spend.budgets.usage import Use, Uses, current_uses
from tenants.models import Scope, Tenant
from tenants.periods import Period, bounds

TENANTS_A_PAGE = 50
OTHERS_SHOWN = 5
DAY_PACE = timedelta(hours=24)
MONTH_PACE = timedelta(days=7)


@dataclass(frozen=True)
class Overview:
    """All tenants that somebody sees: their sums, and a page of them, those that need a look first."""

    today: Figures
    month: Figures
    counts: dict[str, int]
    tenants: int
    shown: Sequence[Standing]
    trends: dict[str, Trend]
    zones: list[str]
    page: int
    pages: int
    has_demo: bool

    @property
    def has_several_zones(self) -> bool:
        return len(self.zones) > 1

    @property
    def needing_a_look(self) -> int:
        return self.tenants - self.counts["active"] - self.counts[PAUSED]


def overview(
    tenants: QuerySet[Tenant], search: str, page: int, now: datetime, size: int | None = TENANTS_A_PAGE
) -> Overview:
    """`size` tenants a page; None for all of them."""
    named = Q(id__icontains=search) | Q(name__icontains=search)
    found = tenants.filter(named if search else Q(archived_at=None))
    seen = list(found)
    sums = sums_of_tenants(seen, now)
    ranked = standings(seen, sums, now)
    is_paged, size = size is not None, size or max(1, len(ranked))
    pages = max(1, -(-len(ranked) // size))
    page = min(max(page, 1), pages)
    shown = ranked[(page - 1) * size : page * size]
    return Overview(
        today=_sum(each.today for each in sums.values()),
        month=_sum(each.month for each in sums.values()),
        counts={state: sum(each.state == state for each in ranked) for state in (*SEVERITY, PAUSED)},
        tenants=len(ranked),
        shown=shown,
        trends=trends_of([each.tenant for each in shown], now) if is_paged else {},
        zones=sorted({tenant.time_zone for tenant in seen}),
        page=page,
        pages=pages,
        has_demo=any(tenant.is_demo for tenant in seen),
    )


def _sum(figures: Iterable[Figures]) -> Figures:
    total = Figures()
    for each in figures:
        total.add(each)
    return total


@dataclass(frozen=True)
class TenantReport:
    """One tenant: where it stands, where it leads, and what the span cost by model, customer and conversation."""

    uses: Uses
    own: list[Use]
    today: Figures
    month: Figures
    day_forecast: Forecast
    month_forecast: Forecast
    total: Figures
    models: list[tuple[str, Figures]]
    chart: StackedChart
    customers: Subjects
    conversations: Subjects
    tags: list[Subject]
    savings: Savings
    cached: CachedSaving
    key_names: dict[str, str]
    is_over_budget: bool
    before: Earlier
    before_today: Figures
    before_month: Figures
    today_before: Span
    month_before: Span

    @property
    def tightest(self) -> Use:
        return self.own[0]

    @property
    def state(self) -> str:
        return state_told(self.tightest, is_over_budget=self.is_over_budget)

    @property
    def runs_out_period(self) -> str:
        """Whose budget runs out first at the pace of now; empty where none does."""
        return "day" if self.day_forecast.runs_out_at else "month" if self.month_forecast.runs_out_at else ""

    @property
    def runs_out_at(self) -> datetime | None:
        return self.day_forecast.runs_out_at or self.month_forecast.runs_out_at

    @property
    def others(self) -> list[Use]:
        """Budgets of single customers, conversations and keys: the furthest used."""
        others = [use for use in self.uses.windows if use.budget.scope != Scope.TENANT]
        return sorted(others, key=used_ppm, reverse=True)[:OTHERS_SHOWN]


def tenant_report(tenant: Tenant, span: Span, now: datetime) -> TenantReport:
    return at_mark(tenant, lambda mark: _tenant_report(tenant, span, now, mark))


def _tenant_report(tenant: Tenant, span: Span, now: datetime, mark: datetime) -> TenantReport:
    today, month = _day_and_month(tenant, now)
    rows = daily_rows(tenant, month, mark)
    in_span = rows if (span.first, span.last) == (month.first, month.last) else rows_of(tenant, span, mark)
    this_month, this_day = total_of(rows), total_of(row for row in rows if row.day == today.first)
    uses = current_uses(tenant, now)
    own = _tightest_first(use for use in uses.windows if use.budget.scope == Scope.TENANT)
    buckets = buckets_since(tenant, min(now - MONTH_PACE, today.starts_at))
    day_forecast, month_forecast = _forecasts(tenant, buckets, (this_day, this_month), own, now)
    customers = top_customers(tenant, span, mark)
    before = earlier_of(tenant, span_before(span, now), mark, [subject.name for subject in customers.top])
    today_before, month_before = span_before(today, now), span_before(month, now)
    return TenantReport(
        uses=uses,
        own=own,
        today=this_day,
        month=this_month,
        day_forecast=day_forecast,
        month_forecast=month_forecast,
        total=total_of(in_span),
        models=_models(in_span),
        chart=_chart(tenant, span, in_span, before, own, now),
        customers=customers,
        conversations=top_conversations(tenant, span, mark),
        tags=every_tag(tenant, span),
        savings=savings_of(tenant, span, mark),
        cached=cached_saving(in_span, span),
        key_names={str(key.pk): str(key) for key in tenant.keys.all()},
        is_over_budget=bool(mostly_over_budget([tenant.id], now)),
        before=before,
        before_today=before.total_of(today_before) or total_of(rows_of(tenant, today_before, mark)),
        before_month=before.total_of(month_before) or total_of(rows_of(tenant, month_before, mark)),
        today_before=today_before,
        month_before=month_before,
    )


def _day_and_month(tenant: Tenant, now: datetime) -> tuple[Span, Span]:
    today = now.astimezone(tenant.zone).date()
    return (
        Span("today", "Today", today, today, tenant.zone),
        Span("month", "This month", today.replace(day=1), today, tenant.zone),
    )


def _models(rows: list[Row]) -> list[tuple[str, Figures]]:
    served = [row for row in rows if row.model]
    return sorted(grouped(served, "model").items(), key=lambda each: (-each[1].cost_ticks, each[0]))


def _tightest_first(uses: Iterable[Use]) -> list[Use]:
    return sorted(uses, key=lambda use: (SEVERITY.index(use.state), use.remaining_ticks))


def _forecasts(
    tenant: Tenant, buckets: list[Bucket], spent: tuple[Figures, Figures], own: list[Use], now: datetime
) -> tuple[Forecast, Forecast]:
    """The day at the pace of the last 24 hours, the month at that of the last 7 days."""
    first = first_spend_at(tenant)
    forecasts = []
    for period, longest, figures in zip((Period.DAY, Period.MONTH), (DAY_PACE, MONTH_PACE), spent, strict=True):
        recent = sum(bucket.figures.cost_ticks for bucket in buckets if bucket.at >= now - longest)
        pace = pace_since(recent, first, now, longest)
        ends_at = bounds(period, tenant.zone, now).ends_at or now
        use = _of_period(own, period)
        spent_ticks = use.window.spent_ticks if use else figures.cost_ticks
        forecasts.append(forecast(spent_ticks, now, ends_at, pace, use.budget.hard_ticks if use else None))
    return forecasts[0], forecasts[1]


def _of_period(own: Iterable[Use], period: Period) -> Use | None:
    return next((use for use in own if use.budget.period == period), None)


def _chart(tenant: Tenant, span: Span, rows: list[Row], before: Earlier, own: list[Use], now: datetime) -> StackedChart:
    """Held against the limit of the span's own period, or of a day where it is drawn by day."""
    period = Period.MONTH if span.key == "month" else Period.DAY
    use = _of_period(own, period)
    label = "Monthly limit" if period == Period.MONTH else "Daily limit"
    lines = [Line(label, use.budget.limit_ticks)] if use else []
    if not span.is_of_a_day:
        return by_day(rows, span, lines, now.astimezone(span.zone).date(), (before.span, before.rows))
    buckets, earlier = buckets_of(tenant, span), (before.span, buckets_of(tenant, before.span))
    if span.key == "today":
        return by_hour(buckets, now, midnight(span.first, span.zone), span.zone, lines, earlier)
    return by_slot(buckets, span, now, lines, earlier)


@dataclass(frozen=True)
class Statement:
    """A month of one tenant."""

    total: Figures
    models: list[tuple[str, Figures]]
    days: list[tuple[object, Figures]]
    customers: Subjects
    savings: Savings
    cached: CachedSaving
    before: Earlier


def statement(tenant: Tenant, span: Span, now: datetime) -> Statement:
    return at_mark(tenant, lambda mark: _statement(tenant, span, now, mark))


def _statement(tenant: Tenant, span: Span, now: datetime, mark: datetime) -> Statement:
    rows = daily_rows(tenant, span, mark)
    customers = top_customers(tenant, span, mark, limit=20)
    return Statement(
        total=total_of(rows),
        models=_models(rows),
        days=sorted(grouped(rows, "day").items()),
        customers=customers,
        savings=savings_of(tenant, span, mark),
        cached=cached_saving(rows, span),
        before=earlier_of(tenant, span_before(span, now), mark, [subject.name for subject in customers.top]),
    )
