"""The health checks of a running server, and what they say while it lacks something."""

import asyncio
import http.client
import tomllib
from collections.abc import Callable
from io import BytesIO
from types import SimpleNamespace

import pytest
import requests
from django.core.handlers.asgi import ASGIRequest
from django.db import connection

from guard import __version__
from guard.api.views.health import HEALTH_VIEWS
from guard.config.migrations import missing_migrations
from guard.policy.keeper import PolicyKeeper
from guard.worker.readiness import Readiness
from tests.support.agents import eventually
from tests.support.environment import ROOT
from tests.support.server import GuardServer

CHECKS = ("/api/health", "/api/health/live", "/api/health/ready")
SECRETS = ("postgres", "sqlite", "127.0.0.1", "spend", "tenants", "Error", "relation", "table")


@pytest.fixture(scope="module")
def server(module_server: Callable[..., GuardServer]) -> GuardServer:
    server: GuardServer = module_server()
    return server


def check(server: GuardServer, path: str, host: str = "10.1.2.3:8000", method: str = "GET") -> requests.Response:
    return server.client.request(method, path, headers={"Host": host})


def missing(server: GuardServer) -> list[str]:
    answer = check(server, "/api/health/ready")
    assert answer.status_code == (503 if answer.json()["missing"] else 200)
    found: list[str] = answer.json()["missing"]
    return found


@pytest.mark.parametrize("path", CHECKS)
@pytest.mark.parametrize("host", ["10.1.2.3:8000", "guard.internal", "", "a b", "["])
def test_each_is_answered_whatever_the_host_says(server: GuardServer, path: str, host: str) -> None:
    answer = check(server, path, host)
    assert answer.status_code == 200, answer.text
    assert (answer.json()["status"], answer.json()["version"]) == ("ok", __version__)
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("path", CHECKS)
def test_each_takes_head_and_no_other_method(server: GuardServer, path: str) -> None:
    head = check(server, path, method="HEAD")
    assert (head.status_code, head.content) == (200, b"")
    assert check(server, path, method="POST").status_code == 405


@pytest.mark.parametrize("path", CHECKS)
def test_a_wrong_key_closes_none(server: GuardServer, path: str) -> None:
    assert server.client.get(path, headers={"Authorization": "Bearer grd_wrong"}).ok


def test_each_without_a_host(server: GuardServer) -> None:
    """As HTTP/1.0 allows, and simple checkers do."""
    for path in CHECKS:
        bare = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        bare.putrequest("GET", path, skip_host=True)
        bare.endheaders()
        assert bare.getresponse().status == 200
        bare.close()


def test_the_version_is_the_projects() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == __version__


def test_what_health_says_of_the_database(server: GuardServer) -> None:
    body = server.client.get("/api/health").json()
    assert set(body) == {"status", "database", "uptime", "version"}
    assert body["database"] == "ok"
    assert isinstance(body["uptime"], int)


def test_ready_names_the_database_while_it_is_away(server: GuardServer) -> None:
    """Without the table that is asked for each time: to a worker the same, on every database."""
    with server.database(wait=False), connection.cursor() as cursor:
        cursor.execute("ALTER TABLE spend_breaker RENAME TO elsewhere")
    eventually(lambda: missing(server) == ["database"])
    health = check(server, "/api/health")
    assert (health.status_code, health.json()["status"]) == (503, "unavailable")
    assert check(server, "/api/health/live").ok, "a new process would not bring the database back"
    for path in CHECKS:
        assert not any(secret in check(server, path).text.replace('"database"', "") for secret in SECRETS)
    with server.database(wait=False), connection.cursor() as cursor:
        cursor.execute("ALTER TABLE elsewhere RENAME TO spend_breaker")
    eventually(lambda: missing(server) == [])
    assert check(server, "/api/health").ok
    assert server.log.count("the database cannot be used") == server.log.count("the database can be used again") == 1


def test_ready_names_migrations_that_are_not_applied(server: GuardServer) -> None:
    with server.database(wait=False), connection.cursor() as cursor:
        assert missing_migrations() == []
        cursor.execute("UPDATE django_migrations SET app = 'elsewhere' WHERE app = 'spend'")
        assert missing_migrations()[0] == "spend.0001_initial"
    eventually(lambda: missing(server) == ["migrations"])
    assert check(server, "/api/health/live").ok
    with server.database(wait=False), connection.cursor() as cursor:
        cursor.execute("UPDATE django_migrations SET app = 'spend' WHERE app = 'elsewhere'")
    eventually(lambda: missing(server) == [])


@pytest.mark.parametrize("path", CHECKS)
def test_to_be_asked_costs_no_query(path: str) -> None:
    """This test has no database: whatever asks one, in whichever thread, fails."""
    runtime = SimpleNamespace(readiness=Readiness(PolicyKeeper()))
    scope = {"type": "http", "method": "GET", "path": path, "headers": [], "state": {"runtime": runtime}}
    answer = asyncio.run(HEALTH_VIEWS[path](ASGIRequest(scope, BytesIO())))
    assert answer.status_code == (200 if path.endswith("live") else 503)


def test_to_be_asked_often_leaves_no_line_in_the_log(server: GuardServer) -> None:
    log = server.log
    for path in CHECKS:
        for _ in range(20):
            assert check(server, path).ok
    assert server.log == log
