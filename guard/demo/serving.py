"""Serving the demo provider: inside a running event loop, or as a process of its own."""

import argparse
import asyncio
import socket
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from guard.demo.app import AsgiApp, create_app

BACKLOG = 2048
# Longer than any client keeps an idle connection, as real providers do: closed sooner, it may be closed in use.
KEEP_ALIVE_S = 75


class BreakableProtocol(HttpToolsProtocol):
    """Hands the application its transport, so that it can break a connection off."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["guard.demo.transport"] = self.transport  # type: ignore[typeddict-unknown-key]


class GuestServer(uvicorn.Server):
    """A server in somebody else's process: signals are not its business, and it says when it is up."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_up.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _config(app: AsgiApp, **options: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=BreakableProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=1,
        **options,
    )


def _listen(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    return listener


async def serve_on_loopback(
    app: AsgiApp | None = None, *, port: int = 0
) -> tuple[str, Callable[[], Coroutine[Any, Any, None]]]:
    """Serve `app` (the demo provider by default) in this event loop, on loopback, on a free port by default.

    Returns its base URL, such as "http://127.0.0.1:41207/v1", once it answers, and the coroutine
    function that stops it.
    """
    listener = _listen(port)
    server = GuestServer(_config(app or create_app()))
    server.config.load()  # a bad configuration shows here, not in the task
    serving = asyncio.create_task(server.serve(sockets=[listener]))

    async def stop() -> None:
        server.should_exit = True
        await serving
        listener.close()

    await server.is_up.wait()
    return f"http://127.0.0.1:{listener.getsockname()[1]}/v1", stop


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m guard.demo", description="The demo provider by itself.")
    parser.add_argument("--port", type=int, default=8001)
    parser.add_argument("--fd", type=int, help="serve on this inherited, bound socket instead of a port")
    parser.add_argument("--latency", type=float, default=0.4, metavar="SECONDS")
    parser.add_argument("--controllable", action="store_true", help="add the control routes of tests and benches")
    options = parser.parse_args()
    listener = socket.socket(fileno=options.fd) if options.fd is not None else _listen(options.port)
    app = create_app(latency_s=options.latency, controllable=options.controllable)
    uvicorn.Server(_config(app, log_level="critical")).run(sockets=[listener])
