"""Which model served a conversation last, and how much of it its provider has cached.

Each worker remembers those it served, and asks the ledger once for one that began elsewhere.
"""

from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime, timedelta

from spend.ledger.rules import Caller
from spend.models import LedgerEntry, Route

MOST_CONVERSATIONS = 20_000
CACHED_FOR = timedelta(minutes=10)
"""Providers keep a prefix for five to ten minutes after its last use, at times for longer."""
LEAST_CACHED_TOKENS = 1_024
"""OpenAI caches no shorter prefix."""


@dataclass(frozen=True, slots=True)
class LastServed:
    """The latest answer in a conversation: by whom, why, for how many input tokens, and when."""

    model: str
    route: Route
    input_tokens: int
    at: datetime

    def cached_tokens(self, now: datetime) -> int:
        """How long a prefix its provider is likely to have still."""
        is_kept = now - self.at <= CACHED_FOR and self.input_tokens >= LEAST_CACHED_TOKENS
        return self.input_tokens if is_kept else 0


class Conversations:
    """Those that this worker served, the latest last."""

    def __init__(self, most: int = MOST_CONVERSATIONS) -> None:
        self.most = most
        self.known: OrderedDict[tuple[str, str], LastServed] = OrderedDict()

    def get(self, caller: Caller) -> LastServed | None:
        return self.known.get((caller.tenant_id, caller.conversation))

    def note(self, caller: Caller, last: LastServed) -> None:
        if not caller.conversation:
            return
        key = (caller.tenant_id, caller.conversation)
        self.known[key] = last
        self.known.move_to_end(key)
        if len(self.known) > self.most:
            self.known.popitem(last=False)


def last_in_ledger(caller: Caller) -> LastServed | None:
    """Raises django.db.Error."""
    entries = LedgerEntry.objects.filter(tenant_id=caller.tenant_id, conversation=caller.conversation)
    found = entries.order_by("-at").values_list("model", "route", "input_tokens", "at").first()
    return LastServed(found[0], Route(found[1]), found[2], found[3]) if found else None
