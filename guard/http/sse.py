"""Server-sent events of a chat completion stream: bytes to events, events to bytes. Pure."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

DONE = b"data: [DONE]\n\n"
MOST_BYTES = 4 * 1024 * 1024
"""An event longer than this is no chat completion."""
BOM = b"\xef\xbb\xbf"
BLANK = BOM + b" \t\r\n"
FIELD = re.compile(rb":|(data|event|id|retry)(:|$)")
"""How the lines begin that readers of events heed; they ignore all others."""
HALF_CHARACTER = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Event:
    """One event: its chunk, None for the closing [DONE], for what keeps a connection alive, and for garbage.

    `odd` is the chunk as it was sent, where it has what cannot be said in UTF-8 or in strict JSON.
    """

    raw: bytes
    chunk: dict[str, Any] | None = None
    odd: dict[str, Any] | None = None
    is_done: bool = False
    is_garbage: bool = False


class Splitter:
    """Cuts a stream of bytes into events, wherever its pieces begin and end."""

    def __init__(self) -> None:
        self.rest = b""
        self.held_back = b""
        self.mark = BOM

    def feed(self, piece: bytes) -> list[Event]:
        """The events that `piece` completes; what is none comes as garbage."""
        piece = self.held_back + piece
        # What follows a carriage return says whether it is a whole line end.
        self.held_back = b"\r" if piece.endswith(b"\r") else b""
        lines = piece.removesuffix(b"\r").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *complete, self.rest = (self.rest + lines).split(b"\n\n")
        events = list(self._parsed(complete))
        if len(self.rest) > MOST_BYTES:
            events.append(Event(self.rest[:100], is_garbage=True))
        return events

    def end(self) -> list[Event]:
        """The last event, of a provider that ends without an empty line."""
        return list(self._parsed([self.rest + self.held_back]))

    def _parsed(self, raws: list[bytes]) -> Iterator[Event]:
        for raw in raws:
            event = parse_event(raw.removeprefix(self.mark))
            self.mark = b""  # it stands at the very beginning only
            if event.raw:
                yield event


def parse_event(raw: bytes) -> Event:
    """Without the lines that say nothing; where there is no other, `raw` is empty."""
    lines = [line for line in raw.split(b"\n") if FIELD.match(line)]
    raw = b"\n".join(lines)
    data = b"\n".join(line[5:].strip() for line in lines if line.startswith(b"data"))
    if data == b"[DONE]":
        return Event(raw, is_done=True)
    if not data:
        return Event(raw)
    try:
        chunk = orjson.loads(data)
    except ValueError:
        return _odd_event(raw, data)
    return Event(raw, chunk) if isinstance(chunk, dict) else Event(raw, is_garbage=True)


def _odd_event(raw: bytes, data: bytes) -> Event:
    """Half a character, of an emoji cut in two, and infinite numbers: the standard library reads them."""
    try:
        odd = json.loads(data)
    except (ValueError, RecursionError):
        return Event(raw, is_garbage=True)
    if not isinstance(odd, dict):
        return Event(raw, is_garbage=True)
    sound = HALF_CHARACTER.sub("\N{REPLACEMENT CHARACTER}", json.dumps(odd, ensure_ascii=False))
    return Event(raw, json.loads(sound, parse_constant=lambda _: None), odd)


def to_json(value: Any) -> bytes:
    """What providers send can be odder, or nested deeper, than orjson writes."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return json.dumps(value).encode()


def encode(chunk: Any) -> bytes:
    return b"data: " + to_json(chunk) + b"\n\n"
