"""The ledger's rules: one pure function over commands and balances.

    Reserve  ──> Held │ DoesNotFit      hold the worst case of the first offer that fits
                      │ TooMany         as many are pending already as the caller may have
    Settle   ──> Ended │ NotPending     the hold becomes an entry at the true cost
                                        (after its lease: another entry brings the first to the true cost)
    Void     ──> Ended │ NotPending     the hold goes; the provider surely billed nothing
    Expire   ──> Ended │ NotPending     the lease is over: settled at the hold, its cost being unknown,
                                        and the call is recorded, since nobody else may
    Renew    ──> None                   the worker lives, and so do the leases of its calls in flight
    Record   ──> None                   the story of a call, for the pages
    Remember ──> None                   its answer, for a replay under the same idempotency key

`apply` does no I/O; `spend.ledger.posting` reads the balances it needs, locked, and writes what it changed.
Invariants, asserted here: spent + held never passes a hard cap at an admission, held never falls
below zero, and a reservation ends once.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, NamedTuple, Protocol
from uuid import UUID, uuid5

from spend.codes import FailureCode, StepCode
from spend.models import Outcome, ReservationState, Route
from spend.pricing.cost import PriceList, Usage
from tenants.ladder import StepMark, step_at
from tenants.models import Scope

INTERRUPTED = FailureCode.INTERRUPTED
"""The code of a call whose lease was over before it had a record."""

CALLS_AT_ONCE = 8
"""What is left is tight where it would not do for so many calls like this one at once."""


class LedgerError(Exception):
    """The database cannot take the command now; nothing was written."""


class ScopeKey(NamedTuple):
    """What a window counts, in whatever period. No tenant is the whole installation."""

    tenant_id: str
    scope: str
    subject: str


class WindowKey(NamedTuple):
    """What a window counts, and in which period: the natural key of its row."""

    tenant_id: str
    scope: str
    subject: str
    period: str
    starts_at: datetime

    @property
    def scope_key(self) -> ScopeKey:
        return ScopeKey(self.tenant_id, self.scope, self.subject)


class OpenWindow(NamedTuple):
    """A window that there is, whether a limit asks for it or not: it counts every call from its start to its end."""

    id: int
    key: WindowKey
    ends_at: datetime | None

    def counts(self, at: datetime) -> bool:
        return self.key.starts_at <= at and (self.ends_at is None or at < self.ends_at)


@dataclass(frozen=True, slots=True)
class Limit:
    """One budget as it binds one call: its window and its bounds in ticks.

    Past the soft cap is use at or above `soft_ticks`; use up to and including `hard_ticks` is admitted.
    `further` are the steps of its ladder after the soft cap, lowest first.
    """

    key: WindowKey
    ends_at: datetime | None
    limit_ticks: int
    soft_ticks: int
    hard_ticks: int
    further: tuple[StepMark, ...] = ()

    def step_at(self, use_ticks: int) -> int:
        return step_at(use_ticks, self.soft_ticks, self.further)

    def step_asking_for(self, downgrades: int, use_ticks: int) -> int:
        """The lowest step that such a use has reached and that asks for so many downgrades; 0 where none does."""
        if downgrades <= 1:
            return int(use_ticks >= self.soft_ticks)
        asking = [mark.downgrades >= downgrades and use_ticks >= mark.from_ticks for mark in self.further]
        return 2 + asking.index(True) if any(asking) else 0


class Demand(NamedTuple):
    """What ladders ask of a call: so many downgrades, and an answer of no more tokens than that; and on which step."""

    step: int = 0
    downgrades: int = 0
    max_tokens: int | None = None


class CallGroup(NamedTuple):
    """The calls of a tenant, or of one of its keys."""

    tenant_id: str
    key_id: int | None = None


class CallLimit(NamedTuple):
    """The most calls of a group: at once, where the ledger is asked to hold one more."""

    group: CallGroup
    most: int


@dataclass(frozen=True, slots=True)
class Offer:
    """One way to serve a call: a model at a price, and how far its answer may be shortened.

    An offer with `most_downgrades` is passed over once its hold would reach a step that asks for more of them: with
    0, a soft cap.  No step shortens its answer below `shortest_tokens`.  Where the caller named no maximum,
    `fair_share_tokens` do for its answer while other calls hold what is left.
    """

    model: str
    provider: str
    price: PriceList
    route: Route
    fixed_ticks: int
    token_ticks: int
    max_tokens: int
    floor_tokens: int
    most_downgrades: int | None = None
    fair_share_tokens: int | None = None
    shortest_tokens: int = 1

    def hold_ticks(self, max_tokens: int) -> int:
        return self.fixed_ticks + max_tokens * self.token_ticks

    def tokens_within(self, ticks: int) -> int:
        """The longest answer that so many ticks hold; a price of nothing for output cannot be shortened to fit."""
        return (ticks - self.fixed_ticks) // self.token_ticks if self.token_ticks else -1

    def within(self, max_tokens: int | None) -> "Offer":
        """The offer, with an answer no longer than a step's maximum."""
        if max_tokens is None or max_tokens >= self.max_tokens:
            return self
        return replace(self, max_tokens=min(self.max_tokens, max(max_tokens, self.shortest_tokens)))


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, and what for: the facts that a call, its reservations and its entries share."""

    call_id: UUID
    request_id: str
    tenant_id: str
    key_id: int
    customer: str
    conversation: str
    requested_model: str
    tags: str = ""
    """In order, separated by commas."""


class Attributed(Protocol):
    """What says which scopes an attempt counts in: of a Caller, of a reservation and of an entry."""

    @property
    def tenant_id(self) -> str: ...
    @property
    def key_id(self) -> int: ...
    @property
    def customer(self) -> str: ...
    @property
    def conversation(self) -> str: ...


def scopes_of(attempt: Attributed) -> Iterator[ScopeKey]:
    """Every scope whose windows count the attempt."""
    yield ScopeKey("", Scope.INSTALLATION.value, "")
    yield ScopeKey(attempt.tenant_id, Scope.TENANT.value, "")
    yield ScopeKey(attempt.tenant_id, Scope.KEY.value, str(attempt.key_id))
    if attempt.customer:
        yield ScopeKey(attempt.tenant_id, Scope.CUSTOMER.value, attempt.customer)
    if attempt.conversation:
        yield ScopeKey(attempt.tenant_id, Scope.CONVERSATION.value, attempt.conversation)


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Reserved:
    """A reservation as it was made. `window_ids` count it: those of its limits, in their order, then all others.

    `step` is the highest step of a budget's ladder that had a say in it.
    """

    id: UUID
    caller: Caller
    offer: Offer
    max_tokens: int
    hold_ticks: int
    window_ids: tuple[int, ...]
    created_at: datetime
    lease_expires_at: datetime
    step: int = 0


@dataclass(frozen=True, slots=True)
class Bill:
    """What an attempt cost. `cost_ticks` None is unknown, and is settled at the hold."""

    cost_ticks: int | None
    usage: Usage = field(default_factory=Usage)
    computed_ticks: int | None = None
    provider_ticks: int | None = None
    is_estimated: bool = False
    is_usage_impossible: bool = False
    duration_ms: int = 0


NOTHING = Bill(cost_ticks=0, provider_ticks=0)


@dataclass(frozen=True, slots=True)
class Reserve:
    id: UUID
    caller: Caller
    limits: tuple[Limit, ...]
    offers: tuple[Offer, ...]
    at: datetime
    lease_expires_at: datetime
    in_flight_limits: tuple[CallLimit, ...] = ()
    may_wait: bool = False
    """Whether it comes again where only other calls' holds are in the way; so it need not make do with a rest."""


@dataclass(frozen=True, slots=True)
class Settle:
    reserved: Reserved
    bill: Bill
    at: datetime


@dataclass(frozen=True, slots=True)
class Void:
    reserved: Reserved
    at: datetime


@dataclass(frozen=True, slots=True)
class Expire:
    reserved: Reserved
    at: datetime


@dataclass(frozen=True, slots=True)
class Renew:
    """Those of these reservations that are pending still."""

    ids: tuple[UUID, ...]
    lease_expires_at: datetime


@dataclass(frozen=True, slots=True)
class Record:
    caller: Caller
    outcome: Outcome
    at: datetime
    model: str = ""
    route: Route | str = ""
    code: str = ""
    cost_ticks: int = 0
    duration_ms: int = 0
    steps: tuple[dict[str, Any], ...] = ()
    asked: dict[str, Any] | None = None
    """How much was asked for, as whoever plans calls writes it; None where nobody knows any more."""


@dataclass(frozen=True, slots=True)
class Remember:
    """`id` is the idempotency key's row, `answer` what a replay answers from."""

    id: int
    answer: str


Ending = Settle | Void | Expire
Command = Reserve | Ending | Renew | Record | Remember


class Standing(NamedTuple):
    """A window's balance after a command, in ticks."""

    spent_ticks: int
    held_ticks: int


@dataclass(frozen=True, slots=True)
class Held:
    """`passed_over` says why each offer before the one that fitted was not taken.

    `step_tokens` is the maximum of output tokens that a step left to its answer, where that is less than was offered.
    """

    reserved: Reserved
    standings: tuple[Standing, ...]
    passed_over: tuple[StepCode, ...]
    step_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class DoesNotFit:
    """No offer fits. `by_holds` when one would, were it not for other calls' holds.

    `binding` are the positions of the limits that stand in the cheapest offer's way.
    """

    by_holds: bool
    binding: tuple[int, ...]
    standings: tuple[Standing, ...]
    passed_over: tuple[StepCode, ...]


@dataclass(frozen=True, slots=True)
class TooMany:
    """As many reservations are pending as this limit allows; no offer was looked at."""

    limit: CallLimit


@dataclass(frozen=True, slots=True)
class Ended:
    standings: tuple[Standing, ...]
    cost_ticks: int


@dataclass(frozen=True, slots=True)
class NotPending:
    """The reservation had ended before: its lease was over, or it was settled and nobody heard of it.

    No standings where its windows are removed.
    """

    standings: tuple[Standing, ...]


Result = Held | DoesNotFit | TooMany | Ended | NotPending | None


@dataclass(slots=True)
class Balance:
    """A window's row while a batch is applied."""

    id: int
    spent_ticks: int
    held_ticks: int

    def standing(self) -> Standing:
        return Standing(self.spent_ticks, self.held_ticks)

    def end(self, hold_ticks: int, cost_ticks: int) -> None:
        """A hold that counts here gives way to what its attempt cost."""
        self.held_ticks -= hold_ticks
        self.spent_ticks += cost_ticks
        assert self.held_ticks >= 0, "more was released than was held"  # noqa: S101


@dataclass(slots=True)
class Entry:
    """A ledger entry to be written; `corrects_id` is the expired one that it brings to its bill."""

    reserved: Reserved
    bill: Bill
    cost_ticks: int
    is_overrun: bool
    is_expired: bool
    corrects_id: UUID | None = None


class Counted(NamedTuple):
    """Where a call's record is counted."""

    tenant_id: str
    at: datetime
    model: str
    route: str


@dataclass(slots=True)
class Book:
    """What a batch reads, and what it changed: balances, pending reservations, and the rows to write.

    `open_windows` are all that there are of the scopes in which the batch holds, or corrects, something.
    `pending` are their ids with the windows that count them: those they were held against, and since made ones.
    `expired` are those that expired and were not corrected yet.
    `recorded` are the calls whose record was written before, of those that expire or are tried again; `entered`
    is what those that expire had cost before. `interrupted` are calls that were recorded when they expired and that
    this batch records after all: with the tenant, instant, model and route under which they were counted.
    """

    windows: dict[int, Balance]
    window_ids: dict[WindowKey, int]
    pending: dict[UUID, tuple[int, ...]]
    open_windows: dict[ScopeKey, list[OpenWindow]] = field(default_factory=dict)
    expired: dict[UUID, tuple[int, ...]] = field(default_factory=dict)
    in_flight: dict[CallGroup, int] = field(default_factory=dict)
    recorded: set[UUID] = field(default_factory=set)
    entered: dict[UUID, int] = field(default_factory=dict)
    interrupted: dict[UUID, Counted] = field(default_factory=dict)
    reserved: list[Reserved] = field(default_factory=list)
    ended: list[tuple[UUID, ReservationState, datetime]] = field(default_factory=list)
    renewed: dict[UUID, datetime] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    corrections: list[tuple[Reserved, datetime]] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    finished: list[tuple[Counted, Record]] = field(default_factory=list)
    remembered: list[Remember] = field(default_factory=list)


def apply(commands: Iterable[Command], book: Book) -> list[Result]:
    """Apply `commands` in order to `book`, which is changed, and say what became of each."""
    return [_apply_one(command, book) for command in commands]


def _apply_one(command: Command, book: Book) -> Result:
    match command:
        case Reserve():
            return _reserve(command, book)
        case Settle(reserved, bill, at):
            return _end(reserved, ReservationState.SETTLED, at, bill, book)
        case Void(reserved, at):
            return _end(reserved, ReservationState.VOIDED, at, None, book)
        case Expire(reserved, at):
            ended = _end(reserved, ReservationState.EXPIRED, at, Bill(cost_ticks=None, is_estimated=True), book)
            if isinstance(ended, Ended):
                _record_interrupted(reserved, book)
            return ended
        case Renew(ids, lease_expires_at):
            book.renewed.update((id_, lease_expires_at) for id_ in ids if id_ in book.pending)
            return None
        case Record():
            _record(command, book)
            return None
        case Remember():
            book.remembered.append(command)
            return None


def _record(command: Record, book: Book) -> None:
    if counted := book.interrupted.pop(command.caller.call_id, None):
        book.finished.append((counted, command))
        book.recorded.add(command.caller.call_id)
    elif command.caller.call_id not in book.recorded:
        book.records.append(command)


def _record_interrupted(reserved: Reserved, book: Book) -> None:
    """So that what was charged is counted among the calls, too; in the transaction that charges it."""
    caller, offer = reserved.caller, reserved.offer
    if caller.call_id in book.recorded:
        return
    book.recorded.add(caller.call_id)
    step = {"model": offer.model, "decision": StepCode.FAILED, "code": INTERRUPTED, "hold_ticks": reserved.hold_ticks}
    book.records.append(
        Record(
            caller=caller,
            outcome=Outcome.FAILED,
            at=reserved.created_at,
            model=offer.model,
            route=offer.route,
            code=INTERRUPTED,
            cost_ticks=book.entered.get(caller.call_id, 0) + reserved.hold_ticks,
            steps=(step,),
        )
    )


def _reserve(command: Reserve, book: Book) -> Held | DoesNotFit | TooMany:
    for limit in command.in_flight_limits:
        if book.in_flight[limit.group] >= limit.most:
            return TooMany(limit)
    balances = [book.windows[book.window_ids[limit.key]] for limit in command.limits]
    found = choose(command.offers, command.limits, balances, may_wait=command.may_wait)
    tried = command.offers[: found.position if found else None]
    passed_over = tuple(_why_not(offer, command.limits, balances) for offer in tried)
    if found is None:
        return _does_not_fit(command, balances, passed_over)
    reserved = _hold(command, found, balances, book)
    return Held(reserved, tuple(balance.standing() for balance in balances), passed_over, found.step_tokens)


class Chosen(NamedTuple):
    """Which of the offers is taken, and the output tokens that it may have.

    `step` is the highest step of a ladder that had a say in it; `step_tokens` the maximum of output tokens that one
    left to it, where that is less than was offered.
    """

    position: int
    max_tokens: int
    step: int
    step_tokens: int | None


def choose(
    offers: Sequence[Offer], limits: Sequence[Limit], balances: Sequence[Balance], *, may_wait: bool = False
) -> Chosen | None:
    """The first offer that fits all limits, each of which stands as the balance in its place; None where none does."""
    step = 0
    for position, offer in enumerate(offers):
        demand = _demand(offer, limits, balances)
        if (max_tokens := _fit(offer, demand, limits, balances, may_wait=may_wait)) is not None:
            step_tokens = offer.within(demand.max_tokens).max_tokens
            is_shorter = step_tokens < offer.max_tokens
            return Chosen(position, max_tokens, max(step, demand.step), step_tokens if is_shorter else None)
        if _is_too_dear(offer, demand):
            step = max(step, _step_against(offer, limits, balances))
    return None


def fits_without_holds(offers: Sequence[Offer], limits: Sequence[Limit], balances: Sequence[Balance]) -> bool:
    """Whether an offer would fit, were it not for other calls' holds.

    One bound to a ladder does not decide: it has its twin under the hard cap, or a cheaper model.
    """
    firm = (offer for offer in offers if offer.most_downgrades is None)
    return any(_fits_without_holds(offer, limits, balances) for offer in firm)


def _fit(
    offer: Offer,
    demand: Demand,
    limits: Sequence[Limit],
    balances: Sequence[Balance],
    *,
    count_holds: bool = True,
    may_wait: bool = False,
) -> int | None:
    """The output tokens that the limits leave to `offer`, or None where it does not fit."""
    if _is_too_dear(offer, demand):
        return None
    offer = offer.within(demand.max_tokens)
    max_tokens = offer.max_tokens
    for limit, balance in zip(limits, balances, strict=True):
        held_ticks = balance.held_ticks if count_holds else 0
        use = balance.spent_ticks + held_ticks
        fitting = _shortened(offer, max_tokens, limit.hard_ticks - use, held_ticks, may_wait)
        if fitting is None:
            return None
        max_tokens = fitting
    return max_tokens


def _demand(offer: Offer, limits: Sequence[Limit], balances: Sequence[Balance], *, count_holds: bool = True) -> Demand:
    """What the limits' ladders ask, with this offer's own worst case, before any step shortens it."""
    step = downgrades = 0
    lengths: list[int] = []
    hold_ticks = offer.hold_ticks(offer.max_tokens)
    for limit, balance in zip(limits, balances, strict=True):
        use = balance.spent_ticks + (balance.held_ticks if count_holds else 0) + hold_ticks
        if use >= limit.soft_ticks:
            step, downgrades = max(step, 1), max(downgrades, 1)
        if limit.further:
            step = max(step, limit.step_at(use))
            reached = [mark for mark in limit.further if use >= mark.from_ticks]
            downgrades = max([downgrades, *(mark.downgrades for mark in reached)])
            lengths += [mark.max_tokens for mark in reached if mark.max_tokens]
    return Demand(step, downgrades, min(lengths, default=None))


def _is_too_dear(offer: Offer, demand: Demand) -> bool:
    return offer.most_downgrades is not None and demand.downgrades > offer.most_downgrades


def _step_against(offer: Offer, limits: Sequence[Limit], balances: Sequence[Balance]) -> int:
    """The step by which an offer that is too dear was passed over: the highest of those of its limits."""
    asked, hold_ticks = 1 + (offer.most_downgrades or 0), offer.hold_ticks(offer.max_tokens)
    uses = [balance.spent_ticks + balance.held_ticks + hold_ticks for balance in balances]
    return max(limit.step_asking_for(asked, use) for limit, use in zip(limits, uses, strict=True))


def _shortened(offer: Offer, max_tokens: int, room_ticks: int, held_ticks: int, may_wait: bool) -> int | None:
    """`max_tokens`, or as many as one window has room for, or None where that is too few to be worth it.

    Among other calls, one that named no maximum takes what it needs and not all that is left: else the
    first few hold the money that would serve them all.  And it rather waits for theirs than is cut short.
    """
    if not offer.hold_ticks(max_tokens):  # whatever is left, or overrun: what is free takes nothing of it
        return max_tokens
    least = min(offer.floor_tokens, offer.max_tokens)
    if offer.fair_share_tokens is not None and held_ticks:
        if CALLS_AT_ONCE * offer.hold_ticks(max_tokens) > room_ticks:
            max_tokens = min(max_tokens, offer.fair_share_tokens)
        if may_wait:
            least = max(least, min(max_tokens, offer.tokens_within(room_ticks + held_ticks)))
    if offer.hold_ticks(max_tokens) <= room_ticks:
        return max_tokens
    fitting = offer.tokens_within(room_ticks)
    return fitting if fitting >= least else None


def _fits_without_holds(offer: Offer, limits: Sequence[Limit], balances: Sequence[Balance]) -> bool:
    demand = _demand(offer, limits, balances, count_holds=False)
    return _fit(offer, demand, limits, balances, count_holds=False) is not None


def _why_not(offer: Offer, limits: Sequence[Limit], balances: Sequence[Balance]) -> StepCode:
    if _fits_without_holds(offer, limits, balances):
        return StepCode.HELD_BY_OTHER_CALLS
    if offer.most_downgrades is None:
        return StepCode.DOES_NOT_FIT
    return StepCode.PAST_FURTHER_STEP if offer.most_downgrades else StepCode.PAST_SOFT_CAP


def _hold(command: Reserve, chosen: Chosen, balances: list[Balance], book: Book) -> Reserved:
    offer = command.offers[chosen.position]
    hold_ticks = offer.hold_ticks(chosen.max_tokens)
    for limit, balance in zip(command.limits, balances, strict=True):
        balance.held_ticks += hold_ticks
        is_within = balance.spent_ticks + balance.held_ticks <= limit.hard_ticks
        assert is_within or not hold_ticks, "a hold passes the hard cap"  # noqa: S101
    limit_ids = [balance.id for balance in balances]
    other_ids = list(_counting(command.caller, command.at, book, besides=limit_ids))
    for window_id in other_ids:
        book.windows[window_id].held_ticks += hold_ticks
    reserved = Reserved(
        id=command.id,
        caller=command.caller,
        offer=offer,
        max_tokens=chosen.max_tokens,
        hold_ticks=hold_ticks,
        window_ids=(*limit_ids, *other_ids),
        created_at=command.at,
        lease_expires_at=command.lease_expires_at,
        step=chosen.step,
    )
    book.reserved.append(reserved)
    book.pending[reserved.id] = reserved.window_ids
    _count_in_flight(reserved.caller, +1, book)
    return reserved


def _counting(caller: Caller, at: datetime, book: Book, besides: Sequence[int]) -> Iterator[int]:
    """The windows `besides` those that count a call of `caller` at that instant, whatever budgets it knew of.

    So no window ever misses a call, and one whose budget is taken away and put back is as if it had stayed.
    """
    for scope in scopes_of(caller):
        for window in book.open_windows.get(scope, ()):
            if window.counts(at) and window.id not in besides:
                yield window.id


def _count_in_flight(caller: Caller, change: int, book: Book) -> None:
    """Only the groups that a limit in this batch asks about are counted."""
    for group in (CallGroup(caller.tenant_id), CallGroup(caller.tenant_id, caller.key_id)):
        if group in book.in_flight:
            book.in_flight[group] += change


def _does_not_fit(command: Reserve, balances: list[Balance], passed_over: tuple[StepCode, ...]) -> DoesNotFit:
    offers = [offer for offer in command.offers if offer.most_downgrades is None]
    by_holds = fits_without_holds(command.offers, command.limits, balances)
    shortened = [offer.within(_demand(offer, command.limits, balances).max_tokens) for offer in offers]
    least = min((offer.hold_ticks(min(offer.floor_tokens, offer.max_tokens)) for offer in shortened), default=0)
    binding = tuple(
        position
        for position, (limit, balance) in enumerate(zip(command.limits, balances, strict=True))
        if balance.spent_ticks + (balance.held_ticks if by_holds else 0) + least > limit.hard_ticks
    )
    return DoesNotFit(by_holds, binding, tuple(balance.standing() for balance in balances), passed_over)


def _end(
    reserved: Reserved, state: ReservationState, at: datetime, bill: Bill | None, book: Book
) -> Ended | NotPending:
    window_ids = book.pending.pop(reserved.id, None)
    if window_ids is None:
        late = bill if state is ReservationState.SETTLED else NOTHING if state is ReservationState.VOIDED else None
        return _correct(reserved, late, at, book)
    book.renewed.pop(reserved.id, None)
    _count_in_flight(reserved.caller, -1, book)
    book.ended.append((reserved.id, state, at))
    cost_ticks = 0
    if bill is not None:
        cost_ticks = reserved.hold_ticks if bill.cost_ticks is None else bill.cost_ticks
        book.entries.append(
            Entry(
                reserved=reserved,
                bill=bill,
                cost_ticks=cost_ticks,
                is_overrun=cost_ticks > reserved.hold_ticks,
                is_expired=state is ReservationState.EXPIRED,
            )
        )
    for balance in [book.windows[window_id] for window_id in window_ids]:
        balance.end(reserved.hold_ticks, cost_ticks)
    return Ended(_standings(reserved, book), cost_ticks)


def _correct(reserved: Reserved, bill: Bill | None, at: datetime, book: Book) -> Ended | NotPending:
    """What is known of an attempt after its lease: a further reservation, ended at once, and its entry.

    It costs what the bill is more or less than the hold, which is what the expired one cost.
    """
    if bill is None or bill.cost_ticks is None or reserved.id not in book.expired:
        return NotPending(_standings(reserved, book))
    held_ids = book.expired.pop(reserved.id)
    window_ids = (*held_ids, *_counting(reserved.caller, reserved.created_at, book, besides=held_ids))
    correction = replace(reserved, id=correction_id(reserved.id), window_ids=window_ids)
    cost_ticks = bill.cost_ticks - reserved.hold_ticks
    book.corrections.append((correction, at))
    book.entries.append(Entry(correction, bill, cost_ticks, cost_ticks > 0, is_expired=False, corrects_id=reserved.id))
    for window_id in window_ids:
        book.windows[window_id].spent_ticks += cost_ticks
    return Ended(_standings(reserved, book), bill.cost_ticks)


def correction_id(reservation_id: UUID) -> UUID:
    """The same each time, so that there is one."""
    return uuid5(reservation_id, "correction")


def _standings(reserved: Reserved, book: Book) -> tuple[Standing, ...]:
    """Of the windows that counted the call when it was held, in their order; none where some are removed."""
    found = [book.windows[window_id] for window_id in reserved.window_ids if window_id in book.windows]
    return tuple(balance.standing() for balance in found) if len(found) == len(reserved.window_ids) else ()
