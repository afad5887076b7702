"""What was said in calls, once it is stored: reading it, forgetting it, and encrypting it with a new key."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

import orjson
from django.db.models import Model, QuerySet

from spend.models import CallContent, IdempotentCall, Provider
from spend.privacy.encryption import CIPHERTEXT_BEGINS, UnreadableError, decrypt, reencrypted
from tenants.models import Tenant

MOST_AT_ONCE = 500
ENCRYPTED_COLUMNS: list[tuple[type[Model], str]] = [
    (CallContent, "body"),
    (CallContent, "response"),
    (IdempotentCall, "answer"),
    (Provider, "sealed_key"),
]


class KeepsContent(Protocol):
    """A tenant, as its row or as the policy has it."""

    @property
    def id(self) -> str: ...

    @property
    def content_days(self) -> int: ...


def kept(tenant: KeepsContent, now: datetime) -> QuerySet[CallContent]:
    """What is not too old, by the tenant's present `content_days`, whether or not the rest is deleted yet."""
    return CallContent.objects.filter(tenant_id=tenant.id, at__gt=now - timedelta(days=tenant.content_days))


def said_in(content: CallContent) -> dict[str, Any]:
    """`messages` and `answer`, as `guard.telemetry.transcript` has cut them. Raises UnreadableError."""
    if not content.body:  # it found no place in the queue, or a kept response came before it
        return {"messages": [], "answer": []}
    said: dict[str, Any] = orjson.loads(decrypt(content.body))
    return said


def said_if_readable(content: CallContent) -> dict[str, Any] | None:
    try:
        return said_in(content)
    except UnreadableError:
        return None


def answer_if_readable(call: IdempotentCall) -> dict[str, Any] | None:
    """The answer that is kept for a replay, as `guard.chat.idempotency` packs it; None where there is none yet, too."""
    try:
        packed = decrypt(call.answer) if call.answer.startswith(CIPHERTEXT_BEGINS) else call.answer
    except UnreadableError:
        return None
    answer: dict[str, Any] | None = orjson.loads(packed) if packed else None
    return answer


def forget(now: datetime) -> int:
    """Delete what is older than its tenant's present `content_days`; how much."""
    return sum(_forget(tenant, now - timedelta(days=tenant.content_days)) for tenant in Tenant.objects.all())


def _forget(tenant: Tenant, until: datetime) -> int:
    old, forgotten = CallContent.objects.filter(tenant=tenant, at__lte=until).order_by("at"), 0
    while some := list(old.values_list("pk", flat=True)[:MOST_AT_ONCE]):
        forgotten += CallContent.objects.filter(pk__in=some).delete()[0]
    return forgotten


def rotate() -> Iterator[tuple[int, int]]:
    """Encrypt everything anew with the first key, step by step: of each step how many rows, and how many unreadable."""
    for model, field in ENCRYPTED_COLUMNS:
        last: UUID | int | None = None
        while some := _after(model, field, last):
            last = some[-1][0]
            yield len(some), sum(not _rotate(model, field, *row) for row in some)


def _after(model: type[Model], field: str, last: UUID | int | None) -> list[tuple[Any, str]]:
    sealed = model._default_manager.filter(**{f"{field}__startswith": CIPHERTEXT_BEGINS}).order_by("pk")
    rest = sealed if last is None else sealed.filter(pk__gt=last)
    return list(rest.values_list("pk", field)[:MOST_AT_ONCE])


def _rotate(model: type[Model], field: str, pk: Any, old: str) -> bool:
    try:
        new = reencrypted(old)
    except UnreadableError:
        return False
    model._default_manager.filter(pk=pk, **{field: old}).update(**{field: new})  # or it was changed meanwhile
    return True
