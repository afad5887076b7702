"""Calls: lists by filter, newest first, and one call's story. Pages by key, so that page 1,000 is as fast as page 1."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from typing import Any
from uuid import UUID

from django.db.models import BooleanField, Q, QuerySet, Sum
from django.db.models.expressions import RawSQL

from spend import names
from spend.models import Call, LedgerEntry, Outcome, Price, Reservation, Route
from spend.pricing.cost import PriceList, TierPrice
from spend.pricing.rates import price_list_of
from tenants.models import Tenant

PAGE_SIZE = 50
CHUNK = 2000
CHUNK_NAMED = 500
UNANSWERED = {Outcome.REFUSED, Outcome.FAILED, Outcome.HANDED_OFF}


@dataclass(frozen=True)
class CallFilter:
    """What to list; empty is anything. `starts_at` is inclusive, `ends_at` is not.

    The model is the one that answered; of calls that are to be listed because none did, the one asked for.
    """

    starts_at: datetime | None = None
    ends_at: datetime | None = None
    model: str = ""
    customer: str = ""
    conversation: str = ""
    route: str = ""
    outcome: str = ""
    key: str = ""

    def calls_of(self, tenant: Tenant) -> QuerySet[Call]:
        calls = Call.objects.filter(tenant=tenant)
        if self.starts_at:
            calls = calls.filter(at__gte=self.starts_at)
        if self.ends_at:
            calls = calls.filter(at__lt=self.ends_at)
        named = {name: getattr(self, name) for name in ("customer", "conversation", "route", "outcome")}
        named["key_id"] = self.key
        named["requested_model" if self.outcome in UNANSWERED else "model"] = self.model
        calls = calls.filter(**{name: value for name, value in named.items() if value})
        for name, condition in PARTIAL_INDEXES.items():
            if named[name] not in {"", Route.PRIMARY, Outcome.SERVED}:
                calls = calls.filter(_written_out(condition))
        return calls


def existing(**named: str) -> QuerySet[Call]:
    """Calls of any tenant by one of the names that have a partial index."""
    (name,) = named
    return Call.objects.filter(_written_out(PARTIAL_INDEXES[name]), **named)


def bearing_any(tenant: Tenant, name: str) -> QuerySet[Call]:
    """A tenant's calls that bear any customer or conversation, along the index of these."""
    return Call.objects.filter(_written_out(PARTIAL_INDEXES[name]), tenant=tenant)


def as_counted(wanted: CallFilter, tenant: Tenant) -> CallFilter:
    """With its ids as calls bear them: just as given where one does, else as the API would read them."""
    return replace(
        wanted,
        customer=names.as_counted(wanted.customer, lambda name: CallFilter(customer=name).calls_of(tenant).exists()),
        conversation=names.as_counted(
            wanted.conversation, lambda name: CallFilter(conversation=name).calls_of(tenant).exists()
        ),
    )


# SQLite uses a partial index only if the query has its condition, with no parameter in it.
PARTIAL_INDEXES = {
    "customer": "NOT (customer = '')",
    "conversation": "NOT (conversation = '')",
    "route": "route IN ('downgrade', 'fallback')",
    "outcome": "NOT (outcome = 'served')",
}


def _written_out(condition: str) -> RawSQL:
    return RawSQL(condition, (), output_field=BooleanField())  # noqa: S611  a constant of this module


Cursor = tuple[Any, UUID]
"""The call next to which a page begins: when it came, or what it cost in ticks, and its id."""
BY_TIME, BY_COST = "at", "cost_ticks"
"""The orders there are: newest first, dearest first."""


@dataclass(frozen=True)
class CallPage:
    calls: list[Call]
    newer: Cursor | None
    older: Cursor | None


def page_of_calls(
    calls: QuerySet[Call],
    before: Cursor | None = None,
    after: Cursor | None = None,
    size: int = PAGE_SIZE,
    by: str = BY_TIME,
) -> CallPage:
    """The newest calls, those older than `before`, or those just newer than `after`; newest first. `by` cost: the
    dearest, in the same way; those that cost nothing are left out."""
    if by == BY_COST:
        calls = calls.filter(cost_ticks__gt=0)
    if after:
        found = list(_following(calls, after, by, "gt").order_by(by, "id")[: size + 1])
        shown = found[:size][::-1]
        newer = _cursor(shown[0], by) if len(found) > size else None
        return CallPage(shown, newer, _cursor(shown[-1], by) if shown else None)
    found = list(_following(calls, before, by, "lt").order_by(f"-{by}", "-id")[: size + 1])
    shown = found[:size]
    older = _cursor(shown[-1], by) if len(found) > size else None
    return CallPage(shown, _cursor(shown[0], by) if before and shown else None, older)


def _cursor(call: Call, by: str) -> Cursor:
    return getattr(call, by), call.id


def _following(calls: QuerySet[Call], cursor: Cursor | None, by: str, way: str) -> QuerySet[Call]:
    """The condition on the value alone bounds the index; the other only breaks ties."""
    if cursor is None:
        return calls
    value, pk = cursor
    beyond = Q(**{f"{by}__{way}": value}) | Q(**{by: value, f"id__{way}": pk})
    return calls.filter(beyond, **{f"{by}__{way}e": value})


Tokens = tuple[int, int]


def tokens_of(calls: Iterable[Call]) -> dict[UUID, Tokens]:
    """Of each call that was billed: tokens in and out, of all its attempts."""
    entries = LedgerEntry.objects.filter(call_id__in=[call.id for call in calls]).order_by()
    sums = entries.values_list("call_id").annotate(Sum("input_tokens"), Sum("output_tokens"))
    return {call_id: (tokens_in, tokens_out) for call_id, tokens_in, tokens_out in sums}


def with_tokens(calls: Iterable[Call]) -> Iterator[tuple[Call, Tokens | None]]:
    """A chunk at a time: databases have bounds on what a statement may name."""
    remaining = iter(calls)
    while some := list(islice(remaining, CHUNK_NAMED)):
        found = tokens_of(some)
        yield from ((call, found.get(call.id)) for call in some)


def every_call(calls: QuerySet[Call]) -> Iterator[Call]:
    """All of them, newest first, a chunk at a time: no cursor stays open and memory stays bounded."""
    cursor: Cursor | None = None
    while True:
        page = page_of_calls(calls, before=cursor, size=CHUNK)
        yield from page.calls
        if page.older is None:
            return
        cursor = page.older


def every_entry(tenant: Tenant, starts_at: datetime, ends_at: datetime) -> Iterator[LedgerEntry]:
    """The tenant's ledger entries in order of time, a chunk at a time."""
    entries = LedgerEntry.objects.filter(tenant=tenant, at__gte=starts_at, at__lt=ends_at).order_by("at", "pk")
    chunk = list(entries[:CHUNK])
    while chunk:
        yield from chunk
        at, pk = chunk[-1].at, chunk[-1].pk
        chunk = list(entries.filter(Q(at__gt=at) | Q(at=at, pk__gt=pk), at__gte=at)[:CHUNK])


@dataclass(frozen=True)
class Attempt:
    """One hold, the entry that ended it if there is one, and the price it was made at."""

    reservation: Reservation
    entry: LedgerEntry | None
    tier: TierPrice | None

    @property
    def input_tokens(self) -> int:
        return self.entry.input_tokens if self.entry else 0

    @property
    def billed_ticks(self) -> int:
        """Of a bill that came late, whose entry costs what it is more or less than the hold."""
        cost_ticks: int = self.entry.cost_ticks if self.entry else 0
        return int(self.reservation.hold_ticks) + cost_ticks

    @property
    def output_tokens(self) -> int:
        return self.entry.output_tokens if self.entry else 0

    @property
    def lines(self) -> list["TokenLine"]:
        """Its tokens by what they cost; before the usage is known the prices alone. They add up to `listed_ticks`."""
        entry, tier = self.entry, self.tier
        if tier is None:
            return []
        cached, written = (entry.cached_input_tokens, entry.cache_write_tokens) if entry else (0, 0)
        kinds = [
            (
                "Input, not cached" if cached or written else "Input",
                self.input_tokens - cached - written,
                tier.input_ticks,
            ),
            ("Input, cached", cached, tier.cached_input_ticks),
            ("Input, written to the cache", written, tier.cache_write_ticks),
            ("Output", self.output_tokens, tier.output_ticks),
        ]
        return [TokenLine(*kind) for kind in kinds if entry is None or kind[1] or kind[0] in {"Input", "Output"}]

    @property
    def listed_ticks(self) -> int:
        return sum(line.ticks for line in self.lines)

    @property
    def difference_ticks(self) -> int:
        """What was booked beyond what tokens and prices come to: the provider's own bill, or an estimate."""
        return self.entry.cost_ticks - self.listed_ticks if self.entry else 0


@dataclass(frozen=True)
class TokenLine:
    kind: str
    tokens: int
    price_ticks: int

    @property
    def ticks(self) -> int:
        return self.tokens * self.price_ticks


def attempts_of(call: Call) -> list[Attempt]:
    holds = list(Reservation.objects.filter(call_id=call.id, tenant_id=call.tenant_id).order_by("created_at", "id"))
    # By nothing else, or SQLite would look through all of the tenant's.
    entries = {entry.pk: entry for entry in LedgerEntry.objects.filter(call_id=call.id)}
    prices = Price.objects.filter(pk__in={hold.price_id for hold in holds}).prefetch_related("tiers")
    lists = {price.pk: price_list_of(price) for price in prices}
    return [_attempt(hold, entries.get(hold.pk), lists.get(hold.price_id)) for hold in holds]


def _attempt(hold: Reservation, entry: LedgerEntry | None, price: PriceList | None) -> Attempt:
    return Attempt(hold, entry, price.tier_of(entry.input_tokens if entry else 0) if price else None)
