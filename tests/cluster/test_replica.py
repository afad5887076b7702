"""A primary that waits for its streaming replica: pages read from the one, and it takes over when the other dies."""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from urllib.parse import urlsplit

import psycopg
import pytest
import requests
from django.conf import settings
from django.test import Client as Browser

from spend.models import Call, LedgerEntry
from tenants.models import Tenant
from tests.factories import UserFactory
from tests.support.agents import Agent, audit, eventually, upstream
from tests.support.bursts import Burst
from tests.support.postgres import Standby, ThrowawayPostgres, with_database
from tests.support.provider import Provider
from tests.support.server import Client, GuardServer
from tests.support.wire import Wire, wire_to

pytestmark = pytest.mark.skipif(settings.IS_SQLITE, reason="for Postgres")

CALLS = 150
USAGE = {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30}
COST = 20 * 12_500 + 10 * 25_000
AS_OF = "X-Guard-As-Of"


@pytest.fixture(scope="module")
def unstarted(module_server: Callable[..., GuardServer]) -> GuardServer:
    return module_server(workers=2, start=False)


@pytest.fixture(scope="module")
def primary(unstarted: GuardServer) -> Iterator[ThrowawayPostgres]:
    """With a copy of the database that the server was given."""
    primary = ThrowawayPostgres()
    dump = primary.directory / "guard.dump"
    primary.run("pg_dump", "--format=custom", f"--file={dump}", unstarted.database_url)
    primary.execute("CREATE DATABASE guard")
    primary.run("pg_restore", "--dbname", with_database(primary.url, "guard"), dump)
    yield primary
    primary.stop()


@pytest.fixture(scope="module")
def standby(primary: ThrowawayPostgres) -> Iterator[Standby]:
    standby = Standby(primary)
    yield standby
    standby.stop()


@pytest.fixture(scope="module")
def wire(standby: Standby) -> Iterator[Wire]:
    """By which the pages reach the replica."""
    with wire_to(standby.port) as wire:
        yield wire


@pytest.fixture(scope="module")
def server(unstarted: GuardServer, primary: ThrowawayPostgres, standby: Standby, wire: Wire) -> Iterator[GuardServer]:
    hosts = ",".join(urlsplit(each.url).netloc.rpartition("@")[2] for each in (primary, standby))
    unstarted.database_url = f"postgres://postgres@{hosts}/guard"
    unstarted.environment |= {
        "DATABASE_URL": unstarted.database_url,
        "REPORTS_DATABASE_URL": f"postgres://postgres@127.0.0.1:{wire.port}/guard",
    }
    unstarted.start()
    yield unstarted
    unstarted.close()


@pytest.fixture(scope="module")
def agent(server: GuardServer) -> Agent:
    return Agent.hire(server)


@pytest.fixture(scope="module")
def manager(server: GuardServer) -> Client:
    """Logged in."""
    browser = Browser()
    with server.database():
        browser.force_login(UserFactory.create(is_staff=True, is_superuser=True))
    client = server.client_of(None)
    client.cookies.update({name: morsel.value for name, morsel in browser.cookies.items()})
    return client


def calls_on(page: requests.Response) -> int:
    assert page.status_code == 200, page.text
    return len(page.text.splitlines()) - 1


def test_pages_and_exports_are_read_from_the_replica_and_say_how_old_they_are(
    server: GuardServer, agent: Agent, manager: Client, standby: Standby, provider: Provider
) -> None:
    calls, page = f"/tenants/{agent.tenant_id}/calls.csv", f"/tenants/{agent.tenant_id}/"
    assert agent.chat().status_code == 200
    eventually(lambda: calls_on(manager.get(calls)) == 1)
    assert AS_OF in manager.get(calls).headers
    assert " behind." not in manager.get(page).text

    standby.pause()
    agent.entries(at_least=1)
    assert agent.chat().status_code == 200
    agent.entries(at_least=2)
    eventually(lambda: "behind." in manager.get(page).text)
    assert calls_on(manager.get(calls)) == 1
    for path in ("/", "/live/"):
        assert "As of " in manager.get(path).text
    spent = agent.client.get("/api/spend")
    assert (spent.json()["totalCalls"], AS_OF in spent.headers) == (1, True)

    with server.database():
        tenant = Tenant.objects.get(pk=agent.tenant_id)
        tenant.name = "What was just changed"
        tenant.save()
    changed = manager.get(page)
    assert "What was just changed" in changed.text
    assert AS_OF not in changed.headers
    assert calls_on(manager.get(calls)) == 2

    standby.resume()
    eventually(lambda: AS_OF in manager.get(page).headers)
    assert "What was just changed" in manager.get(page).text


def test_a_page_that_the_replica_leaves_half_made_is_read_from_the_primary_and_says_so(
    server: GuardServer, agent: Agent, manager: Client, primary: ThrowawayPostgres, standby: Standby, wire: Wire
) -> None:
    """The replica waits for a lock, as long as the primary has it, when the wire to it is cut."""
    page = f"/tenants/{agent.tenant_id}/calls/"
    with ThreadPoolExecutor(1) as threads, psycopg.connect(with_database(primary.url, "guard")) as connection:
        connection.execute("LOCK TABLE spend_call IN ACCESS EXCLUSIVE MODE")
        primary.execute("SELECT pg_switch_wal()")  # else it may be long before the replica hears of it
        eventually(lambda: standby.execute("SELECT 1 FROM pg_locks WHERE mode = 'AccessExclusiveLock'") != [])
        asked = threads.submit(manager.get, page)
        eventually(lambda: standby.execute("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'") != [])
        wire.cut()
        connection.rollback()
        made = asked.result()
    for shown in (made, manager.get("/")):  # the second without asking it again
        assert shown.status_code == 200
        assert "The replica for reports does not answer" in shown.text
        assert AS_OF not in shown.headers
    assert "the replica of REPORTS_DATABASE_URL cannot be used" in server.log
    wire.mend()


def test_the_primary_dies_in_mid_burst_and_no_tick_is_lost_or_counted_twice(
    server: GuardServer,
    agent: Agent,
    manager: Client,
    primary: ThrowawayPostgres,
    standby: Standby,
    provider: Provider,
) -> None:
    before = len(agent.entries(at_least=0))
    provider.behave(upstream(agent.model), usage=USAGE, latency_s=1)  # so that all that are asked then settle after it
    calls = Burst(agent, CALLS, over_s=2)
    eventually(lambda: len(provider.calls(upstream(agent.model))) >= CALLS // 3)
    killed_at = monotonic()
    primary.kill()
    eventually(lambda: server.client.get("/api/health").status_code == 503)
    assert agent.chat().status_code == 503
    standby.promote()
    promoted_at = monotonic()
    provider.behave(upstream(agent.model), usage=USAGE)
    eventually(lambda: agent.chat(user="first").status_code == 200)
    print(f"promoted after {promoted_at - killed_at:.2f} s, served {monotonic() - promoted_at:.2f} s later")
    calls.join()
    assert calls.outcomes.keys() <= {"served", "ledger_unavailable"}

    entries = agent.entries(at_least=before + calls.outcomes["served"] + 1)[before:]
    charged = Counter(entry.customer for entry in entries)
    assert charged == Counter(call["body"]["user"] for call in provider.calls(upstream(agent.model)))
    assert set(charged.values()) == {1}
    assert {(entry.cost_ticks, entry.is_expired) for entry in entries} == {(COST, False)}
    with server.database():
        recorded = Counter(
            Call.objects.filter(outcome="served").exclude(customer="").values_list("customer", flat=True)
        )
        assert LedgerEntry.objects.count() == before + len(entries)
    assert recorded == charged
    audit(server)
    page = manager.get("/")  # what was the replica is none any more
    assert (page.status_code, AS_OF in page.headers) == (200, False)
