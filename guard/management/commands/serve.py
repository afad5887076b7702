"""Serve the guard, production-like: one process on SQLite, one a core on Postgres."""

import errno
import logging
import resource
import signal
import socket
import sys
from contextlib import nullcontext
from math import ceil
from typing import Any

import uvicorn
from django.conf import settings
from django.core.checks import Tags
from django.core.management.base import BaseCommand, CommandError
from django.db import connections
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors.multiprocess import Multiprocess

from guard.config.deploy_checks import check_pooler
from guard.config.migrations import missing_migrations
from guard.http.connection import BoundedConnection
from guard.worker.background import supervised_background

logger = logging.getLogger(__name__)

BACKLOG = 4096
KEEP_ALIVE_S = 75
"""Longer than clients and load balancers keep an idle connection: closed sooner, it may be closed in use."""
SETTLE_S = 5
"""How much longer than its provider a call may take when the server stops."""
WORKER_STARTS_IN_S = 60
"""In which a new worker must be ready that is to replace one."""
WORKER_ANSWERS_IN_S = 5
"""After which one that is silent is killed. While it is waited for nobody hears a signal."""
MOST_FILES = 10_240
"""A guarded call takes two sockets, and many systems allow a process 1,024 files unless it asks for more."""


class Command(BaseCommand):
    help = "Serve the guard with the environment as given (PORT, WORKERS). Migrates nothing."

    def add_arguments(self, parser: Any) -> None:
        parser.add_argument("--host", default="127.0.0.1" if settings.DEBUG else "0.0.0.0")  # noqa: S104
        parser.add_argument("--check-port", action="store_true", help="Only say whether PORT is free, and end.")

    def handle(self, *args: Any, **options: Any) -> None:
        refuse_busy_port(options["host"])
        if options["check_port"]:
            return
        self.check(databases=["default"], tags=[Tags.models, Tags.urls, Tags.security])
        refuse_missing_migrations()
        warn_of_pooler()
        allow_many_files()
        # uvicorn ends by the signal that stopped it; as an exception it lets the background be stopped too.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        if settings.DEBUG:
            self.stdout.write(f"\nServing http://localhost:{settings.PORT}/ until Ctrl+C.\n")
            self.stdout.flush()
        with supervised_background() if settings.BACKGROUND else nullcontext():
            run_server(options["host"])


def run_server(host: str) -> None:
    """Until a signal stops it. Exits with an error where it cannot start."""
    options: dict[str, Any] = {
        "host": host,
        "port": settings.PORT,
        "workers": settings.WORKERS,
        "loop": "uvloop",
        "http": BoundedConnection,
        "ws": "none",
        "lifespan": "on",
        "backlog": BACKLOG,
        "access_log": False,
        "timeout_keep_alive": KEEP_ALIVE_S,
        # A call that was just sent is still answered. Then clients that stalled are dropped and streams are cut,
        # and what was paid for is settled all the same: the runtime waits for that.
        "timeout_graceful_shutdown": ceil(settings.PROVIDER_TIMEOUT_SECONDS) + SETTLE_S,
        "timeout_worker_healthcheck": WORKER_ANSWERS_IN_S,
        "proxy_headers": False,  # `guard.http.proxies` reads them, from TRUSTED_PROXIES only
        "server_header": False,
        "log_config": None,
        "log_level": "warning",
    }
    if settings.WORKERS == 1:
        uvicorn.run("guard.asgi:application", **options)
        return
    config = uvicorn.Config("guard.asgi:application", **options)
    workers = Workers(config, [config.bind_socket()])
    workers.run()
    if workers.have_failed:
        raise CommandError("A worker could not start, and said why above.")


class Workers(Multiprocess):
    """The web processes. One that dies is replaced; one that cannot start stops all."""

    @property
    def have_failed(self) -> bool:
        return any(process.exitcode == STARTUP_FAILURE for process in self.processes)

    def keep_subprocess_alive(self) -> None:
        for process in self.processes:
            process.child_conn.close()  # the worker's end: while it is open here, too, its death is not heard
        before = list(self.processes)
        super().keep_subprocess_alive()
        for old, new in zip(before, self.processes, strict=True):
            if old is not new:
                logger.error("worker %s ended with status %s; %s takes its place", old.pid, old.exitcode, new.pid)

    def restart_all(self) -> None:
        self.config.timeout_worker_healthcheck = WORKER_STARTS_IN_S
        try:
            super().restart_all()
        finally:
            self.config.timeout_worker_healthcheck = WORKER_ANSWERS_IN_S


def refuse_busy_port(host: str) -> None:
    """Before anything is printed or made that a server which cannot start would belie."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, settings.PORT, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except OSError as error:
        why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be had on {host} ({error.strerror})"
        raise CommandError(f"Port {settings.PORT} {why}; set PORT to another.") from None


def refuse_missing_migrations() -> None:
    if missing := missing_migrations():
        raise CommandError(f"The database lacks migrations ({', '.join(missing[:3])} …). Run: manage.py migrate")


def warn_of_pooler() -> None:
    for warning in check_pooler():
        logger.warning("%s %s", warning.msg, warning.hint)
    connections["default"].close()


def allow_many_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
