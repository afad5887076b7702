"""A chat completion's request as a Responses request. Pure.

`guard.responses.request` is the other direction.  What this dialect has no word for it does not say: `can_say` tells
beforehand, and such a call goes by chat completions.  `docs/responses.md` is this for people.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

Json = dict[str, Any]

SAME_NAME = (
    "model", "parallel_tool_calls", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention",
    "safety_identifier", "service_tier", "temperature", "top_p", "user",
)  # fmt: skip
TRANSLATED = (
    "messages", "max_completion_tokens", "max_tokens", "reasoning_effort", "response_format", "tool_choice", "tools",
    "verbosity",
)  # fmt: skip
SAID_ANYWAY: Mapping[str, Any] = {"logprobs": False, "modalities": ["text"], "n": 1, "store": False}
"""Values that a Responses request has without saying so, or always says."""
KNOWN = frozenset([*SAME_NAME, *TRANSLATED, "stream", "stream_options"])
LEAST_MAXIMUM = 16
"""OpenAI refuses a smaller max_output_tokens; a larger one than was asked for is more than is held."""
CHAT_NAMES = {
    "input": "messages",
    "max_output_tokens": "max_completion_tokens",
    "reasoning": "reasoning_effort",
    "reasoning.effort": "reasoning_effort",
    "text": "response_format",
    "text.format": "response_format",
    "text.verbosity": "verbosity",
}
"""What a refusal names, and what that is in the guard's own request."""


def can_say(payload: Mapping[str, Any]) -> bool:
    """Whether the whole meaning of this chat completion's request has its place in a Responses request."""
    others = (name for name in payload.keys() - KNOWN if payload[name] is not None)
    return (
        all(name in SAID_ANYWAY and payload[name] == SAID_ANYWAY[name] for name in others)
        and _maximum_of(payload) >= LEAST_MAXIMUM
        and all(map(_is_function, payload.get("tools") or ()))
        and _is_choice_of_functions(payload.get("tool_choice"))
        and all(map(_can_say_message, payload["messages"]))
    )


def stream_options(payload: Mapping[str, Any]) -> Json:
    """What asks for a stream of this payload's answer. Of its own options this dialect has one; usage comes anyway."""
    options = payload.get("stream_options") or {}
    said = {name: options[name] for name in ("include_obfuscation",) if name in options}
    return {"stream": True, **({"stream_options": said} if said else {})}


def _maximum_of(payload: Mapping[str, Any]) -> int:
    maximum = payload.get("max_completion_tokens") or payload.get("max_tokens")
    return maximum if isinstance(maximum, int) else LEAST_MAXIMUM


def _is_function(tool: Mapping[str, Any]) -> bool:
    """A custom tool is in both dialects, but not in each model's."""
    return tool.get("type") == "function"


def _is_choice_of_functions(choice: Any) -> bool:
    if not isinstance(choice, Mapping):
        return True
    return all(map(_is_function, choice["allowed_tools"]["tools"] if "allowed_tools" in choice else [choice]))


PARTS = {"assistant": {"text", "refusal"}, "tool": {"text", "image_url"}}
PARTS_OF_OTHERS = {"text", "image_url"}


def _can_say_message(message: Mapping[str, Any]) -> bool:
    role, kinds = message["role"], PARTS.get(message["role"], PARTS_OF_OTHERS)
    return (
        role != "function"
        and not (message.get("name") and role != "tool")
        and not message.get("function_call")
        and (role != "tool" or bool(message.get("tool_call_id")))
        and all(_is_function(call) and _is_id(call.get("id")) for call in message.get("tool_calls") or ())
        and all(part["type"] in kinds for part in _parts_of(message.get("content")))
    )


def _is_id(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def responses_request(payload: Mapping[str, Any]) -> Json:
    """The same request, of a payload that `can_say` says yes to. Nothing of it is to be kept by the provider."""
    effort, maximum = payload.get("reasoning_effort"), payload.get("max_completion_tokens") or payload.get("max_tokens")
    given = {
        **{name: payload.get(name) for name in SAME_NAME},
        "input": list(items_of(payload["messages"])),
        "max_output_tokens": maximum,
        "reasoning": None if effort is None else {"effort": effort},
        "text": _text_of(payload) or None,
        "tools": [_tool_of(tool["function"]) for tool in payload.get("tools") or ()] or None,
        "tool_choice": _choice_of(payload.get("tool_choice")),
        "store": False,
    }
    return {name: value for name, value in given.items() if value is not None}


def _text_of(payload: Mapping[str, Any]) -> Json:
    given = {"format": _format_of(payload.get("response_format")), "verbosity": payload.get("verbosity")}
    return {name: value for name, value in given.items() if value is not None}


def _format_of(wanted: Mapping[str, Any] | None) -> Json | None:
    if wanted is None or wanted["type"] == "text":
        return None
    if wanted["type"] == "json_object":
        return {"type": "json_object"}
    schema = {name: value for name, value in wanted["json_schema"].items() if value is not None}
    return {"type": "json_schema", "name": "answer", "schema": {}, **schema}


def _tool_of(function: Mapping[str, Any]) -> Json:
    """Unsaid, a function is strict here, which it is not in a chat completion."""
    parameters = function.get("parameters")
    return {
        "type": "function",
        "name": function["name"],
        **({"description": function["description"]} if function.get("description") is not None else {}),
        "parameters": {"type": "object", "properties": {}} if parameters is None else parameters,
        "strict": bool(function.get("strict")),
    }


def _choice_of(choice: Any) -> Any:
    if not isinstance(choice, Mapping):
        return choice
    if "allowed_tools" not in choice:
        return _named(choice)
    allowed = choice["allowed_tools"]
    return {
        "type": "allowed_tools",
        "mode": allowed.get("mode") or "auto",
        "tools": list(map(_named, allowed["tools"])),
    }


def _named(tool: Mapping[str, Any]) -> Json:
    return {"type": "function", "name": tool["function"]["name"]}


# Messages


def items_of(messages: Iterable[Mapping[str, Any]]) -> Iterator[Json]:
    """A message is an item, and so is each call of a function in it; calls and results know each other by call_id."""
    for position, message in enumerate(messages):
        if message["role"] == "tool":
            yield {
                "type": "function_call_output",
                "call_id": message["tool_call_id"],
                "output": _output_of(message["content"]),
            }
        elif message["role"] == "assistant":
            yield from _items_of_assistant(message, position)
        else:
            yield {"type": "message", "role": message["role"], "content": _content_of(message["content"])}


def _items_of_assistant(message: Mapping[str, Any], position: int) -> Iterator[Json]:
    calls = message.get("tool_calls") or ()
    parts = _parts_of(message.get("content"))
    texts = [part["text"] for part in parts if part["type"] == "text"]
    refusals = [part["refusal"] for part in parts if part["type"] == "refusal"]
    said = "".join(texts)
    if refusals := [*refusals, message["refusal"]] if message.get("refusal") else refusals:
        yield _refused(said, refusals, position)
    elif said or not calls:
        yield {"type": "message", "role": "assistant", "content": said}
    for call in calls:
        function = call["function"]
        named = {"name": function["name"], "arguments": function["arguments"]}
        yield {"type": "function_call", "call_id": call["id"], **named}


def _refused(said: str, refusals: list[str], position: int) -> Json:
    """As a provider's own item, the only one with refusals: it must have an id, which names nothing there."""
    content: list[Json] = [{"type": "output_text", "text": said, "annotations": []}] if said else []
    content += [{"type": "refusal", "refusal": refusal} for refusal in refusals]
    item = {"type": "message", "id": f"msg_{position}", "role": "assistant", "status": "completed"}
    return {**item, "content": content}


def _parts_of(content: Any) -> list[Mapping[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return content or []


def _output_of(content: Any) -> Any:
    """As one text where it is nothing else, which every provider takes."""
    parts = _parts_of(content)
    if all(part.keys() == {"type", "text"} for part in parts):
        return "".join(part["text"] for part in parts)
    return _content_of(parts)


def _content_of(content: Any) -> Any:
    return content if isinstance(content, str) else [_part_of(part) for part in content]


def _part_of(part: Mapping[str, Any]) -> Json:
    mark = part.get("prompt_cache_breakpoint")
    cache = {"prompt_cache_breakpoint": mark} if mark else {}
    if part["type"] == "image_url":
        image = part["image_url"]
        return {"type": "input_image", "image_url": image["url"], "detail": image.get("detail") or "auto", **cache}
    return {"type": "input_text", "text": part["text"], **cache}


# Refusals


def chat_name(param: str) -> str:
    """What a provider's refusal names, as the guard's own request has it."""
    if param.startswith("input["):
        return "messages" + param.removeprefix("input").replace(".call_id", ".tool_call_id")
    known = next((name for name in sorted(CHAT_NAMES, key=len, reverse=True) if _is_within(param, name)), None)
    return CHAT_NAMES[known] if known else param


def _is_within(param: str, name: str) -> bool:
    return param == name or param.startswith((f"{name}.", f"{name}["))


def name_in(words: str) -> str | None:
    """The one field of this dialect's own that a refusal names in its words only."""
    return next((CHAT_NAMES[name] for name in CHAT_NAMES if ("." in name or "_" in name) and name in words), None)
