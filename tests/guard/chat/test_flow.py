"""The guarded call against the real server: what callers see, and what the ledger says of it afterwards."""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

import openai
import pytest
import requests
from django.db import connection, transaction
from django.test import RequestFactory
from django.utils import timezone
from pytest_django import DjangoDbBlocker

from guard.http.errors import answer_to
from spend.breakers import FAILURES_TO_OPEN, OPEN_S, PROBES
from spend.models import Breaker, Call, CatalogueModel, LedgerEntry, Price, PriceSource, PriceTier, Reservation
from spend.pricing.cost import bound_input_tokens
from spend.pricing.operator_prices import back_to_catalogue
from tenants.models import ApiKey, Budget, Tenant
from tenants.money import TICKS_PER_USD, usd_string
from tenants.periods import BEGINNING
from tenants.trail import raise_revision
from tests.factories import BudgetFactory, CatalogueModelFactory, DowngradeRuleFactory, PriceFactory
from tests.support.agents import HELLO, Agent, audit, chunks_of, eventually, upstream
from tests.support.databases import Databases
from tests.support.provider import Provider
from tests.support.server import GuardServer

StartServer = Callable[..., GuardServer]
Hire = Callable[..., Agent]
Rates = tuple[int, int]
"""Ticks of an input and of an output token."""

INPUT, OUTPUT = 12_500, 25_000
USAGE = {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30}
COUNTED = {**USAGE, "completion_tokens_details": {"reasoning_tokens": 4}}
FIGURES_OF_COST = {
    "cost": 0.01, "cost_details": {"upstream_cost": 0.01}, "estimated_cost": {"usd": "0.01"},
    "completion_tokens_details": {"reasoning_tokens": 4, "reasoning_cost": 0.01},
}  # fmt: skip
COST = 10 * INPUT + 20 * OUTPUT
BOUND = bound_input_tokens(HELLO)
FLOOR = 64
TIMEOUT_S, HOLD_WAIT_S = 0.7, 0.5
CHEAPER, TWICE, TEN_TIMES = (INPUT // 10, OUTPUT // 10), (INPUT * 2, OUTPUT * 2), (INPUT * 10, OUTPUT * 10)
SEEN = [{**HELLO[0], "content": [{"type": "image_url", "image_url": {"url": "https://example.com/parcel.png"}}]}]
ENDPOINTS = pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])


def hold_of(max_tokens: int) -> int:
    """What is held for HELLO at the factories' prices."""
    return BOUND * INPUT + max_tokens * OUTPUT


@pytest.fixture(scope="module")
def server(
    databases: Databases,
    provider_process: Provider,
    tmp_path_factory: pytest.TempPathFactory,
    django_db_blocker: DjangoDbBlocker,
) -> Iterator[GuardServer]:
    """One for the module: its agents share nothing. At the end its books must balance."""
    log_path = tmp_path_factory.mktemp("chat") / "server.log"
    server = GuardServer(
        databases.copy(), log_path, django_db_blocker, MAX_BODY_BYTES="20000",
        PROVIDER_TIMEOUT_SECONDS=f"{TIMEOUT_S}", HOLD_WAIT_SECONDS=f"{HOLD_WAIT_S}",
    )  # fmt: skip
    try:
        server.start()
        yield server
        audit(server)
    finally:
        server.close()


def make_agent(server: GuardServer, *, downgrades: bool = False, **tenant: Any) -> Agent:
    """An agent whose day's budget is `limit_ticks`, and whose models cost the `prices` given by their names.

    Inside `server.database()` only.
    """
    budget = {
        name: tenant.pop(name) for name in ("limit_ticks", "soft_cap", "further_steps", "period") if name in tenant
    }
    prices: dict[str, Rates] = tenant.pop("prices", {})
    agent = Agent.create(server, **{"floor_max_tokens": FLOOR, **tenant})
    for name, (input_ticks, output_ticks) in prices.items():
        tier = PriceTier.objects.get(price__model_id=f"{agent.tenant_id}-{name}")
        tier.input_ticks, tier.output_ticks = input_ticks, output_ticks
        tier.save()
    if budget:
        BudgetFactory.create(tenant_id=agent.tenant_id, tenant=None, **budget)
    if downgrades:
        DowngradeRuleFactory.create(tenant_id=agent.tenant_id, tenant=None, to_model_id=agent.fallback, to_model=None)
    return agent


@pytest.fixture(scope="module")
def patient_server(module_server: StartServer) -> GuardServer:
    """Where calls wait for each other as long as it takes, however slow the machine."""
    return module_server(HOLD_WAIT_SECONDS="60", PROVIDER_TIMEOUT_SECONDS="60")


@pytest.fixture
def hire(server: GuardServer, provider: Provider) -> Hire:
    """Makes an agent."""
    return partial(hire_at, server, provider)


def hire_at(server: GuardServer, provider: Provider, **options: Any) -> Agent:
    with server.database(wait=False), transaction.atomic():
        agent = make_agent(server, **options)
    provider.behave(upstream(agent.model), usage=USAGE)
    provider.behave(upstream(agent.fallback), usage=USAGE)
    return agent


def post(agent: Agent, path: str, **body: Any) -> requests.Response:
    return agent.own_chat(**body) if path == "/api/chat" else agent.chat(**body)


def error_of(answer: requests.Response, status: int, code: str) -> dict[str, Any]:
    """The envelope, whose id must be the answer's, under the name that its path has for it."""
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert {"message", "type", "code", "param"} <= error.keys()
    id_field = "request_id" if "/v1/" in str(answer.url) else "requestId"
    assert error[id_field] == answer.headers["X-Request-Id"]
    return error


def nothing_happened(agent: Agent, provider: Provider) -> None:
    """No provider was called, and nothing was billed or is held."""
    assert not provider.calls(upstream(agent.model)) + provider.calls(upstream(agent.fallback))
    with agent.server.database():
        assert not LedgerEntry.objects.filter(tenant_id=agent.tenant_id).exists()
        assert not Reservation.objects.filter(tenant_id=agent.tenant_id, state="pending").exists()


# Answers


def test_the_guards_own_answer(hire: Hire, provider: Provider) -> None:
    agent = hire(limit_ticks=TICKS_PER_USD)
    usage = {
        "prompt_tokens": 40, "completion_tokens": 20, "total_tokens": 65,
        "prompt_tokens_details": {"cached_tokens": 8}, "completion_tokens_details": {"reasoning_tokens": 5},
    }  # fmt: skip
    provider.behave(upstream(agent.model), usage=usage, content="In Berlin.")
    answer = agent.own_chat(customerId="ada", conversationId="c-1", maxTokens=50)
    assert answer.status_code == 200, answer.text
    cost = 32 * INPUT + 8 * 2_000 + 25 * OUTPUT
    body, entry = answer.json(), agent.entry()
    resets_at = body["budget"].pop("resetsAt")
    assert body == {
        "id": answer.headers["X-Request-Id"],
        "tenantId": agent.tenant_id,
        "content": "In Berlin.",
        "model": agent.model,
        "requestedModel": "auto",
        "route": "primary",
        "finishReason": "stop",
        "usage": {"inputTokens": 40, "cachedInputTokens": 8, "outputTokens": 25, "reasoningTokens": 5},
        "costUsd": usd_string(cost),
        "budget": {
            "state": "active",
            "limitUsd": "1.00",
            "spentUsd": usd_string(cost),
            "remainingUsd": usd_string(TICKS_PER_USD - cost),
        },
    }
    midnight = (timezone.now() + timedelta(days=1)).date()
    assert resets_at == f"{midnight}T00:00:00Z"
    assert (entry.cost_ticks, entry.customer, entry.conversation) == (cost, "ada", "c-1")
    assert (entry.request_id, entry.requested_model, entry.hold_ticks) == (body["id"], agent.model, hold_of(50))


@pytest.mark.parametrize(
    ("message", "finish_reason", "content", "said"),
    [
        (
            {"content": [{"type": "text", "text": "In "}, {"type": "x"}, {"text": "Berlin."}]},
            "stop",
            "In Berlin.",
            "stop",
        ),
        ({"content": None, "tool_calls": []}, None, "", ""),
        ({"content": {"text": "?"}}, 7, "", ""),
    ],
)
def test_the_guards_own_answer_is_text_whatever_the_providers_is(
    hire: Hire, provider: Provider, message: Any, finish_reason: Any, content: str, said: str
) -> None:
    agent = hire()
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    provider.behave(upstream(agent.model), body={"choices": [choice], "usage": USAGE})
    body = agent.own_chat().json()
    assert (body["content"], body["finishReason"]) == (content, said)


@ENDPOINTS
def test_what_every_guarded_answer_carries(hire: Hire, path: str) -> None:
    agent = hire(limit_ticks=TICKS_PER_USD)
    answer = post(agent, path, model="auto")
    midnight = timezone.now().replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    headers = {name.lower(): value for name, value in answer.headers.items() if name.lower().startswith("x-guard")}
    assert 0 <= int(headers.pop("x-guard-budget-reset")) - (midnight - timezone.now()).seconds <= 5
    assert headers == {
        "x-guard-model": agent.model,
        "x-guard-requested-model": "auto",
        "x-guard-route": "primary",
        "x-guard-cost-usd": usd_string(COST),
        "x-guard-budget-state": "active",
        "x-guard-budget-limit-usd": "1.00",
        "x-guard-budget-remaining-usd": usd_string(TICKS_PER_USD - COST),
    }


def test_an_openai_client_works_unchanged(hire: Hire, server: GuardServer, provider: Provider) -> None:
    agent = hire()
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=agent.secret) as client:
        raw = client.chat.completions.with_raw_response.create(
            model="auto",
            messages=HELLO,  # type: ignore[arg-type]
            max_tokens=40,
            user="ada",
            metadata={"conversation_id": "c-7"},
            seed=5,
        )
    completion = raw.parse()
    assert completion.model == agent.model
    assert completion.usage
    assert completion.usage.completion_tokens == 20
    (call,) = provider.calls(upstream(agent.model))
    sent = {name: call["body"].get(name) for name in ("model", "max_completion_tokens", "max_tokens", "seed", "user")}
    assert sent == {
        "model": upstream(agent.model), "max_completion_tokens": 40, "max_tokens": None, "seed": 5, "user": "ada",
    }  # fmt: skip
    entry = agent.entry()
    assert (entry.customer, entry.conversation, entry.request_id) == ("ada", "c-7", raw.headers["X-Request-Id"])


@pytest.mark.parametrize(
    ("given", "is_kept"), [("order-7:attempt.2_a", True), ("x" * 128, True), ("x" * 129, False), ("a b", False)]
)
def test_the_callers_own_request_id_is_kept_if_it_is_sane(hire: Hire, given: str, is_kept: bool) -> None:
    agent = hire()
    for answer in (agent.chat({"X-Request-Id": given}), agent.chat({"X-Request-Id": given}, messages=[])):
        assert (answer.headers["X-Request-Id"] == given) is is_kept
    assert (agent.entry().request_id == given) is is_kept


@ENDPOINTS
def test_a_tenant_that_hides_money_shows_none(hire: Hire, provider: Provider, path: str) -> None:
    agent = hire(limit_ticks=hold_of(100), floor_max_tokens=100, hide_money=True)
    provider.behave(upstream(agent.model), usage={**COUNTED, **FIGURES_OF_COST, "cost_in_usd_ticks": COST})
    maximum = "maxTokens" if path == "/api/chat" else "max_tokens"
    served = post(agent, path, **{maximum: 100})
    refused = post(agent, path, **{maximum: 100})
    assert (served.status_code, refused.status_code) == (200, 429)
    for answer in (served, refused):
        said = f"{answer.text} {answer.headers}".lower()
        assert not any(word in said for word in ("usd", "$", "cost"))
        assert answer.headers["X-Guard-Budget-State"] in ("active", "warned", "stopped")
    if path != "/api/chat":
        assert served.json()["usage"] == COUNTED
    assert agent.entries()[0].cost_ticks == COST


@pytest.mark.parametrize(
    ("words", "is_shown"),
    [("a picture costs $0.40 more", False), ("the USD limit is reached", False), ("temperature is too hot", True)],
)
def test_where_money_is_hidden_a_providers_words_are_passed_on_unless_they_speak_of_it(
    hire: Hire, provider: Provider, words: str, is_shown: bool
) -> None:
    agent = hire(hide_money=True)
    provider.behave(upstream(agent.model), status=400, body={"error": {"message": words, "param": "temperature"}})
    error = error_of(agent.chat(), 400, "invalid_request")
    assert error["param"] == "temperature"
    assert (error["message"] == words) is is_shown


# Errors of the caller


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": ["hello"]}, "messages.0"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages.0.role"),
        ({"messages": [*HELLO, {"role": "user", "content": 5}]}, "messages.1.content"),
        ({"model": "no-such-model"}, "model"),
        ({"model": 5}, "model"),
    ],
)
@ENDPOINTS
def test_a_bad_body_is_refused_naming_its_field(
    hire: Hire, provider: Provider, path: str, body: dict[str, Any], param: str
) -> None:
    agent = hire()
    error = error_of(post(agent, path, **body), 400, "invalid_request")
    assert (error["param"], error["type"]) == (param, "invalid_request_error")
    nothing_happened(agent, provider)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/api/chat", {"tenantId": None}, "tenantId"),
        ("/api/chat", {"maxTokens": 0}, "maxTokens"),
        ("/api/chat", {"maxTokens": "9"}, "maxTokens"),
        ("/api/chat", {"customerId": 7}, "customerId"),
        ("/api/chat", {"conversationId": "x" * 256}, "conversationId"),
        ("/api/chat", {"max_tokens": 5}, "max_tokens"),
        ("/v1/chat/completions", {"model": None}, "model"),
        ("/v1/chat/completions", {"max_tokens": -1}, "max_tokens"),
        ("/v1/chat/completions", {"service_tier": "priority"}, "service_tier"),
        ("/v1/chat/completions", {"web_search_options": {}}, "web_search_options"),
        ("/v1/chat/completions", {"brand_new_parameter": 1}, "brand_new_parameter"),
    ],
)
def test_a_bad_parameter_is_refused_by_its_name(
    hire: Hire, provider: Provider, path: str, body: dict[str, Any], param: str
) -> None:
    agent = hire()
    assert error_of(post(agent, path, **body), 400, "invalid_request")["param"] == param
    nothing_happened(agent, provider)


@ENDPOINTS
def test_what_is_no_call_at_all(hire: Hire, path: str) -> None:
    client = hire().client
    error_of(client.post(path, data=b"{", headers={"Content-Type": "application/json"}), 400, "invalid_request")
    error_of(client.post(path, json=["hello"]), 400, "invalid_request")
    error_of(client.post(path, data=b"x=1", headers={"Content-Type": "text/plain"}), 415, "unsupported_media_type")
    error_of(client.post(path, json={"messages": "x" * 20_000}), 413, "request_too_large")
    for method in ("GET", "OPTIONS", "PUT", "DELETE"):
        answer = client.request(method, path)
        assert error_of(answer, 405, "method_not_allowed")["type"] == "invalid_request_error"
        assert answer.headers["Allow"] == "POST"


UNREADABLE = {"Content-Type": "application/json; charset*=bogus''utf-8"}


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions", "/api/budget", "/v1/models"])
def test_a_request_that_django_cannot_read_is_refused_in_the_envelope(hire: Hire, path: str) -> None:
    client = hire().client
    answer = client.post(path, data=b"{}", headers={**UNREADABLE, "X-Request-Id": "odd-1"})
    error_of(answer, 400, "invalid_request")
    assert answer.headers["X-Request-Id"] == "odd-1"


@ENDPOINTS
@pytest.mark.parametrize("header", [None, "Bearer", "Bearer nonsense", "Token {}", "Bearer {}x", "{}"])
def test_without_a_good_key_there_is_no_call(hire: Hire, server: GuardServer, path: str, header: str | None) -> None:
    agent = hire()
    headers = {"Authorization": header.format(agent.secret)} if header else {}
    answer = server.client.post(path, json={"tenantId": agent.tenant_id, "messages": HELLO}, headers=headers)
    assert error_of(answer, 401, "invalid_api_key")["type"] == "authentication_error"
    assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_the_key_of_another_tenant_says_nothing_of_it(hire: Hire, provider: Provider) -> None:
    agent, other = hire(), hire(name="Secret Plc", is_active=False)
    answers = [agent.own_chat(tenantId=tenant_id) for tenant_id in (other.tenant_id, "nobody")]
    messages = {error_of(answer, 403, "forbidden")["message"] for answer in answers}
    assert len(messages) == 1
    assert other.tenant_id not in messages.pop()
    nothing_happened(other, provider)


@ENDPOINTS
def test_a_disabled_tenant_may_not_call(hire: Hire, provider: Provider, path: str) -> None:
    agent = hire(is_active=False)
    assert error_of(post(agent, path), 403, "forbidden")["type"] == "permission_error"
    nothing_happened(agent, provider)


def test_a_call_in_flight_keeps_its_price_when_the_operator_goes_back_to_the_catalogues(
    hire: Hire, server: GuardServer, provider: Provider
) -> None:
    agent = hire(prices={"primary": TWICE})
    with server.database():
        PriceFactory.create(model_id=agent.model, starts_at=BEGINNING, source=PriceSource.CATALOGUE)
    provider.behave(upstream(agent.model), usage=USAGE, chunks=5, chunk_delay_s=0.3)
    answer = agent.stream(stream_options={"include_usage": True})
    eventually(lambda: agent.pending() == 1)
    with server.database():
        assert back_to_catalogue(CatalogueModel.objects.get(pk=agent.model), timezone.now())
    assert chunks_of(answer)
    assert [entry.cost_ticks for entry in agent.entries()] == [2 * COST]
    agent.chat()
    assert [entry.cost_ticks for entry in agent.entries(2)] == [2 * COST, COST]


def test_a_model_must_be_allowed_and_priced(hire: Hire, server: GuardServer, provider: Provider) -> None:
    with server.database(), transaction.atomic():
        agent = make_agent(server)
        foreign = CatalogueModelFactory.create().id
        CatalogueModelFactory.create(id="unpriced-model", price=None)
        DowngradeRuleFactory.create(tenant_id=agent.tenant_id, tenant=None, to_model_id="unpriced-model", to_model=None)
    error_of(agent.chat(model=foreign), 403, "forbidden")
    assert error_of(agent.chat(model="unpriced-model"), 400, "invalid_request")["param"] == "model"
    nothing_happened(agent, provider)


# Budgets


@ENDPOINTS
def test_a_spent_budget_refuses_and_says_when_to_come_again(hire: Hire, provider: Provider, path: str) -> None:
    agent = hire(limit_ticks=hold_of(FLOOR) - 1)
    answer = post(agent, path)
    assert error_of(answer, 429, "budget_exceeded")["type"] == "insufficient_quota"
    assert answer.headers["x-should-retry"] == "false"
    assert 0 < int(answer.headers["Retry-After"]) <= 86_400
    assert answer.headers["X-Guard-Budget-State"] == "stopped"
    assert answer.headers["X-Guard-Budget-Limit-Usd"] == usd_string(hold_of(FLOOR) - 1)
    nothing_happened(agent, provider)
    eventually(lambda: [(call.outcome, call.code) for call in agent.calls()] == [("refused", "budget_exceeded")])


def test_the_openai_client_asks_a_spent_budget_exactly_once(hire: Hire, server: GuardServer) -> None:
    agent = hire(limit_ticks=1)
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=agent.secret)
    with client, pytest.raises(openai.RateLimitError) as raised:
        client.chat.completions.create(model="auto", messages=HELLO)  # type: ignore[arg-type]
    assert raised.value.code == "budget_exceeded"
    eventually(lambda: len(agent.calls()) > 0)
    time.sleep(0.1)
    assert len(agent.calls()) == 1


def test_a_budget_in_total_never_comes_back(hire: Hire) -> None:
    answer = hire(limit_ticks=1, period="total").chat()
    error_of(answer, 429, "budget_exceeded")
    assert "Retry-After" not in answer.headers
    assert "X-Guard-Budget-Reset" not in answer.headers


def test_what_other_calls_hold_is_said_to_be_held(hire: Hire, provider: Provider) -> None:
    agent = hire(limit_ticks=hold_of(100) + hold_of(FLOOR) - 1)
    provider.behave(upstream(agent.model), usage=USAGE, chunks=2, stall_after_chunks=1)
    with agent.stream(max_tokens=100):
        answer = agent.chat(max_tokens=100)
        error = error_of(answer, 429, "budget_held")
    assert error["type"] == "rate_limit_error"
    assert (answer.headers["Retry-After"], answer.headers["x-should-retry"]) == ("1", "true")
    assert len(provider.calls(upstream(agent.model))) == 1


def test_a_call_waits_for_the_holds_of_others_to_end(patient_server: GuardServer, provider: Provider) -> None:
    agent = hire_at(patient_server, provider, limit_ticks=hold_of(100) + hold_of(FLOOR) - 1)
    provider.behave(upstream(agent.model), usage=USAGE, latency_s=0.2)
    with ThreadPoolExecutor() as threads:
        answers = list(threads.map(lambda _: agent.chat(max_tokens=100), range(2)))
    assert [answer.status_code for answer in answers] == [200, 200]


def test_near_the_cap_an_answer_is_shortened_to_what_is_left(hire: Hire, provider: Provider) -> None:
    agent = hire(limit_ticks=hold_of(70))
    assert agent.chat(max_tokens=1_000).status_code == 200
    (call,) = provider.calls(upstream(agent.model))
    assert call["body"]["max_completion_tokens"] == 70
    assert agent.entry().hold_ticks == hold_of(70)


def test_a_tenant_without_a_budget_has_the_default(hire: Hire) -> None:
    assert hire().own_chat().json()["budget"]["limitUsd"] == "5.00"
    six_usd_at_the_floor = (1, 6 * TICKS_PER_USD // FLOOR)
    refused = hire(prices={"primary": six_usd_at_the_floor, "fallback": six_usd_at_the_floor}).chat()
    error_of(refused, 429, "budget_exceeded")
    assert refused.headers["X-Guard-Budget-Limit-Usd"] == "5.00"


@pytest.mark.parametrize(("at_once", "latency_s"), [(1, 0.02), (20, 0.02), (20, 0.4)])
def test_calls_without_a_maximum_are_served_while_there_is_money(
    patient_server: GuardServer, provider: Provider, at_once: int, latency_s: float
) -> None:
    """20 are affordable at what they cost; each is held at five times that, and not one may starve for it."""
    agent = hire_at(patient_server, provider)
    answered = 200
    provider.behave(upstream(agent.model), content="word " * answered, latency_s=latency_s)
    cost = int(Decimal(agent.chat().headers["X-Guard-Cost-Usd"]) * TICKS_PER_USD)
    with agent.server.database():
        BudgetFactory.create(tenant_id=agent.tenant_id, tenant=None, limit_ticks=21 * cost)

    with ThreadPoolExecutor(at_once) as threads:
        answers = list(threads.map(lambda _: agent.chat(), range(20)))
    assert [answer.status_code for answer in answers] == [200] * 20
    cut_short = sum(answer.json()["choices"][0]["finish_reason"] == "length" for answer in answers)
    assert cut_short <= 3  # the last ones get what is left
    assert sum(entry.cost_ticks for entry in agent.entries()) <= 21 * cost


# Costs


def test_the_providers_own_figure_wins_and_ours_is_kept(hire: Hire, provider: Provider) -> None:
    agent = hire()
    provider.behave(upstream(agent.model), usage={**USAGE, "cost_in_usd_ticks": 232_856})
    answer = agent.chat()
    assert answer.headers["X-Guard-Cost-Usd"] == usd_string(232_856)
    assert answer.json()["usage"]["cost_in_usd_ticks"] == 232_856
    entry = agent.entry()
    assert (entry.cost_ticks, entry.provider_ticks, entry.computed_ticks) == (232_856, 232_856, COST)


def test_without_a_usage_the_hold_is_the_cost_and_it_is_flagged(hire: Hire, provider: Provider) -> None:
    agent = hire()
    provider.behave(upstream(agent.model), usage=None)
    answer = agent.chat(max_tokens=100)
    assert answer.headers["X-Guard-Cost-Usd"] == usd_string(hold_of(100))
    entry = agent.entry()
    assert (entry.cost_ticks, entry.computed_ticks, entry.is_estimated) == (hold_of(100), None, True)


def test_an_overrun_is_recorded_in_full_and_the_bound_learns_from_it(
    hire: Hire, server: GuardServer, provider: Provider
) -> None:
    agent = hire()
    hidden_prompt = {"prompt_tokens": BOUND * 3, "completion_tokens": 10, "total_tokens": BOUND * 3 + 10}
    provider.behave(upstream(agent.model), usage=hidden_prompt)
    cost = BOUND * 3 * INPUT + 10 * OUTPUT
    assert agent.chat(max_tokens=10).headers["X-Guard-Cost-Usd"] == usd_string(cost)
    entry = agent.entry()
    assert (entry.cost_ticks, entry.hold_ticks, entry.is_overrun) == (cost, hold_of(10), True)
    with server.database():
        assert CatalogueModel.objects.get(pk=agent.model).input_surplus_tokens == BOUND * 2
    eventually(lambda: agent.chat(max_tokens=10).ok and agent.entries()[-1].hold_ticks >= cost, within_s=2)
    assert not agent.entries()[-1].is_overrun


def test_the_bound_that_learns_knows_of_images(hire: Hire, server: GuardServer, provider: Provider) -> None:
    agent = hire()
    with server.database():
        model = CatalogueModel.objects.get(pk=agent.model)
        model.image_allowance_tokens = 1_000
        model.save()
    text = bound_input_tokens([{**HELLO[0], "content": []}])
    twice = 2 * (text + 1_000)
    provider.behave(upstream(agent.model), usage={"prompt_tokens": twice, "completion_tokens": 1})
    assert agent.chat(messages=SEEN, max_tokens=10).status_code == 200
    with server.database():
        assert CatalogueModel.objects.get(pk=agent.model).input_surplus_tokens == text + 1_000


# Downgrades


def test_past_the_soft_cap_calls_move_to_the_cheaper_model_and_say_so(hire: Hire, provider: Provider) -> None:
    agent = hire(limit_ticks=2 * hold_of(100), soft_cap=Decimal("0.5"), downgrades=True, prices={"fallback": CHEAPER})
    assert agent.chat(max_tokens=99).headers["X-Guard-Route"] == "primary"
    answer = agent.own_chat(maxTokens=100, model=agent.model)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["model"], body["requestedModel"], body["route"]) == (agent.fallback, agent.model, "downgrade")
    assert answer.headers["X-Guard-Model"] == agent.fallback
    assert answer.headers["X-Guard-Requested-Model"] == agent.model
    assert answer.headers["X-Guard-Route"] == "downgrade"
    assert len(provider.calls(upstream(agent.model))) == 1
    _, second = agent.entries()
    assert (second.model, second.requested_model, second.route) == (agent.fallback, agent.model, "downgrade")
    (call,) = [call for call in agent.calls() if call.id == second.call_id]
    assert [step["decision"] for step in call.steps] == ["past_soft_cap", "held", "served"]


@pytest.mark.parametrize(("downgrades", "state"), [(True, "degraded"), (False, "warned")])
def test_a_budget_past_its_soft_cap_is_degraded_or_where_there_is_no_rule_warned_of(
    hire: Hire, downgrades: bool, state: str
) -> None:
    agent = hire(
        limit_ticks=5 * hold_of(100), soft_cap=Decimal("0.0001"), downgrades=downgrades, prices={"fallback": CHEAPER}
    )
    answer = agent.chat(max_tokens=100)
    assert answer.headers["X-Guard-Route"] == ("downgrade" if downgrades else "primary")
    assert answer.headers["X-Guard-Budget-State"] == state


def test_a_downgrade_that_would_cost_more_is_not_taken(hire: Hire, provider: Provider) -> None:
    agent = hire(limit_ticks=2 * hold_of(100), soft_cap=Decimal("0.01"), downgrades=True, prices={"fallback": TWICE})
    assert agent.chat(max_tokens=100).headers["X-Guard-Route"] == "primary"
    assert not provider.calls(upstream(agent.fallback))


def test_a_ladder_leads_to_a_cheaper_model_and_then_to_shorter_answers_and_says_so(hire: Hire) -> None:
    agent = hire(
        limit_ticks=10 * hold_of(100), soft_cap=Decimal("0.0001"), further_steps="0.02 %: 70 tokens",
        downgrades=True, prices={"fallback": CHEAPER},
    )  # fmt: skip
    answer = agent.own_chat(maxTokens=100, model=agent.model)
    assert answer.headers["X-Guard-Route"] == "downgrade"
    assert answer.headers["X-Guard-Max-Tokens"] == "70"
    assert answer.headers["X-Guard-Budget-Step"] == "2/2"
    assert (answer.json()["budget"]["step"], answer.json()["budget"]["steps"]) == (2, 2)
    (entry,), (call,) = agent.entries(), agent.calls()
    with agent.server.database():
        assert (entry.step, entry.reservation.step, entry.reservation.max_tokens) == (2, 2, 70)
    assert [step["decision"] for step in call.steps] == ["past_soft_cap", "shortened", "held", "served"]


def test_without_a_ladder_nothing_of_one_is_said(hire: Hire) -> None:
    answer = hire(limit_ticks=10 * hold_of(100), soft_cap=Decimal("0.0001")).own_chat(maxTokens=100)
    assert "X-Guard-Budget-Step" not in answer.headers
    assert "step" not in answer.json()["budget"]


# Fallbacks


@pytest.mark.parametrize(
    ("failure", "code", "is_billed"),
    [
        ({"status": 500}, "server_error", False),
        ({"status": 503}, "server_error", False),
        ({"status": 429}, "rate_limited", False),
        ({"status": 401}, "provider_refused_key", False),
        ({"status": 403}, "provider_refused_key", False),
        ({"status": 404}, "model_not_found", False),
        ({"status": 408}, "timeout", True),
        ({"status": 504}, "timeout", True),
        ({"hang": True}, "timeout", True),
        ({"break_connection": "before"}, "connection_failed", True),
        ({"break_connection": "mid"}, "connection_failed", True),
        ({"body": "no JSON"}, "bad_answer", True),
        ({"body": {"no": "choices"}}, "bad_answer", True),
        ({"body": {"choices": ["no object"]}}, "bad_answer", True),
        ({"body": {"choices": [{"message": "no object"}]}}, "bad_answer", True),
    ],
)
def test_a_failing_provider_falls_back_once_repriced_and_held_anew(
    hire: Hire, provider: Provider, failure: dict[str, Any], code: str, is_billed: bool
) -> None:
    """Where nobody knows whether the failed attempt was billed, it is settled at its hold."""
    agent = hire(prices={"fallback": TWICE})
    provider.behave(upstream(agent.model), **failure)
    answer = agent.own_chat(maxTokens=100)
    assert answer.status_code == 200, answer.text
    assert (answer.json()["model"], answer.json()["route"]) == (agent.fallback, "fallback")
    assert [len(provider.calls(upstream(name))) for name in (agent.model, agent.fallback)] == [1, 1]
    entries = {entry.model: entry for entry in agent.entries()}
    served = entries.pop(agent.fallback)
    assert (served.cost_ticks, served.hold_ticks, served.route) == (2 * COST, 2 * hold_of(100), "fallback")
    assert [(entry.cost_ticks, entry.is_estimated) for entry in entries.values()] == [(hold_of(100), True)] * is_billed
    assert answer.json()["costUsd"] == usd_string(2 * COST + hold_of(100) * is_billed)
    (call,) = agent.calls()
    assert {"model": agent.model, "decision": "failed", "code": code} in call.steps


def test_a_bad_request_of_the_callers_is_the_callers_error(hire: Hire, server: GuardServer, provider: Provider) -> None:
    agent = hire()
    words = {"error": {"message": "temperature is too hot", "param": "temperature", "type": "x", "code": None}}
    provider.behave(upstream(agent.model), status=400, body=words)
    for _ in range(6):
        error = error_of(agent.chat(temperature=9), 400, "invalid_request")
    assert (error["param"], error["message"]) == ("temperature", "temperature is too hot")
    assert not provider.calls(upstream(agent.fallback))
    with server.database():
        assert not Breaker.objects.filter(pk=agent.model).exists()
        assert not LedgerEntry.objects.filter(tenant_id=agent.tenant_id).exists()
        assert set(Reservation.objects.filter(tenant_id=agent.tenant_id).values_list("state", flat=True)) == {"voided"}


@ENDPOINTS
def test_with_every_model_failing_each_is_named(hire: Hire, provider: Provider, path: str) -> None:
    agent = hire()
    provider.behave(upstream(agent.model), status=500)
    provider.behave(upstream(agent.fallback), status=429)
    answer = post(agent, path)
    error = error_of(answer, 503, "all_models_failed")
    assert error["attempts"] == [
        {"model": agent.model, "code": "server_error"},
        {"model": agent.fallback, "code": "rate_limited"},
    ]
    assert error["message"] == "No model on the route could answer."
    assert int(answer.headers["Retry-After"]) > 0
    assert "x-should-retry" not in answer.headers
    eventually(lambda: [(call.outcome, call.cost_ticks) for call in agent.calls()] == [("failed", 0)])


def test_pictures_that_no_model_has_a_price_for_are_the_callers_to_leave_out(hire: Hire, provider: Provider) -> None:
    agent = hire()
    with agent.server.database():
        CatalogueModel.objects.filter(pk=agent.fallback).update(is_enabled=False)
        raise_revision()
    answer = agent.chat(messages=SEEN)
    assert error_of(answer, 400, "invalid_request")["param"] == "messages"
    assert "Retry-After" not in answer.headers
    nothing_happened(agent, provider)


def test_pictures_wait_for_a_model_that_has_a_price_for_them(hire: Hire, provider: Provider) -> None:
    agent = hire()
    with agent.server.database():
        model = CatalogueModel.objects.get(pk=agent.fallback)
        model.image_allowance_tokens = 1_000
        model.save()
    provider.behave(upstream(agent.fallback), status=500)
    answer = agent.chat(messages=SEEN)
    assert error_of(answer, 503, "all_models_failed")["attempts"] == [
        {"model": agent.fallback, "code": "server_error"},
        {"model": agent.model, "code": "images_not_priced"},
    ]
    assert answer.headers["Retry-After"] == "5"


def test_a_route_that_no_waiting_mends_is_not_to_be_asked_again_soon(hire: Hire, provider: Provider) -> None:
    agent = hire()
    with agent.server.database():
        CatalogueModel.objects.filter(pk=agent.model).update(is_enabled=False)
        Price.objects.filter(model_id=agent.fallback).delete()
        raise_revision()
    client = openai.OpenAI(base_url=f"{agent.server.url}/v1", api_key=agent.secret)
    with client, pytest.raises(openai.InternalServerError) as raised:
        client.chat.completions.create(model="auto", messages=HELLO)  # type: ignore[arg-type]
    assert {name: raised.value.response.headers.get(name) for name in ("Retry-After", "x-should-retry")} == {
        "Retry-After": "60", "x-should-retry": "false",
    }  # fmt: skip
    eventually(lambda: len(agent.calls()) == 1)
    nothing_happened(agent, provider)


@ENDPOINTS
def test_a_failure_that_was_charged_says_so_and_is_not_retried(hire: Hire, provider: Provider, path: str) -> None:
    """Each retry would hold, and perhaps pay, as much again: even the OpenAI client asks once."""
    agent = hire()
    provider.behave(upstream(agent.model), break_connection="before")
    provider.behave(upstream(agent.fallback), status=500)
    answer = post(agent, path)
    error = error_of(answer, 503, "all_models_failed")
    assert "was charged" in error["message"]
    assert answer.headers["x-should-retry"] == "false"
    entry = agent.entry()
    assert entry.cost_ticks == entry.hold_ticks
    (call,) = agent.calls()
    assert (call.outcome, call.model, call.route) == ("failed", agent.model, "primary")
    spent = agent.client.get("/api/spend").json()
    assert (spent["totalCalls"], spent["modelsUsed"]) == (1, {agent.model: 1})


def test_a_fallback_that_costs_more_than_is_left_is_refused_and_nothing_is_billed(
    hire: Hire, provider: Provider
) -> None:
    agent = hire(limit_ticks=hold_of(100), prices={"fallback": TEN_TIMES})
    provider.behave(upstream(agent.model), status=500)
    error_of(agent.chat(max_tokens=100), 429, "budget_exceeded")
    assert len(provider.calls(upstream(agent.model))) == 1
    assert not provider.calls(upstream(agent.fallback))
    with agent.server.database():
        assert not LedgerEntry.objects.filter(tenant_id=agent.tenant_id).exists()
        assert not Reservation.objects.filter(tenant_id=agent.tenant_id, state="pending").exists()


def test_a_fallback_is_held_against_the_budget_as_it_is_by_then(hire: Hire, provider: Provider) -> None:
    """A provider may hang for minutes; whoever cuts the budget meanwhile means it."""
    agent = hire(limit_ticks=TICKS_PER_USD)
    provider.behave(upstream(agent.model), status=500, latency_s=TIMEOUT_S * 0.9)
    with ThreadPoolExecutor() as threads:
        answer = threads.submit(agent.chat, max_tokens=100)
        eventually(lambda: len(provider.calls(upstream(agent.model))) == 1)
        with agent.server.database(wait=False):
            budget = Budget.objects.get(tenant_id=agent.tenant_id)
            budget.limit_ticks = 1
            budget.save()
        error_of(answer.result(), 429, "budget_exceeded")


# Errors of ours


@contextmanager
def ledger_away(server: GuardServer) -> Iterator[None]:
    """The database answers, but takes no hold and no settlement."""
    with server.database(), connection.cursor() as cursor:
        cursor.execute("ALTER TABLE spend_reservation RENAME TO spend_reservation_away")
    try:
        yield
    finally:
        with server.database(), connection.cursor() as cursor:
            cursor.execute("ALTER TABLE spend_reservation_away RENAME TO spend_reservation")


@ENDPOINTS
def test_without_a_ledger_no_provider_is_called(hire: Hire, server: GuardServer, provider: Provider, path: str) -> None:
    agent = hire()
    with ledger_away(server):
        answer = post(agent, path)
        error = error_of(answer, 503, "ledger_unavailable")
        assert answer.headers["Retry-After"] == "1"
        assert "spend_reservation" not in error["message"]
    nothing_happened(agent, provider)
    assert post(agent, path).status_code == 200


def test_a_ledger_that_goes_away_during_a_call_gets_its_settlement_when_it_is_back(
    hire: Hire, server: GuardServer, provider: Provider
) -> None:
    agent = hire()
    provider.behave(upstream(agent.model), usage=USAGE, latency_s=0.3)
    with ThreadPoolExecutor() as threads:
        answer = threads.submit(agent.chat)
        eventually(lambda: len(provider.calls(upstream(agent.model))) == 1)
        with ledger_away(server):
            time.sleep(0.6)
            assert not answer.done()
        assert answer.result().status_code == 200
    assert agent.entry().cost_ticks == COST


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
def test_a_defect_of_ours_leaks_nothing_and_is_logged(
    rf: RequestFactory, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    answer = answer_to(KeyError("a secret of the provider's"), {"request": rf.post(path)})
    error = json.loads(answer.content)["error"]
    assert (answer.status_code, error["code"], error["type"]) == (500, "internal_error", "api_error")
    for leak in ("secret", "Traceback", "KeyError"):
        assert leak not in error["message"]
    assert "a secret of the provider's" in caplog.text


def test_a_row_that_cannot_be_read_keeps_the_policy_as_it_is_only_until_it_is_mended(
    hire: Hire, server: GuardServer
) -> None:
    agent = hire()
    assert agent.chat().status_code == 200  # its key is known from here on
    with server.database():
        Tenant.objects.filter(pk=agent.tenant_id).update(time_zone="Nowhere/Atall")
        raise_revision()
    assert agent.chat().status_code == 200
    with server.database(wait=False):
        Tenant.objects.filter(pk=agent.tenant_id).update(time_zone="UTC")
        raise_revision()
    assert hire().chat().status_code == 200


# Two workers


def by_every_worker(agent: Agent, calls: int = 12, **body: Any) -> set[int]:
    """The statuses of calls on connections of their own, which the kernel spreads over the workers."""
    with ThreadPoolExecutor(calls) as threads:
        return {answer.status_code for answer in threads.map(lambda _: agent.chat(**body), range(calls))}


def test_changes_are_seen_by_every_worker_within_a_second(shared_pair: GuardServer, provider: Provider) -> None:
    """Each `database()` returns a second after it changed something."""
    with shared_pair.database(), transaction.atomic():
        agent = make_agent(shared_pair, limit_ticks=TICKS_PER_USD)
    assert by_every_worker(agent) == {200}
    with shared_pair.database():
        budget = Budget.objects.get(tenant_id=agent.tenant_id)
        budget.limit_ticks = 1
        budget.save()
    assert by_every_worker(agent) == {429}
    with shared_pair.database():
        budget.limit_ticks = TICKS_PER_USD
        budget.save()
        key = ApiKey.objects.get(tenant_id=agent.tenant_id)
        key.expires_at = timezone.now() + timedelta(seconds=3)
        key.save()
    assert by_every_worker(agent) == {200}
    eventually(lambda: by_every_worker(agent) == {401})
    with shared_pair.database():
        key.expires_at = None
        key.save()
    assert by_every_worker(agent) == {200}
    with shared_pair.database():
        key.revoke(timezone.now())
    assert by_every_worker(agent) == {401}


def test_the_breaker_is_shared_by_the_workers_and_lets_probes_through(
    shared_pair: GuardServer, provider: Provider
) -> None:
    with shared_pair.database(), transaction.atomic():
        agent = make_agent(shared_pair)
    primary = upstream(agent.model)

    def let_it_half_open() -> None:
        with shared_pair.database():
            opened_at = timezone.now() - timedelta(seconds=OPEN_S)
            assert Breaker.objects.filter(pk=agent.model, opened_at__isnull=False).update(opened_at=opened_at) == 1
        shared_pair.wait_until_it_is_read()

    def opened_at() -> datetime | None:
        with shared_pair.database():
            return Breaker.objects.get(pk=agent.model).opened_at

    provider.behave(primary, status=500)
    for call in range(FAILURES_TO_OPEN):
        assert opened_at() is None if call else True
        assert agent.chat().headers["X-Guard-Route"] == "fallback"
    assert opened_at() is not None
    shared_pair.wait_until_it_is_read()
    assert by_every_worker(agent) == {200}
    assert len(provider.calls(primary)) == FAILURES_TO_OPEN
    with shared_pair.database():
        spared, *_ = Call.objects.filter(tenant=agent.tenant_id).latest("at").steps
        assert spared == {"model": agent.model, "decision": "circuit_open"}

    let_it_half_open()
    assert by_every_worker(agent) == {200}
    assert FAILURES_TO_OPEN < len(provider.calls(primary)) <= FAILURES_TO_OPEN + PROBES
    failed = opened_at()
    assert failed is not None
    assert failed > timezone.now() - timedelta(seconds=OPEN_S / 2)

    provider.reset()
    let_it_half_open()
    assert by_every_worker(agent) == {200}
    assert len(provider.calls(primary)) >= PROBES
    eventually(lambda: opened_at() is None)
    shared_pair.wait_until_it_is_read()
    assert agent.chat().headers["X-Guard-Route"] == "primary"
