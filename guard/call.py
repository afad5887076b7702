"""A call as it was asked for: what everything that serves it, or is told of it, knows of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar
from uuid import UUID

from guard.http.request_log import Line
from guard.policy.routing import Ask
from guard.policy.snapshot import Pace, TenantPolicy
from spend.ledger.rules import Caller


@dataclass(frozen=True, slots=True)
class Claim:
    """A key that this call alone may answer."""

    id: int


@dataclass(frozen=True, slots=True)
class ChatCall:
    """A call as it was asked for: who, what, and the provider's request without its model and maximum."""

    caller: Caller
    tenant: TenantPolicy
    ask: Ask
    body: Mapping[str, Any]
    claim: Claim | None = None
    pace: Pace = field(default_factory=Pace)
    context: Mapping[str, str] = field(default_factory=dict)
    line: Line = field(default_factory=Line)
    accept_language: str = ""
    """The languages that the customer reads, as an Accept-Language header gives them."""
    goes_on_from: tuple[UUID, ...] = ()
    """Calls of which the guard has put together what was said, oldest first."""

    operation: ClassVar[str] = "chat"
    """As OpenTelemetry names it."""
    address: ClassVar[str] = "/chat/completions"
    """Under the provider's base URL."""

    @property
    def wants_words(self) -> bool:
        """Whether its answer may be any text, and need not be JSON."""
        wanted = self.body.get("response_format") or {}
        return self.operation == "chat" and wanted.get("type", "text") == "text"

    def payload(self, fitted: Mapping[str, Any], upstream_name: str, max_tokens: int) -> dict[str, Any]:
        """The provider's request, of one that is made fit for its model."""
        return {**fitted, "model": upstream_name, "max_completion_tokens": max_tokens}


@dataclass(frozen=True, slots=True)
class EmbeddingCall(ChatCall):
    """A call for vectors of its inputs, which has no messages and no maximum."""

    operation = "embeddings"
    address = "/embeddings"

    def payload(self, fitted: Mapping[str, Any], upstream_name: str, max_tokens: int) -> dict[str, Any]:
        return {**fitted, "model": upstream_name}
