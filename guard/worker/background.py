"""What runs beside the web processes: the beat that starts jobs, and workers for the task queue.

`manage.py serve` supervises one such process and starts it again should it die; with `BACKGROUND` off
it runs elsewhere, as a service of its own.  Deliveries have workers of their own, so that a long job
never keeps an alert from its channel, and two of them, so that a slow channel does not either.
"""

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from django.db import Error, InterfaceError, OperationalError, close_old_connections, connection
from django.utils import timezone
from django.utils.crypto import get_random_string
from django_tasks import DEFAULT_TASK_BACKEND_ALIAS
from django_tasks_db.management.commands.db_worker import Worker

from spend.jobs import JOBS
from spend.outage import DATABASE
from spend.schedule import beat, queues_with_tasks, uses_database_queue

logger = logging.getLogger(__name__)

BEAT_S = 1.0
POLL_S = 1.0
WATCH_S = 1.0
RESTART_S = 2.0
STOP_S = 20.0
QUEUES = ("default", "deliveries", "deliveries")
"""One worker each."""


class Background:
    """The background's threads. `run` returns once `stopping` is set, or `parent_id` is our parent no more."""

    def __init__(self, parent_id: int | None = None) -> None:
        self.parent_id = parent_id
        self.stopping = threading.Event()
        self.workers = [new_worker(queue) for queue in QUEUES] if uses_database_queue() else []
        self.wake_ups = [threading.Event() for _ in self.workers]

    def run(self) -> None:
        threads = [
            threading.Thread(target=self._work, args=each, daemon=True)
            for each in zip(self.workers, self.wake_ups, strict=True)
        ]
        for thread in threads:
            thread.start()
        while not self.stopping.wait(BEAT_S) and not self._is_orphan():
            self._beat()
        self._stop(threads)

    def _beat(self) -> None:
        close_old_connections()
        try:
            beat(JOBS, timezone.now())
            self._wake_workers()
        except (OperationalError, InterfaceError) as error:
            DATABASE.failed(error)
            connection.close()
        except Exception:
            logger.exception("the background missed a beat")
        else:
            DATABASE.is_over()

    def _wake_workers(self) -> None:
        """One cheap query for all: each that asked by itself would lock the queue, and SQLite's file, to look."""
        waiting = queues_with_tasks() if self.workers else set()
        for worker, wake_up in zip(self.workers, self.wake_ups, strict=True):
            if waiting & set(worker.queue_names):
                wake_up.set()

    def _work(self, worker: Worker, wake_up: threading.Event) -> None:
        """Do what is queued, each time that there is something."""
        while wake_up.wait() and not self.stopping.is_set():
            wake_up.clear()
            try:
                worker.run()
            except Error as error:
                DATABASE.failed(error)
                connection.close()
                self.stopping.wait(RESTART_S)
        connection.close()

    def _is_orphan(self) -> bool:
        return self.parent_id is not None and os.getppid() != self.parent_id

    def _stop(self, threads: list[threading.Thread]) -> None:
        """Let the tasks that run come to their end, if it is near."""
        self.stopping.set()
        for worker, wake_up in zip(self.workers, self.wake_ups, strict=True):
            worker.running = False
            wake_up.set()
        deadline = monotonic() + STOP_S
        for thread in threads:
            thread.join(max(0.0, deadline - monotonic()))
        connection.close()


def new_worker(queue: str) -> Worker:
    return Worker(
        queue_names=[queue],
        interval=POLL_S,
        batch=True,  # it ends when its queue is empty
        backend_name=DEFAULT_TASK_BACKEND_ALIAS,
        startup_delay=False,
        max_tasks=None,
        worker_id=get_random_string(32),
        excluded_queue_names=[],
    )


@contextmanager
def supervised_background() -> Iterator[None]:
    """Runs the background in a process of its own while the block runs, and stops it with the block."""
    stopping = threading.Event()
    supervisor = threading.Thread(target=_supervise, args=[stopping], name="supervisor", daemon=True)
    supervisor.start()
    try:
        yield
    finally:
        stopping.set()
        supervisor.join()


def _supervise(stopping: threading.Event) -> None:
    command = [sys.executable, sys.argv[0], "background", "--parent", str(os.getpid())]
    while not stopping.is_set():
        child = subprocess.Popen(command)  # noqa: S603
        while child.poll() is None and not stopping.wait(WATCH_S):
            pass
        if child.returncode is None:
            _stop_child(child)
        elif not stopping.wait(RESTART_S):
            logger.error("the background ended with status %s; starting it again", child.returncode)


def _stop_child(child: "subprocess.Popen[bytes]") -> None:
    child.terminate()
    try:
        child.wait(STOP_S + BEAT_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
