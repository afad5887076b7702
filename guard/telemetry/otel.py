"""OpenTelemetry: a span a call with a child for each step, and metrics; imported only where it is configured.

Everything is set by the SDK's own `OTEL_*` variables: where to, how sampled, how often.  Exporting is
done by the SDK's threads; when the collector is down they drop what does not fit their queues.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from threading import Thread
from time import monotonic
from typing import Any

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from guard.call import ChatCall
from guard.telemetry.attempt import Attempt
from spend.ledger.rules import Offer, Record
from spend.models import Outcome
from tenants.money import usd_string

logger = logging.getLogger(__name__)

SCOPE = "guard"
STOP_S = 3.0
PROVIDER_NAMES = {"xai": "x_ai", "azure": "azure.ai.openai", "mistral": "mistral_ai", "gemini": "gcp.gemini"}
"""OpenTelemetry's, where it has another than what such a provider is mostly called here."""
SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)

PROPAGATOR = TraceContextTextMapPropagator()


class OpenTelemetry:
    """The SDK, as one worker uses it. Its providers are its own and not the process's global ones."""

    def __init__(self) -> None:
        self.traces = TracerProvider(shutdown_on_exit=False)
        for processor in _span_processors():
            self.traces.add_span_processor(processor)
        self.metrics = MeterProvider(metric_readers=_metric_readers(), shutdown_on_exit=False)
        self.tracer = self.traces.get_tracer(SCOPE)
        meter = self.metrics.get_meter(SCOPE)
        self.duration = meter.create_histogram(
            "gen_ai.client.operation.duration", "s", explicit_bucket_boundaries_advisory=SECONDS
        )
        self.tokens = meter.create_histogram(
            "gen_ai.client.token.usage", "{token}", explicit_bucket_boundaries_advisory=TOKENS
        )
        self.calls = meter.create_counter("guard.calls", "{call}", "Calls by outcome, route and budget state.")
        self.refusals = meter.create_counter("guard.refusals", "{call}", "Refused and failed calls by their code.")
        self.cost = meter.create_counter("guard.cost", "{tick}", "What attempts cost; a tick is 1e-10 USD.")

    def start_call(self, call: ChatCall) -> "CallSpan":
        return CallSpan(self, call)

    def stop(self) -> None:
        """Send what is still to be sent, for a few seconds at most.

        The SDK's own deadlines are not kept while a collector is away, so its threads are left behind.
        """
        deadline = monotonic() + STOP_S
        stopping = [Thread(target=_stop, args=[each], daemon=True) for each in (self.traces, self.metrics)]
        for thread in stopping:
            thread.start()
        for thread in stopping:
            thread.join(max(0.0, deadline - monotonic()))
        if any(thread.is_alive() for thread in stopping):
            logger.warning("not all telemetry was sent before the stop")


def _stop(provider: TracerProvider | MeterProvider) -> None:
    try:
        provider.shutdown()  # which sends what is queued; a flush before it would send metrics twice
    except Exception:
        logger.exception("telemetry could not be sent before the stop")


def _span_processors() -> list[SpanProcessor]:
    return [BatchSpanProcessor(OTLPSpanExporter())] if _is_wanted("TRACES") else []


def _metric_readers() -> list[MetricReader]:
    return [PeriodicExportingMetricReader(OTLPMetricExporter())] if _is_wanted("METRICS") else []


def _is_wanted(signal: str) -> bool:
    """Whether this signal has somewhere to go, and is not turned off by `OTEL_…_EXPORTER=none`."""
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")
    return os.environ.get(f"OTEL_{signal}_EXPORTER") != "none" and any(map(os.environ.get, endpoints))


class CallSpan:
    """One call's span. It is held by the call itself and not by the thread's context, so no other call gets it."""

    def __init__(self, otel: OpenTelemetry, call: ChatCall) -> None:
        self.otel, self.caller = otel, call.caller
        self.operation = {"gen_ai.operation.name": call.operation}
        asked = call.caller.requested_model
        self.span = otel.tracer.start_span(
            f"{call.operation} {asked}",
            context=PROPAGATOR.extract(call.context) if call.context else None,
            kind=SpanKind.CLIENT,
            attributes={**self.operation, "gen_ai.request.model": asked, **_of_caller(call)},
        )
        self.within = set_span_in_context(self.span)
        self.current = self.within

    def headers(self) -> Mapping[str, str]:
        carrier: dict[str, str] = {}
        PROPAGATOR.inject(carrier, self.current)
        return carrier

    def attempting(self, offer: Offer) -> AbstractContextManager[None]:
        """The attempt's child; the call's own span names the provider that was asked last."""
        names = _names_of(offer)
        self.span.set_attributes({"gen_ai.provider.name": names["gen_ai.provider.name"]})
        return self.child("provider", names)

    @contextmanager
    def child(self, name: str, attributes: Mapping[str, str] | None = None) -> Iterator[None]:
        span = self.otel.tracer.start_span(name, context=self.within, attributes=attributes)
        self.current = set_span_in_context(span)
        try:
            yield
        except BaseException as error:
            _fail(span, str(getattr(error, "code", "")) or type(error).__name__)
            raise
        finally:
            self.current = self.within
            span.end()

    def attempted(self, attempt: Attempt) -> None:
        offer = attempt.reserved.offer
        names = {**self.operation, **_names_of(offer)}
        self.otel.duration.record(
            (attempt.ended_at or attempt.started_at) - attempt.started_at,
            {**names, "error.type": attempt.code} if attempt.code else names,
        )
        self.otel.cost.add(
            attempt.cost_ticks,
            {"guard.tenant": self.caller.tenant_id, "guard.model": offer.model, "guard.route": str(offer.route)},
        )
        if attempt.bill:
            self._served(attempt, names)

    def _served(self, attempt: Attempt, names: dict[str, str]) -> None:
        assert attempt.bill  # noqa: S101
        usage = attempt.bill.usage
        for kind, tokens in (("input", usage.input_tokens), ("output", usage.output_tokens)):
            self.otel.tokens.record(tokens, {**names, "gen_ai.token.type": kind})
        self.span.set_attributes(
            {
                "gen_ai.response.model": attempt.reserved.offer.model,
                "gen_ai.usage.input_tokens": usage.input_tokens,
                "gen_ai.usage.output_tokens": usage.output_tokens,
                "gen_ai.usage.cache_read.input_tokens": usage.cached_input_tokens,
                "guard.time_to_first_token_ms": round(((attempt.answered_at or 0) - attempt.started_at) * 1000),
            }
        )

    def end(self, record: Record, budget_state: str) -> None:
        facts = {"guard.outcome": record.outcome.value, "guard.route": str(record.route)}
        self.otel.calls.add(1, {"guard.tenant": self.caller.tenant_id, "guard.budget.state": budget_state, **facts})
        self.span.set_attributes({**facts, "guard.cost_usd": usd_string(record.cost_ticks)})
        if budget_state:
            self.span.set_attribute("guard.budget.state", budget_state)
        if record.outcome is Outcome.HANDED_OFF:  # it was answered, as its tenant wants it
            self.span.end()
            return
        if record.outcome is not Outcome.SERVED:
            self.otel.refusals.add(1, {"guard.tenant": self.caller.tenant_id, "guard.code": record.code})
        if record.code:  # a stream that broke off has one too
            _fail(self.span, record.code)
        self.span.end()


def _names_of(offer: Offer) -> dict[str, str]:
    provider = PROVIDER_NAMES.get(offer.provider, offer.provider)
    return {"gen_ai.provider.name": provider, "gen_ai.request.model": offer.model}


def _fail(span: Span, code: str) -> None:
    """By the conventions, whose `error.type` is a code of few values."""
    span.set_attribute("error.type", code)
    span.set_status(Status(StatusCode.ERROR, code))


def _of_caller(call: ChatCall) -> dict[str, Any]:
    caller = call.caller
    known = {
        "guard.tenant": caller.tenant_id,
        "guard.request_id": caller.request_id,
        "gen_ai.conversation.id": caller.conversation,
    }
    return {name: value for name, value in known.items() if value}
