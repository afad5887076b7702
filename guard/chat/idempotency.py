"""`Idempotency-Key`: the same key and body is one call, whoever answers it, for a day.

A key is claimed by a unique row before the call, and its answer is written in the transaction that
settles the call: a crash between the two cannot bill twice.  A claim without an answer is in flight
while any of its call's holds is pending or in its lease; after that its worker is dead, and the key
may be claimed anew.
"""

from dataclasses import asdict, fields
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
from django.conf import settings
from django.db.models import Exists, OuterRef, Q

from guard.call import Claim
from guard.chat.types import Answer
from guard.http.errors import IdempotencyConflict, IdempotencyMismatch
from guard.policy.budget_status import BudgetStatus
from spend.models import IdempotentCall, Reservation, ReservationState, Route
from spend.pricing.cost import Usage
from spend.privacy.encryption import CIPHERTEXT_BEGINS, UnreadableError, can_encrypt, decrypt, encrypt
from spend.retention.replays import KEPT

FIELDS = tuple(field.name for field in fields(Answer))
OF_LADDERS = ("step", "steps")
"""Fields of a budget's status."""
MOST_BYTES = 4 * 1024 * 1024
"""Of an answer that is kept: embeddings of two thousand texts are ten times that, and cost little to make again."""
VERSION = 1
"""Of an answer as it is kept: raised when an older guard could not read it, or this one not an older's."""


def claim(tenant_id: str, key: str, body_digest: str, call_id: UUID, now: datetime) -> Claim | str:
    """Claim `key`, or return the packed answer of the call that had it.

    Raises IdempotencyMismatch for another body, IdempotencyConflict while that call is in flight.
    """
    mine = IdempotentCall(tenant_id=tenant_id, key=key, body_digest=body_digest, call_id=call_id, claimed_at=now)
    while True:
        IdempotentCall.objects.bulk_create([mine], ignore_conflicts=True)
        row = IdempotentCall.objects.filter(tenant_id=tenant_id, key=key).first()
        if row is None:
            continue  # released meanwhile
        if row.call_id == call_id:
            return Claim(row.id)
        # A dead row goes, and is not taken over: its worker may be late, and would answer under its id.
        if IdempotentCall.objects.filter(dead(now), pk=row.pk).delete()[0]:
            continue
        if row.body_digest != body_digest:
            raise IdempotencyMismatch
        if not row.answer:
            raise IdempotencyConflict
        return row.answer


def dead(now: datetime) -> Q:
    """Answers that are too old, and claims whose worker did not live to answer.

    Each attempt of a call has a lease of its own, and there may be a moment between two attempts.
    """
    lease = timedelta(seconds=settings.RESERVATION_LEASE_SECONDS)
    living = Reservation.objects.filter(
        Q(state=ReservationState.PENDING) | Q(lease_expires_at__gt=now), call_id=OuterRef("call_id")
    )
    return Q(claimed_at__lte=now - KEPT) | Q(~Exists(living), answer="", claimed_at__lte=now - lease)


def release(claim: Claim) -> None:
    """A call that was not served may be tried again under its key."""
    IdempotentCall.objects.filter(pk=claim.id, answer="").delete()


def pack(answer: Answer) -> str | None:
    """Encrypted, where there is a key for it. None where it is nested too deep to be kept, or too large."""
    try:
        kept = {name: getattr(answer, name) for name in FIELDS}
        if not answer.budget.steps:  # an older guard knows no ladder, and would not read what has one
            kept["budget"] = {name: value for name, value in asdict(answer.budget).items() if name not in OF_LADDERS}
        packed = orjson.dumps({"version": VERSION, **kept})
    except TypeError:
        return None
    if len(packed) > MOST_BYTES:
        return None
    return encrypt(packed) if can_encrypt() else packed.decode()


def unpack(packed: str) -> dict[str, Any]:
    """The fields of the Answer that `pack` was given. Raises IdempotencyConflict where it cannot be read."""
    try:
        answer = orjson.loads(decrypt(packed) if packed.startswith(CIPHERTEXT_BEGINS) else packed)
    except UnreadableError:
        raise IdempotencyConflict("The answer kept for this Idempotency-Key cannot be read any more.") from None
    if answer.pop("version", VERSION) != VERSION:  # until 0.2 they had none
        raise IdempotencyConflict(
            "The answer kept for this Idempotency-Key is of another version of the guard, which alone can give it."
        )
    budget = answer["budget"]
    if budget["resets_at"] is not None:
        budget["resets_at"] = datetime.fromisoformat(budget["resets_at"])
    return {
        **answer,
        "usage": Usage(**answer["usage"]),
        "route": Route(answer["route"]),
        "budget": BudgetStatus(**budget),
        "adapted": tuple(answer.get("adapted", ())),
        "call_id": UUID(call_id) if (call_id := answer.get("call_id")) else None,
        "is_replay": True,
    }
