"""Telemetry: how a call is told to those who watch, and the only thing of it that `guard.chat` sees.

A `Trace` is told of a call's steps as they happen.  The plain one writes the call's line in the log
and passes nothing on; it is all there is where neither OpenTelemetry nor Helicone is configured, and
neither is imported then.  Nothing here waits for a network, and no failure of it reaches a call.

    chat.py  ──>  Trace.step · sending · failed · served · ended
                    └── WatchedTrace  ──>  guard.otel (spans, metrics), guard.helicone (one log an attempt)
"""

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

from django.conf import settings

from spend.ledger import Bill, Record, Reserved

if TYPE_CHECKING:
    from guard.chat import ChatCall
    from guard.helicone import Helicone
    from guard.otel import CallSpan, OpenTelemetry

logger = logging.getLogger(__name__)
call_log = logging.getLogger("guard.calls")

NOTHING = nullcontext()
NO_HEADERS: Mapping[str, str] = {}
CONTEXT_HEADERS = ("traceparent", "tracestate")
ENDPOINTS = (
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
)


@dataclass(slots=True)
class Attempt:
    """One attempt, as Helicone is told of it. Times are in seconds since the epoch.

    `code` says why it failed; empty if it served. `answered_at` is when the whole answer, or a
    stream's first event, had come.
    """

    reserved: Reserved
    payload: Mapping[str, Any]
    started_at: float = field(default_factory=time.time)
    answered_at: float | None = None
    ended_at: float | None = None
    code: str = ""
    cost_ticks: int = 0
    bill: Bill | None = None
    completion: Mapping[str, Any] | None = None


class Trace:
    """One call, told to nobody but the log."""

    __slots__ = ()

    def headers(self) -> Mapping[str, str]:
        """W3C context for the provider."""
        return NO_HEADERS

    def step(self, name: str) -> AbstractContextManager[None]:
        return NOTHING

    def sending(self, reserved: Reserved, payload: Mapping[str, Any]) -> AbstractContextManager[None]:
        """An attempt at the provider; `failed` or `served` says how it ended."""
        return NOTHING

    def failed(self, code: str, cost_ticks: int) -> None:
        """The attempt failed, and was settled at so much."""

    def served(self, completion: Mapping[str, Any], bill: Bill, cost_ticks: int) -> None:
        """The attempt served, and is settled."""

    def ended(self, record: Record, budget_state: str = "") -> None:
        """The call is over. Never what was said, never a key."""
        if call_log.isEnabledFor(logging.INFO):
            call_log.info("call", extra=facts_of(record))


PLAIN = Trace()

Method = TypeVar("Method", bound=Callable[..., None])


def harmless(method: Method) -> Method:
    """No failure of telemetry may become the call's."""

    @wraps(method)
    def safely(*args: Any, **kwargs: Any) -> None:
        try:
            method(*args, **kwargs)
        except Exception:
            logger.exception("telemetry failed; the call goes on")

    return cast(Method, safely)


def facts_of(record: Record) -> dict[str, Any]:
    return {
        "request_id": record.caller.request_id,
        "tenant": record.caller.tenant_id,
        "outcome": record.outcome.value,
        "code": record.code,
        "model": record.model,
        "route": str(record.route),
        "cost_ticks": record.cost_ticks,
        "duration_ms": record.duration_ms,
    }


class WatchedTrace(Trace):
    """One call, told to OpenTelemetry and to Helicone, whichever there is."""

    __slots__ = ("attempt", "call", "helicone", "span")

    def __init__(self, call: "ChatCall", span: "CallSpan | None", helicone: "Helicone | None") -> None:
        self.call, self.span, self.helicone = call, span, helicone
        self.attempt: Attempt | None = None

    def headers(self) -> Mapping[str, str]:
        return self.span.headers() if self.span else NO_HEADERS

    def step(self, name: str) -> AbstractContextManager[None]:
        return self.span.child(name) if self.span else NOTHING

    @contextmanager
    def sending(self, reserved: Reserved, payload: Mapping[str, Any]) -> Iterator[None]:
        attempt = self.attempt = Attempt(reserved, payload)
        with self.step("provider"):
            yield
        attempt.answered_at = time.time()

    @harmless
    def failed(self, code: str, cost_ticks: int) -> None:
        if self.attempt:
            self.attempt.code = code
            self._finish(cost_ticks)

    @harmless
    def served(self, completion: Mapping[str, Any], bill: Bill, cost_ticks: int) -> None:
        if self.attempt:
            self.attempt.completion, self.attempt.bill = completion, bill
            self._finish(cost_ticks)

    def _finish(self, cost_ticks: int) -> None:
        attempt, self.attempt = self.attempt, None
        assert attempt  # noqa: S101
        attempt.cost_ticks, attempt.ended_at = cost_ticks, time.time()
        if self.span:
            self.span.attempted(attempt)
        if self.helicone:
            self.helicone.tell(self.call, attempt)

    @harmless
    def ended(self, record: Record, budget_state: str = "") -> None:
        super().ended(record, budget_state)
        if self.span:
            self.span.end(record, budget_state)


class Telemetry:
    """A worker's telemetry, by its settings and the environment."""

    def __init__(self) -> None:
        self.otel: OpenTelemetry | None = None
        self.helicone: Helicone | None = None

    def start(self) -> None:
        if is_exporting():
            from guard.otel import OpenTelemetry

            self.otel = OpenTelemetry()
        if settings.HELICONE_API_KEY:
            from guard.helicone import Helicone

            self.helicone = Helicone(settings.HELICONE_BASE_URL, settings.HELICONE_API_KEY)

    def stop(self) -> None:
        """Send what is still to be sent, within a few seconds."""
        if self.helicone:
            self.helicone.stop()
        if self.otel:
            self.otel.stop()

    def trace(self, call: "ChatCall") -> Trace:
        if self.otel is None and self.helicone is None:
            return PLAIN
        return WatchedTrace(call, self.otel.start_call(call) if self.otel else None, self.helicone)


def is_exporting() -> bool:
    """Whether the SDK's own variables name a collector."""
    is_disabled = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    return not is_disabled and any(os.environ.get(name) for name in ENDPOINTS)


def context_of(headers: Mapping[str, str]) -> Mapping[str, str]:
    """The W3C context in a request's headers."""
    return {name: headers[name] for name in CONTEXT_HEADERS if name in headers} if CONTEXT_HEADERS[0] in headers else {}
