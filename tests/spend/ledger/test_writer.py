"""The writer: what arrives together commits together, and nothing that was spent is ever dropped."""

import asyncio
import gc
import sqlite3
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, TypeVar

import psycopg
import pytest
from django.conf import settings
from django.db import OperationalError, connection

from spend.ledger.posting import Posting
from spend.ledger.rules import Command, Ended, Held, LedgerError, NotPending, Record, Reserved, Result, Standing
from spend.ledger.writer import Writer
from spend.models import Call, Outcome, Reservation, ReservationState, Rollup, Window
from tests.support.books import assert_the_books_balance
from tests.support.commands import LEASE, NOON, caller_of, limit_of, record_of, reserve_of, settle_of
from tests.support.postgres import with_database

pytestmark = pytest.mark.django_db(transaction=True)

Returned = TypeVar("Returned")
Outage = Callable[[], AbstractContextManager[None]]

DAY = limit_of(1_000)
LONGER_THAN_A_RETRY_S = 0.6


class Watched(Posting):
    """The real posting, which says how large its batches were and can be made to wait after a commit.

    On SQLite it is less patient with locks than the settings are.
    """

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []
        self.is_committed, self.may_go_on = threading.Event(), threading.Event()
        self.may_go_on.set()
        self.loses_answers = 0
        self.knows_retries = True

    def post(self, commands: Sequence[Command], *, is_retry: bool = False) -> list[Result]:
        if connection.vendor == "sqlite":
            connection.cursor().execute("PRAGMA busy_timeout = 100")
        results = super().post(commands, is_retry=is_retry and self.knows_retries)
        self.batches.append(len(commands))
        self.is_committed.set()
        self.may_go_on.wait(10)
        if self.loses_answers:
            self.loses_answers -= 1
            raise OperationalError("the connection broke before the commit was answered")
        return results


@pytest.fixture
def writer() -> Iterator[Writer]:
    """Not started yet."""
    writer = Writer()
    writer.posting = Watched()
    yield writer
    if writer.thread.is_alive():
        writer.stop()
    assert not writer.thread.is_alive()


@pytest.fixture
def outage() -> Outage:
    """Inside, the database takes nothing: SQLite's file is locked, Postgres lets nobody in and has thrown all out."""
    connection.close()  # ours would be thrown out too
    return locked_sqlite if connection.vendor == "sqlite" else closed_postgres


@contextmanager
def locked_sqlite() -> Iterator[None]:
    other = sqlite3.connect(connection.settings_dict["NAME"], isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


@contextmanager
def closed_postgres() -> Iterator[None]:
    name = connection.settings_dict["NAME"]
    with psycopg.connect(with_database(settings_url(), "postgres"), autocommit=True) as admin:
        admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        try:
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
            yield
        finally:
            admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')


def settings_url() -> str:
    database = settings.DATABASES["default"]
    return f"postgres://{database['USER']}@{database['HOST']}:{database['PORT']}/{database['NAME']}"


def run(main: Coroutine[Any, Any, Returned]) -> Returned:
    return asyncio.run(main)


async def hold(writer: Writer, ticks: int = 100) -> Reserved:
    (result,) = await writer.post(reserve_of([DAY], ticks))
    assert isinstance(result, Held)
    return result.reserved


def standing() -> Standing:
    window = Window.objects.get()
    return Standing(window.spent_ticks, window.held_ticks)


def batches(writer: Writer) -> list[int]:
    assert isinstance(writer.posting, Watched)
    return writer.posting.batches


# Group commit


def test_what_arrives_while_the_writer_is_busy_shares_one_transaction(writer: Writer) -> None:
    async def main() -> list[list[Result]]:
        asks = [asyncio.create_task(writer.post(reserve_of([DAY], 30))) for _ in range(50)]
        await asyncio.sleep(0)
        writer.start()
        return await asyncio.gather(*asks)

    answers = run(main())
    assert [len(answer) for answer in answers] == [1] * 50
    assert sum(isinstance(result, Held) for (result,) in answers) == 1_000 // 30
    assert batches(writer) == [50]
    assert standing() == Standing(0, 990)


def test_each_caller_gets_the_results_of_its_own_commands_in_order(writer: Writer) -> None:
    async def main() -> None:
        writer.start()
        reserved = [await hold(writer, ticks) for ticks in (10, 20)]
        answers = await asyncio.gather(
            *[
                writer.post(settle_of(each, each.hold_ticks - 1), record_of(each, each.hold_ticks - 1))
                for each in reserved
            ]
        )
        costs = [(ended.cost_ticks, recorded) for ended, recorded in answers if isinstance(ended, Ended)]
        assert costs == [(9, None), (19, None)]

    run(main())
    assert_the_books_balance()


def test_callers_on_different_loops_are_answered_on_their_own(writer: Writer) -> None:
    writer.start()
    threads = [threading.Thread(target=run, args=[hold(writer)]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert standing() == Standing(0, 300)


# One bad command


@pytest.mark.parametrize("poison", ["a reservation made already", "a bill too large", "a hold too large"])
def test_a_bad_command_fails_alone(writer: Writer, poison: str) -> None:
    async def main() -> None:
        writer.start()
        first = await hold(writer)
        bad: dict[str, Command] = {
            "a reservation made already": replace(reserve_of([DAY], 7), id=first.id),
            "a bill too large": settle_of(first, 2**70),
            "a hold too large": reserve_of([limit_of(2**80)], 2**70),
        }
        neighbours = [asyncio.create_task(hold(writer)) for _ in range(3)]
        spoiled = asyncio.create_task(writer.post(bad[poison]))
        neighbours += [asyncio.create_task(hold(writer)) for _ in range(3)]
        assert len(await asyncio.gather(*neighbours)) == 6
        with pytest.raises(LedgerError):
            await spoiled

    run(main())
    assert standing() == Standing(0, 700)
    assert_the_books_balance()


# The database is away


def test_during_an_outage_holds_are_refused_and_settlements_are_kept(writer: Writer, outage: Outage) -> None:
    async def main() -> None:
        writer.start()
        reserved = await hold(writer)
        with outage():
            settled = asyncio.create_task(writer.post(settle_of(reserved, 40), record_of(reserved, 40)))
            for _ in range(2):
                with pytest.raises(LedgerError):
                    await hold(writer)
            await asyncio.sleep(LONGER_THAN_A_RETRY_S)
            assert not settled.done()
        ended, _ = await settled
        assert ended == Ended((Standing(40, 0),), 40)
        await hold(writer)

    run(main())
    assert standing() == Standing(40, 100)
    assert Reservation.objects.count() == 2
    assert_the_books_balance()


def test_a_settlement_whose_caller_went_away_is_written_all_the_same(writer: Writer, outage: Outage) -> None:
    async def main() -> None:
        writer.start()
        reserved = await hold(writer)
        with outage():
            settled = asyncio.create_task(writer.post(settle_of(reserved, 40)))
            await asyncio.sleep(LONGER_THAN_A_RETRY_S)
            settled.cancel()

    run(main())
    writer.stop()
    assert standing() == Standing(40, 0)
    assert_the_books_balance()


def test_a_writer_that_is_stopped_during_an_outage_writes_what_it_keeps_first(writer: Writer, outage: Outage) -> None:
    async def main() -> None:
        writer.start()
        reserved = await hold(writer)
        with outage():
            writer.post_later(settle_of(reserved, 40))
            stopping = asyncio.create_task(asyncio.to_thread(writer.stop))
            await asyncio.sleep(LONGER_THAN_A_RETRY_S)
            assert writer.thread.is_alive()
        await stopping

    run(main())
    assert standing() == Standing(40, 0)


@pytest.mark.skipif("config.getoption('db') != 'postgres'", reason="SQLite has no connection that could break")
def test_a_connection_that_breaks_is_made_anew(writer: Writer) -> None:
    async def main() -> None:
        writer.start()
        reserved = await hold(writer)
        await asyncio.to_thread(terminate_other_backends)
        await writer.post(settle_of(reserved, 40))

    run(main())
    assert standing() == Standing(40, 0)
    assert_the_books_balance()


@pytest.mark.skipif("config.getoption('db') != 'postgres'", reason="SQLite has no connection that could break")
@pytest.mark.parametrize("is_guarded", [False, True])
def test_a_connection_that_broke_while_idle_refuses_no_call(writer: Writer, is_guarded: bool) -> None:
    """As after a restart of the server; without the look at it the first call is refused."""
    writer.idle_s = 0 if is_guarded else 60

    async def main() -> None:
        writer.start()
        await hold(writer)
        await asyncio.to_thread(terminate_other_backends)
        with nullcontext() if is_guarded else pytest.raises(LedgerError):
            await hold(writer)

    run(main())
    assert_the_books_balance()


def terminate_other_backends() -> None:
    with psycopg.connect(settings_url(), autocommit=True) as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()",
            [connection.settings_dict["NAME"]],
        )


@pytest.mark.parametrize("is_guarded", [False, True])
def test_a_commit_whose_answer_is_lost_is_posted_again_and_counts_once(writer: Writer, is_guarded: bool) -> None:
    """Without looking for its record, the second time fails on what the first has written."""
    posting = writer.posting
    assert isinstance(posting, Watched)
    posting.knows_retries = is_guarded

    async def main() -> None:
        writer.start()
        reserved = await hold(writer)
        posting.loses_answers = 1
        settled = writer.post(settle_of(reserved, 40), record_of(reserved, 40))
        if is_guarded:
            assert await settled == [NotPending((Standing(40, 0),)), None]
        else:
            with pytest.raises(LedgerError):
                await settled

    run(main())
    assert standing() == Standing(40, 0)
    assert Call.objects.count() == 1
    assert Rollup.objects.get(route="primary").served == 1
    assert_the_books_balance()


def test_a_hold_whose_commit_was_not_answered_is_given_back(writer: Writer) -> None:
    """Its caller is told that the ledger is away, and calls no provider."""
    posting = writer.posting
    assert isinstance(posting, Watched)

    async def main() -> None:
        writer.start()
        await hold(writer, 7)
        posting.loses_answers = 1
        with pytest.raises(LedgerError):
            await hold(writer)
        await hold(writer, 5)
        await asyncio.to_thread(writer.stop)

    run(main())
    states = dict(Reservation.objects.values_list("hold_ticks", "state"))
    assert states == {7: ReservationState.PENDING, 100: ReservationState.VOIDED, 5: ReservationState.PENDING}
    assert standing() == Standing(0, 12)
    assert_the_books_balance()


# Leases


def test_the_leases_of_calls_in_flight_are_renewed_and_of_those_that_are_lost_are_not(writer: Writer) -> None:
    later = NOON + 4 * LEASE

    async def main() -> None:
        writer.start()
        in_flight, settled, lost = [await hold(writer, ticks) for ticks in (10, 20, 30)]
        await writer.post(settle_of(settled, 5))
        del lost
        gc.collect()
        writer.renew(later)
        writer.stop()
        assert writer.in_flight[in_flight.id] is in_flight

    run(main())
    leases = dict(Reservation.objects.values_list("hold_ticks", "lease_expires_at"))
    assert leases == {10: later, 20: NOON + LEASE, 30: NOON + LEASE}


# Callers who go away


def test_a_hold_that_nobody_waits_for_any_more_is_not_made(writer: Writer) -> None:
    async def main() -> None:
        abandoned = asyncio.create_task(hold(writer))
        kept = asyncio.create_task(hold(writer, 7))
        await asyncio.sleep(0)
        abandoned.cancel()
        await asyncio.sleep(0)
        writer.start()
        await kept

    run(main())
    assert Reservation.objects.get().hold_ticks == 7


def test_a_hold_whose_caller_goes_away_while_it_is_committed_is_given_back(writer: Writer) -> None:
    posting = writer.posting
    assert isinstance(posting, Watched)

    async def main() -> None:
        posting.may_go_on.clear()
        writer.start()
        abandoned = asyncio.create_task(hold(writer))
        await asyncio.to_thread(posting.is_committed.wait)
        abandoned.cancel()
        await asyncio.sleep(0)
        posting.may_go_on.set()
        await hold(writer, 7)
        await asyncio.to_thread(writer.stop)

    run(main())
    states = dict(Reservation.objects.values_list("hold_ticks", "state"))
    assert states == {100: ReservationState.VOIDED, 7: ReservationState.PENDING}
    assert standing() == Standing(0, 7)
    assert_the_books_balance()


def test_stopping_writes_what_is_queued(writer: Writer) -> None:
    for _ in range(700):
        writer.post_later(Record(caller_of(), Outcome.REFUSED, NOON))
    writer.start()
    writer.stop()
    assert Call.objects.count() == 700
    assert batches(writer) == [500, 200]
    assert_the_books_balance()
