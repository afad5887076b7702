"""A response's typed events as a chat completion's chunks. Pure: events in, events out.

`guard.responses.events` is the other direction.  What only says that somebody is there (a response that was created, an
item of thoughts that was opened) becomes nothing: until a word of the answer has come, a call can go elsewhere.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from guard.http.sse import Event
from guard.providers.deltas import text_of
from guard.providers.dialects.responses_answer import (
    BETWEEN,
    finish_reason_of,
    head_of,
    is_answered,
    message_of,
    usage_of,
)

Json = dict[str, Any]
Read = Callable[["ResponseReader", Json], Iterable[Json]]

LAST = frozenset(["response.completed", "response.incomplete"])


@dataclass(slots=True)
class StreamedCall:
    """A call of a function: its place among the calls, and how much of its arguments was passed on."""

    index: int
    arguments: str = ""


class ResponseReader:
    """One response's stream."""

    def __init__(self) -> None:
        self.head: Json = {}
        self.calls: dict[Any, StreamedCall] = {}
        self.said: dict[str, Any] = {}
        """By the delta's field, the place of what was said last: there is a blank line between two places."""

    def read(self, events: list[Event]) -> list[Event]:
        """What these events are in a chat completion's stream; what is no event of a response stays as it is."""
        told: list[Event] = []
        for event in events:
            kind = None if event.chunk is None else event.chunk.get("type")
            if event.chunk is None or not isinstance(kind, str):
                told.append(event)
            elif read := self.READERS.get(kind):
                told.extend([Event(event.raw, chunk) for chunk in read(self, event.chunk)])
                if kind in LAST:
                    told.append(Event(b"", is_done=True))
        return told

    def _begin(self, event: Json) -> Iterable[Json]:
        response = event.get("response")
        self.head = head_of(response) if isinstance(response, Mapping) else self.head
        return ()

    def _chunk(self, delta: Json, finish_reason: str | None = None) -> Json:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return {**self.head, "object": "chat.completion.chunk", "choices": [choice]}

    def _say(self, field: str, event: Json, text: str) -> Iterable[Json]:
        if not text:
            return ()
        place = (event.get("output_index"), event.get("summary_index"))
        if (last := self.said.get(field)) == place:  # as for nearly every token
            return (self._chunk({field: text}),)
        role = {} if self.said or self.calls else {"role": "assistant"}
        between = BETWEEN if field != "refusal" and last is not None else ""
        self.said[field] = place
        return (self._chunk({**role, field: between + text}),)

    def _text(self, event: Json) -> Iterable[Json]:
        return self._say("content", event, text_of(event.get("delta")))

    def _refusal(self, event: Json) -> Iterable[Json]:
        return self._say("refusal", event, text_of(event.get("delta")))

    def _thought(self, event: Json) -> Iterable[Json]:
        return self._say("reasoning_content", event, text_of(event.get("delta")))

    def _item(self, event: Json) -> Iterator[Json]:
        """An item that opens or closes: of calls of functions. Some providers send the arguments only as it closes."""
        item = event.get("item")
        if not isinstance(item, Mapping) or item.get("type") != "function_call":
            return
        place = self._place(event)
        if place not in self.calls:
            yield self._open(place, item)
        if event["type"] == "response.output_item.done":
            yield from self._rest_of_arguments(self.calls[place], text_of(item.get("arguments")))

    def _open(self, place: Any, item: Mapping[str, Any]) -> Json:
        role = {} if self.said or self.calls else {"role": "assistant"}
        call = self.calls[place] = StreamedCall(len(self.calls))
        function = {"name": text_of(item.get("name")), "arguments": ""}
        opened = {"index": call.index, "id": text_of(item.get("call_id")), "type": "function", "function": function}
        return self._chunk({**role, "tool_calls": [opened]})

    def _arguments(self, event: Json) -> Iterator[Json]:
        if (call := self.calls.get(self._place(event))) and (piece := text_of(event.get("delta"))):
            call.arguments += piece
            yield self._chunk({"tool_calls": [{"index": call.index, "function": {"arguments": piece}}]})

    def _place(self, event: Json) -> Any:
        """An item's place in the output; its `id` where a relay leaves that out."""
        item = event.get("item")
        named = item.get("id") if isinstance(item, Mapping) else event.get("item_id")
        return repr(event.get("output_index", named))

    def _rest_of_arguments(self, call: StreamedCall, whole: str) -> Iterator[Json]:
        if whole.startswith(call.arguments) and (rest := whole.removeprefix(call.arguments)):
            call.arguments = whole
            yield self._chunk({"tool_calls": [{"index": call.index, "function": {"arguments": rest}}]})

    def _end(self, event: Json) -> Iterator[Json]:
        response: Any = event.get("response")
        if not is_answered(response):
            yield {"error": {"message": "A response ended without its output.", "type": "server_error"}}
            return
        self.head = self.head or head_of(response)
        yield from self._unsaid(response["output"])
        yield self._chunk({}, finish_reason_of(response))
        yield from self._usage(response)

    def _unsaid(self, output: list[Any]) -> Iterator[Json]:
        """What is in the answer and no event told of: some relays tell of the end only."""
        message = message_of(output)
        for field in ("reasoning_content", "content", "refusal"):
            if field not in self.said:
                yield from self._say(field, {}, message.get(field) or "")
        items = [(at, item) for at, item in enumerate(output) if isinstance(item, Mapping)]
        if not self.calls:
            for at, item in items:
                yield from self._item({"type": "response.output_item.done", "output_index": at, "item": item})

    def _usage(self, response: Mapping[str, Any]) -> Iterator[Json]:
        if (usage := usage_of(response.get("usage"))) is not None:
            yield {**self.head, "object": "chat.completion.chunk", "choices": [], "usage": usage}

    def _fail(self, event: Json) -> Iterator[Json]:
        """What was billed of an answer that had begun, and why it broke off."""
        given = event.get("response")
        response = given if isinstance(given, Mapping) else {}
        if self.said or self.calls:
            yield from self._usage(response)
        yield {"error": response.get("error") or {"message": "The response failed."}, "usage": response.get("usage")}

    def _error(self, event: Json) -> Iterator[Json]:
        """Its words stand in the event itself, or in an object in it."""
        inner = event.get("error")
        yield {"error": inner if inner else {name: event.get(name) for name in ("message", "code", "param")}}

    READERS: ClassVar[Mapping[str, Read]] = {
        "response.created": _begin,
        "response.output_text.delta": _text,
        "response.refusal.delta": _refusal,
        "response.reasoning_text.delta": _thought,
        "response.reasoning_summary_text.delta": _thought,
        "response.output_item.added": _item,
        "response.output_item.done": _item,
        "response.function_call_arguments.delta": _arguments,
        "response.completed": _end,
        "response.incomplete": _end,
        "response.failed": _fail,
        "error": _error,
    }
