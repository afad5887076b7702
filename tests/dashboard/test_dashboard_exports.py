"""Exports: every row, exactly, streamed, and harmless in a spreadsheet; and the FOCUS dataset by its rules."""

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from io import StringIO
from typing import Any
from unicodedata import normalize

import pytest
from asgiref.sync import sync_to_async
from django.db import connections
from django.http import StreamingHttpResponse
from django.test import AsyncClient, AsyncRequestFactory, Client, RequestFactory
from django.urls import reverse
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from dashboard.date_spans import spans_at
from dashboard.exports.csv_response import BYTE_ORDER_MARK, ROWS_AT_ONCE, cell_of, csv_response
from dashboard.exports.focus_export import COLUMNS
from dashboard.page_reports import tenant_report
from spend.budgets.usage import MOST_TEMPLATE_WINDOWS
from spend.models import Call, LedgerEntry, Window
from tenants.models import Scope, Tenant
from tenants.money import TICKS_PER_USD
from tenants.periods import Period, bounds
from tests.factories import (
    ApiKeyFactory,
    BudgetFactory,
    CatalogueModelFactory,
    PriceFactory,
    PriceTierFactory,
    TenantFactory,
    UserFactory,
)
from tests.support.history import made_history, place_call

pytestmark = pytest.mark.django_db

MONTH = "2026-03"
AT = datetime(2026, 3, 15, 12, tzinfo=UTC)


@pytest.fixture
def staff() -> Client:
    client = Client()
    client.force_login(UserFactory.create(is_staff=True, password=None))
    return client


def export(client: Client, name: str, *args: Any, **parameters: str) -> list[dict[str, str]]:
    response = client.get(reverse(name, args=args), parameters)
    assert response.status_code == 200
    assert response["Content-Type"] == "text/csv; charset=utf-8"
    assert response["Content-Disposition"].startswith("attachment;")
    text = response.getvalue().decode()
    assert text.startswith(BYTE_ORDER_MARK) == (name != "focus_csv")
    return list(csv.DictReader(StringIO(text.removeprefix(BYTE_ORDER_MARK))))


def ticks(usd: str) -> int:
    return int(Decimal(usd) * TICKS_PER_USD)


def test_every_export_has_every_row_to_the_tick(staff: Client) -> None:
    tenant = made_history(entries=700, tenants=1, days=28, now=datetime(2026, 3, 29, tzinfo=UTC))[0]
    shop, entries = tenant.id, list(LedgerEntry.objects.order_by("at", "pk"))
    total = sum(entry.cost_ticks for entry in entries)

    calls = export(staff, "calls_csv", shop)
    newest_first = Call.objects.order_by("-at", "-id")
    assert [row["requestId"] for row in calls] == list(newest_first.values_list("request_id", flat=True))
    assert sum(ticks(row["costUsd"]) for row in calls) == total

    ledger = export(staff, "entries_csv", shop, month=MONTH)
    assert [row["callId"] for row in ledger] == [str(entry.call_id) for entry in entries]
    assert [ticks(row["costUsd"]) for row in ledger] == [entry.cost_ticks for entry in entries]

    days = export(staff, "days_csv", shop, month=MONTH)
    assert sum(ticks(row["costUsd"]) for row in days) == total
    assert sum(int(row["inputTokens"]) for row in days) == sum(entry.input_tokens for entry in entries)

    for kind in ("customer", "conversation"):
        costs = Counter[str]()
        for entry in entries:
            costs[getattr(entry, kind)] += entry.cost_ticks
        rows = export(staff, "subjects_csv", shop, kind, month=MONTH)
        assert {row[kind]: ticks(row["costUsd"]) for row in rows} == dict(costs)


def test_todays_hours_are_exported(staff: Client) -> None:
    tenant = TenantFactory.create(time_zone="Asia/Kolkata")
    key, midnight = (
        ApiKeyFactory.create(tenant=tenant),
        spans_at(timezone.now(), tenant.zone)["today"].starts_at,
    )
    for minutes, model, cost in ((-1, "a", 1), (0, "a", 2), (45, "a", 3), (59, "b", 4), (60, "a", 5)):
        place_call(tenant, key, midnight + timedelta(minutes=minutes), model=model, cost_ticks=cost)
    rows = export(staff, "hours_csv", tenant.id)
    assert [(row["hour"][11:], row["model"], ticks(row["costUsd"])) for row in rows] == [
        ("00:00:00+05:30", "a", 5), ("00:00:00+05:30", "b", 4), ("01:00:00+05:30", "a", 5),
    ]  # fmt: skip


def test_every_budget_is_exported_not_only_those_that_are_shown(staff: Client) -> None:
    tenant, now = TenantFactory.create(id="shop"), timezone.now()
    key = ApiKeyFactory.create(tenant=tenant)
    for scope in (Scope.TENANT, Scope.CUSTOMER, Scope.KEY):
        BudgetFactory.create(tenant=tenant, scope=scope, limit_ticks=2 * TICKS_PER_USD)
    starts_at = bounds(Period.DAY, tenant.zone, now).starts_at
    subjects = [(Scope.KEY, str(key.pk)), *((Scope.CUSTOMER, f"c{n}") for n in range(MOST_TEMPLATE_WINDOWS + 1))]
    Window.objects.bulk_create(
        Window(
            tenant_id="shop", scope=scope, subject=subject, period=Period.DAY, starts_at=starts_at,
            ends_at=starts_at + timedelta(days=1), spent_ticks=2 * TICKS_PER_USD - index, held_ticks=index // 3,
        )
        for index, (scope, subject) in enumerate(subjects)
    )  # fmt: skip
    own, *others = export(staff, "budgets_csv", "shop")
    assert (own["scope"], own["limitUsd"], own["spentUsd"], own["state"]) == ("tenant", "2", "0", "active")
    assert [(row["scope"], row["scopeId"]) for row in others] == [(str(scope), subject) for scope, subject in subjects]
    assert others[0]["keyName"] == str(key)
    assert (others[0]["remainingUsd"], others[0]["state"]) == ("0", "stopped")
    assert (ticks(others[4]["spentUsd"]), ticks(others[4]["heldUsd"])) == (2 * TICKS_PER_USD - 4, 1)


def test_savings_are_exported_as_they_are_shown(staff: Client) -> None:
    tenant = made_history(entries=300, tenants=1, now=timezone.now())[0]
    shown = tenant_report(tenant, spans_at(timezone.now(), tenant.zone)["90"], timezone.now()).savings
    rows = export(staff, "savings_csv", tenant.id, span="90")
    assert sum(ticks(row["savedUsd"]) for row in rows) == shown.saved_ticks > 0
    assert sum(int(row["answers"]) for row in rows) == shown.attempts
    assert all(ticks(row["wouldHaveCostUsd"]) - ticks(row["costUsd"]) == ticks(row["savedUsd"]) for row in rows)


def test_the_calls_are_exported_as_filtered(staff: Client) -> None:
    tenant = made_history(entries=300, tenants=1)[0]
    rows = export(staff, "calls_csv", tenant.id, route="downgrade")
    assert {row["route"] for row in rows} == {"downgrade"}
    assert len(rows) == Call.objects.filter(route="downgrade").count()


def test_the_overview_is_exported_with_all_its_tenants(staff: Client) -> None:
    for number in range(60):
        TenantFactory.create(id=f"many-{number}")
    rows = export(staff, "overview_csv")
    assert {row["tenantId"] for row in rows} == set(Tenant.objects.values_list("id", flat=True))
    assert {row["limitUsd"] for row in rows} == {"5"}
    assert {row["tokensToday"] for row in rows} == {"0"}


EVIL = [
    "=1+1", "+1", "-1+cmd|' /C calc'!A0", "@SUM(A1)", "  =1", "\uff1d1", "\uff0b1", "\uff0d1", "\uff20SUM(A1)",
    "\u22121", "\u00a0=1",
]  # fmt: skip


@pytest.mark.parametrize("evil", EVIL)
def test_a_text_that_a_spreadsheet_would_run_is_defused(staff: Client, evil: str) -> None:
    tenant = TenantFactory.create(id="shop", name=evil)
    at = datetime.now(UTC)
    place_call(tenant, ApiKeyFactory.create(tenant=tenant), at, customer=evil, conversation=evil, cost_ticks=1)
    this_month = f"{at:%Y-%m}"
    exports = [
        export(staff, "overview_csv"), export(staff, "calls_csv", "shop"),
        export(staff, "entries_csv", "shop", month=this_month), export(staff, "subjects_csv", "shop", "customer"),
        export(staff, "subjects_csv", "shop", "conversation"),
    ]  # fmt: skip
    for rows in exports:
        texts = [cell for row in rows for cell in row.values()]
        assert f"'{evil}" in texts
        assert evil not in texts
    machines = export(staff, "focus_csv", "shop", month=this_month)
    assert {row["BillingAccountName"] for row in machines} == {evil}


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("\t=1", "'\t'=1"), ("\r=1", "'\r'=1"), ("\n", "'\n"), ("a;=1", "a;'=1"), ("a; \uff1d1", "a;' \uff1d1"),
        ('a;"=1', 'a;"\'=1'), ("a\n+1", "a\n'+1"), ("a;\t@1", "a;\t'@1"), ("a-1", "a-1"), ("a, -1", "a, -1"), ("", ""),
        ("ann=bob@example.com;c", "ann=bob@example.com;c"), (-1, -1), (None, None),
    ],
)  # fmt: skip
def test_only_where_a_cell_may_begin_a_text_is_changed(text: Any, cell: Any) -> None:
    assert cell_of(text) == cell


PIECES = st.text(st.sampled_from([*"=+-@＝＋－＠﹢⁻;,\"' \t\r\nab1", "\u00a0"]))


@given(st.lists(PIECES, min_size=1, max_size=4))
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_no_cell_is_a_formula_however_a_spreadsheet_splits_it(delimiter: str, texts: list[str]) -> None:
    response = csv_response(RequestFactory().get("/"), "x.csv", ["a"], [texts])
    content = response.getvalue().decode()
    for row in csv.reader(StringIO(content, newline=""), delimiter=delimiter):
        for cell in row:
            first = normalize("NFKC", cell.removeprefix(BYTE_ORDER_MARK).strip())[:1]
            assert first not in {"=", "+", "-", "@", "\u2212"}, content


def counting(numbers: list[int]) -> Iterator[list[int]]:
    for number in range(100_000):
        numbers.append(number)
        yield [number]


def test_rows_are_made_as_they_are_sent() -> None:
    made: list[int] = []
    response = csv_response(RequestFactory().get("/"), "x.csv", ["number"], counting(made))
    parts = iter(response)
    assert made == []
    next(parts)
    assert len(made) <= ROWS_AT_ONCE
    next(parts)
    assert len(made) <= 2 * ROWS_AT_ONCE


async def test_rows_are_made_as_they_are_sent_by_an_asynchronous_server_too() -> None:
    made: list[int] = []
    response = csv_response(AsyncRequestFactory().get("/"), "x.csv", ["number"], counting(made))
    assert isinstance(response, StreamingHttpResponse)
    assert response.is_async
    sent = 0
    async for _ in response:
        sent += 1
        assert len(made) <= sent * ROWS_AT_ONCE
        if sent == 3:
            break


@pytest.mark.django_db(transaction=True)
async def test_an_export_is_the_same_from_an_asynchronous_server() -> None:
    tenant = (await sync_to_async(made_history)(entries=50, tenants=1))[0]
    user = await sync_to_async(UserFactory.create)(is_staff=True, password=None)
    sync_client, client = Client(), AsyncClient()
    await sync_to_async(sync_client.force_login)(user)
    await client.aforce_login(user)
    address = reverse("calls_csv", args=[tenant.id])
    response: Any = await client.get(address)
    body = b"".join([part async for part in response])
    assert body == await sync_to_async(lambda: sync_client.get(address).getvalue())()
    assert body.count(b"\n") == 1 + await Call.objects.acount()
    await sync_to_async(connections.close_all)()  # the other thread's own


# FOCUS 1.3

MANDATORY = {
    "BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodEnd", "BillingPeriodStart",
    "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargePeriodEnd", "ChargePeriodStart", "ContractedCost",
    "EffectiveCost", "HostProviderName", "InvoiceIssuerName", "ListCost", "PricingQuantity", "PricingUnit",
    "ProviderName", "PublisherName", "ServiceCategory", "ServiceName", "ServiceProviderName",
}  # fmt: skip
CONDITIONAL = {
    "ConsumedQuantity", "ConsumedUnit", "ListUnitPrice", "SkuId", "SkuMeter", "SkuPriceDetails", "SkuPriceId"
}  # fmt: skip
"""Mandatory where usage is measured and unit prices are published, as they are here."""
RECOMMENDED = {"ChargeFrequency", "InvoiceId", "PricingCategory", "ServiceSubcategory"}
MAY_BE_NULL = {"ChargeClass", "PricingQuantity", "PricingUnit"}
"""Of the mandatory ones; the first always here, the others in an adjustment only."""
DATES = {"BillingPeriodEnd", "BillingPeriodStart", "ChargePeriodEnd", "ChargePeriodStart"}
OF_USAGE = CONDITIONAL | {"PricingCategory", "PricingQuantity", "PricingUnit"}
DECIMALS = {"BilledCost", "ContractedCost", "EffectiveCost", "ListCost"}


def check_focus(row: dict[str, str]) -> None:
    """The specification's rules for one row."""
    is_usage = row["ChargeCategory"] == "Usage"
    assert row["ChargeCategory"] in {"Usage", "Adjustment"}
    assert row["ChargeClass"] == row["InvoiceId"] == ""
    assert row["ChargeFrequency"] == "Usage-Based"
    assert row["BillingCurrency"] == "USD"
    assert (row["ServiceCategory"], row["ServiceSubcategory"]) == ("AI and Machine Learning", "Generative AI")
    assert all(row[name] for name in MANDATORY - MAY_BE_NULL)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", row[name]) for name in DATES)
    assert row["BillingPeriodStart"] <= row["ChargePeriodStart"] < row["ChargePeriodEnd"] <= row["BillingPeriodEnd"]
    assert all(re.fullmatch(r"-?\d+(\.\d+)?", row[name]) for name in DECIMALS)
    assert all(bool(row[name]) == is_usage for name in OF_USAGE)
    if is_usage:
        assert Decimal(row["ListUnitPrice"]) * Decimal(row["PricingQuantity"]) == Decimal(row["ListCost"])
        assert Decimal(row["PricingQuantity"]) * 10**6 == Decimal(row["ConsumedQuantity"])
        units = (row["PricingCategory"], row["PricingUnit"], row["ConsumedUnit"])
        assert units == ("Standard", "1000000 Tokens", "Tokens")
        assert row["SkuPriceId"].startswith(f"{row['SkuId']}/")
        assert all(name.startswith("x_") for name in json.loads(row["SkuPriceDetails"]))
    else:
        assert row["ListCost"] == row["ContractedCost"] == row["BilledCost"]


def test_a_focus_dataset_keeps_the_rules_and_sums_to_the_ledger(staff: Client) -> None:
    tenants = made_history(entries=500, tenants=2, days=28, now=datetime(2026, 3, 29, tzinfo=UTC))
    assert set(COLUMNS) == MANDATORY | CONDITIONAL | RECOMMENDED | {"Tags", "x_Model"}
    for tenant in tenants:
        rows = export(staff, "focus_csv", tenant.id, month=MONTH)
        assert list(rows[0]) == COLUMNS
        for row in rows:
            check_focus(row)
        entries = LedgerEntry.objects.filter(tenant=tenant)
        of_march = [entry for entry in entries if entry.at.astimezone(tenant.zone).month == 3]
        assert sum(ticks(row["BilledCost"]) for row in rows) == sum(entry.cost_ticks for entry in of_march)
        tokens = sum(entry.input_tokens + entry.output_tokens for entry in of_march)
        assert sum(int(row["ConsumedQuantity"] or 0) for row in rows) == tokens


def focus_of(client: Client, **facts: Any) -> list[dict[str, str]]:
    """The dataset of one call at 12,500 ticks a token, and 50,000 above 1,000 tokens of input."""
    tenant = TenantFactory.create(id="shop", time_zone="Europe/Berlin")
    price = CatalogueModelFactory.create(id="grok-4.3").prices.get()
    rates = dict.fromkeys(["input_ticks", "cached_input_ticks", "output_ticks"], 50_000)
    PriceTierFactory.create(price=price, above_tokens=1000, **rates)
    place_call(tenant, ApiKeyFactory.create(tenant=tenant), AT, price_id=price.pk, **facts)
    rows = export(client, "focus_csv", "shop", month=MONTH)
    for row in rows:
        check_focus(row)
    return rows


def test_a_bill_other_than_the_list_price_is_adjusted_for(staff: Client) -> None:
    rows = focus_of(staff, input_tokens=100, cached_input_tokens=40, output_tokens=10, cost_ticks=1)
    by_meter = {row["SkuMeter"]: row for row in rows}
    assert by_meter["Input Tokens"]["ListCost"] == f"{Decimal(60 * 12_500) / TICKS_PER_USD:f}"
    assert by_meter["Cached Input Tokens"]["PricingQuantity"] == "0.00004"
    assert by_meter["Output Tokens"]["ListUnitPrice"] == "2.5"
    assert by_meter[""]["ChargeCategory"] == "Adjustment"
    assert by_meter[""]["BilledCost"].startswith("-0.")
    assert sum(ticks(row["BilledCost"]) for row in rows) == 1


@pytest.mark.parametrize(("tokens", "unit_ticks"), [(1000, 12_500), (1001, 50_000)])
def test_a_tier_has_a_price_of_its_own(staff: Client, tokens: int, unit_ticks: int) -> None:
    (row,) = focus_of(staff, input_tokens=tokens, cost_ticks=tokens * unit_ticks)
    assert ticks(row["ListUnitPrice"]) == unit_ticks * 10**6
    above = "0" if tokens == 1000 else "1000"
    assert row["SkuPriceId"].endswith(f"/{above}")
    assert json.loads(row["SkuPriceDetails"]) == {"x_AboveInputTokens": above}


def test_a_price_that_changes_keeps_its_id(staff: Client) -> None:
    tenant, model = TenantFactory.create(id="shop"), CatalogueModelFactory.create(id="grok-4.3")
    later = PriceFactory.create(model=model, starts_at=AT, tier__input_ticks=25_000)
    key = ApiKeyFactory.create(tenant=tenant)
    for price in (model.prices.exclude(pk=later.pk).get(), later):
        place_call(tenant, key, AT, price_id=price.pk, input_tokens=100, cost_ticks=0)
    rows = [row for row in export(staff, "focus_csv", "shop", month=MONTH) if row["SkuId"]]
    assert {row["SkuPriceId"] for row in rows} == {"xai/grok-4.3/Input Tokens/0"}
    assert {row["ListUnitPrice"] for row in rows} == {"1.25", "2.5"}


def test_what_was_billed_without_usage_is_an_adjustment(staff: Client) -> None:
    (row,) = focus_of(staff, cost_ticks=777, is_estimated=True)
    assert (row["ChargeCategory"], ticks(row["BilledCost"])) == ("Adjustment", 777)


def test_periods_are_the_tenants_own_in_utc(staff: Client) -> None:
    (row,) = focus_of(staff, cost_ticks=777)
    assert row["BillingPeriodStart"] == "2026-02-28T23:00:00Z"
    assert row["BillingPeriodEnd"] == "2026-03-31T22:00:00Z"
    assert row["ChargePeriodStart"] == "2026-03-14T23:00:00Z"
    assert row["ChargePeriodEnd"] == "2026-03-15T23:00:00Z"


def test_a_month_without_calls_is_a_header_alone(staff: Client) -> None:
    TenantFactory.create(id="shop")
    body = staff.get(reverse("focus_csv", args=["shop"]), {"month": MONTH}).getvalue().decode()
    assert body.strip().split(",") == COLUMNS
