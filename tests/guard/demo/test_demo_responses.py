"""The demo provider's Responses API, asked by the openai package over real HTTP."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from tests.support.provider import Provider

ANY_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
TOOL: Any = {
    "type": "function", "name": "get_order", "strict": False,
    "parameters": {"type": "object", "properties": {"number": {"type": "integer", "minimum": 7}}},
}  # fmt: skip
CALLED: Any = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}


@pytest.fixture
def client(provider: Provider) -> Iterator[OpenAI]:
    with OpenAI(base_url=provider.base_url, api_key="any", max_retries=0, timeout=30) as client:
        yield client


def ask(client: OpenAI, **parameters: Any) -> Any:
    return client.responses.create(**{"model": "grok-4.3", "input": "Where is my parcel?", **parameters})


def stream(client: OpenAI, **parameters: Any) -> list[Any]:
    events = list(ask(client, stream=True, **parameters))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    for event in events:
        ANY_EVENT.validate_python(event.model_dump())
    return events


def test_a_plain_answer_and_its_stream_say_the_same(client: OpenAI) -> None:
    plain, events = ask(client, instructions="Be kind."), stream(client, instructions="Be kind.")
    assert plain.output_text.startswith("[demo] ")
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == plain.output_text
    assert events[-1].response.output_text == plain.output_text
    assert events[-1].response.usage == plain.usage
    assert plain.usage.total_tokens == plain.usage.input_tokens + plain.usage.output_tokens > 0


def test_a_call_of_a_function_and_its_result(client: OpenAI) -> None:
    asked = [{"role": "user", "content": "please get order 7"}]
    (call,) = ask(client, input=asked, tools=[TOOL]).output
    assert (call.type, call.name, call.arguments) == ("function_call", "get_order", '{"number":7}')
    events = stream(client, input=asked, tools=[TOOL], tool_choice={"type": "function", "name": "get_order"})
    pieces = [e.delta for e in events if e.type == "response.function_call_arguments.delta"]
    assert "".join(pieces) == events[-1].response.output[0].arguments == call.arguments
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "It is on its way."}
    answer = ask(client, input=[*asked, call.to_dict(), result], tools=[TOOL])
    assert "It is on its way." in answer.output_text


def test_a_schema_and_a_maximum(client: OpenAI) -> None:
    schema = {"type": "json_schema", "name": "n", "schema": {"type": "object", "properties": {"a": {"const": 1}}}}
    assert ask(client, text={"format": schema}).output_text == '{"a":1}'
    cut = ask(client, max_output_tokens=16)
    assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert stream(client, max_output_tokens=16)[-1].type == "response.incomplete"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"extra_body": {"stop": "x"}}, "stop"),
        ({"max_output_tokens": 15}, "max_output_tokens"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools[0].name"),
        ({"input": [CALLED, {"type": "function_call_output", "call_id": "d", "output": "x"}]}, "input[1].call_id"),
        ({"input": [{"role": "assistant", "content": [{"type": "input_text", "text": "x"}]}]},
         "input[0].content[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "output_text", "text": "x"}]}]}, "input[0].content[0].type"),
        ({"input": [{"role": "assistant", "id": "x", "content": "x"}]}, "input[0].id"),
        ({"model": "gpt-6", "reasoning": {"effort": "lots"}}, "reasoning.effort"),
        ({"model": "gpt-6", "temperature": 0.2}, "temperature"),
        ({"input": "x" * 1000, "model": "short"}, "input"),
        ({"input": []}, "input"),
        ({"model": 1}, "model"),
    ],
)  # fmt: skip
def test_it_is_strict(client: OpenAI, provider: Provider, fields: Any, param: str) -> None:
    provider.behave("short", context_tokens=10)
    with pytest.raises(openai.BadRequestError) as raised:
        ask(client, **fields)
    assert raised.value.param == param


def test_tools_go_with_reasoning_here(client: OpenAI) -> None:
    assert ask(client, model="gpt-6-luna", tools=[TOOL]).status == "completed"


def test_it_can_be_told_to_break_and_to_say_other_events(client: OpenAI, provider: Provider) -> None:
    provider.behave("m", break_after_chunks=5)
    with pytest.raises(openai.APIConnectionError):
        stream(client, model="m")
    provider.behave("m", chunks=[{"type": "error", "code": "server_error", "message": "no", "param": None}])
    (error,) = stream(client, model="m")
    assert (error.type, error.code) == ("error", "server_error")
    provider.behave("m", usage={"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3})
    assert ask(client, model="m").usage.output_tokens == 2
    provider.behave("m", omit_stream_usage=True)
    assert stream(client, model="m")[-1].response.usage is None
