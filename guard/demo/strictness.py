"""What the models of today's families refuse, by their names, in their providers' shapes. Pure.

    gpt-5 and later   sampling parameters (temperature but 1, top_p, penalties, stop, logprobs) unless they do not
                      reason; max_tokens; ids that are too long; message fields of other providers
    grok-4 and later  stop and penalties, even of 0, where they reason

As their providers' documentation has it in November 2026, and the answers of their APIs.  A model of any other
name takes everything, and so does one whose behaviour says `strict: false`.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from guard.demo.texts import prompt_tokens_of

Json = dict[str, Any]

GPT = re.compile(r"gpt-([5-9]|\d{2})")
GROK = re.compile(r"grok-([4-9]|\d{2})(?!.*non-reasoning)")
NO_TOOLS_WHILE_REASONING = re.compile(r"gpt-6-luna\b")
ALWAYS_REASONS = re.compile(r"gpt-(5(-mini|-nano|-pro)?|6-astra|6\.1-sol)(-\d{4}-\d{2}-\d{2})?")
"""Models that know no `reasoning_effort` of none."""

SAMPLING = ("top_p", "presence_penalty", "frequency_penalty", "stop", "logprobs", "top_logprobs")
PENALTIES = ("stop", "presence_penalty", "frequency_penalty")
EFFORTS = {"none", "minimal", "low", "medium", "high", "xhigh", "max"}
MESSAGE_FIELDS = {
    *("role", "content", "name", "tool_call_id", "tool_calls", "function_call", "refusal", "audio", "annotations")
}
MOST_CACHE_KEY_CHARACTERS = 64
MOST_CALL_ID_CHARACTERS = 40


class RefusedError(ValueError):
    """A request that this model refuses with 400; `body` is the answer."""

    def __init__(self, body: Json) -> None:
        super().__init__(str(body))
        self.body = body


def check_request(request: Json, context_tokens: int | None = None, *, tools_while_reasoning: bool = False) -> None:
    """Raises RefusedError, as the provider of `request["model"]` answers. The context is the behaviour's.

    `tools_while_reasoning`: by the Responses API, each model takes them.
    """
    model = request["model"]
    if GPT.match(model):
        _check(_refused_by_gpt(request, model, tools_while_reasoning=tools_while_reasoning))
    elif GROK.match(model):
        _check(_refused_by_grok(request))
    if context_tokens is not None and prompt_tokens_of(request) > context_tokens:
        words = f"the prompt is longer than this model's context of {context_tokens} tokens"
        raise RefusedError(openai_error("messages", "context_length_exceeded", words))


def openai_error(param: str, code: str, words: str) -> Json:
    return {"error": {"message": words, "type": "invalid_request_error", "param": param, "code": code}}


def xai_error(words: str) -> Json:
    return {"code": "Client specified an invalid argument", "error": words}


def _check(refusals: Iterator[Json]) -> None:
    """Providers name one thing at a time."""
    for body in refusals:
        raise RefusedError(body)


def _refused_by_grok(request: Json) -> Iterator[Json]:
    for name in PENALTIES:
        if request.get(name) is not None:
            yield xai_error(f"{name} is no argument of this model")


def _refused_by_gpt(request: Json, model: str, *, tools_while_reasoning: bool) -> Iterator[Json]:
    if request.get("max_tokens") is not None:
        yield openai_error("max_tokens", "unsupported_parameter", "use max_completion_tokens with this model")
    if len(request.get("prompt_cache_key") or "") > MOST_CACHE_KEY_CHARACTERS:
        words = f"prompt_cache_key is too long, {MOST_CACHE_KEY_CHARACTERS} at most"
        yield openai_error("prompt_cache_key", "string_above_max_length", words)
    for at, message in enumerate(request["messages"]):
        yield from _refused_in_message(message, f"messages[{at}]")
    yield from _refused_of_reasoning(request, model, tools_while_reasoning=tools_while_reasoning)


def _refused_of_reasoning(request: Json, model: str, *, tools_while_reasoning: bool) -> Iterator[Json]:
    effort = request.get("reasoning_effort")
    if effort is not None and (effort not in EFFORTS or (effort == "none" and ALWAYS_REASONS.fullmatch(model))):
        words = f"{effort} is not a value of reasoning_effort for this model"
        yield openai_error("reasoning_effort", "unsupported_value", words)
    if effort == "none":
        return
    if request.get("tools") and NO_TOOLS_WHILE_REASONING.match(model) and not tools_while_reasoning:
        words = "function tools with reasoning are not served here, use responses or reasoning_effort none"
        yield openai_error("reasoning_effort", "unsupported_value", words)
    if request.get("temperature") not in (None, 1):
        words = f"temperature {request['temperature']} is not supported by this model, only 1 is"
        yield openai_error("temperature", "unsupported_value", words)
    for name in SAMPLING:
        if (value := request.get(name)) is not None and value is not False:
            yield openai_error(name, "unsupported_parameter", f"{name} is not supported by this model")


def _refused_in_message(message: Mapping[str, Any], param: str) -> Iterator[Json]:
    for name in message.keys() - MESSAGE_FIELDS:
        yield openai_error(f"{param}.{name}", "unknown_parameter", "unknown field in a message")
    calls = message.get("tool_calls") or ()
    ids = {f"tool_calls[{at}].id": call.get("id") for at, call in enumerate(calls) if isinstance(call, Mapping)}
    for name, identifier in {**ids, "tool_call_id": message.get("tool_call_id")}.items():
        if isinstance(identifier, str) and len(identifier) > MOST_CALL_ID_CHARACTERS:
            words = f"tool call id is too long, {MOST_CALL_ID_CHARACTERS} at most"
            yield openai_error(f"{param}.{name}", "string_above_max_length", words)
