"""Set-based SQL for the ledger: a few statements for many rows, on SQLite and on Postgres.

SQLite takes many rows by `executemany`; Postgres by arrays, one a column, that `unnest` turns into
rows: its statement stays the same however many rows there are, and several changes go as one.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from fcntl import LOCK_EX, LOCK_UN, flock
from functools import cache
from typing import Any
from uuid import UUID
from zlib import crc32

import orjson
from django.db import connection, models
from django.db.backends.base.base import BaseDatabaseWrapper

Model = type[models.Model]
Columns = Sequence[str]
Rows = Sequence[tuple[Any, ...]]
Only = tuple[str, str]
"""A column and the value that it must have."""

BOOKS, SHELVES = 5_771, 256
"""The class of our advisory locks, and how many of them there are: a batch of many tenants takes no more."""


@dataclass(frozen=True, slots=True)
class Insert:
    """New rows, their values in the order of `columns`."""

    model: Model
    columns: Columns
    rows: Rows
    on_conflict: str = ""

    @property
    def tail(self) -> str:
        return f" ON CONFLICT {self.on_conflict}" if self.on_conflict else ""


@dataclass(frozen=True, slots=True)
class Update:
    """New values of `columns` in the rows whose id comes first in each tuple."""

    model: Model
    columns: Columns
    rows: Rows
    only: Only | None = None


@dataclass(frozen=True, slots=True)
class Delete:
    """The rows whose column has one of the values, each of which is a row of its own here."""

    model: Model
    column: str
    rows: Rows


Change = Insert | Update | Delete


@dataclass(frozen=True, slots=True)
class Matching:
    """The rows that have one of `keys` in `columns`, and whose `end` is after `since`, or empty."""

    columns: Columns
    keys: Rows
    end: str
    since: datetime


def added(model: Model, key: Columns, sums: Columns, rows: Rows) -> Insert:
    """New rows, or where there is one with the same key, their sums added to it."""
    table = model._meta.db_table
    additions = ", ".join(f"{column} = {table}.{column} + excluded.{column}" for column in sums)
    return Insert(model, [*key, *sums], rows, on_conflict=f"({', '.join(key)}) DO UPDATE SET {additions}")


class Sql:
    """The statements, on one connection. Fields are named by their columns."""

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self.connection = connection

    @staticmethod
    def on(connection: BaseDatabaseWrapper) -> "Sql":
        return (PostgresSql if connection.vendor == "postgresql" else SqliteSql)(connection)

    def turn(self) -> AbstractContextManager[Any]:
        """Wait until it is this process's turn to write."""
        return nullcontext()

    def write(self, *changes: Change) -> list[int]:
        """Make all the changes, of different rows, and return how many rows each of them touched."""
        raise NotImplementedError

    def lock(self, model: Model, columns: Columns, ids: Sequence[Any], only: Only | None = None) -> Rows:
        """Read the rows with these ids, in order, locked until the transaction ends."""
        return self._lock(model, columns, ids, only) if ids else []

    def share_books(self, tenant_ids: Iterable[str]) -> None:
        """Until this transaction ends nobody can own the books of these tenants, though others may share them."""

    def own_books(self, tenant_ids: Iterable[str]) -> None:
        """Wait until nobody shares the books of these tenants; nobody does until this transaction ends."""

    def lock_with(self, model: Model, columns: Columns, ids: Sequence[Any], others: Matching) -> Rows:
        """As `lock`, the other rows too."""
        raise NotImplementedError

    def time(self, value: datetime | None) -> datetime | None:
        """As this database gives it: SQLite's adapters leave the zone away."""
        return value if value is None or value.tzinfo else value.replace(tzinfo=UTC)

    def uuid(self, value: Any) -> UUID:
        return value if isinstance(value, UUID) else UUID(value)

    def json(self, value: Any) -> Any:
        return orjson.loads(value) if isinstance(value, str) else value

    def _lock(self, model: Model, columns: Columns, ids: Sequence[Any], only: Only | None) -> Rows:
        raise NotImplementedError


class SqliteSql(Sql):
    """SQLite: the transaction began IMMEDIATE and so has locked the whole file already."""

    @contextmanager
    def turn(self) -> Iterator[None]:
        """SQLite's own lock is waited for by looking again, ever less often, which starves whoever has no luck."""
        turns = _turns(self.connection.settings_dict["NAME"])
        flock(turns, LOCK_EX)
        try:
            yield
        finally:
            flock(turns, LOCK_UN)

    def write(self, *changes: Change) -> list[int]:
        return [self._write(change) if change.rows else 0 for change in changes]

    def _write(self, change: Change) -> int:
        table = change.model._meta.db_table
        if isinstance(change, Delete):
            return self._many(f"DELETE FROM {table} WHERE {change.column} = ?", change.rows)
        columns = change.columns
        if isinstance(change, Insert):
            places = ", ".join("?" * len(columns))
            return self._many(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places}){change.tail}", change.rows)
        assignments = ", ".join(f"{column} = ?" for column in columns)
        statement = f"UPDATE {table} SET {assignments} WHERE id = ?{_and(table, change.only)}"
        return self._many(statement, [(*row[1:], row[0]) for row in change.rows])

    def _lock(self, model: Model, columns: Columns, ids: Sequence[Any], only: Only | None) -> Rows:
        table, places = model._meta.db_table, ", ".join("?" * len(ids))
        statement = f"SELECT {', '.join(columns)} FROM {table} WHERE id IN ({places}){_and(table, only)} ORDER BY id"
        cursor = self.connection.connection.cursor()
        with self.connection.wrap_database_errors:
            return list(cursor.execute(statement, _stored(ids)))

    def lock_with(self, model: Model, columns: Columns, ids: Sequence[Any], others: Matching) -> Rows:
        table = model._meta.db_table
        on = " AND ".join(
            f"{table}.{column} = json_extract(key.value, '$[{number}]')" for number, column in enumerate(others.columns)
        )
        matching = f"SELECT {table}.id FROM json_each(?2) AS key CROSS JOIN {table} ON {on} WHERE {others.end}"
        statement = (
            f"SELECT {', '.join(columns)} FROM {table} WHERE id IN (SELECT value FROM json_each(?1) "
            f"UNION ALL {matching} > ?3 UNION ALL {matching} IS NULL) ORDER BY id"
        )
        (since,) = _stored([others.since])
        cursor = self.connection.connection.cursor()
        keys = [tuple(key) for key in others.keys]  # plain ones, which can be JSON
        values = (orjson.dumps(list(ids)).decode(), orjson.dumps(keys).decode(), since)
        with self.connection.wrap_database_errors:
            return list(cursor.execute(statement, values))

    def _many(self, statement: str, rows: Rows) -> int:
        # The driver's own cursor: Django's rewrites every statement's placeholders.
        cursor = self.connection.connection.cursor()
        with self.connection.wrap_database_errors:
            cursor.executemany(statement, list(zip(*map(_stored, zip(*rows, strict=True)), strict=True)))
        return int(cursor.rowcount)


@cache
def _turns(database: Any) -> int:
    """The empty file beside the database, open, whose lock its processes hand on, each at once to the next."""
    return os.open(f"{database}-turn", os.O_CREAT)


def _and(table: str, only: Only | None) -> str:
    return f" AND {table}.{only[0]} = '{only[1]}'" if only else ""


def _stored(column: Sequence[Any]) -> Sequence[Any]:
    """A column's values as Django stores them in SQLite: times as naive UTC text, UUIDs as hex."""
    kinds = set(map(type, column))
    if datetime in kinds:
        return [value and str(value.replace(tzinfo=None)) for value in column]
    if UUID in kinds:
        return [value and value.hex for value in column]
    return column


class PostgresSql(Sql):
    """Postgres: the changes are one statement, each a part of its WITH: the server is waited for once."""

    def write(self, *changes: Change) -> list[int]:
        made = [change for change in changes if change.rows]
        if not made:
            return [0] * len(changes)
        parts, counts = [], []
        arrays: list[list[Any]] = []
        for number, change in enumerate(made):
            parts.append(f"part_{number} AS ({_statement(change, len(arrays))} RETURNING 1)")
            counts.append(f"(SELECT count(*) FROM part_{number})")
            arrays += _columns_of(change.rows)
        (touched,) = self._execute(f"WITH {', '.join(parts)} SELECT {', '.join(counts)}", arrays)
        remaining = iter(touched)
        return [next(remaining) if change.rows else 0 for change in changes]

    def _lock(self, model: Model, columns: Columns, ids: Sequence[Any], only: Only | None) -> Rows:
        table, array = model._meta.db_table, _arrays(model, ["id"])
        condition = f"id = ANY({array}){_and(table, only)}"
        return self._execute(
            f"SELECT {', '.join(columns)} FROM {table} WHERE {condition} ORDER BY id FOR UPDATE", [list(ids)]
        )

    def share_books(self, tenant_ids: Iterable[str]) -> None:
        self._lock_books("pg_advisory_xact_lock_shared", tenant_ids)

    def own_books(self, tenant_ids: Iterable[str]) -> None:
        self._lock_books("pg_advisory_xact_lock", tenant_ids)

    def _lock_books(self, function: str, tenant_ids: Iterable[str]) -> None:
        shelves = sorted({crc32(tenant_id.encode()) % SHELVES for tenant_id in tenant_ids})
        self._execute(f"SELECT {function}({BOOKS}, shelf) FROM unnest($1::integer[]) AS shelf", [shelves])

    def lock_with(self, model: Model, columns: Columns, ids: Sequence[Any], others: Matching) -> Rows:
        table, names = model._meta.db_table, ", ".join(others.columns)
        count = len(others.columns)
        matching = (
            f"SELECT id FROM unnest({_arrays(model, others.columns, 1)}) AS key ({names}) "
            f"JOIN {table} USING ({names}) WHERE {others.end}"
        )
        statement = (
            f"SELECT {', '.join(columns)} FROM {table} WHERE id = ANY({_arrays(model, ['id'])} || ARRAY("
            f"{matching} > ${count + 2} UNION ALL {matching} IS NULL)) ORDER BY id FOR UPDATE"
        )
        return self._execute(statement, [list(ids), *_columns_of(others.keys), others.since])

    def _execute(self, statement: str, values: list[Any]) -> Rows:
        from psycopg import RawCursor

        # Django's cursor binds on the client, which spells out every array in Python.
        cursor = RawCursor(self.connection.connection)
        with self.connection.wrap_database_errors:
            rows: Rows = cursor.execute(statement, values).fetchall()
        return rows


def _statement(change: Change, given: int) -> str:
    """The change as SQL, whose arrays follow `given` others."""
    table = change.model._meta.db_table
    if isinstance(change, Delete):
        return f"DELETE FROM {table} WHERE {change.column} = ANY({_arrays(change.model, [change.column], given)})"
    columns = change.columns
    if isinstance(change, Insert):
        names = ", ".join(columns)
        chosen = ", ".join(f"{column}{_from_text(change.model, column)}" for column in columns)
        arrays = _arrays(change.model, columns, given)
        return f"INSERT INTO {table} ({names}) SELECT {chosen} FROM unnest({arrays}) AS rows ({names}){change.tail}"
    names = ", ".join(["id", *columns])
    assignments = ", ".join(f"{column} = rows.{column}{_from_text(change.model, column)}" for column in columns)
    return (
        f"UPDATE {table} SET {assignments} "
        f"FROM unnest({_arrays(change.model, ['id', *columns], given)}) AS rows ({names}) "
        f"WHERE {table}.id = rows.id{_and(table, change.only)}"
    )


def _arrays(model: Model, columns: Columns, given: int = 0) -> str:
    return ", ".join(f"${number}::{_array_type(model, column)}[]" for number, column in enumerate(columns, given + 1))


# Asked for each column of each statement: worked out once.
@cache
def _array_type(model: Model, column: str) -> str:
    """varchar(n) would cut silently, and lists of JSON are no arrays: both travel as text."""
    kind = _field(model, column).rel_db_type(connection) if column.endswith("_id") else None
    kind = kind or _field(model, column).db_type(connection) or "text"
    return "text" if kind.startswith(("varchar", "jsonb")) else kind


@cache
def _from_text(model: Model, column: str) -> str:
    return "::jsonb" if isinstance(_field(model, column), models.JSONField) else ""


def _field(model: Model, column: str) -> Any:
    return next(field for field in model._meta.concrete_fields if field.column == column)


def _columns_of(rows: Iterable[tuple[Any, ...]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]
