"""A server or a worker is stopped in mid-burst, as at a deployment: no call in flight is lost."""

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import count

import psutil
import requests

from spend.models import LedgerEntry, Reservation, ReservationState
from tests.support.agents import HELLO, Agent, eventually, upstream
from tests.support.provider import Provider
from tests.support.server import GuardServer

StartServer = Callable[..., GuardServer]
CLIENTS = 8
LOOK_S = 0.5
REPLACED_WITHIN_S = 120.0
"""Two workers, one after the other; each loads all of Django first."""


class Balancer:
    """Sends the calls of CLIENTS callers, on connections that it keeps, in turn to each server that is ready.

    Of a single server it knows nothing, as whoever asks workers that share a port.
    """

    def __init__(self, agent: Agent, *servers: GuardServer) -> None:
        self.agent, self.urls, self.ready = (
            agent,
            [server.url for server in servers],
            [server.url for server in servers],
        )
        self.stopping = threading.Event()
        self.numbers = count()
        self.answers: Counter[str] = Counter()

    @contextmanager
    def burst(self) -> Iterator[None]:
        """Calls go out while the block runs, and have all ended after it."""
        with ThreadPoolExecutor(CLIENTS + 1) as threads:
            work = [threads.submit(self.look), *(threads.submit(self.call) for _ in range(CLIENTS))]
            try:
                yield
            finally:
                self.stopping.set()
        for each in work:
            each.result()

    def look(self) -> None:
        while not self.stopping.wait(LOOK_S):
            self.ready = [url for url in self.urls if len(self.urls) == 1 or self.is_ready(url)]

    def is_ready(self, url: str) -> bool:
        with suppress(requests.ConnectionError):
            return requests.get(f"{url}/api/health/ready", timeout=10).ok
        return False

    def call(self) -> None:
        body = {"model": self.agent.model, "messages": HELLO}
        with requests.Session() as session:
            session.headers["Authorization"] = f"Bearer {self.agent.secret}"
            while not self.stopping.is_set():
                ready = self.ready
                url = ready[next(self.numbers) % len(ready)]
                try:
                    answer = session.post(f"{url}/v1/chat/completions", json=body, timeout=30)
                    self.answers[f"{url} {answer.status_code}"] += 1
                except requests.RequestException as error:
                    self.answers[f"{url} {type(error).__name__} {error}"] += 1

    def served_by(self, server: GuardServer) -> int:
        return self.answers[f"{server.url} 200"]

    def more(self, calls: int) -> None:
        most = self.answers.total() + calls
        eventually(lambda: self.answers.total() >= most)

    def assert_nothing_lost(self) -> None:
        assert all(answer.endswith(" 200") for answer in self.answers), self.answers


def assert_books_are_right(server: GuardServer, calls: int) -> None:
    with server.database():
        assert set(Reservation.objects.values_list("state", flat=True)) == {ReservationState.SETTLED}
        assert LedgerEntry.objects.count() == calls


def test_while_it_stops_it_says_so_and_serves_what_still_comes(guard_server: StartServer, provider: Provider) -> None:
    server = guard_server(start=False, STOP_DELAY_SECONDS="2")
    with server.database():
        agent = Agent.create(server)
    server.start()
    provider.behave(upstream(agent.model), latency_s=3)
    kept = server.client_of(agent.secret)
    with ThreadPoolExecutor(1) as threads:
        in_flight = threads.submit(agent.chat)
        eventually(lambda: len(provider.calls(upstream(agent.model))) == 1)
        assert "Connection" not in kept.get("/api/health/ready").headers
        assert server.process
        server.process.terminate()
        eventually(lambda: kept.get("/api/health/ready").json()["missing"] == ["stopping"])
        assert kept.get("/api/health/ready").status_code == 503
        provider.behave(upstream(agent.model), latency_s=0)
        late = kept.post("/v1/chat/completions", json={"model": agent.model, "messages": HELLO})
        assert (late.status_code, late.headers["Connection"]) == (200, "close")
        assert kept.get("/api/health/live").ok
        assert not in_flight.done()
        assert in_flight.result().status_code == 200
    assert server.process.wait(timeout=30) in (0, -signal.SIGTERM)
    assert_books_are_right(server, calls=2)


def test_one_of_two_servers_is_replaced(guard_server: StartServer, provider: Provider) -> None:
    one = guard_server(start=False, STOP_DELAY_SECONDS="2")
    other = guard_server(start=False, DATABASE_URL=one.database_url)
    with one.database():
        agent = Agent.create(one)
    one.start()
    other.start()
    provider.behave(upstream(agent.model), latency_s=0.2)
    balancer = Balancer(agent, one, other)
    with balancer.burst():
        eventually(lambda: min(balancer.served_by(one), balancer.served_by(other)) > CLIENTS)
        one.terminate()
        balancer.more(CLIENTS)
        one.start()
        before = balancer.served_by(one)
        eventually(lambda: balancer.served_by(one) > before)
    balancer.assert_nothing_lost()
    assert_books_are_right(one, calls=balancer.answers.total())


def workers_of(server: GuardServer) -> set[int]:
    assert server.process
    return {child.pid for child in psutil.Process(server.process.pid).children() if is_worker(child)}


def is_worker(process: psutil.Process) -> bool:
    with suppress(psutil.Error):  # one that has just ended
        return any("spawn_main" in part for part in process.cmdline())
    return False


def test_one_of_two_workers_is_stopped_and_then_both_are_replaced(
    guard_server: StartServer, provider: Provider
) -> None:
    """SIGTERM to a worker; then SIGHUP to the server, which starts a new worker before it stops an old one."""
    server = guard_server(start=False, workers=2, STOP_DELAY_SECONDS="1")
    with server.database():
        agent = Agent.create(server)
    server.start()
    provider.behave(upstream(agent.model), latency_s=0.2)
    balancer = Balancer(agent, server)
    with balancer.burst():
        balancer.more(CLIENTS)
        first = workers_of(server)
        os.kill(min(first), signal.SIGTERM)
        eventually(lambda: min(first) not in workers_of(server) and len(workers_of(server)) == 2)
        balancer.more(CLIENTS)
        assert server.process
        before = workers_of(server)
        os.kill(server.process.pid, signal.SIGHUP)
        eventually(lambda: not before & workers_of(server) and len(workers_of(server)) == 2, REPLACED_WITHIN_S)
        balancer.more(CLIENTS)
    balancer.assert_nothing_lost()
    assert_books_are_right(server, calls=balancer.answers.total())
