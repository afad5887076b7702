"""The background: jobs start once each time, run by the queue's workers, beside the server and with it."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import transaction
from django.test import Client
from django.utils import timezone
from django_tasks import TaskResult, TaskResultStatus, task
from django_tasks.base import Task
from django_tasks.signals import task_finished
from django_tasks_db.models import DBTaskResult

from guard.worker.background import Background, new_worker
from spend.alerts.deliveries import dispatch
from spend.jobs import JOBS, clear_tasks
from spend.ledger.posting import Posting
from spend.models import Alert, Delivery, Reservation, Schedule
from spend.schedule import Job, beat, claim, make_schedules
from tenants.models import AlertChannel
from tests.factories import UserFactory
from tests.support.commands import limit_of, reserve_of
from tests.support.race import at_once, on_postgres
from tests.support.server import GuardServer
from tests.support.sink import http_sink

StartServer = Callable[..., GuardServer]


@task
def note_run() -> str:
    return "ran"


@task
def fail() -> None:
    raise ValueError("this job always fails")


JOB = Job("test job", timedelta(hours=1), note_run)


def wait_for(is_so: Callable[[], Any], timeout_s: float = 60) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (found := is_so()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)
    return found


def work(queue: str = "default") -> None:
    """Run what is queued."""
    worker = new_worker(queue)
    worker.batch = True
    worker.run()


@pytest.mark.django_db
def test_a_new_job_is_due_at_its_first_beat() -> None:
    now = timezone.now()
    assert beat([JOB], now) == ["test job"]
    assert beat([JOB], now) == []
    assert Schedule.objects.get().due_at > now


@pytest.mark.django_db
def test_a_job_is_queued_when_it_is_due_and_not_before() -> None:
    now = timezone.now()
    make_schedules([JOB], now)
    assert beat([JOB], now) == ["test job"]
    assert beat([JOB], now + timedelta(minutes=59)) == []
    DBTaskResult.objects.all().delete()
    assert beat([JOB], now + timedelta(minutes=61)) == ["test job"]
    assert DBTaskResult.objects.get().task_path == "tests.guard.worker.test_background.note_run"


@pytest.mark.django_db
def test_a_job_that_still_waits_for_a_worker_is_not_queued_twice() -> None:
    now = timezone.now()
    make_schedules([JOB], now)
    for hours in range(5):
        beat([JOB], now + timedelta(hours=hours, minutes=1))
    assert DBTaskResult.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_a_worker_runs_what_is_queued_and_says_what_failed() -> None:
    note_run.enqueue()
    fail.enqueue()
    work()
    done = DBTaskResult.objects.get(status=TaskResultStatus.SUCCESSFUL)
    failed = DBTaskResult.objects.get(status=TaskResultStatus.FAILED)
    assert done.return_value == "ran"
    assert "this job always fails" in failed.traceback


@pytest.mark.django_db(transaction=True)
def test_every_real_job_runs_on_an_empty_installation() -> None:
    now = timezone.now()
    make_schedules(JOBS, now)
    assert sorted(beat(JOBS, now)) == sorted(job.name for job in JOBS)
    work()
    assert not DBTaskResult.objects.exclude(status=TaskResultStatus.SUCCESSFUL).exists()


@pytest.fixture
def immediate(settings: Any) -> None:
    """Another engine, which runs a task as soon as it hears of it."""
    settings.TASKS = {"default": {"BACKEND": "django_tasks.backends.immediate.ImmediateBackend", "QUEUES": []}}


@pytest.mark.django_db(transaction=True)
def test_another_engine_runs_every_job(immediate: None) -> None:
    results: list[TaskResult[Any]] = []

    def note(task_result: TaskResult[Any], **_: Any) -> None:
        results.append(task_result)

    now = timezone.now()
    make_schedules(JOBS, now)
    task_finished.connect(note)
    try:
        assert sorted(beat(JOBS, now)) == sorted(job.name for job in JOBS)
    finally:
        task_finished.disconnect(note)
    assert len(results) == sum(isinstance(job.work, Task) for job in JOBS)
    assert [result.errors for result in results if result.status != TaskResultStatus.SUCCESSFUL] == []
    assert Background().workers == []


@pytest.mark.django_db(transaction=True)
def test_another_engine_expires_holds(immediate: None) -> None:
    """Which needs a transaction of its own, and so cannot run inside the one that takes the job."""
    now = timezone.now()
    held = reserve_of([limit_of(1_000)], 100, now - timedelta(hours=1))
    Posting().post([held])
    make_schedules(JOBS, now)
    beat(JOBS, now)
    assert Reservation.objects.get().state == "expired"


@pytest.mark.django_db(transaction=True)
def test_another_engine_hears_of_a_delivery_once_it_is_claimed(immediate: None) -> None:
    now = timezone.now()
    with http_sink() as sink:
        channel = AlertChannel.objects.create(kind="webhook", target=sink.url)
        told = {"tenant_id": "acme", "scope": "tenant", "period": "day", "kind": "threshold", "spent_ticks": 1}
        alert = Alert.objects.create(**told, starts_at=now, at=now)
        Delivery.objects.create(alert=alert, channel=channel, due_at=now)
        with transaction.atomic():
            dispatch(now)
            assert sink.received == []
        assert len(sink.received) == 1
    assert Delivery.objects.get().state == "delivered"


@on_postgres
@pytest.mark.django_db(transaction=True)
def test_a_due_job_goes_to_one_process_only() -> None:
    def read_then_write() -> bool:
        """The guard taken out: read, decide, write."""
        if Schedule.objects.get(pk=JOB.name).due_at > now:
            return False
        time.sleep(0.05)
        Schedule.objects.filter(pk=JOB.name).update(due_at=now + JOB.every)
        return True

    now = timezone.now()
    make_schedules([JOB], now)
    assert sum(at_once(8, read_then_write)) > 1
    Schedule.objects.update(due_at=now)
    assert sum(at_once(8, claim, JOB, now)) == 1


@pytest.mark.django_db
def test_tasks_whose_worker_died_are_given_up_and_old_ones_forgotten() -> None:
    long_ago = timezone.now() - timedelta(days=40)
    for status in ("READY", "RUNNING", "FAILED", "SUCCESSFUL"):
        result = note_run.enqueue()
        DBTaskResult.objects.filter(pk=result.id).update(status=status, started_at=long_ago, finished_at=long_ago)
    assert clear_tasks.call() == "1 given up, 2 forgotten"
    assert sorted(DBTaskResult.objects.values_list("status", flat=True)) == ["FAILED", "READY"]


@pytest.mark.django_db(transaction=True)
def test_the_background_runs_both_queues_and_stops_when_told() -> None:
    background = Background()
    thread = threading.Thread(target=background.run)
    thread.start()
    try:
        for queue in ("default", "deliveries"):
            note_run.using(queue_name=queue).enqueue()
        done = DBTaskResult.objects.filter(task_path__endswith="note_run", status=TaskResultStatus.SUCCESSFUL)
        wait_for(lambda: done.count() == 2)
    finally:
        background.stopping.set()
        thread.join(30)
    assert not thread.is_alive()


@pytest.mark.django_db
def test_an_operator_sees_the_queue_and_runs_a_failed_task_again(client: Client) -> None:
    client.force_login(UserFactory.create(is_staff=True, is_superuser=True))
    result = fail.enqueue()
    DBTaskResult.objects.filter(pk=result.id).update(status="FAILED", traceback="Traceback …\nValueError: no luck")
    page = client.get("/admin/django_tasks_database/dbtaskresult/").content.decode()
    assert "ValueError: no luck" in page
    form = {"action": "run_again", "_selected_action": [result.id]}
    client.post("/admin/django_tasks_database/dbtaskresult/", form)
    assert DBTaskResult.objects.filter(status="READY", task_path__endswith=".fail").count() == 1
    make_schedules(JOBS, timezone.now())
    assert "roll up" in client.get("/admin/spend/schedule/").content.decode()


def background_of(server: GuardServer, besides: int = 0) -> int | None:
    """The id of the process that runs the server's background, and not one that was killed and is still going."""
    assert server.process
    found = subprocess.run(
        ["pgrep", "-P", str(server.process.pid), "-f", "background"], capture_output=True, text=True, check=False
    )
    return next((found_id for found_id in map(int, found.stdout.split()) if found_id != besides), None)


def is_alive(process_id: int) -> bool:
    """One that has ended, but that nobody has asked for its status, is a zombie."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(process_id)], capture_output=True, text=True, check=False)
    return state.stdout.strip() not in ("", "Z", "Zs")


def test_the_server_runs_it_starts_it_again_and_stops_it(guard_server: StartServer) -> None:
    server = guard_server(BACKGROUND="true")
    first = wait_for(lambda: background_of(server))
    with server.database():
        wait_for(lambda: DBTaskResult.objects.filter(status=TaskResultStatus.SUCCESSFUL).exists())
    os.kill(first, signal.SIGKILL)
    second = wait_for(lambda: background_of(server, besides=first))
    assert server.terminate() in (0, -signal.SIGTERM)
    assert not is_alive(second)


def test_it_ends_when_its_server_is_killed(guard_server: StartServer) -> None:
    server = guard_server(BACKGROUND="true")
    process_id = wait_for(lambda: background_of(server))
    assert server.process
    server.process.kill()
    server.process.wait()
    wait_for(lambda: not is_alive(process_id))
