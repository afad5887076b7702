"""Telemetry: how a call is told to those who watch, and the only thing of it that `guard.chat.flow` sees.

A `Trace` is told of a call's steps as they happen.  The plain one writes the call's line in the log
and tells nobody else; it is all there is where neither OpenTelemetry nor Helicone is configured, and
neither is imported then.  Nothing here waits for a network, and no failure of it reaches a call.

    flow.py  ──>  Trace.step · sending · failed · served · ended
                    └── WatchedTrace  ──>  telemetry.otel (spans, metrics), telemetry.helicone (one log an attempt)
"""

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

from django.conf import settings

from guard.call import ChatCall
from guard.telemetry.attempt import Attempt
from spend.ledger.rules import Bill, Record, Reserved

if TYPE_CHECKING:
    from guard.telemetry.helicone import Helicone
    from guard.telemetry.otel import CallSpan, OpenTelemetry

logger = logging.getLogger(__name__)

NOTHING = nullcontext()
ENDPOINTS = (
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
)


class Trace:
    """One call, told to nobody but the log."""

    __slots__ = ("call",)

    def __init__(self, call: ChatCall) -> None:
        self.call = call

    def headers(self) -> Mapping[str, str]:
        """W3C context for the provider: the caller's own, where no span of ours comes between."""
        return self.call.context

    def step(self, name: str) -> AbstractContextManager[None]:
        return NOTHING

    def sending(
        self, reserved: Reserved, payload: Mapping[str, Any], base_url: str = ""
    ) -> AbstractContextManager[None]:
        """An attempt at the provider at this address; `failed` or `served` says how it ended."""
        return NOTHING

    def failed(self, code: str, cost_ticks: int) -> None:
        """The attempt failed, and was settled at so much."""

    def served(self, completion: Mapping[str, Any], bill: Bill, cost_ticks: int, code: str = "") -> None:
        """The attempt served, and is to be settled at so much; `code` says why its stream broke off, if it did."""

    def ended(self, record: Record, budget_state: str = "") -> None:
        """The call is over."""
        self.call.line.write(facts_of(record))


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
        "requested_model": record.caller.requested_model,
        "model": record.model,
        "route": str(record.route),
        "cost_ticks": record.cost_ticks,
        "duration_ms": record.duration_ms,
    }


class WatchedTrace(Trace):
    """One call, told to OpenTelemetry and to Helicone, whichever there is."""

    __slots__ = ("attempt", "helicone", "span")

    def __init__(self, call: ChatCall, span: "CallSpan | None", helicone: "Helicone | None") -> None:
        super().__init__(call)
        self.span, self.helicone = span, helicone
        self.attempt: Attempt | None = None

    def headers(self) -> Mapping[str, str]:
        return self.span.headers() if self.span else super().headers()

    def step(self, name: str) -> AbstractContextManager[None]:
        return self.span.child(name) if self.span else NOTHING

    @contextmanager
    def sending(self, reserved: Reserved, payload: Mapping[str, Any], base_url: str = "") -> Iterator[None]:
        attempt = self.attempt = Attempt(reserved, payload, self.call.address, base_url)
        with self.span.attempting(reserved.offer) if self.span else NOTHING:
            yield
        attempt.answered_at = time.time()

    @harmless
    def failed(self, code: str, cost_ticks: int) -> None:
        if self.attempt:
            self.attempt.code = code
            self._finish(cost_ticks)

    @harmless
    def served(self, completion: Mapping[str, Any], bill: Bill, cost_ticks: int, code: str = "") -> None:
        if self.attempt:
            self.attempt.completion, self.attempt.bill, self.attempt.code = completion, bill, code
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
        self.failed(record.code, 0)  # an attempt that a defect of ours cut short
        if self.span:
            self.span.end(record, budget_state)


class Telemetry:
    """A worker's telemetry, by its settings and the environment."""

    def __init__(self) -> None:
        self.otel: OpenTelemetry | None = None
        self.helicone: Helicone | None = None

    def start(self) -> None:
        if is_exporting():
            from guard.telemetry.otel import OpenTelemetry

            self.otel = OpenTelemetry()
        if settings.HELICONE_API_KEY:
            from guard.telemetry.helicone import Helicone

            self.helicone = Helicone(settings.HELICONE_BASE_URL, settings.HELICONE_API_KEY)

    def stop(self) -> None:
        """Send what is still to be sent, within a few seconds."""
        if self.helicone:
            self.helicone.stop()
        if self.otel:
            self.otel.stop()

    def shares(self, call: ChatCall) -> bool:
        """Whether what is said in the call is told to somebody."""
        return self.helicone is not None and call.tenant.share_content

    def trace(self, call: ChatCall) -> Trace:
        if self.otel is None and self.helicone is None:
            return Trace(call)
        return WatchedTrace(call, self.otel.start_call(call) if self.otel else None, self.helicone)


def is_exporting() -> bool:
    """Whether the SDK's own variables name a collector."""
    is_disabled = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    return not is_disabled and any(os.environ.get(name) for name in ENDPOINTS)
