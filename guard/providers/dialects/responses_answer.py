"""A response as a chat completion. Pure.

`guard.responses.answer` is the other direction.  A provider's response may have anything in it: what is odd is passed
over, and its usage is read by whoever reads a chat completion's.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from guard.providers.deltas import objects_in, text_of

Json = dict[str, Any]

ENDS = {"max_output_tokens": "length", "content_filter": "content_filter"}
"""By why a response is incomplete, the finish reason; any other was cut short as well."""
USAGE_NAMES = {
    "input_tokens": "prompt_tokens",
    "input_tokens_details": "prompt_tokens_details",
    "output_tokens": "completion_tokens",
    "output_tokens_details": "completion_tokens_details",
}
ANSWERED = (None, "completed", "incomplete")
BETWEEN = "\n\n"
"""Between two messages of one answer, or two paragraphs of its thoughts."""


def completion_of_response(response: Any) -> Any:
    """The chat completion; what is no answered response comes back as it is, which is no completion either."""
    if not is_answered(response):
        return response
    choice = {"index": 0, "message": message_of(response["output"]), "logprobs": None}
    completion = {
        **head_of(response),
        "object": "chat.completion",
        "choices": [{**choice, "finish_reason": finish_reason_of(response)}],
    }
    usage = usage_of(response.get("usage"))
    return completion if usage is None else {**completion, "usage": usage}


def is_answered(response: Any) -> bool:
    is_response = isinstance(response, Mapping) and isinstance(response.get("output"), list)
    return is_response and response.get("status") in ANSWERED


def head_of(response: Mapping[str, Any]) -> Json:
    """What a completion and each chunk begin with."""
    created = response.get("created_at")
    given = {
        "id": response.get("id"),
        "created": int(created) if isinstance(created, float) and created.is_integer() else created,
        "model": response.get("model"),
        "service_tier": response.get("service_tier"),
    }
    return {name: value for name, value in given.items() if value is not None}


def finish_reason_of(response: Mapping[str, Any]) -> str:
    if response.get("status") == "incomplete":
        details = response.get("incomplete_details")
        return ENDS.get(str(details.get("reason")) if isinstance(details, Mapping) else "", "length")
    calls = any(item.get("type") == "function_call" for item in objects_in(response.get("output")))
    return "tool_calls" if calls else "stop"


def message_of(output: list[Any]) -> Json:
    """The items as one message of the assistant's."""
    items = list(objects_in(output))
    parts = [list(objects_in(item.get("content"))) for item in items if item.get("type") == "message"]
    thoughts = BETWEEN.join(filter(None, map(thoughts_of, items)))
    calls = [call_of(item) for item in items if item.get("type") == "function_call"]
    return {
        "role": "assistant",
        "content": BETWEEN.join(filter(None, (_texts(each, "output_text", "text") for each in parts))) or None,
        "refusal": "".join(_texts(each, "refusal", "refusal") for each in parts) or None,
        **({"reasoning_content": thoughts} if thoughts else {}),
        **({"tool_calls": calls} if calls else {}),
    }


def _texts(parts: Iterable[Mapping[str, Any]], kind: str, field: str) -> str:
    return "".join(text_of(part.get(field)) for part in parts if part.get("type") == kind)


def thoughts_of(item: Mapping[str, Any]) -> str:
    """What a reasoning item tells of the thoughts: themselves, else their summary. What is encrypted stays behind."""
    if item.get("type") != "reasoning":
        return ""
    paragraphs = (text_of(part.get("text")) for part in objects_in(item.get("summary")))
    return text_of(item.get("content")) or BETWEEN.join(paragraphs)


def call_of(item: Mapping[str, Any]) -> Json:
    """By `call_id`: an item's `id` is another thing, which no result names."""
    function = {"name": text_of(item.get("name")), "arguments": text_of(item.get("arguments"))}
    return {"id": text_of(item.get("call_id")), "type": "function", "function": function}


def usage_of(usage: Any) -> Any:
    """With whatever a provider counts besides, such as xAI's cost in ticks.

    A response's output holds its reasoning: without a total a reader might take that to come on top.
    """
    if not isinstance(usage, Mapping):
        return usage
    named = {USAGE_NAMES.get(name, name): value for name, value in usage.items()}
    counts = (usage.get("input_tokens"), usage.get("output_tokens"))
    if named.get("total_tokens") is None and all(isinstance(count, int) for count in counts):
        named["total_tokens"] = sum(counts)
    return named
