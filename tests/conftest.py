"""Settings, databases and servers of the tests.

`--db sqlite` (a file in a temporary directory) or `--db postgres` (a real server: the one at
GUARD_TEST_POSTGRES_URL, else a throwaway one).  It is migrated once in a run: each process of xdist, and
each server, has a copy.  Fixtures: `provider` plays the model providers,
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

from tests.support.databases import Databases, MadeByMigrating, PostgresDatabases, SqliteDatabases, first_of_the_run
from tests.support.environment import environment_of_tests
from tests.support.postgres import ThrowawayPostgres, drop_database, with_database
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
    os.environ.setdefault("GUARD_TEST_RUN_DIRECTORY", str(directory))
    provider_url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    os.environ |= environment_of_tests(_database_url(config, directory), provider_url)

    from django.conf import settings

    settings.PASSWORD_HASHERS = ["tests.support.passwords.OneRound"]
    settings.WHITENOISE_AUTOREFRESH = True  # else each client of a test reads the directories of static files first
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
    url = os.environ["GUARD_TEST_POSTGRES_URL"]
    if "GUARD_TEST_RUN" not in os.environ:
        run = os.environ["GUARD_TEST_RUN"] = secrets.token_hex(3)
        config.add_cleanup(lambda: drop_database(url, f"guard_{run}_template"))
    return with_database(url, f"guard_{os.environ['GUARD_TEST_RUN']}")


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
def openid_process() -> Iterator[Any]:
    from tests.support.openid import OpenIdProvider

    provider = OpenIdProvider()
    yield provider
    provider.stop()


@pytest.fixture
def openid(openid_process: Any) -> Any:
    """The provider of single sign-on, which gets nothing wrong until it is told to."""
    openid_process.reset()
    return openid_process


@pytest.fixture(scope="session")
def databases(pytestconfig: pytest.Config) -> Iterator[Databases]:
    """Migrated databases, for the tests' own and for those of the servers that they start."""
    from django.db import connections

    from tests.support.server import manage

    databases = _databases(pytestconfig.stash[DIRECTORY] / "servers", Path(os.environ["GUARD_TEST_RUN_DIRECTORY"]))
    with first_of_the_run(Path(os.environ["GUARD_TEST_RUN_DIRECTORY"]) / "migrated") as is_first:
        if is_first:
            migrated = manage("migrate", "--verbosity=0", environment={"DATABASE_URL": databases.create_template()})
            assert migrated.returncode == 0, migrated.stderr
    yield databases
    connections.close_all()
    databases.drop()


def _databases(directory: Path, of_the_run: Path) -> Databases:
    """This process's copies, of the same kind, on Postgres of the same server, as the tests' own database."""
    url = os.environ["DATABASE_URL"]
    if url.startswith("sqlite"):
        return SqliteDatabases(directory, of_the_run / "template.sqlite3")
    run = f"guard_{os.environ['GUARD_TEST_RUN']}"
    process = f"{run}_{os.environ.get('PYTEST_XDIST_WORKER', 'main')}"
    return PostgresDatabases(with_database(url, "postgres"), process, f"{run}_template")


@pytest.fixture(scope="session")
def django_db_keepdb() -> bool:
    """pytest-django finds the tests' database, and neither makes nor drops it."""
    return True


@pytest.fixture(scope="session")
def django_db_modify_db_settings(django_db_modify_db_settings: None, databases: Databases) -> None:
    """Once it has its name in this process, the tests' database is a copy, too."""
    from django.conf import settings

    database = settings.DATABASES["default"]
    databases.copy(database.get("TEST", {}).get("NAME") or f"test_{database['NAME']}")


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None) -> Iterator[None]:
    """pytest-django empties all tables after each test that commits."""
    from django.core.management.sql import emit_post_migrate_signal

    signal = "django.core.management.commands.flush.emit_post_migrate_signal"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signal, MadeByMigrating(emit_post_migrate_signal))
        yield


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


@pytest.fixture(scope="session")
def session_server(
    databases: Databases,
    provider_process: Provider,
    tmp_path_factory: pytest.TempPathFactory,
    django_db_blocker: DjangoDbBlocker,
) -> Iterator[Callable[..., Any]]:
    """Like `guard_server`, for the two below."""
    with servers_on_copies_of(databases, tmp_path_factory.mktemp("servers"), django_db_blocker) as make:
        yield make


@pytest.fixture(scope="session")
def shared_server(session_server: Callable[..., Any]) -> Iterator[Any]:
    """A guard for all tests that need no settings of their own, and each of which has a tenant and models of its own.

    In the end its books must balance, and nothing was a defect.
    """
    server = session_server()
    yield server
    prove(server)


@pytest.fixture(scope="session")
def shared_pair(session_server: Callable[..., Any]) -> Iterator[Any]:
    """Like `shared_server`, of two workers."""
    server = session_server(workers=2)
    yield server
    prove(server)


def prove(server: "GuardServer") -> None:
    from tests.support.agents import audit

    audit(server)
    assert "Traceback" not in server.log, server.log


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
