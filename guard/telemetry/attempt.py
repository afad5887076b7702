"""An attempt at a provider, as those who watch are told of it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from guard.call import ChatCall
from spend.ledger.rules import Bill, Reserved


@dataclass(slots=True)
class Attempt:
    """One attempt, as Helicone is told of it. Times are in seconds since the epoch.

    `code` says why it failed; empty if it served. A stream that broke off has both a code and a bill.
    `answered_at` is when the whole answer, or a stream's first event, had come.
    """

    reserved: Reserved
    payload: Mapping[str, Any]
    address: str = ChatCall.address
    base_url: str = ""
    """The provider's."""
    started_at: float = field(default_factory=time.time)
    answered_at: float | None = None
    ended_at: float | None = None
    code: str = ""
    cost_ticks: int = 0
    bill: Bill | None = None
    completion: Mapping[str, Any] | None = None
