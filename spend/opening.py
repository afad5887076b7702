"""A window's opening: what its scope had already spent in the period when the window was first needed.

A budget made in the middle of a month so counts the month's spend, not only what comes after it.
Calls that are in flight at that moment join the window with their holds, and end in it, too.
Entries that were removed since count as what they had cost: only a window in total can begin before them.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson
from django.db import DEFAULT_DB_ALIAS
from django.db.models import Q, Subquery, Sum, Value
from django.db.models.functions import Coalesce

from spend.ledger import WindowKey
from spend.models import ArchivedSpend, LedgerEntry, Reservation, ReservationState, Window
from spend.sql import Insert, Sql, Update
from tenants.models import Scope

WINDOW_FIELDS = [*WindowKey._fields, "ends_at", "opening_ticks", "spent_ticks", "held_ticks"]
Ends = Mapping[WindowKey, datetime | None]
"""Windows, each with the end of its period."""


def open_windows(sql: Sql, ends: Ends, using: str = DEFAULT_DB_ALIAS) -> dict[WindowKey, int]:
    """Make those of the windows that are missing, let what is in flight join them, and return their ids.

    Inside a transaction. What is in flight is locked first: else it could be entered after the opening was
    summed and before it joins, and count nowhere. Two workers may make a window at once: insert or ignore,
    then read whose it became. Each worker lets join what it finds when it first meets the window, since one
    that had not heard of the budget yet may have held meanwhile.
    """
    in_flight = _in_flight(ends, using)
    openings = {key: opening_ticks(key, ends[key], using) for key in sorted(ends)}
    rows = [(*key, ends[key], opening, opening, 0) for key, opening in openings.items()]
    sql.write(Insert(Window, WINDOW_FIELDS, rows, on_conflict="DO NOTHING"))
    ids = Window.objects.using(using).values_list("id", flat=True)
    made = {key: ids.get(**key._asdict()) for key in openings}
    _join(sql, made, ends, in_flight)
    return made


def opening_ticks(key: WindowKey, ends_at: datetime | None, using: str = DEFAULT_DB_ALIAS) -> int:
    entries = LedgerEntry.objects.using(using).filter(at__gte=key.starts_at, **_scope(key))
    if ends_at is not None:  # a window may be made when its period is over, for a call of its last moment
        entries = entries.filter(at__lt=ends_at)
    # In one statement, which sees one state: what moves from the entries to the archive is counted once.
    ticks: int = entries.aggregate(ticks=Sum("cost_ticks", default=0) + _archived(key, ends_at))["ticks"]
    return ticks


def _archived(key: WindowKey, ends_at: datetime | None) -> Coalesce | Value:
    if ends_at is not None:
        return Value(0)
    archived = ArchivedSpend.objects.filter(tenant_id=key.tenant_id, scope=key.scope, subject=key.subject)
    return Coalesce(Subquery(archived.values("cost_ticks")), 0)


def _scope(key: WindowKey) -> dict[str, Any]:
    """What an attempt that the window counts has in its fields."""
    match key.scope:
        case Scope.INSTALLATION:
            return {}
        case Scope.TENANT:
            return {"tenant_id": key.tenant_id}
        case Scope.KEY:
            return {"tenant_id": key.tenant_id, "key_id": int(key.subject)}
    return {"tenant_id": key.tenant_id, key.scope: key.subject}


def _in_flight(ends: Ends, using: str) -> list[Reservation]:
    """The pending reservations that any of the windows counts, locked in the order of their ids."""
    counted = Q()
    for key in ends:
        counted |= Q(created_at__gte=key.starts_at, **_scope(key))
    pending = Reservation.objects.using(using).filter(counted, state=ReservationState.PENDING)
    return list(pending.select_for_update().order_by("id"))


def _join(sql: Sql, made: Mapping[WindowKey, int], ends: Ends, in_flight: Sequence[Reservation]) -> None:
    """Count the holds in the windows that do not count them yet."""
    joined: defaultdict[int, int] = defaultdict(int)
    rows = []
    for hold in in_flight:
        new = [made[key] for key in made if _counts(key, ends[key], hold) and made[key] not in hold.window_ids]
        for window_id in new:
            joined[window_id] += hold.hold_ticks
        if new:
            rows.append((hold.id, orjson.dumps([*hold.window_ids, *new]).decode()))
    windows = sql.lock(Window, ["id", "held_ticks"], sorted(joined))
    sql.write(
        Update(Window, ["held_ticks"], [(window_id, held + joined[window_id]) for window_id, held in windows]),
        Update(Reservation, ["window_ids"], rows),
    )


def _counts(key: WindowKey, ends_at: datetime | None, hold: Reservation) -> bool:
    is_in_period = key.starts_at <= hold.created_at and (ends_at is None or hold.created_at < ends_at)
    return is_in_period and all(getattr(hold, name) == value for name, value in _scope(key).items())
