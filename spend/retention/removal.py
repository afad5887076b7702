"""Retention: single calls are removed once they are old enough; what they cost stays, to the tick.

A tenant's mark is raised first, to a midnight before which its days are summed for good; then all that
lies before it goes, a few hundred calls at a time. One transaction removes calls, holds, entries and
reviews together, adds what they had cost to the archive and to `archived_ticks` of the windows that they
counted against: so the books balance after each step, wherever the job was ended. Rollups and daily sums
stay, and whoever sums days anew begins at the mark.

Locks are taken in the ledger's order (see `spend.ledger.posting`), after the tenant's mark, which the writer
never takes: a step and a batch may wait for each other, but don't deadlock. Between steps others write.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from django.db import connection, transaction
from django.db.models import F, Q, QuerySet

from spend.ledger.rules import ScopeKey, scopes_of
from spend.models import (
    ArchivedSpend,
    Call,
    CallContent,
    LedgerEntry,
    Reservation,
    ReservationState,
    Review,
    RollupMark,
    Window,
)
from spend.sql import Delete, Sql, Update, added
from spend.summaries.daily import MarkMovedError, catch_up
from tenants.periods import BEGINNING, Period, bounds

STEP = 500
"""Calls, or windows, removed in one transaction."""

PAUSE_S = 0.1
"""Between two steps, so that a long removal leaves the database time for calls."""

Removed = Counter[str]
"""How many rows of each kind."""


def retain(now: datetime, kept_days: int, within_s: float = float("inf")) -> Removed:
    """Remove what is older than `kept_days`, until nothing is left of it or `within_s` is over.

    Raises django.db.Error; what was removed before it stays so. Any number of processes may do it at once.
    """
    removed, deadline = Removed(), time.monotonic() + within_s
    for step in _steps(now, kept_days):
        removed.update(step)
        if time.monotonic() > deadline:
            break
        time.sleep(PAUSE_S)
    return removed


def cut_of(now: datetime, through: datetime, zone: ZoneInfo, kept_days: int) -> datetime:
    """The last midnight in `zone` that is `kept_days` ago, and not after `through`. Pure."""
    return bounds(Period.DAY, zone, min(now - timedelta(days=kept_days), through)).starts_at


def _steps(now: datetime, kept_days: int) -> Iterator[Removed]:
    with suppress(MarkMovedError):  # then another process sums the same days
        catch_up(now)
    everywhere = now
    for mark in RollupMark.objects.select_related("tenant").order_by("tenant_id"):
        cut = cut_of(now, mark.through, mark.tenant.zone, kept_days)
        if _has_any(mark.tenant_id, cut):
            archived_through = _raise_mark(mark, cut)
            cut = min(cut, archived_through or BEGINNING)
            while archived_through and (step := _remove_attempts(mark.tenant_id)):
                yield step
        yield from _remove_windows(mark.tenant_id, cut)
        everywhere = min(everywhere, cut)
    yield from _remove_windows("", everywhere)


def _has_any(tenant_id: str, before: datetime) -> bool:
    older: list[QuerySet[Any]] = [_calls(tenant_id, before), _entries(tenant_id, before), _voided(tenant_id, before)]
    return any(rows.exists() for rows in older)


def _raise_mark(mark: RollupMark, cut: datetime) -> datetime | None:
    """A mark only moves on by whole days, in whatever zone, and only where the days before it are summed.

    Where it stands then; None if nowhere, as where the tenant's days are just being made anew.
    """
    first_live_day = cut.astimezone(mark.tenant.zone).date()
    is_lower = Q(archived_through=None) | Q(archived_through__lt=cut, first_live_day__lt=first_live_day)
    summed = RollupMark.objects.filter(is_lower, pk=mark.pk, time_zone=mark.tenant.time_zone, through__gte=cut)
    summed.update(archived_through=cut, first_live_day=first_live_day)
    return RollupMark.objects.filter(pk=mark.pk).values_list("archived_through", flat=True).first()


def _remove_attempts(tenant_id: str) -> Removed:
    """Remove some calls before the tenant's mark with all their attempts, in one transaction.

    Where no call is left it is the turn of attempts whose call was never recorded: their worker died.
    """
    sql = Sql.on(connection)
    with sql.turn(), transaction.atomic():
        mark = RollupMark.objects.select_for_update().get(pk=tenant_id)
        assert mark.archived_through, "a mark is never lowered"  # noqa: S101
        call_ids = list(_calls(tenant_id, mark.archived_through).values_list("pk", flat=True)[:STEP])
        ids = _ids_of(call_ids) if call_ids else _strays(tenant_id, mark.archived_through)
        holds = list(_ended(mark.archived_through).filter(pk__in=ids).select_for_update().order_by("pk"))
        entries = {entry.pk: entry for entry in LedgerEntry.objects.filter(pk__in=[hold.pk for hold in holds])}
        _archive(sql, holds, entries)
        return _delete(sql, call_ids, [hold.pk for hold in holds])


def _calls(tenant_id: str, before: datetime) -> QuerySet[Call]:
    return Call.objects.filter(tenant=tenant_id, at__lt=before).order_by("at", "pk")


def _entries(tenant_id: str, before: datetime) -> QuerySet[LedgerEntry]:
    return LedgerEntry.objects.filter(tenant=tenant_id, at__lt=before).order_by("at")


def _voided(tenant_id: str, before: datetime) -> QuerySet[Reservation]:
    voided = Reservation.objects.filter(tenant=tenant_id, state=ReservationState.VOIDED, created_at__lt=before)
    return voided.order_by("created_at")


def _ended(before: datetime) -> QuerySet[Reservation]:
    return Reservation.objects.filter(created_at__lt=before).exclude(state=ReservationState.PENDING)


def _ids_of(call_ids: Sequence[UUID]) -> list[UUID]:
    return list(Reservation.objects.filter(call_id__in=call_ids).values_list("pk", flat=True))


def _strays(tenant_id: str, before: datetime) -> list[UUID]:
    """Of every attempt there is an entry, or it was voided."""
    entered = _entries(tenant_id, before).values_list("pk", flat=True)[:STEP]
    return [*entered, *_voided(tenant_id, before).values_list("pk", flat=True)[:STEP]]


def _archive(sql: Sql, holds: Iterable[Reservation], entries: Mapping[UUID, LedgerEntry]) -> None:
    by_window, by_scope = Counter[int](), defaultdict[ScopeKey, list[int]](lambda: [0, 0])
    for hold in holds:
        if entry := entries.get(hold.pk):
            by_window.update(dict.fromkeys(hold.window_ids, entry.cost_ticks))
            for key in scopes_of(entry):
                by_scope[key] = [by_scope[key][0] + 1, by_scope[key][1] + entry.cost_ticks]
    windows = sql.lock(Window, ["id", "archived_ticks"], sorted(by_window))
    rows = [(*key, *sums) for key, sums in sorted(by_scope.items())]
    sql.write(
        Update(Window, ["archived_ticks"], [(pk, archived + by_window[pk]) for pk, archived in windows]),
        added(ArchivedSpend, ["tenant_id", "scope", "subject"], ["entries", "cost_ticks"], rows),
    )


def _delete(sql: Sql, call_ids: Sequence[UUID], ids: Sequence[UUID]) -> Removed:
    attempts, calls = [(pk,) for pk in ids], [(pk,) for pk in call_ids]
    _, entries, reservations, called, _ = sql.write(
        Delete(Review, "entry_id", attempts),
        Delete(LedgerEntry, "reservation_id", attempts),
        Delete(Reservation, "id", attempts),
        Delete(Call, "id", calls),
        Delete(CallContent, "call_id", calls),
    )
    return +Removed(entries=entries, reservations=reservations, calls=called)


def _remove_windows(tenant_id: str, before: datetime) -> Iterator[Removed]:
    """Windows that ended, cannot open again, and that nothing is left of which counts against them."""
    sql = Sql.on(connection)
    ended = Window.objects.filter(tenant_id=tenant_id, ends_at__lte=before, held_ticks=0)
    settled = ended.filter(spent_ticks=F("opening_ticks") + F("archived_ticks")).order_by("id")
    while ids := list(settled.values_list("id", flat=True)[:STEP]):
        with sql.turn(), transaction.atomic():
            sql.lock(Window, ["id"], ids)
            (removed,) = sql.write(Delete(Window, "id", [(pk,) for pk in ids]))
        yield Removed(windows=removed)
