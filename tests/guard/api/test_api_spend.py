"""GET /api/spend."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from spend.models import Call, LedgerEntry, Outcome, Rollup
from spend.summaries import reports
from tenants.models import Tenant
from tenants.money import TICKS_PER_USD
from tests.factories import TenantFactory
from tests.support.api import Api, agent, operator

pytestmark = pytest.mark.django_db


@pytest.fixture
def tenant() -> Tenant:
    return TenantFactory.create(id="acme", time_zone="Europe/Berlin")


@pytest.fixture
def api() -> Api:
    return operator()


def happen(
    tenant: Tenant, at: str, model: str = "grok", customer: str = "", cents: int = 1, served: bool = True
) -> None:
    """One attempt that was billed, and its call, as `spend.ledger.posting` writes them."""
    instant = datetime.fromisoformat(at).astimezone(UTC)
    ticks = cents * TICKS_PER_USD // 100
    shared: dict[str, Any] = {
        "call_id": uuid4(), "tenant": tenant, "key_id": 1, "customer": customer, "conversation": f"about {customer}",
        "requested_model": model,
    }  # fmt: skip
    LedgerEntry.objects.bulk_create([
        LedgerEntry(
            **shared, reservation_id=uuid4(), model=model, at=instant, cost_ticks=ticks, hold_ticks=ticks,
            input_tokens=100, output_tokens=10, price_id=1, route="primary",
        )
    ])  # fmt: skip
    call = {name: value for name, value in shared.items() if name != "call_id"}
    outcome = Outcome.SERVED if served else Outcome.FAILED
    Call.objects.bulk_create(
        [
            Call(
                id=shared["call_id"],
                **call,
                at=instant,
                model=model if served else "",
                outcome=outcome,
                cost_ticks=ticks,
            )
        ]
    )
    bucket = instant.replace(minute=instant.minute // 15 * 15, second=0, microsecond=0)
    rollup, _ = Rollup.objects.get_or_create(tenant=tenant, bucket=bucket, model=model, route="primary")
    rollup.attempts += 1
    rollup.cost_ticks += ticks
    rollup.input_tokens += 100
    rollup.output_tokens += 10
    rollup.served += served
    rollup.save()


@pytest.fixture(autouse=True)
def _history(tenant: Tenant) -> Iterator[None]:
    happen(tenant, "2026-03-01T10:07:00+01:00", customer="jo", cents=5)
    happen(tenant, "2026-03-01T23:59:59+01:00", "luna", customer="al", cents=2)
    happen(tenant, "2026-03-02T00:00:00+01:00", customer="jo", cents=3)
    happen(tenant, "2026-03-02T12:00:00+01:00", cents=4, served=False)
    happen(TenantFactory.create(id="other"), "2026-03-01T23:30:00+00:00", customer="jo", cents=100)
    yield  # noqa: PT022


TOTALS = {
    "totalCost": "0.14",
    "totalInputTokens": 400,
    "totalOutputTokens": 40,
    "totalCalls": 3,
    "modelsUsed": {"grok": 2, "luna": 1},
    "groupsOmitted": 0,
}


def test_an_agent_sees_its_tenants(tenant: Tenant) -> None:
    for query in ({}, {"tenantId": "acme"}):
        assert agent(tenant).get("/api/spend", query).json() == {**TOTALS, "groups": []}


@pytest.mark.parametrize("other", ["other", "nobody"])
def test_an_agent_sees_no_other_tenants(tenant: Tenant, other: str) -> None:
    answer = agent(tenant).get("/api/spend", {"tenantId": other})
    assert answer.status_code == 403
    assert "totalCost" not in answer.text


def test_an_operator_sees_all_or_one(api: Api) -> None:
    assert api.get("/api/spend").json()["totalCost"] == "1.14"
    assert api.get("/api/spend", {"tenantId": "acme"}).json() == {**TOTALS, "groups": []}
    assert api.get("/api/spend", {"tenantId": "nobody"}).status_code == 404


def test_what_is_left_empty_is_not_asked_for(api: Api, tenant: Tenant) -> None:
    empty = "/api/spend?tenantId=&from=&to=&groupBy="
    assert agent(tenant).get(empty).json() == {**TOTALS, "groups": []}
    assert api.get(empty).json()["totalCost"] == "1.14"
    assert api.get("/api/spend?tenantId=acme&from=2026-03-02&to=&groupBy=").json()["totalCost"] == "0.07"


def groups(answer: Any) -> dict[str, tuple[str, int]]:
    return {each["group"]: (each["totalCost"], each["totalCalls"]) for each in answer.json()["groups"]}


def test_by_day_in_the_tenants_zone(api: Api) -> None:
    answer = api.get("/api/spend", {"tenantId": "acme", "groupBy": "day"})
    assert answer.json()["groups"] == [
        {"group": "2026-03-01", "totalCost": "0.07", "totalInputTokens": 200, "totalOutputTokens": 20, "totalCalls": 2},
        {"group": "2026-03-02", "totalCost": "0.07", "totalInputTokens": 200, "totalOutputTokens": 20, "totalCalls": 1},
    ]
    # Of all tenants together in UTC.
    assert groups(api.get("/api/spend", {"groupBy": "day"})) == {"2026-03-01": ("1.10", 4), "2026-03-02": ("0.04", 0)}


def test_by_model(api: Api) -> None:
    answer = api.get("/api/spend", {"tenantId": "acme", "groupBy": "model"})
    assert groups(answer) == {"grok": ("0.12", 2), "luna": ("0.02", 1)}


def test_by_customer_and_conversation(api: Api) -> None:
    answer = api.get("/api/spend", {"tenantId": "acme", "groupBy": "customer"})
    assert groups(answer) == {"jo": ("0.08", 2), None: ("0.04", 0), "al": ("0.02", 1)}
    answer = api.get("/api/spend", {"tenantId": "acme", "groupBy": "conversation"})
    assert groups(answer)["about jo"] == ("0.08", 2)


def test_customers_of_two_tenants_with_one_name_stay_two(api: Api) -> None:
    listed = api.get("/api/spend", {"groupBy": "customer"}).json()["groups"]
    assert [(each["tenantId"], each["group"], each["totalCost"]) for each in listed][:2] == [
        ("other", "jo", "1.00"),
        ("acme", "jo", "0.08"),
    ]


@pytest.mark.parametrize(
    ("bounds", "cost"),
    [
        ({"from": "2026-03-01", "to": "2026-03-01"}, "0.07"),
        ({"from": "2026-03-02"}, "0.07"),
        ({"to": "2026-03-01"}, "0.07"),
        ({"from": "2026-03-01T23:00:00Z"}, "0.07"),
        ({"from": "2026-03-02T00:00:00+01:00", "to": "2026-03-02T00:00:00.000001+01:00"}, "0.03"),
        ({"from": "2026-03-01T10:07:00.000001+01:00", "to": "2026-03-01"}, "0.02"),
        ({"from": "2026-03-01T10:07:00+01:00", "to": "2026-03-01T10:08:00+01:00"}, "0.05"),
        ({"from": "2026-03-01T10:00:00Z", "to": "2026-03-01T10:00:00Z"}, "0.00"),
        ({"to": "1999-12-31"}, "0.00"),
    ],
)
@pytest.mark.parametrize("group_by", ["day", "model", "customer", "conversation"])
def test_a_span_is_exact_however_it_is_grouped(api: Api, bounds: dict[str, str], cost: str, group_by: str) -> None:
    body = api.get("/api/spend", {"tenantId": "acme", "groupBy": group_by, **bounds}).json()
    assert body["totalCost"] == cost
    for name in ("totalInputTokens", "totalOutputTokens", "totalCalls"):
        assert body[name] == sum(each[name] for each in body["groups"])
    assert body["totalCalls"] == sum(body["modelsUsed"].values())


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("from=yesterday", "from"),
        ("from=2026-03-01T00:00:00", "from"),
        ("from=2026-03-01T00:00:00+01:00", "from"),  # a plus that was not escaped is a space
        ("from=2026-13-01", "from"),
        ("from=0001-01-01", "from"),
        ("to=9999-12-31", "to"),
        ("to=0000-00-00", "to"),
        ("from=2026-03-02&to=2026-03-01", "to"),
        ("from=2026-03-02T00:00:00Z&to=2026-03-02T00:59:59%2B01:00", "to"),
        ("groupBy=week", "groupBy"),
        ("groupby=day", "groupby"),
        ("groupBy=day&groupBy=model", "groupBy"),
        ("tenantId=%00", "tenantId"),
    ],
)
def test_a_bad_query_is_refused(api: Api, query: str, param: str) -> None:
    answer = api.get(f"/api/spend?tenantId=acme&{query}" if "tenantId" not in query else f"/api/spend?{query}")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text


def test_a_tenant_that_hides_money_shows_calls_and_tokens_only(api: Api, tenant: Tenant) -> None:
    tenant.hide_money = True
    tenant.save()
    answer = agent(tenant).get("/api/spend", {"groupBy": "customer"})
    assert "cost" not in answer.text.lower()
    assert answer.json()["totalCalls"] == 3
    assert api.get("/api/spend", {"tenantId": "acme"}).json()["totalCost"] == "0.14"


def test_the_dearest_groups_are_shown_and_the_rest_counted(
    api: Api, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "MOST_GROUPS", 2)
    body = api.get("/api/spend", {"tenantId": "acme", "groupBy": "customer"}).json()
    assert ([each["group"] for each in body["groups"]], body["groupsOmitted"]) == (["jo", None], 1)
