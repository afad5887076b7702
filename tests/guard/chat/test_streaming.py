"""Streams against the real server: chunks passed on as they come, and one settlement, however it ends."""

import asyncio
import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any

import bpe_openai
import httpx2
import openai
import pytest
import requests
from django.db import transaction
from openai.types.chat import ChatCompletionMessageParam
from pytest_django import DjangoDbBlocker

from spend.breakers import FAILURES_TO_OPEN
from spend.codes import StepCode
from spend.models import Breaker, LedgerEntry, Outcome, Route
from tenants.models import Tenant
from tests.support.agents import HELLO, Agent, Json, audit, chunks_of, events_of, eventually, text_of, upstream
from tests.support.databases import Databases
from tests.support.provider import Provider
from tests.support.server import GuardServer

StartServer = Callable[..., GuardServer]

IDLE_S = 1.0
USAGE = {"prompt_tokens": 30, "completion_tokens": 20, "total_tokens": 50}
USAGE_TICKS = 30 * 12_500 + 20 * 25_000
PROMPT = HELLO[0]["content"]


@pytest.fixture(scope="module")
def server(
    databases: Databases,
    provider_process: Provider,
    tmp_path_factory: pytest.TempPathFactory,
    django_db_blocker: DjangoDbBlocker,
) -> Iterator[GuardServer]:
    """One for the module: its agents share nothing. At the end its books must balance."""
    log_path = tmp_path_factory.mktemp("streams") / "server.log"
    server = GuardServer(
        databases.copy(),
        log_path,
        django_db_blocker,
        STREAM_IDLE_SECONDS=str(IDLE_S),
        HOLD_WAIT_SECONDS="0.5",
        PROVIDER_TIMEOUT_SECONDS="1",
    )
    try:
        yield server
        audit(server)
        assert "Traceback" not in server.log, server.log
    finally:
        server.close()


@pytest.fixture(scope="module")
def agents(server: GuardServer) -> Iterator[Agent]:
    """Made before the server starts, which then need not hear of them."""
    with server.database(), transaction.atomic():
        made = [Agent.create(server) for _ in range(120)]
    server.start()
    return iter(made)


@pytest.fixture
def agent(agents: Iterator[Agent], provider: Provider) -> Agent:
    return next(agents)


def tokens_of(text: str) -> int:
    return len(bpe_openai.get_encoding("o200k_base").encode_ordinary(text))


# What the client sees


def test_chunks_are_passed_on_as_they_come(agent: Agent, provider: Provider) -> None:
    provider.behave(upstream(agent.model), chunks=4, chunk_delay_s=0.3)
    events = events_of(agent.stream())
    next(events)
    (call,) = provider.calls(upstream(agent.model))
    assert call["state"] == "started"
    arrived_at = [time.monotonic() for _ in events]
    assert arrived_at[-1] - arrived_at[0] > 0.3


@pytest.mark.parametrize("asked", [None, False, True])
def test_usage_is_always_asked_of_the_provider_and_shown_if_the_client_asked(
    agent: Agent, provider: Provider, asked: bool | None
) -> None:
    provider.behave(upstream(agent.model), usage=USAGE)
    options: dict[str, Any] = {} if asked is None else {"stream_options": {"include_usage": asked}}
    chunks = chunks_of(agent.stream(**options))
    (call,) = provider.calls()
    assert call["body"]["stream_options"] == {"include_usage": True}
    assert [chunk["usage"] for chunk in chunks if chunk.get("usage")] == ([USAGE] if asked else [])
    if not asked:
        assert not any("usage" in chunk or not chunk["choices"] for chunk in chunks)
    entry = agent.entry()
    assert (entry.cost_ticks, entry.is_estimated) == (USAGE_TICKS, False)


def test_obfuscation_is_the_callers_to_turn_off(agent: Agent, provider: Provider) -> None:
    chunks_of(agent.stream(stream_options={"include_obfuscation": False}))
    (call,) = provider.calls()
    assert call["body"]["stream_options"] == {"include_obfuscation": False, "include_usage": True}


def test_headers_name_the_model_and_the_budget_but_no_cost(agent: Agent) -> None:
    answer = agent.stream(headers={"X-Request-Id": "call-7"}, model="auto")
    assert answer.headers["Content-Type"] == "text/event-stream"
    guarded = {name: value for name, value in answer.headers.items() if name.startswith("x-")}
    budget = {name: guarded.pop(f"x-guard-budget-{name}") for name in ("limit-usd", "remaining-usd", "reset")}
    assert all(float(figure) > 0 for figure in budget.values())
    assert guarded == {
        "x-request-id": "call-7",
        "x-guard-model": agent.model,
        "x-guard-requested-model": "auto",
        "x-guard-route": "primary",
        "x-guard-budget-state": "active",
    }
    assert {chunk["model"] for chunk in chunks_of(answer)} == {agent.model}


def choice(delta: Json, finish_reason: str | None = None, **further: Any) -> Json:
    return {"index": 0, "delta": delta, "finish_reason": finish_reason, **further}


def chunk(*choices: Json, **further: Any) -> Json:
    return {"id": "c-1", "object": "chat.completion.chunk", "created": 7, "choices": list(choices), **further}


LOGPROBS = {"content": [{"token": "Hi", "logprob": -0.25, "bytes": [72, 105], "top_logprobs": []}], "refusal": None}
TOOL = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}}
ODDITIES = [
    chunk(
        choice({"role": "assistant", "content": None, "tool_calls": [TOOL]}), system_fingerprint="fp", new={"a": [1]}
    ),
    chunk(choice({"tool_calls": [{"index": 0, "function": {"arguments": '{"città": "Zürich 🚉"}'}}]})),
    chunk(choice({"refusal": "I can't."}, logprobs=LOGPROBS, content_filter_results={"hate": {"filtered": False}})),
    chunk(choice({"reasoning_content": "hm", "content": ""}), service_tier="default"),
    chunk(prompt_filter_results=[{"prompt_index": 0}]),
    chunk(choice({}, "tool_calls")),
    chunk(choice({}, "content_filter", index=1)),
]


def test_tool_calls_refusals_logprobs_and_what_we_do_not_know_come_through(agent: Agent, provider: Provider) -> None:
    provider.behave(upstream(agent.model), chunks=[*ODDITIES, chunk(usage=USAGE)])
    assert chunks_of(agent.stream(n=2)) == [{**oddity, "model": agent.model} for oddity in ODDITIES]
    assert agent.entry().cost_ticks == USAGE_TICKS


def raw(*events: Json | str, end: str = "\n") -> str:
    """A stream's bytes; text among the events stands as it is."""
    lines = [event if isinstance(event, str) else f"data: {json.dumps(event)}" for event in events]
    return "".join(line + end * 2 for line in lines)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_comments_and_line_ends_are_the_providers_own_business(agent: Agent, provider: Provider, end: str) -> None:
    said = [chunk(choice({"content": "Hi"})), chunk(choice({}, "stop")), chunk(usage=USAGE)]
    body = raw(
        ": processing",
        "event: ping",
        said[0],
        f": still{end}: here",
        said[1],
        "retry: 10",
        said[2],
        "data: [DONE]",
        end=end,
    )
    provider.behave(upstream(agent.model), status=200, body=body)
    events = list(events_of(agent.stream()))
    texts = [": processing", "event: ping", ": still\n: here", "retry: 10", "[DONE]"]
    assert [event for event in events if isinstance(event, str)] == texts
    assert [event for event in events if isinstance(event, dict)] == [{**one, "model": agent.model} for one in said[:2]]
    assert agent.entry().cost_ticks == USAGE_TICKS


def test_the_guards_own_endpoint_streams_too_and_sums_up_before_the_end(agent: Agent, provider: Provider) -> None:
    provider.behave(upstream(agent.model), usage=USAGE, content="It arrives tomorrow.", chunks=3)
    answer = agent.own_chat(stream=True, customerId="c-1")
    *chunks, summary = chunks_of(answer)
    assert text_of(chunks) == "It arrives tomorrow."
    assert {one["model"] for one in chunks} == {agent.model}
    assert summary == {
        "id": answer.headers["X-Request-Id"],
        "tenantId": agent.tenant_id,
        "content": "It arrives tomorrow.",
        "model": agent.model,
        "requestedModel": "auto",
        "route": "primary",
        "finishReason": "stop",
        "usage": {"inputTokens": 30, "cachedInputTokens": 0, "outputTokens": 20, "reasoningTokens": 0},
        "costUsd": "0.0000875",
        "budget": {**summary["budget"], "state": "active", "spentUsd": "0.0000875"},
    }
    entry = agent.entry()
    assert (entry.cost_ticks, entry.customer) == (USAGE_TICKS, "c-1")


def test_a_tenant_that_hides_money_has_none_in_its_streams(agent: Agent, provider: Provider) -> None:
    with agent.server.database():
        tenant = Tenant.objects.get(pk=agent.tenant_id)
        tenant.hide_money = True
        tenant.save()
    provider.behave(
        upstream(agent.model), usage={**USAGE, "cost_in_usd_ticks": 777_000, "cost": 0.01, "x": {"cost": "$1"}}
    )
    answers = [agent.stream(stream_options={"include_usage": True}), agent.own_chat(stream=True)]
    chunks = [chunks_of(answer) for answer in answers]
    assert chunks[0][-1]["usage"] == USAGE
    assert chunks[1][-1]["budget"].keys() == {"state", "resetsAt"}
    for answer, said in zip(answers, chunks, strict=True):
        told = f"{said} {dict(answer.headers)}".lower()
        assert not any(word in told for word in ("usd", "cost", "$"))
    assert [entry.cost_ticks for entry in agent.entries(at_least=2)] == [777_000] * 2


# How it ends


def broken_off(answer: requests.Response, agent: Agent, code: str) -> list[Json]:
    """The chunks before the error event, which says what happened and is the last."""
    *chunks, last = events_of(answer)
    assert isinstance(last, dict), last
    assert last["error"] == {
        "message": "The model's provider broke off.",
        "type": "api_error",
        "code": "all_models_failed",
        "param": None,
        "request_id": answer.headers["X-Request-Id"],
        "attempts": [{"model": agent.model, "code": code}],
    }
    assert all(isinstance(chunk, dict) for chunk in chunks)
    return [chunk for chunk in chunks if isinstance(chunk, dict)]


def assert_counted(entry: LedgerEntry, text: str) -> None:
    """Billed by what came: the prompt and `text`, flagged as an estimate, within the hold."""
    assert entry.output_tokens == tokens_of(text)
    assert tokens_of(PROMPT) <= entry.input_tokens <= tokens_of(PROMPT) + 8
    assert entry.cost_ticks == entry.input_tokens * 12_500 + entry.output_tokens * 25_000
    assert entry.is_estimated
    assert not entry.is_overrun
    assert not entry.is_expired
    assert entry.cost_ticks <= entry.hold_ticks


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        ({"break_after_chunks": 4}, "connection_failed"),
        ({"stall_after_chunks": 4}, "timeout"),
        ({"garbage_after_chunks": 4}, "bad_answer"),
    ],
)
def test_a_provider_that_breaks_off_is_billed_for_what_it_said(
    agent: Agent, provider: Provider, ending: Json, code: str
) -> None:
    provider.behave(upstream(agent.model), chunks=8, chunk_delay_s=0.02, **ending)
    text = text_of(broken_off(agent.stream(), agent, code))
    assert text
    assert_counted(agent.entry(), text)
    assert provider.calls(upstream(agent.fallback)) == []
    (call,) = agent.calls()
    assert (call.outcome, call.steps[-2]["decision"], call.steps[-2]["code"]) == (Outcome.SERVED, "broke_off", code)


SAID = [chunk(choice({"content": "Your parcel "})), chunk(choice({"content": "is here"}))]


@pytest.mark.parametrize(
    ("last", "code"),
    [
        ({"error": {"message": "overloaded", "type": "server_error"}}, "server_error"),
        ({"error": "overloaded", "code": "x"}, "server_error"),
        ("data: [1, 2]", "bad_answer"),
        ("<html>", "connection_failed"),
        (": and then silence", "connection_failed"),
    ],
)
def test_what_came_in_one_piece_with_a_failure_is_passed_on_and_billed(
    agent: Agent, provider: Provider, last: Json | str, code: str
) -> None:
    provider.behave(upstream(agent.model), status=200, body=raw(*SAID, last))
    *chunks, end = [event for event in events_of(agent.stream()) if isinstance(event, dict)]
    assert text_of(chunks) == "Your parcel is here"
    assert end["error"]["attempts"] == [{"model": agent.model, "code": code}]
    assert_counted(agent.entry(), "Your parcel is here")


def test_half_a_character_and_infinite_numbers_are_passed_on(agent: Agent, provider: Provider) -> None:
    """Some providers cut an emoji in two; their other clients put it together."""
    halves = [chunk(choice({"content": half})) for half in ("\ud83d", "\ude00")]
    endless = chunk(choice({"content": "!"}, logprobs={"content": [{"token": "!", "logprob": -float("inf")}]}))
    said: list[Json | str] = [*halves, endless, chunk(choice({}, "stop")), "data: [DONE]"]
    provider.behave(upstream(agent.model), status=200, body=raw(*said))
    key = {"Idempotency-Key": "k"}
    first = agent.stream(key).content  # whole, so that the call has ended before it is made again
    assert agent.stream(key).content == first
    seen = [json.loads(event.removeprefix(b"data: ")) for event in first.split(b"\n\n")[:-2]]
    assert [one["choices"][0]["delta"].get("content") for one in seen] == ["\ud83d", "\ude00", "!", None]
    assert seen[2]["choices"][0]["logprobs"] == {"content": [{"token": "!", "logprob": None}]}
    assert agent.entry().is_estimated


def test_what_comes_with_the_usage_is_not_lost_with_it(agent: Agent, provider: Provider) -> None:
    sources = chunk(usage=USAGE, citations=["https://example.com"])
    provider.behave(upstream(agent.model), chunks=[*SAID, chunk(choice({}, "stop")), sources])
    last = chunks_of(agent.stream())[-1]
    assert last == {**chunk(citations=["https://example.com"]), "model": agent.model}


def test_a_broken_stream_raises_in_the_openai_sdk(agent: Agent, provider: Provider) -> None:
    provider.behave(upstream(agent.model), chunks=8, break_after_chunks=4, chunk_delay_s=0.02)
    said: list[str] = []

    def listen(client: openai.OpenAI) -> None:
        messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": PROMPT}]
        for one in client.chat.completions.create(model=agent.model, messages=messages, stream=True):
            said.append(one.choices[0].delta.content or "")  # noqa: PERF401  what came before the error counts

    with (
        openai.OpenAI(base_url=f"{agent.server.url}/v1", api_key=agent.secret) as client,
        pytest.raises(openai.APIError, match="The model's provider broke off"),
    ):
        listen(client)
    assert len(provider.calls()) == 1
    assert_counted(agent.entry(), "".join(said))


@pytest.mark.parametrize(
    "odd", [{}, {"usage": None}, {"usage": "many"}, {"usage": {"prompt_tokens": -1}}, {"usage": []}]
)
def test_a_stream_without_a_usable_usage_is_counted(agent: Agent, provider: Provider, odd: Json) -> None:
    provider.behave(upstream(agent.model), chunks=[*SAID, chunk(choice({}, "stop")), *([chunk(**odd)] if odd else [])])
    assert text_of(chunks_of(agent.stream())) == "Your parcel is here"
    assert_counted(agent.entry(), "Your parcel is here")


@pytest.mark.parametrize("count", [1, 2])
def test_a_usage_that_is_not_the_last_word_is_no_bill(agent: Agent, provider: Provider, count: int) -> None:
    """Some providers send one with every chunk: after a break it is the least that was spent, not all of it."""
    early = {"prompt_tokens": 1, "completion_tokens": 1}
    late = {"prompt_tokens": 60, "completion_tokens": 60}
    said = [chunk(choice({"content": "Your parcel is here"}), usage=[early, late][count - 1])]
    provider.behave(upstream(agent.model), chunks=[*said, chunk(), chunk()], break_after_chunks=2, chunk_delay_s=0.05)
    broken_off(agent.stream(), agent, "connection_failed")
    entry = agent.entry()
    if count == 1:
        assert_counted(entry, "Your parcel is here")
    else:
        assert (entry.cost_ticks, entry.is_estimated) == (60 * 37_500, True)


def test_a_usage_that_text_follows_is_no_bill_even_where_the_answer_is_whole(agent: Agent, provider: Provider) -> None:
    early = {"prompt_tokens": 30, "completion_tokens": 0, "total_tokens": 30}
    begun = chunk(choice({"role": "assistant", "content": ""}), usage=early)
    provider.behave(upstream(agent.model), chunks=[begun, *SAID * 20, chunk(choice({}, "stop"))])
    text = text_of(chunks_of(agent.stream()))
    assert_counted(agent.entry(), text)


def test_a_usage_with_the_last_text_is_the_bill(agent: Agent, provider: Provider) -> None:
    last = chunk(choice({"content": "is here"}), usage=USAGE)
    provider.behave(upstream(agent.model), chunks=[SAID[0], last, chunk(choice({}, "stop"))])
    chunks_of(agent.stream())
    entry = agent.entry()
    assert (entry.cost_ticks, entry.is_estimated) == (USAGE_TICKS, False)


@pytest.mark.parametrize(
    "odd",
    [
        {"choices": None}, {"choices": "x"}, {"choices": [None, 1, []]}, {"choices": [{"delta": "text"}]},
        {"choices": [{"delta": {"content": [{"type": "text", "text": "part"}]}}]}, {"choices": {"delta": {}}},
        {"choices": [{"index": [1], "delta": {"content": 5}, "finish_reason": None}]}, {"usage": 7},
        {"choices": [{"index": {}, "delta": {}, "finish_reason": ["odd"]}]},
    ],
)  # fmt: skip
def test_no_oddity_keeps_a_stream_from_being_settled(agent: Agent, provider: Provider, odd: Json) -> None:
    provider.behave(upstream(agent.model), chunks=[odd, chunk(choice({}, "stop")), chunk(usage=USAGE)])
    answer = agent.stream(headers={"Idempotency-Key": "k"}, stream_options={"include_usage": True})
    assert chunks_of(answer)[0] == {**odd, "model": agent.model}
    assert agent.entry().cost_ticks == USAGE_TICKS


def test_a_long_prompt_with_tools_and_a_picture_is_counted_too(agent: Agent, provider: Provider) -> None:
    """The estimate covers all that was sent; a picture's bytes are no text."""
    provider.behave(upstream(agent.model), chunks=[*SAID, chunk(choice({}, "stop"))])
    tools = [{"type": "function", "function": {"name": "f", "description": "word " * 500, "parameters": {}}}]
    messages = [{"role": "user", "content": "Where is my parcel? " * 60_000}]
    chunks_of(agent.stream(messages=messages, tools=tools, max_tokens=16))
    entry = agent.entry()
    assert entry.input_tokens == pytest.approx(60_000 * 5 + 500, rel=0.01)
    assert entry.cost_ticks <= entry.hold_ticks


@pytest.mark.parametrize(
    ("prelude", "is_billed"),
    [
        ([], True),
        (["data: {"], True),
        (["data: [DONE]"], False),
        ([{"error": {"message": "no"}}], False),
        (["<html>"], False),
    ],
)
def test_before_the_first_chunk_a_failing_provider_falls_back(
    agent: Agent, provider: Provider, prelude: list[Json | str], is_billed: bool
) -> None:
    """Where nothing of an answer came, but a page, an error or an end, there is nothing to bill."""
    provider.behave(upstream(agent.model), status=200, body=raw(*prelude))
    provider.behave(upstream(agent.fallback), usage=USAGE)
    answer = agent.stream()
    assert (answer.headers["X-Guard-Route"], answer.headers["X-Guard-Model"]) == ("fallback", agent.fallback)
    assert {one["model"] for one in chunks_of(answer)} == {agent.fallback}
    *failed, served = agent.entries(at_least=1 + is_billed)
    assert (served.cost_ticks, served.route, served.is_estimated) == (USAGE_TICKS, Route.FALLBACK, False)
    assert [(entry.cost_ticks, entry.is_estimated) for entry in failed] == [(served.hold_ticks, True)] * is_billed


@pytest.mark.parametrize(
    ("failure", "is_billed"),
    [
        ({"status": 500}, False),
        ({"status": 429}, False),
        ({"hang": True}, True),
        ({"break_connection": "before"}, True),
    ],
)
def test_a_provider_that_fails_at_once_falls_back(
    agent: Agent, provider: Provider, failure: Json, is_billed: bool
) -> None:
    """What surely was not billed costs nothing; what nobody knows, the hold."""
    provider.behave(upstream(agent.model), **failure)
    provider.behave(upstream(agent.fallback), usage=USAGE)
    answer = agent.stream()
    assert answer.headers["X-Guard-Model"] == agent.fallback
    assert answer.content.endswith(b"data: [DONE]\n\n")
    *failed, served = agent.entries(at_least=1 + is_billed)
    assert served.cost_ticks == USAGE_TICKS
    assert [entry.cost_ticks == entry.hold_ticks for entry in failed] == [True] * is_billed


SERVER_ERROR = "HTTP/1.1 500 Oh\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
CHUNKED = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
GZIPPED = "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope"
FAULTS: list[tuple[Json, str]] = [
    ({"wire": [SERVER_ERROR]}, "connection_failed"),
    ({"wire": [SERVER_ERROR], "hang": True}, "timeout"),
    ({"wire": ["no HTTP at all\r\n\r\n"]}, "bad_answer"),
    ({"wire": [CHUNKED + "zz\r\nno chunk"]}, "bad_answer"),
    ({"wire": [GZIPPED]}, "bad_answer"),
]


@pytest.mark.parametrize(("fault", "code"), FAULTS)
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_hardly_http_falls_back_and_is_settled(
    agent: Agent, provider: Provider, stream: bool, fault: Json, code: str
) -> None:
    provider.behave(upstream(agent.model), **fault)
    provider.behave(upstream(agent.fallback), usage=USAGE)
    answer = agent.chat(stream=stream)
    assert (answer.status_code, answer.headers.get("X-Guard-Model")) == (200, agent.fallback), answer.text
    assert answer.content
    failed, served = agent.entries(at_least=2)
    assert (failed.cost_ticks, failed.is_estimated) == (failed.hold_ticks, True)
    assert served.cost_ticks == USAGE_TICKS
    (step,) = [step for step in agent.calls()[0].steps if step["decision"] == "failed"]
    assert step["code"] == code or not stream
    with agent.server.database():
        assert Breaker.objects.get(pk=agent.model).failures == 1


@pytest.mark.parametrize(
    ("last", "is_billed"),
    [
        ("data: [DONE]", False),
        ({"error": {"message": "overloaded"}}, False),
        ("data: {", True),
        (": and then silence", False),
        (None, False),
    ],
)
def test_what_keeps_a_connection_alive_begins_no_answer(
    agent: Agent, provider: Provider, last: Json | str | None, is_billed: bool
) -> None:
    """The fallback is still possible, whether the rest comes with the comment or after it."""
    head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
    provider.behave(
        upstream(agent.model),
        wire=[head + raw(": processing"), raw(": still"), raw(*([last] if last else []))],
        chunk_delay_s=0.05,
    )
    provider.behave(upstream(agent.fallback), usage=USAGE)
    assert agent.stream().headers["X-Guard-Model"] == agent.fallback
    *failed, _ = agent.entries(at_least=1 + is_billed)
    assert [entry.cost_ticks == entry.hold_ticks for entry in failed] == [True] * is_billed


def test_comments_before_an_answer_come_with_it(agent: Agent, provider: Provider) -> None:
    said: list[Json | str] = [
        ": processing",
        ": still",
        *SAID,
        chunk(choice({}, "stop")),
        chunk(usage=USAGE),
        "data: [DONE]",
    ]
    head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
    provider.behave(upstream(agent.model), wire=[head, *(raw(each) for each in said)], chunk_delay_s=0.02)
    events = list(events_of(agent.stream()))
    assert events[:2] == [": processing", ": still"]
    assert text_of([event for event in events if isinstance(event, dict)]) == "Your parcel is here"
    assert agent.entry().cost_ticks == USAGE_TICKS


def framed(text: str) -> str:
    return f"{len(text.encode()):x}\r\n{text}\r\n"


@pytest.mark.parametrize(
    ("wire", "hang"),
    [
        ([CHUNKED + framed(raw(*SAID)), "zz\r\nno chunk"], False),
        ([CHUNKED + framed(raw(*SAID)), *[framed(raw(": ping"))] * 40], True),
    ],
)
def test_a_provider_that_says_nothing_more_has_broken_off_whatever_its_connection_does(
    agent: Agent, provider: Provider, wire: list[str], hang: bool
) -> None:
    provider.behave(upstream(agent.model), wire=wire, hang=hang, chunk_delay_s=IDLE_S / 4)
    answer = agent.stream()
    events = [event for event in events_of(answer) if not isinstance(event, str)]
    assert text_of(events[:-1]) == "Your parcel is here"
    assert events[-1]["error"]["attempts"] == [{"model": agent.model, "code": "timeout"}]
    assert_counted(agent.entry(), "Your parcel is here")


def test_all_models_failing_is_one_503_and_no_stream(agent: Agent, provider: Provider) -> None:
    provider.behave("*", status=500)
    answer = agent.chat(stream=True)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "all_models_failed")
    assert agent.pending() == 0


def test_streams_that_break_off_open_the_breaker(agent: Agent, provider: Provider) -> None:
    provider.behave(upstream(agent.model), chunks=8, break_after_chunks=3, chunk_delay_s=0.02)
    for _ in range(FAILURES_TO_OPEN):
        list(events_of(agent.stream()))
    eventually(lambda: is_open(agent))
    agent.server.wait_until_it_is_read()
    assert agent.stream().headers["X-Guard-Model"] == agent.fallback
    assert len(provider.calls(upstream(agent.model))) == FAILURES_TO_OPEN


def is_open(agent: Agent) -> bool:
    with agent.server.database():
        return Breaker.objects.filter(pk=agent.model, opened_at__isnull=False).exists()


# When the client goes away


def leave(agent: Agent, after_events: int, **body: Any) -> list[Any]:
    """Close the connection after so many events, and answer them."""
    answer = agent.stream(**body)
    events = events_of(answer)
    seen = [next(events) for _ in range(after_events)]
    answer.close()
    return seen


@contextmanager
def asking(agent: Agent, **body: Any) -> Iterator[socket.socket]:
    """A connection with little room, on which a call is asked and nothing read yet."""
    payload = json.dumps({"model": agent.model, "messages": HELLO, **body})
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {agent.secret}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
    with closing(socket.socket()) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", agent.server.port))
        connection.sendall(f"{head}{payload}".encode())
        yield connection


def leave_before_the_answer(agent: Agent, after_s: float, **body: Any) -> None:
    with asking(agent, **body):
        time.sleep(after_s)


def provider_was_left(agent: Agent, provider: Provider) -> None:
    eventually(lambda: [call["state"] for call in provider.calls(upstream(agent.model))] == ["disconnected"])


@pytest.mark.parametrize("after_events", [1, 3, 5])
def test_a_client_that_goes_is_billed_for_what_it_was_sent(agent: Agent, provider: Provider, after_events: int) -> None:
    provider.behave(upstream(agent.model), chunks=8, stall_after_chunks=after_events, chunk_delay_s=0.01)
    seen = leave(agent, after_events)
    assert_counted(agent.entry(), text_of(seen))
    provider_was_left(agent, provider)
    (call,) = agent.calls()
    assert call.outcome == Outcome.SERVED
    # It ended because its client went, and not because its provider stalled.
    assert StepCode.BROKE_OFF not in {step["decision"] for step in call.steps}


def test_a_client_that_reads_no_more_is_billed_for_what_came_and_waited_for_no_longer(
    agent: Agent, provider: Provider
) -> None:
    text = "parcel " * 9_000
    provider.behave(upstream(agent.model), chunks=[chunk(choice({"content": text}))] * 401, stall_after_chunks=400)
    with asking(agent, stream=True) as connection:
        assert connection.recv(15) == b"HTTP/1.1 200 OK"
        entry = agent.entry()
        assert (entry.is_estimated, entry.cost_ticks) == (True, entry.hold_ticks)
        assert agent.calls()[0].outcome == Outcome.SERVED
        provider_was_left(agent, provider)


def test_a_client_that_goes_at_any_time_is_billed_once(agent: Agent, provider: Provider) -> None:
    """At the very end too, and in every state of the settlement; a bill is the provider's or an estimate."""
    provider.behave(upstream(agent.model), chunks=4, usage=USAGE, chunk_delay_s=0.004)

    def leave_after(delay_s: float) -> None:
        answer = agent.stream()
        time.sleep(delay_s)
        answer.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(leave_after, [number * 0.0005 for number in range(80)]))
    entries = agent.entries(at_least=80)
    assert len(entries) == 80
    assert all(entry.is_estimated or entry.cost_ticks == USAGE_TICKS for entry in entries)
    assert all(0 < entry.cost_ticks <= entry.hold_ticks for entry in entries)


def test_a_client_that_goes_before_the_answer_is_billed_for_the_prompt_and_the_first_chunk(
    agent: Agent, provider: Provider
) -> None:
    provider.behave(upstream(agent.model), latency_s=0.3, chunks=8, stall_after_chunks=1)
    leave_before_the_answer(agent, 0.1, stream=True)
    assert_counted(agent.entry(), "")
    provider_was_left(agent, provider)


def test_a_client_that_goes_at_the_finish_reason_is_billed_by_the_usage(agent: Agent, provider: Provider) -> None:
    said = [*SAID, chunk(choice({}, "stop"))]
    provider.behave(upstream(agent.model), chunks=[*said, chunk(usage=USAGE)], chunk_delay_s=0.2)
    leave(agent, len(said))
    entry = agent.entry()
    assert (entry.cost_ticks, entry.is_estimated) == (USAGE_TICKS, False)


def test_no_usage_is_waited_for_that_does_not_come(agent: Agent, provider: Provider) -> None:
    said = [*SAID, chunk(choice({}, "stop"))]
    provider.behave(upstream(agent.model), chunks=[*said, chunk(usage=USAGE)], stall_after_chunks=len(said))
    leave(agent, len(said))
    assert_counted(agent.entry(), "Your parcel is here")


def test_a_plain_call_whose_client_goes_runs_on_and_is_billed(agent: Agent, provider: Provider) -> None:
    provider.behave(upstream(agent.model), latency_s=0.3, usage=USAGE)
    leave_before_the_answer(agent, 0.1)
    entry = agent.entry()
    assert (entry.cost_ticks, entry.is_estimated) == (USAGE_TICKS, False)
    assert [call["state"] for call in provider.calls()] == ["finished"]


# When the server goes


def agent_of(server: GuardServer) -> Agent:
    with server.database():
        agent = Agent.create(server)
    server.start()
    return agent


def test_a_stopped_server_finishes_and_settles_its_streams(guard_server: StartServer, provider: Provider) -> None:
    agent = agent_of(guard_server(start=False))
    provider.behave(upstream(agent.model), chunks=8, chunk_delay_s=0.15, usage=USAGE)
    events = events_of(agent.stream())
    next(events)
    with ThreadPoolExecutor(1) as pool:
        stopped = pool.submit(agent.server.terminate)
        assert list(events)[-1] == "[DONE]"
        stopped.result()
    assert (agent.entry().cost_ticks, agent.entry().is_estimated) == (USAGE_TICKS, False)
    audit(agent.server)


def test_a_killed_servers_stream_stays_held_and_is_billed_at_the_hold_when_its_lease_ends(
    guard_server: StartServer, provider: Provider
) -> None:
    agent = agent_of(guard_server(start=False, RESERVATION_LEASE_SECONDS="2"))
    provider.behave(upstream(agent.model), chunks=8, stall_after_chunks=3)
    events = events_of(agent.stream())
    next(events)
    agent.server.kill()
    assert agent.pending() == 1
    audit(agent.server)
    agent.server.start()
    entry = agent.entry()
    assert (entry.cost_ticks, entry.is_expired, entry.is_estimated) == (entry.hold_ticks, True, True)
    audit(agent.server)


def test_a_stream_longer_than_its_lease_costs_what_the_provider_billed(
    guard_server: StartServer, provider: Provider
) -> None:
    agent = agent_of(guard_server(start=False, RESERVATION_LEASE_SECONDS="1"))
    provider.behave(upstream(agent.model), chunks=8, chunk_delay_s=0.4, usage=USAGE)
    assert text_of(chunks_of(agent.stream()))
    entry = agent.entry()
    assert (entry.cost_ticks, entry.is_expired) == (USAGE_TICKS, False)
    audit(agent.server)


# Many


def test_512_streams_at_once(shared_server: GuardServer, provider: Provider) -> None:
    agent = Agent.hire(shared_server)
    provider.behave(upstream(agent.model), chunks=4, chunk_delay_s=0.4, usage=USAGE)
    body = {"model": agent.model, "messages": HELLO, "stream": True, "max_tokens": 30}

    async def one(client: httpx2.AsyncClient) -> bool:
        answer = await client.post("/v1/chat/completions", json=body)
        return answer.status_code == 200 and answer.content.endswith(b"data: [DONE]\n\n")

    async def all_of_them() -> list[bool]:
        async with openai.DefaultAioHttpClient(
            base_url=agent.server.url,
            headers={"Authorization": f"Bearer {agent.secret}"},
            limits=httpx2.Limits(max_connections=512),
            timeout=30,
        ) as client:
            return await asyncio.gather(*(one(client) for _ in range(512)))

    assert asyncio.run(all_of_them()) == [True] * 512
    assert [entry.cost_ticks for entry in agent.entries(at_least=512)] == [USAGE_TICKS] * 512
    calls = provider.calls()
    assert max(call["started_at"] for call in calls) < min(call["ended_at"] for call in calls)  # all open at once
    audit(agent.server)
