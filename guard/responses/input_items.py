"""What was put in for a kept response, as the API lists it. Pure."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from guard.responses.answer import PREFIXES as OUTPUT_PREFIXES
from guard.responses.items import is_message

Json = dict[str, Any]

PREFIXES = {**OUTPUT_PREFIXES, "function_call_output": "fco"}


def listed(call_id: UUID, items: Sequence[Json]) -> list[Json]:
    """The items with ids, statuses and content in parts, in the order in which they were given."""
    return [
        {"id": f"{PREFIXES[_kind(item)]}_{call_id.hex}_in{index}", "status": "completed", **_whole(item)}
        for index, item in enumerate(items)
    ]


def page(items: Sequence[Json], *, limit: int, after: str | None, newest_first: bool) -> Json:
    """At most `limit` of the items after the one with that id; from the start where there is none."""
    ordered = list(reversed(items)) if newest_first else list(items)
    place = next((place for place, item in enumerate(ordered, start=1) if item["id"] == after), 0)
    shown = ordered[place : place + limit]
    ids = [item["id"] for item in shown] or [None]
    has_more = place + limit < len(ordered)
    return {"object": "list", "data": shown, "first_id": ids[0], "last_id": ids[-1], "has_more": has_more}


def _kind(item: Json) -> str:
    return "message" if is_message(item) else str(item["type"])


def _whole(item: Json) -> Json:
    given = {name: value for name, value in item.items() if value is not None}
    if not is_message(item):
        return given
    is_assistants, content = item["role"] == "assistant", item["content"]
    parts = [{"type": "input_text", "text": content}] if isinstance(content, str) else content
    return {**given, "type": "message", "content": [_output(part) if is_assistants else _input(part) for part in parts]}


def _output(part: Json) -> Json:
    if part["type"] == "refusal":
        return part
    return {"annotations": [], "logprobs": [], **part, "type": "output_text"}


def _input(part: Json) -> Json:
    return {"detail": "auto", **part} if part["type"] == "input_image" else part
