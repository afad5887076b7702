"""What a server's calls look like to those who watch, however they end: in the log, at Helicone, at a collector."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from guard.telemetry.trace import is_exporting
from spend.models import Call
from tenants.money import TICKS_PER_USD, usd_string
from tests.factories import BudgetFactory
from tests.guard.chat.test_flow import ledger_away
from tests.guard.telemetry.test_opentelemetry import CONTEXT, attributes_of, metrics_in, spans_in
from tests.support.agents import Agent, Json, chunks_of, eventually, upstream
from tests.support.provider import Provider
from tests.support.server import GuardServer
from tests.support.sink import Sink, http_sink

StartServer = Callable[..., GuardServer]
TOOL: Json = {"id": "call_1", "type": "function", "function": {"name": "refund", "arguments": "{}"}}


@pytest.fixture
def helicone() -> Iterator[Sink]:
    with http_sink() as sink:
        yield sink


@pytest.fixture
def collector() -> Iterator[Sink]:
    with http_sink() as sink:
        sink.answer = b""
        yield sink


@pytest.fixture
def watched(guard_server: StartServer, helicone: Sink, collector: Sink) -> GuardServer:
    """Not started yet."""
    return guard_server(
        start=False,
        HELICONE_API_KEY="key",
        HELICONE_BASE_URL=helicone.url,
        OTEL_SDK_DISABLED="false",
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
    )


def lines_of(server: GuardServer) -> list[Json]:
    """The calls' lines; the server is stopped, so that all are written."""
    server.terminate()
    lines = [json.loads(line) for line in server.log.splitlines()]
    return [line for line in lines if line["logger"] == "guard.calls"]


def call_spans_in(collector: Sink) -> list[Json]:
    return [attributes_of(span) for span in spans_in(collector) if span.name.startswith("chat ")]


def test_a_stream_that_broke_off_is_no_success(
    watched: GuardServer, provider: Provider, helicone: Sink, collector: Sink
) -> None:
    with watched.database():
        agent = Agent.create(watched, share_content=True)
    watched.start()
    provider.behave(upstream(agent.model), content="One two three four five", chunks=5, break_after_chunks=3)
    assert "all_models_failed" in agent.stream().text
    (line,) = lines_of(watched)
    assert (line["code"], line["model"], line["cost_ticks"] > 0) == ("connection_failed", agent.model, True)
    (received,) = helicone.received
    told = received.json["providerResponse"]
    assert (told["status"], told["json"]["error"]) == (502, {"code": "connection_failed"})
    assert told["json"]["choices"][0]["message"]["content"].startswith("One")
    assert told["json"]["usage"]["completion_tokens"] > 0
    (span,) = call_spans_in(collector)
    assert span["error.type"] == "connection_failed"
    (duration,) = metrics_in(collector)["gen_ai.client.operation.duration"].histogram.data_points
    assert attributes_of(duration)["error.type"] == "connection_failed"
    with watched.database():
        assert Call.objects.get(tenant=agent.tenant_id).code == "connection_failed"


def test_a_shared_streams_tool_calls_reach_helicone(watched: GuardServer, provider: Provider, helicone: Sink) -> None:
    with watched.database():
        agent = Agent.create(watched, share_content=True)
    watched.start()
    provider.behave(upstream(agent.model), content=None, tool_calls=[TOOL])
    chunks_of(agent.stream())
    watched.terminate()
    (received,) = helicone.received
    (choice,) = received.json["providerResponse"]["json"]["choices"]
    assert choice["message"]["tool_calls"][0]["function"] == TOOL["function"]


def test_a_refused_and_a_failed_call_say_how_the_budget_stands(
    watched: GuardServer, provider: Provider, collector: Sink
) -> None:
    with watched.database():
        poor, unlucky = Agent.create(watched), Agent.create(watched)
        BudgetFactory.create(tenant_id=poor.tenant_id, limit_ticks=1)
        BudgetFactory.create(tenant_id=unlucky.tenant_id, limit_ticks=TICKS_PER_USD)
    watched.start()
    provider.behave(status=500)
    assert [poor.chat().status_code, unlucky.chat().status_code] == [429, 503]
    watched.terminate()
    refused, failed = call_spans_in(collector)
    assert (refused["guard.budget.state"], refused["error.type"]) == ("stopped", "budget_exceeded")
    assert (failed["guard.budget.state"], failed["error.type"]) == ("active", "all_models_failed")
    assert failed["gen_ai.provider.name"]
    states = {
        attributes_of(point)["guard.budget.state"] for point in metrics_in(collector)["guard.calls"].sum.data_points
    }
    assert states == {"stopped", "active"}


def test_attempts_that_the_ledger_is_late_to_settle_are_told_all_the_same(
    watched: GuardServer, provider: Provider, helicone: Sink, collector: Sink
) -> None:
    with watched.database():
        lucky, unlucky = Agent.create(watched), Agent.create(watched)
    watched.start()
    provider.behave(upstream(lucky.model), latency_s=1)
    provider.behave(upstream(unlucky.model), latency_s=1, break_connection="mid")
    with ThreadPoolExecutor() as threads:
        answers = [threads.submit(agent.chat) for agent in (lucky, unlucky)]
        eventually(lambda: len(provider.calls()) == 2)
        with ledger_away(watched):
            assert [answer.result().status_code for answer in answers] == [503, 503]
    lines = {line["tenant"]: line for line in lines_of(watched)}
    assert {line["code"] for line in lines.values()} == {"ledger_unavailable"}
    assert lines[lucky.tenant_id]["model"] == lucky.model
    told = {received.headers["Helicone-User-Id"]: received for received in helicone.received}
    assert told[lucky.tenant_id].json["providerResponse"]["status"] == 200
    assert told[unlucky.tenant_id].json["providerResponse"]["json"] == {"error": {"code": "connection_failed"}}
    for agent in (lucky, unlucky):
        assert told[agent.tenant_id].headers["Helicone-Property-Cost"] == usd_string(agent.entry().cost_ticks)
    assert len(metrics_in(collector)["guard.cost"].sum.data_points) == 2


def test_every_request_has_its_line(guard_server: StartServer, provider: Provider) -> None:
    server = guard_server(start=False)
    with server.database():
        agent, disabled = Agent.create(server), Agent.create(server, is_active=False)
    server.start()

    def asked(request_id: str, key: str = "", of: Agent = agent, **body: Any) -> int:
        headers = {"X-Request-Id": request_id, **({"Idempotency-Key": key} if key else {})}
        return of.chat(headers, **body).status_code

    assert asked("first", "a") == 200
    assert asked("replay", "a") == 200
    assert asked("mismatch", "a", seed=3) == 422
    assert asked("unknown", model="nope") == 400
    assert asked("bad", audio={}) == 400
    assert asked("other-tenant", of=disabled) == 403
    nobody = server.client.post("/v1/chat/completions", json={}, headers={"X-Request-Id": "nobody"})
    assert nobody.status_code == 401
    provider.behave(status=400)
    assert asked("rejected") == 400
    provider.behave(status=500)
    assert asked("failed") == 503
    names = ("request_id", "tenant", "requested_model", "model", "route", "outcome", "code")
    t, m = agent.tenant_id, agent.model
    assert [tuple(line[name] for name in names) for line in lines_of(server)] == [
        ("first", t, m, m, "primary", "served", ""),
        ("replay", t, m, m, "primary", "replayed", ""),
        ("mismatch", t, m, "", "", "refused", "idempotency_mismatch"),
        ("unknown", t, "nope", "", "", "refused", "invalid_request"),
        ("bad", t, m, "", "", "refused", "invalid_request"),
        ("other-tenant", disabled.tenant_id, "", "", "", "refused", "forbidden"),
        ("nobody", "", "", "", "", "refused", "invalid_api_key"),
        ("rejected", t, m, "", "", "refused", "invalid_request"),
        ("failed", t, m, "", "", "failed", "all_models_failed"),
    ]
    assert agent.secret not in server.log


def test_without_opentelemetry_the_callers_context_reaches_the_provider(
    shared_server: GuardServer, provider: Provider
) -> None:
    assert not is_exporting()
    agent = Agent.hire(shared_server)
    for stream in (False, True):
        assert agent.chat(CONTEXT, stream=stream).status_code == 200
        assert agent.chat({"traceparent": "none of ours"}, stream=stream).status_code == 200
    sent = [call["headers"] for call in provider.calls()]
    assert [headers.get("traceparent") for headers in sent] == [CONTEXT["traceparent"], None] * 2
    assert sent[0]["tracestate"] == CONTEXT["tracestate"]
