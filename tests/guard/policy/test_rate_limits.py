"""Rate limits: calls a minute and calls in flight, of a tenant and of a key, across workers."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
from django.core.cache import cache

from guard.http.errors import RateLimited
from guard.policy.rate_limits import MINUTE_S, take_turn
from guard.policy.snapshot import UNLIMITED, Pace
from spend.ledger.rules import Balance, Book, CallGroup, CallLimit, Held, TooMany, Void, apply
from spend.models import Call, LedgerEntry, Outcome, Reservation, ReservationState
from tenants.models import ApiKey
from tests.factories import ApiKeyFactory, RouteStepFactory, TenantFactory
from tests.support.api import agent, operator
from tests.support.commands import NOON, caller_of, limit_of, reserve_of
from tests.support.provider import Provider
from tests.support.server import GuardServer

TENANT, KEY, OTHER_KEY = CallGroup("acme"), CallGroup("acme", 1), CallGroup("acme", 2)


@pytest.fixture
def acme(db: None) -> Iterator[None]:
    TenantFactory.create(id="acme")
    yield
    cache.clear()


def take(*limits: CallLimit, at_s: float = 0) -> None:
    take_turn(limits, lambda: 1_000_000 + at_s)


def refused_for_s(*limits: CallLimit, at_s: float = 0) -> int | None:
    with pytest.raises(RateLimited) as refused:
        take(*limits, at_s=at_s)
    return refused.value.retry_after_s


@pytest.mark.usefixtures("acme")
class TestCallsAMinute:
    def test_a_limit_binds_for_a_minute_and_retry_after_is_true(self) -> None:
        limit = CallLimit(TENANT, 3)
        for second in (0, 10, 20.5):
            take(limit, at_s=second)
        wait_s = refused_for_s(limit, at_s=25.2)
        assert wait_s == 35  # until the first call is a minute old
        assert refused_for_s(limit, at_s=25.2 + wait_s - 1) == 1
        take(limit, at_s=25.2 + wait_s)
        assert refused_for_s(limit, at_s=25.2 + wait_s) == 10

    def test_what_was_refused_is_not_counted(self) -> None:
        limit = CallLimit(TENANT, 1)
        take(limit)
        for second in range(1, MINUTE_S, 7):
            assert refused_for_s(limit, at_s=second) == MINUTE_S - second
        take(limit, at_s=MINUTE_S)

    def test_the_tenants_limit_binds_its_keys_together_and_then_does_not_count_for_the_key(self) -> None:
        tenant, key, other = CallLimit(TENANT, 2), CallLimit(KEY, 2), CallLimit(OTHER_KEY, 2)
        take(key, tenant)
        take(other, tenant)
        refused_for_s(key, tenant)
        refused_for_s(other, tenant)
        take(key)
        refused_for_s(key)

    def test_a_limit_that_was_lowered_tells_when_it_is_kept_again(self) -> None:
        for second in range(5):
            take(CallLimit(TENANT, 5), at_s=second)
        assert refused_for_s(CallLimit(TENANT, 2), at_s=10) == MINUTE_S + 3 - 10

    def test_other_tenants_have_their_own_count(self) -> None:
        TenantFactory.create(id="other")
        take(CallLimit(TENANT, 1))
        take(CallLimit(CallGroup("other"), 1))


# Calls in flight, in the pure ledger


def book_of(**in_flight: int) -> Book:
    limit = limit_of(10**9)
    return Book(
        windows={1: Balance(1, 0, 0)},
        window_ids={limit.key: 1},
        pending={},
        in_flight={{"tenant": TENANT, "key": KEY}[name]: number for name, number in in_flight.items()},
    )


def reserve(*limits: CallLimit, key_id: int = 1) -> Any:
    command = reserve_of([limit_of(10**9)], 1, caller=caller_of(key_id=key_id))
    return type(command)(**{**{name: getattr(command, name) for name in command.__slots__}, "in_flight_limits": limits})


def test_one_batch_admits_exactly_what_is_allowed() -> None:
    limit = CallLimit(TENANT, 3)
    results = apply([reserve(limit) for _ in range(5)], book_of(tenant=1))
    assert [type(result) for result in results] == [Held, Held, TooMany, TooMany, TooMany]
    assert results[-1] == TooMany(limit)


def test_an_end_in_the_same_batch_makes_room() -> None:
    limit, book = CallLimit(TENANT, 1), book_of(tenant=0)
    (held,) = apply([reserve(limit)], book)
    assert isinstance(held, Held)
    over, _, next_one = apply([reserve(limit), Void(held.reserved, NOON), reserve(limit)], book)
    assert isinstance(over, TooMany)
    assert isinstance(next_one, Held)


def test_a_keys_limit_leaves_other_keys_alone() -> None:
    key, tenant = CallLimit(KEY, 1), CallLimit(TENANT, 3)
    commands = [reserve(key, tenant), reserve(key, tenant), reserve(tenant, key_id=2), reserve(tenant, key_id=2)]
    results = apply([*commands, reserve(tenant, key_id=2)], book_of(tenant=0, key=0))
    assert [type(result) for result in results] == [Held, TooMany, Held, Held, TooMany]


def test_a_refusal_changes_nothing() -> None:
    book = book_of(tenant=1)
    apply([reserve(CallLimit(TENANT, 1))], book)
    assert (book.windows[1].held_ticks, book.reserved, book.in_flight) == (0, [], {TENANT: 1})


def test_only_limits_that_are_set_are_looked_at(db: None) -> None:
    tenant = TenantFactory.create()
    assert Pace.of(ApiKeyFactory.create(tenant=tenant), tenant) == UNLIMITED
    tenant.calls_in_flight, key = 7, ApiKeyFactory.create(tenant=tenant, requests_per_minute=9)
    expected = Pace((CallLimit(CallGroup(tenant.id, key.id), 9),), (CallLimit(CallGroup(tenant.id), 7),))
    assert Pace.of(key, tenant) == expected


# The running guard, with two workers

HELLO = [{"role": "user", "content": "Hello"}]
THREADS = 12


@pytest.fixture
def server(shared_pair: GuardServer) -> GuardServer:
    return shared_pair


def key_of_a_tenant(server: GuardServer, limits: dict[str, int], **key_limits: int) -> Any:
    """A key of a tenant with these limits and a model; with its secret, as it is issued."""
    with server.database():
        key = ApiKeyFactory.create(tenant=TenantFactory.create(**limits), **key_limits)
        RouteStepFactory.create(tenant=key.tenant)
    return key


def burst(server: GuardServer, secret: str, number: int = THREADS, **body: Any) -> list[requests.Response]:
    """So many calls at once, each on a connection of its own, so that both workers get some."""

    def call(_number: int) -> requests.Response:
        return server.client_of(secret).post("/v1/chat/completions", json={"model": "auto", "messages": HELLO, **body})

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(call, range(number)))


def statuses(answers: list[requests.Response]) -> list[int]:
    return sorted(answer.status_code for answer in answers)


def test_calls_a_minute_are_counted_by_all_workers_together(server: GuardServer, provider: Provider) -> None:
    key = key_of_a_tenant(server, {"requests_per_minute": 5})
    answers = burst(server, key.secret)
    assert statuses(answers) == [200] * 5 + [429] * 7
    assert len(provider.calls()) == 5
    for answer in answers:
        if answer.status_code == 429:
            assert answer.json()["error"]["code"] == "rate_limited"
            assert answer.json()["error"]["type"] == "rate_limit_error"
            assert 50 <= int(answer.headers["Retry-After"]) <= 60
    with server.database():
        assert LedgerEntry.objects.filter(tenant_id=key.tenant_id).count() == 5
        refused = Call.objects.filter(tenant_id=key.tenant_id, outcome=Outcome.REFUSED)
        assert set(refused.values_list("code", flat=True)) == {"rate_limited"}


def test_calls_in_flight_are_counted_by_all_workers_together(server: GuardServer, provider: Provider) -> None:
    key = key_of_a_tenant(server, {"calls_in_flight": 3})
    provider.behave(latency_s=1.5)
    answers = burst(server, key.secret)
    assert statuses(answers) == [200] * 3 + [429] * 9
    assert len(provider.calls()) == 3
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert (refused.json()["error"]["code"], refused.headers["Retry-After"]) == ("rate_limited", "1")
    provider.behave(latency_s=0)
    assert statuses(burst(server, key.secret, 3)) == [200] * 3
    with server.database():
        assert not Reservation.objects.filter(tenant_id=key.tenant_id, state=ReservationState.PENDING).exists()
        assert LedgerEntry.objects.filter(tenant_id=key.tenant_id).count() == 6


def test_a_stream_is_in_flight_until_it_ends(server: GuardServer, provider: Provider) -> None:
    key = key_of_a_tenant(server, {}, calls_in_flight=1)
    provider.behave(content="slowly", chunks=6, chunk_delay_s=0.2)
    client = server.client_of(key.secret)
    body = {"model": "auto", "messages": HELLO, "stream": True}
    with client.post("/v1/chat/completions", json=body, stream=True) as stream:
        assert stream.status_code == 200
        assert statuses(burst(server, key.secret, 2)) == [429, 429]
        assert b"data: [DONE]" in stream.content
    assert statuses(burst(server, key.secret, 1)) == [200]


def test_a_limit_set_on_a_running_server_binds_within_a_second(server: GuardServer, provider: Provider) -> None:
    key = key_of_a_tenant(server, {})
    assert statuses(burst(server, key.secret)) == [200] * THREADS
    with server.database():
        key.requests_per_minute = 1
        key.save()
    assert statuses(burst(server, key.secret)) == [200] + [429] * (THREADS - 1)


# Setting them


def test_an_operator_sets_a_tenants_limits(db: None) -> None:
    api, tenant = operator(), TenantFactory.create()
    assert api.get(f"/api/tenants/{tenant.id}").json()["requestsPerMinute"] is None
    changed = api.patch(f"/api/tenants/{tenant.id}", {"requestsPerMinute": 100, "callsInFlight": 8})
    assert (changed.json()["requestsPerMinute"], changed.json()["callsInFlight"]) == (100, 8)
    tenant.refresh_from_db()
    assert (tenant.requests_per_minute, tenant.calls_in_flight) == (100, 8)
    assert api.patch(f"/api/tenants/{tenant.id}", {"callsInFlight": None}).json()["callsInFlight"] is None


def test_a_key_is_issued_with_limits_of_its_own(db: None) -> None:
    tenant = TenantFactory.create()
    issued = operator().post(f"/api/tenants/{tenant.id}/keys", {"name": "bot", "requestsPerMinute": 5})
    assert (issued.json()["requestsPerMinute"], issued.json()["callsInFlight"]) == (5, None)
    assert ApiKey.objects.get().requests_per_minute == 5


@pytest.mark.parametrize("value", [0, -1, 1.5, "5", True, 10_001])
def test_a_limit_is_a_whole_number_that_can_be_kept(db: None, value: Any) -> None:
    api, tenant = operator(), TenantFactory.create()
    refused = api.patch(f"/api/tenants/{tenant.id}", {"requestsPerMinute": value})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "requestsPerMinute")


def test_an_agent_cannot_lift_its_limits(db: None) -> None:
    tenant = TenantFactory.create(requests_per_minute=1)
    assert agent(tenant).patch(f"/api/tenants/{tenant.id}", {"requestsPerMinute": None}).status_code == 403
