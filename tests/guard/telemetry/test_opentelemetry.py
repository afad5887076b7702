"""OpenTelemetry as a collector receives it, over HTTP; off, it costs nothing and nobody is told."""

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from guard.http.request_ids import context_of
from guard.providers.failures import Failed, ProviderError, Rejected
from guard.telemetry.otel import STOP_S, OpenTelemetry
from guard.telemetry.trace import NOTHING, Telemetry, Trace, WatchedTrace, is_exporting
from spend.codes import FailureCode
from spend.models import Outcome
from tests.factories import ApiKeyFactory, CatalogueModelFactory, RouteStepFactory
from tests.support.calls import OFFER, attempt_of, chat_call, embedding_call, record_of
from tests.support.environment import ROOT
from tests.support.provider import Provider
from tests.support.server import GuardServer
from tests.support.sink import Sink, http_sink

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT_ID = "b7ad6b7169203331"
CONTEXT = {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01", "tracestate": "vendor=x"}


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sink]:
    with http_sink() as sink:
        sink.answer = b""
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", sink.url)
        monkeypatch.delenv("OTEL_SDK_DISABLED", raising=False)
        yield sink


def attributes_of(carrier: Any) -> dict[str, Any]:
    """Protobuf's attributes, as plain values."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in carrier.attributes}


def spans_in(sink: Sink) -> list[Any]:
    requests = [ExportTraceServiceRequest.FromString(each.body) for each in sink.received if each.path == "/v1/traces"]
    return [
        span for request in requests for resource in request.resource_spans
        for scope in resource.scope_spans for span in scope.spans
    ]  # fmt: skip


def metrics_in(sink: Sink) -> dict[str, Any]:
    """By name, as last received."""
    requests = [
        ExportMetricsServiceRequest.FromString(each.body) for each in sink.received if each.path == "/v1/metrics"
    ]
    return {
        metric.name: metric for request in requests for resource in request.resource_metrics
        for scope in resource.scope_metrics for metric in scope.metrics
    }  # fmt: skip


def tell_a_call(otel: OpenTelemetry, **facts: Any) -> WatchedTrace:
    """A call with one attempt that served."""
    call = chat_call(**facts)
    attempt = attempt_of(call)
    trace = WatchedTrace(call, otel.start_call(call), None)
    with trace.step("hold"):
        pass
    with trace.sending(attempt.reserved, attempt.payload):
        pass
    with trace.step("settle"):
        pass
    assert attempt.bill
    trace.served({}, attempt.bill, 12_345)
    trace.ended(record_of(call), "warned")
    return trace


def test_a_span_a_call_with_its_steps_as_children(collector: Sink) -> None:
    otel = OpenTelemetry()
    tell_a_call(otel, context=CONTEXT, conversation="c-1")
    otel.stop()
    *children, span = spans_in(collector)
    assert span.name == "chat grok-4.3"
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE_ID, PARENT_ID)
    assert [child.name for child in children] == ["hold", "provider", "settle"]
    assert {child.parent_span_id for child in children} == {span.span_id}
    assert attributes_of(children[1]) == {"gen_ai.provider.name": "x_ai", "gen_ai.request.model": "grok-4.3"}
    told = attributes_of(span)
    assert told.pop("guard.time_to_first_token_ms") >= 0
    assert told == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "x_ai",
        "gen_ai.request.model": "grok-4.3",
        "gen_ai.response.model": "grok-4.3",
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.usage.cache_read.input_tokens": 0,
        "gen_ai.conversation.id": "c-1",
        "guard.tenant": "acme",
        "guard.request_id": "req_1",
        "guard.outcome": "served",
        "guard.route": "primary",
        "guard.cost_usd": "0.0000012345",
        "guard.budget.state": "warned",
    }


def test_metrics(collector: Sink) -> None:
    otel = OpenTelemetry()
    tell_a_call(otel)
    call = chat_call()
    trace = WatchedTrace(call, otel.start_call(call), None)
    trace.ended(record_of(call, outcome=Outcome.REFUSED, code="budget_exceeded", cost_ticks=0), "stopped")
    otel.stop()
    metrics = metrics_in(collector)
    (duration,) = metrics["gen_ai.client.operation.duration"].histogram.data_points
    assert (duration.count, attributes_of(duration)["gen_ai.provider.name"]) == (1, "x_ai")
    tokens = metrics["gen_ai.client.token.usage"].histogram.data_points
    assert {attributes_of(point)["gen_ai.token.type"]: point.sum for point in tokens} == {"input": 7, "output": 3}
    (cost,) = metrics["guard.cost"].sum.data_points
    assert (cost.as_int, attributes_of(cost)["guard.tenant"]) == (12_345, "acme")
    (refused,) = metrics["guard.refusals"].sum.data_points
    assert attributes_of(refused) == {"guard.tenant": "acme", "guard.code": "budget_exceeded"}
    states = [attributes_of(point)["guard.budget.state"] for point in metrics["guard.calls"].sum.data_points]
    assert sorted(states) == ["stopped", "warned"]


def test_the_provider_gets_its_own_step_as_parent(collector: Sink) -> None:
    otel = OpenTelemetry()
    call = chat_call(context=CONTEXT)
    trace = WatchedTrace(call, otel.start_call(call), None)
    with trace.step("provider"):
        headers = dict(trace.headers())
    trace.ended(record_of(call))
    otel.stop()
    provider, _ = spans_in(collector)
    assert headers == {
        "traceparent": f"00-{TRACE_ID}-{provider.span_id.hex()}-01",
        "tracestate": "vendor=x",
    }


def test_embeddings_are_named_as_such(collector: Sink) -> None:
    otel = OpenTelemetry()
    call = embedding_call()
    trace = WatchedTrace(call, otel.start_call(call), None)
    trace.ended(record_of(call))
    otel.stop()
    (span,) = spans_in(collector)
    assert span.name == "embeddings grok-4.3"
    assert attributes_of(span)["gen_ai.operation.name"] == "embeddings"


def test_a_step_that_fails_says_so(collector: Sink) -> None:
    otel = OpenTelemetry()
    call = chat_call()
    trace = WatchedTrace(call, otel.start_call(call), None)
    with pytest.raises(TimeoutError), trace.step("hold"):
        raise TimeoutError
    trace.ended(record_of(call, outcome=Outcome.FAILED, code="all_models_failed"))
    otel.stop()
    hold, span = spans_in(collector)
    assert (hold.status.code, hold.status.message) == (2, "TimeoutError")
    assert (span.status.code, attributes_of(span)["error.type"]) == (2, "all_models_failed")


def test_a_failed_attempt_has_its_code_on_its_step_and_in_the_call(collector: Sink) -> None:
    otel = OpenTelemetry()
    call = chat_call()
    trace = WatchedTrace(call, otel.start_call(call), None)
    for failure in (Failed(FailureCode.RATE_LIMITED), Rejected("your secret words are bad", None)):
        with pytest.raises(ProviderError), trace.sending(attempt_of(call).reserved, {}):
            raise failure
        trace.failed(failure.code, 0)
    trace.ended(record_of(call, outcome=Outcome.FAILED, code="all_models_failed", model="", route=""))
    otel.stop()
    first, second, span = spans_in(collector)
    assert [(child.status.message, attributes_of(child)["error.type"]) for child in (first, second)] == [
        ("rate_limited", "rate_limited"),
        ("rejected", "rejected"),
    ]
    assert attributes_of(span)["gen_ai.provider.name"] == "x_ai"
    errors = metrics_in(collector)["gen_ai.client.operation.duration"].histogram.data_points
    assert {attributes_of(point)["error.type"] for point in errors} == {"rate_limited", "rejected"}


def test_an_attempt_that_a_defect_cuts_short_is_told_too(collector: Sink) -> None:
    otel = OpenTelemetry()
    call = chat_call()
    trace = WatchedTrace(call, otel.start_call(call), None)
    with pytest.raises(KeyError), trace.sending(attempt_of(call).reserved, {}):
        raise KeyError
    trace.ended(record_of(call, outcome=Outcome.FAILED, code="internal_error"))
    otel.stop()
    (duration,) = metrics_in(collector)["gen_ai.client.operation.duration"].histogram.data_points
    assert attributes_of(duration)["error.type"] == "internal_error"


def test_a_stop_waits_for_no_collector(collector: Sink) -> None:
    is_back = threading.Event()
    collector.status_of = lambda _: 200 if is_back.wait(60) else 503
    otel = OpenTelemetry()
    tell_a_call(otel)
    stopping = threading.Thread(target=otel.stop)
    stopping.start()
    stopping.join(STOP_S + 5)
    is_stopped = not stopping.is_alive()
    is_back.set()
    for thread in threading.enumerate():
        if thread.name.startswith("Otel"):
            thread.join(15)
    assert is_stopped


def test_a_stop_sends_each_metric_once(collector: Sink) -> None:
    otel = OpenTelemetry()
    tell_a_call(otel)
    otel.stop()
    assert sorted(received.path for received in collector.received) == ["/v1/metrics", "/v1/traces"]


def test_a_nonsense_context_starts_a_trace_of_its_own(collector: Sink) -> None:
    otel = OpenTelemetry()
    tell_a_call(otel, context={"traceparent": "nonsense"})
    otel.stop()
    assert spans_in(collector)[-1].parent_span_id == b""


def test_a_failure_of_telemetry_is_no_failure_of_the_call(collector: Sink, caplog: pytest.LogCaptureFixture) -> None:
    otel = OpenTelemetry()
    call = chat_call()
    trace = WatchedTrace(call, otel.start_call(call), None)
    trace.ended("no record at all")  # type: ignore[arg-type]
    assert "telemetry failed" in caplog.text
    otel.stop()


@pytest.mark.parametrize(
    ("variables", "is_on"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector", "OTEL_SDK_DISABLED": "true"}, False),
    ],
)
def test_on_only_where_its_own_variables_say_so(
    variables: dict[str, str], is_on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OTEL_SDK_DISABLED", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert is_exporting() is is_on


def test_off_it_is_not_even_imported() -> None:
    code = "import guard.asgi, sys; assert not [name for name in sys.modules if name.startswith('opentelemetry')]"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_off_a_trace_only_passes_on_the_callers_context() -> None:
    telemetry = Telemetry()
    telemetry.start()
    trace = telemetry.trace(chat_call(context=CONTEXT))
    assert type(trace) is Trace
    assert trace.step("hold") is NOTHING
    assert trace.headers() == CONTEXT
    assert telemetry.trace(chat_call()).headers() == {}


@pytest.mark.parametrize(
    ("headers", "taken"),
    [
        (CONTEXT, CONTEXT),
        ({"tracestate": "x=y", "Accept": "*/*"}, {}),
        ({"traceparent": "nonsense", "tracestate": "x=y"}, {}),
        ({**CONTEXT, "tracestate": "x" * 513}, {"traceparent": CONTEXT["traceparent"]}),
    ],
)
def test_only_a_context_that_is_one_is_taken(headers: dict[str, str], taken: dict[str, str]) -> None:
    assert context_of(headers) == taken


def test_one_line_a_call(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "guard.calls"):
        call = chat_call()
        Trace(call).ended(record_of(call, model=OFFER.model))
        call.line.refused(500, "internal_error")  # the edge knows less
    (line,) = caplog.records
    told = vars(line)
    names = ("request_id", "tenant", "code", "requested_model", "model", "route", "cost_ticks", "duration_ms")
    assert {name: told[name] for name in names} == {
        "request_id": "req_1",
        "tenant": "acme",
        "code": "",
        "requested_model": "grok-4.3",
        "model": "grok-4.3",
        "route": "primary",
        "cost_ticks": 12_345,
        "duration_ms": 250,
    }


@pytest.mark.once
def test_a_servers_calls_are_traced_from_caller_to_provider(
    guard_server: Callable[..., GuardServer], provider: Provider, collector: Sink
) -> None:
    server = guard_server(
        start=False,
        OTEL_SDK_DISABLED="false",
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
        OTEL_BSP_SCHEDULE_DELAY="100",
        OTEL_METRIC_EXPORT_INTERVAL="500",
        OTEL_SERVICE_NAME="guard-of-the-tests",
    )
    with server.database():
        key = ApiKeyFactory.create()
        RouteStepFactory.create(tenant=key.tenant, model=CatalogueModelFactory.create(id="any-model"))
    server.start()
    agent = server.client_of(key.secret)
    body = {"model": "auto", "messages": [{"role": "user", "content": "Hello"}]}
    for stream in (False, True):
        assert agent.post("/v1/chat/completions", json={**body, "stream": stream}, headers=CONTEXT).status_code == 200
    deadline = time.monotonic() + 60
    while len(spans_in(collector)) < 8 or "guard.cost" not in metrics_in(collector):
        assert time.monotonic() < deadline, [span.name for span in spans_in(collector)]
        time.sleep(0.1)
    spans = spans_in(collector)
    calls = [span for span in spans if span.name == "chat any-model"]
    assert {(span.trace_id.hex(), span.parent_span_id.hex()) for span in calls} == {(TRACE_ID, PARENT_ID)}
    assert all(attributes_of(span)["gen_ai.usage.output_tokens"] > 0 for span in calls)
    parents = {span.span_id.hex() for span in spans if span.name == "provider"}
    received = {call["headers"]["traceparent"].split("-")[2] for call in provider.calls()}
    assert received == parents
    request = ExportTraceServiceRequest.FromString(next(e.body for e in collector.received if e.path == "/v1/traces"))
    assert attributes_of(request.resource_spans[0].resource)["service.name"] == "guard-of-the-tests"
    server.terminate()
