"""Requests and answers in the shape of OpenAI's Responses API, made of those of chat completions. Pure."""

from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

from guard.demo.behaviours import Behaviour
from guard.demo.completions import Answer, BadRequestError, Json, request_for_a_model
from guard.demo.strictness import RefusedError, openai_error
from guard.demo.texts import pieces_of

PARAMETERS = frozenset(
    [
        *("background", "include", "input", "instructions", "max_output_tokens", "metadata", "model"),
        *("parallel_tool_calls", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "reasoning"),
        *("safety_identifier", "service_tier", "store", "stream", "stream_options", "temperature", "text"),
        *("tool_choice", "tools", "top_logprobs", "top_p", "truncation", "user"),
    ]
)
LEAST_MAXIMUM = 16
PARTS = {"assistant": {"output_text", "refusal"}}
PARTS_OF_OTHERS = {"input_text", "input_image", "input_file"}
CHAT_NAMES = {"max_output_tokens": "max_completion_tokens"}
OUR_NAMES = {"messages": "input", "reasoning_effort": "reasoning.effort", "max_completion_tokens": "max_output_tokens"}
INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
USAGE_NAMES = {
    "prompt_tokens": "input_tokens",
    "prompt_tokens_details": "input_tokens_details",
    "completion_tokens": "output_tokens",
    "completion_tokens_details": "output_tokens_details",
}


# Requests


def read_request(body: bytes) -> Json:
    """The request, checked as far as the demo needs it. Raises BadRequestError."""
    request = request_for_a_model(body)
    given = request.get("input")
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    if not isinstance(items, list) or not items or not all(isinstance(item, dict) for item in items):
        raise BadRequestError("Invalid type for 'input': expected a string or an array of items.", "input")
    return {**request, "input": items}


def check_shape(request: Json) -> None:
    """Raises RefusedError for what the API itself refuses, whatever the model."""
    for body in _refused(request):
        raise RefusedError(body)


def _refused(request: Json) -> Iterator[Json]:
    for name in request.keys() - PARAMETERS:
        yield openai_error(name, "unknown_parameter", f"Unknown parameter: '{name}'.")
    if (most := request.get("max_output_tokens")) is not None and most < LEAST_MAXIMUM:
        words = f"max_output_tokens is below the minimum value of {LEAST_MAXIMUM}"
        yield openai_error("max_output_tokens", "integer_below_min_value", words)
    for at, tool in enumerate(request.get("tools") or ()):
        if tool.get("type") == "function" and not isinstance(tool.get("name"), str):
            yield openai_error(f"tools[{at}].name", "missing_required_parameter", "a function needs a name")
    called = set()
    for at, item in enumerate(request["input"]):
        called.add(item.get("call_id") if item.get("type") == "function_call" else None)
        yield from _refused_in_item(item, f"input[{at}]", called)


def _refused_in_item(item: Mapping[str, Any], param: str, called: set[Any]) -> Iterator[Json]:
    kind = item.get("type", "message")
    if kind == "function_call_output" and (item.get("call_id") is None or item["call_id"] not in called):
        yield openai_error(f"{param}.call_id", "invalid_value", "No tool call found for function call output")
    if kind != "message":
        return
    kinds = PARTS.get(item.get("role", ""), PARTS_OF_OTHERS)
    for at, part in enumerate(item["content"] if isinstance(item.get("content"), list) else ()):
        if part.get("type") not in kinds:
            words = f"Invalid value: '{part.get('type')}'. Supported values are: {', '.join(sorted(kinds))}."
            yield openai_error(f"{param}.content[{at}].type", "invalid_value", words)
    if kinds is PARTS.get("assistant") and "id" in item and not str(item["id"]).startswith("msg"):
        yield openai_error(f"{param}.id", "invalid_value", "Expected an ID that begins with 'msg'.")


def in_our_names(error: Json) -> Json:
    """What strictness says of a chat completion's field, said of a response's."""
    inner = error.get("error")
    if not isinstance(inner, dict):
        return {**error, "error": str(inner).replace("reasoning_effort", "reasoning.effort")}
    first, *rest = str(inner["param"]).split("[", 1)
    return {"error": {**inner, "param": "[".join([OUR_NAMES.get(first, first), *rest])}}


def chat_request(request: Json) -> Json:
    """The same request as a chat completion's, which says what the answer is."""
    reasoning, text = request.get("reasoning") or {}, request.get("text") or {}
    instructions = request.get("instructions")
    given = {
        **{CHAT_NAMES.get(name, name): value for name, value in request.items() if name not in NOT_SHARED},
        "messages": [
            *([{"role": "system", "content": instructions}] if instructions else []),
            *map(_message_of, request["input"]),
        ],
        "reasoning_effort": reasoning.get("effort"),
        "response_format": _format_of(text.get("format")),
        "tools": [{"type": "function", "function": tool} for tool in request.get("tools") or ()] or None,
        "tool_choice": _choice_of(request.get("tool_choice")),
    }
    return {name: value for name, value in given.items() if value is not None}


NOT_SHARED = frozenset(["include", "input", "instructions", "reasoning", "store", "text", "tool_choice", "tools"])


def _format_of(wanted: Json | None) -> Json | None:
    return {"type": wanted["type"], "json_schema": wanted} if wanted else None


def _choice_of(choice: Any) -> Any:
    return {"type": "function", "function": choice} if isinstance(choice, dict) and "name" in choice else choice


def _message_of(item: Mapping[str, Any]) -> Json:
    match item.get("type", "message"):
        case "function_call":
            function = {"name": item.get("name"), "arguments": item.get("arguments")}
            call = {"id": item.get("call_id"), "type": "function", "function": function}
            return {"role": "assistant", "content": None, "tool_calls": [call]}
        case "function_call_output":
            return {"role": "tool", "tool_call_id": item.get("call_id"), "content": item.get("output")}
        case "message":
            return {"role": item.get("role"), "content": item.get("content")}
    return {"role": "assistant", "content": None}


# Answers


def response(request: Json, answer: Answer, number: int, created: int) -> Json:
    """The body of a plain answer, and of a stream's last event."""
    reason = INCOMPLETE.get(answer.finish_reason)
    status = "incomplete" if reason else "completed"
    return {
        **_begun(request, number, created),
        "status": status,
        "incomplete_details": {"reason": reason} if reason else None,
        "output": list(_output(answer, number, status)),
        "usage": _usage_of(answer.usage),
    }


def _begun(request: Json, number: int, created: int) -> Json:
    said = {"id": f"resp_demo_{number}", "object": "response", "created_at": created, "model": request["model"]}
    settings = {"tools": request.get("tools") or [], "tool_choice": request.get("tool_choice") or "auto"}
    more = {"parallel_tool_calls": request.get("parallel_tool_calls", True), "store": request.get("store", True)}
    return said | settings | more | {"status": "in_progress", "error": None, "incomplete_details": None,
                                     "instructions": None, "metadata": {}, "temperature": None, "top_p": None,
                                     "output": [], "usage": None}  # fmt: skip


def _output(answer: Answer, number: int, status: str) -> Iterator[Json]:
    places = count()
    if answer.content is not None:
        part = {"type": "output_text", "text": answer.content, "annotations": [], "logprobs": []}
        item = {"type": "message", "id": f"msg_demo_{number}_{next(places)}", "status": status, "role": "assistant"}
        yield {**item, "content": [part]}
    for call in answer.tool_calls or ():
        item = {"type": "function_call", "id": f"fc_demo_{number}_{next(places)}", "status": status}
        yield {**item, "call_id": call["id"], **call["function"]}


def _usage_of(usage: Json | None) -> Json | None:
    """A usage that a behaviour gives may be of either shape, and have no details."""
    if usage is None:
        return None
    named = {USAGE_NAMES.get(name, name): value for name, value in usage.items()}
    details = {"cached_tokens": 0, "cache_write_tokens": 0, **(named.get("input_tokens_details") or {})}
    return {"output_tokens_details": {"reasoning_tokens": 0}, **named, "input_tokens_details": details}


def events(request: Json, answer: Answer, behaviour: Behaviour, number: int, created: int) -> Iterator[Json]:
    """A stream's events, numbered; a list of chunks that a behaviour gives is events verbatim."""
    told = _events(request, answer, behaviour, number, created)
    if isinstance(behaviour.chunks, list):
        told = iter(behaviour.chunks)
    yield from ({"sequence_number": at, **event} for at, event in enumerate(told))


def _events(request: Json, answer: Answer, behaviour: Behaviour, number: int, created: int) -> Iterator[Json]:
    ended = response(request, answer, number, created)
    if behaviour.omit_stream_usage:
        ended["usage"] = None
    begun = _begun(request, number, created)
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    pieces = behaviour.chunks if isinstance(behaviour.chunks, int) else None
    for at, item in enumerate(ended["output"]):
        yield from _events_of_item(item, {"item_id": item["id"], "output_index": at}, pieces)
    yield {"type": f"response.{ended['status']}", "response": ended}


def _events_of_item(item: Json, where: Json, pieces: int | None) -> Iterator[Json]:
    emptied: Json = {"content": []} if "content" in item else {"arguments": ""}
    at = {"output_index": where["output_index"]}
    yield {"type": "response.output_item.added", **at, "item": {**item, "status": "in_progress", **emptied}}
    yield from _events_of_text(item, where, pieces) if "content" in item else _events_of_call(item, where)
    yield {"type": "response.output_item.done", **at, "item": item}


def _events_of_text(item: Json, where: Json, pieces: int | None) -> Iterator[Json]:
    (part,) = item["content"]
    where = {**where, "content_index": 0}
    yield {"type": "response.content_part.added", **where, "part": {**part, "text": ""}}
    for piece in pieces_of(part["text"], pieces):
        yield {"type": "response.output_text.delta", **where, "delta": piece, "logprobs": []}
    yield {"type": "response.output_text.done", **where, "text": part["text"], "logprobs": []}
    yield {"type": "response.content_part.done", **where, "part": part}


def _events_of_call(item: Json, where: Json) -> Iterator[Json]:
    for piece in pieces_of(item["arguments"], 2):
        yield {"type": "response.function_call_arguments.delta", **where, "delta": piece}
    done = {"arguments": item["arguments"], "name": item["name"]}
    yield {"type": "response.function_call_arguments.done", **where, **done}
