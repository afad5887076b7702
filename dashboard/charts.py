"""Charts as data: what Chart.js draws and the same numbers as a table. Pure; amounts are strings of exact USD."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from dashboard.date_spans import HOUR, Span, hour_of
from dashboard.queries.sums import Bucket, Row
from tenants.money import usd_rounded, usd_string

MOST_SERIES = 6
OTHERS = "other models"
MOST_BARS = 100
"""Days beyond these are drawn by month."""
LINE_IN_SIGHT = 2
"""A limit is drawn where it is at most so many times the most that was spent; further off it would flatten that."""
QUARTER = timedelta(minutes=15)
LONG_IN_QUARTERS = timedelta(hours=6)


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
    before: list[int] = field(default_factory=list)
    """What was spent in the earlier span at each label, all models together; empty where it is not compared."""
    slots: list["Slot"] = field(default_factory=list)
    """What each label stands for, so that a part of the chart can be chosen."""

    @property
    def is_empty(self) -> bool:
        return not any(any(ticks) for ticks in self.series.values()) and not any(self.before)

    @property
    def largest(self) -> int:
        return max([0, *(total for _, _, total, _ in self.table), *self.before])

    @property
    def lines_in_sight(self) -> list[Line]:
        return [line for line in self.lines if line.ticks <= LINE_IN_SIGHT * self.largest]

    @property
    def lines_out_of_sight(self) -> list[Line]:
        return [line for line in self.lines if line.ticks > LINE_IN_SIGHT * self.largest]

    @property
    def table(self) -> list[tuple[str, list[int], int, int | None]]:
        """For each label the amounts of each series, their sum, and what it was before."""
        columns = list(zip(*self.series.values(), strict=True)) or [()] * len(self.labels)
        before: Sequence[int | None] = self.before or [None] * len(self.labels)
        rows = zip(self.labels, columns, before, strict=True)
        return [(label, list(column), sum(column), earlier) for label, column, earlier in rows]

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
                for line in self.lines_in_sight
            ],
            "before": [usd_string(ticks) for ticks in self.before],
            "slots": [slot.asked for slot in self.slots],
        }


@dataclass(frozen=True)
class Slot:
    """The time that a label stands for, on the tenant's own calendar; empty times are those of whole days."""

    first: str
    first_time: str
    last: str
    last_time: str

    @property
    def asked(self) -> dict[str, str]:
        return {"first": self.first, "first_time": self.first_time, "last": self.last, "last_time": self.last_time}


def by_day(
    rows: Iterable[Row], span: Span, lines: list[Line], today: date, before: tuple[Span, Iterable[Row]] | None = None
) -> StackedChart:
    """Spend by day, or by month where there are very many; so far in the span where it is held against the limit of
    all of it. `before` are the earlier span and its rows."""
    days = [day for day in span.days() if day <= today]
    is_by_month = len(days) > MOST_BARS
    label_of = _month if is_by_month else _day_of
    order = list(dict.fromkeys(map(label_of, days)))
    amounts: dict[str, dict[date, int]] = defaultdict(lambda: defaultdict(int))
    for row in rows:
        if row.figures.cost_ticks:
            amounts[row.model][label_of(row.day)] += row.figures.cost_ticks
    series = _series({model: [ticks[day] for day in order] for model, ticks in amounts.items()}, span.is_cumulative)
    return StackedChart(
        "Spent each month" if is_by_month else "Spent so far this month" if span.is_cumulative else "Spent each day",
        [f"{day:%b %Y}" if is_by_month else f"{day.day} {day:%b}" for day in order],
        series,
        span.is_cumulative,
        [] if is_by_month else lines,
        "Month" if is_by_month else "Day",
        _before_by_day(before, days, label_of, order, span.is_cumulative) if before else [],
        [_slot_of_days([day for day in days if label_of(day) == each]) for each in order],
    )


def _day_of(day: date) -> date:
    return day


def _month(day: date) -> date:
    return day.replace(day=1)


def _before_by_day(
    before: tuple[Span, Iterable[Row]],
    days: Sequence[date],
    label_of: Callable[[date], date],
    order: Sequence[date],
    is_cumulative: bool,
) -> list[int]:
    """The first day stands beside the first one, and so on; days that the earlier span has more are left out."""
    span, rows = before
    ticks: dict[date, int] = defaultdict(int)
    for row in rows:
        index = (row.day - span.first).days
        if index < len(days):
            ticks[label_of(days[index])] += row.figures.cost_ticks
    found = [ticks[each] for each in order]
    return _running(found) if is_cumulative else found


def _slot_of_days(days: Sequence[date]) -> Slot:
    return Slot(f"{days[0]}", "", f"{days[-1]}", "")


def by_hour(
    buckets: Iterable[Bucket],
    now: datetime,
    starts_at: datetime,
    zone: ZoneInfo,
    lines: list[Line],
    before: tuple[Span, Iterable[Bucket]] | None = None,
) -> StackedChart:
    """Today's spend so far, hour by hour. A day of a changing clock has 23 or 25 of them."""
    count = hour_of(now, starts_at) + 1
    amounts = _by_slot(buckets, starts_at, now + timedelta(microseconds=1), HOUR, count)
    labels = [*(_clock(starts_at + (hour + 1) * HOUR, zone) for hour in range(count - 1)), "now"]
    slots = [_slot(starts_at + hour * HOUR, starts_at + (hour + 1) * HOUR, zone) for hour in range(count)]
    series = _series(amounts, is_cumulative=True)
    earlier = _running(_before_by_slot(before, HOUR, count)) if before else []
    return StackedChart("Spent so far today", labels, series, True, lines, "Until", earlier, slots)


def by_slot(
    buckets: Iterable[Bucket], span: Span, now: datetime, lines: list[Line], before: tuple[Span, Iterable[Bucket]]
) -> StackedChart:
    """A day, or hours of it, by the hour; a few hours by quarters of one."""
    starts_at, ends_at = span.starts_at, max(min(span.ends_at, now), span.starts_at + QUARTER)
    step = QUARTER if ends_at - starts_at <= LONG_IN_QUARTERS else HOUR
    count = -((starts_at - ends_at) // step)
    amounts = _by_slot(buckets, starts_at, ends_at, step, count)
    starts = [starts_at + index * step for index in range(count)]
    labels = [_clock(start, span.zone) for start in starts]
    slots = [_slot(start, min(start + step, span.ends_at), span.zone) for start in starts]
    title = "Spent each quarter of an hour" if step == QUARTER else "Spent each hour"
    earlier = _before_by_slot(before, step, count)
    return StackedChart(title, labels, _series(amounts, False), False, lines, "From", earlier, slots)


def _by_slot(
    buckets: Iterable[Bucket], starts_at: datetime, ends_at: datetime, step: timedelta, count: int
) -> dict[str, list[int]]:
    amounts: dict[str, list[int]] = defaultdict(lambda: [0] * count)
    for bucket in buckets:
        if starts_at <= bucket.at < ends_at:
            amounts[bucket.model][(bucket.at - starts_at) // step] += bucket.figures.cost_ticks
    return amounts


def _before_by_slot(before: tuple[Span, Iterable[Bucket]], step: timedelta, count: int) -> list[int]:
    span, buckets = before
    ticks = [0] * count
    for bucket in buckets:
        index = (bucket.at - span.starts_at) // step
        if 0 <= index < count:
            ticks[index] += bucket.figures.cost_ticks
    return ticks


def _clock(at: datetime, zone: ZoneInfo) -> str:
    return f"{at.astimezone(zone):%H:%M}"


def _slot(starts_at: datetime, ends_at: datetime, zone: ZoneInfo) -> Slot:
    """Midnight at its end is the end of the day before."""
    start, end = starts_at.astimezone(zone), ends_at.astimezone(zone)
    last = (ends_at - timedelta(microseconds=1)).astimezone(zone).date()
    return Slot(f"{start.date()}", f"{start:%H:%M}", f"{last}", f"{end:%H:%M}" if end.date() == last else "")


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
