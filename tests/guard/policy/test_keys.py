"""A key that was just issued works at once, and whoever guesses keys is refused without being a load."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from django.db import OperationalError, connection
from django.utils import timezone

from guard.policy.keeper import PolicyKeeper
from tenants.models import KEY_PREFIX, Tenant
from tenants.money import TICKS_PER_USD
from tests.factories import ApiKeyFactory
from tests.guard.chat.test_flow import by_every_worker, error_of, make_agent
from tests.support.provider import Provider
from tests.support.server import GuardServer


@pytest.fixture
def server(shared_pair: GuardServer, provider: Provider) -> GuardServer:
    return shared_pair


def test_a_key_works_on_every_worker_as_soon_as_it_is_issued(server: GuardServer) -> None:
    with server.database():
        agent = make_agent(server, limit_ticks=TICKS_PER_USD)
    for _ in range(5):
        with server.database(wait=False):
            secret = ApiKeyFactory.create(tenant=Tenant.objects.get(pk=agent.tenant_id)).secret
        assert by_every_worker(replace(agent, secret=secret)) == {200}


def test_a_key_that_is_no_good_stays_refused(server: GuardServer) -> None:
    with server.database():
        agent = make_agent(server, limit_ticks=TICKS_PER_USD)
        over = ApiKeyFactory.create(tenant=Tenant.objects.get(pk=agent.tenant_id), expires_at=timezone.now())
        revoked = ApiKeyFactory.create(tenant=Tenant.objects.get(pk=agent.tenant_id), revoked_at=timezone.now())
    for secret in (over.secret, revoked.secret, agent.secret + "x", "nonsense"):
        assert by_every_worker(replace(agent, secret=secret)) == {401}


@contextmanager
def breakers_away(server: GuardServer) -> Iterator[None]:
    def rename(name: str, to: str) -> None:
        with server.database(), connection.cursor() as cursor:
            cursor.execute(f"ALTER TABLE {name} RENAME TO {to}")

    rename("spend_breaker", "elsewhere")
    try:
        yield
    finally:
        rename("elsewhere", "spend_breaker")


def test_where_the_database_cannot_say_whether_there_is_such_a_key_the_caller_may_come_again(
    server: GuardServer,
) -> None:
    with server.database():
        agent = make_agent(server, limit_ticks=TICKS_PER_USD)
    with breakers_away(server):
        answer = replace(agent, secret=f"{KEY_PREFIX}unheard-of").chat()
        assert error_of(answer, 503, "ledger_unavailable")
        assert answer.headers["Retry-After"] == "1"
        assert agent.chat().status_code == 200
    assert replace(agent, secret=f"{KEY_PREFIX}unheard-of").chat().status_code == 401


@pytest.fixture
def keeper() -> Iterator[PolicyKeeper]:
    keeper = PolicyKeeper()
    keeper.start()
    yield keeper
    keeper.stop()


@pytest.mark.django_db(transaction=True)
def test_all_who_ask_at_once_share_a_look(keeper: PolicyKeeper) -> None:
    """One look may have begun before the first of them asked, and is not theirs: two are let, and no more."""
    let, refresh = threading.Semaphore(0), keeper.refresh

    def refresh_if_let() -> None:
        let.acquire()
        refresh()

    async def flood() -> None:
        asking = [asyncio.ensure_future(keeper.look_again()) for _ in range(1_000)]
        await asyncio.sleep(0)  # so that each has asked
        let.release(2)
        await asyncio.gather(*asking)

    keeper.refresh = refresh_if_let  # type: ignore[method-assign]
    try:
        asyncio.run(flood())
    finally:
        let.release(1_000)


@pytest.mark.django_db(transaction=True)
def test_a_look_sees_what_was_there_when_it_was_asked_for(keeper: PolicyKeeper) -> None:
    async def issue_and_look() -> None:
        key = await asyncio.to_thread(issue)
        await keeper.look_again()
        assert key in keeper.policy.keys

    def issue() -> str:
        try:
            return ApiKeyFactory.create().digest
        finally:
            connection.close()

    for _ in range(10):
        asyncio.run(issue_and_look())


@pytest.mark.django_db(transaction=True)
def test_a_look_that_fails_says_so_to_all_who_asked(keeper: PolicyKeeper) -> None:
    def fail() -> None:
        raise OperationalError("the database is away")

    keeper.refresh = fail  # type: ignore[method-assign]

    async def ask() -> list[BaseException | None]:
        return await asyncio.gather(*[keeper.look_again() for _ in range(3)], return_exceptions=True)

    assert [type(found) for found in asyncio.run(ask())] == [OperationalError] * 3
