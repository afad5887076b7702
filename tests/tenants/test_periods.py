"""Periods: every instant lies in exactly one of each kind, in every zone there is."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tenants.periods import BEGINNING, Bounds, Period, bounds

ZONES = st.sampled_from(sorted(available_timezones())).map(ZoneInfo)
INSTANTS = st.datetimes(datetime(1990, 1, 1), datetime(2060, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
PERIODS = st.sampled_from([Period.DAY, Period.WEEK, Period.MONTH])
SECOND = timedelta(seconds=1)

# Clocks of these went over midnight, back over it, over a whole date, or by half an hour.
HAVANA, SAO_PAULO, APIA, LORD_HOWE = map(
    ZoneInfo, ["America/Havana", "America/Sao_Paulo", "Pacific/Apia", "Australia/Lord_Howe"]
)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def day_of(zone: str, instant: str) -> Bounds:
    return bounds(Period.DAY, ZoneInfo(zone), utc(instant))


def ends(found: Bounds) -> datetime:
    assert found.ends_at is not None
    return found.ends_at


@given(PERIODS, ZONES, INSTANTS)
@example(Period.DAY, HAVANA, utc("2026-03-08T05:00:00"))
@example(Period.DAY, SAO_PAULO, utc("2018-11-04T03:00:00"))
@example(Period.DAY, SAO_PAULO, utc("2018-02-18T02:30:00"))
@example(Period.DAY, APIA, utc("2011-12-30T10:00:00"))
@example(Period.WEEK, APIA, utc("2011-12-30T09:59:59"))
@example(Period.MONTH, LORD_HOWE, utc("2026-03-31T13:00:00"))
def test_an_instant_lies_in_its_period_and_the_next_begins_where_it_ends(
    period: Period, zone: ZoneInfo, now: datetime
) -> None:
    found = bounds(period, zone, now)
    assert found.starts_at <= now < ends(found)
    assert bounds(period, zone, found.starts_at) == found
    assert bounds(period, zone, ends(found) - SECOND) == found
    assert bounds(period, zone, ends(found)).starts_at == found.ends_at
    assert ends(bounds(period, zone, found.starts_at - SECOND)) == found.starts_at


@given(ZONES, INSTANTS)
@example(APIA, utc("2011-12-30T09:30:00"))
def test_a_week_and_a_month_are_whole_days(zone: ZoneInfo, now: datetime) -> None:
    for period in (Period.WEEK, Period.MONTH):
        found = bounds(period, zone, now)
        assert bounds(Period.DAY, zone, found.starts_at).starts_at == found.starts_at
        assert bounds(Period.DAY, zone, ends(found) - SECOND).ends_at == found.ends_at


@given(ZONES, INSTANTS)
def test_a_period_is_named_by_the_local_date_it_starts_on(zone: ZoneInfo, now: datetime) -> None:
    today = now.astimezone(zone).date()
    assert bounds(Period.DAY, zone, now).starts_at.astimezone(zone).date() == today
    month = bounds(Period.MONTH, zone, now).starts_at.astimezone(zone)
    assert (month.year, month.month, month.day) == (today.year, today.month, 1)
    week = bounds(Period.WEEK, zone, now).starts_at.astimezone(zone)
    assert week.weekday() == 0


def test_every_zone_has_a_today_a_week_and_a_month() -> None:
    now = utc("2026-06-30T23:59:59.999999")
    for name in available_timezones():
        for period in (Period.DAY, Period.WEEK, Period.MONTH):
            found = bounds(period, ZoneInfo(name), now)
            assert found.starts_at <= now < ends(found), (name, period)


@pytest.mark.parametrize(
    ("zone", "instant", "hours"),
    [
        ("Europe/Berlin", "2026-03-29T12:00:00", 23),
        ("Europe/Berlin", "2026-10-25T12:00:00", 25),
        ("Europe/Berlin", "2026-10-26T12:00:00", 24),
        ("America/New_York", "2026-03-08T12:00:00", 23),
        ("America/New_York", "2026-11-01T12:00:00", 25),
        ("Australia/Lord_Howe", "2026-04-04T18:00:00", 24.5),
        ("America/Havana", "2026-03-08T12:00:00", 23),
        ("UTC", "2026-03-29T12:00:00", 24),
    ],
)
def test_a_day_lasts_as_long_as_the_clocks_on_its_walls_say(zone: str, instant: str, hours: float) -> None:
    found = day_of(zone, instant)
    assert ends(found) - found.starts_at == timedelta(hours=hours)


def test_where_midnight_does_not_exist_the_day_starts_at_the_jump() -> None:
    assert day_of("America/Havana", "2026-03-08T12:00:00").starts_at == utc("2026-03-08T05:00:00")


def test_where_midnight_comes_twice_the_day_starts_at_the_first() -> None:
    """On the 18th of February 2018, 00:00 in São Paulo was 23:00 of the day before again."""
    assert day_of("America/Sao_Paulo", "2018-02-18T12:00:00").starts_at == utc("2018-02-18T03:00:00")
    assert day_of("America/Sao_Paulo", "2018-02-18T02:30:00") == Bounds(
        utc("2018-02-17T02:00:00"), utc("2018-02-18T03:00:00")
    )


def test_a_date_that_a_zone_skipped_belongs_to_no_day() -> None:
    """Samoa went from the 29th of December 2011 straight to the 31st."""
    last = day_of("Pacific/Apia", "2011-12-30T09:59:59")
    assert last.starts_at.astimezone(APIA).day == 29
    assert last.ends_at == utc("2011-12-30T10:00:00")
    assert day_of("Pacific/Apia", "2011-12-30T10:00:00").starts_at.astimezone(APIA).day == 31


def test_on_both_sides_of_the_date_line_it_is_another_day() -> None:
    east, west = (day_of(zone, "2026-06-30T11:30:00") for zone in ("Pacific/Kiritimati", "Pacific/Pago_Pago"))
    assert east.starts_at == utc("2026-06-30T10:00:00")
    assert west == Bounds(utc("2026-06-30T11:00:00"), utc("2026-07-01T11:00:00"))
    month_ends = [
        ends(bounds(Period.MONTH, ZoneInfo(zone), utc("2026-06-30T11:30:00")))
        for zone in ("Pacific/Kiritimati", "Pacific/Pago_Pago")
    ]
    assert month_ends == [utc("2026-07-31T10:00:00"), utc("2026-07-01T11:00:00")]


@pytest.mark.parametrize(
    ("instant", "starts", "following"),
    [
        ("2026-01-31T23:59:59", "2026-01-01", "2026-02-01"),
        ("2026-02-28T12:00:00", "2026-02-01", "2026-03-01"),
        ("2028-02-29T00:00:00", "2028-02-01", "2028-03-01"),
        ("2026-12-31T23:59:59", "2026-12-01", "2027-01-01"),
    ],
)
def test_month_ends(instant: str, starts: str, following: str) -> None:
    assert bounds("month", ZoneInfo("UTC"), utc(instant)) == Bounds(utc(starts), utc(following))


def test_a_week_starts_on_monday_even_across_a_year() -> None:
    assert bounds("week", ZoneInfo("UTC"), utc("2027-01-01T00:00:00")) == Bounds(utc("2026-12-28"), utc("2027-01-04"))


@given(ZONES, INSTANTS)
def test_the_total_never_ends(zone: ZoneInfo, now: datetime) -> None:
    assert bounds(Period.TOTAL, zone, now) == Bounds(BEGINNING, None)
