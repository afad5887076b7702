"""Pages, reports and exports read from a replica where REPORTS_DATABASE_URL names one; nothing else does.

Whoever makes one does so inside `read`, and Django's router then sends its queries there. Before, both databases
are asked how far they are: so it is known how old the figures are, and what somebody has just changed is never read
from a replica that has not heard of it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any, TypeVar

from django.db import DEFAULT_DB_ALIAS, InterfaceError, OperationalError, connections, models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils import timezone

from spend.outage import Outage

Result = TypeVar("Result")

ALIAS = "reports"
OURS = {"spend", "tenants"}
"""The apps whose rows are read there: who is logged in, and what they may, is the primary's to say."""
NOTICEABLE = timedelta(seconds=1)
"""Figures that are older than this are said to be."""
SPARED_S = 10.0
"""A replica that did not answer is asked again after so long: where its machine is gone, asking takes seconds."""

PRIMARY_QUERY = "SELECT number, pg_current_wal_lsn()::text FROM tenants_revision WHERE id = 1"
REPLICA_QUERY = """SELECT number, pg_is_in_recovery(), pg_last_wal_replay_lsn() >= %s::pg_lsn,
    pg_last_xact_replay_timestamp() FROM tenants_revision WHERE id = 1"""


@dataclass(frozen=True, slots=True)
class Source:
    """Where figures are read from. `as_of` is the instant they show, unless they are the primary's, of now."""

    alias: str = DEFAULT_DB_ALIAS
    as_of: datetime | None = None
    behind: timedelta = timedelta()
    is_replica_away: bool = False

    @property
    def is_noticeably_behind(self) -> bool:
        return self.behind >= NOTICEABLE

    @property
    def headers(self) -> dict[str, str]:
        """For programs, which see no notice."""
        return {"X-Guard-As-Of": self.as_of.astimezone(UTC).isoformat(timespec="milliseconds")} if self.as_of else {}


PRIMARY, INSTEAD = Source(), Source(is_replica_away=True)
_source: ContextVar[Source] = ContextVar("source", default=PRIMARY)
OUTAGE = Outage("the replica of REPORTS_DATABASE_URL")


class ReportsRouter:
    """Django's database router; see `settings.DATABASE_ROUTERS`."""

    def db_for_read(self, model: type[models.Model], **_: Any) -> str:
        return _source.get().alias if model._meta.app_label in OURS else DEFAULT_DB_ALIAS

    def db_for_write(self, model: type[models.Model], **_: Any) -> str:
        """Said, since Django would write a row that came from the replica back to it."""
        return DEFAULT_DB_ALIAS

    def allow_relation(self, *_: Any, **__: Any) -> bool:
        return True

    def allow_migrate(self, db: str, *_: Any, **__: Any) -> bool:
        return db == DEFAULT_DB_ALIAS


def read(make: Callable[[], Result]) -> Result:
    """What `make` makes, read from the replica if there is one and it can say how far behind it is.

    `make` must change nothing: where the replica fails in the midst, it is called again, and reads from the primary.
    """
    source = _chosen()
    try:
        with _reading_from(source):
            return make()
    except (OperationalError, InterfaceError) as error:
        if source.alias == DEFAULT_DB_ALIAS:
            raise
        _note_failure(error)
    with _reading_from(INSTEAD):
        return make()


def source() -> Source:
    """Where the figures come from that are being read."""
    return _source.get()


def reports_connection() -> BaseDatabaseWrapper:
    """For queries that are not the ORM's, which the router does not see."""
    return connections[_source.get().alias]


@contextmanager
def on_primary() -> Iterator[None]:
    """For what must not be a moment old, such as who may see a tenant."""
    with _reading_from(PRIMARY):
        yield


@contextmanager
def _reading_from(source: Source) -> Iterator[None]:
    token = _source.set(source)
    try:
        yield
    finally:
        _source.reset(token)


def _chosen() -> Source:
    """The primary raises django.db.Error where it is away: who is logged in is not known then either."""
    if ALIAS not in connections.settings:
        return PRIMARY
    if _Spared.until > monotonic():
        return INSTEAD
    revision, position = _row(DEFAULT_DB_ALIAS, PRIMARY_QUERY)
    now = timezone.now()
    try:
        answer = _row(ALIAS, REPLICA_QUERY, position)
    except (OperationalError, InterfaceError) as error:
        _note_failure(error)
        return INSTEAD
    OUTAGE.is_over()
    return _source_of(answer, revision, now)


def _source_of(answer: tuple[Any, ...], revision: int, now: datetime) -> Source:
    """The primary where the answer is that of no replica any more, or of one that has not heard of the last change."""
    known_revision, is_replica, has_all, replayed_at = answer
    if not is_replica or known_revision != revision:
        return PRIMARY
    if has_all:
        return Source(ALIAS, now)
    if replayed_at is None:  # nothing since it was started: it can't say how old it is
        return PRIMARY
    return Source(ALIAS, replayed_at, now - replayed_at)


def _row(alias: str, query: str, *params: str) -> tuple[Any, ...]:
    with connections[alias].cursor() as cursor:
        cursor.execute(query, params)
        row: tuple[Any, ...] = cursor.fetchone()
        return row


class _Spared:
    """Of this process."""

    until = 0.0


def _note_failure(error: Exception) -> None:
    OUTAGE.failed(error)
    _Spared.until = monotonic() + SPARED_S
    connections[ALIAS].close()
