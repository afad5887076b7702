"""What a tenant keeps of its responses, so that a request goes on from one by `previous_response_id`.

The guard puts the conversation together itself, of items that belong to no provider: so it goes on with whatever
model serves next. A response is stored before its client has it, and read back from the database alone: any worker
can go on from it.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import orjson
from django.conf import settings
from django.db import Error
from django.utils import timezone

from guard.call import ChatCall
from guard.chat.request.messages import MOST_MESSAGES
from guard.http.errors import InvalidRequest, LedgerUnavailable, NotFound, refuse
from guard.policy.snapshot import TenantPolicy
from guard.responses.answer import call_id_of
from guard.telemetry.content_capture import keeps_content
from guard.worker.runtime import Runtime
from spend.models import CallContent
from spend.privacy.encryption import UnreadableError
from spend.privacy.responses import KeptResponse, kept_responses, pack, unpack

Json = dict[str, Any]

PARAM = "previous_response_id"
KEEPS_NONE = (
    "this tenant keeps no conversations. Have an operator set contentDays of the tenant, and CONTENT_KEYS of the "
    "guard; or send the history as input."
)
STORED_WITHIN_S = 5.0
"""How long an answer waits for its response to be stored; then it is told that it is not kept."""


@dataclass(frozen=True, slots=True)
class Memory:
    """A conversation as far as a request goes on from it; nothing, where it goes on from none."""

    calls: tuple[UUID, ...] = ()
    """Oldest first."""
    items: list[Json] = field(default_factory=list)
    bytes: int = 0
    customer: str = ""
    conversation: str = ""

    def then(self, given: list[Json]) -> list[Json]:
        """With the items of the new input. Raises InvalidRequest where that is more than a request may have."""
        most_bytes = int(settings.MAX_BODY_BYTES)
        if len(self.items) + len(given) > MOST_MESSAGES:
            raise self._too_long(f"{len(self.items) + len(given):,} items", f"{MOST_MESSAGES:,}")
        if self.calls and (size := self.bytes + size_of(given)) > most_bytes:
            raise self._too_long(f"{size:,} bytes", f"{most_bytes:,}")
        return [*self.items, *given]

    def _too_long(self, size: str, most: str) -> InvalidRequest:
        return refuse(
            PARAM,
            f"its conversation is {size} with this input, and at most {most} are taken. "
            "Begin a new one, with what matters of it as input.",
        )

    def turn(self, given: list[Json], response: Json) -> KeptResponse:
        """What is to be kept of a response to this input."""
        more = [*given, *response["output"]]
        return KeptResponse(given, response, self.calls, len(self.items) + len(more), self.bytes + size_of(more))


NO_MEMORY = Memory()


def size_of(items: Iterable[Json]) -> int:
    return sum(len(orjson.dumps(item)) for item in items)


async def recall(response_id: str, tenant: TenantPolicy, runtime: Runtime) -> Memory:
    """The conversation up to a response.

    Raises InvalidRequest where the tenant keeps none, NotFound where this one is not kept, or another's, or not
    whole any more; both name the parameter.
    """
    if not keeps_content(tenant):
        raise refuse(PARAM, KEEPS_NONE)
    if (call_id := call_id_of(response_id)) is None:
        raise not_kept(response_id)
    try:
        rows, last = await runtime.query(_read, call_id, tenant)
    except Error as error:
        raise LedgerUnavailable(retry_after_s=1) from error
    except UnreadableError:
        rows, last = [], None
    if last is None:
        raise not_kept(response_id)
    # Decrypting a long one takes a while.
    items = await asyncio.to_thread(_items_of, rows, last)
    if items is None:
        raise NotFound(f"{PARAM}: what came before {response_id!r} is not kept any more, or not whole.", param=PARAM)
    named = rows[-1]
    return Memory((*last.before, call_id), items, last.bytes, named.customer, named.conversation)


def not_kept(response_id: str) -> NotFound:
    return NotFound(f"{PARAM}: no response {response_id[:80]!r} is kept, or not any more.", param=PARAM)


def _read(call_id: UUID, tenant: TenantPolicy) -> tuple[list[CallContent], KeptResponse | None]:
    """The rows of a conversation, as far as they are kept, and its last response. Raises UnreadableError."""
    now = timezone.now()
    row = kept_responses(tenant, [call_id], now).first()
    if row is None:
        return [], None
    last = unpack(row)
    rows = list(kept_responses(tenant, last.before, now)) if last.before else []
    return [*rows, row], last


def _items_of(rows: list[CallContent], last: KeptResponse) -> list[Json] | None:
    """The items in the order in which they were said; None where some of them cannot be had."""
    *earlier, _ = rows
    try:
        parts = {row.call_id: unpack(row).conversation_items for row in earlier}
        return [item for call_id in last.before for item in parts[call_id]] + last.conversation_items
    except (KeyError, UnreadableError):
        return None


async def keep(turn: KeptResponse, call: ChatCall, runtime: Runtime) -> Json:
    """Store a response of a settled call, and answer it; one that could not be stored says so."""
    stored = asyncio.wrap_future(runtime.contents.keep_response(call, pack(turn)))
    done, _ = await asyncio.wait([stored], timeout=STORED_WITHIN_S)
    return turn.response if done and stored.result() else {**turn.response, "store": False}
