"""Helicone: one log an attempt, never in a call's way, and never what was said unless the tenant shares it."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from responses import RequestsMock

from guard.call import ChatCall
from guard.http.sse import encode
from guard.telemetry.helicone import MOST_QUEUED, Helicone, body_of, log_of
from guard.telemetry.trace import Telemetry
from tests.factories import ApiKeyFactory, CatalogueModelFactory, RouteStepFactory
from tests.support.agents import Json, eventually
from tests.support.calls import attempt_of, chat_call, embedding_call
from tests.support.provider import Provider
from tests.support.server import GuardServer
from tests.support.sink import Received, Sink, http_sink

KEY = "helicone-key"


@pytest.fixture
def sink() -> Iterator[Sink]:
    with http_sink() as sink:
        yield sink


@pytest.fixture
def helicone(sink: Sink) -> Iterator[Helicone]:
    helicone = Helicone(sink.url, KEY)
    yield helicone
    helicone.stop()


def body_told(call: ChatCall, **facts: Any) -> Json:
    return body_of(log_of(call, attempt_of(call, **facts)).attempt)


def test_a_log_says_who_what_and_how_much() -> None:
    call = chat_call(customer="ann", conversation="c-1", requested_model="auto")
    attempt = attempt_of(call)
    log = log_of(call, attempt)
    body = body_of(log.attempt)
    assert log.headers == {
        "Helicone-User-Id": "acme",
        "Helicone-Request-Id": str(attempt.reserved.id),
        "Helicone-Property-Tenant": "acme",
        "Helicone-Property-Customer": "ann",
        "Helicone-Property-Conversation": "c-1",
        "Helicone-Property-Route": "primary",
        "Helicone-Property-Cost": "0.0000012345",
        "Helicone-Property-Requested-Model": "auto",
        "Helicone-Property-Call": "req_1",
    }
    assert body["timing"] == {
        "startTime": {"seconds": 1_000_000, "milliseconds": 250},
        "endTime": {"seconds": 1_000_001, "milliseconds": 500},
        "timeToFirstToken": 500,
    }
    assert body["providerResponse"]["json"]["usage"] == {
        "prompt_tokens": 7,
        "completion_tokens": 3,
        "total_tokens": 10,
    }
    assert body["providerRequest"]["url"].endswith("/chat/completions")


def test_what_was_said_leaves_only_if_the_tenant_shares_it() -> None:
    kept, shared = chat_call(), chat_call(share_content=True)
    said = repr(body_told(shared))
    assert "the secret question" in said
    assert "the secret answer" in said
    unsaid = repr(body_told(kept))
    assert "secret" not in unsaid
    assert "finish_reason" in unsaid
    assert "secret" not in repr(log_of(kept, attempt_of(kept)))  # it does not even wait in memory


SECRET_TOOL = {"type": "function", "function": {"name": "secret", "description": "the secret text"}}


def test_of_an_unshared_request_only_settings_leave() -> None:
    """What leaves is listed, and not what stays: a parameter that is new here says nothing by itself."""
    settings = {"model": "grok-4.3", "n": 2, "temperature": 0.5, "seed": 7, "logprobs": True}
    payload = {
        **settings,
        "max_completion_tokens": 100,
        "messages": [{"role": "user", "content": "secret"}],
        "user": "secret-ann",
        "safety_identifier": "secret-ann",
        "prompt_cache_key": "secret-chat",
        "function_call": {"name": "secret"},
        "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [SECRET_TOOL]}},
        "reasoning_effort": "secret",
        "a_parameter_of_tomorrow": "secret",
        "top_p": "secret",
    }
    body = body_told(chat_call(), payload=payload)
    assert body["providerRequest"]["json"] == {**settings, "max_completion_tokens": 100}
    assert "secret" not in repr(body)


def test_a_shared_stream_is_told_whole() -> None:
    """Its tool calls too, and each of its choices."""
    called = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "refund", "arguments": "{}"}}
    deltas: list[Json] = [{"content": "the secret answer"}, {"tool_calls": [called]}]
    chunks = [{"choices": [{"index": at, "delta": delta, "finish_reason": "stop"}]} for at, delta in enumerate(deltas)]
    completion = {"choices": [{"index": 0}], "events": b"".join(map(encode, chunks)).decode()}
    first, second = body_told(chat_call(share_content=True), completion=completion)["providerResponse"]["json"][
        "choices"
    ]
    assert (first["message"]["content"], first["finish_reason"]) == ("the secret answer", "stop")
    assert second["message"]["tool_calls"][0]["function"] == {"name": "refund", "arguments": "{}"}
    assert "secret" not in repr(body_told(chat_call(), completion=completion))


def test_of_embeddings_no_vector_leaves() -> None:
    call = embedding_call(share_content=True)
    facts = {"payload": {"model": "m", "input": ["x"]}, "address": call.address, "completion": {"data": ["a vector"]}}
    body = body_of(log_of(call, attempt_of(call, **facts)).attempt)
    assert body["providerRequest"]["url"].endswith("/embeddings")
    assert body["providerRequest"]["json"] == {"model": "m", "input": ["x"]}
    usage = {"prompt_tokens": 7, "total_tokens": 7}
    assert body["providerResponse"]["json"] == {"object": "list", "model": "m", "data": [], "usage": usage}
    quiet = embedding_call(share_content=False)
    assert "'x'" not in repr(log_of(quiet, attempt_of(quiet, **facts)))


def test_a_failed_attempt_has_its_code_and_status() -> None:
    call = chat_call()
    body = body_told(call, code="timeout", bill=None, completion=None)
    assert body["providerResponse"] == {"headers": {}, "status": 408, "json": {"error": {"code": "timeout"}}}


def test_any_name_fits_a_header(helicone: Helicone, sink: Sink) -> None:
    call = chat_call(customer="Zoë\r\nX-Evil: 1 – 東京")
    helicone.tell(call, attempt_of(call))
    (received,) = sink.wait_for(1)
    assert "X-Evil" not in received.headers
    assert received.headers["Helicone-Property-Customer"].startswith("Zo%C3%AB%0D%0AX-Evil")


@pytest.mark.parametrize(
    ("customer", "told"), [(" ann", "%20ann"), ("ann  b ", "ann  b%20"), ("  ", "%20%20"), ("\u2028 x", "%E2%80%A8 x")]
)
def test_a_name_with_spaces_at_its_edges_reaches_it(helicone: Helicone, sink: Sink, customer: str, told: str) -> None:
    call = chat_call(customer=customer)
    helicone.tell(call, attempt_of(call))
    (received,) = sink.wait_for(1)
    assert received.headers["Helicone-Property-Customer"] == told


def test_what_can_never_be_sent_is_not_tried_again(sink: Sink, caplog: pytest.LogCaptureFixture) -> None:
    helicone = Helicone(sink.url, "a key that\nno header holds")
    call = chat_call()
    for _ in range(20):
        helicone.tell(call, attempt_of(call))
    eventually(lambda: caplog.messages == ["Helicone refused a log: InvalidHeader"] * 20)
    helicone.stop()


def test_one_that_it_fails_on_does_not_stand_in_the_others_way(helicone: Helicone, sink: Sink) -> None:
    sink.status_of = lambda received: 500 if received.headers["Helicone-User-Id"] == "acme" else 200
    poison = chat_call()
    for _ in range(8):
        helicone.tell(poison, attempt_of(poison))
    sink.wait_for(4)
    for number in range(20):
        call = replace(poison, caller=replace(poison.caller, tenant_id=f"other-{number}"))
        helicone.tell(call, attempt_of(call))
    eventually(lambda: sum(each.headers["Helicone-User-Id"] != "acme" for each in list(sink.received)) == 20)


@pytest.mark.parametrize("status", [302, 307])
def test_no_redirect_is_followed(helicone: Helicone, sink: Sink, status: int, caplog: pytest.LogCaptureFixture) -> None:
    with http_sink() as other:
        sink.status, sink.headers = status, {"Location": f"{other.url}/custom/v1/log"}
        call = chat_call(customer="ann")
        helicone.tell(call, attempt_of(call))
        eventually(lambda: caplog.messages == [f"Helicone refused a log: status {status}"])
        assert other.received == []


def test_large_logs_fill_the_queue_by_their_bytes(sink: Sink, caplog: pytest.LogCaptureFixture) -> None:
    sink.delay_s = 1
    helicone = Helicone(sink.url, KEY)
    call = chat_call(share_content=True)
    large = attempt_of(call, payload={"messages": [{"role": "user", "content": "x" * 8 * 1024 * 1024}]})
    for _ in range(16):
        helicone.tell(call, large)
    assert helicone.queue.dropped >= 16 - 8 - len(helicone.threads)
    assert "1 logs for Helicone were dropped: its queue is full" in caplog.messages
    helicone.queue.queue.clear()
    helicone.stop()


def test_a_real_server_gets_it_at_the_right_address_with_the_key(helicone: Helicone, sink: Sink) -> None:
    call = chat_call()
    helicone.tell(call, attempt_of(call))
    (received,) = sink.wait_for(1)
    assert received.path == "/custom/v1/log"
    assert received.headers["Authorization"] == f"Bearer {KEY}"
    assert received.json["providerResponse"]["status"] == 200


def test_while_it_is_down_nothing_is_lost_and_nobody_waits(helicone: Helicone, sink: Sink) -> None:
    sink.status = 503
    sink.is_open.clear()
    call = chat_call()
    for _ in range(50):
        helicone.tell(call, attempt_of(call))
    assert sink.received == []
    sink.is_open.set()
    sink.wait_for(2)
    sink.status = 200
    sent: set[str] = set()
    deadline = time.monotonic() + 60
    while len(sent) < 50 and time.monotonic() < deadline:
        time.sleep(0.05)
        sent = {received.headers["Helicone-Request-Id"] for received in list(sink.received)}
    assert len(sent) == 50
    assert helicone.queue.dropped == 0


def test_a_full_queue_drops_and_never_waits(sink: Sink) -> None:
    sink.is_open.clear()
    helicone = Helicone(sink.url, KEY)
    call = chat_call()
    attempt = attempt_of(call)
    for _ in range(MOST_QUEUED + 100):
        helicone.tell(call, attempt)
    assert sink.received == []
    assert helicone.queue.dropped > 50
    helicone.queue.queue.clear()
    sink.is_open.set()
    helicone.stop()


def test_what_it_refuses_is_not_sent_again(helicone: Helicone, sink: Sink) -> None:
    sink.answer = b'{"error": "no such organisation"}'
    call = chat_call()
    helicone.tell(call, attempt_of(call))
    sink.wait_for(1)
    sink.status, sink.answer = 401, b"{}"
    helicone.tell(call, attempt_of(call))
    sink.wait_for(2)
    time.sleep(1)
    assert len(sink.received) == 2


def test_a_stop_sends_what_is_queued(sink: Sink) -> None:
    helicone = Helicone(sink.url, KEY)
    call = chat_call()
    for _ in range(20):
        helicone.tell(call, attempt_of(call))
    helicone.stop()
    assert len(sink.received) == 20


def test_the_breaker_s_own_refusals_are_no_attempts(helicone: Helicone) -> None:
    call = chat_call()
    helicone.tell(call, attempt_of(call, code="circuit_open"))
    assert helicone.queue.empty()


def test_by_requests(settings: Any) -> None:
    """With `responses` in place of the network: what `requests` is asked to send."""
    with RequestsMock() as mocked:
        mocked.post("https://helicone.example/custom/v1/log", json={})
        helicone = Helicone("https://helicone.example", KEY)
        call = chat_call()
        helicone.tell(call, attempt_of(call))
        helicone.stop()
        assert mocked.calls[0].request.headers["Helicone-User-Id"] == "acme"


def test_without_a_key_there_is_none(settings: Any) -> None:
    telemetry = Telemetry()
    telemetry.start()
    assert telemetry.helicone is None
    settings.HELICONE_API_KEY = KEY
    telemetry.start()
    assert telemetry.helicone
    telemetry.stop()


BODY = {"model": "auto", "messages": [{"role": "user", "content": "the secret question"}], "user": "ann"}


def by_status(logs: list[Received]) -> list[Received]:
    """Failures first: several threads send, so the logs of one call come in any order."""
    return sorted(logs, key=lambda log: log.json["providerResponse"]["status"], reverse=True)


@pytest.mark.once
def test_a_servers_calls_are_logged_streams_too(
    guard_server: Callable[..., GuardServer], provider: Provider, sink: Sink
) -> None:
    server = guard_server(start=False, HELICONE_API_KEY=KEY, HELICONE_BASE_URL=sink.url)
    with server.database():
        key = ApiKeyFactory.create()
        for name in ("down", "up"):
            RouteStepFactory.create(tenant=key.tenant, model=CatalogueModelFactory.create(id=name))
    server.start()
    provider.behave("down", status=500)
    agent = server.client_of(key.secret)
    assert agent.post("/v1/chat/completions", json=BODY).status_code == 200
    failed, served = by_status(sink.wait_for(2))
    assert [failed.json["providerResponse"]["status"], served.json["providerResponse"]["status"]] == [502, 200]
    assert served.headers["Helicone-Property-Route"] == "fallback"
    assert served.headers["Helicone-Property-Customer"] == "ann"
    assert "secret" not in served.body.decode()

    assert "[DONE]" in agent.post("/v1/chat/completions", json={**BODY, "stream": True}).text
    *_, streamed = by_status(sink.wait_for(4)[2:])
    assert streamed.json["providerResponse"]["json"]["usage"]["completion_tokens"] > 0
    assert streamed.json["timing"]["timeToFirstToken"] >= 0
