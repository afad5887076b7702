"""/api/models and /v1/models."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from auditlog.models import LogEntry
from django.core.exceptions import ValidationError

from spend.capabilities import Lesson, LessonKind
from spend.models import CatalogueModel, Price, PriceTier
from spend.pricing.learned_capabilities import FORGOTTEN_AFTER, MOST_LESSONS, forget, learn
from tests.factories import (
    CatalogueModelFactory,
    DowngradeRuleFactory,
    PriceFactory,
    PriceTierFactory,
    RouteStepFactory,
    TenantFactory,
)
from tests.support.api import Api, agent, operator

pytestmark = pytest.mark.django_db

WHOLE = {
    "id": "grok-4.3",
    "provider": "xai",
    "upstreamName": "grok-4.3-latest",
    "inputUsdPerMillion": "1.25",
    "cachedInputUsdPerMillion": "0.20",
    "outputUsdPerMillion": "2.50",
    "contextTokens": 256_000,
    "maxOutputTokens": 32_000,
    "reasoningAllowanceTokens": 4096,
    "isEnabled": True,
    "shutdownOn": "2027-01-31",
}


@pytest.fixture
def api() -> Api:
    return operator()


def test_a_model_is_made_and_read_and_listed(api: Api) -> None:
    made = api.put("/api/models/grok-4.3", WHOLE)
    assert (made.status_code, made.json()) == (201, WHOLE)
    assert api.get("/api/models/grok-4.3").json() == WHOLE
    assert api.get("/api/models").json() == {"models": [WHOLE]}
    tier = PriceTier.objects.get()
    assert (tier.input_ticks, tier.cached_input_ticks, tier.output_ticks) == (12_500, 2_000, 25_000)
    assert (tier.price.source, tier.above_tokens) == ("operator", 0)


def test_sending_back_what_was_read_changes_nothing(api: Api) -> None:
    CatalogueModelFactory.create(id="a/b:c")
    CatalogueModelFactory.create(id="unpriced", price=None)
    entries = LogEntry.objects.count()
    for model_id in ("a/b:c", "unpriced"):
        read = api.get(f"/api/models/{model_id}").json()
        put = api.put(f"/api/models/{model_id}", read)
        assert (put.status_code, put.json()) == (200, read)
    assert Price.objects.count() == 1
    assert LogEntry.objects.count() == entries


def test_what_is_left_out_stays(api: Api) -> None:
    api.put("/api/models/grok-4.3", WHOLE)
    assert api.put("/api/models/grok-4.3", {"isEnabled": False, "shutdownOn": None}).json() == {
        **WHOLE,
        "isEnabled": False,
        "shutdownOn": None,
    }
    assert CatalogueModel.objects.get().shutdown_on is None


def test_what_is_left_out_of_a_new_one_is_the_defaults(api: Api) -> None:
    made = api.put("/api/models/m", {"provider": "demo", "inputUsdPerMillion": 1, "outputUsdPerMillion": 2.5})
    assert made.json() == {
        **WHOLE, "id": "m", "provider": "demo", "upstreamName": "m", "inputUsdPerMillion": "1.00",
        "cachedInputUsdPerMillion": "1.00", "contextTokens": 128_000, "maxOutputTokens": 16_384,
        "reasoningAllowanceTokens": 0, "shutdownOn": None,
    }  # fmt: skip


def test_a_changed_price_starts_now_and_leaves_the_old_one_standing(api: Api) -> None:
    model = CatalogueModelFactory.create(id="m")
    PriceFactory.create(
        model=model, source="catalogue", starts_at=datetime(2024, 1, 1, tzinfo=UTC), tier__input_ticks=99
    )
    before = datetime.now(UTC)
    answer = api.put("/api/models/m", {"outputUsdPerMillion": "2.5001"})
    assert (answer.json()["inputUsdPerMillion"], answer.json()["outputUsdPerMillion"]) == ("1.25", "2.5001")
    new = Price.objects.order_by("pk").last()
    assert new
    assert (new.source, Price.objects.count()) == ("operator", 3)
    assert before <= new.starts_at <= datetime.now(UTC)
    assert {
        entry.actor for entry in LogEntry.objects.filter(content_type__model="pricetier", object_id=new.tiers.get().pk)
    } == {api.user}


def test_higher_tiers_stay_and_never_cost_less_than_the_base(api: Api) -> None:
    model = CatalogueModelFactory.create(id="m")
    price = model.prices.get()
    PriceTierFactory.create(
        price=price, above_tokens=200_000, input_ticks=25_000, cached_input_ticks=4_000, output_ticks=50_000
    )
    api.put("/api/models/m", {"inputUsdPerMillion": "3"})
    new = Price.objects.exclude(pk=price.pk).get()
    assert list(new.tiers.values_list("above_tokens", "input_ticks", "cached_input_ticks", "output_ticks")) == [
        (0, 30_000, 2_000, 25_000),
        (200_000, 30_000, 4_000, 50_000),
    ]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"id": "other"}, "id"),
        ({"provider": "acme"}, "provider"),
        ({"provider": 1}, "provider"),
        ({"upstreamName": ""}, "upstreamName"),
        ({"inputUsdPerMillion": "0.00001"}, "inputUsdPerMillion"),
        ({"inputUsdPerMillion": -1}, "inputUsdPerMillion"),
        ({"inputUsdPerMillion": "100001"}, "inputUsdPerMillion"),
        ({"outputUsdPerMillion": "free"}, "outputUsdPerMillion"),
        ({"cachedInputUsdPerMillion": False}, "cachedInputUsdPerMillion"),
        ({"contextTokens": 0}, "contextTokens"),
        ({"contextTokens": "128000"}, "contextTokens"),
        ({"maxOutputTokens": 1.5}, "maxOutputTokens"),
        ({"reasoningAllowanceTokens": -1}, "reasoningAllowanceTokens"),
        ({"reasoningAllowanceTokens": True}, "reasoningAllowanceTokens"),
        ({"isEnabled": "yes"}, "isEnabled"),
        ({"shutdownOn": "2027-02-29"}, "shutdownOn"),
        ({"shutdownOn": "2027-01-31T00:00:00Z"}, "shutdownOn"),
        ({"shutdownOn": 20270131}, "shutdownOn"),
        ({"price": "1"}, "price"),
    ],
)
def test_a_bad_model_is_refused_and_the_field_named(api: Api, change: dict[str, Any], param: str) -> None:
    api.put("/api/models/grok-4.3", WHOLE)
    for address in ("grok-4.3", "new"):
        answer = api.put(f"/api/models/{address}", {**WHOLE, "id": address, **change})
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["param"] == param
    assert api.get("/api/models").json() == {"models": [WHOLE]}
    assert Price.objects.count() == 1


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "provider"),
        ({"provider": "xai", "inputUsdPerMillion": "1"}, "outputUsdPerMillion"),
        ({"provider": "xai", "cachedInputUsdPerMillion": "1"}, "inputUsdPerMillion"),
        ([], None),
    ],
)
def test_a_new_model_lacks_something(api: Api, body: Any, param: str | None) -> None:
    answer = api.put("/api/models/new", body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert not CatalogueModel.objects.exists()


def test_tiers_without_a_base_are_no_price_so_the_first_is_asked_for_whole(api: Api) -> None:
    price = CatalogueModelFactory.create(id="m").prices.get()
    price.tiers.update(above_tokens=200_000)
    assert api.get("/api/models/m").json()["inputUsdPerMillion"] is None
    refused = api.put("/api/models/m", {"outputUsdPerMillion": "2.5"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "inputUsdPerMillion")
    made = api.put("/api/models/m", {"inputUsdPerMillion": "1", "outputUsdPerMillion": "2.5"})
    assert (made.status_code, made.json()["inputUsdPerMillion"]) == (200, "1.00")


def test_no_model_can_have_the_routes_name(api: Api) -> None:
    answer = api.put("/api/models/auto", {**WHOLE, "id": "auto"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "id")
    with pytest.raises(ValidationError, match="auto"):
        CatalogueModelFactory.build(id="auto", price=None).full_clean()
    assert not CatalogueModel.objects.exists()


def test_there_is_no_such_model(api: Api) -> None:
    assert api.get("/api/models/none").status_code == 404
    assert api.put("/api/models/%00", WHOLE).status_code == 404


def test_the_list_takes_few_queries(api: Api, django_assert_max_num_queries: Any) -> None:
    for _ in range(6):
        CatalogueModelFactory.create()
    with django_assert_max_num_queries(7):
        assert len(api.get("/api/models").json()["models"]) == 6


# GET /v1/models


def test_the_models_that_a_tenant_may_name(api: Api) -> None:
    tenant = TenantFactory.create()
    for model in (
        CatalogueModelFactory.create(id="b"),
        CatalogueModelFactory.create(id="a", provider="openai"),
        CatalogueModelFactory.create(id="off", is_enabled=False),
        CatalogueModelFactory.create(id="unpriced", price=None),
        CatalogueModelFactory.create(id="gone", shutdown_on=date(2026, 5, 1)),
    ):
        RouteStepFactory.create(tenant=tenant, model=model)
    DowngradeRuleFactory.create(
        tenant=tenant, to_model=CatalogueModelFactory.create(id="cheap", shutdown_on=date(2099, 1, 1))
    )
    CatalogueModelFactory.create(id="elsewhere")
    answer = agent(tenant).get("/v1/models").json()
    assert answer["object"] == "list"
    assert [each["id"] for each in answer["data"]] == ["auto", "b", "a", "cheap"]
    assert answer["data"][2] == {"id": "a", "object": "model", "created": 1_577_836_800, "owned_by": "openai"}
    for each in answer["data"]:
        assert agent(tenant).get(f"/v1/models/{each['id']}").json() == each
    for other in ("elsewhere", "off", "unpriced", "never-heard-of"):
        refused = agent(tenant).get(f"/v1/models/{other}")
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "not_found")
        assert refused.json()["error"]["request_id"] == refused["X-Request-Id"]


def test_errors_under_v1_are_in_snake_case(api: Api) -> None:
    for answer, status in ((Api().get("/v1/models"), 401), (api.get("/v1/models"), 403), (api.get("/v1/none"), 404)):
        assert answer.status_code == status
        assert answer.json()["error"]["request_id"] == answer["X-Request-Id"]


# Capabilities


def test_a_models_capabilities_begin_with_its_familys_and_can_be_changed(api: Api) -> None:
    CatalogueModelFactory.create(id="gpt-6-luna", provider="openai")
    read = api.get("/api/capabilities/gpt-6-luna").json()
    assert {"tools", "temperature", "stop"} <= set(read["refusedWhileReasoning"])
    assert (read["modelId"], read["defaultReasoningEffort"], read["learned"]) == ("gpt-6-luna", "medium", [])
    assert read["idCharacters"]["tool_call_id"] == 40
    assert read["makesEmbeddings"] is False
    changes = {
        "refusedParameters": ["seed"], "messageFields": None, "idCharacters": {"user": 9}, "makesEmbeddings": True,
    }  # fmt: skip
    changed = api.patch("/api/capabilities/gpt-6-luna", changes)
    assert (changed.status_code, changed.json()) == (200, {**read, **changes})
    assert CatalogueModel.objects.get().capabilities.refused == {"seed"}
    assert LogEntry.objects.filter(changes__has_key="refused_parameters").count() == 2


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"refusedParameters": "stop"}, "refusedParameters"),
        ({"refusedParameters": [5]}, "refusedParameters.0"),
        ({"idCharacters": {"user": 0}}, "idCharacters.user"),
        ({"thinksWithinMaximum": 1}, "thinksWithinMaximum"),
        ({"learned": []}, "learned"),
        ({"unheardOf": 1}, "unheardOf"),
    ],
)
def test_capabilities_that_are_none_are_refused(api: Api, change: dict[str, Any], param: str) -> None:
    CatalogueModelFactory.create(id="m")
    refused = api.patch("/api/capabilities/m", change)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


def test_what_was_learned_is_told_with_its_date_and_can_be_unlearned(api: Api) -> None:
    model = CatalogueModelFactory.create(id="a/b:c")
    at = datetime(2026, 11, 1, tzinfo=UTC)
    learn("a/b:c", [Lesson(LessonKind.PARAMETER, "stop")], "stop is no argument", at)
    learn("a/b:c", [Lesson(LessonKind.PARAMETER, "stop")], "again", at)
    (learned,) = api.get("/api/capabilities/a/b:c").json()["learned"]
    assert {name: value for name, value in learned.items() if name != "id"} == {
        "kind": "parameter", "name": "stop", "figure": 0, "learnedAt": "2026-11-01T00:00:00Z",
        "words": "stop is no argument",
    }  # fmt: skip
    assert api.delete(f"/api/learned-capabilities/{learned['id']}").status_code == 204
    assert not model.learned.exists()
    assert api.delete(f"/api/learned-capabilities/{learned['id']}").status_code == 404
    assert api.get("/api/capabilities/unheard-of").status_code == 404


def test_what_was_learned_long_ago_is_forgotten_and_a_lower_limit_replaces_a_higher() -> None:
    model = CatalogueModelFactory.create(id="m")
    now = datetime(2026, 11, 1, tzinfo=UTC)
    for figure in (8_000, 4_000, 6_000):
        learn("m", [Lesson(LessonKind.CONTEXT, "", figure)], "too long", now)
    learn("gone", [Lesson(LessonKind.CONTEXT, "", 9)], "of a model that was deleted meanwhile", now)
    assert [row.figure for row in model.learned.all()] == [4_000]
    assert forget(now + FORGOTTEN_AFTER - timedelta(seconds=1)) == []
    assert forget(now + FORGOTTEN_AFTER) == ["m"]
    assert not model.learned.exists()


def test_a_provider_that_makes_up_names_does_not_fill_the_catalogue() -> None:
    model = CatalogueModelFactory.create(id="m")
    many = [Lesson(LessonKind.MESSAGE_FIELD, f"field-{number}") for number in range(MOST_LESSONS + 5)]
    learn("m", many, "unknown", datetime(2026, 11, 1, tzinfo=UTC))
    assert model.learned.count() == MOST_LESSONS
