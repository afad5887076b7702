"""`/metrics`: the same numbers from every worker, for those with the token."""

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families

from spend.models import Breaker, Outcome, Rollup
from spend.summaries.daily import catch_up
from tests.factories import ApiKeyFactory, CatalogueModelFactory, TenantFactory
from tests.support.environment import ROOT
from tests.support.history import place_call

TOKEN = "token-of-the-tests"
DASHBOARD = json.loads((ROOT / "docs" / "grafana-dashboard.json").read_text())

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def token(settings: Any) -> None:
    settings.METRICS_TOKEN = TOKEN


def scrape(client: Client) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    answer = client.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 200
    families = text_string_to_metric_families(answer.content.decode())
    return {(each.name, tuple(sorted(each.labels.items()))): each.value for one in families for each in one.samples}


def test_only_with_the_token(client: Client, settings: Any) -> None:
    assert client.get("/metrics").status_code == 401
    assert client.get("/metrics", headers={"Authorization": "Bearer wrong"}).status_code == 401
    settings.METRICS_TOKEN = ""
    assert client.get("/metrics", headers={"Authorization": "Bearer "}).status_code == 404


def test_counters_do_not_change_when_days_are_summed(client: Client) -> None:
    tenant = TenantFactory.create(id="acme")
    for days in (0, 3, 40):
        Rollup.objects.create(
            tenant=tenant, bucket=datetime(2026, 5, 20, 12, tzinfo=UTC) - timedelta(days=days), model="m",
            route="primary", served=2, refused=1, attempts=2, cost_ticks=1000, input_tokens=7, output_tokens=5,
        )  # fmt: skip
    counters = [scrape(client)]
    catch_up(datetime(2026, 5, 20, 0, tzinfo=UTC))
    counters.append(scrape(client))
    catch_up(timezone.now())
    counters.append(scrape(client))
    labels = (("model", "m"), ("route", "primary"), ("tenant", "acme"))
    for found in counters:
        assert found["guard_cost_ticks_total", labels] == 3000
        assert found["guard_calls_total", tuple(sorted([*labels, ("outcome", "served")]))] == 6
        assert found["guard_tokens_total", tuple(sorted([*labels, ("type", "output")]))] == 15


def test_budgets_breakers_and_queues(client: Client) -> None:
    TenantFactory.create(id="acme")
    Breaker.objects.create(model=CatalogueModelFactory.create(id="m"), opened_at=timezone.now())
    found = scrape(client)
    daily = (("period", "day"), ("tenant", "acme"))
    assert found["guard_budget_limit_ticks", daily] == 50_000_000_000
    assert found["guard_budget_state", (("period", "day"), ("state", "active"), ("tenant", "acme"))] == 1
    assert found["guard_breaker_open", (("model", "m"),)] == 1
    assert found["guard_holds_pending", ()] == 0


def test_refusals_of_the_last_hour_by_their_code(client: Client) -> None:
    tenant, now = TenantFactory.create(id="acme"), timezone.now()
    key = ApiKeyFactory.create(tenant=tenant)
    for code, minutes in [("budget_exceeded", 1), ("budget_exceeded", 50), ("budget_held", 70)]:
        place_call(tenant, key, now - timedelta(minutes=minutes), outcome=Outcome.REFUSED, code=code)
    place_call(tenant, key, now, outcome=Outcome.FAILED, code="all_models_failed")
    place_call(tenant, key, now)
    found = {dict(labels)["code"]: value for (name, labels), value in scrape(client).items() if "refusals" in name}
    assert found == {"budget_exceeded": 2, "all_models_failed": 1}


def test_the_grafana_dashboard_asks_only_for_what_there_is(client: Client) -> None:
    tenant = TenantFactory.create(id="acme")
    Rollup.objects.create(tenant=tenant, bucket=timezone.now(), model="m", route="primary")
    Breaker.objects.create(model=CatalogueModelFactory.create(id="m"))
    answer = client.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"}).content.decode()
    there = set(re.findall(r"^# TYPE (\S+)", answer, re.MULTILINE))
    queries = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]
    asked = set(re.findall(r"\bguard_[a-z_]+", " ".join(queries)))
    assert len(queries) >= 8
    assert asked
    assert asked <= there
