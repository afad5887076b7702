"""A customer's data: what there is of it, and its erasure.

Amounts stay, or the books would not balance; the identity goes. It is replaced everywhere by one
pseudonym, which is random: nobody can work it out from the name, nor the name from it.
"""

import secrets
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

from django.db import transaction
from django.db.models import Count, QuerySet, Sum

from spend.models import (
    Alert,
    ArchivedSpend,
    Call,
    CallContent,
    DailyCustomer,
    IdempotentCall,
    LedgerEntry,
    Reservation,
    ReservationState,
    RollupMark,
    TagRollup,
    Window,
)
from spend.names import as_counted
from spend.privacy.conversations import Conversations
from spend.privacy.responses import unpacked_if_readable
from spend.privacy.stored_content import answer_if_readable, said_if_readable
from tenants.models import Scope


class InFlightError(Exception):
    """The customer has calls in flight, which will be entered under its name."""


@dataclass(frozen=True)
class Customer:
    tenant_id: str
    name: str

    @classmethod
    def named(cls, tenant_id: str, given: str) -> "Customer":
        """Who bears just this id, as customers of before ids were tidied may, else who would be counted under it."""
        return cls(tenant_id, as_counted(given, lambda name: is_known(cls(tenant_id, name))))

    def calls(self) -> QuerySet[Call]:
        return Call.objects.filter(tenant=self.tenant_id, customer=self.name)

    def reservations(self) -> QuerySet[Reservation]:
        return Reservation.objects.filter(tenant=self.tenant_id, customer=self.name)

    def entries(self) -> QuerySet[LedgerEntry]:
        return LedgerEntry.objects.filter(tenant=self.tenant_id, customer=self.name)

    def windows(self) -> QuerySet[Window]:
        return Window.objects.filter(tenant_id=self.tenant_id, scope=Scope.CUSTOMER, subject=self.name)

    def archived(self) -> QuerySet[ArchivedSpend]:
        return ArchivedSpend.objects.filter(tenant_id=self.tenant_id, scope=Scope.CUSTOMER, subject=self.name)

    def alerts(self) -> QuerySet[Alert]:
        return Alert.objects.filter(tenant_id=self.tenant_id, scope=Scope.CUSTOMER, subject=self.name)

    def contents(self) -> QuerySet[CallContent]:
        return CallContent.objects.filter(tenant=self.tenant_id, customer=self.name)

    def answers(self) -> QuerySet[IdempotentCall]:
        """What is kept for a day, to replay it."""
        return IdempotentCall.objects.filter(call_id__in=self.calls().values("id"))

    def days(self) -> QuerySet[DailyCustomer]:
        return DailyCustomer.objects.filter(tenant=self.tenant_id, customer=self.name)


def export(customer: Customer) -> Iterator[tuple[str, dict[str, Any]]]:
    """Everything kept of a customer and of its own conversations: the name of a table and a row, row by row."""
    conversations = Conversations.of(customer.tenant_id, customer.name)
    for name, rows in chain(_parts(customer), conversations.parts()):
        for row in rows.values().iterator(2000):
            yield name, row
    for content in chain(customer.contents().order_by("at").iterator(100), conversations.contents()):
        yield "contents", {"call_id": content.call_id, "at": content.at, "said": said_if_readable(content)}
        if response := unpacked_if_readable(content):
            yield "responses", {"call_id": content.call_id, "at": content.at, "response": asdict(response)}
    for call in chain(customer.answers().iterator(100), conversations.answers()):
        yield "answers", {"call_id": call.call_id, "at": call.claimed_at, "answer": answer_if_readable(call)}


def _parts(customer: Customer) -> Iterator[tuple[str, QuerySet[Any]]]:
    yield "calls", customer.calls().order_by("at")
    yield "reservations", customer.reservations().order_by("created_at")
    yield "entries", customer.entries().order_by("at")
    yield "windows", customer.windows().order_by("starts_at")
    yield "alerts", customer.alerts().order_by("at")
    yield "days", customer.days().order_by("day")
    yield "archived", customer.archived()


def erase(customer: Customer) -> dict[str, int]:
    """Replace the customer and its conversations by pseudonyms, and forget what was said. How many of each kind.

    Raises InFlightError; then nothing was changed.
    """
    pseudonym = f"erased-{secrets.token_hex(8)}"
    with transaction.atomic():
        # Nothing of it is removed meanwhile, which would archive it under the old name.
        RollupMark.objects.select_for_update().filter(tenant=customer.tenant_id).first()
        conversations = Conversations.of(customer.tenant_id, customer.name)
        _refuse_in_flight(customer, conversations)
        _lock_expired(customer, conversations)
        counts = {
            "answers": customer.answers().delete()[0],
            "tags": _forget_tags(customer, pseudonym),
            **_rename_attempts(customer, pseudonym),
            "calls": customer.calls().update(customer=pseudonym, tags=""),
            "contents": customer.contents().delete()[0],  # after the calls: see guard.telemetry.content_capture.store
            "windows": customer.windows().update(subject=pseudonym),
            "alerts": customer.alerts().update(subject=pseudonym),
            "days": customer.days().update(customer=pseudonym),
            "archived": customer.archived().update(subject=pseudonym),
            "conversations": conversations.rename(),
            "shared conversations, which keep their ids": len(conversations.shared),
        }
        # No call is held against the windows from here on, but one may have been since they were looked at.
        _refuse_in_flight(customer, conversations)
        return counts


def _refuse_in_flight(customer: Customer, conversations: Conversations) -> None:
    pending = customer.reservations().filter(state=ReservationState.PENDING)
    if pending.exists() or conversations.are_in_flight():
        raise InFlightError(f"{customer.name!r} has calls in flight.")


def _lock_expired(customer: Customer, conversations: Conversations) -> None:
    """Keep late bills from being entered meanwhile, which lock the hold that they correct; then this waits for none."""
    for rows in (customer.reservations(), *conversations.reservations()):
        expired = rows.filter(state=ReservationState.EXPIRED)
        if len(expired.select_for_update(skip_locked=True)) < expired.count():
            raise InFlightError(f"{customer.name!r} has calls in flight.")


def _rename_attempts(customer: Customer, pseudonym: str) -> dict[str, int]:
    """An entry is renamed only with its reservation: one that is written meanwhile keeps the name in both."""
    ended = customer.reservations().exclude(state=ReservationState.PENDING)
    renamed = {"reservations": ended.update(customer=pseudonym, tags="")}
    entries = customer.entries().filter(reservation__customer=pseudonym)
    return {**renamed, "entries": entries.update(customer=pseudonym, tags="")}


def _forget_tags(customer: Customer, pseudonym: str) -> int:
    """Rename the sums of tags that only calls of this customer had; how many. Its calls lose theirs.

    Of whom calls that retention removed were, nobody knows: a tag of theirs stays.
    """
    own = Counter[str]()
    for tags, count in customer.entries().exclude(tags="").order_by().values_list("tags").annotate(Count("pk")):
        own.update(dict.fromkeys(tags.split(","), count))
    named = TagRollup.objects.filter(tenant=customer.tenant_id, tag__in=own).order_by()
    alone = [tag for tag, count in named.values_list("tag").annotate(Sum("attempts")) if count == own[tag]]
    for number, tag in enumerate(alone):
        named.filter(tag=tag).update(tag=f"{pseudonym}-{number}")
    return len(alone)


def is_known(customer: Customer) -> bool:
    parts: list[QuerySet[Any]] = [
        customer.calls(), customer.reservations(), customer.windows(), customer.days(), customer.archived(),
        customer.contents(),
    ]  # fmt: skip
    return any(rows.exists() for rows in parts)
