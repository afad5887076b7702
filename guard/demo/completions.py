"""Requests and answers in the shape of OpenAI's chat completions API. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from itertools import chain
from typing import Any

import orjson

from guard.demo.behaviours import Behaviour
from guard.demo.texts import LABEL, cut, example_of, pieces_of, prompt_tokens_of, reply_to, texts_of, tokens_of

Json = dict[str, Any]


class BadRequestError(ValueError):
    """A request that OpenAI would refuse with 400; `param` names the field."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True, slots=True)
class Answer:
    """One choice's message; all choices of a call say the same."""

    content: str | None
    tool_calls: list[Json] | None
    finish_reason: str
    usage: Json | None


def request_for_a_model(body: bytes) -> Json:
    """What every endpoint that a model serves asks of a body. Raises BadRequestError."""
    try:
        request = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequestError(f"We could not parse the JSON body of your request: {error}") from error
    if not isinstance(request, dict) or not isinstance(request.get("model"), str):
        raise BadRequestError("you must provide a model parameter", "model")
    return request


def read_request(body: bytes) -> Json:
    """The request, checked as far as the demo needs it. Raises BadRequestError."""
    request = request_for_a_model(body)
    messages = request.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(message, dict) for message in messages):
        raise BadRequestError("Invalid type for 'messages': expected an array of objects.", "messages")
    return request


def error_body(status: int, message: str, param: str | None = None) -> Json:
    kind, code = {
        401: ("invalid_request_error", "invalid_api_key"),
        404: ("invalid_request_error", "not_found"),
        429: ("requests", "rate_limit_exceeded"),
    }.get(
        status, ("invalid_request_error", None) if status < HTTPStatus.INTERNAL_SERVER_ERROR else ("server_error", None)
    )
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def answer_to(request: Json, behaviour: Behaviour) -> Answer:
    content, tool_calls, finish_reason = _said(request, behaviour)
    written = tokens_of(content or "") + sum(tokens_of(call["function"]["arguments"]) for call in tool_calls or ())
    usage = behaviour.usage if behaviour.usage != "counted" else _usage(request, written)
    return Answer(content, tool_calls, behaviour.finish_reason or finish_reason, None if usage is None else dict(usage))


def _said(request: Json, behaviour: Behaviour) -> tuple[str | None, list[Json] | None, str]:
    """Content, tool calls and finish reason."""
    if behaviour.tool_calls is not None:
        return behaviour.content, behaviour.tool_calls, "tool_calls"
    if behaviour.content is None and (tool := _tool_asked_for(request)):
        return None, [_tool_call(tool)], "tool_calls"
    content = behaviour.content if behaviour.content is not None else _formatted(request)
    max_tokens = request.get("max_completion_tokens") or request.get("max_tokens")
    if max_tokens and tokens_of(content) > max_tokens:
        return cut(content, max_tokens), None, "length"
    return content, None, "stop"


def _tool_asked_for(request: Json) -> Json | None:
    """The function to call: the one `tool_choice` insists on, or the first that the last message speaks of."""
    functions: list[Json] = [tool["function"] for tool in request.get("tools") or () if tool.get("type") == "function"]
    choice, last = request.get("tool_choice", "auto"), request["messages"][-1]
    if not functions or choice == "none":
        return None
    if choice == "required":
        return functions[0]
    if isinstance(choice, dict):
        return next((one for one in functions if one["name"] == choice.get("function", {}).get("name")), None)
    if last.get("role") != "user":
        return None
    asked = " ".join(texts_of(last)).lower().replace("_", " ")
    return next((one for one in functions if one["name"].lower().replace("_", " ") in asked), None)


def _tool_call(function: Json) -> Json:
    arguments = orjson.dumps(example_of(function.get("parameters") or {"type": "object"}, "demo")).decode()
    return {
        "id": f"call_demo_{function['name']}",
        "type": "function",
        "function": {"name": function["name"], "arguments": arguments},
    }


def _formatted(request: Json) -> str:
    """The reply, in the `response_format` that was asked for."""
    text = reply_to(request["messages"][-1])
    wanted = request.get("response_format") or {}
    if wanted.get("type") == "json_schema":
        return orjson.dumps(example_of(wanted["json_schema"].get("schema", {}), text)).decode()
    if wanted.get("type") == "json_object":
        return orjson.dumps({"demo": True, "answer": text.removeprefix(LABEL)}).decode()
    return text


def _usage(request: Json, written: int) -> Json:
    prompt, completion = prompt_tokens_of(request), written * (request.get("n") or 1)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }


def completion(request: Json, answer: Answer, call_id: str, created: int) -> Json:
    """The body of a plain answer."""
    message: Json = {"role": "assistant", "content": answer.content, "refusal": None}
    if answer.tool_calls:
        message["tool_calls"] = answer.tool_calls
    choices = [
        {"index": index, "message": message, "logprobs": None, "finish_reason": answer.finish_reason}
        for index in range(request.get("n") or 1)
    ]
    body = {"id": call_id, "object": "chat.completion", "created": created, "model": request["model"]}
    return body | {"choices": choices} | ({} if answer.usage is None else {"usage": answer.usage})


def chunks(request: Json, answer: Answer, behaviour: Behaviour, call_id: str, created: int) -> Iterator[Json]:
    """The bodies of a stream's chunks; with usage at the end if the request asked for it."""
    if isinstance(behaviour.chunks, list):
        yield from behaviour.chunks
        return
    head = {"id": call_id, "object": "chat.completion.chunk", "created": created, "model": request["model"]}
    asked_for_usage = (request.get("stream_options") or {}).get("include_usage") and not behaviour.omit_stream_usage
    if asked_for_usage:
        head["usage"] = None
    for index in range(request.get("n") or 1):
        for delta in _deltas(answer, behaviour.chunks):
            yield head | {"choices": [{"index": index, "delta": delta, "logprobs": None, "finish_reason": None}]}
        end = {"index": index, "delta": {}, "logprobs": None, "finish_reason": answer.finish_reason}
        yield head | {"choices": [end]}
    if asked_for_usage and answer.usage is not None:
        yield head | {"choices": [], "usage": answer.usage}


def _deltas(answer: Answer, count: int | None) -> Iterator[Mapping[str, Any]]:
    yield {"role": "assistant", "content": None if answer.content is None else "", "refusal": None}
    yield from ({"content": piece} for piece in pieces_of(answer.content or "", count))
    yield from chain.from_iterable(_tool_deltas(at, call) for at, call in enumerate(answer.tool_calls or ()))


def _tool_deltas(at: int, call: Json) -> Iterator[Json]:
    function = call["function"]
    yield {"tool_calls": [{"index": at, **call, "function": function | {"arguments": ""}}]}
    for piece in pieces_of(function["arguments"], 2):
        yield {"tool_calls": [{"index": at, "function": {"arguments": piece}}]}
