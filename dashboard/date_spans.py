"""Spans of days, and of hours, on a tenant's own calendar, and which earlier span each is compared with. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from tenants.periods import Period, bounds

FIRST_MONTH = date(2000, 1, 1)
HOUR = timedelta(hours=1)
WEEK_DAYS = 7
RANGE = "range"
"""The key of a span that somebody chose by its days."""


@dataclass(frozen=True)
class Span:
    """Days, `first` to `last` inclusive, in `zone`: whole, or from `since` and until `until`, where they are set."""

    key: str
    label: str
    first: date
    last: date
    zone: ZoneInfo
    since: datetime | None = None
    until: datetime | None = None

    @property
    def short_label(self) -> str:
        return self.label.removeprefix("Last ")

    @property
    def in_a_sentence(self) -> str:
        return self.label if self.key == RANGE else self.label.lower()

    @property
    def starts_at(self) -> datetime:
        return self.since or midnight(self.first, self.zone)

    @property
    def ends_at(self) -> datetime:
        return self.until or midnight(self.last + timedelta(days=1), self.zone)

    @property
    def is_whole(self) -> bool:
        """Of whole days, which daily sums can tell."""
        return self.since is None and self.until is None

    @property
    def is_of_a_day(self) -> bool:
        return not self.is_whole or self.first == self.last

    @property
    def length(self) -> int:
        """In days, the first and the last counted."""
        return (self.last - self.first).days + 1

    @property
    def is_a_month(self) -> bool:
        return self.is_whole and self.first.day == 1 and self.last == next_month(self.first) - timedelta(days=1)

    @property
    def parts(self) -> list["Span"]:
        """Whole days, and a last day of which only the beginning counts."""
        if self.since or not self.until or self.first == self.last:
            return [self]
        last = replace(self, first=self.last)
        return [replace(self, last=self.last - timedelta(days=1), until=None), last]

    @property
    def query(self) -> str:
        """What a page's address asks for this span with."""
        return f"span={self.key}" if self.key in SPAN_KEYS else self.days_query

    @property
    def days_query(self) -> str:
        """The same by its days and times, as the list of calls takes them, too."""
        asked = {
            "first": f"{self.first}",
            "first_time": f"{self.since.astimezone(self.zone):%H:%M}" if self.since else "",
            "last": f"{self.last}",
            "last_time": f"{self.until.astimezone(self.zone):%H:%M}" if self.until else "",
        }
        return urlencode({name: value for name, value in asked.items() if value})

    @property
    def named(self) -> str:
        """By its days: "Tue 24 Nov", "1 Oct to 30 Oct", "Tue 24 Nov from 09:00 until 12:30"."""
        if self.first == self.last:
            days = f"{self.first:%a} {_day_text(self.first)}"
        else:
            days = f"{_day_text(self.first, self.last.year)} to {_day_text(self.last)}"
        since = f" from {self.since.astimezone(self.zone):%H:%M}" if self.since else ""
        return days + since + (f" until {self.until.astimezone(self.zone):%H:%M}" if self.until else "")

    def days(self) -> Iterator[date]:
        return (self.first + timedelta(days=index) for index in range(self.length))

    @property
    def is_cumulative(self) -> bool:
        """Drawn as what was spent so far, so that it can be held against the limit of the whole span."""
        return self.key in {"today", "month"}


def midnight(day: date, zone: ZoneInfo) -> datetime:
    """The first instant of `day` in `zone`, in UTC."""
    return bounds(Period.DAY, zone, datetime.combine(day, time(12), tzinfo=zone)).starts_at


def hour_of(at: datetime, starts_at: datetime) -> int:
    """Which hour after `starts_at`, from 0. By the time that passed: an hour that the clocks show twice is two."""
    return (at - starts_at) // HOUR


def spans_at(now: datetime, zone: ZoneInfo) -> dict[str, Span]:
    """The spans that a tenant's page offers, by their key."""
    today = now.astimezone(zone).date()
    firsts = {
        "today": ("Today", today),
        "month": ("This month", today.replace(day=1)),
        "30": ("Last 30 days", today - timedelta(days=29)),
        "90": ("Last 90 days", today - timedelta(days=89)),
    }
    return {key: Span(key, label, first, today, zone) for key, (label, first) in firsts.items()}


SPAN_KEYS = ("today", "month", "30", "90")


def span_before(span: Span, now: datetime) -> Span:
    """The earlier span to compare with: of a month the one before, else as long, whole weeks earlier, so that the
    weekdays are the same. Of a span that is not over yet, only what had passed of it by then: docs/adr/0050."""
    today = now.astimezone(span.zone).date()
    last = min(span.last, today)
    is_running = span.ends_at > now
    if span.key == "month" or span.is_a_month:
        return _month_before(span, last, now if is_running else None)
    back = timedelta(days=-(-((last - span.first).days + 1) // WEEK_DAYS) * WEEK_DAYS)
    since = _earlier(span.since, back, span.zone) if span.since else None
    ends = now if is_running else span.until
    until = _earlier(ends, back, span.zone) if ends else None
    return Span("before", "Before", span.first - back, last - back, span.zone, since, until)


def _month_before(span: Span, last: date, now: datetime | None) -> Span:
    """Until the same time of the same day, where `now` is given and that month has such a day."""
    first = previous_month(span.first)
    end = span.first - timedelta(days=1)
    if now is None or last.day > end.day:
        return Span("before", "Before", first, end, span.zone)
    day = first.replace(day=last.day)
    return Span("before", "Before", first, day, span.zone, until=_earlier(now, last - day, span.zone))


def _earlier(at: datetime, back: timedelta, zone: ZoneInfo) -> datetime:
    """At the same time by the clocks, `back` days before."""
    local = at.astimezone(zone).replace(tzinfo=None) - back
    return local.replace(tzinfo=zone).astimezone(UTC)


def _day_text(day: date, year_known: int | None = None) -> str:
    """With its year only where that is not the one which is known."""
    return f"{day.day} {day:%b}" if day.year == year_known else f"{day.day} {day:%b} {day.year}"


def month_span(text: str, now: datetime, zone: ZoneInfo) -> Span | None:
    """The month written as "2026-01", the current one if it is empty, None if it is no month so far."""
    this_month = now.astimezone(zone).date().replace(day=1)
    try:
        first = datetime.strptime(text, "%Y-%m").date() if text else this_month  # noqa: DTZ007  a month has no zone
    except ValueError:
        return None
    if not FIRST_MONTH <= first <= this_month:
        return None
    return Span(f"{first:%Y-%m}", f"{first:%B %Y}", first, next_month(first) - timedelta(days=1), zone)


def next_month(first: date) -> date:
    return (first + timedelta(days=31)).replace(day=1)


def previous_month(first: date) -> date:
    return (first - timedelta(days=1)).replace(day=1)
