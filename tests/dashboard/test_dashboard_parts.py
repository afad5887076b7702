"""The pages' pure parts: spans, forecasts, charts, stories and how figures are written."""

import re
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from dashboard.charts import MOST_SERIES, OTHERS, Line, by_day, by_hour
from dashboard.comparison import Change
from dashboard.date_spans import Span, hour_of, midnight, month_span, span_before, spans_at
from dashboard.forecast import Pace, forecast, pace_since
from dashboard.queries.sums import Bucket, Figures, Row
from dashboard.step_sentences import reason_of, sentences_of
from dashboard.templatetags.guard_pages import instant, lasting, money, near, seconds, share, short, width
from guard.simulation.wording import LABELS
from tenants.money import TICKS_PER_USD

BERLIN = ZoneInfo("Europe/Berlin")
NOW = datetime(2026, 3, 29, 10, 20, tzinfo=UTC)  # 12:20 in Berlin, on the day of 23 hours
HOUR = timedelta(hours=1)


# Spans


def test_spans_are_whole_days_of_the_zone() -> None:
    spans = spans_at(datetime(2026, 3, 31, 22, 30, tzinfo=UTC), BERLIN)  # already April there
    assert (spans["today"].first, spans["today"].last) == (date(2026, 4, 1), date(2026, 4, 1))
    assert spans["month"].first == date(2026, 4, 1)
    assert len(list(spans["30"].days())) == 30
    assert len(list(spans["90"].days())) == 90
    assert spans["today"].starts_at == datetime(2026, 3, 31, 22, tzinfo=UTC)


def test_an_hour_that_the_clocks_show_twice_is_two() -> None:
    starts_at = midnight(date(2026, 10, 25), BERLIN)
    twice = [datetime(2026, 10, 25, hour, 15, tzinfo=UTC) for hour in (0, 1)]  # 02:15 in Berlin, and 02:15 again
    assert [at.astimezone(BERLIN).hour for at in twice] == [2, 2]
    assert [hour_of(at, starts_at) for at in twice] == [2, 3]
    assert hour_of(midnight(date(2026, 10, 26), BERLIN), starts_at) == 25


def test_the_day_of_a_changing_clock_has_its_own_length() -> None:
    assert midnight(date(2026, 3, 30), BERLIN) - midnight(date(2026, 3, 29), BERLIN) == 23 * HOUR
    assert midnight(date(2026, 10, 26), BERLIN) - midnight(date(2026, 10, 25), BERLIN) == 25 * HOUR


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("2026-02", date(2026, 2, 1), date(2026, 2, 28)),
        ("", date(2026, 3, 1), date(2026, 3, 31)),
        ("2024-02", date(2024, 2, 1), date(2024, 2, 29)),
    ],
)
def test_a_month_is_read_from_its_name(text: str, first: date, last: date) -> None:
    span = month_span(text, NOW, BERLIN)
    assert span
    assert (span.first, span.last) == (first, last)


@pytest.mark.parametrize("text", ["2026-04", "1999-12", "2026-00", "2026-3-1", "March", "2026-02-01"])
def test_what_is_no_month_so_far_is_none(text: str) -> None:
    assert month_span(text, NOW, BERLIN) is None


@pytest.mark.parametrize(
    ("key", "named"),
    [
        ("today", "Sun 22 Mar 2026 until 12:20"), ("month", "1 Feb to 28 Feb 2026"),
        ("30", "24 Jan to 22 Feb 2026 until 12:20"), ("90", "30 Sep to 28 Dec 2025 until 12:20"),
    ],
)  # fmt: skip
def test_the_span_before_has_the_same_weekdays_or_is_the_month_before(key: str, named: str) -> None:
    span = spans_at(NOW, BERLIN)[key]
    before = span_before(span, NOW)
    assert before.named == named
    assert before.ends_at <= span.starts_at
    if key != "month":
        assert before.length == span.length
        assert before.first.weekday() == span.first.weekday()


def test_a_month_that_is_over_is_compared_with_all_of_the_one_before() -> None:
    month = month_span("2026-02", NOW, BERLIN)
    assert month
    before = span_before(month, NOW)
    assert (before.first, before.last, before.is_whole) == (date(2026, 1, 1), date(2026, 1, 31), True)


@given(st.integers(0, 10 * 366 * 24 * 60), st.sampled_from(["today", "month", "30", "90"]))
def test_a_span_and_the_one_before_never_meet_and_parts_make_up_the_whole(minutes: int, key: str) -> None:
    now = datetime(2020, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes)
    span = spans_at(now, BERLIN)[key]
    before = span_before(span, now)
    assert before.starts_at <= before.ends_at <= span.starts_at
    parts = before.parts
    assert (parts[0].starts_at, parts[-1].ends_at) == (before.starts_at, before.ends_at)
    assert all(earlier.ends_at == later.starts_at for earlier, later in pairwise(parts))


@pytest.mark.parametrize(
    ("now", "before", "percent", "direction"),
    [(3, 2, 50, "up"), (1, 3, -67, "down"), (2, 2, 0, "same"), (5, 0, None, "up"), (0, 0, None, "same"),
     (-1, -2, 50, "up")],
)  # fmt: skip
def test_a_change_is_told_in_whole_percent(now: int, before: int, percent: int | None, direction: str) -> None:
    change = Change(now, before)
    assert (change.percent, change.direction) == (percent, direction)


# Forecast


def test_a_forecast_goes_on_at_the_pace_until_the_end() -> None:
    found = forecast(400, NOW, NOW + 6 * HOUR, Pace(ticks=240, seconds=24 * 3600))
    assert (found.ticks, found.runs_out_at) == (400 + 60, None)


def test_a_budget_runs_out_when_the_pace_has_used_what_is_left() -> None:
    found = forecast(400, NOW, NOW + 6 * HOUR, Pace(ticks=240, seconds=24 * 3600), hard_ticks=430)
    assert (found.ticks, found.runs_out_at) == (430, NOW + 3 * HOUR)


def test_what_is_spent_already_is_run_out_now_and_stays_what_it_is() -> None:
    found = forecast(500, NOW, NOW + HOUR, Pace(ticks=1, seconds=1), hard_ticks=430)
    assert (found.ticks, found.runs_out_at) == (500, NOW)


def test_without_spend_nothing_is_forecast() -> None:
    assert forecast(7, NOW, NOW + HOUR, pace_since(0, None, NOW, HOUR), hard_ticks=10).ticks == 7


def test_a_young_tenants_pace_is_measured_since_its_first_call_but_over_an_hour_at_least() -> None:
    day = timedelta(days=1)
    assert pace_since(100, NOW - 30 * day, NOW, day) == Pace(100, 86_400)
    assert pace_since(100, NOW - 6 * HOUR, NOW, day) == Pace(100, 6 * 3600)
    assert pace_since(100, NOW - timedelta(minutes=1), NOW, day) == Pace(100, 3600)


amounts = st.integers(0, 10**15)


@given(amounts, st.integers(0, 40 * 86_400), amounts, st.integers(1, 10**6), amounts)
def test_a_forecast_keeps_its_bounds(spent: int, ahead_s: int, ticks: int, pace_s: int, hard: int) -> None:
    ends_at = NOW + timedelta(seconds=ahead_s)
    found = forecast(spent, NOW, ends_at, Pace(ticks, pace_s), hard)
    assert spent <= found.ticks <= max(spent, hard)
    assert (found.runs_out_at is not None) == (spent + ticks * ahead_s // pace_s >= hard)
    assert found.runs_out_at is None or NOW <= found.runs_out_at <= ends_at


# Charts


def row(day: int, model: str, ticks: int) -> Row:
    return Row(date(2026, 3, day), model, "primary", Figures(cost_ticks=ticks))


def span_of(key: str, first: int, last: int) -> Span:
    return Span(key, "Some days", date(2026, 3, first), date(2026, 3, last), BERLIN)


def test_days_without_spend_are_drawn_too_and_the_table_has_the_same_numbers() -> None:
    rows = [row(1, "small", 5), row(1, "large", 10), row(3, "large", 20), row(3, "", 0)]
    chart = by_day(rows, span_of("30", 1, 4), [Line("Daily limit", 40), Line("Far", 41)], date(2026, 3, 4))
    assert chart.series == {"large": [10, 0, 20, 0], "small": [5, 0, 0, 0]}
    sums = [("1 Mar", [10, 5], 15), ("2 Mar", [0, 0], 0), ("3 Mar", [20, 0], 20), ("4 Mar", [0, 0], 0)]
    assert chart.table == [(*row, None) for row in sums]
    data: Any = chart.for_script
    assert data["type"] == "bar"
    assert data["series"][0]["values"] == ["0.000000001", "0.00", "0.000000002", "0.00"]
    assert data["lines"] == [{"label": "Daily limit: $0.00", "value": "0.000000004"}]
    assert chart.lines_out_of_sight == [Line("Far", 41)]


def test_a_month_is_drawn_as_what_was_spent_so_far_until_today() -> None:
    chart = by_day([row(1, "m", 5), row(3, "m", 7)], span_of("month", 1, 31), [], date(2026, 3, 3))
    assert chart.series == {"m": [5, 5, 12]}
    assert chart.is_cumulative


def test_many_models_are_summed_into_others() -> None:
    rows = [row(1, f"model-{number}", number) for number in range(1, 21)]
    chart = by_day(rows, span_of("30", 1, 1), [], date(2026, 3, 1))
    assert len(chart.series) == MOST_SERIES
    assert list(chart.series)[-1] == OTHERS
    assert sum(values[0] for values in chart.series.values()) == sum(range(1, 21))


def test_a_chart_of_nothing_says_so() -> None:
    assert by_day([], span_of("30", 1, 5), [], date(2026, 3, 5)).is_empty
    assert by_hour([], NOW, midnight(date(2026, 3, 29), BERLIN), BERLIN, []).is_empty


def test_hours_of_a_short_day_are_named_by_the_clock() -> None:
    starts_at = midnight(date(2026, 3, 29), BERLIN)
    buckets = [
        Bucket(starts_at - HOUR, "m", Figures(cost_ticks=99)),  # yesterday
        Bucket(starts_at + HOUR, "m", Figures(cost_ticks=5)),
        Bucket(starts_at + 11 * HOUR, "m", Figures(cost_ticks=7)),
    ]
    chart = by_hour(buckets, NOW, starts_at, BERLIN, [])
    assert chart.labels == ["01:00", *(f"{hour:02}:00" for hour in range(3, 13)), "now"]
    assert chart.series["m"][:2] == [0, 5]
    assert chart.series["m"][-1] == 12


# Stories


def test_a_story_is_told_in_sentences() -> None:
    (step,) = sentences_of([{"model": "grok", "decision": "held", "hold_ticks": 15_000_000_000, "max_tokens": 64}])
    assert step.text == "grok fitted the budget. Its worst case was set aside and the call was sent."
    assert step.tone == "good"
    assert step.details == [("hold", "$1.50"), ("max tokens", "64")]


def test_every_reason_not_to_take_a_model_is_a_sentence() -> None:
    for why in (*LABELS, "circuit_open", "no_provider_key"):
        (step,) = sentences_of([{"model": "grok", "decision": why}])
        assert re.fullmatch(r"grok (was|would (not )?have) .+\.", step.text), why


@pytest.mark.parametrize(
    "step",
    [
        None,
        7,
        "text",
        [],
        {},
        {"decision": None},
        {"decision": "{x.__class__}"},
        {"model": {"a": 1}, "decision": ["x"]},
        {"hold_usd_ticks": "x"},
    ],
)
def test_no_step_is_too_odd_to_be_told(step: Any) -> None:
    (told,) = sentences_of([step])
    assert told.text


def test_an_unknown_code_is_shown_as_it_is() -> None:
    assert reason_of("solar_flare") == "Code: solar_flare."
    assert reason_of("") == ""


# Figures


@pytest.mark.parametrize(
    ("ticks", "text"),
    [
        (0, "$0.00"), (None, "–"), (TICKS_PER_USD, "$1.00"), (12_345_678_900_000, "$1,234.57"),
        (TICKS_PER_USD // 10, "$0.10"), (123_400_000, "$0.0123"), (1, "$0.0000000001"),
        (12_340_000, "$0.00123"), (123_456, "$0.0000123"), (99_999_999, "$0.01000"), (-TICKS_PER_USD, "−$1.00"),
    ],
)  # fmt: skip
def test_money_has_the_decimals_it_needs(ticks: int | None, text: str) -> None:
    assert money(ticks) == text


def test_a_column_has_the_decimals_of_its_largest() -> None:
    assert money(123_400_000, TICKS_PER_USD) == "$0.01"
    assert money(12_340_000, TICKS_PER_USD) == "$0.00123", "rounded to nothing it could be told from nothing else"
    assert money(-12_340_000, TICKS_PER_USD) == "−$0.00123"


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (9_999, "9,999"),
        (10_000, "10K"),
        (12_345, "12.3K"),
        (1_000_000, "1M"),
        (45_600_000, "45.6M"),
        (2 * 10**9, "2B"),
    ],
)
def test_a_count_is_short(number: int, text: str) -> None:
    assert short(number) == text


SHARES = [(1, 3), (2, 3), (1, 1000), (0, 5), (5, 0), (999, 1000), (7, 7)]


def test_shares_and_widths_stay_within_their_bounds() -> None:
    shares = [share(part, whole).replace("\u00a0", " ") for part, whole in SHARES]
    assert shares == ["33 %", "67 %", "under 1 %", "0 %", "0 %", "99 %", "100 %"]
    assert (width(1, 3), width(9, 3), width(-1, 3), width(1, 0)) == ("33.33", "100.00", "0.00", "0.00")
    assert (seconds(900), seconds(1250)) == ("900 ms", "1.2 s")


def test_a_time_is_said_as_shortly_as_it_can_be() -> None:
    now = datetime.now(UTC)
    assert near(None) == "never"
    assert near(datetime(2020, 12, 1, tzinfo=UTC)) == "1 Dec"
    assert near(datetime(2020, 12, 1, 5, 30, tzinfo=UTC)) == "1 Dec at 05:30"
    noon = now.replace(hour=12, minute=34)
    assert near(noon) == "12:34"
    assert near(noon + timedelta(days=1)) == "12:34 tomorrow"
    assert near(now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)) == "midnight"


@pytest.mark.parametrize(
    ("span", "said"),
    [
        (timedelta(seconds=2.7), "2 s"),
        (timedelta(seconds=119), "119 s"),
        (timedelta(seconds=120), "2 min"),
        (timedelta(hours=3), "3 h"),
        (timedelta(days=4), "4 days"),
    ],
)
def test_how_long(span: timedelta, said: str) -> None:
    assert lasting(span) == said


def test_an_instant_has_its_day_unless_that_is_today() -> None:
    with timezone.override("Asia/Tokyo"):
        now = timezone.localtime().replace(hour=14, minute=3, second=10)
        before = now.replace(year=2025, month=12, day=1)
        assert (instant(now), instant(before)) == ("14:03:10", "1 Dec 14:03:10")
