"""What would happen to a call now: the rehearsal agrees with the real thing, and the page says it plainly."""

from collections.abc import Callable
from typing import Any

import pytest
from django.core.cache import cache
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from guard.http.errors import GuardError
from guard.policy.rate_limits import take_turn
from guard.simulation.simulate import rehearse
from spend import breakers
from spend.ids import new_id
from spend.ledger.rules import CallGroup, CallLimit, DoesNotFit, Held, TooMany
from spend.models import Breaker, Call, CatalogueModel, LedgerEntry, Reservation, Window
from tenants.models import ApiKey, Scope, Tenant
from tenants.money import TICKS_PER_USD as USD
from tenants.periods import Period, bounds
from tests.factories import (
    ApiKeyFactory,
    BudgetFactory,
    CatalogueModelFactory,
    DowngradeRuleFactory,
    RouteStepFactory,
    TenantFactory,
    UserFactory,
)
from tests.support.history import place_call
from tests.support.provider import Provider
from tests.support.server import GuardServer

ASKED = {"messages": [{"role": "user", "content": "Where is my order?"}]}
PAGE = "/admin/tenants/tenant/acme/rehearsal/"

# What "large" holds for ASKED: (18 bytes + 8 + 16) tokens in, and the tenant's 1024 tokens out.
LARGE_HOLD = 42 * 12_500 + 1024 * 25_000
SMALL_HOLD = 42 * 1_000 + 1024 * 4_000


def tenant_with_a_downgrade(**budget: Any) -> Tenant:
    """On the route "large" and then "other", which cost the same; past the soft cap "small"."""
    tenant = TenantFactory.create(id="acme", name="Acme", time_zone="Europe/Oslo")
    for name in ("large", "other"):
        RouteStepFactory.create(tenant=tenant, model=CatalogueModelFactory.create(id=name))
    tier = {"price__tier__input_ticks": 1_000, "price__tier__output_ticks": 4_000, "price__tier__cached_input_ticks": 0}
    DowngradeRuleFactory.create(tenant=tenant, to_model=CatalogueModelFactory.create(id="small", **tier))
    BudgetFactory.create(tenant=tenant, limit_ticks=5 * USD, **budget)
    return tenant


def stand(tenant: Tenant, spent_ticks: int, held_ticks: int = 0) -> None:
    """Today's window as it would be after such a day."""
    starts_at, ends_at = bounds(Period.DAY, tenant.zone, timezone.now())
    key = {"tenant_id": tenant.id, "scope": "tenant", "subject": "", "period": "day", "starts_at": starts_at}
    figures = {"spent_ticks": spent_ticks, "held_ticks": held_ticks}
    Window.objects.update_or_create(**key, defaults=figures, create_defaults={**figures, "ends_at": ends_at})


# It agrees with the real thing


class Pair:
    """A tenant of a running guard, to be rehearsed and to be called."""

    def __init__(self, server: GuardServer, provider: Provider) -> None:
        self.server, self.provider = server, provider
        with server.database():
            self.tenant = tenant_with_a_downgrade()
            self.key = ApiKeyFactory.create(tenant=self.tenant)

    def foretold(self, **asked: Any) -> tuple[Any, ...]:
        with self.server.database():
            tenant = Tenant.objects.get(pk=self.tenant.pk)
            try:
                result = rehearse(tenant, self.key, {**ASKED, **asked}, timezone.now()).result
            except GuardError as error:
                return error.status, error.code
        match result:
            case Held(reserved):
                return 200, reserved.offer.model, str(reserved.offer.route), reserved.max_tokens
            case DoesNotFit(by_holds):
                return 429, "budget_held" if by_holds else "budget_exceeded"
            case TooMany():
                return 429, "rate_limited"
            case None:
                return 503, "all_models_failed"

    def happened(self, **asked: Any) -> tuple[Any, ...]:
        answer = self.server.client_of(self.key.secret).post("/api/chat", json={"tenantId": "acme", **ASKED, **asked})
        if answer.status_code != 200:
            return answer.status_code, answer.json()["error"]["code"]
        sent = self.provider.calls()[-1]["body"]
        return 200, answer.headers["X-Guard-Model"], answer.headers["X-Guard-Route"], sent["max_completion_tokens"]

    def stands(self, spent_ticks: int, held_ticks: int = 0) -> None:
        with self.server.database():
            stand(self.tenant, spent_ticks, held_ticks)


def test_a_real_call_goes_as_its_rehearsal(guard_server: Callable[..., GuardServer], provider: Provider) -> None:
    pair = Pair(guard_server(HOLD_WAIT_SECONDS="0.1"), provider)

    def both(**asked: Any) -> tuple[Any, ...]:
        foretold = pair.foretold(**asked)
        assert pair.happened(**asked) == foretold
        return foretold

    assert both() == (200, "large", "primary", 1024)
    assert both(model="other", maxTokens=7) == (200, "other", "primary", 7)
    assert both(model="no-such-model") == (400, "invalid_request")
    pair.stands(4 * USD - LARGE_HOLD)  # with this call's hold exactly at the soft cap, and so past it
    assert both() == (200, "small", "downgrade", 1024)
    pair.stands(4 * USD - LARGE_HOLD - 1)
    assert both() == (200, "large", "primary", 1024)
    pair.stands(5 * USD - SMALL_HOLD)
    assert both() == (200, "small", "downgrade", 1024)
    pair.stands(5 * USD - SMALL_HOLD + 4_000)
    assert both() == (200, "small", "downgrade", 1023)
    pair.stands(5 * USD)
    assert both() == (429, "budget_exceeded")
    pair.stands(USD, held_ticks=4 * USD)
    assert both() == (429, "budget_held")
    pair.stands(0)
    with pair.server.database():
        Breaker.objects.create(model_id="large", opened_at=timezone.now())
    pair.server.wait_until_it_is_read()
    assert both() == (200, "other", "fallback", 1024)
    with pair.server.database():
        model = CatalogueModel.objects.get(pk="other")
        model.is_enabled = False
        model.save()
        Breaker.objects.create(model_id="small", opened_at=timezone.now())
    pair.server.wait_until_it_is_read()
    assert both() == (503, "all_models_failed")
    with pair.server.database():
        pair.tenant.is_active = False
        pair.tenant.save()
    assert both() == (403, "forbidden")


def test_a_model_whose_provider_has_no_key_is_passed_over_as_in_a_real_call(
    guard_server: Callable[..., GuardServer], provider: Provider, settings: Any
) -> None:
    pair = Pair(guard_server(OPENAI_API_KEY="", start=False), provider)
    settings.OPENAI_API_KEY = ""
    with pair.server.database():
        CatalogueModel.objects.filter(pk="large").update(provider="openai")
    pair.server.start()
    for _ in range(breakers.FAILURES_TO_OPEN):
        assert pair.foretold() == pair.happened() == (200, "other", "fallback", 1024)
    with pair.server.database():
        assert not Breaker.objects.exists()
        assert not LedgerEntry.objects.filter(model="large").exists()
        steps = [(step["model"], step["decision"]) for step in Call.objects.earliest("at").steps]
    assert steps == [("large", "no_provider_key"), ("other", "held"), ("other", "served")]


def test_a_conversation_keeps_its_model_as_in_a_real_call(
    guard_server: Callable[..., GuardServer], provider: Provider
) -> None:
    pair = Pair(guard_server(), provider)
    answer, question = {"role": "assistant", "content": "Let me see."}, ASKED["messages"][0]
    turn = {"conversationId": "c-1", "messages": [question, answer, question]}
    with pair.server.database():
        Breaker.objects.create(model_id="large", opened_at=timezone.now())
    pair.server.wait_until_it_is_read()
    assert pair.foretold(**turn) == pair.happened(**turn) == (200, "other", "fallback", 1024)
    with pair.server.database():
        Breaker.objects.all().delete()
    pair.server.wait_until_it_is_read()
    assert pair.foretold(**turn) == pair.happened(**turn) == (200, "other", "fallback", 1024)
    begins = {**turn, "messages": [question]}
    assert pair.foretold(**begins) == pair.happened(**begins) == (200, "large", "primary", 1024)


# The page


pytestmark = pytest.mark.django_db


@pytest.fixture
def tenant() -> Tenant:
    return tenant_with_a_downgrade()


@pytest.fixture
def operator(client: Client) -> Client:
    client.force_login(UserFactory.create(is_staff=True, is_superuser=True))
    return client


def told(operator: Client, **asked: Any) -> str:
    answer = operator.get(PAGE, {"model": "auto", "prompt": "Where is my order?", **asked} if asked else {})
    assert answer.status_code == 200
    sentence: str = answer.context["outcome"].sentence
    assert sentence.replace("'", "&#x27;") in answer.content.decode()
    return sentence


def test_it_says_which_model_would_answer_and_why(operator: Client, tenant: Tenant) -> None:
    assert told(operator) == "It would be answered by large, as it was asked for."
    stand(tenant, 4 * USD + USD // 10)
    assert told(operator) == (
        "It would be answered by small, because today's budget is past its soft cap (4.10 of 5.00 USD)."
    )
    stand(tenant, 4 * USD - 1)
    assert told(operator) == (
        "It would be answered by small, because large's hold of 0.0026 USD would take today's budget past its "
        "soft cap (4.00 of 5.00 USD used)."
    )


def test_it_says_why_a_call_would_be_refused(operator: Client, tenant: Tenant) -> None:
    stand(tenant, 5 * USD)
    assert told(operator).startswith(
        "It would be refused (429 budget_exceeded), because no model fits what is left of today's budget "
        "(0.00 of 5.00 USD). It starts anew on "
    )
    assert told(operator).endswith(", 00:00 Europe/Oslo.")
    stand(tenant, USD, 4 * USD)
    assert told(operator) == (
        "It would wait up to 2 seconds for calls in flight to settle, and then be refused (429 budget_held), "
        "because they hold what is left of today's budget."
    )
    Tenant.objects.filter(pk="acme").update(is_active=False)
    assert told(operator) == "It would be refused (403 forbidden): This tenant is disabled."


def test_it_says_how_much_an_answer_would_be_cut(operator: Client, tenant: Tenant) -> None:
    stand(tenant, 5 * USD - SMALL_HOLD + 24 * 4_000)  # the price of 24 tokens too much
    assert told(operator) == (
        "It would be answered by small, because today's budget is past its soft cap (5.00 of 5.00 USD); cut to "
        "at most 1,000 of 1,024 tokens, which is what the budget leaves."
    )


def test_it_names_models_that_cannot_be_called(operator: Client, tenant: Tenant) -> None:
    Breaker.objects.create(model_id="large", opened_at=timezone.now())
    spared = "large failed several times in a row and is being spared for a minute"
    assert told(operator) == f"It would be answered by other, because {spared}."
    CatalogueModel.objects.filter(pk__in=["other", "small"]).update(is_enabled=False)
    assert told(operator) == (
        f"It would fail (503 all_models_failed), because {spared}, and other is switched off, and small is switched "
        "off."
    )


def test_a_budget_of_each_customer_binds_the_customer_that_is_named(operator: Client, tenant: Tenant) -> None:
    BudgetFactory.create(tenant=tenant, scope=Scope.CUSTOMER, limit_ticks=LARGE_HOLD)
    assert told(operator) == "It would be answered by large, as it was asked for."
    assert told(operator, customer="c-1") == (
        "It would be answered by small, because large's hold of 0.0026 USD would take today's budget of customer c-1 "
        "past its soft cap (0.00 of 0.0026 USD used)."
    )


def test_a_conversation_that_is_named_goes_on_with_its_model(operator: Client, tenant: Tenant) -> None:
    facts: Any = {"model": "other", "route": "fallback", "conversation": "c-1", "input_tokens": 2_000, "cost_ticks": 1}
    place_call(tenant, ApiKeyFactory.create(tenant=tenant), timezone.now(), **facts)
    assert told(operator, conversation="c-2") == "It would be answered by large, as it was asked for."
    assert told(operator, conversation=" c-1 ") == (
        "It would be answered by other, because another model than large served this conversation before."
    )
    shown = operator.get(PAGE, {"model": "auto", "prompt": "Hi", "conversation": "c-1"})
    assert [(row["model"], row["place"]) for row in shown.context["offers"]] == [
        ("other", "served this conversation before, below the soft cap"),
        ("small", "downgrade past the soft cap"),
        ("other", "served this conversation before, up to the hard cap"),
    ]
    assert told(operator, conversation="c-1", model="large") == "It would be answered by large, as it was asked for."


def test_a_budget_of_each_key_binds_the_key_that_is_chosen(operator: Client, tenant: Tenant) -> None:
    BudgetFactory.create(tenant=tenant, scope=Scope.KEY, limit_ticks=USD)
    key = ApiKeyFactory.create(tenant=tenant)
    starts_at = bounds(Period.DAY, tenant.zone, timezone.now()).starts_at
    Window.objects.create(
        tenant_id="acme", scope="key", subject=str(key.pk), period="day", starts_at=starts_at, spent_ticks=USD
    )
    assert "as it was asked for" in told(operator)
    assert "what is left of today's budget of this key (0.00 of 1.00 USD)" in told(operator, key=str(key.pk))


def test_the_longer_a_prompt_the_larger_its_hold(operator: Client, tenant: Tenant) -> None:
    told(operator, characters="100000", max_tokens="10")
    answer = operator.get(PAGE, {"model": "auto", "characters": "100000", "max_tokens": "10"})
    assert answer.context["input_tokens"] == 100_024
    assert answer.context["offers"][0]["hold_usd"] == "0.125055"  # 100,024 tokens at 1.25, 10 at 2.50 a million


def test_limits_on_how_fast_calls_come_refuse_it_too(operator: Client, tenant: Tenant) -> None:
    tenant.calls_in_flight = 1
    tenant.save()
    key, now = ApiKeyFactory.create(tenant=tenant), timezone.now()
    assert "as it was asked for" in told(operator)
    Reservation.objects.create(
        id=new_id(), call_id=new_id(), request_id="req_1", tenant=tenant, key=key, provider="xai", model="large",
        requested_model="large", route="primary", price_id=1, hold_ticks=1, max_tokens=1, created_at=now,
        lease_expires_at=now,
    )  # fmt: skip
    in_flight = "It would be refused (429 rate_limited): 1 calls are in flight, which is the limit."
    assert told(operator) == in_flight.replace("1 calls are", "1 call is")
    tenant.requests_per_minute = 1
    tenant.save()
    take_turn([CallLimit(CallGroup("acme"), 1)])
    try:
        assert "in the last minute, which is the limit" in told(operator)
    finally:
        cache.clear()


def test_it_asks_only_and_however_much_there_is_by_a_bounded_number_of_queries(
    operator: Client, tenant: Tenant
) -> None:
    BudgetFactory.create(tenant=tenant, period=Period.MONTH)
    with CaptureQueriesContext(connection) as few:
        told(operator)
    for _ in range(3):
        ApiKeyFactory.create(tenant=tenant)
        RouteStepFactory.create()
        BudgetFactory.create(tenant=TenantFactory.create())
    with CaptureQueriesContext(connection) as many:
        told(operator)
    assert len(many) == len(few) <= 30
    assert {query["sql"].split()[0] for query in many} <= {"SELECT", "DECLARE"}  # a Postgres cursor, to read by
    assert not Window.objects.exists()


def test_the_page_shows_the_offers_and_the_budgets(operator: Client, tenant: Tenant) -> None:
    stand(tenant, 4 * USD + USD // 10)
    asked_at = timezone.now()
    answer = operator.get(PAGE)
    minutes = {f"{at.astimezone(tenant.zone):%H:%M}:" for at in (asked_at, timezone.now())}
    offers = [(row["model"], row["place"], row["label"]) for row in answer.context["offers"]]
    assert offers == [
        ("large", "first on the route, below the soft cap", "past the soft cap"),
        ("small", "downgrade past the soft cap", "would answer"),
        ("large", "first on the route, up to the hard cap", "fits"),
    ]
    assert answer.context["offers"][1]["hold_usd"] == "0.000414"
    assert any(minute in answer.content.decode() for minute in minutes)
    (limit,) = answer.context["limits"]
    assert (limit["spent_usd"], limit["with_hold_usd"], limit["state"]) == ("4.1000", "4.1004", "degraded")


def test_what_is_not_valid_is_said_at_its_field(operator: Client, tenant: Tenant) -> None:
    answer = operator.get(PAGE, {"model": "auto", "prompt": "x", "max_tokens": "0"})
    assert answer.status_code == 200
    assert "max_tokens" in answer.context["form"].errors
    assert "outcome" not in answer.context


def test_the_tenants_page_leads_there_and_only_those_who_may_see_tenants_get_in(
    operator: Client, tenant: Tenant
) -> None:
    assert PAGE in operator.get("/admin/tenants/tenant/acme/change/").content.decode()
    assert operator.get("/admin/tenants/tenant/nobody/rehearsal/").status_code == 404
    assert Client().get(PAGE).status_code == 302
    stranger = Client()
    stranger.force_login(UserFactory.create(is_staff=True))
    assert stranger.get(PAGE).status_code == 403


def test_a_revoked_key_cannot_be_chosen(operator: Client, tenant: Tenant) -> None:
    key = ApiKeyFactory.create(tenant=tenant)
    another = ApiKeyFactory.create()
    ApiKey.objects.get(pk=key.pk).revoke(timezone.now())
    for pk in (key.pk, another.pk):
        assert "key" in operator.get(PAGE, {"model": "auto", "key": str(pk)}).context["form"].errors
