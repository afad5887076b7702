"""Responses that a tenant keeps, to be gone on with by their ids: OpenAI's `previous_response_id`.

They are kept with what was said in their calls, and go when that goes: by age, by erasure, or by their own deletion.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from django.db import connection
from django.db.models import QuerySet

from spend.models import CallContent
from spend.privacy.encryption import UnreadableError, decrypt
from spend.privacy.stored_content import KeepsContent, kept

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class KeptResponse:
    """A response, what was put in for it, and the calls that it went on from, oldest first."""

    input: list[Json]
    response: Json
    before: tuple[UUID, ...] = ()
    items: int = 0
    """Of the whole conversation, this response's own output included."""
    bytes: int = 0
    """Of their JSON."""

    @property
    def conversation_items(self) -> list[Json]:
        """Its own part of the conversation: what was put in, then what was answered."""
        return [*self.input, *self.response["output"]]


def pack(each: KeptResponse) -> bytes:
    return orjson.dumps(each)


def unpack(content: CallContent) -> KeptResponse:
    """Raises UnreadableError."""
    said: Json = orjson.loads(decrypt(content.response))
    return KeptResponse(**{**said, "before": tuple(map(UUID, said["before"]))})


def unpacked_if_readable(content: CallContent) -> KeptResponse | None:
    """None where there is none, too."""
    try:
        return unpack(content) if content.response else None
    except UnreadableError:
        return None


def kept_responses(tenant: KeepsContent, call_ids: Collection[UUID], now: datetime) -> QuerySet[CallContent]:
    return kept(tenant, now).filter(pk__in=call_ids).exclude(response="")


def are_kept(call_ids: Collection[UUID]) -> bool:
    """Whether the responses of all of these are there still. No erasure takes them until the transaction ends.

    False, too, where one is just taking them: it is not waited for. Whoever else reads them is not in the way.
    """
    if not call_ids:
        return True
    rows = CallContent.objects.filter(pk__in=call_ids).exclude(response="").values("pk")
    statement, params = rows.query.sql_with_params()
    locking = " FOR KEY SHARE SKIP LOCKED" if connection.vendor == "postgresql" else ""
    with connection.cursor() as cursor:
        cursor.execute(statement + locking, params)
        return len(cursor.fetchall()) == len(call_ids)


def forget_response(tenant: KeepsContent, call_id: UUID, now: datetime) -> bool:
    """Whether there was one. What was said in its call stays in the tenant's own record, for its days."""
    return bool(kept_responses(tenant, [call_id], now).update(response=""))
