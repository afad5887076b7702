"""Streams under cancellation, by the ASGI application itself: here a test chooses the moment."""

import asyncio
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from guard.asgi import application
from guard.worker.runtime import Runtime
from spend.ledger.audit import audit
from spend.models import LedgerEntry, Reservation, ReservationState
from tests.factories import ApiKeyFactory, BudgetFactory, RouteStepFactory
from tests.support.agents import HELLO, eventually
from tests.support.provider import Provider
from tests.support.runtime import with_runtime

if TYPE_CHECKING:
    from tests.factories import IssuedKey

pytestmark = pytest.mark.django_db(transaction=True)

USAGE = {"prompt_tokens": 30, "completion_tokens": 20, "total_tokens": 50}
USAGE_TICKS = 30 * 12_500 + 20 * 25_000
Message = Mapping[str, Any]


@pytest.fixture
def key() -> "IssuedKey":
    key = ApiKeyFactory.create()
    RouteStepFactory.create(tenant=key.tenant, model__id="m")
    return key


def parts_in(message: Message) -> int:
    if message["type"] == "http.response.start":
        return 1
    events: int = message.get("body", b"").count(b"data: ")
    return events + (not message.get("more_body"))


class Client:
    """The client of one stream, to the application; it leaves when `gone` is set."""

    def __init__(self, key: "IssuedKey", runtime: Runtime, *, leave_at: int | None = None, **body: Any) -> None:
        """`leave_at`: with which part of the answer: its start, an event, its end; a message may have several."""
        self.scope = {
            "type": "http", "method": "POST", "path": "/v1/chat/completions", "query_string": b"",
            "headers": [(b"authorization", f"Bearer {key.secret}".encode())], "state": {"runtime": runtime},
        }  # fmt: skip
        self.body = orjson.dumps({"model": "m", "messages": HELLO, "stream": True, **body})
        self.leave_at = leave_at
        self.gone = asyncio.Event()
        self.asked = False
        self.was_answered = asyncio.Event()
        self.sent: list[Message] = []

    async def receive(self) -> Message:
        if not self.asked:
            self.asked = True
            return {"type": "http.request", "body": self.body}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if self.gone.is_set():
            return
        self.sent.append(message)
        self.was_answered.set()
        if self.leave_at is not None and sum(map(parts_in, self.sent)) >= self.leave_at:
            self.gone.set()

    def call(self) -> "asyncio.Task[None]":
        return asyncio.create_task(application(self.scope, self.receive, self.send))


def settled(expected_at_most: int) -> list[LedgerEntry]:
    """Every hold has ended, each once, and the books balance."""
    assert not Reservation.objects.filter(state=ReservationState.PENDING).exists()
    entries = list(LedgerEntry.objects.all())
    assert len(entries) == Reservation.objects.filter(state=ReservationState.SETTLED).count() <= expected_at_most
    assert all(0 < entry.cost_ticks <= entry.hold_ticks for entry in entries)
    assert all(entry.is_estimated or entry.cost_ticks == USAGE_TICKS for entry in entries)
    assert audit().discrepancies == []
    return entries


def left(provider: Provider) -> Callable[[], bool]:
    """No connection to the provider is still open for a client that is gone."""
    return lambda: all(call["state"] in ("finished", "disconnected") for call in provider.calls())


def delays(count: int, longest_s: float) -> Iterator[float]:
    return (number * longest_s / count for number in range(count))


@pytest.mark.parametrize("times", [1, 2, 5])
def test_a_stream_whose_task_is_cancelled_at_any_moment_is_settled_once(
    key: "IssuedKey", provider: Provider, times: int
) -> None:
    """While it is planned, held, sent, passed on, settled or closed; and again while it copes with that."""
    provider.behave("m", chunks=4, chunk_delay_s=0.004, usage=USAGE, latency_s=0.004)
    chance = random.Random(times)

    async def cancel(runtime: Runtime, after_s: float) -> None:
        call = Client(key, runtime).call()
        await asyncio.sleep(after_s)
        for _ in range(times):
            call.cancel()
            await asyncio.sleep(chance.choice([0, 0.001, 0.003]))
        with suppress(asyncio.CancelledError):
            await call

    async def progress(runtime: Runtime) -> None:
        for after_s in delays(60, 0.06):
            await cancel(runtime, after_s)

    with_runtime(progress)
    settled(expected_at_most=60)
    eventually(left(provider))


@pytest.mark.parametrize("leave_at", [1, 2, 3, 6, 7, 8, 9])
def test_a_client_that_leaves_at_any_part_is_settled_before_its_request_ends(
    key: "IssuedKey", provider: Provider, leave_at: int
) -> None:
    """Parts: the start, six events, [DONE] and the end. From the finish reason on, the usage comes too."""
    has_usage = leave_at >= 7
    stall = {} if has_usage else {"stall_after_chunks": max(1, leave_at - 1)}
    provider.behave("m", chunks=4, chunk_delay_s=0.01, usage=USAGE, **stall)

    async def progress(runtime: Runtime) -> None:
        await Client(key, runtime, leave_at=leave_at).call()
        assert not runtime.tasks

    with_runtime(progress)
    (entry,) = settled(expected_at_most=1)
    assert entry.is_estimated is not has_usage
    eventually(left(provider))


def test_a_client_that_leaves_before_anything_is_settled(key: "IssuedKey", provider: Provider) -> None:
    provider.behave("m", chunks=4, stall_after_chunks=3, latency_s=0.05)

    async def progress(runtime: Runtime) -> None:
        client = Client(key, runtime)
        client.gone.set()
        await client.call()

    with_runtime(progress)
    (entry,) = settled(expected_at_most=1)
    assert entry.is_estimated
    eventually(left(provider))


def test_streams_that_wait_for_a_hold_end_when_nobody_waits_for_them(key: "IssuedKey", provider: Provider) -> None:
    """Their task may be cancelled meanwhile; what they are given then is paid and closed, not lost."""
    BudgetFactory.create(tenant=key.tenant, limit_ticks=2_000_000)  # one call's hold, and not two
    provider.behave("m", chunks=4, stall_after_chunks=2)

    async def progress(runtime: Runtime) -> None:
        first, second = (Client(key, runtime, max_tokens=16) for _ in range(2))
        serving = first.call()
        await first.was_answered.wait()
        waiting = second.call()
        await asyncio.sleep(0.05)
        assert len(provider.calls()) == 1
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        first.gone.set()
        await serving
        assert second.sent == []

    with_runtime(progress)
    assert len(settled(expected_at_most=2)) == 2
    eventually(left(provider))


def test_a_client_that_breaks_the_connection_is_no_defect_but_a_defect_shows(
    key: "IssuedKey", provider: Provider
) -> None:
    """An exception of the server's own `send` ends the request with it, after the settlement."""
    provider.behave("m", chunks=4, chunk_delay_s=0.01, usage=USAGE)

    async def progress(runtime: Runtime) -> None:
        client = Client(key, runtime)

        async def send(message: Message) -> None:
            if message.get("body"):
                raise OSError("broken pipe")

        with pytest.raises(OSError, match="broken pipe"):
            await application(client.scope, client.receive, send)
        assert not runtime.tasks

    with_runtime(progress)
    assert len(settled(expected_at_most=1)) == 1
    eventually(left(provider))


def test_a_plain_call_whose_task_is_cancelled_runs_on_and_is_settled(key: "IssuedKey", provider: Provider) -> None:
    provider.behave("m", usage=USAGE, latency_s=0.01)

    async def progress(runtime: Runtime) -> None:
        for after_s in delays(20, 0.03):
            call = Client(key, runtime, stream=False).call()
            await asyncio.sleep(after_s)
            call.cancel()
            with suppress(asyncio.CancelledError):
                await call

    with_runtime(progress)
    assert {entry.cost_ticks for entry in settled(expected_at_most=20)} == {USAGE_TICKS}
