"""A window's opening: what its scope had already spent in the period when the window was first needed.

A budget made in the middle of a month so counts the month's spend, not only what comes after it.
Calls that are in flight at that moment join the window with their holds, and end in it, too.
From then on the ledger counts in it whatever falls in it, whether its budget is there or not (`spend.ledger.posting`).
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import reduce
from operator import or_
from typing import Any

import orjson
from django.db import DEFAULT_DB_ALIAS
from django.db.models import Q, QuerySet, Subquery, Sum, Value
from django.db.models.functions import Coalesce

from spend.ledger.rules import OpenWindow, ScopeKey, WindowKey, scopes_of
from spend.models import ArchivedSpend, LedgerEntry, Reservation, ReservationState, Rollup, Window
from spend.sql import Insert, Sql, Update
from tenants.models import Scope

WINDOW_FIELDS = [*WindowKey._fields, "ends_at", "opening_ticks", "spent_ticks", "held_ticks"]
Ends = Mapping[WindowKey, datetime | None]
"""Windows, each with the end of its period."""

Rows = QuerySet[Any]

MOST_NAMED = 100
"""Windows in one statement: databases have bounds."""
NAMES: Mapping[str, tuple[str, ...]] = {
    Scope.INSTALLATION: (),
    Scope.TENANT: ("tenant_id",),
    Scope.KEY: ("tenant_id", "key_id"),
    Scope.CUSTOMER: ("tenant_id", "customer"),
    Scope.CONVERSATION: ("tenant_id", "conversation"),
}
"""The fields by which an attempt belongs to a window of a scope."""
INSTALLATION = ""
"""Whose windows count the calls of all tenants."""


def open_windows(sql: Sql, ends: Ends, using: str = DEFAULT_DB_ALIAS) -> None:
    """Make those of the windows that are missing, and bring all of them to what fell in them until now.

    Inside a transaction, which owns the books of these tenants first: nobody holds or settles anything of
    theirs meanwhile, and whoever does so next finds the windows. Two workers may open one at once: insert or
    ignore, then sum. A window that another zone gave an earlier end gets the later one.
    """
    sql.own_books({key.tenant_id for key in ends})
    in_flight = _in_flight(ends, using)
    rows = [(*key, ends[key], 0, 0, 0) for key in sorted(ends)]
    sql.write(Insert(Window, WINDOW_FIELDS, rows, on_conflict="DO NOTHING"))
    windows = [_lasting(window, ends[key_of(window)]) for window in _windows(ends, using)]
    sql.lock(Window, ["id"], sorted(window.id for window in windows))
    _sum_anew(sql, windows, using)
    _join(sql, windows, in_flight)


def _windows(keys: Iterable[WindowKey], using: str) -> list[Window]:
    named = [Q(**key._asdict()) for key in keys]
    found: list[Window] = []
    for start in range(0, len(named), MOST_NAMED):
        found += Window.objects.using(using).filter(reduce(or_, named[start : start + MOST_NAMED]))
    return found


def _lasting(window: Window, ends_at: datetime | None) -> Window:
    if window.ends_at and (ends_at is None or ends_at > window.ends_at):
        window.ends_at = ends_at
    return window


def _sum_anew(sql: Sql, windows: Sequence[Window], using: str) -> None:
    """What counts against a window stays so; what does not is its opening."""
    spent = spent_in_each({key_of(window): window.ends_at for window in windows}, using)
    rows = []
    for window in windows:
        ticks = spent[key_of(window)]
        rows.append((window.id, window.ends_at, window.opening_ticks + ticks - window.spent_ticks, ticks))
    sql.write(Update(Window, ["ends_at", "opening_ticks", "spent_ticks"], rows))


def key_of(window: Window) -> WindowKey:
    return WindowKey(*(getattr(window, name) for name in WindowKey._fields))


def spent_in(key: WindowKey, ends_at: datetime | None, using: str = DEFAULT_DB_ALIAS) -> int:
    """What fell in a window, in ticks; see `spent_in_each`."""
    return spent_in_each({key: ends_at}, using)[key]


def spent_in_each(ends: Ends, using: str = DEFAULT_DB_ALIAS) -> dict[WindowKey, int]:
    """What fell in each window, in ticks, whatever is removed of it: rollups stay, and no entry of an open period goes.

    Every period begins and ends on the edge of a rollup's bucket. One statement for all windows of a kind and a
    period, since at midnight those of many tenants open at once.
    """
    alike: defaultdict[tuple[str, datetime, datetime | None], list[WindowKey]] = defaultdict(list)
    for key, ends_at in ends.items():
        alike[key.scope, key.starts_at, ends_at].append(key)
    spent = dict.fromkeys(ends, 0)
    for (scope, starts_at, ends_at), keys in alike.items():
        rows = _counted(scope, starts_at, ends_at, using)
        if ends_at is not None and NAMES[scope]:
            spent |= _sums(rows, keys)
        else:
            spent |= {key: _sum(rows, key, ends_at) for key in keys}
    return spent


def spent_by_subject(
    tenant_id: str, scope: str, starts_at: datetime, until: datetime, *, with_removed: bool
) -> dict[str, int]:
    """What each of a tenant's subjects of a scope spent in a part of its time, in ticks.

    `until` is on the edge of a rollup's bucket. `with_removed` is of all time, of which entries may be removed.
    """
    rows = _counted(scope, starts_at, until, DEFAULT_DB_ALIAS).filter(tenant_id=tenant_id)
    if scope == Scope.TENANT:
        return {"": int(rows.aggregate(ticks=Sum("cost_ticks", default=0))["ticks"])}
    subject = NAMES[scope][1]
    spent = defaultdict[str, int](int)
    for name, ticks in rows.values_list(subject).annotate(ticks=Sum("cost_ticks")):
        spent[str(name)] += int(ticks)
    if with_removed:
        removed = ArchivedSpend.objects.filter(tenant_id=tenant_id, scope=scope)
        for name, ticks in removed.values_list("subject", "cost_ticks"):
            spent[name] += ticks
    return dict(spent)


def _counted(scope: str, starts_at: datetime, ends_at: datetime | None, using: str) -> Rows:
    """What windows of a scope count in a period, whoever's it is."""
    model, at = (Rollup, "bucket") if scope in (Scope.INSTALLATION, Scope.TENANT) else (LedgerEntry, "at")
    rows: Rows = model.objects.using(using).filter(**{f"{at}__gte": starts_at}).order_by()
    return rows if ends_at is None else rows.filter(**{f"{at}__lt": ends_at})


def _sums(rows: Rows, keys: Sequence[WindowKey]) -> dict[WindowKey, int]:
    """Of windows of one scope, those in which something fell."""
    names = NAMES[keys[0].scope]
    named = {tuple(_scope(key).values()): key for key in keys}
    chosen = {f"{name}__in": set(values) for name, values in zip(names, zip(*named, strict=True), strict=True)}
    sums = rows.filter(**chosen).values_list(*names).annotate(ticks=Sum("cost_ticks"))
    return {named[found]: int(ticks) for *values, ticks in sums if (found := tuple(values)) in named}


def _sum(rows: Rows, key: WindowKey, ends_at: datetime | None) -> int:
    # In one statement, which sees one state: what moves from the entries to the archive is counted once.
    entered = Sum("cost_ticks", default=0)
    ticks = entered + _archived(key, ends_at) if rows.model is LedgerEntry else entered
    return int(rows.filter(**_scope(key)).aggregate(ticks=ticks)["ticks"])


def _archived(key: WindowKey, ends_at: datetime | None) -> Coalesce | Value:
    if ends_at is not None:
        return Value(0)
    archived = ArchivedSpend.objects.filter(tenant_id=key.tenant_id, scope=key.scope, subject=key.subject)
    return Coalesce(Subquery(archived.values("cost_ticks")), 0)


def _scope(key: WindowKey) -> dict[str, Any]:
    """What an attempt that the window counts has in its fields, in the order of NAMES."""
    subject = int(key.subject) if key.scope == Scope.KEY else key.subject
    return dict(zip(NAMES[key.scope], (key.tenant_id, subject), strict=False))


def _in_flight(ends: Iterable[WindowKey], using: str) -> list[Reservation]:
    """The pending reservations that any of the windows may count, locked in the order of their ids."""
    counted = Q()
    for key in ends:
        counted |= Q(created_at__gte=key.starts_at, **_scope(key))
    pending = Reservation.objects.using(using).filter(counted, state=ReservationState.PENDING)
    return list(pending.select_for_update().order_by("id"))


def _join(sql: Sql, windows: Iterable[Window], in_flight: Iterable[Reservation]) -> None:
    """Count the holds in the windows that do not count them yet."""
    by_scope: defaultdict[ScopeKey, list[OpenWindow]] = defaultdict(list)
    for window in windows:
        key = key_of(window)
        by_scope[key.scope_key].append(OpenWindow(window.id, key, window.ends_at))
    joined: defaultdict[int, int] = defaultdict(int)
    rows = []
    for hold in in_flight:
        counting = [window for scope in scopes_of(hold) for window in by_scope.get(scope, ())]
        new = [each.id for each in counting if each.counts(hold.created_at) and each.id not in hold.window_ids]
        for window_id in new:
            joined[window_id] += hold.hold_ticks
        if new:
            rows.append((hold.id, orjson.dumps([*hold.window_ids, *new]).decode()))
    held = sql.lock(Window, ["id", "held_ticks"], sorted(joined))
    sql.write(
        Update(Window, ["held_ticks"], [(window_id, ticks + joined[window_id]) for window_id, ticks in held]),
        Update(Reservation, ["window_ids"], rows),
    )
