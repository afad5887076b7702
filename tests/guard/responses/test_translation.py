"""Responses to chat completions and back, without a server. The openai package's own types say what is one."""

import re
import typing
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseStreamEvent
from openai.types.responses.response_create_params import ResponseCreateParamsBase, ResponseCreateParamsStreaming
from pydantic import TypeAdapter

from guard.http.errors import AllModelsFailed, InvalidRequest
from guard.responses import parameters
from guard.responses.answer import id_of, output_of, repeated, response_of
from guard.responses.events import Events
from guard.responses.items import read_input
from guard.responses.parameters import check_parameters
from guard.responses.request import messages_of
from guard.responses.views import ResponseRequest, in_our_names, our_name, read_response
from spend.pricing.cost import Usage
from tests.support.environment import ROOT

CALL = UUID("01900000-0000-7000-8000-000000000001")
USAGE = Usage(input_tokens=7, cached_input_tokens=2, cache_write_tokens=1, output_tokens=5, reasoning_tokens=1)
ANY_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
Json = dict[str, Any]


def asked(**request: Any) -> ResponseRequest:
    body = {"model": "auto", "input": "Hello", **request}
    check_parameters(body)
    return read_response(body)


def refusal(**request: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as raised:
        asked(**request)
    return raised.value


def answered(message: Json, finish_reason: str = "stop", **request: Any) -> Json:
    completion = {"choices": [{"index": 0, "message": message, "finish_reason": finish_reason}]}
    body = response_of(CALL, "dear", repeated({"model": "auto", **request}), completion, USAGE)
    Response.model_validate(body, strict=True)
    return body


def streamed(*deltas: Json, finish_reason: str | None = "stop", fails: bool = False) -> list[Json]:
    """The events of a stream of these deltas, each valid, numbered without a gap, with every status and output."""
    response = Events(CALL, "dear", repeated({"model": "auto"}))
    events = response.begin()
    for delta in deltas:
        events += response.feed({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
    events += response.feed({"choices": [{"index": 0, "delta": {}, "finish_reason": finish_reason}]})
    events += response.fail("broke off", USAGE) if fails else response.complete(USAGE)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    for event in events:
        ANY_EVENT.validate_python(event)
        if "response" in event:
            assert isinstance(event["response"]["output"], list)
            Response.model_validate(event["response"], strict=True)
        if "item" in event:
            assert event["item"]["status"]
    return events


def test_every_parameter_that_the_openai_package_knows_is_decided() -> None:
    known = {*typing.get_type_hints(ResponseCreateParamsBase), *typing.get_type_hints(ResponseCreateParamsStreaming)}
    assert "input" in known
    assert known - parameters.TABLE.keys() == set()


PAGE = (ROOT / "docs" / "responses.md").read_text().split("\n## ")[0]
VERBS = {
    "translates it": parameters.TRANSLATED, "bounds it": parameters.BOUNDED, "drops it": parameters.DROPPED,
    "reads it": parameters.OURS, "refuses": parameters.REFUSED,
}  # fmt: skip


def test_the_page_has_every_parameter_and_says_what_the_code_does() -> None:
    rows = dict(re.findall(r"^\| `([a-z_]+)` \| (.+?) \|", PAGE, re.MULTILINE))
    assert rows.keys() == parameters.TABLE.keys()
    for name, verb in rows.items():
        assert name in VERBS[verb], f"the page says that the guard {verb}: {name}"


def test_a_request_becomes_a_chat_completion() -> None:
    function = {"name": "look_up", "description": "d", "parameters": {"type": "object"}, "strict": True}
    read = asked(
        instructions="Be kind.", max_output_tokens=50, temperature=0.5, top_p=0.9, user=" ann ", stream=True,
        text={"format": {"type": "json_schema", "name": "order", "schema": {"type": "object"}, "strict": True},
              "verbosity": "low"},
        reasoning={"effort": "low", "summary": "auto"}, tools=[{"type": "function", **function}],
        tool_choice={"type": "function", "name": "look_up"}, parallel_tool_calls=False, prompt_cache_key="k",
        metadata={"conversation_id": "c-1"}, include=["message.output_text.logprobs"], top_logprobs=2, store=True,
        truncation="auto", max_tool_calls=3, stream_options={"include_obfuscation": False}, background=False,
    )  # fmt: skip
    assert read.body == {
        "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"}],
        "temperature": 0.5, "top_p": 0.9, "user": "ann", "parallel_tool_calls": False, "prompt_cache_key": "k",
        "reasoning_effort": "low", "verbosity": "low", "logprobs": True, "top_logprobs": 2,
        "response_format": {"type": "json_schema",
                            "json_schema": {"name": "order", "schema": {"type": "object"}, "strict": True}},
        "tools": [{"type": "function", "function": function}],
        "tool_choice": {"type": "function", "function": {"name": "look_up"}},
    }  # fmt: skip
    assert (read.ask.max_tokens, read.customer, read.conversation, read.stream) == (50, "ann", "c-1", True)
    assert (read.repeated["store"], read.repeated["truncation"]) == (False, "disabled")


def test_other_formats_and_choices() -> None:
    assert "response_format" not in asked(text={"format": {"type": "text"}}).body
    assert asked(text={"format": {"type": "json_object"}}).body["response_format"] == {"type": "json_object"}
    tools = [{"type": "function", "name": "f", "parameters": {}}]
    choice = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "f"}]}
    assert asked(tools=tools, tool_choice=choice).body["tool_choice"] == {
        "type": "allowed_tools",
        "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "f"}}]},
    }
    assert asked(tools=tools, tool_choice="required").body["tool_choice"] == "required"


def test_a_conversation_with_calls_pictures_and_thoughts() -> None:
    image = {"type": "input_image", "image_url": "https://example.com/a.png", "detail": "low"}
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "See"}, image]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"},
        {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
         "content": [{"type": "output_text", "text": "I look.", "annotations": [], "parsed": None}]},
        {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "f", "arguments": "{}"},
        {"type": "function_call", "id": "fc_2", "call_id": "call_2", "name": "g", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": "one"},
        {"type": "function_call_output", "call_id": "call_2", "output": [{"type": "input_text", "text": "two"}]},
        {"role": "assistant", "content": "Done."},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
    ]  # fmt: skip
    call = {"type": "function"}
    assert asked(input=items).body["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "See"},
                                     {"type": "image_url", "image_url": {"url": image["image_url"], "detail": "low"}}]},
        {"role": "assistant", "content": [{"type": "text", "text": "I look."}], "tool_calls": [
            {"id": "call_1", **call, "function": {"name": "f", "arguments": "{}"}},
            {"id": "call_2", **call, "function": {"name": "g", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "one"},
        {"role": "tool", "tool_call_id": "call_2", "content": [{"type": "text", "text": "two"}]},
        {"role": "assistant", "content": "Done."},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
    ]  # fmt: skip


def test_messages_around_a_call_are_one_message() -> None:
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    said = [{"role": "assistant", "content": "a"}, call, {"role": "assistant", "content": "b"}]
    (message,) = messages_of(said)
    assert message["content"] == [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    (alone,) = messages_of([call])
    assert alone["content"] is None


OUTPUT = {"type": "function_call_output", "output": "x"}
CALLED = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        *[({name: "x"}, name) for name in sorted(parameters.REFUSED)],
        ({"background": True}, "background"),
        ({"service_tier": "priority"}, "service_tier"),
        ({"surprise": 1}, "surprise"),
        ({"model": None}, "model"),
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": [OUTPUT["type"]]}, "input[0]"),
        ({"input": [CALLED] * 2049}, "input"),
        *[({"tools": [{"type": kind}]}, "tools[0].type") for kind in
          ("web_search", "web_search_preview", "code_interpreter", "file_search", "computer_use_preview",
           "image_generation", "mcp", "custom")],
        ({"tools": [1]}, "tools[0].type"),
        ({"tools": "x"}, "tools"),
        ({"tools": [{"type": "function", "name": "f"}] * 513}, "tools"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice.type"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"input": [OUTPUT]}, "input[0].call_id"),
        ({"input": [{**OUTPUT, "call_id": "c"}]}, "input[0].call_id"),
        ({"input": [CALLED, {**OUTPUT, "call_id": "c", "output": None}]}, "input[1].output"),
        ({"input": [CALLED, {**OUTPUT, "call_id": "c", "output": [{"type": "input_image"}]}]},
         "input[1].output[0].type"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"input": [{"type": 1}]}, "input[0].type"),
        ({"input": [{"role": "critic", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": 1}]}, "input[0].content"),
        ({"input": [{"role": "assistant", "content": [{"type": "x"}]}]}, "input[0].content[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input[0].content[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
         "input[0].content[0].file_id"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text"),
    ],
)  # fmt: skip
def test_what_is_refused_is_named(request_: Json, param: str) -> None:
    error = refusal(**request_)
    assert error.param == param
    assert str(error).startswith(f"{param}: ")


@pytest.mark.parametrize("name", sorted(parameters.REFUSED))
def test_no_refusal_sends_to_what_is_refused_too(name: str) -> None:
    words = str(refusal(**{name: "x"})).removeprefix(f"{name}: ")
    assert not [other for other in parameters.REFUSED if re.search(rf"[Uu]se {other}\b", words)]


def test_a_tool_that_runs_elsewhere_is_named() -> None:
    assert "'web_search_preview'" in str(refusal(tools=[{"type": "web_search_preview"}]))


def test_an_assistants_words_may_come_as_input_text() -> None:
    said = [{"role": "assistant", "content": [{"type": "input_text", "text": "x"}]}]
    assert messages_of(read_input(said))[0]["content"] == [{"type": "text", "text": "x"}]


def test_an_answer_becomes_a_response() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    body = answered({"content": "Hi", "reasoning_content": "hm", "tool_calls": [call, {**call, "id": None}]}, user="u")
    assert (body["id"], body["status"], body["user"], body["model"]) == (id_of(CALL), "completed", "u", "dear")
    assert [item["type"] for item in body["output"]] == ["reasoning", "message", "function_call", "function_call"]
    assert {item["status"] for item in body["output"]} == {"completed"}
    assert [item["call_id"] for item in body["output"][2:]] == ["call_1", f"call_{CALL.hex}3"]
    assert body["usage"] == {
        "input_tokens": 7, "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 1},
        "output_tokens": 5, "output_tokens_details": {"reasoning_tokens": 1}, "total_tokens": 12,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("ended", "why"), [("length", "max_output_tokens"), ("content_filter", "content_filter"), ("stop", None)]
)
def test_an_answer_that_was_cut_says_why(ended: str, why: str | None) -> None:
    plain = answered({"content": "Hi"}, ended)
    last = streamed({"content": "Hi"}, finish_reason=ended)[-1]
    for body in (plain, last["response"]):
        assert body["status"] == ("incomplete" if why else "completed")
        assert body["output"][0]["status"] == body["status"]
        assert (body["incomplete_details"] or {}).get("reason") == why
    assert last["type"] == f"response.{plain['status']}"


def test_odd_answers_are_responses_all_the_same() -> None:
    assert answered({"content": None})["output"] == []
    assert answered({"content": "", "refusal": "No."})["output"][0]["content"] == [
        {"type": "refusal", "refusal": "No."}
    ]
    assert answered({"content": [{"type": "text", "text": "a"}]})["output"][0]["content"][0]["text"] == "a"
    empty = response_of(CALL, "dear", repeated({}), {"choices": []}, USAGE)
    assert Response.model_validate(empty).output == []
    assert output_of(CALL, {"message": "x"}, "completed") == []


def test_log_probabilities_come_along() -> None:
    token = {"token": "Hi", "bytes": None, "logprob": -0.5, "top_logprobs": [{"token": "Ho", "logprob": -1.0}]}
    (item,) = output_of(CALL, {"message": {"content": "Hi"}, "logprobs": {"content": [token]}}, "completed")
    assert item["content"][0]["logprobs"][0]["top_logprobs"] == [{"token": "Ho", "bytes": [], "logprob": -1.0}]


def test_the_events_of_a_text() -> None:
    events = streamed({"role": "assistant", "content": ""}, {"content": "He"}, {"content": "llo"})
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created", "in_progress", "output_item.added", "content_part.added", "output_text.delta", "output_text.delta",
        "output_text.done", "content_part.done", "output_item.done", "completed",
    ]  # fmt: skip
    assert events[0]["response"]["output"] == events[2]["item"]["content"] == []
    assert events[-1]["response"]["usage"]["total_tokens"] == 12


def test_the_events_of_calls_that_come_in_pieces() -> None:
    events = streamed(
        {"tool_calls": [{"index": 0, "id": "call_1", "function": {"arguments": "{"}}]},
        {"tool_calls": [{"index": 0, "function": {"name": "f"}}]},
        {"tool_calls": [{"index": 1, "id": "call_2", "function": {"name": "g", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "}"}}, {"index": 1, "function": {"arguments": "{}"}}]},
        {"tool_calls": [{"index": [], "function": "odd"}]},
        finish_reason="tool_calls",
    )
    output = events[-1]["response"]["output"]
    assert [(item["call_id"], item["name"], item["arguments"]) for item in output] == [
        ("call_1", "f", "{}"),
        ("call_2", "g", "{}"),
    ]
    assert [event["arguments"] for event in events if event["type"].endswith("arguments.done")] == ["{}", "{}"]


def test_a_stream_that_dies_ends_in_failure_with_what_came_of_it() -> None:
    last = streamed({"content": "Hel"}, finish_reason=None, fails=True)[-1]
    assert (last["type"], last["response"]["status"]) == ("response.failed", "failed")
    (item,) = last["response"]["output"]
    assert (item["status"], item["content"][0]["text"]) == ("incomplete", "Hel")
    assert last["response"]["usage"]["output_tokens"] == 5


def test_of_several_choices_it_is_the_first() -> None:
    response = Events(CALL, "dear", repeated({}))
    assert response.feed({"choices": [{"index": 1, "delta": {"content": "x"}}, {"index": 0, "delta": None}]}) == []


WORDS = st.text(min_size=1, max_size=20)
CALLS = st.lists(st.tuples(WORDS, WORDS), max_size=3)


@given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=20), CALLS)
def test_what_was_answered_comes_back_as_it_was(thoughts: str, said: str, refused: str, calls: list[Any]) -> None:
    """There and back: only the thoughts go, as the page says."""
    tool_calls = [
        {"id": f"call_{at}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for at, (name, arguments) in enumerate(calls)
    ]
    message = {"content": said, "reasoning_content": thoughts, "refusal": refused, "tool_calls": tool_calls}
    output = answered(message)["output"]
    back = messages_of(read_input([{"role": "user", "content": "x"}, *output]))[1:]
    parts = [{"type": "text", "text": said}] * bool(said) + [{"type": "refusal", "refusal": refused}] * bool(refused)
    calls_back = {"tool_calls": tool_calls} if tool_calls else {}
    expected = [{"role": "assistant", "content": parts or None, **calls_back}] if parts or tool_calls else []
    assert back == expected


@given(st.text(max_size=20), st.lists(WORDS, max_size=4), st.lists(WORDS, max_size=2), CALLS)
def test_a_stream_ends_with_what_the_plain_answer_is(
    thoughts: str, said: list[str], refused: list[str], calls: list[Any]
) -> None:
    tool_calls = [
        {"id": f"call_{at}", "function": {"name": name, "arguments": arguments}}
        for at, (name, arguments) in enumerate(calls)
    ]
    deltas: list[Json] = [{"reasoning_content": thoughts}, *({"content": piece} for piece in said)]
    deltas += [{"refusal": piece} for piece in refused]
    deltas += [{"tool_calls": [{"index": at, **call}]} for at, call in enumerate(tool_calls)]
    whole = {"reasoning_content": thoughts, "content": "".join(said), "refusal": "".join(refused)}
    assert streamed(*deltas)[-1]["response"] == answered({**whole, "tool_calls": tool_calls})


def test_errors_and_headers_speak_of_our_fields() -> None:
    error = in_our_names(InvalidRequest("messages: no model takes pictures.", param="messages.0.content"))
    assert error.param == "input"
    assert str(in_our_names(InvalidRequest("messages: no.", param="messages"))) == "input: no."
    assert our_name("temperature") == "temperature"
    assert our_name("response_format") == "text.format"
    plain = AllModelsFailed(attempts=[])
    assert in_our_names(plain) is plain
