"""Streams as providers really send them, over real HTTP: late ends, long thinking, and one shape for the other."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import transaction

from spend.models import CatalogueModel, Reservation
from tests.support.agents import Agent, audit, chunks_of, events_of, served_by, text_of, upstream
from tests.support.provider import Provider
from tests.support.server import GuardServer

pytestmark = pytest.mark.once

Json = dict[str, Any]
IDLE_S, FIRST_TOKEN_S = 1.2, 3.0
USAGE = {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30}
COST = 10 * 12_500 + 20 * 25_000
HEAD = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
TOOL_CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
STREAMS = pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])


@pytest.fixture(scope="module")
def server(module_server: Callable[..., GuardServer]) -> Iterator[GuardServer]:
    server = module_server(STREAM_IDLE_SECONDS=f"{IDLE_S}", PROVIDER_TIMEOUT_SECONDS=f"{FIRST_TOKEN_S}")
    yield server
    audit(server)


@pytest.fixture(scope="module")
def patient_server(module_server: Callable[..., GuardServer]) -> GuardServer:
    """Which waits for a provider for longer than any client here waits for it."""
    server: GuardServer = module_server(STREAM_IDLE_SECONDS="600", PROVIDER_TIMEOUT_SECONDS="600")
    return server


@pytest.fixture
def agent(server: GuardServer, provider: Provider) -> Agent:
    agent = Agent.hire(server)
    provider.behave(upstream(agent.fallback), usage=USAGE)
    return agent


def ask(agent: Agent, path: str, *, stream: bool = True) -> Any:
    answer = agent.own_chat(stream=stream) if path == "/api/chat" else agent.chat(stream=stream)
    assert answer.status_code == 200, answer.text
    return answer


def event(**fields: Any) -> str:
    return (
        f"data: {json.dumps({'id': 'x', 'object': 'chat.completion.chunk', 'created': 1, 'model': 'm', **fields})}\n\n"
    )


def delta(content: str | None = None, finish_reason: str | None = None, **more: Any) -> str:
    said = {} if content is None else {"role": "assistant", "content": content}
    return event(choices=[{"index": 0, "delta": said, "finish_reason": finish_reason}], **more)


ANSWER = [delta("Hi "), delta("there"), delta(finish_reason="stop")]
END = event(choices=[], usage=USAGE)


# Ends


@STREAMS
@pytest.mark.parametrize("after", ["", ": still here\n\n"], ids=["silence", "comments"])
def test_a_stream_that_is_complete_ends_at_once_whatever_its_provider_does(
    patient_server: GuardServer, provider: Provider, path: str, after: str
) -> None:
    """Its provider never ends it, and the guard would wait for longer than the client here does."""
    agent, comments = Agent.hire(patient_server), [after] * 40 if after else []
    provider.behave(upstream(agent.model), wire=[HEAD + "".join(ANSWER) + END, *comments], chunk_delay_s=0.2, hang=True)
    assert text_of(chunks_of(ask(agent, path))) == "Hi there"
    entry = agent.entry()
    assert (entry.cost_ticks, entry.is_estimated) == (COST, False)
    with agent.server.database():
        assert not Reservation.objects.filter(tenant_id=agent.tenant_id, state="pending").exists()


@STREAMS
def test_a_usage_that_comes_a_moment_after_the_end_is_waited_for(agent: Agent, provider: Provider, path: str) -> None:
    provider.behave(upstream(agent.model), wire=[HEAD + "".join(ANSWER), END], chunk_delay_s=0.3, hang=True)
    chunks_of(ask(agent, path))
    assert agent.entry().cost_ticks == COST


@STREAMS
def test_a_usage_that_never_comes_is_counted(agent: Agent, provider: Provider, path: str) -> None:
    provider.behave(upstream(agent.model), wire=[HEAD + "".join(ANSWER)], hang=True)
    assert text_of(chunks_of(ask(agent, path))) == "Hi there"
    entry = agent.entry()
    assert entry.is_estimated
    assert 0 < entry.cost_ticks < entry.hold_ticks


@pytest.mark.parametrize("asked", [False, True])
def test_a_last_chunk_with_fields_of_a_gateways_own_is_shown_to_who_asked_for_usage(
    agent: Agent, provider: Provider, asked: bool
) -> None:
    last = event(choices=[], usage=USAGE, provider="p", citations=[], x_gateway={"took": 3})
    provider.behave(upstream(agent.model), wire=[HEAD + "".join(ANSWER) + last + "data: [DONE]\n\n"])
    chunks = chunks_of(agent.stream(stream_options={"include_usage": asked}))
    assert [chunk["usage"] for chunk in chunks if not chunk["choices"]] == [USAGE] * asked
    assert agent.entry().cost_ticks == COST


# Waits


def waiting(seconds: float) -> tuple[list[str], float]:
    """Keep-alives for so long, and how far they are apart."""
    return [": thinking\n\n"] * int(seconds / 0.2), 0.2


@STREAMS
def test_a_model_may_think_for_longer_than_a_stream_may_pause(agent: Agent, provider: Provider, path: str) -> None:
    """And its keep-alives reach the client meanwhile."""
    comments, apart_s = waiting(2 * IDLE_S)
    wire = [HEAD, *comments, "".join(ANSWER) + END + "data: [DONE]\n\n"]
    provider.behave(upstream(agent.model), wire=wire, chunk_delay_s=apart_s)
    answer = ask(agent, path)
    events = events_of(answer)
    first = next(events)
    assert first == ": thinking"
    (call,) = provider.calls(upstream(agent.model))
    assert call["state"] == "started"
    assert text_of([one for one in events if isinstance(one, dict)]) == "Hi there"
    assert agent.entry().cost_ticks == COST
    assert provider.calls(upstream(agent.fallback)) == []


@pytest.mark.parametrize("stream", [False, True])
@STREAMS
def test_a_model_may_think_in_silence_too(agent: Agent, provider: Provider, path: str, stream: bool) -> None:
    provider.behave(upstream(agent.model), latency_s=2 * IDLE_S, usage=USAGE)
    assert served_by(ask(agent, path, stream=stream)) == agent.model
    assert agent.entry().cost_ticks == COST


@pytest.mark.parametrize("stream", [False, True])
def test_a_model_can_have_a_shorter_limit_of_its_own(
    patient_server: GuardServer, provider: Provider, stream: bool
) -> None:
    """The client here would not wait for that of all."""
    with patient_server.database(wait=False), transaction.atomic():
        agent = Agent.create(patient_server)
        CatalogueModel.objects.filter(pk=agent.model).update(answer_timeout_s=1)
    provider.behave(upstream(agent.model), hang=True)
    provider.behave(upstream(agent.fallback), usage=USAGE)
    assert served_by(ask(agent, "/v1/chat/completions", stream=stream)) == agent.fallback


@pytest.mark.parametrize("stream", [False, True])
def test_a_model_can_have_a_longer_limit_of_its_own(server: GuardServer, provider: Provider, stream: bool) -> None:
    """Longer than that of all, and the call is served by it however late."""
    with server.database(wait=False), transaction.atomic():
        agent = Agent.create(server)
        CatalogueModel.objects.filter(pk=agent.model).update(answer_timeout_s=60)
    for model in (agent.model, agent.fallback):
        provider.behave(upstream(model), latency_s=FIRST_TOKEN_S + 0.5, usage=USAGE)
    assert served_by(ask(agent, "/v1/chat/completions", stream=stream)) == agent.model
    late = agent.chat(model=agent.fallback, stream=stream)  # which has none
    assert late.headers["X-Guard-Route"] == "fallback"


def test_a_stream_that_only_lives_costs_nothing_even_where_it_has_begun(agent: Agent, provider: Provider) -> None:
    comments, apart_s = waiting(IDLE_S)
    provider.behave(upstream(agent.model), wire=[HEAD, *comments], chunk_delay_s=apart_s)
    events = [one for one in events_of(agent.stream()) if isinstance(one, dict)]
    assert [one["error"]["code"] for one in events] == ["all_models_failed"]
    assert agent.entry().cost_ticks == 0


@pytest.mark.parametrize("code", ["invalid_prompt", "unsupported_parameter", "insufficient_quota"])
def test_an_error_after_keep_alives_that_the_client_has_seen_ends_its_stream_and_costs_nothing(
    agent: Agent, provider: Provider, code: str
) -> None:
    comments, apart_s = waiting(IDLE_S)
    error = json.dumps({"error": {"message": "no", "type": "invalid_request_error", "code": code}})
    wire = [HEAD, *comments, f"data: {error}\n\n"]
    provider.behave(upstream(agent.model), wire=wire, chunk_delay_s=apart_s)
    events = [one for one in events_of(agent.stream()) if isinstance(one, dict)]
    assert [one["error"]["code"] for one in events] == ["all_models_failed"]
    assert agent.entry().cost_ticks == 0


# One shape for the other


@STREAMS
@pytest.mark.parametrize("kind", ["text/event-stream", "application/json"])
def test_events_where_a_document_was_asked_are_put_together(
    agent: Agent, provider: Provider, path: str, kind: str
) -> None:
    body = ": hello\n\n" + "".join(ANSWER) + END + "data: [DONE]\n\n"
    provider.behave(upstream(agent.model), status=200, headers={"content-type": kind}, body=body)
    answer = ask(agent, path, stream=False).json()
    content = answer["content"] if path == "/api/chat" else answer["choices"][0]["message"]["content"]
    assert content == "Hi there"
    entry = agent.entry()
    assert (entry.cost_ticks, entry.is_estimated) == (COST, False)


def test_tool_calls_are_put_together_too(agent: Agent, provider: Provider) -> None:
    start = {"index": 0, **TOOL_CALL, "function": {"name": "f", "arguments": '{"a"'}}
    pieces = [[start], [{"index": 0, "function": {"arguments": ": 1}"}}]]
    chunks = [event(choices=[{"index": 0, "delta": {"tool_calls": calls}}]) for calls in pieces]
    body = "".join(chunks) + delta(finish_reason="tool_calls") + END
    provider.behave(upstream(agent.model), status=200, body=body)
    choice = ask(agent, "/v1/chat/completions", stream=False).json()["choices"][0]
    assert (choice["message"]["tool_calls"], choice["finish_reason"]) == ([TOOL_CALL], "tool_calls")


def test_half_a_stream_where_a_document_was_asked_falls_back(agent: Agent, provider: Provider) -> None:
    provider.behave(upstream(agent.model), status=200, body=ANSWER[0])
    assert served_by(ask(agent, "/v1/chat/completions", stream=False)) == agent.fallback


@STREAMS
@pytest.mark.parametrize("kind", ["text/event-stream", "application/json"])
def test_a_document_where_events_were_asked_is_sent_as_chunks(
    agent: Agent, provider: Provider, path: str, kind: str
) -> None:
    message = {"role": "assistant", "content": "Hi there", "tool_calls": [TOOL_CALL]}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    body = json.dumps({"id": "x", "object": "chat.completion", "created": 1, "choices": [choice], "usage": USAGE})
    provider.behave(upstream(agent.model), status=200, headers={"content-type": kind}, body=body)
    answer = ask(agent, path)
    chunks = chunks_of(answer)
    assert text_of(chunks) == "Hi there"
    assert chunks[0]["model"] == agent.model
    assert chunks[0]["choices"][0]["delta"]["tool_calls"] == [{"index": 0, **TOOL_CALL}]
    assert chunks[0]["choices"][0]["finish_reason"] == "tool_calls"
    assert not any("usage" in chunk for chunk in chunks if "object" in chunk)
    entry = agent.entry()
    assert (entry.cost_ticks, entry.is_estimated) == (COST, False)
