"""The demo provider, asked by the openai package over real HTTP."""

import asyncio
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import openai
import orjson
import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from openai import OpenAI
from openai.types.chat import ChatCompletionChunk
from pydantic import BaseModel

from guard.demo import create_app, serve_on_loopback
from guard.demo.texts import cut, pieces_of, prompt_tokens_of, tokens_of
from tests.support.provider import Provider

QUESTION: list[Any] = [{"role": "user", "content": "Where is my parcel?"}]
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "get_order",
        "description": "Look an order up.",
        "parameters": {
            "type": "object",
            "properties": {
                "number": {"type": "integer", "minimum": 7},
                "mode": {"enum": ["fast", "full"]},
                "tags": {"type": "array", "items": {"type": "string"}},
            },
        },
    },
}


@pytest.fixture
def client(provider: Provider) -> Iterator[OpenAI]:
    with OpenAI(base_url=provider.base_url, api_key="any", max_retries=0, timeout=30) as client:
        yield client


def ask(client: OpenAI, **parameters: Any) -> Any:
    return client.chat.completions.create(**{"model": "grok-4.3", "messages": QUESTION, **parameters})


def stream(client: OpenAI, **parameters: Any) -> list[ChatCompletionChunk]:
    return list(ask(client, stream=True, **parameters))


def text_of(chunks: list[ChatCompletionChunk]) -> str:
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 30
    while not (met := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return met


def test_answers_as_a_support_desk_and_says_that_it_is_a_demo(client: OpenAI) -> None:
    answer = ask(client)
    assert answer.choices[0].message.content.startswith("[demo] ")
    assert "parcel" in answer.choices[0].message.content
    assert (answer.model, answer.choices[0].finish_reason) == ("grok-4.3", "stop")
    assert answer.usage.prompt_tokens == 5
    assert answer.usage.completion_tokens == tokens_of(answer.choices[0].message.content)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


@pytest.mark.parametrize(
    ("question", "word"),
    [
        ("I want my money back", "refund|return"),
        ("I forgot my password", "reset link"),
        ("Why was my card charged twice?", "invoice"),
        ("Cancel my subscription", "plan"),
        ("Hm.", "help|touch|ticket"),
    ],
)
def test_answers_to_the_point_and_the_same_every_time(client: OpenAI, question: str, word: str) -> None:
    answers = [
        ask(client, messages=[{"role": "user", "content": [{"type": "text", "text": question}]}]) for _ in range(2)
    ]
    assert any(part in answers[0].choices[0].message.content for part in word.split("|"))
    assert answers[0].choices == answers[1].choices
    assert answers[0].id != answers[1].id


def test_says_it_n_times_and_bills_all(client: OpenAI) -> None:
    once, thrice = ask(client), ask(client, n=3)
    assert [choice.index for choice in thrice.choices] == [0, 1, 2]
    assert thrice.usage.completion_tokens == 3 * once.usage.completion_tokens
    assert {choice.index for chunk in stream(client, n=3) for choice in chunk.choices} == {0, 1, 2}


@pytest.mark.parametrize("parameter", ["max_completion_tokens", "max_tokens"])
def test_keeps_to_the_maximum(client: OpenAI, parameter: str) -> None:
    answer = ask(client, **{parameter: 9})
    assert answer.usage.completion_tokens == 9
    assert answer.choices[0].finish_reason == "length"


def test_streams_what_it_says_plainly(client: OpenAI) -> None:
    plain, chunks = ask(client), stream(client)
    assert text_of(chunks) == plain.choices[0].message.content
    assert len(chunks) > 10
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in chunks)


def test_streams_usage_if_asked(client: OpenAI) -> None:
    plain, chunks = ask(client), stream(client, stream_options={"include_usage": True})
    assert (chunks[-1].choices, chunks[-1].usage) == ([], plain.usage)
    assert all("usage" in chunk.model_fields_set and chunk.usage is None for chunk in chunks[:-1])


@pytest.mark.parametrize(
    ("question", "tool_choice", "is_called"),
    [
        ("Please get order 12", "auto", True),
        ("Hello", "auto", False),
        ("Hello", "required", True),
        ("Hello", {"type": "function", "function": {"name": "get_order"}}, True),
        ("Please get order 12", "none", False),
    ],
)
def test_calls_a_tool_when_asked_to(client: OpenAI, question: str, tool_choice: Any, is_called: bool) -> None:
    asked = {"messages": [{"role": "user", "content": question}], "tools": [TOOL], "tool_choice": tool_choice}
    choice = ask(client, **asked).choices[0]
    assert (choice.finish_reason == "tool_calls") is is_called is bool(choice.message.tool_calls)


def test_a_tool_round_trip_plain_and_streamed(client: OpenAI) -> None:
    asked = {"messages": [{"role": "user", "content": "Use get_order"}], "tools": [TOOL]}
    call = ask(client, **asked).choices[0].message.tool_calls[0]
    assert orjson.loads(call.function.arguments) == {"number": 7, "mode": "fast", "tags": ["demo"]}

    deltas = [tool for chunk in stream(client, **asked) for tool in chunk.choices[0].delta.tool_calls or ()]
    assert (deltas[0].id, deltas[0].function and deltas[0].function.name) == (call.id, "get_order")
    assert "".join(delta.function.arguments or "" for delta in deltas if delta.function) == call.function.arguments

    messages = [
        *asked["messages"],
        {"role": "assistant", "tool_calls": [call.model_dump()]},
        {"role": "tool", "tool_call_id": call.id, "content": "delivered on Monday"},
    ]
    assert "delivered on Monday" in ask(client, messages=messages, tools=[TOOL]).choices[0].message.content


def test_reads_a_long_request(client: OpenAI) -> None:
    text = "Ä long story. " * 40_000
    assert ask(client, messages=[{"role": "user", "content": text}]).usage.prompt_tokens == len(text.encode()) // 4


def test_answers_in_json(client: OpenAI) -> None:
    content = ask(client, response_format={"type": "json_object"}).choices[0].message.content
    assert orjson.loads(content)["demo"] is True
    schema = {"type": "json_schema", "json_schema": {"name": "reply", "schema": SCHEMA}}
    reply = orjson.loads(ask(client, response_format=schema).choices[0].message.content)
    assert reply == {"kind": "note", "line": {"text": reply["line"]["text"], "next": None}, "many": [1], "sure": True}
    assert reply["line"]["text"].startswith("[demo] ")


SCHEMA = {
    "type": "object",
    "properties": {
        "kind": {"const": "note"},
        "line": {"$ref": "#/$defs/Line"},
        "many": {"type": "array", "items": {"type": "number"}},
        "sure": {"type": ["boolean", "null"]},
    },
    "$defs": {
        "Line": {
            "type": "object",
            "properties": {"text": {"type": "string"}, "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/Line"}]}},
        }
    },
}


def test_parses_into_a_model(client: OpenAI) -> None:
    class Reply(BaseModel):
        answer: str
        is_urgent: bool

    parsed = client.chat.completions.parse(model="any", messages=QUESTION, response_format=Reply)
    assert parsed.choices[0].message.parsed == Reply(answer=ask(client).choices[0].message.content, is_urgent=True)


def test_lists_its_models(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["demo-large", "demo-small", "demo-embedding"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"{", None),
        (b"[]", "model"),
        (b'{"model": "any"}', "messages"),
        (b'{"model": "a", "messages": [1]}', "messages"),
    ],
)
def test_refuses_what_is_no_request(provider: Provider, body: bytes, param: str | None) -> None:
    answer = provider.session.post(f"{provider.base_url}/chat/completions", data=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert provider.session.get(f"{provider.base_url}/chat/completions").status_code == 404


@given(text=st.text(), max_tokens=st.integers(0, 50))
def test_tokens_never_exceed_bytes(text: str, max_tokens: int) -> None:
    assert tokens_of(text) <= len(text.encode())
    assert prompt_tokens_of({"messages": [{"content": text}]}) <= max(1, len(text.encode()))
    assert tokens_of(cut(text, max_tokens)) <= max_tokens
    assert text.startswith(cut(text, max_tokens))


@given(text=st.text(), count=st.integers(1, 20))
def test_pieces_join_to_the_text(text: str, count: int) -> None:
    assert "".join(pieces_of(text)) == text
    assert "".join(pieces_of(text, count)) == text
    assert len(pieces_of(text, count)) == count


# What it can be told


def test_a_status_with_headers_and_a_body_meets_the_named_model_only(client: OpenAI, provider: Provider) -> None:
    provider.behave("grok-4.3", status=429, headers={"Retry-After": "7"}, body={"error": {"message": "slow down"}})
    with pytest.raises(openai.RateLimitError, match="slow down") as refused:
        ask(client)
    assert refused.value.response.headers["retry-after"] == "7"
    assert ask(client, model="gpt-6-luna").model == "gpt-6-luna"


def test_an_error_without_a_body_is_worded_as_openai_words_it(client: OpenAI, provider: Provider) -> None:
    provider.behave(status=503)
    with pytest.raises(openai.InternalServerError) as failed:
        stream(client)
    assert failed.value.type == "server_error"


def test_a_body_need_not_be_json(provider: Provider) -> None:
    provider.behave(body="<html>")
    answer = provider.session.post(f"{provider.base_url}/chat/completions", json={"model": "a", "messages": QUESTION})
    assert (answer.status_code, answer.text) == (200, "<html>")


def test_usage_verbatim_left_out_and_counted(client: OpenAI, provider: Provider) -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3, "cost_in_usd_ticks": 37_756_000}
    provider.behave(usage=usage)
    assert ask(client).usage.model_dump(exclude_unset=True) == usage
    assert stream(client, stream_options={"include_usage": True})[-1].usage == ask(client).usage
    provider.behave(usage=None)
    assert ask(client).usage is None
    assert all(chunk.usage is None for chunk in stream(client, stream_options={"include_usage": True}))
    provider.behave()
    assert ask(client).usage.prompt_tokens == 5


def test_the_answers_parts(client: OpenAI, provider: Provider) -> None:
    provider.behave(content="Hello there", finish_reason="content_filter", chunks=4)
    choice = ask(client).choices[0]
    assert (choice.message.content, choice.finish_reason) == ("Hello there", "content_filter")
    assert [chunk.choices[0].delta.content for chunk in stream(client)[1:-1]] == ["He", "llo", " th", "ere"]
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    provider.behave(tool_calls=[call])
    assert ask(client).choices[0].message.tool_calls[0].model_dump() == call


def test_chunks_verbatim(client: OpenAI, provider: Provider) -> None:
    provider.behave(chunks=[{"id": "x", "choices": [], "surprise": {"deep": 1}}])
    assert [chunk.model_dump(exclude_unset=True) for chunk in stream(client)] == [
        {"id": "x", "choices": [], "surprise": {"deep": 1}}
    ]


def test_latency_and_delay_between_chunks(client: OpenAI, provider: Provider) -> None:
    provider.behave(latency_s=0.2)
    started = time.monotonic()
    ask(client)
    assert time.monotonic() - started >= 0.2
    provider.behave(content="one two", chunks=2, chunk_delay_s=0.1)
    started = time.monotonic()
    assert len(stream(client)) == 4
    assert time.monotonic() - started >= 0.3


def test_fails_the_first_calls_only(client: OpenAI, provider: Provider) -> None:
    provider.behave("grok-4.3", fail_first_n=2, content="fine")
    for _ in range(2):
        with pytest.raises(openai.InternalServerError):
            ask(client)
    assert ask(client).choices[0].message.content == "fine"


def test_hangs_until_the_client_goes(client: OpenAI, provider: Provider) -> None:
    provider.behave(hang=True)
    with pytest.raises(openai.APITimeoutError):
        ask(client, timeout=0.2)
    assert eventually(lambda: provider.calls()[0]["state"] == "disconnected")


@pytest.mark.parametrize(
    ("where", "error"),
    [("before", "without response"), ("mid", "bytes read"), (True, "bytes read")],
)
def test_breaks_the_connection(client: OpenAI, provider: Provider, where: Any, error: str) -> None:
    provider.behave(break_connection=where)
    with pytest.raises(openai.APIConnectionError):
        ask(client)
    with pytest.raises(requests.RequestException, match=error):
        requests.post(f"{provider.base_url}/chat/completions", json={"model": "a", "messages": QUESTION}, timeout=30)
    assert eventually(lambda: [call["state"] for call in provider.calls()] == ["broken", "broken"])


def events(provider: Provider, timeout: float = 5) -> Iterator[bytes]:
    body = {"model": "grok-4.3", "messages": QUESTION, "stream": True}
    url = f"{provider.base_url}/chat/completions"
    with requests.post(url, json=body, stream=True, timeout=timeout) as answer:
        yield from (line.removeprefix(b"data: ") for line in answer.iter_lines(chunk_size=1) if line)


def test_breaks_a_stream_off(provider: Provider) -> None:
    provider.behave(break_after_chunks=3)
    seen: list[bytes] = []
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        seen.extend(events(provider))
    assert len(seen) == 3
    assert provider.calls()[0]["state"] == "broken"


def test_stalls_a_stream(provider: Provider) -> None:
    provider.behave(stall_after_chunks=2)
    seen: list[bytes] = []
    with pytest.raises(requests.exceptions.ConnectionError, match="timed out"):
        seen.extend(events(provider, timeout=0.3))
    assert len(seen) == 2
    assert eventually(lambda: provider.calls()[0]["state"] == "disconnected")


def test_sends_garbage(provider: Provider) -> None:
    provider.behave(garbage_after_chunks=2)
    seen = list(events(provider))
    assert len(seen) == 3
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(seen[2])


def test_keeps_stream_usage_back(client: OpenAI, provider: Provider) -> None:
    provider.behave(omit_stream_usage=True)
    assert all(chunk.usage is None for chunk in stream(client, stream_options={"include_usage": True}))


def test_a_behaviour_that_there_is_not_is_refused(provider: Provider) -> None:
    provider.behave(content="as before")
    with pytest.raises(AssertionError, match="latency_ms is not a behaviour"):
        provider.behave(latency_ms=3)


def test_calls_are_logged_as_they_came(client: OpenAI, provider: Provider) -> None:
    ask(client, extra_headers={"X-Trace": "abc"}, seed=4)
    ask(client, model="gpt-6-luna")
    first, second = provider.calls()
    assert first["body"] == {"model": "grok-4.3", "messages": QUESTION, "seed": 4}
    assert (first["headers"]["x-trace"], first["headers"]["authorization"]) == ("abc", "Bearer any")
    assert (first["number"], first["state"]) == (1, "finished")
    assert first["started_at"] <= first["ended_at"] <= second["started_at"]
    assert provider.calls("gpt-6-luna") == [second]
    provider.reset()
    assert provider.calls() == []


# In the product


async def get(url: str) -> requests.Response:
    return await asyncio.to_thread(requests.get, url, timeout=30)


async def test_serves_inside_a_running_loop_and_leaves_signals_alone() -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    base_url, stop = await serve_on_loopback(create_app(latency_s=0.2))
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    started = time.monotonic()
    body = {"model": "any", "messages": QUESTION}
    answer = await asyncio.to_thread(requests.post, f"{base_url}/chat/completions", json=body, timeout=30)
    assert answer.json()["choices"][0]["message"]["content"].startswith("[demo] ")
    assert time.monotonic() - started >= 0.15
    await stop()
    with pytest.raises(requests.ConnectionError):
        await get(f"{base_url}/models")


async def test_the_product_cannot_be_controlled() -> None:
    base_url, stop = await serve_on_loopback()
    assert (await get(f"{base_url}/models")).ok
    assert (await get(base_url.replace("/v1", "/control/calls"))).status_code == 404
    await stop()
