"""Set-based SQL for the ledger: one statement for many rows, on SQLite and on Postgres.

SQLite takes many rows by `executemany`; Postgres by arrays, one a column, that `unnest` turns into
rows: its statement stays the same however many rows there are.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper

Rows = Sequence[tuple[Any, ...]]
Only = tuple[str, str]
"""A column and the value that it must have."""


class Sql:
    """The statements, on one connection. Fields are named by their columns."""

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self.connection = connection

    @staticmethod
    def on(connection: BaseDatabaseWrapper) -> "Sql":
        return (PostgresSql if connection.vendor == "postgresql" else SqliteSql)(connection)

    def insert(self, model: type[models.Model], columns: Sequence[str], rows: Rows, on_conflict: str = "") -> None:
        if rows:
            self._insert(model, columns, rows, f" ON CONFLICT {on_conflict}" if on_conflict else "")

    def add(self, model: type[models.Model], key: Sequence[str], sums: Sequence[str], rows: Rows) -> None:
        """Insert rows, or add their sums to those of the row with the same key."""
        table = model._meta.db_table
        added = ", ".join(f"{column} = {table}.{column} + excluded.{column}" for column in sums)
        self.insert(model, [*key, *sums], rows, on_conflict=f"({', '.join(key)}) DO UPDATE SET {added}")

    def update(self, model: type[models.Model], columns: Sequence[str], rows: Rows, only: Only | None = None) -> int:
        """Set `columns` of the rows whose id comes first in each tuple; the number of rows changed."""
        return self._update(model, columns, rows, only) if rows else 0

    def delete(self, model: type[models.Model], column: str, values: Sequence[Any]) -> int:
        """Delete the rows whose `column` has one of `values`; how many there were."""
        return self._delete(model, column, values) if values else 0

    def lock(
        self, model: type[models.Model], columns: Sequence[str], ids: Sequence[Any], only: Only | None = None
    ) -> Rows:
        """Read the rows with these ids, in order, locked until the transaction ends."""
        return self._lock(model, columns, ids, only) if ids else []

    def uuid(self, value: Any) -> UUID:
        return value if isinstance(value, UUID) else UUID(value)

    def _insert(self, model: type[models.Model], columns: Sequence[str], rows: Rows, tail: str) -> None:
        raise NotImplementedError

    def _update(self, model: type[models.Model], columns: Sequence[str], rows: Rows, only: Only | None) -> int:
        raise NotImplementedError

    def _delete(self, model: type[models.Model], column: str, values: Sequence[Any]) -> int:
        raise NotImplementedError

    def _lock(self, model: type[models.Model], columns: Sequence[str], ids: Sequence[Any], only: Only | None) -> Rows:
        raise NotImplementedError


class SqliteSql(Sql):
    """SQLite: the transaction began IMMEDIATE and so has locked the whole file already."""

    def _insert(self, model: type[models.Model], columns: Sequence[str], rows: Rows, tail: str) -> None:
        places = ", ".join("?" * len(columns))
        self._many(f"INSERT INTO {model._meta.db_table} ({', '.join(columns)}) VALUES ({places}){tail}", rows)

    def _update(self, model: type[models.Model], columns: Sequence[str], rows: Rows, only: Only | None) -> int:
        assignments = ", ".join(f"{column} = ?" for column in columns)
        table = model._meta.db_table
        statement = f"UPDATE {table} SET {assignments} WHERE id = ?{_and(table, only)}"
        return self._many(statement, [(*row[1:], row[0]) for row in rows])

    def _delete(self, model: type[models.Model], column: str, values: Sequence[Any]) -> int:
        return self._many(f"DELETE FROM {model._meta.db_table} WHERE {column} = ?", [(value,) for value in values])

    def _lock(self, model: type[models.Model], columns: Sequence[str], ids: Sequence[Any], only: Only | None) -> Rows:
        table, places = model._meta.db_table, ", ".join("?" * len(ids))
        statement = f"SELECT {', '.join(columns)} FROM {table} WHERE id IN ({places}){_and(table, only)} ORDER BY id"
        cursor = self.connection.connection.cursor()
        with self.connection.wrap_database_errors:
            return list(cursor.execute(statement, _stored(ids)))

    def _many(self, statement: str, rows: Rows) -> int:
        # The driver's own cursor: Django's rewrites every statement's placeholders.
        cursor = self.connection.connection.cursor()
        with self.connection.wrap_database_errors:
            cursor.executemany(statement, list(zip(*map(_stored, zip(*rows, strict=True)), strict=True)))
        return int(cursor.rowcount)


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
    def _insert(self, model: type[models.Model], columns: Sequence[str], rows: Rows, tail: str) -> None:
        names = ", ".join(columns)
        chosen = ", ".join(f"{column}{self._from_text(model, column)}" for column in columns)
        self._execute(
            f"INSERT INTO {model._meta.db_table} ({names}) "
            f"SELECT {chosen} FROM unnest({self._arrays(model, columns)}) AS rows ({names}){tail}",
            _columns_of(rows),
        )

    def _update(self, model: type[models.Model], columns: Sequence[str], rows: Rows, only: Only | None) -> int:
        names = ["id", *columns]
        table = model._meta.db_table
        assignments = ", ".join(f"{column} = rows.{column}" for column in columns)
        cursor = self._execute(
            f"UPDATE {table} SET {assignments} "
            f"FROM unnest({self._arrays(model, names)}) AS rows ({', '.join(names)}) "
            f"WHERE {table}.id = rows.id{_and(table, only)}",
            _columns_of(rows),
        )
        return int(cursor.rowcount)

    def _delete(self, model: type[models.Model], column: str, values: Sequence[Any]) -> int:
        statement = f"DELETE FROM {model._meta.db_table} WHERE {column} = ANY({self._arrays(model, [column])})"
        return int(self._execute(statement, [list(values)]).rowcount)

    def _lock(self, model: type[models.Model], columns: Sequence[str], ids: Sequence[Any], only: Only | None) -> Rows:
        table, array = model._meta.db_table, self._arrays(model, ["id"])
        condition = f"id = ANY({array}){_and(table, only)}"
        cursor = self._execute(
            f"SELECT {', '.join(columns)} FROM {table} WHERE {condition} ORDER BY id FOR UPDATE", [list(ids)]
        )
        rows: Rows = cursor.fetchall()
        return rows

    def _execute(self, statement: str, params: list[Any]) -> Any:
        from psycopg import Cursor

        # Django's cursor binds on the client, which spells out every array in Python.
        cursor = Cursor(self.connection.connection)
        with self.connection.wrap_database_errors:
            cursor.execute(statement, params)
        return cursor

    def _arrays(self, model: type[models.Model], columns: Sequence[str]) -> str:
        return ", ".join(f"%s::{self._array_type(model, column)}[]" for column in columns)

    def _array_type(self, model: type[models.Model], column: str) -> str:
        """varchar(n) would cut silently, and lists of JSON are no arrays: both travel as text."""
        kind = _field(model, column).rel_db_type(self.connection) if column.endswith("_id") else None
        kind = kind or _field(model, column).db_type(self.connection) or "text"
        return "text" if kind.startswith(("varchar", "jsonb")) else kind

    def _from_text(self, model: type[models.Model], column: str) -> str:
        return "::jsonb" if isinstance(_field(model, column), models.JSONField) else ""


def _field(model: type[models.Model], column: str) -> Any:
    return next(field for field in model._meta.concrete_fields if field.column == column)


def _columns_of(rows: Iterable[tuple[Any, ...]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]
