"""Two workers and the background on a Postgres behind PgBouncer, which pools by transaction."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django.conf import settings
from django.utils import timezone

from spend.models import Call, LedgerEntry, Reservation, ReservationState, Schedule
from tests.support.agents import Agent, audit, eventually, upstream
from tests.support.bursts import Burst
from tests.support.pgbouncer import PgBouncer
from tests.support.provider import Provider
from tests.support.server import GuardServer, manage

pytestmark = pytest.mark.skipif(settings.IS_SQLITE, reason="for Postgres")

CALLS = 150
USAGE = {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30}
COST = 20 * 12_500 + 10 * 25_000


@pytest.fixture(scope="module")
def pgbouncer() -> Iterator[PgBouncer]:
    pgbouncer = PgBouncer(os.environ["GUARD_TEST_POSTGRES_URL"])
    yield pgbouncer
    pgbouncer.stop()


@pytest.fixture(scope="module")
def server(module_server: Callable[..., GuardServer], pgbouncer: PgBouncer) -> GuardServer:
    """What the test itself reads and writes goes to Postgres directly."""
    server = module_server(workers=2, start=False, BACKGROUND="true")
    server.environment["DATABASE_URL"] = f"{pgbouncer.url_of(server.database_url)}?pgbouncer=true"
    server.start()
    return server


def test_it_is_killed_in_mid_burst_and_no_tick_is_lost_or_counted_twice(
    server: GuardServer, pgbouncer: PgBouncer, provider: Provider
) -> None:
    agent = Agent.hire(server)
    provider.behave(upstream(agent.model), usage=USAGE, latency_s=1)  # so that all that are asked then settle after it
    calls = Burst(agent, CALLS, over_s=2)
    eventually(lambda: len(provider.calls(upstream(agent.model))) >= CALLS // 3)
    pgbouncer.kill()
    eventually(lambda: server.client.get("/api/health").status_code == 503)
    assert agent.chat().status_code == 503
    killed_at = timezone.now()
    pgbouncer.start()
    calls.join()
    assert calls.outcomes.keys() <= {"served", "ledger_unavailable"}

    charged = Counter(entry.customer for entry in agent.entries(at_least=calls.outcomes["served"]))
    asked = Counter(call["body"]["user"] for call in provider.calls(upstream(agent.model)))
    assert charged == asked
    assert set(charged.values()) == {1}
    with server.database():
        assert set(LedgerEntry.objects.values_list("cost_ticks", "is_expired")) == {(COST, False)}
        assert not Reservation.objects.filter(state=ReservationState.PENDING).exists()
        recorded = Counter(Call.objects.filter(outcome="served").values_list("customer", flat=True))
        assert recorded == charged
    audit(server)
    eventually(lambda: _jobs_since(server, killed_at))


def _jobs_since(server: GuardServer, at: object) -> bool:
    with server.database():
        return Schedule.objects.filter(started_at__gt=at).exists()


def test_an_address_that_does_not_name_it_is_warned_of(server: GuardServer, pgbouncer: PgBouncer) -> None:
    """Nor does a Postgres that is no replica pass for one."""
    unnamed = pgbouncer.url_of(server.database_url)
    checked = manage("check", "--deploy", environment={"DATABASE_URL": unnamed, "REPORTS_DATABASE_URL": unnamed})
    assert "guard.W014" in checked.stderr
    assert "guard.W015" in checked.stderr
    named = server.manage("check", "--deploy").stderr
    assert "guard.W014" not in named
    assert "guard.W015" not in named
    assert "pooler" not in server.log


def test_no_backup_is_made_through_it(server: GuardServer, tmp_path: Path) -> None:
    """pg_dump would leave connections without a search_path, on which the guard finds no table."""
    made = server.manage("backup", f"{tmp_path / 'guard.dump'}")
    assert made.returncode != 0
    assert "leads to PgBouncer" in made.stderr
