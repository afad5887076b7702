"""Databases as a new installation has them: migrated, with real prices and one tenant of ample means."""

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg

from tests.support.databases import Databases, PostgresDatabases, SqliteDatabases
from tests.support.pgbouncer import PgBouncer
from tests.support.postgres import ThrowawayPostgres
from tests.support.server import manage

TENANT_BUDGETS = json.dumps({"bench": {"dailyLimit": 1_000_000}})


@dataclass(frozen=True)
class Prepared:
    """Where copies of a prepared database are made, and the key of its tenant."""

    description: str
    databases: Databases
    secret: str
    server_pid: int | None = None
    """Of the database server, where there is one."""


@contextmanager
def prepared_sqlite(directory: Path) -> Iterator[Prepared]:
    databases = SqliteDatabases(directory / "sqlite")
    description = f"SQLite {sqlite3.sqlite_version}, write-ahead log, synchronous=FULL"
    yield Prepared(description, databases, prepare(databases.create_template()))


@contextmanager
def prepared_postgres(directory: Path) -> Iterator[Prepared]:
    """A throwaway server, which waits for the disk at each commit as one in production does."""
    server = ThrowawayPostgres(is_durable=True)
    try:
        databases = PostgresDatabases(server.url, "bench")
        secret = prepare(databases.create_template())
        yield Prepared(describe_postgres(server.url), databases, secret, server.server.pid)
    finally:
        server.stop()


class PooledDatabases(PostgresDatabases):
    """Through PgBouncer, which pools by transaction; all but the guards' own work goes to Postgres directly."""

    def __init__(self, pgbouncer: PgBouncer, databases: PostgresDatabases) -> None:
        super().__init__(databases.server_url, databases.prefix, databases.template)
        self.pgbouncer = pgbouncer

    def copy(self, name: str | None = None) -> str:
        return f"{self.pgbouncer.url_of(super().copy(name))}?pgbouncer=true"


@contextmanager
def prepared_pgbouncer(directory: Path) -> Iterator[Prepared]:
    with prepared_postgres(directory) as prepared:
        assert isinstance(prepared.databases, PostgresDatabases)
        pgbouncer = PgBouncer(prepared.databases.server_url)
        try:
            databases = PooledDatabases(pgbouncer, prepared.databases)
            yield replace(prepared, databases=databases, description=f"{prepared.description}, behind PgBouncer")
        finally:
            pgbouncer.stop()


def describe_postgres(url: str) -> str:
    """The version, and whether a commit waits for the disk, as the server itself says."""
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "SELECT format('Postgres %s, fsync=%s, synchronous_commit=%s', current_setting('server_version'),"
            " current_setting('fsync'), current_setting('synchronous_commit'))"
        ).fetchone()
    assert row
    return str(row[0])


PREPARED: dict[str, Callable[[Path], AbstractContextManager[Prepared]]] = {
    "sqlite": prepared_sqlite,
    "postgres": prepared_postgres,
    "pgbouncer": prepared_pgbouncer,
}
ALWAYS = ("sqlite", "postgres")
"""What is measured unless somebody names others."""


def prepare(database_url: str) -> str:
    """Do what an operator does first. The key that was issued."""
    environment = {"DATABASE_URL": database_url, "TENANT_BUDGETS": TENANT_BUDGETS}
    issued = ""
    for command in (["migrate", "--verbosity=0"], ["sync_prices"], ["load_tenants", "--issue-keys"]):
        done = manage(*command, environment=environment)
        assert done.returncode == 0, done.stderr
        issued = done.stdout
    return issued.split("\t")[1].strip()
