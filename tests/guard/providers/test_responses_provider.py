"""A provider that is spoken to by the Responses API, over real HTTP, from whichever API the caller asks."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from openai import OpenAI
from openai.types.responses.response_create_params import (
    ResponseCreateParamsNonStreaming,
    ResponseCreateParamsStreaming,
)
from pydantic import TypeAdapter

from spend.models import CatalogueModel
from tenants.trail import raise_revision
from tests.guard.providers.test_provider_answers import FALLS_BACK, failed_code
from tests.support.agents import HELLO, Agent, audit, chunks_of, events_of, served_by, text_of, upstream
from tests.support.provider import Provider
from tests.support.server import GuardServer

pytestmark = pytest.mark.once

Json = dict[str, Any]
IDLE_S = 1.2
USAGE = {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30}
COST = 10 * 12_500 + 20 * 25_000
HEAD = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
TYPES: dict[bool, TypeAdapter[Any]] = {
    False: TypeAdapter(ResponseCreateParamsNonStreaming),
    True: TypeAdapter(ResponseCreateParamsStreaming),
}
TOOL: Json = {
    "type": "function",
    "function": {"name": "get_order", "parameters": {"type": "object", "properties": {"number": {"type": "integer"}}}},
}
ASKED = {"role": "user", "content": "please get order 7"}
PLAIN_AND_STREAMED = pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])


@pytest.fixture(scope="module")
def server(module_server: Callable[..., GuardServer]) -> Iterator[GuardServer]:
    server = module_server(XAI_DIALECT="responses", STREAM_IDLE_SECONDS=f"{IDLE_S}")
    yield server
    audit(server)
    assert "Traceback" not in server.log


@pytest.fixture
def agent(server: GuardServer, provider: Provider) -> Agent:
    """Its primary model is xAI's, by responses; its fallback OpenAI's, by chat completions, and is billed COST."""
    agent = Agent.hire(server)
    with server.database():
        CatalogueModel.objects.filter(pk=agent.fallback).update(provider="openai")
        raise_revision()
    provider.behave(upstream(agent.fallback), usage=USAGE)
    return agent


def asked_of(provider: Provider, agent: Agent) -> Json:
    """The only request that the primary model had: a Responses request, as the openai package has it."""
    (call,) = provider.calls(upstream(agent.model))
    body: Json = call["body"]
    TYPES[bool(body.get("stream"))].validate_python(body)
    assert body["store"] is False
    return body


def message_in(answer: Any, stream: bool) -> tuple[Json, str]:
    """Message and finish reason."""
    if not stream:
        choice = answer.json()["choices"][0]
        return choice["message"], choice["finish_reason"]
    choices = [choice for chunk in chunks_of(answer) for choice in chunk["choices"]]
    calls: dict[int, Json] = {}
    for piece in (call for choice in choices for call in choice["delta"].get("tool_calls", ())):
        call = calls.setdefault(piece["index"], {"function": {"arguments": ""}})
        call["function"]["arguments"] += piece["function"]["arguments"]
        call |= {"id": piece["id"], "type": piece["type"]} if "id" in piece else {}
        call["function"] |= {"name": piece["function"]["name"]} if "name" in piece["function"] else {}
    message: Json = {
        name: "".join(choice["delta"].get(name) or "" for choice in choices) or None for name in ("content", "refusal")
    }
    message |= {"tool_calls": list(calls.values())} if calls else {}
    return message, [choice["finish_reason"] for choice in choices][-1]


def event(**fields: Any) -> str:
    return f"event: {fields['type']}\ndata: {json.dumps(fields)}\n\n"


def response(*output: Json, status: str = "completed", **fields: Any) -> Json:
    usage = {"input_tokens": 10, "output_tokens": 20, "total_tokens": 30}
    return {"id": "r", "object": "response", "created_at": 1, "model": "m", "status": status, "error": None,
            "output": list(output), "usage": usage, **fields}  # fmt: skip


def spoken(text: str, kind: str = "output_text", field: str = "text") -> Json:
    return {"type": "message", "role": "assistant", "content": [{"type": kind, field: text}]}


def delta(text: str) -> str:
    return event(type="response.output_text.delta", output_index=0, delta=text)


CREATED = event(type="response.created", response=response(status="in_progress", usage=None))
DONE = event(type="response.completed", response=response(spoken("Hi there")))


@PLAIN_AND_STREAMED
def test_a_call_goes_by_responses_and_comes_back_as_a_chat_completion(
    agent: Agent, provider: Provider, stream: bool
) -> None:
    messages = [{"role": "system", "content": "Be kind."}, *HELLO]
    answer = agent.chat(messages=messages, max_completion_tokens=200, stream=stream, user="ann")
    message, ended = message_in(answer, stream)
    assert answer.headers["X-Guard-Model"] == agent.model
    assert (message["content"][:7], ended) == ("[demo] ", "stop")
    body = asked_of(provider, agent)
    assert [item["role"] for item in body["input"]] == ["system", "user"]
    assert body["max_output_tokens"] == 200
    entry = agent.entry()
    assert entry.input_tokens > 0 < entry.output_tokens
    assert not entry.is_estimated


@PLAIN_AND_STREAMED
def test_what_xai_says_it_billed_is_what_is_settled(agent: Agent, provider: Provider, stream: bool) -> None:
    usage = {
        "input_tokens": 10, "input_tokens_details": {"cached_tokens": 4}, "output_tokens": 20, "total_tokens": 30,
        "output_tokens_details": {"reasoning_tokens": 15}, "cost_in_usd_ticks": 123_456,
    }  # fmt: skip
    provider.behave(upstream(agent.model), usage=usage)
    options: Json = {"stream_options": {"include_usage": True}} if stream else {}
    answer = agent.chat(stream=stream, **options)
    told = chunks_of(answer)[-1]["usage"] if stream else answer.json()["usage"]
    assert (told["prompt_tokens"], told["prompt_tokens_details"]["cached_tokens"]) == (10, 4)
    entry = agent.entry()
    assert (entry.cost_ticks, entry.provider_ticks, entry.is_estimated) == (123_456, 123_456, False)
    assert (entry.cached_input_tokens, entry.output_tokens, entry.reasoning_tokens) == (4, 20, 15)


@PLAIN_AND_STREAMED
def test_a_call_of_a_function_and_its_result(agent: Agent, provider: Provider, stream: bool) -> None:
    message, ended = message_in(agent.chat(messages=[ASKED], tools=[TOOL], stream=stream), stream)
    (call,) = message["tool_calls"]
    assert ended == "tool_calls"
    assert call == {
        "id": "call_demo_get_order", "type": "function",
        "function": {"name": "get_order", "arguments": '{"number":1}'},
    }  # fmt: skip
    asked_of(provider, agent)
    result = {"role": "tool", "tool_call_id": call["id"], "content": "On its way."}
    said = {"role": "assistant", "content": None, "tool_calls": [call]}
    answer = agent.chat(messages=[ASKED, said, result], tools=[TOOL], stream=stream)
    assert "On its way." in (
        text_of(chunks_of(answer)) if stream else answer.json()["choices"][0]["message"]["content"]
    )


@PLAIN_AND_STREAMED
def test_a_conversation_with_tools_goes_on_at_a_provider_of_the_other_dialect(
    agent: Agent, provider: Provider, stream: bool
) -> None:
    """xAI by responses, then OpenAI by chat completions, then back."""
    message, _ = message_in(agent.chat(messages=[ASKED], tools=[TOOL], stream=stream), stream)
    calls = message["tool_calls"]
    history = [
        ASKED,
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": calls[0]["id"], "content": "On its way."},
    ]
    provider.behave(upstream(agent.model), status=500)
    answer = agent.chat(model="auto", messages=history, tools=[TOOL], stream=stream)
    assert served_by(answer) == agent.fallback
    (by_chat,) = provider.calls(upstream(agent.fallback))
    assert by_chat["body"]["messages"] == history
    provider.behave(upstream(agent.model))
    again = [*history, {"role": "assistant", "content": "It is on its way."}, ASKED]
    assert served_by(agent.chat(model=agent.model, messages=again, tools=[TOOL], stream=stream)) == agent.model
    items = provider.calls(upstream(agent.model))[-1]["body"]["input"]
    assert [item["type"] for item in items] == [
        "message", "function_call", "function_call_output", "message", "message",
    ]  # fmt: skip
    assert items[1]["call_id"] == items[2]["call_id"] == calls[0]["id"]


def test_a_responses_client_at_a_responses_provider(agent: Agent, provider: Provider) -> None:
    tool: Any = {"type": "function", "strict": None, **TOOL["function"]}
    with OpenAI(base_url=f"{agent.server.url}/v1", api_key=agent.secret, max_retries=0) as client:
        asked: Any = [ASKED]
        events = list(client.responses.create(model=agent.model, input=asked, tools=[tool], stream=True))
        last: Any = events[-1]
        (call,) = last.response.output
        assert (last.type, call.name, call.call_id) == ("response.completed", "get_order", "call_demo_get_order")
        asked_of(provider, agent)
        asked = [*asked, call.to_dict(), {"type": "function_call_output", "call_id": call.call_id, "output": "Soon."}]
        answer = client.responses.create(model=agent.model, input=asked, tools=[tool], instructions="Be kind.")
    assert "Soon." in answer.output_text
    entries = agent.entries(at_least=2)
    assert answer.usage
    assert answer.usage.total_tokens == entries[-1].input_tokens + entries[-1].output_tokens


@pytest.mark.parametrize("fields", [{"stop": ["x"]}, {"seed": 1}, {"n": 2}, {"max_completion_tokens": 8}])
def test_what_responses_have_no_word_for_goes_by_chat_completions(
    agent: Agent, provider: Provider, fields: Json
) -> None:
    assert served_by(agent.chat(**fields)) == agent.model
    (call,) = provider.calls(upstream(agent.model))
    assert call["body"]["messages"] == HELLO


def test_the_key_of_a_conversation_is_a_parameter(agent: Agent, provider: Provider) -> None:
    asked: tuple[Json, Json] = ({}, {"seed": 1})
    for fields in asked:
        served_by(agent.chat(metadata={"conversation_id": "c-1"}, **fields))
    by_responses, by_chat = provider.calls(upstream(agent.model))
    key = by_responses["body"]["prompt_cache_key"]
    assert key == by_chat["headers"]["x-grok-conv-id"]
    assert "x-grok-conv-id" not in by_responses["headers"]


# Ends


@PLAIN_AND_STREAMED
@pytest.mark.parametrize(
    ("output", "fields", "ended"),
    [
        (spoken("Hi"), {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}, "length"),
        (spoken("Hi"), {"status": "incomplete", "incomplete_details": {"reason": "content_filter"}}, "content_filter"),
        (spoken("No.", "refusal", "refusal"), {}, "stop"),
    ],
)
def test_how_an_answer_ended(
    agent: Agent, provider: Provider, output: Json, fields: Json, ended: str, stream: bool
) -> None:
    body = response(output, **fields)
    if stream:
        kind, text = ("refusal", "No.") if ended == "stop" else ("output_text", "Hi")
        wire = CREATED + event(type=f"response.{kind}.delta", output_index=0, delta=text)
        wire += event(type=f"response.{body['status']}", response=body)
        provider.behave(upstream(agent.model), wire=[HEAD + wire])
    else:
        provider.behave(upstream(agent.model), status=200, body=body)
    message, reason = message_in(agent.chat(stream=stream), stream)
    assert reason == ended
    assert (message["refusal"] or message["content"]) == ("No." if ended == "stop" else "Hi")
    assert agent.entry().cost_ticks == COST


def test_a_stream_that_is_complete_ends_at_once_whatever_its_provider_does(agent: Agent, provider: Provider) -> None:
    provider.behave(upstream(agent.model), wire=[HEAD + CREATED + delta("Hi there") + DONE], hang=True)
    assert text_of(chunks_of(agent.stream())) == "Hi there"
    entry = agent.entry()
    assert (entry.cost_ticks, entry.is_estimated) == (COST, False)


def test_a_model_may_think_for_longer_than_a_stream_may_pause(agent: Agent, provider: Provider) -> None:
    thinking = [event(type="response.in_progress", response=response(status="in_progress"))] * 12
    wire = [HEAD + CREATED, *thinking, delta("Hi there") + DONE]
    provider.behave(upstream(agent.model), wire=wire, chunk_delay_s=0.2)
    assert text_of(chunks_of(agent.stream())) == "Hi there"
    assert provider.calls(upstream(agent.fallback)) == []


@pytest.mark.parametrize("ends", ["breaks", "stalls", "garbage", "fails"])
def test_a_stream_that_dies_in_the_middle_is_settled_by_what_came(agent: Agent, provider: Provider, ends: str) -> None:
    failed = event(type="response.failed", response=response(status="failed", error={"code": "server_error"}))
    last = {"breaks": "", "stalls": "", "garbage": "data: {no\n\n", "fails": failed}[ends]
    wire = [HEAD + CREATED + delta("Hi ") + delta("there") + last]
    provider.behave(upstream(agent.model), wire=wire, hang=ends == "stalls")
    *chunks, error = (one for one in events_of(agent.stream()) if isinstance(one, dict))
    assert text_of(chunks) == "Hi there"
    assert error["error"]["code"] == "all_models_failed"
    entry = agent.entry()
    assert entry.is_estimated
    assert 0 < entry.cost_ticks <= entry.hold_ticks
    assert entry.cost_ticks >= COST or ends != "fails"


# Errors


@PLAIN_AND_STREAMED
@pytest.mark.parametrize(("name", "code"), FALLS_BACK.items())
def test_an_answer_that_is_none_falls_back_and_costs_nothing(
    agent: Agent, provider: Provider, name: str, code: str, stream: bool
) -> None:
    provider.behave(upstream(agent.model), answer=name)
    assert served_by(agent.chat(stream=stream)) == agent.fallback
    entry = agent.entry()
    assert (entry.model, entry.cost_ticks) == (agent.fallback, COST)
    assert failed_code(agent) == code


@PLAIN_AND_STREAMED
@pytest.mark.parametrize(
    ("error", "code"),
    [
        ({"code": "rate_limit_exceeded", "message": "slow down"}, "rate_limited"),
        ({"code": "server_error", "message": "oops"}, "server_error"),
        ({"code": "insufficient_quota", "message": "pay"}, "provider_out_of_money"),
    ],
)
@pytest.mark.parametrize("usage", [None, {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}])
def test_a_failed_response_falls_back_and_costs_nothing(
    agent: Agent, provider: Provider, error: Json, code: str, usage: Json | None, stream: bool
) -> None:
    failed = response(status="failed", error=error, usage=usage)
    if stream:
        provider.behave(upstream(agent.model), wire=[HEAD + CREATED + event(type="response.failed", response=failed)])
    else:
        provider.behave(upstream(agent.model), status=200, body=failed)
    assert served_by(agent.chat(stream=stream)) == agent.fallback
    assert agent.entry().cost_ticks == COST
    assert failed_code(agent) == code


def test_an_error_event_falls_back(agent: Agent, provider: Provider) -> None:
    error = event(type="error", code="rate_limit_exceeded", message="slow down", param=None, sequence_number=1)
    provider.behave(upstream(agent.model), wire=[HEAD + CREATED + error])
    assert served_by(agent.stream()) == agent.fallback
    assert failed_code(agent) == "rate_limited"


@PLAIN_AND_STREAMED
def test_a_failed_response_that_was_billed_is_settled_at_its_hold(
    agent: Agent, provider: Provider, stream: bool
) -> None:
    failed = response(status="failed", error={"code": "server_error", "message": "oops"})
    if stream:
        provider.behave(upstream(agent.model), wire=[HEAD + event(type="response.failed", response=failed)])
    else:
        provider.behave(upstream(agent.model), status=200, body=failed)
    assert served_by(agent.chat(stream=stream)) == agent.fallback
    first, _ = agent.entries(at_least=2)
    assert (first.model, first.cost_ticks, first.is_estimated) == (agent.model, first.hold_ticks, True)


@PLAIN_AND_STREAMED
@pytest.mark.parametrize("name", ["xai-content", "xai-content-old"])
def test_refused_content_is_the_callers(agent: Agent, provider: Provider, name: str, stream: bool) -> None:
    provider.behave(upstream(agent.model), answer=name)
    answer = agent.chat(stream=stream)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "content_filter")
    assert provider.calls(upstream(agent.fallback)) == []


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "no such effort", "param": "reasoning.effort", "code": "invalid_value"}},
        {"code": "Client specified an invalid argument", "error": "reasoning.effort is no argument of this model"},
    ],
)
def test_a_refusal_names_the_callers_field(agent: Agent, provider: Provider, body: Json) -> None:
    provider.behave(upstream(agent.model), status=400, body=body)
    provider.behave(upstream(agent.fallback), status=400, body={"error": {"message": "no"}})
    answer = agent.chat(reasoning_effort="high")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "reasoning_effort")


# One shape for the other


@pytest.mark.parametrize("kind", ["text/event-stream", "application/json"])
def test_events_where_a_document_was_asked_are_put_together(agent: Agent, provider: Provider, kind: str) -> None:
    body = ": hello\n\n" + CREATED + delta("Hi ") + delta("there") + DONE
    provider.behave(upstream(agent.model), status=200, headers={"content-type": kind}, body=body)
    assert agent.chat().json()["choices"][0]["message"]["content"] == "Hi there"
    assert agent.entry().cost_ticks == COST


@pytest.mark.parametrize("kind", ["text/event-stream", "application/json"])
def test_a_document_where_events_were_asked_is_sent_as_chunks(agent: Agent, provider: Provider, kind: str) -> None:
    body = json.dumps(response(spoken("Hi there")))
    provider.behave(upstream(agent.model), status=200, headers={"content-type": kind}, body=body)
    assert text_of(chunks_of(agent.stream())) == "Hi there"
    assert agent.entry().cost_ticks == COST
