"""Prompts and answers: kept where the tenant asks for it, by a thread of its own from a bounded queue.

A served call only puts what was said into the queue, which takes microseconds and cannot fail.  The
thread encrypts and stores it, some calls at a time.  What the database does not take is lost, and
said so in the log, without a word of it: a record to read is worth less than the calls themselves.

A response that its client may go on with by its id takes the same way, a column of the same row; only
that its call waits to hear whether it is stored, so that the client can use the id at once.
"""

import logging
import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty
from time import monotonic
from typing import Any, ClassVar
from uuid import UUID

from django.db import close_old_connections, connection, transaction

from guard.call import ChatCall, EmbeddingCall
from guard.telemetry.bounded_queue import BoundedQueue, size_of
from guard.telemetry.transcript import body_of
from spend.models import Call, CallContent
from spend.privacy.encryption import can_encrypt, encrypt
from spend.privacy.responses import are_kept
from spend.privacy.stored_content import KeepsContent

logger = logging.getLogger(__name__)

MOST_QUEUED = 1_000
MOST_QUEUED_BYTES = 64 * 1024 * 1024
MOST_AT_ONCE = 100
POLL_S = 0.2
STOP_S = 5.0


@dataclass(frozen=True, slots=True)
class OfACall:
    """What is kept of a call, in a column of its row."""

    call_id: UUID
    customer: str
    conversation: str
    goes_on_from: tuple[UUID, ...] = field(default=(), kw_only=True)
    """Calls whose words are in it, too."""

    column: ClassVar[str]

    def is_of(self, call: Call) -> bool:
        """Whether the call's row still names who said it."""
        return (call.customer, call.conversation) == (self.customer, self.conversation)

    def plain(self) -> bytes:
        raise NotImplementedError

    def tell(self, *, is_stored: bool) -> None:
        """Whoever waits for it."""


@dataclass(frozen=True, slots=True)
class Said(OfACall):
    messages: Any
    completion: Mapping[str, Any]
    size: int = 0

    column = "body"

    def plain(self) -> bytes:
        return body_of(self.messages, self.completion)


@dataclass(frozen=True, slots=True)
class Response(OfACall):
    packed: bytes
    """As `spend.privacy.responses` packs it."""
    stored: "Future[bool]" = field(default_factory=Future)

    column = "response"

    @property
    def size(self) -> int:
        return len(self.packed)

    def plain(self) -> bytes:
        return self.packed

    def tell(self, *, is_stored: bool) -> None:
        self.stored.set_result(is_stored)


def keeps_content(tenant: KeepsContent) -> bool:
    return tenant.content_days > 0 and can_encrypt()


class Contents:
    """A worker's thread that stores what was said."""

    def __init__(self) -> None:
        line = "what was said in %d calls was dropped: its queue is full"
        self.queue: BoundedQueue[Said | Response] = BoundedQueue(MOST_QUEUED, MOST_QUEUED_BYTES, logger, line)
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self._run, name="contents", daemon=True)

    def start(self) -> None:
        if can_encrypt():
            self.thread.start()

    def stop(self) -> None:
        """Store what is queued, for a few seconds at most."""
        deadline = monotonic() + STOP_S
        self.stopping.set()
        if self.thread.is_alive():
            self.thread.join(max(0.0, deadline - monotonic()))
        if left := self.queue.qsize():
            logger.warning("what was said in %d calls was not stored before the stop", left)

    def keep(self, call: ChatCall, completion: Mapping[str, Any]) -> None:
        """Queue what was said in a served call whose record is written. Neither waits nor raises.

        Texts that embeddings are made of are a shop's catalogue more often than a customer's words: they are not kept.
        """
        if isinstance(call, EmbeddingCall) or not keeps_content(call.tenant):
            return
        messages = call.body.get("messages")
        size = size_of(messages, completion)
        self.queue.offer(Said(*_names(call), messages, completion, size, goes_on_from=call.goes_on_from))

    def keep_response(self, call: ChatCall, packed: bytes) -> "Future[bool]":
        """Queue a response of a call that is settled; whether it was stored. Neither waits nor raises."""
        response = Response(*_names(call), packed, goes_on_from=call.goes_on_from)
        if not self.queue.offer(response):
            response.tell(is_stored=False)
        return response.stored

    def _run(self) -> None:
        try:
            while not (self.stopping.is_set() and self.queue.empty()):
                if some := self._next():
                    _store_safely(some)
        finally:
            connection.close()

    def _next(self) -> list[Said | Response]:
        some: list[Said | Response] = []
        try:
            some.append(self.queue.get(timeout=POLL_S))
            while len(some) < MOST_AT_ONCE:
                some.append(self.queue.get_nowait())
        except Empty:
            pass
        return some


def _names(call: ChatCall) -> tuple[UUID, str, str]:
    return call.caller.call_id, call.caller.customer, call.caller.conversation


def _store_safely(some: list[Said | Response]) -> None:
    close_old_connections()
    stored: set[UUID] = set()
    try:
        stored = store(some)
    except Exception as error:  # noqa: BLE001  only its kind is told: its text may show what was said
        logger.warning("what was said in %d calls was not stored: %s", len(some), type(error).__name__)
        connection.close()
    finally:
        for each in some:
            each.tell(is_stored=each.call_id in stored)


def store(some: Iterable[OfACall]) -> set[UUID]:
    """Encrypt and store what was said in calls; of which. Raises django.db.Error; then none of it is stored.

    Left out is what the tenant does not keep any more, and what a customer said who was erased
    meanwhile: the call's row then has another name, or is locked by the erasure, which deletes what
    was said after it has renamed the calls. So is what goes on from words that are gone meanwhile: they are in it, too.
    """
    sealed = [(each, encrypt(each.plain())) for each in some]
    with transaction.atomic():
        locked = Call.objects.select_for_update(skip_locked=True, of=("self",)).filter(
            pk__in={each.call_id for each, _ in sealed}, tenant__content_days__gt=0
        )
        calls, rows = {call.id: call for call in locked}, defaultdict[str, list[CallContent]](list)
        for each, text in sealed:
            if (call := calls.get(each.call_id)) and each.is_of(call) and are_kept(each.goes_on_from):
                rows[each.column].append(_row(call, **{each.column: text}))
        for column, those in rows.items():
            CallContent.objects.bulk_create(
                those, update_conflicts=True, update_fields=[column], unique_fields=["call_id"]
            )
    return {row.call_id for those in rows.values() for row in those}


def _row(call: Call, **columns: str) -> CallContent:
    return CallContent(
        call_id=call.id,
        tenant_id=call.tenant_id,
        customer=call.customer,
        conversation=call.conversation,
        at=call.at,
        **columns,
    )
