"""A call's messages: checked for what the guard must know of them, which is their text and their images."""

from collections.abc import Mapping, Sequence
from typing import Any

from guard.parameters import CACHE_LIFETIME
from guard.values import (
    Check,
    a_list,
    an_object,
    any_object,
    anything,
    check_fields,
    identifier,
    one_of_kinds,
    only,
    refuse,
    refused,
    text,
    with_a,
)

ROLES = {"system", "developer", "user", "assistant", "tool", "function"}
MOST_MESSAGES = 2048


def function_called(value: Any, param: str) -> None:
    with_a("name", text)(value, param)
    with_a("arguments", text)(value, param)


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
}

breakpoint_in_cache = an_object({"mode": only("explicit"), "ttl": CACHE_LIFETIME})
# "original" is billed by the picture's own size, which no allowance bounds.
image_url = an_object({"url": text, "detail": only("auto", "low", "high")}, "url")

PARTS: dict[str, dict[str, Check]] = {
    "text": {"type": anything, "text": text, "prompt_cache_breakpoint": breakpoint_in_cache},
    "refusal": {"type": anything, "refusal": text},
    "image_url": {"type": anything, "image_url": image_url, "prompt_cache_breakpoint": breakpoint_in_cache},
}
content_parts = a_list(
    one_of_kinds(
        {kind: an_object(fields, kind) for kind, fields in PARTS.items()},
        "only text and image_url parts can be priced.",
    )
)


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
    elif not (isinstance(content, str) or (content is None and role == "assistant" and _says_otherwise(message))):
        raise refuse(f"{param}.content", "must be a string or a list of parts.")


def _says_otherwise(message: Mapping[str, Any]) -> bool:
    """An assistant's message may be a call of tools, or a refusal, and have no content."""
    return any(message.get(field) for field in ("tool_calls", "function_call", "refusal"))


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
