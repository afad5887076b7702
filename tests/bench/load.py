"""A load generator that is cheap beside what it loads: requests made once, a parser in C, no client library.

It counts every answer, and every one that is not a whole 200.
"""

import asyncio
import json
import math
import re
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, NamedTuple, cast
from urllib.parse import urlsplit

import httptools

QUESTION = "Hello, I ordered a coffee grinder last week and it still isn't here. Where is my parcel? " * 4
MAX_TOKENS = 256
END_OF_STREAM = b"data: [DONE]\n\n"
ERROR_IN_STREAM = b'data: {"error"'
REQUEST_ID = re.compile(r"req_\w+")
"""Taken out of errors, so that equal ones are counted together."""


class Times(NamedTuple):
    """Seconds from asking to the first byte of the answer's body, and to its last."""

    first_byte_s: float
    whole_s: float


@dataclass
class Run:
    """The answers that came while connections asked again and again."""

    times: list[Times]
    seconds: float

    @property
    def calls_a_second(self) -> float:
        return len(self.times) / self.seconds


class Target:
    """One kind of request to one server, and the tally of its answers."""

    def __init__(self, url: str, model: str, *, secret: str = "no key", stream: bool = False, **fields: Any) -> None:
        """`url` is the server's: http, a host and a port. `fields` are further ones of the request."""
        address = urlsplit(url)
        self.host, self.port = address.hostname or "", address.port or 80
        self.model, self.stream = model, stream
        self.request = request_of(address.netloc, body_of(model, stream=stream) | fields, secret)
        self.served = 0
        self.failures: Counter[str] = Counter()

    def count(self, status: int, body: bytes) -> None:
        if status != 200:
            self.failures[f"{self.model}: {status} {REQUEST_ID.sub('…', body[:1000].decode(errors='replace'))}"] += 1
        elif self.stream and (not body.endswith(END_OF_STREAM) or ERROR_IN_STREAM in body):
            self.failures[f"{self.model}: a stream broke off"] += 1
        else:
            self.served += 1

    @asynccontextmanager
    async def connections(self, number: int) -> AsyncIterator[list["Connection"]]:
        loop = asyncio.get_running_loop()
        opened = [await loop.create_connection(lambda: Connection(self), self.host, self.port) for _ in range(number)]
        try:
            yield [connection for _, connection in opened]
        finally:
            for transport, _ in opened:
                transport.close()


def body_of(model: str, *, stream: bool) -> dict[str, Any]:
    body = {"model": model, "messages": [{"role": "user", "content": QUESTION}], "max_completion_tokens": MAX_TOKENS}
    return body | ({"stream": True} if stream else {})


def request_of(host: str, fields: dict[str, Any], secret: str) -> bytes:
    body = json.dumps(fields).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {secret}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


@dataclass
class Connection(asyncio.Protocol):
    """A kept-alive connection, one request at a time."""

    target: Target
    pieces: list[bytes] = field(default_factory=list)
    answer: asyncio.Future[Times] | None = None
    asked_at: float = 0
    first_byte_at: float = 0

    async def ask(self) -> Times:
        """Raises ConnectionError where the server closes the connection instead."""
        if self.transport.is_closing():
            raise ConnectionResetError
        self.pieces.clear()
        self.answer = asyncio.get_running_loop().create_future()
        self.asked_at = perf_counter()
        self.transport.write(self.target.request)
        return await self.answer

    # What asyncio and the parser call.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        self.parser = httptools.HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.answer and not self.answer.done():
            self.target.failures[f"{self.target.model}: the connection was closed"] += 1
            self.answer.set_exception(ConnectionResetError())

    def on_body(self, piece: bytes) -> None:
        if not self.pieces:
            self.first_byte_at = perf_counter()
        self.pieces.append(piece)

    def on_message_complete(self) -> None:
        assert self.answer
        self.target.count(self.parser.get_status_code(), b"".join(self.pieces))
        self.answer.set_result(Times(self.first_byte_at - self.asked_at, perf_counter() - self.asked_at))


async def keep_asking(target: Target, connections: int, seconds: float) -> Run:
    """As many calls at once as connections, each at least one, for so long; the last ones are waited for."""
    times: list[Times] = []

    async def ask_on(connection: Connection) -> None:
        with suppress(ConnectionError):  # it has been counted
            while True:
                times.append(await connection.ask())
                if perf_counter() >= deadline:
                    return

    async with target.connections(connections) as opened:
        started = perf_counter()
        deadline = started + seconds
        await asyncio.gather(*map(ask_on, opened))
        return Run(times, perf_counter() - started)


async def ask_each(targets: Sequence[Target], connections: int) -> Run:
    """Each of the targets once, which are of one server."""
    waiting, times = iter(targets), list[Times]()

    async def ask_on(connection: Connection) -> None:
        with suppress(ConnectionError):
            for connection.target in waiting:
                times.append(await connection.ask())

    async with targets[0].connections(connections) as opened:
        started = perf_counter()
        await asyncio.gather(*map(ask_on, opened))
        return Run(times, perf_counter() - started)


async def ask_in_turn(one: Target, other: Target, seconds: float) -> list[tuple[Times, Times]]:
    """Pairs of a call to the one and a call to the other just after, so that what drifts meets both."""
    pairs: list[tuple[Times, Times]] = []
    deadline = perf_counter() + seconds
    async with one.connections(1) as (to_one,), other.connections(1) as (to_other,):
        with suppress(ConnectionError):
            while perf_counter() < deadline:
                pairs.append((await to_one.ask(), await to_other.ask()))
    return pairs


def percentile(values: Sequence[float], percent: int) -> float:
    """The smallest of the values that so many percent of them do not exceed; NaN of none."""
    return sorted(values)[math.ceil(len(values) * percent / 100) - 1] if values else math.nan
