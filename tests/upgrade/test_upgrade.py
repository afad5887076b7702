"""A database of the first version, with calls, holds and queued tasks in it, goes on under the present one.

`first_version.json` was made by that version, not by hand: its server and the demo provider served four calls, one of
them under an Idempotency-Key, and it was killed in the midst of two streams. An alert was raised and its delivery
queued, as was each job. All times were moved a year back, whole.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.apps.registry import Apps
from django.core.management.color import no_style
from django.db import connections, transaction
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone
from django_tasks import TaskResultStatus
from django_tasks_db.models import DBTaskResult
from pytest_django import DjangoDbBlocker

from guard.chat.idempotency import unpack
from spend.ledger.leases import reserved_of
from spend.ledger.posting import Posting
from spend.ledger.rules import Ended
from spend.models import Delivery, DeliveryState, IdempotentCall, LedgerEntry, Reservation, ReservationState, Window
from spend.summaries.daily import catch_up, misfits
from spend.summaries.reports import GroupBy, Selection, report
from tests.support.agents import audit as audit_of
from tests.support.commands import settle_of
from tests.support.databases import Databases
from tests.support.server import GuardServer

FIRST = [("tenants", "0001_initial"), ("spend", "0002_initial")]
OTHERS = ("auth", "django_tasks_database")
ROWS: list[dict[str, Any]] = json.loads((Path(__file__).parent / "first_version.json").read_text())
SPENT, HELD = 3_997_000, 26_150_000  # of the four calls, and by each stream


@pytest.fixture
def server(databases: Databases, tmp_path: Path, django_db_blocker: DjangoDbBlocker) -> GuardServer:
    """With a database of the first version."""
    server = GuardServer(databases.empty(), tmp_path / "log", django_db_blocker)
    with server.connected():
        fill(connections["default"])
    return server


def fill(connection: Any) -> None:
    executor = MigrationExecutor(connection)
    leaves = [leaf for app in OTHERS for leaf in executor.loader.graph.leaf_nodes(app)]
    apps = executor.migrate([*FIRST, *leaves]).apps
    with transaction.atomic():
        for row in ROWS:
            made(apps, **row)
        models = [apps.get_model(label) for label in dict.fromkeys(row["model"] for row in ROWS)]
        with connection.cursor() as cursor:
            for statement in connection.ops.sequence_reset_sql(no_style(), models):
                cursor.execute(statement)


def made(apps: Apps, model: str, pk: Any, fields: dict[str, Any]) -> None:
    """A row in the schema that the migrations have reached."""
    kind = apps.get_model(model)
    row = kind(pk=kind._meta.pk.to_python(pk))
    for name, value in fields.items():
        field = kind._meta.get_field(name)
        setattr(row, field.attname, value if field.is_relation else field.to_python(value))
    row.save(force_insert=True)


def sums_of_windows() -> dict[tuple[str, str, str], tuple[int, int]]:
    return {
        (window.scope, window.subject, window.period): (window.spent_ticks, window.held_ticks)
        for window in Window.objects.filter(tenant_id="acme-corp")
    }


def sums_by_customer() -> Iterator[tuple[str, int]]:
    for (customer, _), sums in report(Selection("acme-corp"), GroupBy.CUSTOMER).groups.items():
        yield customer, sums.cost_ticks


def test_a_database_of_the_first_version_goes_on(server: GuardServer) -> None:
    server.command("migrate")
    audit_of(server)
    with server.database():
        found = report(Selection("acme-corp"))
        assert (found.totals.cost_ticks, found.totals.calls) == (SPENT, 4)
        assert dict(sums_by_customer()) == {"ann": 2_350_000, "bob": 1_647_000}
        assert sums_of_windows()["tenant", "", "month"] == (SPENT, 2 * HELD)
        assert unpack(IdempotentCall.objects.get().answer)["completion"]["choices"]
        settle_one()
        late = reserved_of(Reservation.objects.get(customer="cleo"))
    run_the_tasks(server)
    with server.database():
        assert Delivery.objects.get().state == DeliveryState.DELIVERED
        assert Reservation.objects.get(customer="cleo").state == ReservationState.EXPIRED
        Posting().post([settle_of(late, 2_000_000)])  # the bill of an expired hold, which comes late
        assert dict(sums_by_customer()) == {"ann": 2_350_000, "bob": 1_647_000, "dora": 1_000_000, "cleo": 2_000_000}
        assert set(sums_of_windows().values()) >= {(SPENT + 3_000_000, 0)}
        catch_up(timezone.now())
        assert misfits() == []
    audit_of(server)


def settle_one() -> None:
    (ended,) = Posting().post([settle_of(reserved_of(Reservation.objects.get(customer="dora")), 1_000_000)])
    assert isinstance(ended, Ended)
    assert LedgerEntry.objects.get(customer="dora").cost_ticks == 1_000_000
    assert sums_of_windows()["customer", "dora", "day"] == (1_000_000, 0)
    assert sums_of_windows()["tenant", "", "day"] == (SPENT + 1_000_000, HELD)


def run_the_tasks(server: GuardServer) -> None:
    worked = server.manage("db_worker", "--batch", "--queue-name", "*")
    assert worked.returncode == 0, worked.stderr
    with server.database():
        queued = {row["pk"] for row in ROWS if row["model"].startswith("django_tasks")}
        tasks = DBTaskResult.objects.filter(pk__in=queued)
        assert {task.task_path: task.traceback for task in tasks if task.status != TaskResultStatus.SUCCESSFUL} == {}
        assert len(tasks) == len(queued)
