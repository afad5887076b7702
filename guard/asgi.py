"""The ASGI application: Django, with a short way in for the chat paths and the runtime's life around it.

Django's stock handler spends more on a request (threads, signals, watching for the disconnect, a dozen
middlewares) than a whole guarded call costs.  The chat paths need none of it: they read the body, call
the view and send its answer.  So do the health checks, which by this way are answered whatever the Host header says.
Everything else is Django's own.
"""

import asyncio
import gc
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from io import BytesIO
from typing import IO, Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "guard.settings")
django.setup(set_prefix=False)

from django.conf import settings  # noqa: E402  after the setup
from django.core.handlers.asgi import ASGIHandler, ASGIRequest  # noqa: E402
from django.http import HttpResponseBase  # noqa: E402

from guard.api.views.health import HEALTH_VIEWS  # noqa: E402
from guard.chat.streaming import Relay, Streamed  # noqa: E402
from guard.chat.urls import CHAT_VIEWS  # noqa: E402
from guard.embeddings.urls import EMBEDDINGS_VIEWS  # noqa: E402
from guard.http.error_pages import bad_request  # noqa: E402
from guard.http.errors import GuardError, envelope  # noqa: E402
from guard.http.proxies import Proxies  # noqa: E402
from guard.http.request_body import read_body, replayed  # noqa: E402
from guard.responses.urls import RESPONSES_VIEWS  # noqa: E402
from guard.worker.readiness import stop_late  # noqa: E402
from guard.worker.runtime import Runtime  # noqa: E402

ASYNC_VIEWS = {**CHAT_VIEWS, **EMBEDDINGS_VIEWS, **RESPONSES_VIEWS, **HEALTH_VIEWS}

USAGE_WAIT_S = 1.0

Scope = dict[str, Any]
Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
View = Callable[..., Awaitable[HttpResponseBase]]


class GuardHandler(ASGIHandler):
    def __init__(self) -> None:
        super().__init__()
        self.proxies = Proxies(settings.TRUSTED_PROXIES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await live(scope, receive, send)
        else:
            await self.answer(self.proxies.seen_through(scope), receive, send)

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if view := ASYNC_VIEWS.get(scope["path"]):
            await self.answer_call(view, scope, receive, send)
        elif (body := await self.body_of(scope, receive, send)) is not None:
            await super().__call__(scope, replayed(body, receive), send)

    async def body_of(self, scope: Scope, receive: Receive, send: Send) -> bytes | None:
        """The request's body; None where the client has gone, or was told what is wrong with it."""
        try:
            return await read_body(scope, receive)
        except GuardError as error:
            await send_answer(envelope(error, bare_request(scope)), receive, send)
            return None

    async def answer_call(self, view: View, scope: Scope, receive: Receive, send: Send) -> None:
        if (body := await self.body_of(scope, receive, send)) is not None:
            request, refusal = self.create_request(scope, BytesIO(body))
            await send_answer(refusal or await view(request), receive, send)

    def create_request(
        self, scope: Message, body_file: IO[bytes]
    ) -> tuple[ASGIRequest, None] | tuple[None, HttpResponseBase]:
        """The request, or the answer to one whose headers or query Django cannot read, in the right shape."""
        try:
            return ASGIRequest(scope, body_file), None
        except Exception as error:  # noqa: BLE001  nothing but the caller's own words is read here
            return None, bad_request(bare_request(scope), error)


def bare_request(scope: Message) -> ASGIRequest:
    """A request without body and without what Django may be unable to read of it, to answer it with an error."""
    kept = [header for header in scope["headers"] if header[0] == b"x-request-id"]
    return ASGIRequest({**scope, "headers": kept, "query_string": b""}, BytesIO())


async def send_answer(response: HttpResponseBase, receive: Receive, send: Send) -> None:
    headers = [(name.lower().encode("ascii"), value.encode("latin-1")) for name, value in response.items()]
    if isinstance(response, Streamed):
        start = {"type": "http.response.start", "status": response.status_code, "headers": headers}
        await send_stream(start, response.body, receive, send)
        return
    content = response.content  # type: ignore[attr-defined]
    headers.append((b"content-length", str(len(content)).encode("ascii")))
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
    await send({"type": "http.response.body", "body": content})


async def send_stream(start: Message, body: Relay, receive: Receive, send: Send) -> None:
    """Pass a stream on until it ends or its client goes or reads no more; it is settled when this returns."""
    passing = asyncio.create_task(pass_on(start, body, send))
    leaving = asyncio.create_task(until_gone(receive))
    try:
        await asyncio.wait({passing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if body.is_finished:
            # Clients may leave at the finish reason; the usage follows on its heels, and is worth a moment.
            await asyncio.wait({passing}, timeout=USAGE_WAIT_S)
    finally:
        leaving.cancel()
        passing.cancel()
        # A task of its own: whoever cancels this one may do so more than once.
        await asyncio.shield(body.runtime.keep(close(body, passing)))
    if not passing.cancelled():
        with suppress(TimeoutError):  # its client reads no more, and need not be told
            passing.result()


async def pass_on(start: Message, body: Relay, send: Send) -> None:
    await send(start)
    async for piece in body:
        async with asyncio.timeout(settings.STREAM_IDLE_SECONDS):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def close(body: Relay, passing: asyncio.Task[None]) -> None:
    await asyncio.wait({passing})
    await body.aclose()


async def until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def live(scope: Scope, receive: Receive, send: Send) -> None:
    """The server's lifespan: the runtime starts before the first request and stops after the last."""
    runtime = Runtime()
    await receive()
    try:
        await runtime.start()
    except Exception as error:
        await send({"type": "lifespan.startup.failed", "message": str(error)})
        raise
    # What is loaded by now stays: collecting garbage need not look through all of Django each time.
    gc.freeze()
    scope["state"]["runtime"] = runtime
    stop_late(runtime.readiness)
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await runtime.stop()
    await send({"type": "lifespan.shutdown.complete"})


application = GuardHandler()
