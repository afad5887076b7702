"""Calls that the guard moves to another model: made fit for it, passed over where they can't be, learned from."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest
import requests
from django.db import transaction

from spend.capabilities import Capabilities, of_family
from spend.models import Breaker, CatalogueModel, LearnedCapability, LedgerEntry, PriceTier
from spend.pricing.cost import bound_input_tokens
from tenants.models import Budget
from tenants.money import TICKS_PER_USD
from tenants.trail import raise_revision
from tests.factories import BudgetFactory, DowngradeRuleFactory
from tests.support.agents import HELLO, Agent, audit, chunks_of, eventually, upstream
from tests.support.provider import Provider
from tests.support.server import GuardServer

TOOLS = [{"type": "function", "function": {"name": "find_parcel", "parameters": {"type": "object"}}}]
SCHEMA = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}}}
NO_TEMPERATURE = {
    "status": 400,
    "body": {
        "error": {
            "message": "temperature 0.2 is not supported by this model",
            "type": "invalid_request_error",
            "param": "temperature",
            "code": "unsupported_value",
        }
    },
}
Hire = Callable[..., Agent]


@pytest.fixture(scope="module")
def server(module_server: Callable[..., GuardServer]) -> Any:
    server = module_server(PROVIDER_TIMEOUT_SECONDS="2", HOLD_WAIT_SECONDS="0.5")
    yield server
    audit(server)


@pytest.fixture
def hire(server: GuardServer, provider: Provider) -> Hire:
    """Makes an agent of a budget past its soft cap from the first call on, whose models know and refuse as given."""

    def hire(
        *, primary: Capabilities | None = None, fallback: Capabilities | None = None, soft_cap: str = "0.0001"
    ) -> Agent:
        with server.database(wait=False), transaction.atomic():
            agent = Agent.create(server)
            for name, known in ((agent.model, primary), (agent.fallback, fallback)):
                model = CatalogueModel.objects.get(pk=name)
                model.capabilities = known or Capabilities()
                model.save()
            tier = PriceTier.objects.get(price__model_id=agent.fallback)
            tier.input_ticks, tier.output_ticks = 1_000, 2_000
            tier.save()
            BudgetFactory.create(tenant_id=agent.tenant_id, tenant=None, soft_cap=Decimal(soft_cap))
            DowngradeRuleFactory.create(
                tenant_id=agent.tenant_id, tenant=None, to_model_id=agent.fallback, to_model=None
            )
        return agent

    return hire


def sent_to(provider: Provider, model: str) -> list[dict[str, Any]]:
    return [call["body"] for call in provider.calls(upstream(model))]


def decisions(agent: Agent) -> list[tuple[str, str]]:
    """The steps of the agent's only call."""
    eventually(lambda: len(agent.calls()) == 1)
    (call,) = agent.calls()
    return [(step["model"], step["decision"]) for step in call.steps]


def lessons(agent: Agent) -> list[tuple[str, str, str]]:
    with agent.server.database():
        learned = LearnedCapability.objects.filter(model_id__in=[agent.model, agent.fallback])
        return list(learned.order_by("id").values_list("model_id", "kind", "name"))


def chat(agent: Agent, *, stream: bool, **body: Any) -> requests.Response:
    answer = agent.chat(stream=stream, **body)
    assert answer.status_code == 200, answer.text
    assert not stream or chunks_of(answer)
    return answer


STREAMED = pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])


@STREAMED
def test_a_call_that_is_moved_is_made_fit_and_says_so(hire: Hire, provider: Provider, stream: bool) -> None:
    agent = hire(fallback=of_family("gpt-6-luna"))
    answer = chat(agent, stream=stream, temperature=0.2, stop=["x"], seed=4)
    assert (answer.headers["X-Guard-Model"], answer.headers["X-Guard-Route"]) == (agent.fallback, "downgrade")
    assert answer.headers["X-Guard-Adapted"] == "temperature,stop"
    (sent,) = sent_to(provider, agent.fallback)
    assert sent.keys() & {"temperature", "stop", "seed"} == {"seed"}
    assert (agent.fallback, "adapted") in decisions(agent)
    agent.entry()


def test_an_answer_that_is_replayed_says_so_again(hire: Hire) -> None:
    agent = hire(fallback=of_family("gpt-6-luna"))
    key = {"Idempotency-Key": "k-1"}
    first, again = [agent.chat(key, temperature=0.2) for _ in range(2)]
    assert again.headers["Idempotent-Replayed"] == "true"
    assert first.headers["X-Guard-Adapted"] == again.headers["X-Guard-Adapted"] == "temperature"


def test_tools_go_with_the_effort_that_they_need(hire: Hire, provider: Provider) -> None:
    agent = hire(fallback=of_family("gpt-6-luna"))
    answer = chat(agent, stream=False, temperature=0.2, tools=TOOLS)
    assert answer.headers["X-Guard-Adapted"] == "reasoning_effort"
    (sent,) = sent_to(provider, agent.fallback)
    assert (sent["reasoning_effort"], sent["temperature"], sent["tools"]) == ("none", 0.2, TOOLS)


def test_the_model_that_was_asked_for_gets_what_was_asked(hire: Hire, provider: Provider) -> None:
    agent = hire(primary=of_family("gpt-6-luna"), soft_cap="1")
    answer = chat(agent, stream=False, temperature=0.2)
    assert "X-Guard-Adapted" not in answer.headers
    assert sent_to(provider, agent.model)[0]["temperature"] == 0.2


@STREAMED
def test_a_chosen_models_refusal_goes_to_the_next_and_teaches(hire: Hire, provider: Provider, stream: bool) -> None:
    agent = hire()
    provider.behave(upstream(agent.fallback), **NO_TEMPERATURE)
    answer = chat(agent, stream=stream, temperature=0.2)
    assert answer.headers["X-Guard-Model"] == agent.model
    assert lessons(agent) == [(agent.fallback, "parameter", "temperature")]
    entry = agent.entry()  # nothing was charged for the refused one
    assert entry.model == agent.model
    assert (agent.fallback, "rejected") in decisions(agent)
    with agent.server.database():
        assert not Breaker.objects.filter(pk=agent.fallback).exists()
    provider.behave(upstream(agent.fallback))
    eventually(lambda: agent.chat(temperature=0.2).headers.get("X-Guard-Adapted") == "temperature")
    assert "temperature" not in sent_to(provider, agent.fallback)[-1]


@STREAMED
def test_with_nobody_else_left_a_refusal_is_heeded_at_once(hire: Hire, provider: Provider, stream: bool) -> None:
    agent = hire()
    provider.behave(upstream(agent.model), status=500)
    provider.behave(upstream(agent.fallback), fail_first_n=1, **NO_TEMPERATURE)
    answer = chat(agent, stream=stream, temperature=0.2)
    assert (answer.headers["X-Guard-Model"], answer.headers["X-Guard-Adapted"]) == (agent.fallback, "temperature")
    assert ["temperature" in sent for sent in sent_to(provider, agent.fallback)] == [True, False]
    assert agent.entry().model == agent.fallback


def test_a_refusal_is_the_callers_where_every_model_refuses(hire: Hire, provider: Provider) -> None:
    agent = hire()
    for name in (agent.model, agent.fallback):
        provider.behave(upstream(name), **NO_TEMPERATURE)
    answer = agent.chat(model="auto", temperature=0.2)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "temperature")
    assert len(provider.calls()) == 4, "each was tried as it was, and without"
    with agent.server.database():
        assert not LedgerEntry.objects.filter(tenant_id=agent.tenant_id).exists()


def test_a_refusal_that_is_no_capability_is_the_callers_where_they_asked_for_the_model(
    hire: Hire, provider: Provider
) -> None:
    agent = hire()
    words = {"error": {"message": "the picture cannot be read", "param": "messages"}}
    for name in (agent.model, agent.fallback):
        provider.behave(upstream(name), status=400, body=words)
    answer = agent.chat()
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "the picture cannot be read")
    assert [len(sent_to(provider, name)) for name in (agent.fallback, agent.model)] == [1, 1]
    assert lessons(agent) == []


@pytest.mark.parametrize(
    ("refused", "body", "why", "param"),
    [
        ("tools", {"tools": TOOLS}, "no_tools", "tools"),
        ("json_schema", {"response_format": SCHEMA}, "no_json_schema", "response_format"),
        ("n", {"n": 2}, "no_choices", "n"),
    ],
)
def test_a_model_that_cannot_serve_what_a_call_means_is_passed_over(
    hire: Hire, provider: Provider, refused: str, body: dict[str, Any], why: str, param: str
) -> None:
    unable = Capabilities(refused=frozenset({refused}))
    agent = hire(fallback=unable)
    answer = chat(agent, stream=False, **body)
    assert (answer.headers["X-Guard-Model"], answer.headers["X-Guard-Route"]) == (agent.model, "primary")
    assert decisions(agent)[0] == (agent.fallback, why)
    assert not sent_to(provider, agent.fallback)
    agent = hire(primary=unable, fallback=unable)
    refusal = agent.chat(model="auto", **body)
    assert (refusal.status_code, refusal.json()["error"]["param"]) == (400, param)


def test_log_probabilities_are_left_out_only_where_no_model_gives_them(hire: Hire, provider: Provider) -> None:
    agent = hire(fallback=of_family("gpt-6-luna"))
    assert chat(agent, stream=False, logprobs=True).headers["X-Guard-Model"] == agent.model
    provider.behave(upstream(agent.model), status=500)
    answer = chat(agent, stream=False, logprobs=True)
    assert (answer.headers["X-Guard-Model"], answer.headers["X-Guard-Adapted"]) == (agent.fallback, "logprobs")


def test_a_prompt_longer_than_a_context_goes_elsewhere(hire: Hire, provider: Provider) -> None:
    agent = hire()
    with agent.server.database():
        model = CatalogueModel.objects.get(pk=agent.fallback)
        model.context_tokens = 50
        model.save()
    answer = agent.own_chat(messages=[{"role": "user", "content": "Hello! " * 100}])
    assert (answer.status_code, answer.json()["model"]) == (200, agent.model)
    assert decisions(agent)[0] == (agent.fallback, "too_long")
    words = {"message": "longer than this model's context of 40 tokens", "code": "context_length_exceeded"}
    provider.behave(upstream(agent.fallback), status=400, body={"error": words})
    assert agent.own_chat().json()["model"] == agent.model
    assert lessons(agent) == [(agent.fallback, "context_tokens", "")]


def test_a_lesson_is_unlearned_when_a_call_proves_it_wrong(hire: Hire, provider: Provider) -> None:
    agent = hire(soft_cap="1")
    provider.behave(upstream(agent.model), **NO_TEMPERATURE)
    assert agent.chat(temperature=0.2).status_code == 400
    assert lessons(agent) == [(agent.model, "parameter", "temperature")]
    provider.behave(upstream(agent.model))
    # Once the worker has read of it; what nobody knows nobody can unlearn.
    eventually(lambda: agent.chat(temperature=0.2).status_code == 200 and lessons(agent) == [])


# How long answers may be


@STREAMED
def test_a_maximum_that_was_lowered_is_told(hire: Hire, server: GuardServer, provider: Provider, stream: bool) -> None:
    agent = hire(soft_cap="1")
    provider.behave(upstream(agent.fallback), status=500)
    assert "X-Guard-Max-Tokens" not in chat(agent, stream=stream, max_tokens=50).headers
    with server.database():
        budget = Budget.objects.get(tenant_id=agent.tenant_id)
        spent = sum(entry.cost_ticks for entry in LedgerEntry.objects.filter(tenant_id=agent.tenant_id))
        budget.limit_ticks = spent + bound_input_tokens(HELLO) * 12_500 + 300 * 25_000
        budget.save()
    assert chat(agent, stream=stream, max_tokens=1_000).headers["X-Guard-Max-Tokens"] == "300"


def test_a_burst_near_the_cap_is_served_in_whole_answers(hire: Hire, server: GuardServer, provider: Provider) -> None:
    """Twenty answers of 500 tokens fit: about so many are served, and no more of them by cutting them to stubs."""
    agent = hire(soft_cap="1")
    provider.behave(upstream(agent.model), content="word " * 500, latency_s=0.05)
    provider.behave(upstream(agent.fallback), status=500)
    cost = int(Decimal(agent.chat(max_tokens=500).headers["X-Guard-Cost-Usd"]) * TICKS_PER_USD)
    with server.database():
        budget = Budget.objects.get(tenant_id=agent.tenant_id)
        budget.limit_ticks = 21 * cost
        budget.save()
    with ThreadPoolExecutor(40) as threads:
        answers = list(threads.map(lambda _: agent.chat(max_tokens=500), range(40)))
    served = [answer for answer in answers if answer.status_code == 200]
    assert 19 <= len(served) <= 21
    assert all(int(answer.headers.get("X-Guard-Max-Tokens", 500)) >= 250 for answer in served)


def test_an_answer_cut_while_thinking_teaches_that_it_thinks_within_its_maximum(hire: Hire, provider: Provider) -> None:
    agent = hire(soft_cap="1")
    usage = {
        "prompt_tokens": 100, "completion_tokens": 16, "total_tokens": 116,
        "completion_tokens_details": {"reasoning_tokens": 16},
    }  # fmt: skip
    message = {"role": "assistant", "content": None, "reasoning_content": "thinking"}
    choice = {"index": 0, "message": message, "finish_reason": "length"}
    provider.behave(upstream(agent.model), body={"choices": [choice], "usage": usage})
    assert agent.chat(max_tokens=16).status_code == 200
    assert lessons(agent) == [(agent.model, "thinks_within_maximum", "")]


# Customers and conversations


@pytest.mark.parametrize(
    ("headers", "body", "expected"),
    [
        ({"X-Guard-Customer": "ada", "X-Guard-Conversation": "c-1"}, {}, ("ada", "c-1")),
        ({"X-Guard-Customer": "ada"}, {"user": " ada"}, ("ada", "")),
        ({}, {"user": " ", "safety_identifier": "ada"}, ("ada", "")),
        ({}, {"user": "ada", "safety_identifier": "bob"}, ("ada", "")),
        ({"X-Guard-Customer": ""}, {"metadata": {"conversation_id": " c-1 "}}, ("", "c-1")),
        ({"X-Guard-Customer": "Ren\u00e9e".encode()}, {"user": "Rene\u0301e"}, ("Ren\u00e9e", "")),
    ],
)
def test_who_and_in_which_conversation_is_named_by_body_or_headers(
    hire: Hire, headers: dict[str, Any], body: dict[str, Any], expected: tuple[str, str]
) -> None:
    agent = hire()
    assert agent.chat(headers, **body).status_code == 200
    entry = agent.entry()
    assert (entry.customer, entry.conversation) == expected


@pytest.mark.parametrize(
    ("headers", "body", "own"),
    [
        ({"X-Guard-Customer": "bob"}, {"user": "ada"}, {"customerId": "ada"}),
        ({"X-Guard-Conversation": "c-2"}, {"metadata": {"conversation_id": "c-1"}}, {"conversationId": "c-1"}),
        ({"X-Guard-Customer": "x" * 256}, {}, {}),
        ({"X-Guard-Customer": b"\xff"}, {}, {}),
    ],
)
def test_a_header_that_disagrees_or_is_no_id_is_refused(
    hire: Hire, provider: Provider, headers: dict[str, Any], body: dict[str, Any], own: dict[str, Any]
) -> None:
    agent = hire()
    for answer in (agent.chat(headers, **body), agent.own_chat(headers, **own)):
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, next(iter(headers)))
    assert not provider.calls()


# Conversations keep their model

BEGUN: Any = [*HELLO, {"role": "assistant", "content": "Let me see."}, *HELLO]
TALK = {"conversation_id": "c-1"}


def test_the_same_conversation_has_the_same_key_at_its_provider(
    hire: Hire, server: GuardServer, provider: Provider
) -> None:
    agent = hire(soft_cap="1")
    with server.database():
        CatalogueModel.objects.filter(pk=agent.fallback).update(provider="openai")
        raise_revision()
    for model in (agent.model, agent.fallback):
        for conversation in ("c-1", "c-1", "c-2"):
            assert agent.chat(model=model, metadata={"conversation_id": conversation}).status_code == 200
        assert agent.chat(model=model).status_code == 200
    ids = [call["headers"].get("x-grok-conv-id") for call in provider.calls(upstream(agent.model))]
    keys = [call["body"].get("prompt_cache_key") for call in provider.calls(upstream(agent.fallback))]
    for same, again, other, none in (ids, keys):
        assert same == again != other
        assert none is None
        assert 16 <= len(same) <= 64
        assert "c-1" not in same
    assert agent.chat(model=agent.fallback, metadata=TALK, prompt_cache_key="mine").status_code == 200
    assert sent_to(provider, agent.fallback)[-1]["prompt_cache_key"] == "mine"
    assert not {"x-grok-conv-id"} & provider.calls(upstream(agent.fallback))[-1]["headers"].keys()
    assert agent.chat(model=agent.model, prompt_cache_key="mine").status_code == 200
    assert provider.calls(upstream(agent.model))[-1]["headers"]["x-grok-conv-id"] not in {*ids, "mine"}


def test_a_key_that_the_guard_added_and_a_provider_refuses_is_left_out(
    hire: Hire, server: GuardServer, provider: Provider
) -> None:
    agent = hire(soft_cap="1")
    with server.database():
        CatalogueModel.objects.filter(pk=agent.model).update(provider="openai")
        raise_revision()
    words = {
        "message": "Unknown parameter: 'prompt_cache_key'.",
        "param": "prompt_cache_key",
        "code": "unknown_parameter",
    }
    provider.behave(upstream(agent.model), status=400, body={"error": words}, fail_first_n=1)
    provider.behave(upstream(agent.fallback), status=500)
    assert agent.chat(metadata=TALK).status_code == 200
    assert ["prompt_cache_key" in sent for sent in sent_to(provider, agent.model)] == [True, False]
    assert lessons(agent) == [(agent.model, "parameter", "prompt_cache_key")]


@pytest.mark.parametrize("restart", [False, True], ids=["same worker", "another one"])
def test_a_conversation_keeps_the_model_that_it_fell_back_to(
    hire: Hire, server: GuardServer, provider: Provider, restart: bool
) -> None:
    agent = hire(soft_cap="1")
    provider.behave(upstream(agent.model), fail_first_n=1, status=500)
    begun = agent.chat(model="auto", metadata=TALK)
    assert begun.headers["X-Guard-Route"] == "fallback"
    if restart:
        server.restart()
    kept = agent.chat(model="auto", metadata=TALK, messages=BEGUN)
    assert (kept.headers["X-Guard-Model"], kept.headers["X-Guard-Route"]) == (agent.fallback, "fallback")
    others: list[dict[str, Any]] = [
        {"metadata": {"conversation_id": "c-2"}}, {"metadata": TALK, "model": agent.model}, {},
    ]  # fmt: skip
    for other in others:
        body: dict[str, Any] = {"model": "auto", "messages": BEGUN, **other}
        assert agent.chat(**body).headers["X-Guard-Model"] == agent.model
