"""Settings, databases and servers of the tests.

`--db sqlite` (a file in a temporary directory) or `--db postgres` (a real server: the one at
GUARD_TEST_POSTGRES_URL, else a throwaway one).  Fixtures: `provider` plays the model providers,
`guard_server` starts the real guard.
"""

import os
import secrets
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pytest_django import DjangoDbBlocker

from tests.support.databases import Databases, databases_beside
from tests.support.environment import environment_of_tests
from tests.support.postgres import ThrowawayPostgres, with_database
from tests.support.provider import Provider

if TYPE_CHECKING:
    from tests.support.server import GuardServer

LISTENER = pytest.StashKey[socket.socket]()
DIRECTORY = pytest.StashKey[Path]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--db", choices=["sqlite", "postgres"], default="sqlite", help="the database to test on")


def pytest_configure(config: pytest.Config) -> None:
    """Fix the environment, and only then load Django's settings, which read it."""
    for name, meaning in (*COSTS.items(), ("once", ONCE)):
        config.addinivalue_line("markers", f"{name}: {meaning}")
    listener = config.stash[LISTENER] = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config.add_cleanup(listener.close)
    directory = config.stash[DIRECTORY] = Path(tempfile.mkdtemp(prefix="guard-tests-"))
    config.add_cleanup(lambda: shutil.rmtree(directory, ignore_errors=True))
    provider_url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    os.environ |= environment_of_tests(_database_url(config, directory), provider_url)

    from django.conf import settings

    database = settings.DATABASES["default"]
    # xdist's workers inherit the environment, and would load the settings before they have set up their own.
    del os.environ["DJANGO_SETTINGS_MODULE"]
    if config.getoption("db") == "sqlite":  # a file, as in production: Django's default would be in memory
        database.setdefault("TEST", {})["NAME"] = str(directory / "test.sqlite3")


def _database_url(config: pytest.Config, directory: Path) -> str:
    if config.getoption("db") == "sqlite":
        return f"sqlite:///{directory / 'guard.sqlite3'}"
    # xdist's workers inherit both from the process that starts them.
    if "GUARD_TEST_POSTGRES_URL" not in os.environ:
        server = ThrowawayPostgres()
        config.add_cleanup(server.stop)
        os.environ["GUARD_TEST_POSTGRES_URL"] = server.url
    run = os.environ.setdefault("GUARD_TEST_RUN", secrets.token_hex(3))
    return with_database(os.environ["GUARD_TEST_POSTGRES_URL"], f"guard_{run}")


COSTS = {
    "pure": "no database",
    "db": "the tests' database, in a transaction that is rolled back",
    "race": "the tests' database, with transactions that commit, and so several connections",
    "server": "processes of ours, with databases of their own",
    "browser": "Chromium, before such a server",
}
ONCE = "the same on every database, as all that is pure: run on SQLite only"


def cost_of(item: pytest.Item) -> str:
    """What a test costs; pytest-django holds one without its mark back from any database."""
    module, marker = sys.modules[item.obj.__module__], item.get_closest_marker("django_db")  # type: ignore[attr-defined]
    if hasattr(module, "chromium"):
        return "browser"
    if "databases" in getattr(item, "fixturenames", ()) or (marker is None and hasattr(module, "manage")):
        return "server"
    if marker is None:
        return "pure"
    return "race" if marker.kwargs.get("transaction") else "db"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark each test with what it costs, and leave out on Postgres what is the same there."""
    for item in items:
        item.add_marker(cost_of(item))
    if config.getoption("db") == "postgres":
        left_out = {item for item in items if item.get_closest_marker("pure") or item.get_closest_marker("once")}
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def provider_process(pytestconfig: pytest.Config) -> Iterator[Provider]:
    provider = Provider(pytestconfig.stash[LISTENER])
    yield provider
    provider.stop()


@pytest.fixture
def provider(provider_process: Provider) -> Provider:
    """The model providers, at the address in the settings; answers at once, until told otherwise."""
    provider_process.reset()
    return provider_process


@pytest.fixture(scope="session")
def databases(pytestconfig: pytest.Config) -> Iterator[Databases]:
    """Migrated databases for the servers that tests start."""
    from tests.support.server import manage

    run = f"guard_{os.environ.get('GUARD_TEST_RUN')}_{os.environ.get('PYTEST_XDIST_WORKER', 'main')}"
    databases = databases_beside(os.environ["DATABASE_URL"], run, pytestconfig.stash[DIRECTORY] / "servers")
    try:
        migrated = manage("migrate", "--verbosity=0", environment={"DATABASE_URL": databases.template_url})
        assert migrated.returncode == 0, migrated.stderr
        yield databases
    finally:
        databases.drop()


@pytest.fixture
def guard_server(
    databases: Databases, provider: Provider, tmp_path: Path, django_db_blocker: DjangoDbBlocker
) -> Iterator[Callable[..., Any]]:
    """Starts a guard on a fresh database: `guard_server(workers=2, HOLD_WAIT_SECONDS="0.5")`.

    With `start=False` the test starts it, after it has written rows for which it then needn't wait.
    """
    with servers_on_copies_of(databases, tmp_path, django_db_blocker) as make:
        yield make


@pytest.fixture(scope="module")
def module_server(
    databases: Databases,
    provider_process: Provider,
    tmp_path_factory: pytest.TempPathFactory,
    django_db_blocker: DjangoDbBlocker,
) -> Iterator[Callable[..., Any]]:
    """Like `guard_server`, for servers that the tests of a module share."""
    with servers_on_copies_of(databases, tmp_path_factory.mktemp("servers"), django_db_blocker) as make:
        yield make


@contextmanager
def servers_on_copies_of(
    databases: Databases, logs: Path, blocker: DjangoDbBlocker
) -> Iterator[Callable[..., "GuardServer"]]:
    """A maker of servers, all of which are stopped in the end."""
    from tests.support.server import GuardServer

    servers: list[GuardServer] = []

    def make(*, workers: int = 1, start: bool = True, **environment: str) -> GuardServer:
        log_path = logs / f"server-{len(servers)}.log"
        servers.append(GuardServer(databases.copy(), log_path, blocker, workers, **environment))
        if start:
            servers[-1].start()
        return servers[-1]

    yield make
    for server in servers:
        server.close()
