"""TENANT_BUDGETS and DEFAULT_DAILY_BUDGET: read strictly, and what is wrong is named."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenants.configured import ConfiguredBudget, read_daily_budget, read_tenant_budgets
from tenants.money import TICKS_PER_USD, usd_string

CAPS = st.integers(1, 10_000).map(lambda part: Decimal(part) / 10_000)


def test_the_example_of_the_contract() -> None:
    assert read_tenant_budgets('{"acme-corp": {"dailyLimit": 10.00, "softCap": 0.8, "hardCap": 1.0}}') == {
        "acme-corp": ConfiguredBudget(10 * TICKS_PER_USD, Decimal("0.8"), Decimal(1))
    }


def test_what_is_left_out_is_the_default() -> None:
    assert read_tenant_budgets('{"a": {}, "b": {"dailyLimit": 1}}') == {
        "a": ConfiguredBudget(None, Decimal("0.8"), Decimal(1)),
        "b": ConfiguredBudget(TICKS_PER_USD, Decimal("0.8"), Decimal(1)),
    }
    assert read_tenant_budgets("{}") == {}


def test_a_hard_cap_below_the_default_soft_cap_brings_it_down() -> None:
    assert read_tenant_budgets('{"a": {"hardCap": 0.5}}')["a"].soft_cap == Decimal("0.5")


@given(st.integers(1, 10**18), CAPS, CAPS)
def test_amounts_and_caps_are_read_exactly(ticks: int, one: Decimal, other: Decimal) -> None:
    soft, hard = sorted([one, other])
    text = f'{{"a": {{"dailyLimit": {usd_string(ticks)}, "softCap": {soft:f}, "hardCap": {hard:f}}}}}'
    assert read_tenant_budgets(text) == {"a": ConfiguredBudget(ticks, soft, hard)}
    assert read_daily_budget(usd_string(ticks)) == ticks


@pytest.mark.parametrize(
    ("budget", "why"),
    [
        ('{"dailyLimit": 0}', "dailyLimit must be greater than 0"),
        ('{"dailyLimit": -1}', "dailyLimit must be greater than 0"),
        ('{"dailyLimit": "10"}', 'dailyLimit must be a number, not "10"'),
        ('{"dailyLimit": null}', "dailyLimit must be a number, not null"),
        ('{"dailyLimit": true}', "dailyLimit must be a number, not true"),
        ('{"dailyLimit": [1]}', "dailyLimit must be a number"),
        ('{"dailyLimit": 1e300}', "dailyLimit is out of range"),
        ('{"dailyLimit": NaN}', "dailyLimit must be a finite number"),
        ('{"dailyLimit": -Infinity}', "dailyLimit must be a finite number"),
        ('{"dailyLimit": 1e99999999999999999999}', "dailyLimit must be a finite number"),
        ('{"softCap": NaN}', "softCap must be a finite number"),
        ('{"softCap": 1e-9999999}', "softCap has more than 4 decimals"),
        ('{"softCap": 0.5, "softCap": 0.6}', "softCap appears twice"),
        ('{"dailyLimit": 0.00000000001}', "dailyLimit must be a multiple of 0.0000000001"),
        ('{"softCap": 0}', "softCap 0 and hardCap 1"),
        ('{"softCap": 0.9, "hardCap": 0.8}', "softCap 0.9 and hardCap 0.8"),
        ('{"hardCap": 1.01}', "hardCap 1.01"),
        ('{"softCap": -0.5}', "softCap -0.5"),
        ('{"softCap": 0.12345}', "softCap has more than 4 decimals"),
        ('{"dailylimit": 10}', "dailylimit is not a setting of a budget"),
        ("10", "must be an object"),
        ("null", "must be an object"),
    ],
)
def test_a_bad_budget_is_named_with_its_tenant(budget: str, why: str) -> None:
    with pytest.raises(ValueError, match=r"^acme: ") as raised:
        read_tenant_budgets(f'{{"fine": {{}}, "acme": {budget}}}')
    assert why in str(raised.value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "Expecting value"),
        ("{", "Expecting"),
        ("[]", "must be a JSON object"),
        ("null", "must be a JSON object"),
        ("NaN", "must be a JSON object"),
        ("1e99999999999999999999", "must be a JSON object"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": {}, "a": {}}', "a appears twice"),
        ('{"acme corp": {}}', "'acme corp' is no tenant id"),
        ('{"": {}}', "'' is no tenant id"),
        ('{"a\\n": {}}', "is no tenant id"),
        (f'{{"{"a" * 65}": {{}}}}', "is no tenant id"),
    ],
)
def test_what_is_no_object_of_budgets_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        read_tenant_budgets(text)


@pytest.mark.parametrize("text", ["", "five", "NaN", "Infinity", "0", "-1", "5.00 USD", "1e300", "0.00000000001"])
def test_a_bad_default_budget_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be|is out of range"):
        read_daily_budget(text)
