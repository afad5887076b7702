"""The guard as its users run it: `manage.py serve` as a process, with a database of its own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import requests
from django.conf import settings
from django.core.management import call_command
from django.db import connections
from django.db.utils import ConnectionHandler
from pytest_django import DjangoDbBlocker

from guard.config.databases import database
from tests.support.environment import ROOT
from tests.support.postgres import free_port

START_TIMEOUT_S = 90
STOP_TIMEOUT_S = 30
CONFIGURATION_IS_READ_WITHIN_S = 1.0


def manage(*arguments: str, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command of manage.py under the tests' environment, changed by `environment`."""
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


class Client(requests.Session):
    """A session whose addresses are paths on one server. Its streams are closed with it, read to their end or not."""

    def __init__(self, url: str, secret: str | None = None) -> None:
        super().__init__()
        self.url = url
        self.streamed: list[requests.Response] = []
        if secret:
            self.headers["Authorization"] = f"Bearer {secret}"

    def request(self, method: str | bytes, url: str | bytes, *args: Any, **kwargs: Any) -> requests.Response:
        kwargs.setdefault("timeout", 60)
        answer = super().request(method, f"{self.url}{url!s}", *args, **kwargs)
        if kwargs.get("stream"):
            self.streamed.append(answer)
        return answer

    def close(self) -> None:
        for answer in self.streamed:
            answer.close()
        super().close()


class GuardServer:
    """A running guard. `client` sends no key; `client_of(secret)` sends one."""

    def __init__(
        self,
        database_url: str,
        log_path: Path,
        blocker: DjangoDbBlocker | None = None,
        workers: int = 1,
        **environment: str,
    ) -> None:
        """Starts nothing yet. `blocker` is for those who use `database`."""
        self.database_url, self.workers, self.log_path, self.blocker = database_url, workers, log_path, blocker
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {
            "DATABASE_URL": database_url,
            "PORT": str(self.port),
            "WORKERS": str(workers),
            **environment,
        }
        self.clients: list[Client] = []
        self.client = self.client_of(None)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", "serve"],
                cwd=ROOT,
                env={**os.environ, **self.environment},
                stdout=log,
                stderr=log,
                start_new_session=True,  # so that kill() reaches its workers, and not the tests
            )
        self._wait_until_it_answers()

    def kill(self) -> None:
        """SIGKILL to the server and its workers, as when the machine dies."""
        assert self.process
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def terminate(self) -> int:
        """SIGTERM, as at a deployment; waits until calls in flight have ended, and answers the exit status."""
        assert self.process
        self.process.terminate()
        return self.process.wait(timeout=STOP_TIMEOUT_S)

    def restart(self) -> None:
        """Start it again at the same address, stopping it first if it runs."""
        if self.is_running:
            self.terminate()
        self.start()

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def manage(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command of manage.py on this server's database, as its users do: a process, which takes two seconds."""
        return manage(*arguments, environment={**self.environment, **environment})

    def command(self, name: str, *arguments: str) -> str:
        """What a command of manage.py prints on this server's database, run here, and so under the tests' settings.

        Raises CommandError.
        """
        printed = StringIO()
        with self.connected():
            call_command(name, *arguments, stdout=printed)
        return printed.getvalue()

    def client_of(self, secret: str | None) -> Client:
        self.clients.append(Client(self.url, secret))
        return self.clients[-1]

    @contextmanager
    def database(self, *, wait: bool = True) -> Iterator[None]:
        """Inside, the ORM in this thread (and so every factory) reads and writes this server's database.

        Where that changed the configuration of a running server, it returns once every worker knows,
        unless told not to wait for that.
        """
        from tenants.models import Revision

        with self.connected():
            before = Revision.current()
            yield
            is_changed = Revision.current() != before
        if wait and is_changed and self.is_running:
            self.wait_until_it_is_read()

    def wait_until_it_is_read(self) -> None:
        """Until every worker knows the configuration and the breakers as they are.

        One reads both before it refuses a key that it does not know. Of several none can be asked in particular.
        """
        from tenants.models import KEY_PREFIX

        unknown = {"Authorization": f"Bearer {KEY_PREFIX}that-nobody-has"}
        asked = self.client.post("/api/chat", json={}, headers=unknown) if self.workers == 1 else None
        if asked is None or asked.status_code != 401:
            time.sleep(CONFIGURATION_IS_READ_WITHIN_S)

    @contextmanager
    def connected(self) -> Iterator[None]:
        """As `database`, for one that need not have a table yet."""
        from django.contrib.contenttypes.models import ContentType

        assert self.blocker
        default = {**settings.DATABASES["default"], **database(self.database_url)}
        theirs = ConnectionHandler({"default": default})["default"]
        ours = connections["default"]
        with self.blocker.unblock():
            connections["default"] = theirs
            ContentType.objects.clear_cache()  # its ids are this database's, and not the other's
            try:
                yield
            finally:
                connections["default"] = ours
                ContentType.objects.clear_cache()
                theirs.close()

    def close(self) -> None:
        """The end of the test: stop in an orderly way if that still can be, else by force."""
        for client in self.clients:
            client.close()
        if not self.is_running:
            return
        try:
            self.terminate()
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._is_healthy():
            if not self.is_running or time.monotonic() > deadline:
                raise RuntimeError(f"The server did not start:\n{self.log}")
            time.sleep(0.05)

    def _is_healthy(self) -> bool:
        try:
            return self.client.get("/api/health", timeout=30).ok
        except requests.ConnectionError:
            return False
