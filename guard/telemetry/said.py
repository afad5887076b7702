"""What was said in a call, as it is kept: its messages and its answer, streamed or not. Pure."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from guard.http.sse import Splitter

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


@dataclass(slots=True)
class Streamed:
    """One choice of a stream, put together from its deltas."""

    texts: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    tools: dict[Any, "Streamed"] = field(default_factory=dict)
    ended: Any = None

    def take(self, delta: Any) -> None:
        for name, value in delta.items() if isinstance(delta, dict) else ():
            if name == "function":  # within a tool call
                self.take(value)
            elif isinstance(value, str):
                self.texts[name].append(value)
            for call in objects_in(value) if name == "tool_calls" else ():
                self.tools.setdefault(call.get("index"), Streamed()).take(call)

    def said(self) -> dict[str, Any]:
        said: dict[str, Any] = {name: "".join(texts) for name, texts in self.texts.items()}
        for name in said.keys() & {"role", "id", "type"}:  # some providers say these again and again
            said[name] = self.texts[name][0]
        return {**said, "tool_calls": [call.called() for call in self.tools.values()]} if self.tools else said

    def called(self) -> dict[str, Any]:
        said = self.said()
        function = {name: said.pop(name) for name in ("name", "arguments") if name in said}
        return {**said, "function": function}


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


def objects_in(value: Any) -> Iterator[dict[str, Any]]:
    return (each for each in value if isinstance(each, dict)) if isinstance(value, list) else iter(())
