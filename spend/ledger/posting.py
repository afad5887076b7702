"""The ledger's shell: reads the balances a batch needs, locked, applies it, and writes what changed.

Everything happens in one short transaction, with set-based SQL: row by row the ORM is twenty times
slower.  Locks are taken in one order everywhere (reservations by id, windows by id, rollups by key),
so two workers can wait for each other but never deadlock.
"""

from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
from django.db import DEFAULT_DB_ALIAS, connections, transaction
from django.db.models import Count, F, Sum

from spend.ledger.erased_names import Names, renamed
from spend.ledger.rules import (
    INTERRUPTED,
    Balance,
    Book,
    Caller,
    CallGroup,
    Command,
    Counted,
    Entry,
    Expire,
    Limit,
    OpenWindow,
    Record,
    Renew,
    Reserve,
    Reserved,
    Result,
    ScopeKey,
    Settle,
    Void,
    WindowKey,
    apply,
    correction_id,
    scopes_of,
)
from spend.ledger.window_opening import INSTALLATION, Ends, open_windows
from spend.models import Call, IdempotentCall, LedgerEntry, Reservation, ReservationState, Rollup, TagRollup, Window
from spend.sql import Insert, Matching, Sql, Update, added
from spend.summaries.buckets import bucket_of
from spend.summaries.daily import reopen
from spend.summaries.measures import MEASURES, TAG_MEASURES, add_to

PENDING = ("state", ReservationState.PENDING.value)


class Posting:
    """Posts batches on one thread's connection.

    Which windows count a call is looked up in each batch, by what they count: a worker need not have heard of
    the budget that one is for, nor know whose it was before a customer was erased. What is looked up stays so
    until the batch is committed, since it shares the books that whoever opens a window has for itself.
    """

    def __init__(self, using: str = DEFAULT_DB_ALIAS) -> None:
        self.using = using
        self.names: dict[UUID, Names] = {}
        self.late: set[UUID] = set()

    def post(self, commands: Sequence[Command], *, is_retry: bool = False) -> list[Result]:
        """Apply `commands` in one transaction and return each one's result.

        Raises django.db.Error where the database fails; then nothing was written, unless it failed to
        answer the commit. So a batch may be posted again, as a retry, and counts once.
        """
        sql = Sql.on(connections[self.using])
        while True:
            commands = self._renamed(commands)
            with sql.turn(), transaction.atomic(using=self.using, durable=True):
                sql.share_books(_tenants_of(commands))
                book = self._read(sql, commands)
                missing = _missing(commands, book)
                if not missing:
                    book.recorded |= self._recorded(commands, is_retry)
                    results = apply(self._renamed(commands), book)
                    self._write(sql, book)
                    return results
            with sql.turn(), transaction.atomic(using=self.using, durable=True):
                open_windows(sql, missing, self.using)

    def _renamed(self, commands: Sequence[Command]) -> Sequence[Command]:
        return [renamed(command, self.names) for command in commands] if self.names else commands

    def _read(self, sql: Sql, commands: Sequence[Command]) -> Book:
        """What the batch needs, locked."""
        columns = ["id", "state", "window_ids", *Names._fields]
        touched = sql.lock(Reservation, columns, _touched_ids(commands))
        names = {sql.uuid(row[0]): Names(*row[3:]) for row in touched}
        pending, expired = [
            {sql.uuid(id_): tuple(sql.json(ids)) for id_, state, ids, *_ in touched if state == wanted}
            for wanted in (ReservationState.PENDING, ReservationState.EXPIRED)
        ]
        needed = set[int]().union(*pending.values(), *expired.values())
        for command in commands:
            if isinstance(command, Settle | Void | Expire):
                needed.update(command.reserved.window_ids)
                self._note_names(command.reserved, names.get(command.reserved.id))
                if command.reserved.id in expired:
                    self.late.add(command.reserved.caller.call_id)
        windows = _lock_windows(sql, sorted(needed), *_counted(self._renamed(commands), expired))
        return Book(
            windows={window.id: Balance(window.id, *balance) for window, balance in windows},
            window_ids={window.key: window.id for window, _ in windows},
            open_windows=_by_scope(window for window, _ in windows),
            pending=pending,
            expired=self._uncorrected(expired),
            in_flight=self._count_in_flight(commands),
            entered=self._entered(commands),
            interrupted=self._interrupted(commands),
        )

    def _note_names(self, reserved: Reserved, names: Names | None) -> None:
        """Kept for good: few customers are erased just while a worker with a call of theirs is away."""
        caller = reserved.caller
        if names and names != Names.of(caller):
            self.names[caller.call_id] = names

    def _uncorrected(self, expired: dict[UUID, tuple[int, ...]]) -> dict[UUID, tuple[int, ...]]:
        """Exact across workers: who corrects one has locked it."""
        if not expired:
            return expired
        ids = {correction_id(id_): id_ for id_ in expired}
        corrected = Reservation.objects.using(self.using).filter(pk__in=ids).values_list("pk", flat=True)
        return {id_: expired[id_] for id_ in expired.keys() - {ids[found] for found in corrected}}

    def _recorded(self, commands: Sequence[Command], is_retry: bool) -> set[UUID]:
        """Of the calls that expire, and where the batch may have been written before, of all that it records."""
        ids = _expiring(commands)
        if is_retry:
            ids |= {command.caller.call_id for command in commands if isinstance(command, Record)}
        return set(Call.objects.using(self.using).filter(pk__in=ids).values_list("pk", flat=True)) if ids else set()

    def _entered(self, commands: Sequence[Command]) -> dict[UUID, int]:
        """What earlier attempts of the calls that expire had cost."""
        if not (ids := _expiring(commands)):
            return {}
        entries = LedgerEntry.objects.using(self.using).filter(call_id__in=ids).order_by()
        return {call_id: int(ticks) for call_id, ticks in entries.values_list("call_id").annotate(Sum("cost_ticks"))}

    def _interrupted(self, commands: Sequence[Command]) -> dict[UUID, Counted]:
        """The worker was only away: it ends its calls, and so has seen that they expired, before it records them."""
        records = [command.caller.call_id for command in commands if isinstance(command, Record)]
        if not (ids := self.late.intersection(records)):
            return {}
        calls = Call.objects.using(self.using).filter(pk__in=ids, code=INTERRUPTED)
        return {call_id: Counted(*where) for call_id, *where in calls.values_list("pk", *Counted._fields)}

    def _count_in_flight(self, commands: Sequence[Command]) -> dict[CallGroup, int]:
        """How many reservations each group that is limited has pending.

        Exact across workers: every call of a tenant has locked a window of the tenant's own by now.
        """
        groups = {
            limit.group for command in commands if isinstance(command, Reserve) for limit in command.in_flight_limits
        }
        if not groups:
            return {}
        counts: Counter[CallGroup] = Counter()
        pending = Reservation.objects.using(self.using).filter(state=ReservationState.PENDING)
        named = pending.filter(tenant_id__in={group.tenant_id for group in groups}).values_list("tenant_id", "key_id")
        for tenant_id, key_id, count in named.annotate(count=Count("id")).order_by():
            counts[CallGroup(tenant_id)] += count
            counts[CallGroup(tenant_id, key_id)] = count
        return {group: counts[group] for group in groups}

    def _write(self, sql: Sql, book: Book) -> None:
        balances = [(balance.id, balance.spent_ticks, balance.held_ticks) for balance in book.windows.values()]
        ended = [(ended_id, state.value, at) for ended_id, state, at in book.ended]
        renewed = sorted(book.renewed.items())
        answers = [(remember.id, remember.answer) for remember in book.remembered]
        _, _, count, *_ = sql.write(
            Update(Window, ["spent_ticks", "held_ticks"], balances),
            Insert(Reservation, RESERVATION_FIELDS, _reservation_rows(book)),
            Update(Reservation, ["state", "ended_at"], ended, only=PENDING),
            Update(Reservation, ["lease_expires_at"], renewed, only=PENDING),
            Insert(LedgerEntry, ENTRY_FIELDS, [_entry_row(entry) for entry in book.entries]),
            Insert(Call, CALL_FIELDS, [_call_row(record) for record in book.records]),
            Update(IdempotentCall, ["answer"], answers),
            Update(Call, CALL_FIELDS[1:], [_call_row(record) for _, record in book.finished]),
            added(Rollup, ROLLUP_KEY, MEASURES, _rollup_rows(book)),
            added(TagRollup, TAG_KEY, TAG_MEASURES, _tag_rows(book)),
        )
        assert count == len(ended), "a reservation ended twice"  # noqa: S101
        for correction, _ in book.corrections:
            reopen(correction.caller.tenant_id, correction.created_at)
        for counted, record in book.finished:
            self._uncount(counted, record)
            reopen(counted.tenant_id, min(counted.at, record.at))

    def _uncount(self, counted: Counted, record: Record) -> None:
        bucket = Rollup.objects.using(self.using).filter(bucket=bucket_of(counted.at), tenant=counted.tenant_id)
        bucket.filter(model=counted.model, route=counted.route).update(failed=F("failed") - 1)
        if counted.model and (tags := record.caller.tags):
            tagged = TagRollup.objects.using(self.using).filter(bucket=bucket_of(counted.at), tenant=counted.tenant_id)
            tagged.filter(tag__in=tags.split(",")).update(calls=F("calls") - 1)


def _expiring(commands: Iterable[Command]) -> set[UUID]:
    return {command.reserved.caller.call_id for command in commands if isinstance(command, Expire)}


def _tenants_of(commands: Iterable[Command]) -> set[str]:
    """Whose books a batch is written in: the installation's, which has no name, are part of all."""
    tenants = {INSTALLATION}
    for command in commands:
        if isinstance(command, Reserve):
            tenants.add(command.caller.tenant_id)
        elif isinstance(command, Settle | Void | Expire):
            tenants.add(command.reserved.caller.tenant_id)
    return tenants


def _counted(commands: Iterable[Command], expired: Container[UUID]) -> tuple[set[ScopeKey], datetime | None]:
    """The scopes in which a batch may hold or correct something, and the first instant at which it does."""
    scopes, instants = set[ScopeKey](), list[datetime]()
    for command in commands:
        if isinstance(command, Reserve):
            scopes.update(scopes_of(command.caller), [limit.key.scope_key for limit in command.limits])
            # Before the end of every limit's window: a limit of a period that is over finds its own, too.
            ends = [limit.ends_at - timedelta.resolution for limit in command.limits if limit.ends_at]
            instants.append(min([command.at, *ends]))
        elif isinstance(command, Settle | Void) and command.reserved.id in expired:
            scopes.update(scopes_of(command.reserved.caller))
            instants.append(command.reserved.created_at)
    return scopes, min(instants, default=None)


def _lock_windows(
    sql: Sql, ids: Sequence[int], scopes: Iterable[ScopeKey], since: datetime | None
) -> list[tuple[OpenWindow, tuple[int, int]]]:
    """The windows with these ids, and all of the scopes that end after `since`; each with what is spent and held."""
    columns = ["id", *WindowKey._fields, "ends_at", "spent_ticks", "held_ticks"]
    if since is None:
        rows = sql.lock(Window, columns, ids)
    else:
        rows = sql.lock_with(Window, columns, ids, Matching(ScopeKey._fields, sorted(scopes), "ends_at", since))
    return [(OpenWindow(row[0], _key_of(sql, row[1:6]), sql.time(row[6])), (row[7], row[8])) for row in rows]


def _key_of(sql: Sql, values: Sequence[Any]) -> WindowKey:
    *scope, starts_at = values
    at = sql.time(starts_at)
    assert at is not None  # noqa: S101
    tenant_id, name, subject, period = scope
    return WindowKey(tenant_id, name, subject, period, at)


def _by_scope(windows: Iterable[OpenWindow]) -> dict[ScopeKey, list[OpenWindow]]:
    found: defaultdict[ScopeKey, list[OpenWindow]] = defaultdict(list)
    for window in windows:
        found[window.key.scope_key].append(window)
    return found


def _missing(commands: Iterable[Command], book: Book) -> Ends:
    """The windows that limits ask for and that there are not, or that end too early: in another zone they did."""
    limits = {limit for command in commands if isinstance(command, Reserve) for limit in command.limits}
    ends = {window.key: window.ends_at for windows in book.open_windows.values() for window in windows}
    return {limit.key: limit.ends_at for limit in limits if not _lasts(limit, ends)}


def _lasts(limit: Limit, ends: Ends) -> bool:
    if limit.key not in ends:
        return False
    ends_at = ends[limit.key]
    return ends_at is None or (limit.ends_at is not None and limit.ends_at <= ends_at)


ATTEMPTED_FIELDS = [
    "call_id", "request_id", "tenant_id", "key_id", "customer", "conversation", "requested_model", "tags",
    "provider", "model", "route", "price_id", "step",
]  # fmt: skip
RESERVATION_FIELDS = [
    "id", *ATTEMPTED_FIELDS, "state", "hold_ticks", "max_tokens", "window_ids", "created_at", "lease_expires_at",
    "ended_at",
]  # fmt: skip
ENTRY_FIELDS = [
    "reservation_id", *ATTEMPTED_FIELDS, "at", "cost_ticks", "hold_ticks", "computed_ticks", "provider_ticks",
    "input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens",
    "is_estimated", "is_overrun", "is_expired", "is_usage_impossible", "duration_ms", "corrects_id",
]  # fmt: skip
CALL_FIELDS = [
    "id", "request_id", "tenant_id", "key_id", "customer", "conversation", "requested_model", "tags",
    "at", "model", "route", "outcome", "code", "cost_ticks", "duration_ms", "steps", "asked",
]  # fmt: skip
TAG_KEY = ["tenant_id", "bucket", "tag"]
ROLLUP_KEY = ["tenant_id", "bucket", "model", "route"]


def _touched_ids(commands: Sequence[Command]) -> list[UUID]:
    """The reservations that a batch may end or renew."""
    ids = {command.reserved.id for command in commands if isinstance(command, Settle | Void | Expire)}
    return sorted(ids.union(*(command.ids for command in commands if isinstance(command, Renew))))


def _attempted_row(reserved: Reserved) -> tuple[Any, ...]:
    caller, offer = reserved.caller, reserved.offer
    return (
        caller.call_id, caller.request_id, caller.tenant_id, caller.key_id, caller.customer, caller.conversation,
        caller.requested_model, caller.tags, offer.provider, offer.model, str(offer.route), offer.price.id,
        reserved.step,
    )  # fmt: skip


def _reservation_rows(book: Book) -> list[tuple[Any, ...]]:
    made = [_reservation_row(reserved, ReservationState.PENDING, None) for reserved in book.reserved]
    return made + [_reservation_row(reserved, ReservationState.SETTLED, at) for reserved, at in book.corrections]


def _reservation_row(reserved: Reserved, state: ReservationState, ended_at: datetime | None) -> tuple[Any, ...]:
    return (
        reserved.id, *_attempted_row(reserved), state.value, reserved.hold_ticks,
        reserved.max_tokens, orjson.dumps(reserved.window_ids).decode(), reserved.created_at,
        reserved.lease_expires_at, ended_at,
    )  # fmt: skip


def _entry_row(entry: Entry) -> tuple[Any, ...]:
    reserved, bill, usage = entry.reserved, entry.bill, entry.bill.usage
    return (
        reserved.id, *_attempted_row(reserved), reserved.created_at, entry.cost_ticks, reserved.hold_ticks,
        bill.computed_ticks, bill.provider_ticks, usage.input_tokens, usage.cached_input_tokens,
        usage.cache_write_tokens, usage.output_tokens, usage.reasoning_tokens, bill.is_estimated,
        entry.is_overrun, entry.is_expired, bill.is_usage_impossible, bill.duration_ms, entry.corrects_id,
    )  # fmt: skip


def _call_row(record: Record) -> tuple[Any, ...]:
    caller = record.caller
    return (
        caller.call_id, caller.request_id, caller.tenant_id, caller.key_id, caller.customer, caller.conversation,
        caller.requested_model, caller.tags, record.at, record.model, str(record.route), record.outcome.value,
        record.code, record.cost_ticks, record.duration_ms, orjson.dumps(record.steps).decode(),
        None if record.asked is None else orjson.dumps(record.asked).decode(),
    )  # fmt: skip


def _rollup_rows(book: Book) -> list[tuple[Any, ...]]:
    """One row for each key the batch touches, in the keys' order, so that workers lock them alike."""
    sums: defaultdict[tuple[Any, ...], list[int]] = defaultdict(lambda: [0] * len(MEASURES))
    for entry in book.entries:
        reserved, usage = entry.reserved, entry.bill.usage
        key = (
            reserved.caller.tenant_id,
            bucket_of(reserved.created_at),
            reserved.offer.model,
            str(reserved.offer.route),
        )
        figures = (  # in the order of MEASURES
            1, entry.cost_ticks, usage.input_tokens, usage.cached_input_tokens, usage.output_tokens,
            usage.reasoning_tokens,
        )  # fmt: skip
        sums[key] = [total + figure for total, figure in zip(sums[key], (*figures, 0, 0, 0, 0), strict=True)]
    for record in [*book.records, *(record for _, record in book.finished)]:
        key = (record.caller.tenant_id, bucket_of(record.at), record.model, str(record.route))
        sums[key][MEASURES.index(record.outcome.value)] += 1
    return [(*key, *figures) for key, figures in sorted(sums.items())]


def _tag_rows(book: Book) -> list[tuple[Any, ...]]:
    """As `_rollup_rows`, a row for each tag: what was billed, and the calls with a model."""
    sums: defaultdict[tuple[Any, ...], list[int]] = defaultdict(lambda: [0] * len(TAG_MEASURES))
    for entry in book.entries:
        usage = entry.bill.usage
        figures = (1, entry.cost_ticks, usage.input_tokens, usage.output_tokens, 0)
        for key in _tag_keys(entry.reserved.caller, entry.reserved.created_at):
            add_to(sums[key], figures)
    for record in [*book.records, *(record for _, record in book.finished)]:
        for key in _tag_keys(record.caller, record.at) if record.model else ():
            sums[key][TAG_MEASURES.index("calls")] += 1
    return [(*key, *figures) for key, figures in sorted(sums.items())]


def _tag_keys(caller: Caller, at: datetime) -> Iterator[tuple[Any, ...]]:
    return ((caller.tenant_id, bucket_of(at), tag) for tag in filter(None, caller.tags.split(",")))
