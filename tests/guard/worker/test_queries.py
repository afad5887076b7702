"""What calls wait for in a worker, and what is noted of them: neither holds the other up."""

import asyncio
from threading import Event

import pytest
from django.db import connection

from guard.worker.runtime import Runtime
from tests.support.runtime import with_runtime

pytestmark = pytest.mark.django_db(transaction=True)
WAIT_S = 30


class Slow:
    """A query that has begun, and ends when it is told."""

    def __init__(self) -> None:
        self.has_begun, self.may_end = Event(), Event()

    def __call__(self) -> bool:
        self.has_begun.set()
        return self.may_end.wait(WAIT_S)


async def beside_a_slow_one(runtime: Runtime, work: "asyncio.Task[None]", slow: Slow) -> None:
    slowly = asyncio.create_task(runtime.query(slow))
    try:
        assert await asyncio.to_thread(slow.has_begun.wait, WAIT_S)
        await asyncio.wait_for(work, WAIT_S)
        assert not slowly.done()
    finally:
        slow.may_end.set()
    assert await slowly


def test_a_slow_query_holds_up_no_note() -> None:
    noted = list[int]()

    async def story(runtime: Runtime) -> None:
        async def work() -> None:
            await asyncio.gather(*(runtime.note(noted.append, number) for number in range(50)))

        await beside_a_slow_one(runtime, asyncio.create_task(work()), Slow())

    with_runtime(story)
    assert noted == list(range(50))


def seven() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 7")
        return int(cursor.fetchone()[0])


def test_a_slow_query_holds_up_no_other() -> None:
    if connection.vendor == "sqlite":
        pytest.skip("SQLite has one writer")

    async def story(runtime: Runtime) -> None:
        async def work() -> None:
            assert await runtime.query(seven) == 7

        await beside_a_slow_one(runtime, asyncio.create_task(work()), Slow())

    with_runtime(story)
