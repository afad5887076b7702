"""What was said in a call, as it is kept: its messages and its answer, streamed or not. Pure."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import orjson

from guard.http.sse import Splitter
from guard.providers.deltas import Streamed, objects_in

MOST_BYTES = 128 * 1024
"""Of the messages, and of the answer."""
MOST_CHARACTERS = 4_000
"""Of each text, where all of them are too long together."""


def body_of(messages: Any, completion: Mapping[str, Any]) -> bytes:
    """JSON `{"messages": …, "answer": [choice, …]}`, each of the two cut where it is longer than MOST_BYTES."""
    return orjson.dumps({"messages": bounded(messages), "answer": bounded(answer_of(completion))})


def bounded(value: Any) -> Any:
    """The value; or with its long texts cut; or, where that is not enough, how its JSON begins. It says what is cut."""
    if len(whole := orjson.dumps(value)) <= MOST_BYTES:
        return value
    if len(orjson.dumps(shorter := _with_texts_cut(value))) <= MOST_BYTES:
        return shorter
    # A quarter of it, which stays within the bound even where each quote is escaped anew.
    return f"{whole[: MOST_BYTES // 4].decode(errors='ignore')}{_note(len(whole) - MOST_BYTES // 4, 'bytes')}"


def _with_texts_cut(value: Any) -> Any:
    if isinstance(value, str) and len(value) > MOST_CHARACTERS:
        return value[:MOST_CHARACTERS] + _note(len(value) - MOST_CHARACTERS, "characters")
    if isinstance(value, Mapping):
        return {name: _with_texts_cut(inner) for name, inner in value.items()}
    return list(map(_with_texts_cut, value)) if isinstance(value, list) else value


def _note(count: int, unit: str) -> str:
    return f" […{count:,} more {unit} were not kept]"


def answer_of(completion: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The choices of a completion, or of what was passed on of a stream: each with its message and how it ended."""
    if events := completion.get("events"):
        return _streamed(events)
    return [
        {name: choice.get(name) for name in ("index", "message", "finish_reason")}
        for choice in objects_in(completion.get("choices"))
    ]


def _streamed(events: str) -> list[dict[str, Any]]:
    choices: defaultdict[Any, Streamed] = defaultdict(Streamed)
    for event in Splitter().feed(events.encode()):
        for choice in objects_in(event.chunk and event.chunk.get("choices")):
            streamed = choices[choice.get("index", 0)]
            streamed.take(choice.get("delta"))
            streamed.ended = choice.get("finish_reason") or streamed.ended
    return [
        {"index": index, "message": streamed.said(), "finish_reason": streamed.ended}
        for index, streamed in choices.items()
    ]
