"""What a worker process runs beside its requests: the ledger's writer, the policy's keeper, the providers.

Built and stopped by the ASGI lifespan (`guard.asgi`). Everything that outlives a request is here.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timedelta
from math import ceil
from threading import Barrier
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from django.conf import settings
from django.db import InterfaceError, OperationalError, close_old_connections, connection, connections
from django.utils import timezone

from guard.http.errors import GuardError
from guard.policy.keeper import PolicyKeeper
from guard.policy.last_served import Conversations
from guard.policy.routing import Length
from guard.policy.snapshot import Policy
from guard.telemetry.content_capture import Contents
from guard.telemetry.trace import Telemetry
from guard.worker.readiness import Readiness
from spend import breakers
from spend.alerts.detection import tell_handed_off
from spend.codes import OPERATORS_TO_MEND, StepCode, words_of
from spend.ledger.leases import expire_reservations
from spend.ledger.rules import LedgerError, Reserved, WindowKey
from spend.ledger.writer import Writer
from spend.outage import DATABASE
from spend.providers.accounts import demo_stands_in
from spend.retention.replays import forget_old

if TYPE_CHECKING:
    from guard.providers.client import Providers

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
QUERY_THREADS = {"sqlite": 1, "postgresql": 4}
"""What calls wait for queues once more come at once than there are threads. Measured with 64 at once on Postgres, two
cores: two threads did twice as many idempotency keys and conversations a second as one. The others are for a database
that is farther away; a thread starts only once it is needed. On SQLite a key is a write, and there is one at a time:
more threads would only stand in the ledger's way (docs/adr/0012)."""
SWEEP_S = 5.0
MOST_LENGTHS = MOST_HANDOFFS = 10_000
DECAY_OF_LONGEST = 0.98
"""After thirty shorter answers, a long one counts for half."""
HEADROOM = 1.5
SHARE_OF_LATEST = 0.1
"""In the average: after seven answers of another length, half of it is theirs."""


class HoldReleases:
    """Tells calls that wait for other calls' holds that one of their tenant's has ended."""

    def __init__(self) -> None:
        self.events: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    def announce(self, tenant_id: str) -> None:
        if event := self.events.pop(tenant_id, None):
            event.set()

    async def wait(self, tenant_id: str, timeout_s: float) -> None:
        """Until a hold of this tenant ends in this worker, or the time is over: others' are not heard."""
        try:
            async with asyncio.timeout(timeout_s):
                await self.events[tenant_id].wait()
        except TimeoutError:
            pass


class Lengths:
    """How long answers have been lately, with room for longer ones: see `guard.policy.routing.Lengths`.

    One worker's own, and forgotten with it: it decides how the last of a budget is shared out, not what is spent.
    """

    def __init__(self) -> None:
        self.longest: dict[tuple[str, str], float] = {}
        self.average: dict[tuple[str, str], float] = {}
        self.known: dict[tuple[str, str], Length] = {}

    def note(self, tenant_and_model: tuple[str, str], output_tokens: int) -> None:
        if len(self.longest) > MOST_LENGTHS:
            for each in (self.longest, self.average, self.known):
                each.clear()
        longest = max(output_tokens, DECAY_OF_LONGEST * self.longest.get(tenant_and_model, 0))
        average = self.average.get(tenant_and_model, output_tokens)
        average += (output_tokens - average) * SHARE_OF_LATEST
        self.longest[tenant_and_model], self.average[tenant_and_model] = longest, average
        self.known[tenant_and_model] = Length(usual=int(average), enough=ceil(longest * HEADROOM))


class RestingModels:
    """The models whose providers said that they have enough to do, and until when they are left alone.

    One worker's own, and gone in a minute: each other worker asks once, and is told the same.
    """

    def __init__(self) -> None:
        self.until: dict[str, float] = {}

    def note(self, model: str, rest_s: float | None) -> None:
        if rest_s:
            self.until[model] = max(self.until.get(model, 0), monotonic() + rest_s)

    def by_model(self) -> dict[str, float]:
        """Seconds left, of those that rest still."""
        if not self.until:
            return {}
        now = monotonic()
        self.until = {model: until for model, until in self.until.items() if until > now}
        return {model: until - now for model, until in self.until.items()}


class Runtime:
    """One worker's moving parts."""

    def __init__(self) -> None:
        self.writer = Writer()
        self.keeper = PolicyKeeper()
        self.readiness = Readiness(self.keeper)
        self.releases = HoldReleases()
        self.lengths = Lengths()
        self.conversations = Conversations()
        self.rests = RestingModels()
        self.told_handoffs: set[WindowKey] = set()
        self.tasks: set[asyncio.Task[Any]] = set()
        self.background: set[asyncio.Task[Any]] = set()
        # What calls wait for (idempotency keys, rates, conversations), and what is noted of them (breakers, lessons).
        self.queries = ThreadPoolExecutor(QUERY_THREADS[connection.vendor], "queries")
        self.notes = ThreadPoolExecutor(1, "notes")
        self.clients = connect_providers()
        self.telemetry = Telemetry()
        self.contents = Contents()
        self.stop_demo: Callable[[], Coroutine[Any, Any, None]] | None = None

    @property
    def policy(self) -> Policy:
        return self.keeper.policy

    @property
    def providers(self) -> "Providers":
        """As the policy has them now; asked on the event loop only."""
        return self.clients.follow(self.policy.providers)

    async def start(self) -> None:
        await self.query(self.keeper.refresh)
        if demo_stands_in(self.policy.providers):
            from guard.demo import serve_on_loopback

            self.clients.demo_url, self.stop_demo = await serve_on_loopback()
        await self.query(self.readiness.look_at_migrations)
        self.keeper.start()
        self.writer.start()
        self.telemetry.start()
        self.contents.start()
        _keep(self._sweep(), self.background)
        _keep(self._renew_leases(), self.background)

    async def stop(self) -> None:
        """Let calls in flight end and settle, then stop what served them."""
        self.readiness.is_stopping = True
        while self.tasks:
            await asyncio.wait(self.tasks)
        for task in self.background:
            task.cancel()
        await asyncio.to_thread(self.writer.stop)
        await asyncio.to_thread(self.contents.stop)  # before what may wait for a network
        await asyncio.to_thread(self.keeper.stop)
        await asyncio.to_thread(self.telemetry.stop)
        await self.clients.close()
        if self.stop_demo:
            await self.stop_demo()
        await self.end_queries()

    async def end_queries(self) -> None:
        for threads, count in ((self.notes, 1), (self.queries, QUERY_THREADS[connection.vendor])):
            await asyncio.to_thread(_close, threads, count)

    async def paid(
        self, call: Coroutine[Any, Any, Result], unclaimed: Callable[[Result], Coroutine[Any, Any, Any]] | None = None
    ) -> Result:
        """Run a call that spends money to its end, whatever becomes of the request that asked for it.

        `unclaimed` takes its result where that request was cancelled meanwhile.
        """
        task = self.keep(call)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if unclaimed and not task.cancelled():
                self.keep(_hand_over(task, unclaimed))
            raise

    def keep(self, work: Coroutine[Any, Any, Result]) -> "asyncio.Task[Result]":
        """Start work that must end before the worker stops."""
        return _keep(work, self.tasks)

    async def query(self, function: Callable[..., Result], *args: Any) -> Result:
        """Run a rare query that a call waits for off the event loop. Raises django.db.Error."""
        return await _on_thread(self.queries, function, *args)

    async def note(self, function: Callable[..., Any], *args: Any) -> None:
        """A query that must not fail its call, after those noted before: a breaker's row must not be an older one."""
        try:
            await _on_thread(self.notes, function, *args)
        except (OperationalError, InterfaceError) as error:
            DATABASE.failed(error)
        except Exception:
            logger.exception("could not note what became of a call")

    async def tell_handed_off(self, window: WindowKey, ends_at: datetime | None) -> None:
        """Owe it to the tenant's channels, once. It is remembered here only to spare the database the question."""

        def tell() -> None:
            tell_handed_off(window, ends_at, timezone.now())
            self.told_handoffs.add(window)

        if len(self.told_handoffs) > MOST_HANDOFFS:
            self.told_handoffs.clear()
        if window not in self.told_handoffs:
            await self.note(tell)

    def open_circuits(self, tenant_id: str) -> dict[str, StepCode]:
        return breakers.open_circuits(self.keeper.breakers, timezone.now(), tenant_id)

    async def record_failure(self, reserved: Reserved, code: str) -> None:
        """An attempt failed: the breaker counts it."""

        if code in OPERATORS_TO_MEND:
            logger.warning("%s: %s", reserved.offer.model, words_of(code, reserved.offer.provider))

        def record() -> None:
            failed = breakers.record_failure(
                reserved.offer.model, code, reserved.created_at, timezone.now(), reserved.caller.tenant_id
            )
            self.keeper.learn_breaker(failed)

        await self.note(record)

    async def record_success(self, reserved: Reserved) -> None:
        """An attempt succeeded, which the breaker hears of after failures."""
        model = reserved.offer.model

        def record() -> None:
            if succeeded := breakers.record_success(model, reserved.created_at, reserved.caller.tenant_id):
                self.keeper.learn_breaker(succeeded)

        if breakers.needs_success(self.keeper.breakers.get(model)):
            await self.note(record)

    async def _sweep(self) -> None:
        """Expire reservations whose lease is over: the guarantee behind every hold."""
        while True:
            await self.note(expire_reservations)
            await self.note(forget_old, timezone.now())
            await self.note(self.readiness.look_at_migrations)
            await asyncio.sleep(min(SWEEP_S, settings.RESERVATION_LEASE_SECONDS))

    async def _renew_leases(self) -> None:
        """While a worker lives its calls may take their time: a provider's timeout may be longer than a lease."""
        lease_s = settings.RESERVATION_LEASE_SECONDS
        while True:
            await asyncio.sleep(lease_s / 3)
            self.writer.renew(timezone.now() + timedelta(seconds=lease_s))


async def _on_thread(threads: ThreadPoolExecutor, function: Callable[..., Result], *args: Any) -> Result:
    def run() -> Result:
        close_old_connections()
        return function(*args)

    return await asyncio.get_running_loop().run_in_executor(threads, run)


def _close(threads: ThreadPoolExecutor, count: int) -> None:
    """End all `count` of them; each closes its own connection, and so has to come to the barrier itself."""
    barrier = Barrier(count)

    def close_own() -> None:
        try:
            connections.close_all()
        finally:  # or the others would wait for ever
            barrier.wait()

    for _ in range(count):
        threads.submit(close_own)
    threads.shutdown()


def connect_providers() -> "Providers":
    """The clients, whose package is imported only by a process that is to serve calls."""
    from guard.providers.client import Providers

    return Providers()


def _keep(work: Coroutine[Any, Any, Result], tasks: set[asyncio.Task[Any]]) -> "asyncio.Task[Result]":
    """A task that nobody refers to can be collected before it ends."""
    task = asyncio.get_running_loop().create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    return task


async def _hand_over(task: "asyncio.Task[Result]", unclaimed: Callable[[Result], Coroutine[Any, Any, Any]]) -> None:
    with suppress(GuardError, LedgerError):  # a call that failed leaves nothing
        await unclaimed(await task)
