"""The ledger's months: on Postgres `spend_ledgerentry` is partitioned by the month, in UTC, of `at`.

A month that is gone goes as a whole table: nothing is left for vacuum to clean up. An entry whose month has no
partition goes into the default one, and from there into its month when that is made; so the job that makes
months may be late, or never have run.

Nothing here waits long for a lock: who waits for one on the ledger keeps all that come after from reading it,
and calls from being entered. What is busy now is tried again an hour later. All locks are taken at the beginning,
so that where a reader turns writer and waits for us, we give up before the database looks for a deadlock.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from functools import partial
from typing import Any

from django.db import OperationalError, connection, transaction
from django.db.models import Min

from spend.models import LedgerEntry, RollupMark

MONTHS_AHEAD = 2

MOST_WAIT = "500ms"
"""For a lock; the database looks for deadlocks after a second."""

LOCK_NOT_AVAILABLE = "55P03"

TABLE = LedgerEntry._meta.db_table
DEFAULT = f"{TABLE}_default"


@dataclass(frozen=True, order=True)
class Month:
    """A month in UTC, by its first day."""

    first: date

    @staticmethod
    def of(at: datetime) -> "Month":
        return Month(at.astimezone(UTC).date().replace(day=1))

    @property
    def next(self) -> "Month":
        return Month((self.first + timedelta(days=31)).replace(day=1))

    @property
    def starts_at(self) -> datetime:
        return datetime.combine(self.first, time.min, tzinfo=UTC)

    @property
    def partition(self) -> str:
        return f"{TABLE}_{self.first:%Y_%m}"


@dataclass
class Kept:
    """Partitions that were made and dropped, and those that others kept busy."""

    made: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    busy: list[str] = field(default_factory=list)


def keep_months(now: datetime) -> Kept:
    """Make the partitions of this month, of the next ones, and of those that have entries in the default one;
    drop those that are empty and that nothing can be entered into any more.

    Raises django.db.Error. Any number of processes may do it at once. Does nothing on SQLite.
    """
    kept = Kept()
    if connection.vendor != "postgresql":
        return kept
    for month in _missing(now):
        (kept.made if _unless_busy(partial(_make, month, now)) else kept.busy).append(month.partition)
    for month in _over():
        (kept.dropped if _unless_busy(partial(_drop, month)) else kept.busy).append(month.partition)
    if kept.made:
        _run(f"ANALYZE {TABLE}")  # autovacuum looks at partitions only, never at the whole
    return kept


def _missing(now: datetime) -> list[Month]:
    """Those to come first: until they are made, calls enter into the default one."""
    coming = [Month.of(now)]
    for _ in range(MONTHS_AHEAD):
        coming.append(coming[-1].next)
    strays = [Month.of(at) for (at,) in _rows(f"SELECT DISTINCT date_trunc('month', at, 'UTC') FROM {DEFAULT}")]
    there = _months()
    return [month for month in [*coming, *sorted({*strays} - {*coming})] if month not in there]


def _over() -> list[Month]:
    """Months whose partition is empty and that all tenants' days are summed for: see `spend.summaries.daily`."""
    summed_through = RollupMark.objects.aggregate(through=Min("through"))["through"]
    if summed_through is None:
        return []
    return [month for month in _months() if month.next.starts_at <= summed_through and _is_empty(month)]


def _make(month: Month, now: datetime) -> None:
    """With all of its entries, in one transaction: readers see each once, whenever they look.

    Whoever enters into a month that is not over is kept out while its place changes from the default one; what
    is entered into other months goes on.
    """
    with transaction.atomic():
        _lock(f"ONLY {TABLE}", "EXCLUSIVE" if month.next.starts_at > now else "SHARE UPDATE EXCLUSIVE")
        _lock(DEFAULT, "ACCESS EXCLUSIVE")
        if month in _months():
            return
        first, end = month.starts_at.isoformat(), month.next.starts_at.isoformat()
        _run(f"CREATE TABLE {month.partition} (LIKE {TABLE} INCLUDING CONSTRAINTS INCLUDING INDEXES)")
        _run(f"""WITH moved AS (DELETE FROM {DEFAULT} WHERE at >= '{first}' AND at < '{end}' RETURNING *)
            INSERT INTO {month.partition} SELECT * FROM moved""")
        _run(f"ALTER TABLE {TABLE} ATTACH PARTITION {month.partition} FOR VALUES FROM ('{first}') TO ('{end}')")


def _drop(month: Month) -> None:
    with transaction.atomic():
        _lock(month.partition, "SHARE")  # before the others are locked out: a long table is long to look through
        if _is_empty(month):
            _lock(f"ONLY {TABLE}", "ACCESS EXCLUSIVE")
            _run(f"DROP TABLE {month.partition}")


def _lock(table: str, mode: str) -> None:
    _run(f"SET LOCAL lock_timeout = '{MOST_WAIT}'")
    _run(f"LOCK TABLE {table} IN {mode} MODE")


def _unless_busy(change: Callable[[], None]) -> bool:
    try:
        change()
    except OperationalError as error:
        if getattr(error.__cause__, "sqlstate", None) != LOCK_NOT_AVAILABLE:
            raise
        return False
    return True


def _months() -> list[Month]:
    """Those that have a partition, in their order."""
    rows = _rows(f"""SELECT right(inhrelid::regclass::text, 7) FROM pg_inherits
        WHERE inhparent = '{TABLE}'::regclass AND inhrelid <> '{DEFAULT}'::regclass""")
    return sorted(Month(datetime.strptime(name, "%Y_%m").date()) for (name,) in rows)  # noqa: DTZ007  a date


def _is_empty(month: Month) -> bool:
    ((is_empty,),) = _rows(f"SELECT NOT EXISTS (SELECT FROM {month.partition})")
    return bool(is_empty)


def _run(statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)


def _rows(query: str) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(query)
        rows: list[tuple[Any, ...]] = cursor.fetchall()
        return rows
