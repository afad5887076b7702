"""Charts as data: what Chart.js draws and the same numbers as a table. Pure; amounts are strings of exact USD."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from dashboard.date_spans import Span, hour_of
from dashboard.queries.sums import Bucket, Row
from tenants.money import usd_rounded, usd_string

MOST_SERIES = 6
OTHERS = "other models"


@dataclass(frozen=True)
class Line:
    """A horizontal line, such as a limit."""

    label: str
    ticks: int


@dataclass(frozen=True)
class StackedChart:
    """Amounts in ticks by label and model, the dearest model first."""

    title: str
    labels: list[str]
    series: Mapping[str, list[int]]
    is_cumulative: bool
    lines: list[Line] = field(default_factory=list)
    label_name: str = "Day"

    @property
    def is_empty(self) -> bool:
        return not any(any(ticks) for ticks in self.series.values())

    @property
    def largest(self) -> int:
        return max((total for _, _, total in self.table), default=0)

    @property
    def table(self) -> list[tuple[str, list[int], int]]:
        """For each label the amounts of each series, and their sum."""
        columns = list(zip(*self.series.values(), strict=True)) or [()] * len(self.labels)
        return [(label, list(column), sum(column)) for label, column in zip(self.labels, columns, strict=False)]

    @property
    def for_script(self) -> dict[str, object]:
        return {
            "type": "line" if self.is_cumulative else "bar",
            "labels": self.labels,
            "series": [
                {"label": name, "values": [usd_string(ticks) for ticks in values]}
                for name, values in self.series.items()
            ],
            "lines": [
                {"label": f"{line.label}: ${usd_rounded(line.ticks)}", "value": usd_string(line.ticks)}
                for line in self.lines
            ],
        }


def by_day(rows: Iterable[Row], span: Span, lines: list[Line], today: date) -> StackedChart:
    """Spend by day; so far in the span where it is held against the limit of all of it."""
    days = [day for day in span.days() if day <= today]
    amounts: dict[str, dict[date, int]] = defaultdict(lambda: defaultdict(int))
    for row in rows:
        if row.figures.cost_ticks:
            amounts[row.model][row.day] += row.figures.cost_ticks
    labels = [f"{day.day} {day:%b}" for day in days]
    series = _series({model: [ticks[day] for day in days] for model, ticks in amounts.items()}, span.is_cumulative)
    title = "Spent so far this month" if span.is_cumulative else "Spent each day"
    return StackedChart(title, labels, series, span.is_cumulative, lines)


def by_hour(
    buckets: Iterable[Bucket], now: datetime, starts_at: datetime, zone: ZoneInfo, lines: list[Line]
) -> StackedChart:
    """Today's spend so far, hour by hour. A day of a changing clock has 23 or 25 of them."""
    count = hour_of(now, starts_at) + 1
    amounts: dict[str, list[int]] = defaultdict(lambda: [0] * count)
    for bucket in buckets:
        if starts_at <= bucket.at <= now:
            amounts[bucket.model][hour_of(bucket.at, starts_at)] += bucket.figures.cost_ticks
    labels = [*(_hour_label(starts_at, hour, zone) for hour in range(count - 1)), "now"]
    return StackedChart("Spent so far today", labels, _series(amounts, is_cumulative=True), True, lines, "Until")


def _hour_label(starts_at: datetime, hour: int, zone: ZoneInfo) -> str:
    """The end of the hour, until which so much was spent."""
    return f"{(starts_at + timedelta(hours=hour + 1)).astimezone(zone):%H:%M}"


def _series(amounts: Mapping[str, Sequence[int]], is_cumulative: bool) -> dict[str, list[int]]:
    """At most MOST_SERIES, dearest first; the rest is summed in one."""
    ordered = sorted(amounts, key=lambda model: (-sum(amounts[model]), model))
    shown = ordered if len(ordered) <= MOST_SERIES else ordered[: MOST_SERIES - 1]
    series = {model: list(amounts[model]) for model in shown}
    if rest := ordered[len(shown) :]:
        series[OTHERS] = [sum(values) for values in zip(*(amounts[model] for model in rest), strict=True)]
    return {model: _running(values) for model, values in series.items()} if is_cumulative else series


def _running(values: Iterable[int]) -> list[int]:
    total = 0
    return [total := total + value for value in values]
