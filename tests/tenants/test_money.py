"""Money: ticks in, exact USD out, and nothing in between that a float could touch."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenants.money import (
    MAX_TICKS,
    TICKS_PER_TOKEN_AT_ONE_USD_PER_MILLION,
    TICKS_PER_USD,
    ticks_from_usd,
    usd_from_ticks,
    usd_rounded,
    usd_string,
)

TICKS = st.integers(-MAX_TICKS, MAX_TICKS)


@given(TICKS)
def test_ticks_survive_the_way_to_usd_and_back(ticks: int) -> None:
    assert ticks_from_usd(usd_from_ticks(ticks)) == ticks
    assert ticks_from_usd(Decimal(usd_string(ticks))) == ticks


@given(TICKS)
def test_prices_per_million_tokens_survive_it_too(ticks: int) -> None:
    unit = TICKS_PER_TOKEN_AT_ONE_USD_PER_MILLION
    assert ticks_from_usd(Decimal(usd_string(ticks, unit)), unit) == ticks


@pytest.mark.parametrize(
    ("ticks", "text"),
    [
        (0, "0.00"),
        (5 * TICKS_PER_USD, "5.00"),
        (232_856_000, "0.0232856"),
        (1, "0.0000000001"),
        (-1, "-0.0000000001"),
        (15 * TICKS_PER_USD // 10, "1.50"),
        (1_000_000 * TICKS_PER_USD, "1000000.00"),
        (MAX_TICKS, "922337203.6854775807"),
    ],
)
def test_usd_is_written_plainly_with_two_decimals_at_least(ticks: int, text: str) -> None:
    assert usd_string(ticks) == text


@pytest.mark.parametrize(
    ("ticks", "text"),
    [
        (0, "0.00"),
        (12_345_675 * TICKS_PER_USD // 1000, "12,345.68"),
        (25 * TICKS_PER_USD // 1000, "0.02"),
        (35 * TICKS_PER_USD // 1000, "0.04"),
        (-1_000 * TICKS_PER_USD, "-1,000.00"),
    ],
)
def test_for_people_it_is_rounded_half_even(ticks: int, text: str) -> None:
    assert usd_rounded(ticks) == text


def test_one_usd_per_million_tokens_is_ten_thousand_ticks_a_token() -> None:
    assert ticks_from_usd(Decimal("1.25"), TICKS_PER_TOKEN_AT_ONE_USD_PER_MILLION) == 12_500


@pytest.mark.parametrize(
    ("usd", "why"),
    [
        ("NaN", "finite"),
        ("sNaN", "finite"),
        ("Infinity", "finite"),
        ("-Infinity", "finite"),
        ("0.00000000001", "multiple of 0.0000000001"),
        ("1.00000000005", "multiple of 0.0000000001"),
        ("922337203.6854775808", "out of range"),
        ("-922337203.6854775808", "out of range"),
        ("1E+999999", "out of range"),
        ("1E-999999", "out of range"),
    ],
)
def test_an_amount_that_is_no_whole_number_of_ticks_is_refused(usd: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        ticks_from_usd(Decimal(usd))


def test_a_zero_is_nothing_however_it_is_written() -> None:
    assert ticks_from_usd(Decimal("0E+5")) == ticks_from_usd(Decimal("-0.00")) == 0
