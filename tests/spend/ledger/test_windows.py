"""Windows, whatever becomes of their budgets: each holds the sum of all that falls in it."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from random import Random
from typing import Any

import pytest
from django.db import connection, transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from guard.policy.limits import limits_of
from guard.policy.loader import load
from guard.policy.snapshot import Policy
from spend.ledger.audit import audit
from spend.ledger.posting import Posting
from spend.ledger.rules import (
    Book,
    Caller,
    Command,
    Expire,
    Held,
    Limit,
    OpenWindow,
    Reserved,
    Standing,
    Void,
    WindowKey,
    scopes_of,
)
from spend.ledger.window_opening import key_of, open_windows
from spend.models import Window
from spend.sql import Sql, Update
from tenants.budgets import set_budget
from tenants.models import Budget, Scope, Tenant
from tenants.periods import Period
from tests.spend.ledger.test_posting import only_postgres, wait_for_a_lock
from tests.support.agents import audit as audit_of
from tests.support.books import WAIT_S, assert_the_books_balance, at_once
from tests.support.commands import NOON, TODAY, caller_of, limit_of, reserve_of, settle_of
from tests.support.server import GuardServer

db = pytest.mark.django_db
many = pytest.mark.django_db(transaction=True)

DAY, TOTAL = limit_of(10**6), limit_of(10**6, starts_at=TODAY.replace(day=1), ends_at=None)


# Any history, against one who only ever adds up

ZONES = ["UTC", "Europe/London", "Europe/Berlin", "Africa/Lagos", "Asia/Kathmandu", "America/Havana"]
"""On the last days of March some begin a period together and end it apart."""
START = datetime(2026, 3, 27, 20, 0, tzinfo=UTC)
LIMIT = 10**12

workers = st.integers(0, 1)
scoped = st.tuples(st.sampled_from([*Scope]), st.sampled_from([*Period]))
spent = st.tuples(st.just("spend"), workers, st.integers(0, 1000), st.integers(0, 1))
steps = st.one_of(
    spent,
    spent,
    spent,
    st.tuples(st.just("hold"), workers, st.integers(1, 1000), st.integers(0, 1)),
    st.tuples(st.just("end"), workers, st.sampled_from(["settle", "void", "expire"]), st.integers(0, 1000)),
    st.tuples(st.just("bill_late"), workers, st.integers(0, 2000)),
    st.tuples(st.just("put"), scoped),
    st.tuples(st.just("put"), scoped),
    st.tuples(st.just("take"), scoped),
    st.tuples(st.just("move"), st.sampled_from(ZONES)),
    st.tuples(st.just("hear"), workers),
    st.tuples(st.just("hear"), workers),
    st.tuples(st.just("restart"), workers),
    st.tuples(st.just("wait"), st.sampled_from([5, 55, 60 * 7, 60 * 24])),
)


@dataclass
class Attempt:
    """What is known of one: the naive books are a list of them."""

    caller: Caller
    at: datetime
    held_ticks: int
    cost_ticks: int = 0


class World:
    """A tenant, two workers that hear of its budgets when they are told, and the naive books."""

    numbers = count()

    def __init__(self, attempts: list[Attempt]) -> None:
        Budget.objects.filter(tenant=None).delete()
        self.tenant = Tenant.objects.create(id=f"tenant-{next(self.numbers)}")
        self.now, self.attempts = START, attempts
        self.postings = [Posting(), Posting()]
        self.policies: list[Policy] = [load(), load()]
        self.pending: list[tuple[Reserved, Attempt]] = []
        self.expired: list[tuple[Reserved, Attempt]] = []

    def spend(self, worker: int, ticks: int, customer: int) -> None:
        self.hold(worker, ticks, customer)
        self.end(worker, "settle", ticks)

    def hold(self, worker: int, ticks: int, customer: int) -> None:
        self.now += timedelta(seconds=1)
        name = f"customer {customer}"
        caller = caller_of(self.tenant.id, key_id=customer + 1, customer=name, conversation=f"of {name}")
        policy = self.policies[worker]
        tenant = policy.tenants[self.tenant.id]
        limits = limits_of(policy, tenant, caller.key_id, caller.customer, caller.conversation, self.now)
        (held,) = self.postings[worker].post([reserve_of(limits, ticks, self.now, caller=caller)])
        assert isinstance(held, Held)
        self.attempts.append(Attempt(caller, self.now, ticks))
        self.pending.append((held.reserved, self.attempts[-1]))
        for limit, standing in zip(limits, held.standings, strict=True):
            assert standing == self.added_up(limit.key, limit.ends_at), limit

    def end(self, worker: int, how: str, ticks: int) -> None:
        if not self.pending:
            return
        reserved, attempt = self.pending.pop()
        endings: dict[str, tuple[Command, int]] = {
            "settle": (settle_of(reserved, ticks), ticks),
            "void": (Void(reserved, self.now), 0),
            "expire": (Expire(reserved, self.now), reserved.hold_ticks),
        }
        command, attempt.cost_ticks = endings[how]
        attempt.held_ticks = 0
        self.postings[worker].post([command])
        if how == "expire":
            self.expired.append((reserved, attempt))

    def bill_late(self, worker: int, ticks: int) -> None:
        if self.expired:
            reserved, attempt = self.expired.pop()
            attempt.cost_ticks = ticks
            self.postings[worker].post([settle_of(reserved, ticks)])

    def put(self, scoped: tuple[Scope, Period]) -> None:
        scope, period = scoped
        budget = Budget(scope=scope, period=period, limit_ticks=LIMIT)
        if scope is not Scope.INSTALLATION:
            set_budget(self.tenant, budget)
        elif not Budget.objects.filter(tenant=None, period=period).exists():
            budget.save()

    def take(self, scoped: tuple[Scope, Period]) -> None:
        scope, period = scoped
        tenant = None if scope is Scope.INSTALLATION else self.tenant
        Budget.objects.filter(tenant=tenant, scope=scope, period=period).delete()

    def move(self, zone: str) -> None:
        self.tenant.time_zone = zone
        self.tenant.save()

    def hear(self, worker: int) -> None:
        self.policies[worker] = load()

    def restart(self, worker: int) -> None:
        self.postings[worker] = Posting()
        self.hear(worker)

    def wait(self, minutes: int) -> None:
        self.now += timedelta(minutes=minutes)

    def added_up(self, key: WindowKey, ends_at: datetime | None) -> Standing:
        window = OpenWindow(0, key, ends_at)
        counted = [
            attempt
            for attempt in self.attempts
            if window.counts(attempt.at) and key.scope_key in set(scopes_of(attempt.caller))
        ]
        return Standing(sum(each.cost_ticks for each in counted), sum(each.held_ticks for each in counted))


def assert_all_is_added_up(world: World) -> None:
    for window in Window.objects.filter(tenant_id__in=["", world.tenant.id]):
        standing = Standing(window.spent_ticks, window.held_ticks)
        assert standing == world.added_up(key_of(window), window.ends_at), window
    assert_the_books_balance()


@db
def test_whatever_becomes_of_a_budget_a_window_holds_all_that_falls_in_it() -> None:
    attempts: list[Attempt] = []  # of all histories: a budget of the installation counts them together

    @settings(max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(steps, min_size=5, max_size=40))
    def any_history(history: list[tuple[Any, ...]]) -> None:
        world = World(attempts)
        for name, *facts in history:
            getattr(world, name)(*facts)
        assert_all_is_added_up(world)

    any_history()


HISTORIES: dict[str, list[tuple[Any, ...]]] = {
    "deleted and put back": [("take", (Scope.TENANT, Period.MONTH)), ("put", (Scope.TENANT, Period.MONTH))],
    "another zone and back": [("move", "Africa/Lagos"), ("move", "UTC")],
    "replaced by another scope and back": [("take", (Scope.TENANT, Period.MONTH)), ("put", (Scope.KEY, Period.MONTH)),
                                           ("put", (Scope.TENANT, Period.MONTH))],
}  # fmt: skip


@db
@pytest.mark.parametrize("changes", HISTORIES.values(), ids=HISTORIES.keys())
def test_what_was_spent_while_a_budget_was_away_is_in_its_window(changes: list[tuple[Any, ...]]) -> None:
    world = World([])
    run(world, ("put", (Scope.TENANT, Period.MONTH)), ("hear", 0), ("spend", 0, 100, 0))
    for change in changes:
        run(world, change, ("hear", 0), ("spend", 0, 100, 0))
    assert_all_is_added_up(world)
    month = Window.objects.get(period=Period.MONTH, scope=Scope.TENANT, starts_at=datetime(2026, 3, 1, tzinfo=UTC))
    assert month.spent_ticks == 100 * (1 + len(changes))


def run(world: World, *history: tuple[Any, ...]) -> None:
    for name, *facts in history:
        getattr(world, name)(*facts)


# With the guard taken out


class OnlyWhatBinds(Posting):
    """As windows were counted once: those that a call's worker knew a budget for, and no others."""

    def _read(self, sql: Sql, commands: Sequence[Command]) -> Book:
        book = super()._read(sql, commands)
        bound = {limit.key for command in commands for limit in getattr(command, "limits", ())}
        for scope, windows in book.open_windows.items():
            book.open_windows[scope] = [window for window in windows if window.key in bound]
        return book


def spend(posting: Posting, limits: Sequence[Limit], ticks: int, at: datetime = NOON) -> None:
    (held,) = posting.post([reserve_of(limits, ticks, at)])
    assert isinstance(held, Held)
    posting.post([settle_of(held.reserved, ticks)])


@db
def test_without_the_guard_a_budget_that_is_put_back_has_a_hole_and_the_audit_names_it() -> None:
    posting = OnlyWhatBinds()
    spend(posting, [TOTAL, DAY], 100)
    spend(posting, [DAY], 40)
    posting.post([reserve_of([DAY], 7)])
    (held,) = posting.post([reserve_of([TOTAL, DAY], 1)])
    assert isinstance(held, Held)
    assert held.standings[0] == Standing(100, 1)
    stale = Window.objects.get(period="total")
    name, found = f"window {stale.pk} (tenant 'acme', tenant '', total)", audit_lines()
    assert f"{name}: it is stale: spent is 100, but what fell in it cost 140" in found
    assert any(f"it is pending in {name}, but not held against it" in line for line in found)


def audit_lines() -> list[str]:
    return audit().discrepancies


@db
def test_with_it_there_is_none() -> None:
    spend(Posting(), [TOTAL, DAY], 100)
    spend(Posting(), [DAY], 40)
    Posting().post([reserve_of([DAY], 7)])
    (held,) = Posting().post([reserve_of([TOTAL, DAY], 1)])
    assert isinstance(held, Held)
    assert held.standings[0] == Standing(140, 8)
    assert_the_books_balance()


def open_slowly(sql: Sql, has_summed: Callable[[], None]) -> None:
    """Open TOTAL, and let something happen between its sum and its commit."""
    write = sql.write

    def paused(*changes: Any) -> list[int]:
        counts = write(*changes)
        if any(isinstance(change, Update) and "opening_ticks" in change.columns for change in changes):
            has_summed()
        return counts

    sql.write = paused  # type: ignore[method-assign]
    with transaction.atomic():
        open_windows(sql, {TOTAL.key: None})


@many
@only_postgres
@pytest.mark.parametrize("is_guarded", [False, True], ids=["without the guard it is missed", "with it it counts"])
def test_a_call_that_comes_between_a_windows_sum_and_its_commit(is_guarded: bool) -> None:
    """Nobody who posts meanwhile can see the window yet."""
    spend(Posting(), [DAY], 100)
    has_summed, has_spent = threading.Event(), threading.Event()

    def wait_for_the_other() -> None:
        has_summed.set()
        if is_guarded:
            wait_for_a_lock()
        else:
            assert has_spent.wait(WAIT_S)

    def open_it() -> None:
        sql = Sql.on(connection)
        if not is_guarded:
            sql.own_books = lambda tenant_ids: None  # type: ignore[method-assign]
        open_slowly(sql, wait_for_the_other)

    def spend_meanwhile() -> None:
        assert has_summed.wait(WAIT_S)
        spend(Posting(), [DAY], 40)
        has_spent.set()

    at_once([open_it, spend_meanwhile])
    assert Window.objects.get(period="total").spent_ticks == (140 if is_guarded else 100)
    assert bool(audit_lines()) is not is_guarded


@many
def test_workers_that_know_of_other_budgets_at_once_count_the_same() -> None:
    """Each is told of other budgets all the time, opens what it is the first to need, and ends others' calls."""
    scopes = [("tenant", ""), ("key", "1"), ("customer", "ada"), ("conversation", "talk")]
    limits = [limit_of(10**9, scope=scope, subject=subject) for scope, subject in scopes]
    limits += [replace(each, key=each.key._replace(period="total"), ends_at=None) for each in limits]
    limits += [limit_of(10**9, "", scope="installation")]
    caller = partial(caller_of, customer="ada", conversation="talk")

    endings: list[Callable[[Reserved], Command]] = [
        partial(settle_of, ticks=3),
        partial(Void, at=NOON),
        partial(Expire, at=NOON),
    ]

    def work(seed: int) -> None:
        random, posting, holds = Random(seed), Posting(), list[Reserved]()
        for _ in range(25):
            some = random.sample(limits, random.randrange(len(limits)))
            ends = [random.choice(endings)(each) for each in holds]
            late = [settle_of(each, 4) for each in holds]
            results = posting.post([*ends, *late, *[reserve_of(some, 10, caller=caller()) for _ in range(3)]])
            holds = [result.reserved for result in results if isinstance(result, Held)]

    at_once([partial(work, seed) for seed in range(4)])
    assert Window.objects.count() == len(limits)
    assert len({(window.spent_ticks, window.held_ticks) for window in Window.objects.all()}) == 1
    assert_the_books_balance()


# What an installed version has


@many
def test_the_migration_sums_stale_windows_anew(guard_server: Callable[..., GuardServer]) -> None:
    server = guard_server(start=False)
    with server.database():
        posting = OnlyWhatBinds()
        customer = limit_of(10**6, scope="customer", subject="ada")
        key = limit_of(10**6, scope="key", subject="1")
        known = [TOTAL, DAY, customer, key, limit_of(10**6, "", scope="installation")]
        caller = partial(caller_of, customer="ada")
        first, second, third = [
            posting.post([reserve_of(some, 100, caller=caller())])[0] for some in (known, [DAY], [DAY])
        ]
        assert isinstance(first, Held)
        assert isinstance(second, Held)
        posting.post([settle_of(first.reserved, 60), settle_of(second.reserved, 30)])
        assert isinstance(third, Held)
        assert len(audit_lines()) == 2 * (len(known) - 1)
    server.command("migrate", "spend", "0011")
    server.command("migrate", "spend")
    with server.database():
        assert {(window.spent_ticks, window.held_ticks) for window in Window.objects.all()} == {(90, 100)}
        Posting().post([settle_of(third.reserved, 20)])
        assert {(window.spent_ticks, window.held_ticks) for window in Window.objects.all()} == {(110, 0)}
    audit_of(server)
