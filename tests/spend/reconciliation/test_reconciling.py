"""The books beside what providers bill: asked, compared, explained, and told once."""

import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
import responses
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from spend.alerts.channels import body_of
from spend.models import Alert, Delivery, InvoicedDay, LedgerDay, Rollup
from spend.reconciliation.differences import Compared, days_compared
from spend.reconciliation.reconciling import compare, reconcile
from tenants.access.roles import role
from tenants.models import AlertChannel
from tenants.money import TICKS_PER_USD
from tests.factories import ApiKeyFactory, CatalogueModelFactory, UserFactory

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 11, 10, 12, tzinfo=UTC)
DAY = date(2026, 11, 3)
OPENAI, XAI = "https://api.openai.test/v1", "https://management-api.x.test/v1"
CENT = TICKS_PER_USD // 100


@pytest.fixture
def ledger() -> Callable[..., None]:
    """Writes what a model cost on the day, in two quarters of an hour and of two tenants."""
    model = CatalogueModelFactory.create(id="luna", upstream_name="gpt-6-luna", provider="openai")

    def write(cost_ticks: int, attempts: int = 2) -> None:
        for hour, share in ((0, cost_ticks // 2), (23, cost_ticks - cost_ticks // 2)):
            at = datetime(DAY.year, DAY.month, DAY.day, hour, 45, tzinfo=UTC)
            key = ApiKeyFactory.create()
            Rollup.objects.create(
                tenant=key.tenant, bucket=at, model=model.id, attempts=attempts // 2, cost_ticks=share
            )

    return write


def invoiced(cost_ticks: int, day: date = DAY, model: str = "gpt-6-luna") -> None:
    InvoicedDay.objects.create(
        provider="openai", day=day, model=model, cost_ticks=cost_ticks, source="file", taken_at=NOW
    )


@responses.activate
def test_openai_is_asked_page_by_page(settings: Any, ledger: Callable[..., None]) -> None:
    settings.OPENAI_ADMIN_KEY, settings.OPENAI_COSTS_URL = "sk-admin-secret", OPENAI
    settings.OPENAI_PROJECT_IDS = ["proj_1", "proj_2"]
    ledger(3 * TICKS_PER_USD)
    start = int(datetime(2026, 11, 3, tzinfo=UTC).timestamp())
    pages = [
        [{"amount": {"value": 1.1, "currency": "usd"}, "line_item": "gpt-6-luna-2026-05-01, input"}],
        [
            {"amount": {"value": "1.90000000004", "currency": "usd"}, "line_item": "gpt-6-luna-2026-05-01, output"},
            {"amount": {"value": 0.25, "currency": "usd"}, "line_item": "web search"},
        ],
    ]
    for number, results in enumerate(pages):
        page = {"data": [{"start_time": start, "results": results}], "has_more": number == 0, "next_page": "two"}
        responses.get(f"{OPENAI}/organization/costs", json=page)
    assert reconcile(NOW) == ["openai: 3 lines"]
    first, second = (call.request for call in responses.calls)
    assert first.headers["Authorization"] == "Bearer sk-admin-secret"
    assert "group_by=line_item" in str(first.url)
    assert "project_ids=proj_1&project_ids=proj_2" in str(first.url)
    assert "page=two" in str(second.url)
    assert dict(InvoicedDay.objects.values_list("model", "cost_ticks")) == {
        "gpt-6-luna": 3 * TICKS_PER_USD,
        "web search": TICKS_PER_USD // 4,
    }
    (day,) = days_compared(DAY, DAY)
    assert [(model.model, model.why(NOW.date())) for model in day.models] == [
        ("gpt-6-luna", ""),
        ("web search", "No call of the guard's: another key of that account."),
    ]


@responses.activate
def test_xai_is_asked_and_what_it_says_takes_the_place_of_what_it_said(settings: Any) -> None:
    settings.XAI_MANAGEMENT_KEY, settings.XAI_TEAM_ID, settings.XAI_MANAGEMENT_URL = "xai-secret", "team-1", XAI
    for dollars in (0.5, 0.75):
        point = {"timestamp": "2026-11-03T00:00:00Z", "values": [dollars]}
        series = {"group": ["grok-4.3"], "groupLabels": ["grok-4.3"], "dataPoints": [point]}
        responses.post(f"{XAI}/billing/teams/team-1/usage", json={"timeSeries": [series], "limitReached": False})
        assert reconcile(NOW) == ["xai: 1 lines"]
    assert responses.calls[0].request.headers["Authorization"] == "Bearer xai-secret"
    asked = json.loads(responses.calls[0].request.body or "")["analyticsRequest"]
    assert asked["timeRange"] == {
        "startTime": "2026-11-03 00:00:00",
        "endTime": "2026-11-10 23:59:59",
        "timezone": "Etc/GMT",
    }
    assert InvoicedDay.objects.get().cost_ticks == 3 * TICKS_PER_USD // 4


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"status": 401}, "it refuses the key for administration (401)"),
        ({"status": 500}, "it answered 500"),
        ({"status": 302, "headers": {"Location": "https://elsewhere.test"}}, "it answered 302"),
        ({"json": {"data": [{"start_time": 0, "results": [{}]}]}}, "another shape than is known (KeyError)"),
        ({"body": "<html>"}, "another shape than is known (JSONDecodeError)"),
        ({"json": {"data": [], "has_more": True, "next_page": "x"}}, "the report has no end"),
    ],
)
@responses.activate
def test_a_report_that_cannot_be_had_changes_nothing(
    settings: Any, answer: dict[str, Any], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings.OPENAI_ADMIN_KEY, settings.OPENAI_COSTS_URL = "sk-admin-secret", OPENAI
    invoiced(5 * CENT)
    responses.get(f"{OPENAI}/organization/costs", **answer)
    (told,) = reconcile(NOW)
    assert said in told
    assert InvoicedDay.objects.get().cost_ticks == 5 * CENT
    assert "sk-admin-secret" not in caplog.text


def test_what_differs_is_told_once(ledger: Callable[..., None]) -> None:
    AlertChannel.objects.create(target="olga@example.com")
    ledger(20 * TICKS_PER_USD)
    invoiced(18 * TICKS_PER_USD)
    (alert,) = compare(NOW)
    assert body_of(alert)["message"].startswith(
        "The bill and the ledger differ: openai 2026-11-03. "
        "The provider bills 18.0000 USD for that day, in UTC; the ledger has 20.0000 USD of it."
    )
    assert Delivery.objects.count() == 1
    assert compare(NOW + timedelta(days=1)) == []
    InvoicedDay.objects.update(cost_ticks=17 * TICKS_PER_USD)
    assert len(compare(NOW + timedelta(days=1))) == 1


@pytest.mark.parametrize(
    ("bill", "day", "now"),
    [(191, DAY, NOW), (4, DAY, NOW), (100, DAY, datetime(2026, 11, 4, 23, tzinfo=UTC))],
    ids=["less than five percent", "less than a dollar", "a day that is not over yet for its provider"],
)
def test_small_or_early_differences_are_not_told(
    ledger: Callable[..., None], bill: int, day: date, now: datetime
) -> None:
    ledger(5 * CENT if bill == 4 else 2 * TICKS_PER_USD)
    invoiced(bill * CENT, day)
    assert compare(now) == []
    assert not Alert.objects.exists()


def test_a_day_without_any_bill_is_not_compared(ledger: Callable[..., None]) -> None:
    ledger(20 * TICKS_PER_USD)
    assert compare(NOW) == []
    (day,) = days_compared(DAY, DAY)
    assert (day.is_invoiced, day.difference_ticks, day.models[0].why(NOW.date())) == (False, 0, "")


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (Compared(DAY, "m", 100 * CENT, 5, 0, 0, 100 * CENT), ""),
        (Compared(DAY, "m", 100 * CENT, 5, 0, 0, 100 * CENT + CENT // 2), "Rounding."),
        (
            Compared(DAY, "m", 100 * CENT, 5, 0, 0, 102 * CENT),
            "Another key of that account, or a price that is not the catalogue's.",
        ),
        (
            Compared(DAY, "m", 100 * CENT, 5, 1, 30 * CENT, 80 * CENT),
            "1 call whose bill never came, counted at $0.30 at most.",
        ),
        (
            Compared(DAY, "m", 100 * CENT, 5, 2, 10 * CENT, 80 * CENT),
            "2 calls whose bill never came, counted at $0.10 at most, explain a part; "
            "the rest may be billed to another account.",
        ),
        (
            Compared(DAY, "m", 100 * CENT, 5, 0, 0, 80 * CENT),
            "Billed to another account, or at a lower price than the catalogue's.",
        ),
    ],
)
def test_differences_are_explained(found: Compared, why: str) -> None:
    assert found.why(NOW.date()) == why


def test_the_latest_days_may_be_incomplete() -> None:
    late = Compared(DAY, "m", 100 * CENT, 5, 0, 0, 80 * CENT).why(DAY + timedelta(days=1))
    assert late == "The provider has not reported all of that day yet."


def test_an_operator_drops_a_file_and_reads_what_came_of_it(ledger: Callable[..., None]) -> None:
    user = UserFactory.create(is_staff=True)
    user.groups.add(role("operator"))
    client = Client()
    client.force_login(user)
    ledger(3 * TICKS_PER_USD)
    text = f"day,model,cost\n{DAY},gpt-6-luna,2.98\n{DAY},gpt-6-sol,0.5\n"
    sent = {"provider": "openai", "file": SimpleUploadedFile("invoice.csv", text.encode())}
    page = client.post("/admin/invoices/", sent, follow=True).content.decode()
    for told in ("Taken in: 1 day of OpenAI&#x27;s invoice.", "$3.48", "$3.00", "+$0.48", "−$0.02", "+$0.50"):
        assert told in page
    assert LedgerDay.objects.get().attempts == 2
    wrong = {"provider": "openai", "file": SimpleUploadedFile("invoice.csv", b"day,model\n")}
    assert "No column for the cost" in client.post("/admin/invoices/", wrong).content.decode()


def test_auditors_look_and_managers_do_not() -> None:
    client = Client()
    auditor, manager = UserFactory.create(is_staff=True), UserFactory.create(is_staff=True)
    auditor.groups.add(role("auditor"))
    client.force_login(auditor)
    page = client.get("/admin/invoices/?until=yesterday")
    assert page.status_code == 200
    assert "Take in" not in page.content.decode()
    assert client.post("/admin/invoices/").status_code == 403
    client.force_login(manager)
    assert client.get("/admin/invoices/").status_code == 403
