"""A real PgBouncer in transaction mode on loopback, before a Postgres."""

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg

from tests.support.lacking import lacking
from tests.support.postgres import free_port, unprivileged_user

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
CONNECTIONS_TO_POSTGRES = 10
"""For a database: fewer than its clients have, so that they do share."""
START_TIMEOUT_S = 10

CONFIGURATION = """
[databases]
* = host={host} port={postgres_port} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {pool_size}
max_client_conn = 500
"""


class PgBouncer:
    """`url_of(database_url)` is the same database through it."""

    def __init__(self, postgres_url: str) -> None:
        self.program = PROGRAM or lacking("pgbouncer")
        self.directory = Path(tempfile.mkdtemp(prefix="guard-pgbouncer-"))
        self.port = free_port()
        self.user = unprivileged_user()
        postgres = urlsplit(postgres_url)
        (self.directory / "pgbouncer.ini").write_text(
            CONFIGURATION.format(
                host=postgres.hostname,
                postgres_port=postgres.port,
                port=self.port,
                pool_size=CONNECTIONS_TO_POSTGRES,
            )
        )
        if self.user:
            shutil.chown(self.directory, self.user.pw_uid, self.user.pw_gid)
        self.start()

    def start(self) -> None:
        rights: dict[str, Any] = {"user": self.user.pw_uid, "group": self.user.pw_gid} if self.user else {}
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [self.program, "pgbouncer.ini"], cwd=self.directory, stdout=log, stderr=log, **rights
            )
        self._wait_until_it_answers()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def url_of(self, database_url: str) -> str:
        return urlsplit(database_url)._replace(netloc=f"postgres@127.0.0.1:{self.port}").geturl()

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        admin = f"postgres://pgbouncer@127.0.0.1:{self.port}/pgbouncer"
        while True:
            try:
                psycopg.connect(admin, autocommit=True, connect_timeout=1).close()
            except psycopg.OperationalError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"PgBouncer did not start:\n{(self.directory / 'log').read_text()}") from None
                time.sleep(0.02)
            else:
                return
