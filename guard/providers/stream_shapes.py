"""A completion from a stream's events, and a stream's chunks from a completion: providers mix the two up. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from guard.http.sse import DONE, Event, encode
from guard.providers.deltas import Streamed, objects_in

HEAD = ("id", "created", "model", "system_fingerprint", "service_tier")


def completion_of(events: Iterable[Event]) -> dict[str, Any] | None:
    """The whole answer of a stream; None where it did not come to its end."""
    choices: defaultdict[Any, Streamed] = defaultdict(Streamed)
    body: dict[str, Any] = {"object": "chat.completion"}
    is_done = False
    for event in events:
        is_done = is_done or event.is_done
        chunk = event.chunk or {}
        body |= {name: chunk[name] for name in (*HEAD, "usage") if chunk.get(name) is not None}
        for choice in objects_in(chunk.get("choices")):
            streamed = choices[choice.get("index", 0)]
            streamed.take(choice.get("delta"))
            streamed.ended = choice.get("finish_reason") or streamed.ended
    if not choices or not (is_done or all(streamed.ended for streamed in choices.values())):
        return None
    return body | {"choices": [_choice(index, streamed) for index, streamed in choices.items()]}


def _choice(index: Any, streamed: Streamed) -> dict[str, Any]:
    message = {"role": "assistant", "content": None, **streamed.said()}
    return {"index": index, "message": message, "finish_reason": streamed.ended or "stop"}


def events_of(completion: Mapping[str, Any]) -> list[Event]:
    """The events that a stream of this answer would have had, to its [DONE]."""
    chunks = list(_chunks_of(completion))
    return [*(Event(encode(chunk).strip(), chunk) for chunk in chunks), Event(DONE.strip(), is_done=True)]


def _chunks_of(completion: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    head = {"object": "chat.completion.chunk", **{name: completion[name] for name in HEAD if name in completion}}
    for choice in objects_in(completion.get("choices")):
        message = choice.get("message")
        delta = dict(message) if isinstance(message, Mapping) else {}
        if calls := delta.get("tool_calls"):
            delta["tool_calls"] = [{"index": at, **call} for at, call in enumerate(objects_in(calls))]
        ended = choice.get("finish_reason") or "stop"
        yield {**head, "choices": [{"index": choice.get("index", 0), "delta": delta, "finish_reason": ended}]}
    if completion.get("usage") is not None:
        yield {**head, "choices": [], "usage": completion["usage"]}
