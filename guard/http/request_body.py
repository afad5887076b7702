"""Reading a request's body off the wire: how large it may be on each path, and how long it may take to arrive."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

from django.conf import settings

from guard.http.errors import RequestTimedOut, RequestTooLarge, is_openai_path

BODY_IDLE_S = 10.0
"""A call's body is short: its client is waited for less than a stream's."""
MOST_OTHER_BYTES = 1024 * 1024
"""Of forms and of the operators' API: nothing there is near it, and prompts go elsewhere."""
OWN_CHAT_PATH = "/api/chat"

Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[Message]]


def most_bytes_at(path: str) -> int:
    """The largest body that `path` takes: prompts may be long, anything else is short."""
    if path == OWN_CHAT_PATH or is_openai_path(path):
        return int(settings.MAX_BODY_BYTES)
    return min(int(settings.MAX_BODY_BYTES), MOST_OTHER_BYTES)


async def read_body(scope: Message, receive: Receive) -> bytes | None:
    """The whole body; None where the client has gone.

    Raises RequestTooLarge, before it is read where its length is told, and RequestTimedOut where it stops halfway
    or takes longer than BODY_SECONDS in all: a stalled client would keep the server from stopping.
    """
    most = most_bytes_at(scope["path"])
    if length_told(scope) > most:
        raise too_large(most)
    chunks, size = [], 0
    loop, idle_s = asyncio.get_running_loop(), min(BODY_IDLE_S, settings.STREAM_IDLE_SECONDS)
    ends_at = loop.time() + settings.BODY_SECONDS
    try:
        async with asyncio.timeout_at(min(ends_at, loop.time() + idle_s)) as limit:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                chunks.append(message.get("body", b""))
                size += len(chunks[-1])
                if size > most:
                    raise too_large(most)
                if not message.get("more_body"):
                    return b"".join(chunks)
                limit.reschedule(min(ends_at, loop.time() + idle_s))
    except TimeoutError:
        raise RequestTimedOut(headers={"Connection": "close"}) from None


def too_large(most: int) -> RequestTooLarge:
    return RequestTooLarge(f"The request body is too large: at most {most:,} bytes are taken here.")


def length_told(scope: Message) -> int:
    """The Content-Length, which the server has checked already; 0 where there is none."""
    for name, value in scope["headers"]:
        if name == b"content-length":
            with suppress(ValueError):
                return int(value)
    return 0


def replayed(body: bytes, receive: Receive) -> Receive:
    """A `receive` for who reads the body once more; what comes after it comes from the client."""
    message: Message | None = {"type": "http.request", "body": body, "more_body": False}

    async def receive_again() -> Message:
        nonlocal message
        if message is None:
            return await receive()
        first, message = message, None
        return first

    return receive_again
