"""Budgets hold under any concurrency: 200 calls at once, and of each race first how it goes without the guard."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import chain
from typing import Any

import pytest
from django.db import transaction
from django.db.models import F, Sum
from pytest_django import DjangoDbBlocker

from guard.policy.limits import limits_of
from guard.policy.loader import load
from spend.ledger.posting import Posting
from spend.ledger.rules import Held, Limit
from spend.models import LedgerEntry, Reservation, Window
from spend.pricing.cost import bound_input_tokens
from tenants.models import Budget, Scope
from tenants.periods import Period
from tests.factories import ApiKeyFactory, BudgetFactory, TenantFactory
from tests.support.agents import HELLO, Agent, audit, upstream
from tests.support.books import WAIT_S, assert_the_books_balance, at_once
from tests.support.bursts import burst
from tests.support.commands import caller_of, limit_of, reserve_of, settle_of
from tests.support.databases import Databases
from tests.support.provider import Provider
from tests.support.server import GuardServer

CALLS, FIT = 200, 20
INPUT, OUTPUT, MAX_TOKENS = 12_500, 25_000, 40
HOLD = bound_input_tokens(HELLO) * INPUT + MAX_TOKENS * OUTPUT
USAGE = {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30}
COST = 20 * INPUT + 10 * OUTPUT
EXACTLY = (FIT - 1) * COST + HOLD
"""Pays for 20 calls, whose hold is more than their cost, and not for one more."""


# Without the guard: read, decide, write. Whatever the write, the decision was about the past.

THREADS, FIT_THREADS = 16, 4
many = pytest.mark.django_db(transaction=True)


class ReadDecideWrite:
    """What a guard does that takes no locks. The barrier is the scheduler on a bad day."""

    def __init__(self) -> None:
        self.has_read = threading.Barrier(THREADS)

    def __call__(self, limits: Sequence[Limit], hold_ticks: int) -> bool:
        windows = [Window.objects.get(**limit.key._asdict()) for limit in limits]
        fits = all(
            window.spent_ticks + window.held_ticks + hold_ticks <= limit.hard_ticks
            for window, limit in zip(windows, limits, strict=True)
        )
        self.has_read.wait(WAIT_S)
        if fits:
            for window in windows:
                Window.objects.filter(pk=window.pk).update(held_ticks=F("held_ticks") + hold_ticks)
        return fits


def posted(limits: Sequence[Limit], hold_ticks: int) -> bool:
    (result,) = Posting().post([reserve_of(limits, hold_ticks)])
    return isinstance(result, Held)


def admitted(reserve: Callable[[Sequence[Limit], int], bool], limits: Sequence[Limit]) -> int:
    Posting().post([reserve_of(limits, 0)])  # so that the windows are there
    return sum(at_once([partial(reserve, limits, 100)] * THREADS))


ONE = [limit_of(100 * FIT_THREADS)]
SEVERAL = [
    limit_of(100 * THREADS, "", scope="installation"),
    limit_of(100 * (FIT_THREADS + 1), scope="customer", subject="ada"),
    limit_of(100 * FIT_THREADS),
]


@many
@pytest.mark.parametrize("limits", [ONE, SEVERAL], ids=["one", "several"])
def test_without_the_guard_budgets_are_overshot(limits: Sequence[Limit]) -> None:
    assert admitted(ReadDecideWrite(), limits) == THREADS > FIT_THREADS


@many
@pytest.mark.parametrize("limits", [ONE, SEVERAL], ids=["one", "several"])
def test_with_it_they_hold(limits: Sequence[Limit]) -> None:
    assert admitted(posted, limits) == FIT_THREADS
    assert {window.held_ticks for window in Window.objects.all()} == {100 * FIT_THREADS}
    assert_the_books_balance()


def take() -> int:
    """How many of many at once take 100 ticks of what is left; by a conditional update, which is not the fault."""
    left = Window.objects.filter(spent_ticks__lte=100 * FIT_THREADS - 100)
    return sum(at_once([partial(left.update, spent_ticks=F("spent_ticks") + 100)] * THREADS))


@many
def test_without_the_guard_an_edit_makes_spent_money_come_back() -> None:
    """A counter beside the limit, and a form that saves the whole row, as the admin's do."""
    Posting().post([reserve_of(ONE, 0)])
    as_the_form_read_it = Window.objects.get()
    assert take() == FIT_THREADS
    as_the_form_read_it.save()
    assert take() == FIT_THREADS


@many
def test_without_the_guard_a_reset_at_midnight_comes_once_too_often() -> None:
    """One counter for all days, and a job that resets it, on each of two workers."""
    Posting().post([reserve_of(ONE, 0)])
    assert take() == FIT_THREADS
    Window.objects.update(spent_ticks=0)
    assert take() == FIT_THREADS
    Window.objects.update(spent_ticks=0)  # by the other worker, a moment late
    assert take() == FIT_THREADS


# The window turns over in the middle of a burst: the clock is in the commands.

MIDNIGHT_IN_APIA = datetime(2026, 6, 15, 11, 0, tzinfo=UTC)


@many
@pytest.mark.parametrize("fit_a_week", [2 * FIT, FIT + FIT // 2])
def test_a_window_that_turns_over_during_a_burst_counts_each_call_in_its_own_day(fit_a_week: int) -> None:
    """As the chat path asks: by the policy's limits at the call's own instant, in the tenant's own zone."""
    key = ApiKeyFactory.create(tenant=TenantFactory.create(time_zone="Pacific/Apia"))
    BudgetFactory.create(tenant=key.tenant, limit_ticks=FIT * 100)
    BudgetFactory.create(tenant=key.tenant, limit_ticks=fit_a_week * 100, period=Period.WEEK)
    policy = load()
    instants = [MIDNIGHT_IN_APIA + timedelta(microseconds=step) for step in range(-CALLS // 2, CALLS // 2)]
    random.Random(5).shuffle(instants)

    def calls(at: Sequence[datetime]) -> list[datetime]:
        posting, held_at = Posting(), []
        for instant in at:
            limits = limits_of(policy, policy.tenants[key.tenant_id], key.id, "", "", instant)
            caller = caller_of(key.tenant_id, key_id=key.id)
            (result,) = posting.post([reserve_of(limits, 100, instant, caller=caller)])
            if isinstance(result, Held):
                held_at.append(instant)
                if len(held_at) % 2:  # so of the old day's, some end in the new one
                    posting.post([settle_of(result.reserved, 100, MIDNIGHT_IN_APIA + timedelta(hours=1))])
        return held_at

    held_at = list(chain(*at_once([partial(calls, instants[part::4]) for part in range(4)])))
    days = Counter(instant < MIDNIGHT_IN_APIA for instant in held_at)
    assert len(held_at) == fit_a_week
    assert max(days.values()) <= FIT
    for window in Window.objects.filter(period=Period.DAY):
        assert window.spent_ticks + window.held_ticks == 100 * days[window.ends_at == MIDNIGHT_IN_APIA]
    assert_the_books_balance()


# With everything real: the server, its workers, a provider, 200 calls at once


@pytest.fixture(scope="module", params=["fewer", "more"])
def server(
    request: pytest.FixtureRequest,
    databases: Databases,
    provider_process: Provider,
    tmp_path_factory: pytest.TempPathFactory,
    django_db_blocker: DjangoDbBlocker,
) -> Iterator[GuardServer]:
    """1 and 2 workers on SQLite, 2 and 4 on Postgres; their calls wait for holds as long as it takes."""
    workers = {"sqlite": {"fewer": 1, "more": 2}, "postgres": {"fewer": 2, "more": 4}}
    log_path = tmp_path_factory.mktemp("races") / "server.log"
    server = GuardServer(
        databases.copy(), log_path, django_db_blocker, workers[request.config.getoption("db")][request.param],
        HOLD_WAIT_SECONDS="30", PROVIDER_TIMEOUT_SECONDS="30",
    )  # fmt: skip
    try:
        server.start()
        yield server
        audit(server)
    finally:
        server.close()


def make_agents(server: GuardServer, provider: Provider, count: int = 1, **limits: int) -> list[Agent]:
    """Agents with a budget of so many ticks a day for each of these scopes. Inside `server.database()` only."""
    agents = [Agent.create(server, floor_max_tokens=MAX_TOKENS) for _ in range(count)]
    for agent in agents:
        for scope, limit_ticks in limits.items():
            BudgetFactory.create(tenant_id=agent.tenant_id, tenant=None, scope=scope, limit_ticks=limit_ticks)
        provider.behave(upstream(agent.model), usage=USAGE, latency_s=0.05)
    return agents


def check(server: GuardServer, provider: Provider, agents: Sequence[Agent], served: int) -> None:
    """So many calls reached the provider, each has its entry, nothing is held, and the books balance."""
    tenants = [agent.tenant_id for agent in agents]
    assert sum(len(provider.calls(upstream(agent.model))) for agent in agents) == served
    with server.database():
        assert LedgerEntry.objects.filter(tenant_id__in=tenants, cost_ticks=COST, is_overrun=False).count() == served
        assert not Reservation.objects.filter(tenant_id__in=tenants, state="pending").exists()
        for window in Window.objects.filter(tenant_id__in=tenants, scope=Scope.TENANT):
            assert (window.spent_ticks, window.held_ticks) == (served * COST, 0)
        assert_the_books_balance()


def test_of_200_calls_at_once_exactly_20_fit(server: GuardServer, provider: Provider) -> None:
    with server.database(), transaction.atomic():
        agents = make_agents(server, provider, tenant=EXACTLY)
    outcomes = burst(agents, CALLS, max_tokens=MAX_TOKENS)
    assert outcomes == {"served": FIT, "budget_exceeded": CALLS - FIT}
    check(server, provider, agents, FIT)


def test_of_several_budgets_the_tightest_binds(server: GuardServer, provider: Provider) -> None:
    looser = {"tenant": 3 * EXACTLY, "key": 2 * EXACTLY, "conversation": 4 * EXACTLY}
    with server.database(), transaction.atomic():
        agents = make_agents(server, provider, **looser, customer=EXACTLY)
    talk: dict[str, Any] = {"user": "ada", "metadata": {"conversation_id": "c-1"}, "max_tokens": MAX_TOKENS}
    assert burst(agents, CALLS, **talk) == {"served": FIT, "budget_exceeded": CALLS - FIT}
    check(server, provider, agents, FIT)


def test_a_budget_of_the_installation_binds_all_its_tenants_together(server: GuardServer, provider: Provider) -> None:
    with server.database(), transaction.atomic():
        agents = make_agents(server, provider, 4, tenant=10 * EXACTLY)
        spent = LedgerEntry.objects.aggregate(ticks=Sum("cost_ticks"))["ticks"] or 0
        budget = BudgetFactory.create(tenant=None, scope=Scope.INSTALLATION, limit_ticks=spent + EXACTLY)
    assert burst(agents, CALLS, max_tokens=MAX_TOKENS) == {"served": FIT, "budget_exceeded": CALLS - FIT}
    with server.database(wait=False):
        budget.delete()
        assert Window.objects.get(scope=Scope.INSTALLATION).spent_ticks == spent + FIT * COST
        held = [window.spent_ticks for window in Window.objects.filter(tenant_id__in=[a.tenant_id for a in agents])]
        assert sum(held) == FIT * COST
        assert_the_books_balance()


def test_a_limit_that_is_raised_during_a_burst_counts_what_was_spent(server: GuardServer, provider: Provider) -> None:
    with server.database(), transaction.atomic():
        agents = make_agents(server, provider, tenant=EXACTLY - 10 * COST)

    def raise_limit() -> None:
        time.sleep(0.5)
        with server.database(wait=False):
            budget = Budget.objects.get(tenant_id=agents[0].tenant_id)
            budget.limit_ticks = EXACTLY
            budget.save()

    editing = threading.Thread(target=raise_limit)
    editing.start()
    outcomes = burst(agents, CALLS, over_s=3, max_tokens=MAX_TOKENS)
    editing.join()
    assert outcomes == {"served": FIT, "budget_exceeded": CALLS - FIT}
    check(server, provider, agents, FIT)


def test_limits_that_change_all_through_a_burst_are_never_passed(server: GuardServer, provider: Provider) -> None:
    most, least = EXACTLY, EXACTLY - 15 * COST
    with server.database(), transaction.atomic():
        agents = make_agents(server, provider, tenant=most)

    def keep_changing() -> None:
        with server.database(wait=False):
            for limit_ticks in [least, most] * 10:
                budget = Budget.objects.get(tenant_id=agents[0].tenant_id)
                budget.limit_ticks = limit_ticks
                time.sleep(0.02)
                budget.save()

    editing = threading.Thread(target=keep_changing)
    editing.start()
    outcomes = burst(agents, CALLS, over_s=1, max_tokens=MAX_TOKENS)
    editing.join()
    time.sleep(1)
    outcomes += burst(agents, 2 * FIT, max_tokens=MAX_TOKENS)
    assert outcomes["served"] == FIT
    check(server, provider, agents, FIT)
