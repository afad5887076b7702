"""Invoices as files: whatever console wrote them, by line and column where they are not right."""

from datetime import date

import pytest
from django.core.exceptions import ValidationError
from hypothesis import given
from hypothesis import strategies as st

from spend.reconciliation.invoice_files import read_file
from spend.reconciliation.lines import Line, name_of
from tenants.money import TICKS_PER_USD, usd_string

pytestmark = pytest.mark.pure

THIRD = date(2026, 11, 3)


@pytest.mark.parametrize(
    "text",
    [
        "day,model,cost\n2026-11-03,grok-4.3,1.5\n",
        "\ufeffDate;Line Item;Amount\r\n2026-11-03;grok-4.3;1.50\r\n".lstrip("\ufeff"),
        "start_time,end_time,amount_value,amount_currency,line_item\n1793664000,1793750400,1.5,usd,grok-4.3\n",
        "start_time_iso\tmodel\tusd\n2026-11-03T23:59:59+00:00\tgrok-4.3\t$1.50\n\n",
        'day,model,cost,model\n2026-11-04T01:30:00+02:00,"not, this",1.5 USD,grok-4.3\n',
        "ChargePeriodStart,SkuId,BilledCost,BillingCurrency\n2026-11-03T00:00:00Z,grok-4.3,1.5000000000,USD\n",
    ],
    ids=["plain", "semicolons", "seconds", "tabs", "zones", "focus"],
)
def test_what_consoles_write_is_read(text: str) -> None:
    assert read_file(text) == [Line(THIRD, "grok-4.3", TICKS_PER_USD * 3 // 2)]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "The file is empty."),
        ("day,model\n2026-11-03,grok-4.3\n", "No column for the cost"),
        ("model,cost\ngrok-4.3,1\n", "No column for the day"),
        ("day,model,cost\n", "There is no line below the names of the columns."),
        ("day,model,cost\n3.11.2026,grok-4.3,1\n", "Line 2: '3.11.2026' is no day such as 2026-11-03."),
        ("day,model,cost\n2026-11-03,grok-4.3,1\n2026-11-03,a,one\n", "Line 3: 'one' is no amount such as 12.50."),
        ("day,model,cost\n2026-11-03,grok-4.3,NaN\n", "Line 2: 'NaN' is no amount"),
        ("day,model,cost\n2026-11-03,grok-4.3,1e400\n", "Line 2: '1e400' is no amount"),
        ("day,model,cost\n2026-11-03\n", "Line 2: has fewer columns than the first line."),
        ("day,model,cost,currency\n2026-11-03,a,1,EUR\n", "Line 2: is in 'eur', and the ledger is in USD."),
        ('day,model,cost\n"2026', "This is no CSV"),
    ],
)
def test_what_is_not_right_is_named(text: str, told: str) -> None:
    with pytest.raises(ValidationError) as refused:
        read_file(text)
    assert told in " ".join(refused.value.messages)


@given(st.lists(st.integers(-(10**15), 10**15), min_size=1, max_size=20))
def test_amounts_are_read_to_the_tick(amounts: list[int]) -> None:
    rows = "".join(f"2026-11-03,grok-4.3,{usd_string(ticks)}\n" for ticks in amounts)
    assert [line.cost_ticks for line in read_file(f"day,model,cost\n{rows}")] == amounts


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("gpt-6-luna", "gpt-6-luna"),
        ("GPT-6-Luna, cached input", "gpt-6-luna"),
        ("gpt-6-luna-2026-05-01, output", "gpt-6-luna"),
        ("gpt-6-luna-mini, input", "gpt-6-luna-mini, input"),
        ("gpt-6-luna  nano", "gpt-6-luna nano"),
        ("Web search", "Web search"),
    ],
)
def test_models_are_named_as_in_the_catalogue(words: str, name: str) -> None:
    assert name_of(words, ["gpt-6-luna nano", "gpt-6-luna", "gpt-6"]) == name
