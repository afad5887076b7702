"""The items of a request's input, checked: each is refused by its place, as in `input[0].content[1].type`."""

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

from guard.chat.request.field_checks import (
    Check,
    an_object,
    anything,
    check_fields,
    identifier,
    one_of_kinds,
    only,
    text,
)
from guard.chat.request.messages import MOST_MESSAGES, breakpoint_in_cache
from guard.http.errors import refuse
from guard.responses.parameters import a_list

LOGPROBS = "message.output_text.logprobs"
ROLES = ("user", "assistant", "system", "developer")
OUTPUT_PARTS = {"output_text": "text", "refusal": "refusal"}


def need(item: Any, param: str, *names: str) -> None:
    for name in names:
        if item.get(name) is None:
            raise refuse(f"{param}.{name}", "is required.")


def _part(*names: str, **others: Check) -> Check:
    """A part of these required texts, and others."""
    return an_object({"type": anything, **dict.fromkeys(names, text), **others}, *names)


def _no_file(_value: Any, param: str) -> None:
    raise refuse(param, "is not supported: files are kept at a provider's. Send the picture as image_url.")


input_text = _part("text", prompt_cache_breakpoint=breakpoint_in_cache)
input_image = _part(
    "image_url",
    # "original" is billed by the picture's own size, which no allowance bounds.
    detail=only("auto", "low", "high"),
    file_id=_no_file,
    prompt_cache_breakpoint=breakpoint_in_cache,
)
input_parts = a_list(
    one_of_kinds(
        {"input_text": input_text, "input_image": input_image}, "only input_text and input_image parts can be priced."
    )
)
texts_only = a_list(one_of_kinds({"input_text": input_text}, "an output of a function can only be text here."))


def _output_part(value: Any, param: str) -> None:
    """What an earlier answer said: with whatever else its client knows of it, which is left out."""
    kind = value.get("type") if isinstance(value, Mapping) else None
    if kind == "input_text":  # as some clients send an assistant's words
        text(value.get("text"), f"{param}.text")
    elif isinstance(kind, str) and kind in OUTPUT_PARTS:
        text(value.get(OUTPUT_PARTS[kind]), f"{param}.{OUTPUT_PARTS[kind]}")
    else:
        raise refuse(f"{param}.type", "must be 'output_text' or 'refusal' in an assistant's message.")


output_parts = a_list(_output_part)
MESSAGE_FIELDS: dict[str, Check] = {
    "type": anything, "role": anything, "content": anything, "id": identifier, "status": text, "phase": text,
}  # fmt: skip


def _message(item: Mapping[str, Any], param: str) -> None:
    role = item.get("role")
    if role not in ROLES:
        raise refuse(f"{param}.role", f"must be one of {', '.join(ROLES)}.")
    content = item.get("content")
    if role != "assistant":
        check_fields(item, MESSAGE_FIELDS, param)
    if isinstance(content, list):
        (output_parts if role == "assistant" else input_parts)(content, f"{param}.content")
    elif not isinstance(content, str):
        raise refuse(f"{param}.content", "must be a string or a list of parts.")


def _function_call(item: Mapping[str, Any], param: str) -> None:
    for name in ("call_id", "name", "arguments"):
        need(item, param, name)
        text(item[name], f"{param}.{name}")


OUTPUT_FIELDS: dict[str, Check] = {
    "type": anything, "call_id": text, "output": anything, "id": text, "status": text, "name": text,
}  # fmt: skip


def _function_call_output(item: Mapping[str, Any], param: str) -> None:
    check_fields(item, OUTPUT_FIELDS, param)
    need(item, param, "call_id", "output")
    if not isinstance(item["output"], str):
        texts_only(item["output"], f"{param}.output")


ITEMS: dict[str, Check] = {
    "message": _message,
    "function_call": _function_call,
    "function_call_output": _function_call_output,
    "reasoning": anything,
}


def is_message(item: Mapping[str, Any]) -> bool:
    return item.get("type") in (None, "message")


def read_input(given: Any, before: Iterable[Mapping[str, Any]] = ()) -> list[dict[str, Any]]:
    """The input as items. Raises InvalidRequest naming what of it cannot be served or priced.

    `before` are the items that it goes on from, whose calls it may answer.
    """
    if isinstance(given, str):
        return [{"type": "message", "role": "user", "content": given}]
    if not isinstance(given, list) or not given:
        raise refuse("input", "must be a string or a list of at least one item.")
    if len(given) > MOST_MESSAGES:
        raise refuse("input", f"must be at most {MOST_MESSAGES:,} items.")
    for position, item in enumerate(given):
        _check_item(item, f"input[{position}]")
    _check_calls(given, before)
    return given


def _check_item(item: Any, param: str) -> None:
    if not isinstance(item, Mapping):
        raise refuse(param, "must be an object.")
    kind = item.get("type") or "message"
    if not isinstance(kind, str) or kind not in ITEMS:
        named = repr(kind) if isinstance(kind, str) and len(kind) <= 64 else "this one"
        raise refuse(f"{param}.type", f"must be one of {', '.join(ITEMS)}, and not {named}.")
    ITEMS[kind](item, param)


def _check_calls(items: list[dict[str, Any]], before: Iterable[Mapping[str, Any]]) -> None:
    called = {item["call_id"] for item in chain(before, items) if item.get("type") == "function_call"}
    for position, item in enumerate(items):
        if item.get("type") == "function_call_output" and item["call_id"] not in called:
            raise refuse(
                f"input[{position}].call_id",
                f"no function_call of the input, or of what it goes on from, is {item['call_id'][:80]!r}.",
            )
