"""The server dies, is stopped, or is left by its clients in the middle of calls: no money is lost and none is held."""

import signal
import socket
import time
from collections import Counter
from collections.abc import Callable

import pytest
import requests
from django.db import transaction

from spend.ledger.rules import INTERRUPTED
from spend.models import Call, LedgerEntry, Outcome, Reservation, ReservationState
from spend.pricing.cost import bound_input_tokens
from spend.summaries.reports import GroupBy, Selection, report
from tests.support.agents import HELLO, Agent, audit, eventually, upstream
from tests.support.books import assert_the_books_balance
from tests.support.bursts import Burst
from tests.support.provider import Provider
from tests.support.server import GuardServer

StartServer = Callable[..., GuardServer]

CALLS = 100
LEASE_S = 4
MAX_TOKENS = 40
HOLD = bound_input_tokens(HELLO) * 12_500 + MAX_TOKENS * 25_000
USAGE = {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30}
COST = 20 * 12_500 + 10 * 25_000


@pytest.fixture
def server(guard_server: StartServer, request: pytest.FixtureRequest) -> GuardServer:
    workers = 1 if request.config.getoption("db") == "sqlite" else 2
    return guard_server(workers=workers, start=False, RESERVATION_LEASE_SECONDS=f"{LEASE_S}")


@pytest.fixture
def agent(server: GuardServer, provider: Provider) -> Agent:
    with server.database(), transaction.atomic():
        agent = Agent.create(server)
    server.start()
    return agent


def reached(provider: Provider, agent: Agent) -> set[str]:
    """The customers whose calls reached the provider."""
    return {call["body"]["user"] for call in provider.calls(upstream(agent.model))}


def test_a_crash_in_the_middle_of_100_calls_loses_nothing(
    server: GuardServer, agent: Agent, provider: Provider
) -> None:
    provider.behave(upstream(agent.model), usage=USAGE, latency_s=0.4)
    calls = Burst(agent, CALLS, over_s=1.5, max_tokens=MAX_TOKENS)
    eventually(lambda: len(provider.calls(upstream(agent.model))) >= CALLS // 2)
    server.kill()
    calls.join()
    assert calls.outcomes.keys() == {"served", "disconnected"}

    with server.database():
        reservations = Reservation.objects.all()
        pending = set(reservations.filter(state=ReservationState.PENDING).values_list("customer", flat=True))
        settled = set(reservations.filter(state=ReservationState.SETTLED).values_list("customer", flat=True))
        assert pending
        assert len(settled) >= calls.outcomes["served"]
        assert reached(provider, agent) <= pending | settled
        assert_the_books_balance()

    server.start()
    eventually(lambda: agent.pending() == 0, within_s=LEASE_S + 10)
    audit(server)
    with server.database():
        costs = Counter(LedgerEntry.objects.values_list("cost_ticks", "is_expired", "is_estimated"))
        assert costs == {(COST, False, False): len(settled), (HOLD, True, True): len(pending)}
        expired = LedgerEntry.objects.filter(is_expired=True).values_list("customer", flat=True)
        assert set(expired) == pending
        spent = report(Selection(agent.tenant_id))
        charged = len(settled) + len(pending)
        assert (spent.totals.calls, spent.calls_by_model) == (charged, {agent.model: charged})
        by_customer = report(Selection(agent.tenant_id), GroupBy.CUSTOMER).groups
        assert {(sums.cost_ticks, sums.calls) for sums in by_customer.values()} == {(COST, 1), (HOLD, 1)}
        assert Call.objects.filter(outcome=Outcome.FAILED, code=INTERRUPTED).count() == len(pending)
    assert agent.chat().status_code == 200


def test_at_a_stop_calls_in_flight_end_and_settle(server: GuardServer, agent: Agent, provider: Provider) -> None:
    provider.behave(upstream(agent.model), usage=USAGE, latency_s=1)
    calls = Burst(agent, 20, max_tokens=MAX_TOKENS)
    eventually(lambda: len(provider.calls(upstream(agent.model))) == 20)
    assert server.terminate() in (0, -signal.SIGTERM)
    calls.join()
    assert calls.outcomes == {"served": 20}
    with server.database():
        assert list(LedgerEntry.objects.values_list("cost_ticks", flat=True)) == [COST] * 20
        assert not Reservation.objects.exclude(state=ReservationState.SETTLED).exists()
        assert_the_books_balance()
    with pytest.raises(requests.ConnectionError):
        agent.chat()


def test_a_client_that_goes_away_is_billed_for_its_call_once(
    server: GuardServer, agent: Agent, provider: Provider
) -> None:
    provider.behave(upstream(agent.model), usage=USAGE, latency_s=0.3)
    for _ in range(5):
        with pytest.raises(requests.ReadTimeout):
            agent.client.post("/v1/chat/completions", json={"model": "auto", "messages": HELLO}, timeout=0.1)
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(
            b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n"
            b"Authorization: Bearer " + agent.secret.encode() + b"\r\n\r\n{"
        )
    entries = agent.entries(at_least=5)
    assert [entry.cost_ticks for entry in entries] == [COST] * 5
    time.sleep(0.2)
    assert len(provider.calls(upstream(agent.model))) == 5
