"""POST /api/tenants/{tenant}/what-if."""

from datetime import timedelta

import pytest
from django.utils import timezone

from spend.models import Outcome
from tenants.models import Budget, Tenant
from tests.factories import ApiKeyFactory, CatalogueModelFactory, RouteStepFactory, TenantFactory
from tests.support.api import Api, operator
from tests.support.history import place_call

pytestmark = pytest.mark.django_db

ADDRESS = "/api/tenants/acme/what-if"


@pytest.fixture
def api() -> Api:
    return operator()


@pytest.fixture
def tenant() -> Tenant:
    """Three calls of 1000 tokens and back, an hour apart; a fourth was refused."""
    tenant = TenantFactory.create(id="acme")
    model = CatalogueModelFactory.create(id="large")
    RouteStepFactory.create(tenant=tenant, model=model)
    key, cost = ApiKeyFactory.create(tenant=tenant), 1000 * 12_500 + 1000 * 25_000
    for hours in (5, 4, 3):
        at = timezone.now() - timedelta(days=2, hours=hours)
        facts = {"input_tokens": 1000, "output_tokens": 1000, "cost_ticks": cost, "computed_ticks": cost}
        place_call(tenant, key, at, model="large", price_id=model.prices.get().pk, **facts)
    refused = {"outcome": Outcome.REFUSED, "code": "budget_exceeded", "model": "large"}
    place_call(tenant, key, timezone.now() - timedelta(days=2), **refused)
    return tenant


def test_without_other_settings_it_is_as_it_was(api: Api, tenant: Tenant) -> None:
    answer = api.post(ADDRESS, {"days": 7}).json()
    assert answer["calls"] == 4
    assert answer["before"]["asAsked"] == 3
    assert answer["before"]["refused"] == 1
    assert answer["after"]["asAsked"] == 4  # today's budget has room for the one that was refused
    assert answer["saved"]["totalUsd"] == answer["saved"]["byServingUsd"]
    assert answer["models"][0]["beforeUsd"] == "0.01125"
    assert len(answer["assumptions"]) > 3


def test_a_budget_that_is_too_small_refuses_all(api: Api, tenant: Tenant) -> None:
    budgets = [{"scope": "tenant", "period": "day", "limitUsd": "0.000001"}]
    answer = api.post(ADDRESS, {"budgets": budgets}).json()
    assert answer["after"]["refused"] == 4
    assert answer["after"]["costUsd"] == "0.00"
    assert answer["saved"]["byRefusingUsd"] == "0.01125"
    assert not Budget.objects.exists()  # it was only asked


def test_another_price_is_reckoned_with_the_same_tokens(api: Api, tenant: Tenant) -> None:
    prices = [{"model": "large", "inputUsdPerMillion": "1", "outputUsdPerMillion": "1"}]
    answer = api.post(ADDRESS, {"prices": prices, "budgets": []}).json()
    assert answer["saved"]["byPriceUsd"] == "0.00525"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"days": 8}, "days"),
        ({"days": "30"}, "days"),
        ({"route": []}, "route"),
        ({"route": ["no-such"]}, "route"),
        ({"limit": 1}, "limit"),
        ({"prices": [{"model": "large", "inputUsdPerMillion": "-1", "outputUsdPerMillion": "1"}]}, "prices"),
    ],
)
def test_what_is_not_valid_is_named(api: Api, tenant: Tenant, body: dict[str, object], param: str) -> None:
    answer = api.post(ADDRESS, body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith(param)
