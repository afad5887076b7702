"""The current policy and the breakers' rows, kept fresh from a thread of its own.

A change is in force within a second: the thread polls the one-row revision (see `tenants.trail`) and the breakers.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from time import monotonic, thread_time
from typing import Any

from django.db import Error, connection

from guard.policy.loader import load, updated
from guard.policy.snapshot import Policy
from spend.models import Breaker
from spend.outage import DATABASE

logger = logging.getLogger(__name__)

Asking = tuple[asyncio.AbstractEventLoop, "asyncio.Future[None]"]

POLL_S = 0.25
LEAST_S = 0.05
"""Between two looks at the database, however many ask for one."""
MOST_WAIT_S = 5.0
MAX_AGE_S = 10.0
"""A change that went round the audit trail, by bulk SQL, is seen after this long, or after MAX_AGE_LOADS."""
MAX_AGE_LOADS = 100
"""How many times the CPU of reading everything passes before that is done again without a reason: 1 % of a core."""

# As `REVISION_QUERY`.
BREAKERS_QUERY, BREAKERS_PARAMS = Breaker.objects.all().query.sql_with_params()


def breaker_rows() -> list[tuple[Any, ...]]:
    """The breakers as the database has them, to see whether any has changed."""
    with connection.cursor() as cursor:
        cursor.execute(BREAKERS_QUERY, BREAKERS_PARAMS)
        return list(cursor.fetchall())


class PolicyKeeper:
    """Holds the current policy and the breakers' rows, and keeps both fresh from a thread of its own."""

    def __init__(self) -> None:
        self.policy = Policy({}, {}, {}, (), -1)
        self.breakers: dict[str, Breaker] = {}
        self.breaker_rows: list[tuple[Any, ...]] | None = None
        self.load_again_at = 0.0
        self.heard_at: float | None = None
        self.stopping = threading.Event()
        self.wanted = threading.Event()
        self.asked: deque[Asking] = deque()
        self.thread = threading.Thread(target=self._run, name="policy-keeper", daemon=True)

    def start(self) -> None:
        """Keep fresh what `refresh` read first."""
        self.thread.start()

    def stop(self) -> None:
        self.stopping.set()
        self.wanted.set()
        self.thread.join()

    async def look_again(self) -> None:
        """Return once the policy is as fresh as the database was when this was called.

        All who ask share the next look, and two looks begin LEAST_S apart: so a flood of them is no load.
        Raises django.db.Error, or TimeoutError where the database does not answer.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self.asked.append((loop, future))
        self.wanted.set()
        async with asyncio.timeout(MOST_WAIT_S):
            await future

    @property
    def is_loaded(self) -> bool:
        return self.policy.revision >= 0

    def refresh(self) -> None:
        rows = breaker_rows()
        self.heard_at = monotonic()
        if rows != self.breaker_rows:
            breakers = {breaker.model_id: breaker for breaker in Breaker.objects.all()}
            self.breaker_rows = rows  # before the breakers: one that is learnt between is then read again
            self.breakers = breakers
        if monotonic() >= self.load_again_at:
            self._load()
        else:
            self.policy = updated(self.policy)

    def _load(self) -> None:
        started = thread_time()
        self.policy = load()
        self.load_again_at = monotonic() + max(MAX_AGE_S, MAX_AGE_LOADS * (thread_time() - started))

    def learn_breaker(self, breaker: Breaker) -> None:
        """What this worker has just written it knows at once: else a success right after a failure would not count."""
        self.breakers = {**self.breakers, breaker.model_id: breaker}
        self.breaker_rows = None  # it may be older than what stands there by now

    def _run(self) -> None:
        try:
            while not self.stopping.wait(LEAST_S):
                self.wanted.wait(POLL_S - LEAST_S)
                self.wanted.clear()  # before those who asked are counted: who asks from here on is for the next look
                asked = [self.asked.popleft() for _ in range(len(self.asked))]
                _answer(asked, self._look())
        finally:
            connection.close()

    def _look(self) -> Exception | None:
        """Refresh; the error, if that failed."""
        try:
            self.refresh()
        except Error as error:
            # The writer refuses calls where the database is away; the last policy stands meanwhile.
            DATABASE.failed(error)
            connection.close()  # else kept: to connect costs ten times what is asked
            self.heard_at = None
            return error
        except Exception as error:  # without this thread the policy would stay as it is for ever
            logger.exception("the policy could not be read")
            return error
        DATABASE.is_over()
        return None


def _answer(asked: Sequence[Asking], error: Exception | None) -> None:
    for loop, future in asked:
        with suppress(RuntimeError):  # a loop that is closed
            loop.call_soon_threadsafe(_resolve, future, error)


def _resolve(future: "asyncio.Future[None]", error: Exception | None) -> None:
    if future.done():  # nobody waits any more
        return
    if error:
        future.set_exception(error)
    else:
        future.set_result(None)
