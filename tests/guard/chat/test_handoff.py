"""A spent budget, of a tenant with words of its own: what callers and channels are told, in every dialect."""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import transaction
from openai import OpenAI

from spend.models import Alert, AlertKind, Call, Delivery, LedgerEntry, Outcome, Reservation, Rollup
from tenants.models import AlertChannel, HandoffTranslation, HardStop, Tenant
from tests.factories import BudgetFactory
from tests.support.agents import HELLO, Agent, chunks_of, eventually, text_of, upstream
from tests.support.provider import Provider
from tests.support.server import GuardServer

WORDS = "I cannot help any further. A colleague answers at {link}. I am back on {resets_at}."
IN_GERMAN = "Mehr unter {link}."
LINK = "https://help.example.com"
TOLD = re.compile(
    rf"I cannot help any further\. A colleague answers at {LINK}\. I am back on \d+ \w+ \d{{4}}, 00:00 CES?T\."
)
NO_TOKENS = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


@pytest.fixture
def server(shared_server: GuardServer) -> GuardServer:
    return shared_server


@pytest.fixture
def agent(server: GuardServer, provider: Provider) -> Agent:
    """Of a tenant whose day's budget is spent before it began."""
    return make_agent(server)


def make_agent(server: GuardServer, *, limit_ticks: int = 0, **tenant: Any) -> Agent:
    with server.database(wait=False), transaction.atomic():
        words = {"hard_stop": HardStop.HAND_OFF, "handoff_words": WORDS, "handoff_link": LINK}
        agent = Agent.create(server, **{"time_zone": "Europe/Berlin", **words, **tenant})
        BudgetFactory.create(tenant_id=agent.tenant_id, tenant=None, limit_ticks=limit_ticks)
        HandoffTranslation.objects.create(tenant_id=agent.tenant_id, language="de", words=IN_GERMAN)
    return agent


@pytest.fixture
def client(agent: Agent) -> Iterator[Any]:
    with OpenAI(base_url=f"{agent.server.url}/v1", api_key=agent.secret, max_retries=0) as client:
        yield client


def assert_free_and_apart(agent: Agent, provider: Provider, headers: Any) -> None:
    """No provider was called, nothing held or billed; the call is counted as what it is."""
    assert headers["X-Guard-Route"] == "handoff"
    assert headers["X-Guard-Cost-Usd"] == "0.00"
    assert headers["X-Guard-Budget-State"] == "stopped"
    assert "X-Guard-Model" not in headers
    assert "Idempotent-Replayed" not in headers
    assert not provider.calls(upstream(agent.model))
    eventually(lambda: len(agent.calls()) == 1)
    with agent.server.database():
        (call,) = Call.objects.filter(tenant_id=agent.tenant_id)
        assert (call.outcome, call.code, call.model, call.route) == (Outcome.HANDED_OFF, "budget_exceeded", "", "")
        assert (call.cost_ticks, call.steps[-1]["decision"]) == (0, "handed_off")
        (rollup,) = Rollup.objects.filter(tenant_id=agent.tenant_id)
        assert (rollup.served, rollup.refused, rollup.failed, rollup.handoff) == (0, 0, 0, 1)
        assert not LedgerEntry.objects.filter(tenant_id=agent.tenant_id).exists()
        assert not Reservation.objects.filter(tenant_id=agent.tenant_id).exists()


def test_the_guards_own_shape(agent: Agent, provider: Provider) -> None:
    answer = agent.own_chat()
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert TOLD.fullmatch(body["content"])
    assert (body["route"], body["finishReason"], body["costUsd"]) == ("handoff", "stop", "0.00")
    assert body["model"] == agent.model
    assert set(body["usage"].values()) == {0}
    assert body["budget"]["state"] == "stopped"
    assert_free_and_apart(agent, provider, answer.headers)


def test_the_guards_own_shape_streamed(agent: Agent, provider: Provider) -> None:
    answer = agent.own_chat(stream=True)
    *chunks, last = chunks_of(answer)
    assert TOLD.fullmatch(text_of(chunks))
    assert (last["route"], last["costUsd"]) == ("handoff", "0.00")
    assert_free_and_apart(agent, provider, answer.headers)


def test_a_completion(agent: Agent, client: Any, provider: Provider) -> None:
    raw = client.chat.completions.with_raw_response.create(model=agent.model, messages=HELLO, n=2)
    completion = raw.parse()
    assert [choice.index for choice in completion.choices] == [0, 1]
    assert all(TOLD.fullmatch(choice.message.content) for choice in completion.choices)
    assert {choice.finish_reason for choice in completion.choices} == {"stop"}
    assert (completion.model, completion.object) == (agent.model, "chat.completion")
    assert NO_TOKENS.items() <= completion.usage.model_dump().items()
    assert "events" not in raw.http_response.json()
    assert_free_and_apart(agent, provider, raw.headers)


@pytest.mark.parametrize("show_usage", [False, True])
def test_a_streamed_completion(agent: Agent, provider: Provider, *, show_usage: bool) -> None:
    options: dict[str, Any] = {"stream_options": {"include_usage": True}} if show_usage else {}
    answer = agent.stream(**options)
    chunks = chunks_of(answer)
    assert TOLD.fullmatch(text_of(chunks))
    assert [chunk["usage"] for chunk in chunks if "usage" in chunk] == ([NO_TOKENS] if show_usage else [])
    reasons = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
    assert reasons == [None, "stop"]
    assert_free_and_apart(agent, provider, answer.headers)


def test_a_response(agent: Agent, client: Any, provider: Provider) -> None:
    raw = client.responses.with_raw_response.create(model=agent.model, input="Where is my parcel?")
    response = raw.parse()
    assert TOLD.fullmatch(response.output_text)
    assert response.usage
    assert (response.status, response.model, response.usage.total_tokens) == ("completed", agent.model, 0)
    assert_free_and_apart(agent, provider, raw.headers)


def test_a_streamed_response(agent: Agent, client: Any, provider: Provider) -> None:
    with client.responses.with_streaming_response.create(
        model=agent.model, input="Where is my parcel?", stream=True
    ) as raw:
        events = list(raw.parse())
        last = events[-1]
        assert last.type == "response.completed"
        assert TOLD.fullmatch(last.response.output_text)
        assert_free_and_apart(agent, provider, raw.headers)


def test_the_words_are_in_the_language_that_was_asked_for(agent: Agent) -> None:
    answer = agent.own_chat(headers={"Accept-Language": "de-AT,de;q=0.9,en;q=0.5"})
    assert answer.json()["content"] == f"Mehr unter {LINK}."


def test_money_is_hidden_where_the_tenant_wants_it(server: GuardServer, provider: Provider) -> None:
    agent = make_agent(server, hide_money=True)
    answer = agent.own_chat()
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.lower().endswith("-usd")]
    assert "Usd" not in answer.text


def test_a_call_that_wants_json_is_refused_since_words_are_none(agent: Agent) -> None:
    answer = agent.chat(response_format={"type": "json_object"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "budget_exceeded")


def test_a_tenant_without_words_refuses(server: GuardServer, provider: Provider) -> None:
    agent = make_agent(server, hard_stop=HardStop.REFUSE)
    assert agent.own_chat().status_code == 429


def test_a_hand_off_is_not_remembered_under_its_key(agent: Agent) -> None:
    key = {"Idempotency-Key": "once"}
    assert agent.own_chat(headers=key).headers["X-Guard-Route"] == "handoff"
    with agent.server.database(), transaction.atomic():
        (budget,) = Tenant.objects.get(pk=agent.tenant_id).budgets.all()
        budget.limit_ticks = 10**10
        budget.save()
    served = agent.own_chat(headers=key)
    assert served.headers["X-Guard-Route"] == "primary"
    assert agent.own_chat(headers=key).headers["Idempotent-Replayed"] == "true"


def test_channels_are_told_once_for_each_conversation_else_customer_else_tenant(agent: Agent) -> None:
    """By whichever worker: one that was started anew remembers none of it."""
    with agent.server.database(), transaction.atomic():
        AlertChannel.objects.create(tenant_id=agent.tenant_id, kind="webhook", target="https://hooks.example.com/x")
    named: list[dict[str, Any]] = [{"conversationId": "c-1", "customerId": "ann"}, {"customerId": "ann"}, {}]
    last: dict[str, Any] = {"conversationId": "c-2"}
    for names in named:
        assert agent.own_chat(**names).headers["X-Guard-Route"] == "handoff"
    wait_for_alerts(agent, 3)
    agent.server.restart()
    for names in (*named, last):
        assert agent.own_chat(**names).headers["X-Guard-Route"] == "handoff"
    told = wait_for_alerts(agent, 4, last["conversationId"])  # they are told in the order of the calls
    assert told == {("conversation", "c-1"): 1, ("customer", "ann"): 1, ("tenant", ""): 1, ("conversation", "c-2"): 1}


def wait_for_alerts(agent: Agent, count: int, subject: str = "") -> Counter[tuple[str, str]]:
    """Whose hand-off was told how often, once there are so many, and one of `subject`; each is owed to the channel."""
    with agent.server.database():
        alerts = Alert.objects.filter(tenant_id=agent.tenant_id, kind=AlertKind.HANDED_OFF)
        eventually(lambda: alerts.count() >= count and alerts.filter(subject=subject).exists())
        assert Delivery.objects.filter(alert__in=alerts).count() == alerts.count()
        return Counter(alerts.values_list("scope", "subject"))
