"""Spans of days on a tenant's own calendar. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from tenants.periods import Period, bounds

FIRST_MONTH = date(2000, 1, 1)
HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class Span:
    """Whole days, `first` to `last` inclusive, in `zone`."""

    key: str
    label: str
    first: date
    last: date
    zone: ZoneInfo

    @property
    def short_label(self) -> str:
        return self.label.removeprefix("Last ")

    @property
    def starts_at(self) -> datetime:
        return midnight(self.first, self.zone)

    @property
    def ends_at(self) -> datetime:
        return midnight(self.last + timedelta(days=1), self.zone)

    def days(self) -> Iterator[date]:
        return (self.first + timedelta(days=index) for index in range((self.last - self.first).days + 1))

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
