"""Daily sums, derived from what is settled for good, so that pages need not read the ledger.

`catch_up` sums, once, everything between a tenant's mark and `settled_until`, and moves the mark in
the same transaction. Nothing is ever summed that could still change: every entry was a pending
reservation first, so nothing can be added to the time before the oldest pending one. A page adds what
came after the mark from the rollups and the ledger itself. So a page is never wrong and never late;
where the job has not run for long, it only has more to add.

A tenant whose time zone was edited has other days: its sums are dropped and made anew. Where single
calls were removed (see `spend.retention.removal`), the days before that stay as they were summed, and what comes
after it counts on no earlier day, whatever the date in the new zone: so it can be dropped again.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from django.db import connection, transaction
from django.db.models import Count, F, Min, OuterRef, QuerySet, Subquery, Sum
from django.db.models.functions import Coalesce, Greatest, TruncDate

from spend.models import (
    ArchivedSpend,
    Call,
    ConversationTotal,
    DailyCustomer,
    DailyDowngrade,
    DailyKey,
    DailyRollup,
    LedgerEntry,
    Reservation,
    ReservationState,
    Rollup,
    RollupMark,
    Route,
)
from spend.pricing.cost import Usage, cost_ticks
from spend.pricing.rates import PriceHistory, load_history
from spend.sql import Insert, Sql, added
from spend.summaries.buckets import bucket_of
from spend.summaries.measures import DOWNGRADE_MEASURES, MEASURES, add_to, sums_of
from tenants.models import Scope, Tenant
from tenants.periods import BEGINNING

MOST_WAIT = timedelta(hours=1)
"""No call waits so long before its last hold, and no transaction stays open so long."""

STEP = timedelta(hours=6)
STEP_CALLS = 2_000
"""Summed in one transaction, so that a long backlog never keeps the ledger waiting: at least the time, and
more as long as there are no more calls in it."""


ADD_TO_CONVERSATION = """(tenant_id, conversation) DO UPDATE SET
    attempts = spend_conversationtotal.attempts + excluded.attempts,
    cost_ticks = spend_conversationtotal.cost_ticks + excluded.cost_ticks"""


class MarkMovedError(Exception):
    """Another process summed the same time meanwhile; nothing was written twice."""


@dataclass(frozen=True)
class Group:
    """Tenants of one zone that are summed up to the same instant. On days before `first_day` nothing counts."""

    time_zone: str
    through: datetime
    first_day: date
    tenant_ids: Sequence[str]

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.time_zone)

    def day_of(self, field: str) -> Greatest:
        return Greatest(TruncDate(field, tzinfo=self.zone), self.first_day)


def settled_until(now: datetime) -> datetime:
    """Before this instant nothing more can be entered. On the edge of a rollup's bucket."""
    pending = Reservation.objects.filter(state=ReservationState.PENDING)
    oldest = pending.aggregate(oldest=Min("created_at"))["oldest"] or now
    until: datetime = min(oldest, now) - MOST_WAIT
    return bucket_of(until)


def catch_up(now: datetime) -> datetime:
    """Sum every tenant's days as far as they are settled. Returns how far that is.

    Raises MarkMovedError where another process does the same at the same time.
    """
    until = settled_until(now)
    _mark_new_tenants()
    _drop_days_of_other_zones()
    _skip_silence(until)
    for group in _groups_behind(until):
        for starts_at, ends_at in steps(group.through, until, _calls_by_bucket(group, until)):
            _sum_step(group, starts_at, ends_at)
    return until


def rebuild(tenant_ids: Iterable[str]) -> None:
    """Drop these tenants' daily sums, as far as they can be made anew; the next `catch_up` does so."""
    with transaction.atomic():
        marks = RollupMark.objects.select_for_update(of=["self"]).select_related("tenant").order_by("tenant_id")
        found = list(marks.filter(tenant_id__in=list(tenant_ids)))
        ids = [mark.tenant_id for mark in found if mark.archived_through is None]
        RollupMark.objects.filter(tenant_id__in=ids).delete()
        for model in (*DAILY, ConversationTotal):
            model._default_manager.filter(tenant_id__in=ids).delete()
        for mark in found:
            if mark.archived_through is not None:
                _drop_live_days(mark, mark.archived_through)


def reopen(tenant_id: str, at: datetime) -> None:
    """Something is entered at `at` late, in this transaction: if that day was summed, it is summed anew."""
    mark = RollupMark.objects.select_for_update().filter(tenant_id=tenant_id).first()
    if mark and mark.through > at:
        rebuild([tenant_id])


DAILY = (DailyRollup, DailyCustomer, DailyDowngrade, DailyKey)


def _drop_live_days(mark: RollupMark, archived_through: datetime) -> None:
    """Conversations that began earlier go on counting on that day, with what they had cost by then."""
    for model in DAILY:
        model._default_manager.filter(tenant=mark.tenant, day__gte=mark.first_live_day).delete()
    totals = ConversationTotal.objects.filter(tenant=mark.tenant)
    totals.update(
        attempts=_before(archived_through, "entries", Count("pk")),
        cost_ticks=_before(archived_through, "cost_ticks", Sum("cost_ticks")),
    )
    totals.filter(attempts=0).delete()
    mark.through, mark.time_zone = archived_through, mark.tenant.time_zone
    mark.save(update_fields=["through", "time_zone"])


def _before(archived_through: datetime, archived_field: str, live: Count | Sum) -> Any:
    """A conversation's part before the mark: what is archived of it, and what is still to be."""
    scope = {"tenant_id": OuterRef("tenant_id"), "scope": Scope.CONVERSATION, "subject": OuterRef("conversation")}
    entries = LedgerEntry.objects.filter(
        tenant=OuterRef("tenant_id"), conversation=OuterRef("conversation"), at__lt=archived_through
    )
    left = entries.order_by().values("conversation").annotate(figure=live).values("figure")
    archived = ArchivedSpend.objects.filter(**scope).values(archived_field)
    return Coalesce(Subquery(archived), 0) + Coalesce(Subquery(left), 0)


def misfits() -> list[str]:
    """Tenants whose daily sums differ from their rollups up to the mark. Reads every rollup."""
    before_mark = Rollup.objects.filter(bucket__lt=F("tenant__rollup_mark__through"))
    return sorted({tenant_id for tenant_id, _ in set(_totals(before_mark)) ^ set(_totals(DailyRollup.objects.all()))})


def _totals(rows: QuerySet[Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    for tenant_id, *sums in rows.order_by().values_list("tenant_id").annotate(**sums_of(MEASURES)):
        yield tenant_id, tuple(int(value) for value in sums)


def _mark_new_tenants() -> None:
    new = Tenant.objects.filter(rollup_mark=None)
    marks = [RollupMark(tenant=tenant, time_zone=tenant.time_zone, through=BEGINNING) for tenant in new]
    RollupMark.objects.bulk_create(marks, ignore_conflicts=True)


def _drop_days_of_other_zones() -> None:
    moved = RollupMark.objects.exclude(time_zone=F("tenant__time_zone")).values_list("tenant_id", flat=True)
    if ids := list(moved):
        rebuild(ids)
        _mark_new_tenants()


def _skip_silence(until: datetime) -> None:
    """Move the marks of new tenants to where their rollups begin, by the month so that groups stay few."""
    new = list(RollupMark.objects.filter(through=BEGINNING).values_list("tenant_id", flat=True))
    firsts = Rollup.objects.filter(tenant_id__in=new).order_by().values_list("tenant_id").annotate(Min("bucket"))
    marks: dict[datetime, list[str]] = defaultdict(list)
    for tenant_id, first in firsts:
        marks[min(first.replace(day=1, hour=0, minute=0), until)].append(tenant_id)
    for through, tenant_ids in marks.items():
        RollupMark.objects.filter(tenant_id__in=tenant_ids, through=BEGINNING).update(through=through)
    RollupMark.objects.filter(tenant_id__in=new, through=BEGINNING).update(through=until)


def _groups_behind(until: datetime) -> list[Group]:
    groups: dict[tuple[str, datetime, date], list[str]] = defaultdict(list)
    for mark in RollupMark.objects.filter(through__lt=until).order_by("tenant_id"):
        groups[mark.time_zone, mark.through, mark.first_live_day or date.min].append(mark.tenant_id)
    return [Group(*shared, ids) for shared, ids in groups.items()]


def _calls_by_bucket(group: Group, until: datetime) -> list[tuple[datetime, int]]:
    """The group's quarter hours that are still to be summed, in order, with what was called in each."""
    rollups = Rollup.objects.filter(tenant_id__in=group.tenant_ids, bucket__gte=group.through, bucket__lt=until)
    calls = Sum(F("attempts") + F("refused") + F("failed") + F("handoff"))
    return list(rollups.values_list("bucket").annotate(calls=calls).order_by("bucket"))


def steps(
    starts_at: datetime, until: datetime, calls_by_bucket: Iterable[tuple[datetime, int]]
) -> Iterator[tuple[datetime, datetime]]:
    """The time from `starts_at` to `until` in parts of at least STEP, but the last; a longer one has at most
    STEP_CALLS. `calls_by_bucket` has the quarter hours with calls, in order. Pure."""
    calls = 0
    for bucket, more in calls_by_bucket:
        # A bucket that is too much begins a step of its own, once this one is long enough.
        if calls + more > STEP_CALLS and bucket - starts_at >= STEP:
            yield starts_at, bucket
            starts_at, calls = bucket, 0
        calls += more
    if starts_at < until:
        yield starts_at, until


def _sum_step(group: Group, starts_at: datetime, ends_at: datetime) -> None:
    sql = Sql.on(connection)
    with sql.turn(), transaction.atomic():
        marks = RollupMark.objects.filter(tenant_id__in=group.tenant_ids, through=starts_at, time_zone=group.time_zone)
        if marks.update(through=ends_at) != len(group.tenant_ids):
            raise MarkMovedError
        sql.write(
            added(DailyRollup, ["tenant_id", "day", "model", "route"], MEASURES, _rollups(group, starts_at, ends_at)),
            added(
                DailyCustomer, ["tenant_id", "day", "customer"], ["attempts", "cost_ticks"],
                _customers(group, starts_at, ends_at),
            ),
            added(DailyKey, ["tenant_id", "day", "key_id"], ["calls", "cost_ticks"], _keys(group, starts_at, ends_at)),
            Insert(
                ConversationTotal, ["tenant_id", "conversation", "began_on", "attempts", "cost_ticks"],
                _conversations(group, starts_at, ends_at), on_conflict=ADD_TO_CONVERSATION,
            ),
            added(
                DailyDowngrade, ["tenant_id", "day", "requested_model", "model"], DOWNGRADE_MEASURES,
                [(*key, *sums) for key, sums in _downgrades(group, starts_at, ends_at).items()],
            ),
        )  # fmt: skip


def _rollups(group: Group, starts_at: datetime, ends_at: datetime) -> list[tuple[Any, ...]]:
    rows = (
        Rollup.objects.filter(tenant_id__in=group.tenant_ids, bucket__gte=starts_at, bucket__lt=ends_at)
        .annotate(day=group.day_of("bucket"))
        .values_list("tenant_id", "day", "model", "route")
        .annotate(**sums_of(MEASURES))
        .order_by()
    )
    return [(row[0], _text(row[1]), *row[2:4], *map(int, row[4:])) for row in rows]


def _customers(group: Group, starts_at: datetime, ends_at: datetime) -> list[tuple[Any, ...]]:
    rows = (
        _entries(group, starts_at, ends_at)
        .exclude(customer="")
        .annotate(day=group.day_of("at"))
        .values_list("tenant_id", "day", "customer")
        .annotate(Count("pk"), Sum("cost_ticks"))
        .order_by()
    )
    return [(tenant_id, _text(day), customer, count, int(ticks)) for tenant_id, day, customer, count, ticks in rows]


def _keys(group: Group, starts_at: datetime, ends_at: datetime) -> list[tuple[Any, ...]]:
    rows = (
        Call.objects.filter(tenant_id__in=group.tenant_ids, at__gte=starts_at, at__lt=ends_at)
        .annotate(day=group.day_of("at"))
        .values_list("tenant_id", "day", "key_id")
        .annotate(Count("pk"), Sum("cost_ticks"))
        .order_by()
    )
    return [(tenant_id, _text(day), key_id, count, int(ticks)) for tenant_id, day, key_id, count, ticks in rows]


def _conversations(group: Group, starts_at: datetime, ends_at: datetime) -> list[tuple[Any, ...]]:
    """Steps are taken in order of time, so the first row of a conversation has the day on which it began."""
    rows = (
        _entries(group, starts_at, ends_at)
        .exclude(conversation="")
        .values_list("tenant_id", "conversation")
        .annotate(Min("at"), Count("pk"), Sum("cost_ticks"))
        .order_by()
    )
    return [
        (tenant_id, conversation, _day_text(first_at, group.zone, group.first_day), count, int(ticks))
        for tenant_id, conversation, first_at, count, ticks in rows
    ]


def _downgrades(group: Group, starts_at: datetime, ends_at: datetime) -> "dict[DowngradeKey, list[int]]":
    return downgrades(_entries(group, starts_at, ends_at), group.zone, group.first_day)


def _entries(group: Group, starts_at: datetime, ends_at: datetime) -> QuerySet[LedgerEntry]:
    return LedgerEntry.objects.filter(tenant_id__in=group.tenant_ids, at__gte=starts_at, at__lt=ends_at)


def _text(day: date) -> str:
    return day.isoformat()


def _day_text(at: datetime, zone: ZoneInfo, first_day: date) -> str:
    return _text(max(at.astimezone(zone).date(), first_day))


DowngradeKey = tuple[str, str, str, str]
"""Tenant, day as ISO text, model asked for, model that served."""


def downgrades(
    entries: QuerySet[LedgerEntry], zone: ZoneInfo, first_day: date = date.min
) -> dict[DowngradeKey, list[int]]:
    """Of the downgraded `entries` the DOWNGRADE_MEASURES: attempts, their cost, their cost at the model asked for,
    and attempts without a price for that, which are in nothing else."""
    rows = (
        entries.filter(route=Route.DOWNGRADE, is_estimated=False, is_expired=False, corrects_id=None)
        .order_by()
        .values_list(
            "tenant_id", "at", "requested_model", "model", "cost_ticks",
            "input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens",
        )
    )  # fmt: skip
    history = load_history(rows.values_list("requested_model", flat=True).distinct())
    sums: dict[DowngradeKey, list[int]] = defaultdict(lambda: [0] * len(DOWNGRADE_MEASURES))
    for tenant_id, at, requested_model, model, cost, *tokens in rows.iterator(chunk_size=5000):
        key = (tenant_id, _day_text(at, zone, first_day), requested_model, model)
        add_to(sums[key], _repriced(history, requested_model, at, cost, tokens))
    return sums


def _repriced(
    history: PriceHistory, requested_model: str, at: datetime, cost: int, tokens: Sequence[int]
) -> tuple[int, ...]:
    """The DOWNGRADE_MEASURES of one attempt: `cost` and what the model asked for would have cost, in ticks."""
    price = history.price_at(requested_model, at)
    if price is None:
        return (0, 0, 0, 1)
    return (1, cost, cost_ticks(Usage(*tokens), price), 0)
