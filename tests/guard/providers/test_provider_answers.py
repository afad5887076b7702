"""What providers really answer, over real HTTP: what callers get, what is charged, and what operators read."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import requests
from django.db import transaction
from django.test import Client as Browser

from spend.models import Breaker, CatalogueModel, LedgerEntry, PriceTier
from tenants.money import TICKS_PER_USD
from tenants.trail import raise_revision
from tests.factories import ApiKeyFactory, BudgetFactory, RouteStepFactory, UserFactory
from tests.support.agents import HELLO, Agent, eventually, served_by, upstream
from tests.support.provider import Provider
from tests.support.server import GuardServer

pytestmark = pytest.mark.once

Json = dict[str, Any]
USAGE = {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30}
COST = 10 * 12_500 + 20 * 25_000

Hire = Callable[..., Agent]


@pytest.fixture
def server(shared_server: GuardServer) -> GuardServer:
    return shared_server


@pytest.fixture
def agent(server: GuardServer, provider: Provider) -> Agent:
    """Its fallback serves, and is billed COST."""
    agent = Agent.hire(server)
    provider.behave(upstream(agent.fallback), usage=USAGE)
    return agent


class Asking:
    """One of the four ways to ask: an endpoint, plain or streamed."""

    def __init__(self, path: str, stream: bool) -> None:
        self.path, self.stream = path, stream

    def ask(self, agent: Agent, **body: Any) -> requests.Response:
        own = {"model": agent.model, **body}
        return agent.own_chat(stream=self.stream, **own) if self.path == "/api/chat" else agent.chat(
            stream=self.stream, **own
        )  # fmt: skip


@pytest.fixture(params=["/api/chat", "/v1/chat/completions"])
def path(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[False, True], ids=["plain", "stream"])
def asking(request: pytest.FixtureRequest, path: str) -> Asking:
    return Asking(path, request.param)


def failed_code(agent: Agent) -> str:
    (call,) = agent.calls()
    (step,) = [step for step in call.steps if step["decision"] == "failed"]
    return str(step["code"])


@pytest.mark.parametrize("name", ["xai-content", "xai-content-old"])
def test_refused_content_is_the_callers_and_goes_nowhere_else(
    agent: Agent, provider: Provider, asking: Asking, name: str
) -> None:
    provider.behave(upstream(agent.model), answer=name)
    for _ in range(6):
        answer = asking.ask(agent)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "content_filter")
        assert "usage guidelines" in answer.json()["error"]["message"]
    assert provider.calls(upstream(agent.fallback)) == []
    with agent.server.database():
        assert not Breaker.objects.filter(pk=agent.model).exists()
        assert not LedgerEntry.objects.filter(tenant_id=agent.tenant_id).exists()


FALLS_BACK = {
    "xai-credit": "provider_out_of_money",
    "openai-quota": "provider_out_of_money",
    "payment-required": "provider_out_of_money",
    "xai-access": "provider_refused_key",
    "throttled": "rate_limited",
    "error-within": "rate_limited",
    "error-within-object": "error_within_answer",
    "error-within-null": "error_within_answer",
    "error-within-detail": "server_error",
    "error-event": "rate_limited",
    "error-event-null": "error_within_answer",
    "error-event-object": "error_within_answer",
    "error-event-detail": "server_error",
    "comments-only": "bad_answer",
    "page": "answered_with_page",
    "page-not-found": "answered_with_page",
    "redirect": "redirected",
    "redirect-kept": "redirected",
}


@pytest.mark.parametrize(("name", "code"), FALLS_BACK.items())
def test_an_answer_that_is_none_falls_back_and_costs_nothing(
    agent: Agent, provider: Provider, asking: Asking, name: str, code: str
) -> None:
    provider.behave(upstream(agent.model), answer=name)
    assert served_by(asking.ask(agent)) == agent.fallback
    entry = agent.entry()
    assert (entry.model, entry.cost_ticks) == (agent.fallback, COST)
    assert failed_code(agent) == code
    assert len(provider.calls()) == 2  # nothing was followed, nothing was asked twice


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("xai-credit", "out of money"),
        ("openai-quota", "out of money"),
        ("page", "answered with a page, not as a model provider: check XAI_BASE_URL"),
        ("redirect", "check XAI_BASE_URL"),
        ("xai-access", "no access to this model"),
    ],
)
def test_operators_read_what_only_they_can_mend(agent: Agent, provider: Provider, name: str, words: str) -> None:
    provider.behave(upstream(agent.model), answer=name)
    agent.chat()
    with agent.server.database():
        eventually(lambda: Breaker.objects.filter(pk=agent.model).exists())
        browser = Browser(headers={"host": "localhost"})
        browser.force_login(UserFactory.create(is_staff=True, is_superuser=True))
        home = " ".join(browser.get("/admin/", secure=True).content.decode().split())
        breakers = browser.get("/admin/spend/breaker/", secure=True).content.decode()
        assert words in home
        assert words in breakers
    assert words in agent.server.log_path.read_text()


@pytest.mark.parametrize("name", ["xai-access", "page", "xai-credit"])
def test_a_failure_of_the_accounts_counts_for_the_breaker(agent: Agent, provider: Provider, name: str) -> None:
    provider.behave(upstream(agent.model), answer=name)
    for _ in range(6):
        served_by(agent.chat())
    assert len(provider.calls(upstream(agent.model))) == 5


# Throttles


def test_a_throttle_is_no_breakdown_and_the_model_rests_as_long_as_it_says(
    agent: Agent, provider: Provider, asking: Asking
) -> None:
    provider.behave(upstream(agent.model), answer="throttled-long")
    for _ in range(7):
        assert served_by(asking.ask(agent)) == agent.fallback
    assert len(provider.calls(upstream(agent.model))) == 1
    provider.behave(upstream(agent.fallback), status=500)
    answer = asking.ask(agent)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "all_models_failed")
    assert 50 <= int(answer.headers["Retry-After"]) <= 60
    assert {"model": agent.model, "code": "rate_limited"} in answer.json()["error"]["attempts"]
    with agent.server.database():
        assert not Breaker.objects.filter(pk=agent.model).exists()


def test_after_its_rest_a_model_is_asked_again(agent: Agent, provider: Provider) -> None:
    provider.behave(upstream(agent.model), status=429, headers={"retry-after-ms": "300", "retry-after": "3600"})
    assert served_by(agent.chat()) == agent.fallback
    provider.behave(upstream(agent.model), usage=USAGE)
    eventually(lambda: served_by(agent.chat()) == agent.model, within_s=5)


def test_a_throttle_that_says_nothing_of_a_rest_is_asked_again_at_once(agent: Agent, provider: Provider) -> None:
    provider.behave(upstream(agent.model), status=429)
    for _ in range(7):
        assert served_by(agent.chat()) == agent.fallback
    assert len(provider.calls(upstream(agent.model))) == 7


def test_a_date_to_come_again_is_read(agent: Agent, provider: Provider) -> None:
    at = datetime.now(UTC) + timedelta(seconds=30)
    said = at.strftime("%a, %d %b %Y %H:%M:%S GMT")
    provider.behave(upstream(agent.model), status=429, headers={"retry-after": said})
    provider.behave(upstream(agent.fallback), status=500)
    answer = agent.chat()
    assert answer.status_code == 503
    assert 20 <= int(answer.headers["Retry-After"]) <= 30


# Usage


def said(usage: Json) -> Json:
    return {"content": "hi", "usage": usage}


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": 1000.0, "completion_tokens": 500.0, "total_tokens": 1500.0},
        {"prompt_tokens": "1000", "completion_tokens": "500"},
        {"prompt_tokens": 1000, "completion_tokens": None, "total_tokens": 1500},
        {"prompt_tokens": 1000, "completion_tokens": 500, "prompt_tokens_details": {"cached_tokens": 1001}},
    ],
)
def test_figures_of_a_usage_that_are_there_are_used(
    agent: Agent, provider: Provider, asking: Asking, usage: Json
) -> None:
    provider.behave(upstream(agent.model), **said(usage))
    assert served_by(asking.ask(agent)) == agent.model
    entry = agent.entry()
    assert (entry.input_tokens, entry.cached_input_tokens, entry.output_tokens) == (1000, 0, 500)
    assert (entry.cost_ticks, entry.is_estimated) == (1000 * 12_500 + 500 * 25_000, False)


ABSURD = {"prompt_tokens": 5_000_000, "completion_tokens": 20, "total_tokens": 5_000_020}


@pytest.mark.parametrize(
    ("usage", "output_tokens"),
    [
        ({"prompt_tokens": -1_000_000, "completion_tokens": 50}, 50),
        ({"prompt_tokens": 0, "completion_tokens": 50, "total_tokens": 50}, 50),
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, 1),
        ({"prompt_tokens": None, "completion_tokens": -5}, 1),
        (ABSURD, 20),
    ],
)
def test_impossible_figures_are_counted_flagged_and_teach_nothing(
    agent: Agent, provider: Provider, asking: Asking, usage: Json, output_tokens: int
) -> None:
    provider.behave(upstream(agent.model), **said(usage))
    assert served_by(asking.ask(agent)) == agent.model
    entry = agent.entry()
    assert 10 < entry.input_tokens < 40
    assert entry.output_tokens == output_tokens
    assert entry.cost_ticks == entry.input_tokens * 12_500 + output_tokens * 25_000 < entry.hold_ticks
    assert entry.is_estimated
    (call,) = agent.calls()
    assert "usage_not_believed" in [step["decision"] for step in call.steps]
    assert agent.entry().is_usage_impossible
    assert f"{agent.model}: figures of its provider's usage are impossible" in agent.server.log
    with agent.server.database():
        model = CatalogueModel.objects.get(pk=agent.model)
    assert (model.input_allowance_percent, model.input_surplus_tokens) == (100, 0)


def test_a_given_cost_wins_over_an_absurd_usage(agent: Agent, provider: Provider, asking: Asking) -> None:
    provider.behave(upstream(agent.model), **said({**ABSURD, "cost_in_usd_ticks": 2_709_000}))
    assert served_by(asking.ask(agent)) == agent.model
    entry = agent.entry()
    assert (entry.cost_ticks, entry.is_estimated, entry.is_overrun) == (2_709_000, False, False)
    assert entry.input_tokens < 40


# What comes back


def test_an_answer_of_thoughts_only_is_taken_back_next_turn(agent: Agent, provider: Provider, asking: Asking) -> None:
    """As the maximum cut it: no content, and fields that its provider made up."""
    provider.behave(upstream(agent.model), answer="thinking-only")
    message = agent.chat().json()["choices"][0]["message"]
    assert message["content"] is None
    delivered = {**message, "tool_calls": [], "x_provider": {"signature": "abc"}}
    provider.behave(upstream(agent.model), usage=USAGE)
    assert served_by(asking.ask(agent, messages=[*HELLO, delivered, *HELLO])) == agent.model
    sent = provider.calls(upstream(agent.model))[-1]["body"]["messages"]
    assert sent == [*HELLO, {"role": "assistant", "content": "", "reasoning_content": "thinking"}, *HELLO]


@pytest.mark.parametrize(
    "odd", [{"type": "tool_use"}, {"type": None}, {"function": {"name": "look_up", "arguments": None}}]
)
def test_odd_calls_of_tools_are_taken_back_with_their_results(
    agent: Agent, provider: Provider, asking: Asking, odd: Json
) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}
    message = {"role": "assistant", "content": None, "tool_calls": [{**call, **odd}]}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    provider.behave(upstream(agent.model), body={"choices": [choice], "usage": USAGE})
    delivered = agent.chat().json()["choices"][0]["message"]
    assert delivered == message
    provider.behave(upstream(agent.model), usage=USAGE)
    result = {"role": "tool", "tool_call_id": "call_1", "content": "It is on its way."}
    assert served_by(asking.ask(agent, messages=[*HELLO, delivered, result])) == agent.model
    sent = provider.calls(upstream(agent.model))[-1]["body"]["messages"]
    assert sent == [*HELLO, {**message, "tool_calls": [call]}, result]


# What costs nothing


@pytest.mark.parametrize("spent", ["to the last tick", "beyond the cap"])
def test_a_budget_that_is_used_up_leaves_the_free_model(
    agent: Agent, provider: Provider, asking: Asking, spent: str
) -> None:
    with agent.server.database():
        PriceTier.objects.filter(price__model_id=agent.fallback).update(
            input_ticks=0, cached_input_ticks=0, cache_write_ticks=0, output_ticks=0
        )
        BudgetFactory.create(tenant_id=agent.tenant_id, tenant=None, limit_ticks=TICKS_PER_USD)
        raise_revision()
    usage = {**USAGE, "cost_in_usd_ticks": TICKS_PER_USD + 7 * (spent == "beyond the cap")}
    provider.behave(upstream(agent.model), usage=usage)
    eventually(lambda: agent.chat(max_tokens=100).headers["X-Guard-Budget-Limit-Usd"] == "1.00")
    for _ in range(2):
        answer = asking.ask(agent)
        assert (served_by(answer), answer.headers["X-Guard-Budget-State"]) == (agent.fallback, "stopped")
    assert agent.entries()[-1].cost_ticks == 0


def test_one_tenants_bad_prompts_do_not_shut_a_model_to_others(agent: Agent, provider: Provider) -> None:
    """Their provider answers 500 to them alone."""
    provider.behave(upstream(agent.model), status=500)
    for _ in range(6):
        assert served_by(agent.chat()) == agent.fallback
    assert len(provider.calls(upstream(agent.model))) == 5
    provider.behave(upstream(agent.model), usage=USAGE)
    with agent.server.database(wait=False), transaction.atomic():
        key = ApiKeyFactory.create()
        RouteStepFactory.create(tenant=key.tenant, position=0, model=CatalogueModel.objects.get(pk=agent.model))
    other = replace(agent, tenant_id=key.tenant_id, secret=key.secret)
    assert served_by(other.chat()) == agent.model
    eventually(lambda: served_by(agent.chat()) == agent.model, within_s=5)
