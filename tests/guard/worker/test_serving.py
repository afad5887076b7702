"""`manage.py serve` as its users meet it: it starts, answers, stops in order, comes back, and refuses to start."""

import os
import signal
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import requests
from django.db import connections

from spend.models import LedgerEntry, Reservation, ReservationState
from tests.factories import ApiKeyFactory, RouteStepFactory
from tests.support.agents import Agent, eventually, upstream
from tests.support.provider import Provider
from tests.support.server import GuardServer, manage

StartServer = Callable[..., GuardServer]


@pytest.mark.parametrize("shared", ["shared_server", "shared_pair"])
def test_a_call_goes_through_and_stands_in_the_ledger(
    request: pytest.FixtureRequest, provider: Provider, shared: str
) -> None:
    server: GuardServer = request.getfixturevalue(shared)
    with server.database():
        key = ApiKeyFactory.create()
        model = RouteStepFactory.create(tenant=key.tenant).model
    provider.behave(usage={"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30})
    body = {"model": model.id, "messages": [{"role": "user", "content": "Hello there"}]}
    answer = server.client_of(key.secret).post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    assert len(provider.calls(model.id)) == 1
    with server.database():
        assert LedgerEntry.objects.get(tenant_id=key.tenant_id).cost_ticks == 10 * 12_500 + 20 * 25_000


def test_stops_in_order_and_comes_back_at_the_same_address(guard_server: StartServer) -> None:
    server = guard_server()
    assert server.terminate() in (0, -signal.SIGTERM)
    with pytest.raises(requests.ConnectionError):
        server.client.get("/api/health")
    assert server.manage("serve", "--check-port").returncode == 0  # its port is free
    server.restart()
    assert server.client.get("/api/health").json()["status"] == "ok"


@pytest.mark.parametrize("only", [["--check-port"], []])
def test_a_port_in_use_is_said_before_anything_else(shared_server: GuardServer, only: list[str]) -> None:
    second = shared_server.manage("serve", *only, DEBUG="true")
    assert second.returncode != 0
    assert second.stdout == ""
    assert second.stderr == f"CommandError: Port {shared_server.port} is in use; set PORT to another.\n"


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


def test_two_servers_have_two_databases(shared_server: GuardServer, shared_pair: GuardServer) -> None:
    one, other = shared_server, shared_pair
    with one.database():
        key = ApiKeyFactory.create()
    assert one.client_of(key.secret).get("/api/budget").status_code == 200
    assert other.client_of(key.secret).get("/api/budget").status_code == 401


def test_does_not_serve_on_a_database_that_lacks_migrations(tmp_path: Path) -> None:
    started = manage("serve", environment={"DATABASE_URL": f"sqlite:///{tmp_path / 'empty.sqlite3'}"})
    assert started.returncode != 0
    assert "lacks migrations" in started.stderr


def half_a_request(server: GuardServer, path: str) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    client.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{{".encode())
    return client


def test_a_body_that_stops_halfway_is_answered_and_its_connection_closed(guard_server: StartServer) -> None:
    server = guard_server(STREAM_IDLE_SECONDS="0.5")
    with half_a_request(server, "/api/chat") as client:
        answer = b"".join(iter(lambda: client.recv(65_536), b""))
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"code": "request_timeout"' in answer


def test_stops_in_spite_of_a_stalled_client_and_lets_calls_in_flight_settle(
    guard_server: StartServer, provider: Provider
) -> None:
    server = guard_server(workers=2, start=False, PROVIDER_TIMEOUT_SECONDS="2")
    with server.database():
        agent = Agent.create(server)
    server.start()
    provider.behave(upstream(agent.model), latency_s=1)
    with half_a_request(server, "/api/tenants"), ThreadPoolExecutor(4) as threads:
        calls = [threads.submit(agent.chat) for _ in range(4)]
        eventually(lambda: len(provider.calls(upstream(agent.model))) == 4)
        assert server.terminate() in (0, -signal.SIGTERM)
        assert [call.result().status_code for call in calls] == [200] * 4
    with server.database():
        assert set(Reservation.objects.values_list("state", flat=True)) == {ReservationState.SETTLED}
        assert LedgerEntry.objects.count() == 4


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_cannot_start_stops_the_server_with_an_error(guard_server: StartServer, workers: int) -> None:
    server = guard_server(workers=workers, start=False)
    with server.database(), connections["default"].cursor() as cursor:
        cursor.execute("ALTER TABLE tenants_apikey RENAME TO elsewhere")
    with pytest.raises(RuntimeError, match="did not start"):
        server.start()
    assert server.process is not None
    assert server.process.wait(timeout=30) not in (0, None)
    assert "tenants_apikey" in server.log


def test_a_worker_that_is_killed_is_replaced(guard_server: StartServer, provider: Provider) -> None:
    def workers() -> set[int]:
        assert server.process is not None
        children = psutil.Process(server.process.pid).children()
        return {child.pid for child in children if any("spawn_main" in part for part in child.cmdline())}

    server = guard_server(workers=2, start=False)
    with server.database():
        agent = Agent.create(server)
    server.start()
    killed = min(workers())
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: f"worker {killed} ended" in server.log and len(workers() - {killed}) == 2)
    provider.behave(upstream(agent.model))
    assert [agent.chat().status_code for _ in range(4)] == [200] * 4
    audited = server.manage("audit_ledger")
    assert audited.returncode == 0, audited.stdout
    assert server.terminate() in (0, -signal.SIGTERM)
