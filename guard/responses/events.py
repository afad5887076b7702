"""A chat completion's stream as a response's typed events. Pure: chunks in, events out.

Items open in the order in which they come and are closed together at the end, since a provider may go on with
any of them until then. Of several choices it is the first.
"""

from collections.abc import Iterator, Mapping
from typing import Any
from uuid import UUID

from guard.http.sse import to_json
from guard.providers.deltas import objects_in, text_of
from guard.responses.answer import (
    INCOMPLETE,
    call_item,
    logprobs_of,
    reasoning_item,
    refusal_part,
    response,
    text_part,
    usage_of,
    with_ids,
)
from spend.pricing.cost import Usage

Json = dict[str, Any]

# By the kind of a part: its events, and its field.
PARTS = {
    "output_text": ("response.output_text", "text"),
    "refusal": ("response.refusal", "refusal"),
    "reasoning_text": ("response.reasoning_text", "text"),
}


def as_bytes(events: list[Json]) -> bytes:
    return b"".join(b"event: " + event["type"].encode() + b"\ndata: " + to_json(event) + b"\n\n" for event in events)


class Events:
    """One response's events; each method returns those that are due."""

    def __init__(self, call_id: UUID, model: str, request: Mapping[str, Any]) -> None:
        """`request` as `guard.responses.answer.repeated` makes it."""
        self.call_id, self.model, self.request = call_id, model, request
        self.items: list[Json] = []
        self.places: dict[Any, int] = {}
        """Where in the output thoughts, the message and each call of a function stand."""
        self.waiting: dict[Any, Json] = {}
        """Calls whose name has not come yet."""
        self.finish_reason: Any = None
        self.sequence_number = 0

    def begin(self) -> list[Json]:
        begun = self._response("in_progress")
        return [self._event(kind, response=begun) for kind in ("response.created", "response.in_progress")]

    def feed(self, chunk: Mapping[str, Any]) -> list[Json]:
        return [event for choice in objects_in(chunk.get("choices")) for event in self._take(choice)]

    def complete(self, usage: Usage) -> list[Json]:
        """The end of an answer that came to its end."""
        reason = INCOMPLETE.get(str(self.finish_reason))
        status = "incomplete" if reason else "completed"
        closing = [event for index in range(len(self.items)) for event in self._close(index, status)]
        ended = self._response(status, usage=usage_of(usage), reason=reason)
        return [*closing, self._event(f"response.{status}", response=ended)]

    def fail(self, message: str, usage: Usage | None) -> list[Json]:
        """The end of one that broke off: what came of it, and what was billed for that."""
        for item in self.items:
            item["status"] = "incomplete"
        error = {"code": "server_error", "message": message}
        failed = self._response("failed", usage=usage and usage_of(usage), error=error)
        return [self._event("response.failed", response=failed)]

    def _take(self, choice: Json) -> Iterator[Json]:
        if choice.get("index", 0) != 0:
            return
        given = choice.get("delta")
        delta: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
        if thoughts := text_of(delta.get("reasoning_content")):
            yield from self._say("reasoning", "reasoning_text", thoughts)
        if said := text_of(delta.get("content")):
            yield from self._say("message", "output_text", said, logprobs_of(choice))
        if refusal := text_of(delta.get("refusal")):
            yield from self._say("message", "refusal", refusal)
        for call in objects_in(delta.get("tool_calls")):
            yield from self._call(call)
        self.finish_reason = choice.get("finish_reason") or self.finish_reason

    def _say(self, kind: str, part_kind: str, text: str, logprobs: list[Json] | None = None) -> Iterator[Json]:
        if kind not in self.places:
            empty = {"type": "message", "role": "assistant", "status": "in_progress", "content": []}
            item = {**reasoning_item("", "in_progress"), "content": []} if kind == "reasoning" else empty
            yield self._open(kind, item)
        index = self.places[kind]
        content = self.items[index]["content"]
        at = next((at for at, part in enumerate(content) if part["type"] == part_kind), len(content))
        where = {"item_id": self.items[index]["id"], "output_index": index, "content_index": at}
        if at == len(content):
            content.append(_empty(part_kind))
            yield self._event("response.content_part.added", part=_empty(part_kind), **where)
        name, field = PARTS[part_kind]
        content[at][field] += text
        if part_kind == "output_text":
            content[at]["logprobs"] += logprobs or []
            where["logprobs"] = logprobs or []
        yield self._event(f"{name}.delta", delta=text, **where)

    def _call(self, call: Json) -> Iterator[Json]:
        at, given = ("call", repr(call.get("index"))), call.get("function")
        function: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
        arguments = text_of(function.get("arguments"))
        if at not in self.places:
            begun = self.waiting.setdefault(at, call_item("", {}, "in_progress"))
            begun["call_id"] = begun["call_id"] or text_of(call.get("id"))
            begun["name"] += text_of(function.get("name"))
            begun["arguments"] += arguments
            if not begun["name"]:
                return
            arguments = self.waiting.pop(at)["arguments"]
            yield self._open(at, {**begun, "arguments": ""})
        if arguments:
            index = self.places[at]
            self.items[index]["arguments"] += arguments
            where = {"item_id": self.items[index]["id"], "output_index": index}
            yield self._event("response.function_call_arguments.delta", delta=arguments, **where)

    def _open(self, place: Any, item: Json) -> Json:
        index = self.places[place] = len(self.items)
        self.items.append(with_ids(self.call_id, index, item))
        return self._event("response.output_item.added", output_index=index, item=_copy(self.items[index]))

    def _close(self, index: int, status: str) -> Iterator[Json]:
        item = self.items[index]
        item["status"] = status
        where = {"item_id": item["id"], "output_index": index}
        if item["type"] == "function_call":
            done = {"arguments": item["arguments"], "name": item["name"]}
            yield self._event("response.function_call_arguments.done", **where, **done)
        for at, part in enumerate(item.get("content", ())):
            name, field = PARTS[part["type"]]
            more = {"logprobs": part["logprobs"]} if part["type"] == "output_text" else {}
            yield self._event(f"{name}.done", **where, content_index=at, **{field: part[field]}, **more)
            yield self._event("response.content_part.done", **where, content_index=at, part=part)
        yield self._event("response.output_item.done", output_index=index, item=item)

    def _response(self, status: str, **facts: Any) -> Json:
        return response(self.call_id, self.model, self.request, status=status, output=list(self.items), **facts)

    def _event(self, kind: str, **fields: Any) -> Json:
        event = {"type": kind, "sequence_number": self.sequence_number, **fields}
        self.sequence_number += 1
        return event


def _empty(part_kind: str) -> Json:
    if part_kind == "refusal":
        return refusal_part("")
    return text_part("", []) if part_kind == "output_text" else {"type": part_kind, "text": ""}


def _copy(item: Json) -> Json:
    """As it is now: it grows."""
    return {**item, "content": []} if "content" in item else dict(item)
