"""Server-sent events of a chat completion stream: bytes to events, events to bytes. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

DONE = b"data: [DONE]\n\n"
MOST_BYTES = 4 * 1024 * 1024
"""An event longer than this is no chat completion."""
NO_DATA = (b":", b"event:", b"id:", b"retry:", b"data:")
"""How the lines of an event that only keeps a connection alive may begin."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event: its chunk, None for the closing [DONE], for what keeps a connection alive, and for garbage."""

    raw: bytes
    chunk: dict[str, Any] | None = None
    is_done: bool = False
    is_garbage: bool = False

    @property
    def is_error(self) -> bool:
        return self.chunk is not None and bool(self.chunk.get("error"))


class Splitter:
    """Cuts a stream of bytes into events, wherever its pieces begin and end."""

    def __init__(self) -> None:
        self.rest = b""
        self.held_back = b""

    def feed(self, piece: bytes) -> list[Event]:
        """The events that `piece` completes; what is none comes as garbage."""
        piece = self.held_back + piece
        # What follows a carriage return says whether it is a whole line end.
        self.held_back = b"\r" if piece.endswith(b"\r") else b""
        lines = piece.removesuffix(b"\r").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *complete, self.rest = (self.rest + lines).split(b"\n\n")
        events = list(_parsed(complete))
        if len(self.rest) > MOST_BYTES:
            events.append(Event(self.rest[:100], is_garbage=True))
        return events

    def end(self) -> list[Event]:
        """The last event, of a provider that ends without an empty line."""
        return list(_parsed([self.rest + self.held_back]))


def _parsed(raws: list[bytes]) -> Iterator[Event]:
    return (parse_event(raw) for raw in raws if raw.strip())


def parse_event(raw: bytes) -> Event:
    lines = [line for line in raw.split(b"\n") if line]
    data = b"\n".join(line[5:].strip() for line in lines if line.startswith(b"data:"))
    if data == b"[DONE]":
        return Event(raw, is_done=True)
    if not data:
        return Event(raw, is_garbage=not all(line.startswith(NO_DATA) for line in lines))
    try:
        chunk = orjson.loads(data)
    except ValueError:
        return Event(raw, is_garbage=True)
    return Event(raw, chunk) if isinstance(chunk, dict) else Event(raw, is_garbage=True)


def encode(chunk: Any) -> bytes:
    return b"data: " + orjson.dumps(chunk) + b"\n\n"
