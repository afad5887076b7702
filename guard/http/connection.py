"""One connection to a client, with bounds on what comes before a body: uvicorn and its parser know none.

Without them a request line or a header without an end fills the memory, and a client that sends a header a minute
keeps its connection for ever.

Each worker loads this before Django is set up, so that what needs Django is imported where it is needed.
"""

import asyncio
from typing import TYPE_CHECKING, Any

import orjson
from django.conf import settings
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from spend.ids import new_id

if TYPE_CHECKING:
    from guard.http.errors import GuardError

MOST_HEAD_BYTES = 64 * 1024
"""Of a request line and its headers, together."""
HEAD_S = 20.0
"""From a request's first byte to the end of its headers; from the connection, too, for its first request."""
LAST_REQUEST_S = 1.0
"""For which a connection that is idle when the server stops is listened to still."""
FRAMING = 9
"""Bytes that may come around each byte of a body that is sent in the smallest chunks."""


class HeadTooLargeError(ValueError):
    """Raised in the parser, which then ends."""


class BoundedConnection(HttpToolsProtocol):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.head_bytes = 0
        self.unused_bytes = 0
        self.is_in_head = True
        self.is_refused = False
        self.head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self._set_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unset_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.is_refused:
            return
        # Whatever the parser keeps and nobody is handed, such as half a header, a trailer, a chunk's extension.
        self.unused_bytes += len(data)
        super().data_received(data)
        if self.is_refused:
            return
        if self.unused_bytes > MOST_HEAD_BYTES:
            self._refuse_head()
        elif not self.is_in_head:
            self._unset_timer()
        elif self.head_timer is None:
            self._set_timer()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.head_bytes = self.unused_bytes = 0
        self.is_in_head = True

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self.is_in_head = False
        super().on_headers_complete()
        if self._is_worker_stopping():
            self.cycle.keep_alive = False  # its answer says so: else the client's next request may meet a closed door

    def on_body(self, body: bytes) -> None:
        self.unused_bytes -= FRAMING * len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self.unused_bytes = 0
        super().on_message_complete()

    def shutdown(self) -> None:
        """The server stops: what was accepted a moment ago may have sent a request that has not arrived yet."""
        self.loop.call_later(min(LAST_REQUEST_S, settings.STOP_DELAY_SECONDS), super().shutdown)

    def _is_worker_stopping(self) -> bool:
        return "runtime" in self.app_state and self.app_state["runtime"].readiness.is_stopping

    def send_400_response(self, msg: str) -> None:
        from guard.http.errors import InvalidRequest

        if self.head_bytes > MOST_HEAD_BYTES:
            self._refuse_head()
        else:
            self._refuse(InvalidRequest("This is not a valid HTTP request."))

    def _count(self, more: int) -> None:
        self.head_bytes += more
        if self.head_bytes > MOST_HEAD_BYTES:
            raise HeadTooLargeError

    def _set_timer(self) -> None:
        self.head_timer = self.loop.call_later(HEAD_S, self._head_is_late)

    def _unset_timer(self) -> None:
        if self.head_timer is not None:
            self.head_timer.cancel()
            self.head_timer = None

    def _head_is_late(self) -> None:
        """Not while an answer is on its way: the next request of its connection can wait as long."""
        from guard.http.errors import RequestTimedOut

        self.head_timer = None
        if self.cycle is not None and not self.cycle.response_complete:
            self._set_timer()
        elif not self.transport.is_closing():
            self._refuse(RequestTimedOut("The headers of the request did not arrive in time."))

    def _refuse_head(self) -> None:
        from guard.http.errors import HeadersTooLarge

        self._refuse(HeadersTooLarge())

    def _refuse(self, error: "GuardError") -> None:
        """Answer and close; an answer that has begun is cut instead."""
        self.is_refused = True
        self._unset_timer()
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            path = self.url.decode("ascii", "replace") if getattr(self, "url", b"") else "/"
            self.transport.write(answer_of(error, path))
        self.transport.close()


def answer_of(error: "GuardError", path: str) -> bytes:
    """The whole answer, as bytes."""
    from guard.http.errors import envelope_body

    request_id = f"req_{new_id().hex}"
    content = orjson.dumps({"error": envelope_body(error, path, request_id)})
    return b"".join(
        [
            STATUS_LINE[error.status],
            b"content-type: application/json\r\n",
            b"x-request-id: %b\r\n" % request_id.encode(),
            b"content-length: %d\r\n" % len(content),
            b"connection: close\r\n\r\n",
            content,
        ]
    )
