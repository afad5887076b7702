"""Periodic jobs: which are due, each given to one process only.

A row a job says when it is due next.  Whoever moves that instant on, by one conditional update, has
the job for this time; so any number of processes may beat on one database.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from django.db import transaction
from django_tasks import DEFAULT_TASK_BACKEND_ALIAS, task_backends
from django_tasks.base import Task
from django_tasks_db import DatabaseBackend
from django_tasks_db.models import DBTaskResult

from spend.models import Schedule

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """Something done every so often: a task that a worker runs, or a quick function that the beat itself runs."""

    name: str
    every: timedelta
    work: Task[[], Any] | Callable[[], Any]


def make_schedules(jobs: Iterable[Job], now: datetime) -> None:
    """A row for each job that has none; it is due at once."""
    Schedule.objects.bulk_create([Schedule(job=job.name, due_at=now) for job in jobs], ignore_conflicts=True)


def beat(jobs: Sequence[Job], now: datetime) -> list[str]:
    """Start the jobs that are due, or new, and that no other process took; their names."""
    due_at = dict(Schedule.objects.values_list("job", "due_at"))
    if new := [job for job in jobs if job.name not in due_at]:
        make_schedules(new, now)
    return [job.name for job in jobs if due_at.get(job.name, now) <= now and _start_safely(job, now)]


def _start_safely(job: Job, now: datetime) -> bool:
    """One job's failure keeps no other from its turn."""
    try:
        return _start(job, now)
    except Exception:
        logger.exception("the job %r failed", job.name)
        return False


def _start(job: Job, now: datetime) -> bool:
    with transaction.atomic():
        if not claim(job, now):
            return False
        if isinstance(job.work, Task):
            if not is_waiting(job.work):
                enqueue(job.work)
            return True
    job.work()
    return True


def claim(job: Job, now: datetime) -> bool:
    """Take a job that is due; only one process succeeds."""
    due = Schedule.objects.filter(job=job.name, due_at__lte=now)
    return bool(due.update(due_at=now + job.every, started_at=now))


def is_waiting(task: Task[..., Any]) -> bool:
    """Whether it is queued already, so that a worker that was away finds one of each and not hundreds."""
    if not uses_database_queue():
        return False
    return bool(DBTaskResult.objects.ready().filter(task_path=task.module_path).exists())


def enqueue(task: Task[..., Any], *args: Any) -> None:
    """Queue a task for what the present transaction writes.

    The database's queue takes it in that transaction: both or neither. Another engine may run it at once,
    and so hears of it once the transaction is committed; what it then loses is due again later.
    """
    if uses_database_queue():
        task.enqueue(*args)
    else:
        transaction.on_commit(partial(task.enqueue, *args))


def queues_with_tasks() -> set[str]:
    """The names of the database's queues in which a task is due."""
    return set(DBTaskResult.objects.ready().order_by().values_list("queue_name", flat=True).distinct())


def uses_database_queue() -> bool:
    return isinstance(task_backends[DEFAULT_TASK_BACKEND_ALIAS], DatabaseBackend)
