"""A customer's conversations, whose ids are erased with the customer.

A conversation is the customer's own unless somebody else is named in it too. Its id is replaced wherever it
stands, in calls that name no customer as well: so its windows still agree with its entries.
"""

import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from django.db.models import Case, Model, QuerySet, Value, When

from spend.models import (
    Alert,
    ArchivedSpend,
    Call,
    CallContent,
    ConversationTotal,
    IdempotentCall,
    LedgerEntry,
    Reservation,
    ReservationState,
    Window,
)
from tenants.models import Scope

MOST_AT_ONCE = 500
COUNTING: dict[str, type[Model]] = {"windows": Window, "archived": ArchivedSpend, "alerts": Alert}
"""By their tables' names: what is kept of a scope and its subject."""


@dataclass(frozen=True)
class Conversations:
    """Those that name a customer: its own, and those that name somebody else too."""

    tenant_id: str
    own: frozenset[str]
    shared: frozenset[str]

    @staticmethod
    def of(tenant_id: str, customer: str) -> "Conversations":
        every = {name for model in (Call, LedgerEntry, Reservation) for name in _named(model, tenant_id, customer)}
        shared = {name for model in (Call, LedgerEntry) for name in _shared(model, tenant_id, customer, every)}
        return Conversations(tenant_id, frozenset(every - shared), frozenset(shared))

    def are_in_flight(self) -> bool:
        pending = Reservation.objects.filter(tenant=self.tenant_id, state=ReservationState.PENDING)
        return any(name in self.own for name in pending.values_list("conversation", flat=True).iterator())

    def reservations(self) -> Iterator[QuerySet[Reservation]]:
        return (self._in(Reservation, names) for names in _chunks(self.own))

    def parts(self) -> Iterator[tuple[str, QuerySet[Any]]]:
        """What is kept of its own and does not name the customer: the name of a table and rows of it."""
        for names in _chunks(self.own):
            unnamed: dict[str, type[Model]] = {"calls": Call, "reservations": Reservation, "entries": LedgerEntry}
            for table, model in unnamed.items():
                yield table, self._in(model, names).filter(customer="")
            for table, counting in COUNTING.items():
                yield table, self._counting(counting, names)
            yield "conversations", self._in(ConversationTotal, names)

    def contents(self) -> Iterator[CallContent]:
        for names in _chunks(self.own):
            yield from self._in(CallContent, names).filter(customer="").iterator(100)

    def answers(self) -> Iterator[IdempotentCall]:
        for names in _chunks(self.own):
            yield from self._answers(names).iterator(100)

    def rename(self) -> int:
        """Replace the ids of its own by random ones, and delete what was said in them; how many ids."""
        for some in _chunks(self.own):
            self._rename({name: f"erased-{secrets.token_hex(8)}" for name in some})
        return len(self.own)

    def _rename(self, pseudonyms: dict[str, str]) -> None:
        names = list(pseudonyms)
        self._answers(names).delete()
        for rows in (self._in(Call, names), self._in(ConversationTotal, names)):
            rows.update(conversation=_renamed("conversation", pseudonyms))
        # An entry is renamed only with its reservation: one that is written meanwhile keeps the id in both.
        ended = self._in(Reservation, names).exclude(state=ReservationState.PENDING)
        ended.update(conversation=_renamed("conversation", pseudonyms))
        entries = self._in(LedgerEntry, names).filter(reservation__conversation__in=list(pseudonyms.values()))
        entries.update(conversation=_renamed("conversation", pseudonyms))
        for counting in COUNTING.values():
            self._counting(counting, names).update(subject=_renamed("subject", pseudonyms))
        self._in(CallContent, names).delete()  # after the calls: see guard.telemetry.content_capture.store

    def _counting(self, model: type[Model], names: Iterable[str]) -> QuerySet[Any]:
        counted = {"tenant_id": self.tenant_id, "scope": Scope.CONVERSATION, "subject__in": names}
        return model._default_manager.filter(**counted).order_by()

    def _answers(self, names: Iterable[str]) -> QuerySet[IdempotentCall]:
        """Of calls that name no customer; those of the customer's calls are the customer's."""
        calls = self._in(Call, names).filter(customer="")
        return IdempotentCall.objects.filter(call_id__in=calls.values("id"))

    def _in(self, model: type[Model], names: Iterable[str]) -> QuerySet[Any]:
        return model._default_manager.filter(tenant=self.tenant_id, conversation__in=names).order_by()


def _named(model: type[Model], tenant_id: str, customer: str) -> QuerySet[Any, str]:
    named = model._default_manager.filter(tenant=tenant_id, customer=customer).exclude(conversation="")
    return named.order_by().values_list("conversation", flat=True).distinct()


def _shared(model: type[Model], tenant_id: str, customer: str, names: Iterable[str]) -> Iterator[str]:
    others = model._default_manager.filter(tenant=tenant_id).exclude(customer__in=["", customer])
    for some in _chunks(names):
        yield from others.filter(conversation__in=some).order_by().values_list("conversation", flat=True).distinct()


def _renamed(field: str, pseudonyms: dict[str, str]) -> Case:
    return Case(*(When(**{field: old}, then=Value(new)) for old, new in pseudonyms.items()))


def _chunks(names: Iterable[str]) -> Iterator[list[str]]:
    ordered = sorted(names)
    return (ordered[start : start + MOST_AT_ONCE] for start in range(0, len(ordered), MOST_AT_ONCE))
