"""What a tenant keeps of its responses, so that a request goes on from one by `previous_response_id`.

The guard puts the conversation together itself, of items that belong to no provider: so it goes on with whatever
model serves next. A response is stored before its client has it, and read back from the database alone: any worker
can go on from it.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

import orjson
from django.conf import settings
from django.db import Error
from django.db.models import Sum
from django.db.models.functions import Length
from django.utils import timezone

from guard.call import ChatCall
from guard.chat.request.messages import MOST_MESSAGES
from guard.http.errors import InvalidRequest, LedgerUnavailable, NotFound, refuse
from guard.policy.snapshot import TenantPolicy
from guard.responses.answer import call_id_of, call_id_of_item
from guard.telemetry.content_capture import keeps_content
from guard.worker.runtime import Runtime
from spend.models import CallContent
from spend.privacy.encryption import UnreadableError
from spend.privacy.responses import KeptResponse, kept_responses, pack, unpack, unpacked_if_readable

Json = dict[str, Any]
Result = TypeVar("Result")

PARAM = "previous_response_id"
KEEPS_NONE = (
    "this tenant keeps no conversations. Have an operator set contentDays of the tenant, and CONTENT_KEYS of the "
    "guard; or send the history as input."
)
REFERENCE = "item_reference"
MOST_REFERRED_TO = 4
"""How many times MAX_BODY_BYTES the responses may be, encrypted, of which a request names items."""
STORED_WITHIN_S = 5.0
"""How long an answer waits for its response to be stored; then it is told that it is not kept."""


class Source(NamedTuple):
    """Whose words a request goes on from, and by which of its parameters."""

    param: str
    customer: str
    conversation: str


class KeptItem(NamedTuple):
    """An item of an answer that is kept, and who was answered."""

    item: Json
    customer: str
    conversation: str


@dataclass(frozen=True, slots=True)
class Memory:
    """A conversation as far as a request goes on from it; nothing, where it goes on from none."""

    calls: tuple[UUID, ...] = ()
    """Oldest first."""
    items: list[Json] = field(default_factory=list)
    bytes: int = 0
    customer: str = ""
    conversation: str = ""

    @property
    def sources(self) -> list[Source]:
        return [Source(PARAM, self.customer, self.conversation)] if self.calls else []

    def then(self, given: list[Json]) -> list[Json]:
        """With the items of the new input. Raises InvalidRequest where that is more than a request may have."""
        most_bytes = int(settings.MAX_BODY_BYTES)
        if len(self.items) + len(given) > MOST_MESSAGES:
            raise self._too_long(f"{len(self.items) + len(given):,} items", f"{MOST_MESSAGES:,}")
        if (size := self.bytes + size_of(given)) > most_bytes:
            raise self._too_long(f"{size:,} bytes", f"{most_bytes:,}")
        return [*self.items, *given]

    def _too_long(self, size: str, most: str) -> InvalidRequest:
        return refuse(
            PARAM if self.calls else "input",
            f"the conversation is {size} with what is kept of it, and at most {most} are taken. "
            "Begin a new one, with what matters of it as input.",
        )

    def turn(self, given: list[Json], whole: list[Json], response: Json) -> KeptResponse:
        """What is to be kept of a response to this input, which is `whole` where its references are looked up."""
        more = [*whole, *response["output"]]
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
        rows, last = await asked_of_database(runtime, _read, call_id, tenant)
    except UnreadableError:
        rows, last = [], None
    if last is None:
        raise not_kept(response_id)
    # Decrypting a long one takes a while.
    items = await asyncio.to_thread(_items_of, rows, last)
    found = await referred_to(items or [], tenant, runtime)
    if items is None or any(is_reference(item) and item["id"] not in found for item in items):
        raise NotFound(f"{PARAM}: what came before {response_id!r} is not kept any more, or not whole.", param=PARAM)
    named = rows[-1]
    whole = [found[item["id"]].item if is_reference(item) else item for item in items]
    return Memory((*last.before, call_id), whole, last.bytes, named.customer, named.conversation)


async def asked_of_database(runtime: Runtime, function: Callable[..., Result], *args: Any) -> Result:
    """Raises LedgerUnavailable where the database does not answer."""
    try:
        return await runtime.query(function, *args)
    except Error as error:
        raise LedgerUnavailable(retry_after_s=1) from error


def is_reference(item: Any) -> bool:
    return isinstance(item, Mapping) and item.get("type") == REFERENCE and isinstance(item.get("id"), str)


async def dereferenced(given: Any, tenant: TenantPolicy, runtime: Runtime) -> tuple[Any, list[Source]]:
    """An input with the items that its references name: items of responses that are kept, each in its place.

    And whose these items are.

    Some clients (the AI SDK of Vercel) send an earlier answer by its id unless they are told to store nothing.
    Raises InvalidRequest or NotFound naming the reference.
    """
    places = [place for place, item in enumerate(given) if is_reference(item)] if isinstance(given, list) else []
    if not places or len(given) > MOST_MESSAGES:
        return given, []
    if not keeps_content(tenant):
        raise refuse(f"input[{places[0]}].type", KEEPS_NONE)
    found, sources = await referred_to(given, tenant, runtime), []
    for place in places:
        param, item_id = f"input[{place}].id", given[place]["id"]
        if item_id not in found:
            raise NotFound(f"{param}: no item {item_id[:80]!r} is kept, or not any more.", param=param)
        sources.append(Source(param, found[item_id].customer, found[item_id].conversation))
    return [found[item["id"]].item if is_reference(item) else item for item in given], sources


async def referred_to(items: list[Any], tenant: TenantPolicy, runtime: Runtime) -> dict[str, KeptItem]:
    """By their ids, of the items that are referred to those that are kept. Raises InvalidRequest for too many."""
    if not (calls := calls_referred_to(items)):
        return {}
    rows = await asked_of_database(runtime, _read_some, calls, tenant)
    return await asyncio.to_thread(_outputs_of, rows)


def calls_referred_to(items: Iterable[Any]) -> list[UUID]:
    """Each once, in the order in which they come."""
    found = (call_id_of_item(item["id"]) for item in items if is_reference(item))
    return list(dict.fromkeys(call_id for call_id in found if call_id))


def _read_some(calls: Collection[UUID], tenant: TenantPolicy) -> list[CallContent]:
    rows = kept_responses(tenant, calls, timezone.now())
    size = rows.aggregate(size=Sum(Length("response")))["size"] or 0
    if size > MOST_REFERRED_TO * settings.MAX_BODY_BYTES:
        raise refuse("input", "refers to items of too many or too long responses. Send the items, or go on from one.")
    return list(rows)


def _outputs_of(rows: list[CallContent]) -> dict[str, KeptItem]:
    return {
        item["id"]: KeptItem(item, row.customer, row.conversation)
        for row in rows
        if (kept := unpacked_if_readable(row))
        for item in kept.response["output"]
    }


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
