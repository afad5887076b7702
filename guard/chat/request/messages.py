"""A call's messages: checked for what the guard must know of them, which is their text and their images."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from guard.chat.request import schemas
from guard.chat.request.field_checks import (
    Check,
    a_list,
    an_object,
    any_object,
    anything,
    check_fields,
    identifier,
    one_of_kinds,
    only,
    refused,
    text,
    with_a,
)
from guard.chat.request.parameters import CACHE_HINT, CACHE_LIFETIME, without_hints
from guard.chat.request.schemas import passes
from guard.http.errors import refuse

ROLES = {"system", "developer", "user", "assistant", "tool", "function"}
MOST_MESSAGES = 2048


named, with_arguments = with_a("name", text), with_a("arguments", text)


@passes(schemas.with_a({"name": schemas.TEXT, "arguments": schemas.TEXT}))
def function_called(value: Any, param: str) -> None:
    named(value, param)
    with_arguments(value, param)


TOOL_CALLS = {
    "function": with_a("function", function_called),
    "custom": with_a("custom", with_a("input", text)),
}

MESSAGE_FIELDS: dict[str, Check] = {
    "role": anything,
    "content": anything,
    "name": identifier,
    "tool_call_id": text,
    "tool_calls": a_list(one_of_kinds(TOOL_CALLS, "must be 'function' or 'custom'.")),
    "function_call": function_called,
    "refusal": text,
    # An earlier answer in sound, which is billed as sound.
    "audio": refused,
    # Part of what providers and clients make of an answer, and send back with the next request.
    "annotations": a_list(any_object),
    "parsed": anything,
    "provider_specific_fields": anything,
    "reasoning_content": text,
    "cache_control": CACHE_HINT,
}

breakpoint_in_cache = an_object({"mode": only("explicit"), "ttl": CACHE_LIFETIME})
# "original" is billed by the picture's own size, which no allowance bounds.
image_url = an_object({"url": text, "detail": only("auto", "low", "high")}, "url")

PARTS: dict[str, dict[str, Check]] = {
    "text": {
        "type": anything,
        "text": text,
        "prompt_cache_breakpoint": breakpoint_in_cache,
        "cache_control": CACHE_HINT,
    },
    "refusal": {"type": anything, "refusal": text},
    "image_url": {
        "type": anything,
        "image_url": image_url,
        "prompt_cache_breakpoint": breakpoint_in_cache,
        "cache_control": CACHE_HINT,
    },
}
SENT_FIELDS = MESSAGE_FIELDS.keys() - {"cache_control"}
PARTS_REFUSED = {"input_audio", "file"}
CONTENT_ELSEWHERE = ("tool_calls", "function_call", "refusal")
"""An assistant's message may be a call of tools, or a refusal, and have no content."""
content_parts = a_list(
    one_of_kinds(
        {kind: an_object(fields, kind) for kind, fields in PARTS.items()},
        "only text and image_url parts can be priced.",
    )
)


def normalized_history(messages: Any) -> Any:
    """The messages, with those of an assistant as any provider takes them: what the guard delivered comes back here.

    Providers answer with fields of their own, with parts and calls of tools that only they know, with calls without
    arguments, with an empty list of calls, and with no text where a maximum cut the thinking short; and not each takes
    what it sent itself.
    """
    if not isinstance(messages, list) or len(messages) > MOST_MESSAGES:
        return messages
    return [
        _normalized(message) if isinstance(message, Mapping) and message.get("role") == "assistant" else message
        for message in messages
    ]


def _normalized(message: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in message.items() if name in MESSAGE_FIELDS}
    if isinstance(calls := kept.get("tool_calls"), list):
        kept["tool_calls"] = [_normalized_call(call) for call in calls if not _is_of_their_own(call)]
    if kept.get("tool_calls") == []:
        del kept["tool_calls"]
    if isinstance(called := kept.get("function_call"), Mapping):
        kept["function_call"] = _with_arguments(called)
    content = kept.get("content")
    if isinstance(content, list):
        kept["content"] = [part for part in content if not _is_of_a_providers_own(part)]
    if not kept.get("content") and not any(kept.get(name) for name in CONTENT_ELSEWHERE):
        kept["content"] = ""
    return kept


def _normalized_call(call: Any) -> Any:
    """Whatever its provider calls it, a call that has a function is one of a function."""
    if not isinstance(call, Mapping):
        return call
    if isinstance(function := call.get("function"), Mapping):
        return {**call, "type": "function", "function": _with_arguments(function)}
    custom = call.get("custom")
    if isinstance(custom, Mapping) and custom.get("input") is None:
        return {**call, "custom": {**custom, "input": ""}}
    return call


def _with_arguments(function: Mapping[str, Any]) -> Mapping[str, Any]:
    """As text: none is an object of none, and what was sent as an object is written out."""
    arguments = function.get("arguments")
    if arguments is None:
        return {**function, "arguments": "{}"}
    if isinstance(arguments, Mapping):
        return {**function, "arguments": orjson.dumps(arguments).decode()}
    return function


def _is_of_their_own(call: Any) -> bool:
    """A call that ran at the provider's, such as a search: nobody here can have answered it."""
    if not isinstance(call, Mapping) or call.get("function") is not None:
        return False
    kind = call.get("type")
    return isinstance(kind, str) and kind not in TOOL_CALLS


def _is_of_a_providers_own(part: Any) -> bool:
    kind = part.get("type") if isinstance(part, Mapping) else None
    return isinstance(kind, str) and kind not in PARTS and kind not in PARTS_REFUSED


def as_sent(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The checked messages without hints, which not every provider takes, and without unknown fields that are null."""
    return [
        {name: _parts_without_hints(value) for name, value in message.items() if name in SENT_FIELDS}
        if not message.keys() <= SENT_FIELDS or any("cache_control" in part for part in _parts(message))
        else message
        for message in messages
    ]


def _parts_without_hints(value: Any) -> Any:
    return without_hints(value) if isinstance(value, list) else value


def check_messages(messages: Any) -> None:
    """Raises InvalidRequest naming the first message, or part of one, that cannot be priced."""
    if not isinstance(messages, list) or not messages:
        raise refuse("messages", "must be a list of at least one message.")
    if len(messages) > MOST_MESSAGES:
        raise refuse("messages", f"must be at most {MOST_MESSAGES:,} messages.")
    for position, message in enumerate(messages):
        _check_message(message, f"messages.{position}")


def _check_message(message: Any, param: str) -> None:
    check_fields(message, MESSAGE_FIELDS, param)
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or role not in ROLES:
        raise refuse(f"{param}.role", f"must be one of {', '.join(sorted(ROLES))}.")
    if isinstance(content, list):
        content_parts(content, f"{param}.content")
    elif not (isinstance(content, str) or (content is None and role == "assistant")):
        raise refuse(f"{param}.content", "must be a string or a list of parts.")


def count_images(messages: Sequence[Mapping[str, Any]]) -> int:
    return sum(_is_image(part) for message in messages for part in _parts(message))


def without_images(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The messages as text: an image is billed by its size, not by the bytes of its address."""
    return [
        {**message, "content": [part for part in parts if not _is_image(part)]}
        if (parts := _parts(message))
        else dict(message)
        for message in messages
    ]


def _parts(message: Mapping[str, Any]) -> list[Any]:
    content = message.get("content")
    return content if isinstance(content, list) else []


def _is_image(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "image_url"
