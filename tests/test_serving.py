"""`manage.py serve` as its users meet it: it starts, answers, stops in order, comes back, and refuses to start."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from spend.models import LedgerEntry
from tests.factories import ApiKeyFactory, RouteStepFactory
from tests.support.provider import Provider
from tests.support.server import GuardServer, manage

StartServer = Callable[..., GuardServer]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_call_goes_through_and_stands_in_the_ledger(
    guard_server: StartServer, provider: Provider, workers: int
) -> None:
    server = guard_server(workers=workers, start=False)
    with server.database():
        key = ApiKeyFactory.create()
        model = RouteStepFactory.create(tenant=key.tenant).model
    server.start()
    provider.behave(usage={"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30})
    body = {"model": model.id, "messages": [{"role": "user", "content": "Hello there"}]}
    answer = server.client_of(key.secret).post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    assert len(provider.calls(model.id)) == 1
    with server.database():
        assert LedgerEntry.objects.get().cost_ticks == 10 * 12_500 + 20 * 25_000


def test_stops_in_order_and_comes_back_at_the_same_address(guard_server: StartServer) -> None:
    server = guard_server()
    assert server.terminate() in (0, -signal.SIGTERM)
    with pytest.raises(requests.ConnectionError):
        server.client.get("/api/health")
    server.restart()
    assert server.client.get("/api/health").json()["status"] == "ok"


@pytest.mark.parametrize("only", [["--check-port"], []])
def test_a_port_in_use_is_said_before_anything_else(guard_server: StartServer, only: list[str]) -> None:
    server = guard_server()
    second = server.manage("serve", *only, DEBUG="true")
    assert second.returncode != 0
    assert second.stdout == ""
    assert second.stderr == f"CommandError: Port {server.port} is in use; set PORT to another.\n"
    server.terminate()
    assert server.manage("serve", "--check-port").returncode == 0


def test_says_nothing_of_directories_that_are_not_needed(guard_server: StartServer) -> None:
    server = guard_server(DEBUG="true")
    assert server.client.get("/static/dashboard/dashboard.css").status_code == 200
    assert "No directory" not in server.log


def test_comes_back_after_a_crash(guard_server: StartServer) -> None:
    server = guard_server(workers=2)
    server.kill()
    with pytest.raises(requests.ConnectionError):
        server.client.get("/api/health")
    server.restart()
    assert server.client.get("/api/health").ok


def test_two_servers_have_two_databases(guard_server: StartServer) -> None:
    one, other = guard_server(), guard_server()
    with one.database():
        key = ApiKeyFactory.create()
    assert one.client_of(key.secret).get("/api/budget").status_code == 200
    assert other.client_of(key.secret).get("/api/budget").status_code == 401


def test_does_not_serve_on_a_database_that_lacks_migrations(tmp_path: Path) -> None:
    started = manage("serve", environment={"DATABASE_URL": f"sqlite:///{tmp_path / 'empty.sqlite3'}"})
    assert started.returncode != 0
    assert "lacks migrations" in started.stderr
