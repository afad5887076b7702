"""A chat completion as a response. Pure."""

import re
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from guard.providers.deltas import objects_in, text_of
from spend.ids import created_at_s
from spend.pricing.cost import Usage

Json = dict[str, Any]

INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""By the finish reason, why a response is not complete."""
DEFAULTS: Mapping[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "reasoning": {"effort": None, "summary": None},
    "service_tier": "default",
    "temperature": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": None,
    "user": None,
}
"""What a response repeats of its request, and what it says where the request is silent."""


ID = re.compile(r"resp_([0-9a-f]{32})")
ITEM_ID = re.compile(r"(?:msg|rs|fc)_([0-9a-f]{32})_\d+")


def id_of(call_id: UUID) -> str:
    return f"resp_{call_id.hex}"


def call_id_of(response_id: str) -> UUID | None:
    """The call whose response it is; None for what is no such id."""
    found = ID.fullmatch(response_id)
    return UUID(found[1]) if found else None


def call_id_of_item(item_id: str) -> UUID | None:
    """The call in whose response it is; None for what is no id of an item that was answered."""
    found = ITEM_ID.fullmatch(item_id)
    return UUID(found[1]) if found else None


def repeated(request: Mapping[str, Any], *, store: bool = False) -> Json:
    """What a response says of its request, and whether it is kept."""
    said = {name: request[name] if request.get(name) is not None else value for name, value in DEFAULTS.items()}
    said["text"] = {"format": {"type": "text"}, **{k: v for k, v in said["text"].items() if v is not None}}
    said["tools"] = [{"parameters": None, "strict": None, **tool} for tool in said["tools"]]
    # What is left to the provider's dialect is said as it is done.
    previous = request.get("previous_response_id")
    return {**said, "truncation": "disabled", "background": False, "previous_response_id": previous, "store": store}


def response(
    call_id: UUID,
    model: str,
    request: Mapping[str, Any],
    *,
    status: str,
    output: list[Json],
    usage: Json | None = None,
    reason: str | None = None,
    error: Json | None = None,
) -> Json:
    """`request` as `repeated` makes it, `reason` why it is incomplete."""
    return {
        "id": id_of(call_id),
        "object": "response",
        "created_at": created_at_s(call_id),
        "status": status,
        "error": error,
        "incomplete_details": {"reason": reason} if reason else None,
        "model": model,
        "output": output,
        "usage": usage,
        **request,
    }


def usage_of(usage: Usage) -> Json:
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_input_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }


def response_of(
    call_id: UUID, model: str, request: Mapping[str, Any], completion: Mapping[str, Any], usage: Usage
) -> Json:
    """The response of an answered call; of a completion's choices it is the first."""
    choice = next(objects_in(completion.get("choices")), {})
    reason = INCOMPLETE.get(str(choice.get("finish_reason")))
    status = "incomplete" if reason else "completed"
    output = output_of(call_id, choice, status)
    return response(call_id, model, request, status=status, output=output, usage=usage_of(usage), reason=reason)


def output_of(call_id: UUID, choice: Mapping[str, Any], status: str) -> list[Json]:
    """The items of a choice: thoughts, what it said, the functions it calls."""
    given = choice.get("message")
    message: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
    items: list[Json] = []
    if thoughts := text_of(message.get("reasoning_content")):
        items.append(reasoning_item(thoughts, status))
    logprobs = logprobs_of(choice)
    parts = [text_part(said, logprobs)] if (said := text_of(message.get("content"))) else []
    parts += [refusal_part(refusal)] if (refusal := text_of(message.get("refusal"))) else []
    if parts:
        items.append({"type": "message", "role": "assistant", "status": status, "content": parts})
    for call in objects_in(message.get("tool_calls")):
        function = call.get("function") if isinstance(call.get("function"), Mapping) else {}
        items.append(call_item(call.get("id"), function, status))
    return [with_ids(call_id, index, item) for index, item in enumerate(items)]


def logprobs_of(choice: Mapping[str, Any]) -> list[Json]:
    given = choice.get("logprobs")
    tokens = objects_in(given.get("content")) if isinstance(given, Mapping) else ()
    return [{**_logprob(token), "top_logprobs": list(map(_logprob, objects_in(token.get("top_logprobs"))))}
            for token in tokens]  # fmt: skip


def _logprob(token: Mapping[str, Any]) -> Json:
    return {"token": token.get("token") or "", "bytes": token.get("bytes") or [], "logprob": token.get("logprob") or 0}


def text_part(text: str, logprobs: list[Json]) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def refusal_part(refusal: str) -> Json:
    return {"type": "refusal", "refusal": refusal}


def reasoning_item(thoughts: str, status: str) -> Json:
    return {
        "type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": thoughts}], "status": status,
    }  # fmt: skip


def call_item(given_id: Any, function: Any, status: str) -> Json:
    item = {"type": "function_call", "status": status, "name": text_of(function.get("name"))}
    return {**item, "arguments": text_of(function.get("arguments")), "call_id": text_of(given_id)}


PREFIXES = {"message": "msg", "reasoning": "rs", "function_call": "fc"}


def with_ids(call_id: UUID, index: int, item: Json) -> Json:
    """The item with its id, which is the same however often the call is told; a call of a function needs one, too."""
    if item.get("call_id") == "":
        item = {**item, "call_id": f"call_{call_id.hex}{index}"}
    return {"id": f"{PREFIXES[item['type']]}_{call_id.hex}_{index}", **item}
