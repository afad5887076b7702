"""Group commit: one thread per process posts to the ledger, and what arrives while it commits goes together.

No lingering: the thread drains the queue, commits, answers, and drains again.  A caller is answered
only after its commit.  If the database fails, holds are refused at once (nothing was spent), while
settlements, which money already spent depends on, are kept and tried again until they are written.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from queue import Empty, SimpleQueue
from uuid import UUID
from weakref import WeakValueDictionary

from django.db import DEFAULT_DB_ALIAS, DataError, Error, IntegrityError, connections
from django.utils import timezone

from spend.ledger.leases import reserved_of
from spend.ledger.posting import Posting
from spend.ledger.rules import Command, Held, LedgerError, Renew, Reserve, Reserved, Result, Void
from spend.models import Reservation, ReservationState
from spend.outage import DATABASE

logger = logging.getLogger(__name__)

MOST_UNITS = 500
MOST_DOUBTFUL = 5_000
RETRY_S = 0.25
PATIENCE_S = 10.0

Outcome = list[Result] | LedgerError
Future = asyncio.Future[list[Result]]


@dataclass(slots=True)
class Unit:
    """Commands that are posted in one transaction, and who waits for their results."""

    commands: Sequence[Command]
    loop: asyncio.AbstractEventLoop | None = None
    future: Future | None = None

    @property
    def is_abandoned(self) -> bool:
        """Nobody waits for this hold any more, so it need not be made."""
        return self.future is not None and self.future.cancelled() and self.asks_for_hold

    @property
    def asks_for_hold(self) -> bool:
        return any(isinstance(command, Reserve) for command in self.commands)


class Writer:
    """The ledger's writer thread. `post` is for coroutines, on any loop."""

    idle_s = 1.0
    """After so long without a command its connection may be gone, and costs a question to make sure."""

    def __init__(self, using: str = DEFAULT_DB_ALIAS) -> None:
        self.using = using
        self.posting = Posting(using)
        self.queue: SimpleQueue[Unit | None] = SimpleQueue()
        self.kept: deque[Unit] = deque()
        self.is_retrying = False
        self.doubtful: list[UUID] = []
        # A call refers to its hold while it runs: one that was lost, by whatever defect, is renewed no more.
        self.in_flight: WeakValueDictionary[UUID, Reserved] = WeakValueDictionary()
        self.thread = threading.Thread(target=self._run, name="ledger-writer", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def stop(self, patience_s: float = PATIENCE_S) -> None:
        """Write what is queued, then end the thread. Called when nothing posts any more."""
        self.queue.put(None)
        self.thread.join(patience_s)

    async def post(self, *commands: Command) -> list[Result]:
        """Post `commands` in one transaction and return their results, in order, after its commit.

        Raises LedgerError where the database can't take a hold now, or is so late with a settlement
        that the caller should be answered; the settlement itself stays queued.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[Result]] = loop.create_future()
        self.queue.put(Unit(commands, loop, future))
        try:
            async with asyncio.timeout(PATIENCE_S):
                results = await future
        except TimeoutError:
            raise LedgerError("the ledger did not answer in time") from None
        self.in_flight.update((held.reserved.id, held.reserved) for held in results if isinstance(held, Held))
        return results

    def post_later(self, *commands: Command) -> None:
        """Post `commands` without waiting for them."""
        self.queue.put(Unit(commands))

    def renew(self, lease_expires_at: datetime) -> None:
        """Renew the leases of this writer's calls in flight: only those of a dead worker are to end."""
        if ids := tuple(self.in_flight):
            self.post_later(Renew(ids, lease_expires_at))

    def _run(self) -> None:
        try:
            while (units := self._next_units()) is not None:
                self._post(units)
                self.is_retrying = bool(self.kept)
        finally:
            connections[self.using].close()

    def _next_units(self) -> list[Unit] | None:
        """What is waiting now, or None once the writer is stopped and nothing is kept."""
        first = self._get()
        units = [*self.kept]
        self.kept.clear()
        while first is not None:
            units.append(first)
            if len(units) >= MOST_UNITS:
                break
            try:
                first = self.queue.get_nowait()
            except Empty:
                return units
        if first is None and not units:
            return None
        if first is None:
            self.queue.put(None)
        return units

    def _get(self) -> Unit | None:
        if not self.kept:
            idle_from = time.monotonic()
            unit = self.queue.get()
            if time.monotonic() - idle_from >= self.idle_s:
                # Looked at before it is used: a server that was started anew meanwhile has forgotten it.
                connections[self.using].health_check_done = False  # type: ignore[attr-defined]
            return unit
        time.sleep(RETRY_S)
        try:
            return self.queue.get_nowait()
        except Empty:
            return Unit(())

    def _post(self, units: list[Unit]) -> None:
        units = [unit for unit in units if not unit.is_abandoned]
        try:
            commands = [command for unit in units for command in unit.commands]
            results = self.posting.post(commands, is_retry=self.is_retrying)
        except Error as error:
            self._post_failed(units, error)
        except Exception:
            logger.exception("a batch of the ledger failed on a defect")
            self._split(units, LedgerError("the ledger refused the command"))
        else:
            self._give_back_doubtful()  # before anybody is answered, who may stop this writer
            self._deliver(units, results)

    def _post_failed(self, units: list[Unit], error: Error) -> None:
        if _is_about_data(error) and len(units) > 1:
            self._split(units, error)
            return
        if _is_about_data(error):
            logger.error("the ledger cannot be written: %s", error)
        else:
            DATABASE.failed(error)
        connections[self.using].close()
        refused = [unit for unit in units if unit.asks_for_hold or _is_about_data(error)]
        self.kept.extend(unit for unit in units if unit not in refused)
        if not _is_about_data(error):
            self._doubt(refused)
        self._resolve(refused, [LedgerError(str(error))] * len(refused))

    def _doubt(self, refused: list[Unit]) -> None:
        """The database may have failed to answer a commit only. It did so at the beginning, if at all."""
        ids = [command.id for unit in refused for command in unit.commands if isinstance(command, Reserve)]
        self.doubtful += ids[: MOST_DOUBTFUL - len(self.doubtful)]

    def _give_back_doubtful(self) -> None:
        """Void the holds that were refused, and yet are there: no provider was called."""
        if not self.doubtful:
            return
        ids, self.doubtful = self.doubtful, []
        try:
            pending = Reservation.objects.using(self.using).filter(pk__in=ids, state=ReservationState.PENDING)
            held = [reserved_of(row) for row in pending]
        except Error as error:
            logger.warning("the ledger cannot be read: %s", error)
            self.doubtful = ids
            return
        if held:
            self.post_later(*[Void(reserved, timezone.now()) for reserved in held])

    def _split(self, units: list[Unit], error: Exception) -> None:
        """One bad command must not fail its neighbours: post them one by one."""
        if len(units) == 1:
            self._resolve(units, [error if isinstance(error, LedgerError) else LedgerError(str(error))])
            return
        for unit in units:
            self._post([unit])

    def _deliver(self, units: list[Unit], results: list[Result]) -> None:
        remaining = iter(results)
        self._resolve(units, [[next(remaining) for _ in unit.commands] for unit in units])

    def _resolve(self, units: Sequence[Unit], outcomes: Sequence[Outcome]) -> None:
        """Hand the outcomes to their loops, with one wake-up a loop."""
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Future, Outcome]]] = {}
        for unit, outcome in zip(units, outcomes, strict=True):
            if unit.loop is not None and unit.future is not None:
                by_loop.setdefault(unit.loop, []).append((unit.future, outcome))
        for loop, answers in by_loop.items():
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._answer, answers)

    def _answer(self, answers: list[tuple[Future, Outcome]]) -> None:
        for future, outcome in answers:
            if future.cancelled():
                self._give_back(outcome)
            elif isinstance(outcome, LedgerError):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

    def _give_back(self, outcome: Outcome) -> None:
        """A hold whose caller went away while it was committed is voided: no provider was called."""
        for result in outcome if isinstance(outcome, list) else ():
            if isinstance(result, Held):
                self.post_later(Void(result.reserved, timezone.now()))


def _is_about_data(error: Error) -> bool:
    """Whether the command is at fault, rather than the database's health."""
    return isinstance(error, DataError | IntegrityError)
