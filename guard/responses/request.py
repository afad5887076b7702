"""A Responses request as a chat completion's. Pure.

Items that an assistant made in a row (messages and calls of functions) become one message with its calls, as chat
completions want it; each output of a function is a `tool` message. Calls and outputs know each other by `call_id`.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from guard.responses.items import LOGPROBS, is_message

Json = dict[str, Any]

SAME_NAME = (
    "parallel_tool_calls", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "safety_identifier",
    "service_tier", "temperature", "top_logprobs", "top_p", "user", "metadata", "model", "stream",
)  # fmt: skip
CHAT_NAMES = {
    "messages": "input",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
    "verbosity": "text.verbosity",
    "max_completion_tokens": "max_output_tokens",
}
"""What errors and headers of the guarded call speak of, and what it is called here."""


def chat_request(request: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> Json:
    """A checked request, whose input is these checked items, as the body of a chat completion."""
    text, reasoning = request.get("text") or {}, request.get("reasoning") or {}
    given = {
        **{name: request.get(name) for name in SAME_NAME},
        "messages": [*_instructions(request), *messages_of(items)],
        "max_completion_tokens": request.get("max_output_tokens"),
        "reasoning_effort": reasoning.get("effort"),
        "verbosity": text.get("verbosity"),
        "response_format": response_format_of(text.get("format")),
        "tools": [chat_tool(tool) for tool in request.get("tools") or ()] or None,
        "tool_choice": chat_choice(request.get("tool_choice")),
        "logprobs": True if LOGPROBS in (request.get("include") or ()) else None,
    }
    return {name: value for name, value in given.items() if value is not None}


def _instructions(request: Mapping[str, Any]) -> list[Json]:
    instructions = request.get("instructions")
    return [] if instructions is None else [{"role": "system", "content": instructions}]


def response_format_of(given: Mapping[str, Any] | None) -> Json | None:
    if given is None or given["type"] == "text":
        return None
    if given["type"] == "json_object":
        return {"type": "json_object"}
    schema = {name: value for name, value in given.items() if name != "type" and value is not None}
    return {"type": "json_schema", "json_schema": {"name": "answer", **schema}}


TOOL_FIELDS = ("name", "description", "parameters", "strict")


def chat_tool(tool: Mapping[str, Any]) -> Json:
    return {"type": "function", "function": {name: tool[name] for name in TOOL_FIELDS if tool.get(name) is not None}}


def chat_choice(choice: Any) -> Any:
    if not isinstance(choice, Mapping):
        return choice
    if choice["type"] == "function":
        return chat_function(choice)
    allowed = {"mode": choice.get("mode") or "auto", "tools": list(map(chat_function, choice["tools"]))}
    return {"type": "allowed_tools", "allowed_tools": allowed}


def chat_function(named: Mapping[str, Any]) -> Json:
    return {"type": "function", "function": {"name": named["name"]}}


def messages_of(items: Iterable[Mapping[str, Any]]) -> list[Json]:
    # An earlier answer's thoughts are its provider's own: a chat completion does not take them back.
    told = [item for item in items if item.get("type") != "reasoning"]
    messages: list[Json] = []
    for is_assistants, items_in_a_row in groupby(told, _is_assistants):
        run = list(items_in_a_row)
        messages += _said_in_a_row(run) if is_assistants else map(_message_of, run)
    return messages


def _is_assistants(item: Mapping[str, Any]) -> bool:
    return item.get("type") == "function_call" or (is_message(item) and item["role"] == "assistant")


def _said_in_a_row(run: list[Mapping[str, Any]]) -> list[Json]:
    said = [_message_of(item) for item in run if is_message(item)]
    calls = [_call_of(item) for item in run if not is_message(item)]
    if not calls:
        return said
    if len(said) < 2:
        whole = said[0] if said else {"role": "assistant", "content": None}
    else:
        whole = {"role": "assistant", "content": [part for message in said for part in _parts_of(message["content"])]}
    return [{**whole, "tool_calls": calls}]


def _parts_of(content: Any) -> list[Json]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _call_of(item: Mapping[str, Any]) -> Json:
    return {
        "id": item["call_id"],
        "type": "function",
        "function": {"name": item["name"], "arguments": item["arguments"]},
    }


def _message_of(item: Mapping[str, Any]) -> Json:
    if item.get("type") == "function_call_output":
        return {"role": "tool", "tool_call_id": item["call_id"], "content": _content_of(item["output"])}
    return {"role": item["role"], "content": _content_of(item["content"])}


def _content_of(content: Any) -> Any:
    return content if isinstance(content, str) else [_part_of(part) for part in content]


def _part_of(part: Mapping[str, Any]) -> Json:
    if part["type"] == "refusal":
        return {"type": "refusal", "refusal": part["refusal"]}
    cache = {"prompt_cache_breakpoint": part["prompt_cache_breakpoint"]} if part.get("prompt_cache_breakpoint") else {}
    if part["type"] == "input_image":
        detail = {"detail": part["detail"]} if part.get("detail") else {}
        return {"type": "image_url", "image_url": {"url": part["image_url"], **detail}, **cache}
    return {"type": "text", "text": part["text"], **cache}
