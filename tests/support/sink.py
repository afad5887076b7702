"""A real HTTP server on loopback that keeps what it is sent, and answers as it is told."""

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import orjson

WAIT_S = 60


@dataclass(frozen=True)
class Received:
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


class Sink:
    """What it took, in order. `status`, `headers` and `answer` are what it says; `delay_s` is how long it thinks, and
    while `is_open` is clear it takes nothing."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.status, self.answer, self.delay_s = 200, b"{}", 0.0
        self.headers: dict[str, str] = {}
        self.is_open = threading.Event()
        self.is_open.set()
        self.status_of: Callable[[Received], int] = lambda _: self.status
        sink = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                sink.is_open.wait(WAIT_S)
                time.sleep(sink.delay_s)
                received = Received(self.path, dict(self.headers), body)
                # What is said was settled before the test hears of it: it may then tell what to say next.
                status, headers, answer = sink.status_of(received), dict(sink.headers), sink.answer
                sink.received.append(received)
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(answer))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer)

            def do_GET(self) -> None:
                self.do_POST()

            def do_CONNECT(self) -> None:
                self.do_POST()

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def wait_for(self, count: int, timeout_s: float = WAIT_S) -> list[Received]:
        deadline = time.monotonic() + timeout_s
        while len(self.received) < count:
            assert time.monotonic() < deadline, f"{len(self.received)} of {count} arrived"
            time.sleep(0.02)
        return list(self.received)


@contextmanager
def http_sink() -> Iterator[Sink]:
    sink = Sink()
    thread = threading.Thread(target=sink.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield sink
    finally:
        sink.server.shutdown()
        thread.join()
        sink.server.server_close()


@contextmanager
def dripping_server(answer: bytes) -> Iterator[str]:
    """A server that answers each connection with `answer`, and then a byte now and then: its address."""
    listener, is_over = socket.create_server(("127.0.0.1", 0)), threading.Event()

    def drip(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.recv(65536)
            connection.sendall(answer)
            while not is_over.wait(0.1):
                connection.sendall(b"x")

    def serve() -> None:
        with suppress(OSError):  # it is closed
            while True:
                threading.Thread(target=drip, args=[listener.accept()[0]], daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    finally:
        is_over.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
