"""A streamed answer, told as a response's events; kept and counted as the chat completion that it is."""

from typing import Any

from guard.chat.streaming import Relay
from guard.http.errors import GuardError
from guard.http.sse import Event
from guard.responses.events import Events, as_bytes
from spend.pricing.cost import Usage


class ResponseRelay(Relay):
    def __init__(self, *args: Any, events: Events, **options: Any) -> None:
        super().__init__(*args, **options)
        self.events = events

    def _pass_on(self, events: list[Event]) -> bytes:
        super()._pass_on(events)
        begun = [] if self.events.sequence_number else self.events.begin()
        return as_bytes(begun) + told(events, self.events)

    def _usage(self) -> Usage | None:
        """What was billed; None where its settlement is still to be written."""
        settled = self.settling if self.settling and self.settling.done() else None
        return None if settled is None or settled.exception() else settled.result().usage

    def _error(self, error: GuardError) -> bytes:
        return as_bytes(self.events.fail(str(error), self._usage()))


def told(events: list[Event], response: Events) -> bytes:
    """A provider's events as the response's; what only keeps a connection alive goes as it is."""
    return b"".join(
        as_bytes(response.feed(event.chunk)) if event.chunk is not None else b"" if event.is_done else _alive(event)
        for event in events
    )


def _alive(event: Event) -> bytes:
    return event.raw + b"\n\n" if event.raw.startswith(b":") else b""
