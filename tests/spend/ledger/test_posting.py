"""Posting: batches on a real database, several at once."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from fcntl import LOCK_EX, LOCK_UN, flock
from functools import partial
from typing import Any

import pytest
from django.db import DataError, IntegrityError, OperationalError, connection, transaction
from django.db.models import Model
from django.utils import timezone

from spend.ids import new_id
from spend.ledger.leases import expire_reservations
from spend.ledger.posting import Posting
from spend.ledger.rules import (
    Command,
    DoesNotFit,
    Ended,
    Expire,
    Held,
    Limit,
    NotPending,
    Record,
    Renew,
    Reserved,
    Result,
    Standing,
    Void,
)
from spend.ledger.window_opening import spent_in
from spend.models import Call, DailyCustomer, LedgerEntry, Outcome, Reservation, ReservationState, Rollup, Route, Window
from spend.pricing.cost import Usage
from spend.privacy.customers import Customer, InFlightError, erase
from spend.summaries.buckets import bucket_of
from spend.summaries.daily import catch_up, misfits
from tests.factories import CatalogueModelFactory, PriceFactory, TenantFactory
from tests.support.books import WAIT_S, assert_the_books_balance, at_once
from tests.support.commands import (
    LEASE,
    MIDNIGHT,
    NOON,
    TODAY,
    bill_for,
    bill_of,
    caller_of,
    limit_of,
    offer_of,
    record_of,
    reserve_of,
    settle_of,
)

pytestmark = pytest.mark.django_db

several_at_once = pytest.mark.django_db(transaction=True)

only_postgres = pytest.mark.skipif("config.getoption('db') != 'postgres'", reason="SQLite locks its whole file")
only_sqlite = pytest.mark.skipif("config.getoption('db') != 'sqlite'", reason="Postgres has no file to wait for")

DAY = limit_of(1_000)


def post(*commands: Command) -> list[Result]:
    return Posting().post(commands)


def hold(limits: Sequence[Limit] = (DAY,), ticks: int = 100, at: datetime = NOON, **caller: Any) -> Reserved:
    (result,) = post(reserve_of(limits, ticks, at, caller=caller_of(**caller)))
    assert isinstance(result, Held), result
    return result.reserved


def standings() -> dict[str, Standing]:
    return {f"{window}": Standing(window.spent_ticks, window.held_ticks) for window in Window.objects.all()}


# What is written


def test_a_reservation_is_written_as_it_was_made() -> None:
    offer = offer_of(10, token_ticks=2, max_tokens=30, model="grok", route=Route.FALLBACK)
    caller = caller_of(customer="Zoë", conversation="x" * 255, requested_model="auto")
    command = reserve_of([DAY, limit_of(500, scope="customer", subject="Zoë")], [offer], caller=caller)
    (held,) = post(command)
    assert isinstance(held, Held)
    row = Reservation.objects.get(pk=command.id)
    assert (row.state, row.hold_ticks, row.max_tokens) == ("pending", 70, 30)
    assert (row.created_at, row.lease_expires_at, row.ended_at) == (NOON, NOON + LEASE, None)
    assert (row.call_id, row.request_id, row.tenant_id, row.key_id) == (caller.call_id, caller.request_id, "acme", 1)
    assert (row.customer, row.conversation) == ("Zoë", "x" * 255)
    assert (row.provider, row.model, row.requested_model, row.route) == ("xai", "grok", "auto", "fallback")
    assert row.window_ids == list(held.reserved.window_ids)
    assert set(row.window_ids) == {window.id for window in Window.objects.all()}
    assert standings() == {"acme tenant day": Standing(0, 70), "acme customer Zoë day": Standing(0, 70)}


def test_a_window_is_written_with_the_bounds_of_its_period() -> None:
    hold([DAY, limit_of(9_000, scope="key", subject="1", starts_at=TODAY, ends_at=None)])
    day, total = Window.objects.order_by("period")
    assert (day.starts_at, day.ends_at, day.opening_ticks) == (TODAY, MIDNIGHT, 0)
    assert (total.period, total.ends_at) == ("total", None)


def test_an_entry_is_written_with_its_bill_and_the_time_of_its_hold() -> None:
    PriceFactory.create(
        id=1, model=CatalogueModelFactory.create(price=None), tier__input_ticks=10, tier__cached_input_ticks=1,
        tier__cache_write_ticks=12, tier__output_ticks=100,
    )  # fmt: skip
    reserved = hold(ticks=1_000)
    bill = replace(bill_for(Usage(20, 5, 4, 6, 2)), duration_ms=77)
    settled = replace(settle_of(reserved, 0, NOON + timedelta(seconds=9)), bill=bill)
    cost = 11 * 10 + 5 * 1 + 4 * 12 + 6 * 100
    assert post(settled, record_of(reserved, cost)) == [Ended((Standing(cost, 0),), cost), None]
    entry = LedgerEntry.objects.get()
    assert (entry.pk, entry.at, entry.price_id) == (reserved.id, NOON, 1)
    assert (entry.cost_ticks, entry.hold_ticks, entry.computed_ticks, entry.provider_ticks) == (cost, 1_000, cost, None)
    assert (entry.input_tokens, entry.cached_input_tokens, entry.cache_write_tokens) == (20, 5, 4)
    assert (entry.output_tokens, entry.reasoning_tokens, entry.duration_ms) == (6, 2, 77)
    assert (entry.is_estimated, entry.is_overrun, entry.is_expired) == (False, False, False)
    ended = Reservation.objects.get()
    assert (ended.state, ended.ended_at) == ("settled", NOON + timedelta(seconds=9))
    assert_the_books_balance()


def test_a_call_is_written_with_its_story() -> None:
    caller = caller_of(customer="ada")
    steps = ({"model": "grok", "decision": "does_not_fit", "hold_ticks": 5},)
    post(Record(caller, Outcome.REFUSED, NOON, code="budget_exceeded", duration_ms=3, steps=steps))
    call = Call.objects.get()
    assert (call.pk, call.request_id, call.at) == (caller.call_id, caller.request_id, NOON)
    assert (call.outcome, call.code, call.model, call.route) == ("refused", "budget_exceeded", "", "")
    assert (call.customer, call.duration_ms, call.steps) == ("ada", 3, list(steps))
    assert Rollup.objects.get().refused == 1


def test_rollups_add_up_by_the_quarter_of_an_hour_of_the_hold() -> None:
    for minute, ticks in [(0, 10), (14, 20), (15, 40)]:
        reserved = hold(at=NOON + timedelta(minutes=minute, seconds=59))
        post(settle_of(reserved, ticks, NOON + timedelta(hours=1)), record_of(reserved, ticks))
    sums = Rollup.objects.order_by("bucket").values_list("bucket", "attempts", "cost_ticks", "served")
    assert list(sums) == [(NOON, 2, 30, 2), (NOON + timedelta(minutes=15), 1, 40, 1)]
    assert_the_books_balance()


# Batches


def test_in_one_batch_holds_are_counted_one_after_the_other() -> None:
    results = post(*[reserve_of([DAY], 300) for _ in range(5)])
    assert [type(result) for result in results] == [Held, Held, Held, DoesNotFit, DoesNotFit]
    assert standings() == {"acme tenant day": Standing(0, 900)}


def test_in_one_batch_a_reservation_ends_once() -> None:
    reserved = hold()
    results = post(settle_of(reserved, 40), Void(reserved, NOON), Expire(reserved, NOON), settle_of(reserved, 50))
    assert results[0] == Ended((Standing(40, 0),), 40)
    assert results[1:] == [NotPending((Standing(40, 0),))] * 3
    assert LedgerEntry.objects.get().cost_ticks == 40
    assert_the_books_balance()


def test_a_reservation_that_ended_in_an_earlier_batch_stays_ended() -> None:
    reserved = hold()
    post(Void(reserved, NOON))
    assert post(settle_of(reserved, 40)) == [NotPending((Standing(0, 0),))]
    assert Reservation.objects.get().state == ReservationState.VOIDED
    assert_the_books_balance()


def test_a_batch_is_written_whole_or_not_at_all() -> None:
    first = hold()
    twin = replace(reserve_of([DAY], 7), id=first.id)
    with pytest.raises(IntegrityError):
        post(reserve_of([DAY], 5), settle_of(first, 40), twin)
    assert standings() == {"acme tenant day": Standing(0, 100)}
    assert Reservation.objects.get().state == ReservationState.PENDING
    assert_the_books_balance()


@only_postgres
def test_what_is_too_long_is_refused_and_not_cut() -> None:
    with pytest.raises(DataError):
        hold(customer="x" * 256)
    assert not Reservation.objects.exists()


@only_sqlite
@several_at_once
def test_processes_write_in_turn() -> None:
    with open(f"{connection.settings_dict['NAME']}-turn", "wb") as another:
        flock(another, LOCK_EX)
        posting = threading.Thread(target=at_once, args=([partial(hold, ticks=7)],))
        posting.start()
        posting.join(0.2)
        assert posting.is_alive()
        flock(another, LOCK_UN)
        posting.join()
    assert Reservation.objects.get().hold_ticks == 7


def test_an_empty_batch_is_no_work() -> None:
    assert post() == []


@pytest.mark.parametrize("scope", ["customer", "conversation"])
def test_a_worker_that_knew_an_erased_customer_counts_its_next_call_anew(scope: str) -> None:
    posting, caller = Posting(), caller_of(customer="ann", conversation="talk")
    mine = limit_of(1_000, scope=scope, subject=getattr(caller, scope))
    (held,) = posting.post([reserve_of([DAY, mine], 100, caller=caller)])
    assert isinstance(held, Held)
    posting.post([settle_of(held.reserved, 100)])
    erase(Customer("acme", "ann"))
    again = replace(caller, call_id=new_id())
    (held,) = posting.post([reserve_of([DAY, mine], 70, caller=again)])
    assert isinstance(held, Held)
    erased, window = Window.objects.filter(scope=scope).order_by("id")
    assert (window.subject, window.opening_ticks, window.held_ticks) == (mine.key.subject, 0, 70)
    assert erased.subject.startswith("erased-")
    assert (erased.spent_ticks, erased.held_ticks) == (100, 0)
    posting.post([settle_of(held.reserved, 70)])
    assert_the_books_balance()


def expired_talk(posting: Posting) -> tuple[Reserved, list[Limit]]:
    """A hold of Ann's in a conversation of her own, whose lease is over; and its limits."""
    mine = [limit_of(1_000, scope="customer", subject="ann"), limit_of(1_000, scope="conversation", subject="talk")]
    caller = caller_of(customer="ann", conversation="talk")
    (held,) = posting.post([reserve_of(mine, 100, caller=caller)])
    assert isinstance(held, Held)
    expire_reservations()
    return held.reserved, mine


def assert_nobody_is_named() -> None:
    written: list[type[Model]] = [Call, LedgerEntry, Reservation]
    names = {pair for model in written for pair in model._default_manager.values_list("customer", "conversation")}
    ((customer, conversation),) = names
    assert {customer, conversation} == set(Window.objects.values_list("subject", flat=True))
    assert customer.startswith("erased-")
    assert conversation.startswith("erased-")


def test_a_late_bill_of_an_erased_customer_is_entered_under_its_pseudonym() -> None:
    posting = Posting()
    reserved, _ = expired_talk(posting)
    erase(Customer("acme", "ann"))
    ended, _ = posting.post([settle_of(reserved, 130), record_of(reserved, 130)])
    assert ended == Ended((Standing(130, 0),) * 2, 130)
    assert (LedgerEntry.objects.count(), Call.objects.count(), Window.objects.count()) == (2, 1, 2)
    assert_nobody_is_named()
    assert_the_books_balance()


@pytest.mark.parametrize("end", [partial(Void, at=NOON), partial(settle_of, ticks=None)])
def test_a_call_that_goes_on_after_its_customer_was_erased_does_so_under_its_pseudonym(
    end: Callable[[Reserved], Command],
) -> None:
    """Its worker was away; back again it falls back to another model, and records the call at last."""
    posting = Posting()
    reserved, mine = expired_talk(posting)
    erase(Customer("acme", "ann"))
    posting.post([end(reserved)])
    (held,) = posting.post([reserve_of(mine, 70, caller=reserved.caller)])
    assert isinstance(held, Held)
    posting.post([settle_of(held.reserved, 60)])
    posting.post([record_of(reserved, 160)])
    assert Window.objects.count() == 2
    assert_nobody_is_named()
    assert_the_books_balance()


@several_at_once
@only_postgres
def test_a_customer_is_not_erased_while_a_late_bill_of_it_is_entered() -> None:
    reserved, _ = expired_talk(Posting())
    is_locked, is_refused = threading.Event(), threading.Event()

    def enter() -> None:
        with transaction.atomic():
            Reservation.objects.select_for_update().get()
            is_locked.set()
            assert is_refused.wait(WAIT_S)

    def erase_it() -> None:
        assert is_locked.wait(WAIT_S)
        with pytest.raises(InFlightError):
            erase(Customer("acme", "ann"))
        is_refused.set()

    at_once([enter, erase_it])
    assert Reservation.objects.get(pk=reserved.id).customer == "ann"


@several_at_once
@only_postgres
def test_a_late_bill_that_waits_for_an_erasure_is_entered_under_the_pseudonym() -> None:
    reserved, _ = expired_talk(Posting())
    is_erased = threading.Event()

    def erase_it() -> None:
        with transaction.atomic():
            erase(Customer("acme", "ann"))
            is_erased.set()
            wait_for_a_lock()

    def enter() -> None:
        assert is_erased.wait(WAIT_S)
        post(settle_of(reserved, 130), record_of(reserved, 130))

    at_once([erase_it, enter])
    assert LedgerEntry.objects.count() == 2
    assert_nobody_is_named()


@several_at_once
@only_postgres
def test_a_call_that_is_held_while_its_customer_is_erased_keeps_the_erasure_from_ending() -> None:
    """The erasure has seen no hold, then waits for the window that a hold is just being counted in."""
    mine = limit_of(1_000, scope="customer", subject="ann")
    post(Void(hold([mine], customer="ann"), NOON))
    window = Window.objects.get()
    is_locked, is_erasing = threading.Event(), threading.Event()

    def count() -> None:
        with transaction.atomic():
            Window.objects.select_for_update().get()
            is_locked.set()
            is_erasing.wait(10)
            wait_for_a_lock()
            row = reserve_of([mine], 10, caller=caller_of(customer="ann"))
            Reservation.objects.create(
                id=row.id, **asdict(row.caller), provider="xai", model="m", route="primary", price_id=1,
                hold_ticks=10, max_tokens=1, window_ids=[window.id], created_at=NOON, lease_expires_at=NOON + LEASE,
            )  # fmt: skip

    def erase_it() -> None:
        is_locked.wait(10)
        is_erasing.set()
        with pytest.raises(InFlightError):
            erase(Customer("acme", "ann"))

    at_once([count, erase_it])
    assert Window.objects.get().subject == "ann"


def wait_for_a_lock() -> None:
    """Until another connection waits for one."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    for _ in range(500):
        with connection.cursor() as cursor:
            cursor.execute(waiting)
            if cursor.fetchone()[0]:
                return
        time.sleep(0.02)


# Openings


def spend(ticks: int, at: datetime, **caller: Any) -> None:
    """What was spent before there was any budget to count it."""
    reserved = hold([], ticks, at, **caller)
    post(settle_of(reserved, ticks, at))


@pytest.mark.parametrize(
    ("tenant_id", "scope", "subject", "opening"),
    [
        ("", "installation", "", 1 + 2 + 4 + 8 + 16),
        ("acme", "tenant", "", 1 + 2 + 4 + 8),
        ("acme", "key", "7", 2),
        ("acme", "customer", "ada", 4),
        ("acme", "conversation", "about ada", 8),
        ("acme", "customer", "nobody", 0),
        ("other", "customer", "ada", 0),
    ],
)
def test_a_new_window_opens_with_what_its_scope_has_spent_in_the_period(
    tenant_id: str, scope: str, subject: str, opening: int
) -> None:
    spend(1, NOON)
    spend(2, TODAY, key_id=7)
    spend(4, NOON, customer="ada")
    spend(8, NOON, conversation="about ada")
    spend(16, NOON, tenant_id="other")
    spend(32, TODAY - timedelta(microseconds=1), key_id=7, customer="ada", conversation="about ada")
    limit = limit_of(100, tenant_id, scope=scope, subject=subject)
    (result,) = post(reserve_of([limit], 3))
    assert isinstance(result, Held)
    assert result.standings == (Standing(opening, 3),)
    assert Window.objects.get().opening_ticks == opening
    assert_the_books_balance()


def test_a_window_that_is_made_when_its_period_is_over_opens_without_what_came_after_it() -> None:
    spend(1, MIDNIGHT - timedelta(microseconds=1))
    spend(2, MIDNIGHT)
    post(reserve_of([DAY], 4, MIDNIGHT - timedelta(microseconds=1)))
    assert standings() == {"acme tenant day": Standing(1, 4)}
    assert_the_books_balance()


def test_what_was_spent_before_the_budget_counts_against_it() -> None:
    spend(998, NOON)
    (result,) = post(reserve_of([DAY], 3))
    assert isinstance(result, DoesNotFit)
    assert result.standings == (Standing(998, 0),)


TOTAL = limit_of(1_000, starts_at=TODAY.replace(day=1), ends_at=None)


@pytest.mark.parametrize(
    ("end", "spent"),
    [(partial(settle_of, ticks=40), 40), (partial(Void, at=NOON), 0), (partial(Expire, at=NOON), 100)],
)
def test_a_call_in_flight_joins_a_window_made_meanwhile_and_ends_in_it(end: Callable[..., Command], spent: int) -> None:
    in_flight = hold([DAY])
    hold([DAY, TOTAL], ticks=5)
    assert standings() == {"acme tenant day": Standing(0, 105), "acme tenant total": Standing(0, 105)}
    (ended,) = post(end(in_flight))
    assert ended == Ended((Standing(spent, 5),), spent)
    assert standings() == {"acme tenant day": Standing(spent, 5), "acme tenant total": Standing(spent, 5)}
    assert_the_books_balance()


def test_calls_in_flight_leave_no_room_in_a_budget_that_is_added_meanwhile() -> None:
    in_flight = [hold([DAY], 400), hold([DAY], 400)]
    total = replace(TOTAL, hard_ticks=1_000)
    (result,) = post(reserve_of([total], 201))
    assert isinstance(result, DoesNotFit)
    assert result.by_holds
    post(*[settle_of(each, 400) for each in in_flight])
    assert standings()["acme tenant total"] == Standing(800, 0)
    assert_the_books_balance()


@pytest.mark.parametrize(
    ("limit", "joined"),
    [
        (limit_of(9_000, "", scope="installation"), 2 + 4 + 8 + 16),
        (limit_of(9_000, scope="customer", subject="ada"), 2),
        (limit_of(9_000, scope="key", subject="7"), 4),
        (limit_of(9_000, scope="conversation", subject="about ada"), 0),
        (limit_of(9_000, starts_at=NOON), 2 + 4 + 8),
    ],
)
def test_a_window_is_joined_by_what_its_scope_has_in_flight_in_its_period(limit: Limit, joined: int) -> None:
    hold([DAY], 1, TODAY - timedelta(microseconds=1))
    hold([DAY], 2, customer="ada")
    hold([DAY], 4, key_id=7)
    hold([DAY], 8, conversation="about bob")
    hold([limit_of(9_000, "other")], 16, tenant_id="other")
    hold([DAY], 32, MIDNIGHT)
    hold([limit], 64)
    assert Window.objects.latest("id").held_ticks == joined + 64
    assert_the_books_balance()


@pytest.mark.parametrize("end", [partial(settle_of, ticks=40), partial(Void, at=NOON), partial(Expire, at=NOON)])
def test_a_worker_that_has_not_heard_of_a_budget_counts_its_calls_in_the_window_all_the_same(
    end: Callable[..., Command],
) -> None:
    """So has one that heard too early that the budget is gone."""
    hold([DAY, TOTAL], 1)
    unaware = hold([DAY], 100)
    assert standings() == {"acme tenant day": Standing(0, 101), "acme tenant total": Standing(0, 101)}
    post(end(unaware))
    assert standings()["acme tenant total"] == standings()["acme tenant day"]
    assert_the_books_balance()


def test_a_bill_that_comes_late_counts_in_a_window_that_was_made_after_the_lease() -> None:
    """Its opening has the hold; the correction brings it to the bill, below the opening if need be."""
    reserved = hold([])
    expire_reservations()
    since_then = limit_of(1_000, starts_at=TODAY, ends_at=None)
    hold([since_then], 1)
    assert standings() == {"acme tenant total": Standing(100, 1)}
    post(settle_of(reserved, 30))
    assert standings() == {"acme tenant total": Standing(30, 1)}
    assert_the_books_balance()


def test_a_window_that_another_zone_ended_earlier_goes_on_to_the_later_end_with_what_fell_between() -> None:
    """London's March ends an hour before that of UTC, and begins with it."""
    london = limit_of(1_000, ends_at=MIDNIGHT - timedelta(hours=1))
    hold([london], 1)
    spend(20, MIDNIGHT - timedelta(minutes=50))
    post(reserve_of([DAY], 400, MIDNIGHT - timedelta(minutes=5)))
    assert standings() == {"acme tenant day": Standing(20, 401)}
    assert Window.objects.get().ends_at == MIDNIGHT
    hold([london], 4)
    assert Window.objects.get().ends_at == MIDNIGHT
    assert_the_books_balance()


# Several at once


@several_at_once
def test_without_the_guard_two_who_make_a_window_at_once_collide() -> None:
    """Look, then insert: all but one of them fail, and with them their calls."""
    looked = threading.Barrier(4)

    def look_and_insert() -> bool:
        facts = {**DAY.key._asdict(), "ends_at": DAY.ends_at}
        is_missing = not Window.objects.filter(**facts).exists()
        looked.wait()
        try:
            if is_missing:
                Window.objects.create(**facts)
        except IntegrityError:
            return False
        return True

    assert sorted(at_once([look_and_insert] * 4)) == [False, False, False, True]


@several_at_once
def test_workers_that_make_a_window_at_once_share_it() -> None:
    keys = [limit_of(1_000, scope="customer", subject=f"customer {number}") for number in range(5)]
    batches = [[reserve_of([DAY, key], 50) for key in keys] for _ in range(6)]
    results = at_once([partial(Posting().post, batch) for batch in batches])
    assert sum(isinstance(result, Held) for batch in results for result in batch) == 1_000 // 50
    assert Window.objects.count() == 1 + len(keys)
    assert Window.objects.get(scope="tenant").held_ticks == 1_000
    assert_the_books_balance()


@only_postgres
@several_at_once
def test_without_the_guard_a_call_that_ends_while_a_window_is_made_counts_nowhere() -> None:
    """What was spent is summed before it ends, and what is in flight is looked for after."""
    in_flight = hold([DAY])
    has_summed, has_ended = threading.Barrier(2), threading.Event()

    def make_the_window() -> int:
        opening = spent_in(TOTAL.key, None)
        has_summed.wait(WAIT_S)
        has_ended.wait(WAIT_S)
        pending = Reservation.objects.filter(state=ReservationState.PENDING)
        return opening + sum(pending.values_list("hold_ticks", flat=True))

    def end_the_call() -> int:
        has_summed.wait(WAIT_S)
        post(settle_of(in_flight, 100))
        has_ended.set()
        return 100

    assert at_once([make_the_window, end_the_call]) == [0, 100]


@several_at_once
def test_with_it_calls_that_end_while_windows_are_made_count_in_them_once() -> None:
    for number in range(1, 16):
        limit = limit_of(10**6, starts_at=TODAY + timedelta(minutes=15 * number))
        in_flight = [hold([DAY], 10) for _ in range(4)]
        endings = [partial(post, settle_of(each, 10)) for each in in_flight]
        at_once([*endings, partial(post, reserve_of([limit], 0)), partial(post, reserve_of([limit], 0))])
        window = Window.objects.latest("id")
        assert Standing(window.spent_ticks, window.held_ticks) == Standing(number * 40, 0)
    assert_the_books_balance()


@only_postgres
@several_at_once
def test_without_the_order_two_batches_that_cross_deadlock() -> None:
    hold([limit_of(9_000, tenant) for tenant in ("a", "b")], ticks=0)
    first, second = Window.objects.order_by("id").values_list("id", flat=True)
    locked_one = threading.Barrier(2)

    def lock(*ids: int) -> str:
        try:
            with transaction.atomic():
                connection.cursor().execute("SET LOCAL deadlock_timeout = '50ms'")
                for window_id in ids:
                    Window.objects.select_for_update().get(pk=window_id)
                    if window_id == ids[0]:
                        locked_one.wait()
        except OperationalError as error:
            return str(error).splitlines()[0]
        return ""

    assert sorted(at_once([partial(lock, first, second), partial(lock, second, first)])) == ["", "deadlock detected"]


@several_at_once
def test_batches_that_cross_wait_for_each_other_and_never_deadlock() -> None:
    """The same tenants and models, in opposite orders, in every kind of row."""
    tenants = [f"tenant-{number}" for number in range(6)]
    rounds = 12

    def work(order: list[str]) -> None:
        posting, open_holds = Posting(), list[Reserved]()
        for _ in range(rounds):
            reserves: list[Command] = [
                reserve_of([limit_of(10**6, tenant), limit_of(10**6, "", scope="installation")],
                           [offer_of(10, model=tenant)], caller=caller_of(tenant))
                for tenant in order
            ]  # fmt: skip
            ends: list[Command] = [
                command for reserved in open_holds for command in (settle_of(reserved, 7), record_of(reserved, 7))
            ]
            results = posting.post([*ends, *reserves])
            open_holds = [result.reserved for result in results if isinstance(result, Held)]
            assert len(open_holds) == len(order)

    at_once([partial(work, tenants), partial(work, tenants[::-1]), partial(work, tenants[3:] + tenants[:3])])
    installation = Window.objects.get(scope="installation")
    assert installation.spent_ticks == 3 * (rounds - 1) * len(tenants) * 7
    assert installation.held_ticks == 3 * len(tenants) * 10
    assert_the_books_balance()


@several_at_once
def test_a_reservation_that_many_end_at_once_ends_once() -> None:
    """Where it expires first, one of the others corrects what it cost."""
    for _ in range(5):
        reserved = hold()
        endings: list[Command] = [settle_of(reserved, 30), Void(reserved, NOON), Expire(reserved, NOON)] * 2
        results = at_once([partial(post, ending) for ending in endings])
        corrections = LedgerEntry.objects.filter(corrects_id=reserved.id).count()
        is_expired = Reservation.objects.get(pk=reserved.id).state == ReservationState.EXPIRED
        assert corrections == is_expired
        assert sum(isinstance(result, Ended) for (result,) in results) == 1 + corrections
    assert not Reservation.objects.filter(state=ReservationState.PENDING).exists()
    assert_the_books_balance()


# Leases


def test_what_is_due_expires_at_its_hold_and_is_flagged_and_nothing_else_does() -> None:
    due, running, ended = hold(), hold(), hold()
    post(Renew((running.id,), timezone.now() + LEASE))
    post(settle_of(ended, 30))
    assert expire_reservations() == 1
    entry = LedgerEntry.objects.get(pk=due.id)
    assert (entry.cost_ticks, entry.is_expired, entry.is_estimated, entry.is_overrun) == (100, True, True, False)
    assert (entry.at, entry.tenant_id, entry.model, entry.route) == (due.created_at, "acme", "model", "primary")
    states = {row.id: row.state for row in Reservation.objects.all()}
    assert states == {due.id: "expired", running.id: "pending", ended.id: "settled"}
    assert standings() == {"acme tenant day": Standing(130, 100)}
    assert expire_reservations() == 0
    assert_the_books_balance()


def test_of_a_renewal_and_an_end_in_one_batch_the_end_stands() -> None:
    holds = [hold(ticks=ticks) for ticks in (10, 20, 30)]
    renew = Renew(tuple(each.id for each in holds), NOON + 4 * LEASE)
    post(settle_of(holds[0], 5), renew, settle_of(holds[1], 5))
    states = {row.hold_ticks: (row.state, row.lease_expires_at - NOON) for row in Reservation.objects.all()}
    assert states == {10: ("settled", LEASE), 20: ("settled", LEASE), 30: ("pending", 4 * LEASE)}
    assert_the_books_balance()


def test_a_call_that_expires_is_recorded_with_all_that_it_cost() -> None:
    first = hold(customer="ada")
    post(settle_of(first, 30))
    (second,) = post(reserve_of([DAY], 100, caller=first.caller))
    assert isinstance(second, Held)
    assert expire_reservations() == 1
    call = Call.objects.get()
    assert (call.pk, call.outcome, call.code, call.customer) == (first.caller.call_id, "failed", "interrupted", "ada")
    assert (call.at, call.model, call.route, call.cost_ticks) == (NOON, "model", "primary", 130)
    assert call.steps == [{"model": "model", "decision": "failed", "code": "interrupted", "hold_ticks": 100}]
    assert Rollup.objects.values_list("attempts", "served", "failed").get() == (2, 0, 1)
    assert_the_books_balance()


def test_a_call_that_was_recorded_before_its_hold_expired_is_recorded_once() -> None:
    reserved = hold()
    post(Record(reserved.caller, Outcome.FAILED, NOON, code="ledger_unavailable"))
    assert expire_reservations() == 1
    assert Call.objects.get().code == "ledger_unavailable"
    assert_the_books_balance()


@pytest.mark.parametrize("is_retry", [False, True])
def test_a_call_that_its_worker_ends_after_all_is_told_as_it_ended(is_retry: bool) -> None:
    """Even by another attempt, and in another quarter of an hour."""
    posting, reserved = Posting(), hold()
    expire_reservations()
    posting.post([Void(reserved, NOON)])
    later = NOON + timedelta(minutes=20)
    (held,) = posting.post([reserve_of([DAY], [offer_of(50, model="other")], later, caller=reserved.caller)])
    assert isinstance(held, Held)
    record = replace(record_of(held.reserved, 40), at=later)
    posting.post([settle_of(held.reserved, 40), record], is_retry=is_retry)
    call = Call.objects.get()
    assert (call.outcome, call.code, call.model, call.at, call.cost_ticks) == ("served", "", "other", later, 40)
    counts = Rollup.objects.order_by("bucket").values_list("model", "served", "failed", "cost_ticks")
    assert list(counts) == [("model", 0, 0, 0), ("other", 1, 0, 40)]
    posting.post([record], is_retry=True)
    assert list(counts) == [("model", 0, 0, 0), ("other", 1, 0, 40)]
    assert_the_books_balance()


def late(end: Callable[[Reserved], Command], cost: int) -> LedgerEntry:
    """A hold of 100 expires, and its end comes after all, twice; the entry that corrects it."""
    reserved = hold()
    expire_reservations()
    ended, _ = post(end(reserved), record_of(reserved, cost))
    assert ended == Ended((Standing(cost, 0),), cost)
    assert post(end(reserved), Expire(reserved, NOON)) == [NotPending((Standing(cost, 0),))] * 2
    expired, correction = LedgerEntry.objects.order_by("-is_expired")
    assert (expired.cost_ticks, expired.is_expired, correction.corrects_id) == (100, True, reserved.id)
    assert standings() == {"acme tenant day": Standing(cost, 0)}
    assert Rollup.objects.get(route="primary").cost_ticks == cost
    assert_the_books_balance()
    return correction


@pytest.mark.parametrize(("cost", "is_overrun"), [(130, True), (100, False), (30, False)])
def test_a_bill_that_comes_after_the_lease_is_entered_in_full(cost: int, is_overrun: bool) -> None:
    correction = late(partial(settle_of, ticks=cost), cost)
    assert (correction.cost_ticks, correction.provider_ticks, correction.is_overrun) == (cost - 100, cost, is_overrun)


def test_an_attempt_that_surely_cost_nothing_is_entered_so_after_its_lease() -> None:
    assert late(partial(Void, at=NOON), 0).cost_ticks == -100


def test_who_knows_no_bill_after_the_lease_leaves_it_at_the_hold() -> None:
    reserved = hold()
    expire_reservations()
    assert post(settle_of(reserved, None)) == [NotPending((Standing(100, 0),))]
    assert_the_books_balance()


@several_at_once
def test_workers_that_bring_a_late_bill_at_once_enter_it_once() -> None:
    reserved = hold()
    expire_reservations()
    results = at_once([partial(post, settle_of(reserved, 130))] * 4)
    assert sorted(type(result).__name__ for (result,) in results) == ["Ended", *["NotPending"] * 3]
    assert standings() == {"acme tenant day": Standing(130, 0)}
    assert_the_books_balance()


def test_days_that_were_summed_before_a_late_bill_are_summed_anew() -> None:
    tenant, now = TenantFactory.create(id="acme"), timezone.now()
    limit = limit_of(1_000, starts_at=bucket_of(now) - timedelta(days=9), ends_at=None)
    reserved = hold([limit], at=now - timedelta(days=3), customer="ada")
    expire_reservations()
    catch_up(now)
    assert DailyCustomer.objects.get().cost_ticks == 100
    post(settle_of(reserved, 30))
    assert not DailyCustomer.objects.exists()
    catch_up(now)
    assert DailyCustomer.objects.get(tenant=tenant).cost_ticks == 30
    assert misfits() == []
    assert_the_books_balance()


@several_at_once
def test_workers_that_expire_at_once_expire_each_once() -> None:
    limit = limit_of(10**6)
    Posting().post([reserve_of([limit], 10) for _ in range(60)])
    assert sum(at_once([expire_reservations] * 4)) == 60
    assert standings() == {"acme tenant day": Standing(600, 0)}
    assert_the_books_balance()


def test_an_unknown_bill_is_written_as_unknown() -> None:
    reserved = hold()
    post(replace(settle_of(reserved, 0), bill=bill_of(None)))
    entry = LedgerEntry.objects.get()
    assert (entry.cost_ticks, entry.computed_ticks, entry.provider_ticks, entry.is_estimated) == (100, None, None, True)
    assert_the_books_balance()
