"""Periods: from a kind of period, a time zone and an instant to the window's start and end.

Pure. A period starts at midnight in the tenant's own zone, so a day may last 23 or 25 hours,
or, where a zone skips a date, not exist at all.
"""

from datetime import UTC, date, datetime, time, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from django.db.models import TextChoices


class Period(TextChoices):
    DAY = "day", "day"
    WEEK = "week", "week"
    MONTH = "month", "month"
    TOTAL = "total", "total"


class Bounds(NamedTuple):
    """A half-open span of time in UTC: `starts_at <= instant < ends_at`; `ends_at` None is for ever."""

    starts_at: datetime
    ends_at: datetime | None


BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


def bounds(period: Period | str, zone: ZoneInfo, now: datetime) -> Bounds:
    """The bounds of the `period` that contains the aware instant `now`, for a clock on `zone`'s walls."""
    if period == Period.TOTAL:
        return Bounds(BEGINNING, None)
    today = now.astimezone(zone).date()
    first = _first_day(period, today)
    return Bounds(_midnight(first, zone), _midnight(_next_first_day(period, first), zone))


def _first_day(period: Period | str, day: date) -> date:
    if period == Period.DAY:
        return day
    if period == Period.WEEK:
        return day - timedelta(days=day.weekday())
    return day.replace(day=1)


def _next_first_day(period: Period | str, first: date) -> date:
    if period == Period.DAY:
        return first + timedelta(days=1)
    if period == Period.WEEK:
        return first + timedelta(days=7)
    return (first + timedelta(days=31)).replace(day=1)


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    """The first instant of `day` in `zone`, in UTC.

    Where clocks jump over midnight, 00:00 does not exist: `fold=0` then reads it with the offset from
    before the jump, which is the very instant of the jump and so the day's first.  Where clocks go
    back over midnight, `fold=0` is the earlier of the two.
    """
    return datetime.combine(day, time.min, tzinfo=zone).astimezone(UTC)
