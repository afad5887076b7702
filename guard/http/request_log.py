"""A request's one line in the log."""

import logging
import time
from dataclasses import dataclass, field
from typing import Any

call_log = logging.getLogger("guard.calls")

MOST_NAME_CHARACTERS = 100


@dataclass(slots=True)
class Line:
    """A request's one line in the log: its call's trace writes it, or the edge, where no call began.

    Never what was said, never a key.
    """

    request_id: str = ""
    tenant: str = ""
    requested_model: str = ""
    started: float = field(default_factory=time.monotonic)
    is_written: bool = False

    def asked(self, data: Any) -> None:
        """Note the model that a request's JSON names, which may not be valid otherwise."""
        name = data.get("model") if isinstance(data, dict) else None
        if isinstance(name, str) and len(name) <= MOST_NAME_CHARACTERS and name.isprintable():
            self.requested_model = name

    def write(self, facts: dict[str, Any]) -> None:
        if not self.is_written and call_log.isEnabledFor(logging.INFO):
            call_log.info("call", extra=facts)
        self.is_written = True

    def replayed(self, model: str, route: str) -> None:
        self.write(self._facts("replayed", model=model, route=route))

    def refused(self, status: int, code: str) -> None:
        """Unless a call has said more of it."""
        self.write(self._facts("failed" if status >= 500 else "refused", code))

    def _facts(self, outcome: str, code: str = "", *, model: str = "", route: str = "") -> dict[str, Any]:
        return {
            "request_id": self.request_id,
            "tenant": self.tenant,
            "outcome": outcome,
            "code": code,
            "requested_model": self.requested_model,
            "model": model,
            "route": route,
            "cost_ticks": 0,
            "duration_ms": int((time.monotonic() - self.started) * 1000),
        }
