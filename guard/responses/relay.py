"""A streamed answer, told as a response's events; kept and counted as the chat completion that it is."""

from collections.abc import Awaitable, Callable
from typing import Any

from guard.chat.streaming import Relay
from guard.chat.types import Answer
from guard.http.errors import GuardError
from guard.http.sse import Event
from guard.responses.events import Events, as_bytes
from spend.pricing.cost import Usage

Json = dict[str, Any]


class ResponseRelay(Relay):
    def __init__(self, *args: Any, events: Events, keep: Callable[[Json], Awaitable[Json]], **options: Any) -> None:
        """`keep` stores the response that a stream ended with, where it is to be, and answers it."""
        super().__init__(*args, closing=lambda _answer: as_bytes(self.last_events), **options)
        self.events, self.keep = events, keep
        self.last_events: list[Json] = []

    def _pass_on(self, events: list[Event]) -> bytes:
        super()._pass_on(events)
        begun = [] if self.events.sequence_number else self.events.begin()
        return as_bytes(begun) + told(events, self.events)

    async def _settle_once(self) -> Answer:
        """Kept with the settlement, whether or not its client still waits: the same call may be asked for again."""
        answer = await super()._settle_once()
        if self.is_finished:
            self.last_events = self.events.complete(answer.usage)
            self.last_events[-1]["response"] = await self.keep(self.last_events[-1]["response"])
        return answer

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
