"""The ledger's months on Postgres: each entry in its own, none lost on the way, and nobody kept waiting long."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core.management import call_command
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from spend.ledger.posting import Posting
from spend.ledger.rules import Held, NotPending, Reserved
from spend.models import LedgerEntry, RollupMark
from spend.retention import partitions, removal
from spend.retention.partitions import DEFAULT, TABLE, Kept, Month, keep_months
from spend.retention.removal import retain
from spend.summaries.daily import catch_up
from tests.spend.retention.test_removal import StartServer
from tests.support.agents import audit as audit_of
from tests.support.agents import eventually
from tests.support.books import assert_the_books_balance
from tests.support.commands import TODAY, limit_of, reserve_of, settle_of
from tests.support.history import NOW, made_history, place_call
from tests.support.race import on_postgres

KEPT = 93
db = pytest.mark.django_db
many = pytest.mark.django_db(transaction=True)

MARCH, APRIL, MAY = (Month(datetime(2026, number, 1, tzinfo=UTC).date()) for number in (3, 4, 5))


@pytest.fixture
def _unmade(request: pytest.FixtureRequest) -> Iterator[None]:
    """No month has a partition, as after the migration."""
    is_many = request.node.get_closest_marker("django_db").kwargs.get("transaction")
    request.getfixturevalue("transactional_db" if is_many else "db")
    unmake()
    yield
    if is_many:
        unmake()


def unmake() -> None:
    if connection.vendor == "postgresql":
        for month in partitions._months():
            partitions._run(f"DROP TABLE {month.partition}")


pytestmark = pytest.mark.usefixtures("_unmade")


def rows_of(query: str) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(query)
        return list(cursor.fetchall())


def in_table(name: str) -> set[Any]:
    return {row[0] for row in rows_of(f"SELECT reservation_id FROM ONLY {name}")}


def everything() -> set[tuple[Any, ...]]:
    """In the columns that the table had from the beginning."""
    later = {"corrects_id", "is_usage_impossible", "step", "tags"}
    columns = {field.name for field in LedgerEntry._meta.concrete_fields} - later
    return set(LedgerEntry.objects.values_list(*sorted(columns)))


@on_postgres
@db
def test_this_month_and_those_to_come_are_made_once() -> None:
    made = [MARCH.partition, APRIL.partition, MAY.partition]
    assert keep_months(NOW) == Kept(made=made)
    assert keep_months(NOW) == Kept()
    assert keep_months(NOW + timedelta(days=2)).made == [MAY.next.partition]
    indexes = {name: len(rows_of(f"SELECT 1 FROM pg_index WHERE indrelid = '{name}'::regclass")) for name in made}
    assert set(indexes.values()) == {8}
    attached = rows_of("SELECT count(*) FROM pg_inherits WHERE inhparent = 'entry_by_tenant'::regclass")
    assert attached == [(5,)]


@db
def test_on_sqlite_there_are_none() -> None:
    if connection.vendor == "sqlite":
        assert keep_months(NOW) == Kept()
    else:
        assert rows_of(f"SELECT relkind FROM pg_class WHERE oid = '{TABLE}'::regclass") in ([("p",)], [(b"p",)])


@pytest.mark.parametrize(
    ("at", "partition"),
    [
        ("2026-02-28T23:59:59.999999+00:00", f"{TABLE}_2026_02"),
        ("2026-03-01T00:00:00+00:00", f"{TABLE}_2026_03"),
        ("2026-03-01T00:30:00+01:00", f"{TABLE}_2026_02"),
        ("2026-12-31T23:59:59+00:00", f"{TABLE}_2026_12"),
    ],
)
@on_postgres
@db
def test_an_entry_goes_where_its_instant_is_in_utc(at: str, partition: str) -> None:
    tenant = made_history(entries=1, tenants=1, days=1)[0]
    placed = place_call(tenant, tenant.keys.get(), datetime.fromisoformat(at), cost_ticks=5, is_estimated=True)
    keep_months(NOW)
    later = place_call(tenant, tenant.keys.get(), datetime.fromisoformat(at), cost_ticks=5, is_estimated=True)
    ids = set(LedgerEntry.objects.filter(call_id__in=[placed.pk, later.pk]).values_list("pk", flat=True))
    assert len(ids) == 2
    assert ids <= in_table(partition)
    assert not in_table(DEFAULT)


@on_postgres
@db
def test_what_was_there_before_moves_into_its_month_and_old_months_go_when_they_are_empty() -> None:
    made_history(entries=600, tenants=2, days=130)
    before = everything()
    assert len(in_table(DEFAULT)) == 600
    kept = keep_months(NOW)
    assert len(kept.made) == 7
    assert kept.dropped == []
    assert not in_table(DEFAULT)
    assert everything() == before
    assert_the_books_balance()

    assert keep_months(NOW) == Kept()
    november, december = f"{TABLE}_2025_11", f"{TABLE}_2025_12"
    retain(NOW, KEPT)
    assert not in_table(november)
    assert in_table(december)
    assert keep_months(NOW) == Kept(dropped=[november])
    assert_the_books_balance()
    retain(NOW + timedelta(days=6), KEPT)
    assert keep_months(NOW).dropped == [december]
    assert partitions._months()[0].partition == f"{TABLE}_2026_01"
    assert_the_books_balance()


@on_postgres
@db
def test_an_empty_month_stays_until_nothing_can_be_entered_into_it() -> None:
    tenant = made_history(entries=1, tenants=1, days=1)[0]
    keep_months(NOW)
    assert keep_months(NOW + timedelta(days=40)).dropped == []  # no tenant's days were ever summed
    catch_up(NOW)
    RollupMark.objects.update(through=APRIL.next.starts_at - timedelta(minutes=15))
    assert keep_months(NOW + timedelta(days=40)).dropped == []
    RollupMark.objects.update(through=APRIL.next.starts_at)
    assert keep_months(NOW + timedelta(days=40)).dropped == [APRIL.partition]
    place_call(tenant, tenant.keys.get(), APRIL.starts_at, cost_ticks=5, is_estimated=True)
    assert keep_months(NOW + timedelta(days=40)).made == [APRIL.partition]


# One entry a reservation


@db
def test_a_reservation_ends_once_and_has_one_entry() -> None:
    """The key has the instant in it, too; but that is the reservation's own, which never changes."""
    keep_months(NOW)
    posting = Posting()
    (held,) = posting.post([reserve_of([limit_of(10**9)], 100)])
    assert isinstance(held, Held)
    posting.post([settle_of(held.reserved, 30)])
    keep_months(NOW)  # moves it
    (again,) = Posting().post([settle_of(held.reserved, 40)])
    assert isinstance(again, NotPending)
    (entry,) = LedgerEntry.objects.all()
    with pytest.raises(IntegrityError), transaction.atomic():
        LedgerEntry.objects.bulk_create([entry])
    assert LedgerEntry.objects.count() == 1


# Many at once


@many
def test_flush_empties_all_months() -> None:
    """As between tests."""
    keep_months(NOW)
    made_history(entries=50, tenants=1, days=60)
    keep_months(NOW)
    call_command("flush", interactive=False, verbosity=0, reset_sequences=False)
    assert not LedgerEntry.objects.exists()


TABLE_IDS = f"'{TABLE}'::regclass, '{DEFAULT}'::regclass"


def is_waiting() -> bool:
    return bool(rows_of(f"SELECT 1 FROM pg_locks WHERE NOT granted AND relation IN ({TABLE_IDS})"))


def settle_after(event: threading.Event, reserved: Reserved, at: datetime) -> list[Any]:
    try:
        event.wait(20)
        return Posting().post([settle_of(reserved, 30, at)])
    finally:
        connection.close()


def enter_while_its_month_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settle between the locks and the change: the settlement waits, and then goes on."""
    is_locked, now, day, run = threading.Event(), timezone.now(), timedelta(days=1), partitions._run
    (held,) = Posting().post([reserve_of([limit_of(10**9, starts_at=now - day, ends_at=now + day)], 100, now)])
    assert isinstance(held, Held)

    def run_when_somebody_waits(statement: str) -> None:
        if statement.startswith("CREATE TABLE") and not is_locked.is_set():
            is_locked.set()
            eventually(is_waiting)
        run(statement)

    monkeypatch.setattr(partitions, "_run", run_when_somebody_waits)
    with ThreadPoolExecutor(1) as pool:
        entered = pool.submit(settle_after, is_locked, held.reserved, now)
        keep_months(now)
        assert not isinstance(entered.result()[0], NotPending)


@on_postgres
@many
def test_without_the_guard_a_call_fails_while_its_month_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    lock = partitions._lock
    monkeypatch.setattr(partitions, "_lock", lambda table, mode: table == DEFAULT and lock(table, mode))
    with pytest.raises(IntegrityError, match="violates partition constraint"):
        enter_while_its_month_is_made(monkeypatch)


@on_postgres
@many
def test_with_it_the_call_is_entered_into_the_new_month(monkeypatch: pytest.MonkeyPatch) -> None:
    enter_while_its_month_is_made(monkeypatch)
    (entry,) = LedgerEntry.objects.all()
    assert in_table(Month.of(entry.at).partition) == {entry.pk}
    assert_the_books_balance()


def hold(statement: str, is_held: threading.Event, is_over: threading.Event) -> None:
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(statement)
            is_held.set()
            is_over.wait(20)
    finally:
        connection.close()


@on_postgres
@many
@pytest.mark.parametrize("statement", [f"SELECT 1 FROM {TABLE}", f"DELETE FROM {TABLE}"])
def test_who_is_busy_with_the_ledger_is_not_waited_for(statement: str) -> None:
    is_held, is_over = threading.Event(), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        holding = pool.submit(hold, statement, is_held, is_over)
        try:
            assert is_held.wait(20)
            assert keep_months(NOW) == Kept(busy=[MARCH.partition, APRIL.partition, MAY.partition])
        finally:
            is_over.set()
        holding.result()
    assert len(keep_months(NOW).made) == 3


@on_postgres
@many
def test_calls_and_retention_meanwhile_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Months are made of a full default partition, and dropped, while calls come and go."""
    monkeypatch.setattr(removal, "PAUSE_S", 0)
    monkeypatch.setattr(removal, "STEP", 40)
    made_history(entries=600, tenants=2, days=130)
    is_done = threading.Event()

    def remove() -> None:
        try:
            assert retain(NOW, KEPT)["entries"] > 0
        finally:
            is_done.set()
            connection.close()

    def call() -> int:
        posting, limits, calls = Posting(), [limit_of(10**9, starts_at=TODAY, ends_at=None)], 0
        try:
            while not is_done.is_set():
                (held,) = posting.post([reserve_of(limits, 100, NOW)])
                assert isinstance(held, Held)
                posting.post([settle_of(held.reserved, 30, NOW)])
                calls += 1
        finally:
            connection.close()
        return calls

    with ThreadPoolExecutor(2) as pool:
        removing, calling = pool.submit(remove), pool.submit(call)
        while not is_done.is_set():
            keep_months(NOW)
        removing.result()
        assert calling.result() > 0
    assert keep_months(NOW).busy == []
    assert not in_table(DEFAULT)
    assert LedgerEntry.objects.filter(tenant="acme").count() == calling.result()
    assert_the_books_balance()


# The migration


@many
def test_the_migration_keeps_what_is_there_and_can_be_undone(guard_server: StartServer) -> None:
    server = guard_server(start=False)
    with server.database():
        made_history(entries=300, tenants=1, days=70, now=timezone.now())
        made = keep_months(timezone.now()).made
        before = everything()
    for migration, kind in (("0004", "r"), ("0005", "p")):
        server.command("migrate", "spend", migration)
        with server.database():
            assert everything() == before
            if connection.vendor == "postgresql":
                assert rows_of(f"SELECT relkind::text FROM pg_class WHERE oid = '{TABLE}'::regclass") == [(kind,)]
                assert rows_of(f"SELECT count(*) FROM pg_indexes WHERE tablename = '{TABLE}'") == [(6,)]
    server.command("migrate", "spend")
    with server.database():
        assert keep_months(timezone.now()).made == made
        assert bool(made) == (connection.vendor == "postgresql")
        assert everything() == before
    audit_of(server)
