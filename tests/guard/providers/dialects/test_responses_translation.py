"""Chat completions as responses and back, as pure functions: beside the translation in the other direction."""

from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses.response_create_params import ResponseCreateParamsNonStreaming
from pydantic import TypeAdapter

from guard.http.sse import Event, Splitter
from guard.providers.dialects import CHAT, DIALECTS, RESPONSES, dialect_for, with_affinity
from guard.providers.dialects.responses_answer import completion_of_response
from guard.providers.dialects.responses_events import ResponseReader
from guard.providers.dialects.responses_request import can_say, chat_name, name_in, responses_request
from guard.providers.failures import Rejected
from guard.providers.stream_shapes import completion_of, events_of
from guard.responses.answer import repeated, response_of
from guard.responses.events import Events, as_bytes
from guard.responses.items import read_input
from guard.responses.request import chat_request
from spend.pricing.cost import Usage

Json = dict[str, Any]
REQUEST: TypeAdapter[Any] = TypeAdapter(ResponseCreateParamsNonStreaming)
CALL = UUID("0197d2c5-4c00-7000-8000-000000000001")
USAGE = Usage(input_tokens=7, cached_input_tokens=2, cache_write_tokens=1, output_tokens=5, reasoning_tokens=1)
HELLO: list[Json] = [{"role": "user", "content": "Hello"}]


def sent(**fields: Any) -> Json:
    """What goes out for such a payload: taken by the openai package's own type of it."""
    payload = {"model": "m", "messages": HELLO, **fields}
    assert dialect_for(payload, RESPONSES) == RESPONSES
    request = responses_request(payload)
    REQUEST.validate_python({name: value for name, value in request.items() if name != "stream"})
    assert request["store"] is False
    return request


# Requests


def test_parameters() -> None:
    request = sent(
        max_completion_tokens=50, temperature=0.5, top_p=0.9, user="u", safety_identifier="s", prompt_cache_key="k",
        parallel_tool_calls=False, reasoning_effort="low", verbosity="high", service_tier="default", n=1, seed=None,
        logprobs=False, store=False, modalities=["text"], tool_choice="required",
        response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"},
                                                                "strict": True}},
        tools=[{"type": "function", "function": {"name": "f"}},
               {"type": "function", "function": {"name": "g", "description": "d", "strict": True,
                                                 "parameters": {"type": "object"}}}],
    )  # fmt: skip
    assert request == {
        "model": "m", "input": [{"type": "message", "role": "user", "content": "Hello"}], "max_output_tokens": 50,
        "temperature": 0.5, "top_p": 0.9, "user": "u", "safety_identifier": "s", "prompt_cache_key": "k",
        "parallel_tool_calls": False, "reasoning": {"effort": "low"}, "service_tier": "default", "store": False,
        "text": {"verbosity": "high", "format": {"type": "json_schema", "name": "n", "schema": {"type": "object"},
                                                 "strict": True}},
        "tool_choice": "required",
        "tools": [{"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}},
                   "strict": False},
                  {"type": "function", "name": "g", "description": "d", "parameters": {"type": "object"},
                   "strict": True}],
    }  # fmt: skip


def test_other_formats_and_choices() -> None:
    assert "text" not in sent(response_format={"type": "text"})
    assert sent(response_format={"type": "json_object"})["text"] == {"format": {"type": "json_object"}}
    named = {"type": "function", "function": {"name": "f"}}
    tools = [named]
    assert sent(tools=tools, tool_choice=named)["tool_choice"] == {"type": "function", "name": "f"}
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [named]}}
    assert sent(tools=tools, tool_choice=allowed)["tool_choice"] == {
        "type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "f"}],
    }  # fmt: skip


def test_a_conversation_with_calls_pictures_and_refusals() -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
    image = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": [{"type": "text", "text": "See", "prompt_cache_breakpoint": {"mode": "explicit"}},
                                     image]},
        {"role": "assistant", "content": "I look.", "reasoning_content": "hm", "annotations": [],
         "tool_calls": [{"id": "c1", **call}, {"id": "c2", **call}]},
        {"role": "tool", "tool_call_id": "c1", "name": "f", "content": "one"},
        {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "t"}, {"type": "text", "text": "w"},
                                                           {"type": "text", "text": "o"}]},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c3", **call}]},
        {"role": "tool", "tool_call_id": "c3", "content": [image]},
        {"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "refusal", "refusal": "b"}]},
        {"role": "assistant", "content": "", "refusal": "No."},
        {"role": "assistant", "content": ""},
    ]  # fmt: skip
    picture = {"type": "input_image", "image_url": "https://example.com/a.png", "detail": "auto"}
    called = {"type": "function_call", "name": "f", "arguments": "{}"}
    own = {"type": "message", "role": "assistant", "status": "completed"}
    assert sent(messages=messages)["input"] == [
        {"type": "message", "role": "system", "content": "Be kind."},
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Be brief."}]},
        {"type": "message", "role": "user",
         "content": [{"type": "input_text", "text": "See", "prompt_cache_breakpoint": {"mode": "explicit"}}, picture]},
        {"type": "message", "role": "assistant", "content": "I look."},
        {**called, "call_id": "c1"},
        {**called, "call_id": "c2"},
        {"type": "function_call_output", "call_id": "c1", "output": "one"},
        {"type": "function_call_output", "call_id": "c2", "output": "two"},
        {**called, "call_id": "c3"},
        {"type": "function_call_output", "call_id": "c3", "output": [picture]},
        {**own, "id": "msg_8", "content": [{"type": "output_text", "text": "a", "annotations": []},
                                           {"type": "refusal", "refusal": "b"}]},
        {**own, "id": "msg_9", "content": [{"type": "refusal", "refusal": "No."}]},
        {"type": "message", "role": "assistant", "content": ""},
    ]  # fmt: skip


CUSTOM = {"type": "custom", "custom": {"name": "f"}}


@pytest.mark.parametrize(
    "fields",
    [
        {"stop": "x"}, {"seed": 1}, {"n": 2}, {"logprobs": True}, {"top_logprobs": 2}, {"logit_bias": {}},
        {"presence_penalty": 0}, {"frequency_penalty": 0.1}, {"functions": []}, {"function_call": "auto"},
        {"surprise": 1}, {"max_completion_tokens": 15}, {"max_tokens": 1}, {"tools": [CUSTOM]},
        {"tool_choice": CUSTOM}, {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"tools": [CUSTOM]}}},
        {"messages": [{"role": "user", "name": "ann", "content": "x"}]},
        {"messages": [{"role": "function", "name": "f", "content": "x"}]},
        {"messages": [{"role": "user", "content": [{"type": "refusal", "refusal": "x"}]}]},
        {"messages": [{"role": "assistant", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        {"messages": [{"role": "assistant", "function_call": {"name": "f", "arguments": ""}}]},
        {"messages": [{"role": "tool", "content": "a result of no call"}]},
        {"messages": [{"role": "assistant", "tool_calls": [{"type": "function",
                                                            "function": {"name": "f", "arguments": ""}}]}]},
        {"messages": [{"role": "assistant", "tool_calls": [{"id": "c", "type": "custom",
                                                            "custom": {"name": "f", "input": ""}}]}]},
    ],
)  # fmt: skip
def test_what_it_has_no_word_for_goes_by_chat_completions(fields: Json) -> None:
    payload = {"messages": HELLO, **fields}
    assert dialect_for(payload, RESPONSES) == CHAT
    assert not can_say(payload)


@pytest.mark.parametrize("options", [{}, {"include_obfuscation": False}])
def test_what_is_asked_of_a_stream(options: Json) -> None:
    payload = {"model": "m", "messages": HELLO, "stream_options": {**options, "include_usage": True}}
    request = DIALECTS[RESPONSES].request(payload, stream=True)
    assert (request["stream"], request.get("stream_options", {})) == (True, options)


def test_chat_completions_are_spoken_where_nothing_else_is_preferred() -> None:
    assert dialect_for({"messages": HELLO}, CHAT) == CHAT


def test_xais_key_of_a_conversation_is_where_each_dialect_has_it() -> None:
    headers = {"x-grok-conv-id": "k", "x-other": "o"}
    assert with_affinity(RESPONSES, {"prompt_cache_key": "callers"}, headers) == (
        {"prompt_cache_key": "k"},
        {"x-other": "o"},
    )
    assert with_affinity(CHAT, {"a": 1}, headers) == ({"a": 1}, headers)


@pytest.mark.parametrize(
    ("param", "name"),
    [
        ("reasoning.effort", "reasoning_effort"), ("text.format.schema", "response_format"), ("temperature",) * 2,
        ("text.verbosity", "verbosity"), ("max_output_tokens", "max_completion_tokens"), ("input", "messages"),
        ("input[2].call_id", "messages[2].tool_call_id"), ("tools[0].name",) * 2,
    ],
)  # fmt: skip
def test_a_refusal_names_fields_of_the_guards_own_request(param: str, name: str) -> None:
    assert chat_name(param) == name


def test_a_refusal_may_name_them_in_its_words_only() -> None:
    assert name_in("Argument not supported: reasoning.effort") == "reasoning_effort"
    assert name_in("no input at all") is None
    rejected = DIALECTS[RESPONSES].in_chat_names(Rejected("reasoning.effort is no argument"))
    assert rejected.param == "reasoning_effort"
    assert DIALECTS[CHAT].in_chat_names(rejected) is rejected


# There and back: guard.responses is the other direction

WORDS = st.sampled_from(["a", "Hello", "é\u2028\n", " ", '{"a": 1}', "\0", "data: [DONE]", "\N{PARTY POPPER}"])
NAMES = st.sampled_from(["f", "look_up", "g-2"])
IDS = st.integers(0, 99).map("call_{}".format)
TEXT_PARTS = st.lists(st.builds(lambda text: {"type": "text", "text": text}, WORDS), min_size=1, max_size=3)
IMAGES = st.builds(
    lambda detail: {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": detail}},
    st.sampled_from(["auto", "low", "high"]),
)
USERS = st.builds(
    lambda role, content: {"role": role, "content": content},
    st.sampled_from(["user", "system", "developer"]),
    WORDS | TEXT_PARTS | st.lists(IMAGES, min_size=1, max_size=2),
)


@st.composite
def assistants(draw: st.DrawFn) -> list[Json]:
    """A message of the assistant's with calls, and their results in any order."""
    calls = draw(st.lists(st.tuples(IDS, NAMES, WORDS), max_size=3, unique_by=lambda call: call[0]))
    message: Json = {"role": "assistant", "content": draw(st.none() | WORDS if calls else WORDS)}
    if draw(st.booleans()):
        message = {**message, "content": None, "refusal": draw(WORDS)}
    if calls:
        message["tool_calls"] = [
            {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
            for call_id, name, arguments in calls
        ]
    results = draw(st.permutations([{"role": "tool", "tool_call_id": call[0], "content": call[2]} for call in calls]))
    return [message, *results]


@st.composite
def conversations(draw: st.DrawFn) -> list[Json]:
    turns = draw(st.lists(st.tuples(USERS, assistants()), min_size=1, max_size=3))
    return [message for user, answered in turns for message in (user, *answered)]


PARAMETERS = st.fixed_dictionaries(
    {},
    optional={
        "max_completion_tokens": st.integers(16, 10_000),
        "temperature": st.sampled_from([0, 0.5, 1]),
        "top_p": st.sampled_from([0.5, 1]),
        "reasoning_effort": st.sampled_from(["none", "low", "high"]),
        "verbosity": st.sampled_from(["low", "high"]),
        "parallel_tool_calls": st.booleans(),
        "prompt_cache_key": NAMES,
        "safety_identifier": NAMES,
        "user": NAMES,
        "tool_choice": st.sampled_from(["auto", "none", "required"])
        | st.builds(lambda name: {"type": "function", "function": {"name": name}}, NAMES),
        "tools": st.lists(
            st.builds(
                lambda name, strict: {
                    "type": "function",
                    "function": {"name": name, "parameters": {"type": "object"}, "strict": strict},
                },
                NAMES,
                st.booleans(),
            ),
            min_size=1,
            max_size=2,
        ),
        "response_format": st.just({"type": "json_object"})
        | st.builds(
            lambda name: {"type": "json_schema", "json_schema": {"name": name, "schema": {"type": "object"}}}, NAMES
        ),
    },
)


def as_the_page_says(message: Json) -> Json:
    """A refusal beside no text is a part of the content."""
    if refusal := message.get("refusal"):
        kept = {name: value for name, value in message.items() if name != "refusal"}
        return {**kept, "content": [{"type": "refusal", "refusal": refusal}]}
    return message


@given(conversations(), PARAMETERS)
def test_a_conversation_there_and_back_loses_nothing(messages: list[Json], parameters: Json) -> None:
    request = sent(messages=messages, **parameters)
    back = chat_request(request, read_input(orjson.loads(orjson.dumps(request["input"]))))
    assert back == {"model": "m", "messages": list(map(as_the_page_says, messages)), **parameters}


CALLS = st.lists(st.tuples(IDS, NAMES, WORDS), max_size=3, unique_by=lambda call: call[0])
ENDS = st.sampled_from(["stop", "length", "content_filter"])


def message_with(thoughts: str, said: str, refused: str, calls: list[Any]) -> Json:
    tool_calls = [
        {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
        for call_id, name, arguments in calls
    ]
    message = {"role": "assistant", "content": said or None, "refusal": refused or None}
    message |= {"reasoning_content": thoughts} if thoughts else {}
    return message | ({"tool_calls": tool_calls} if tool_calls else {})


def usage() -> Json:
    return {
        "prompt_tokens": 7, "prompt_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 1},
        "completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 1}, "total_tokens": 12,
    }  # fmt: skip


@given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=20), CALLS, ENDS)
def test_an_answer_there_and_back_loses_nothing(
    thoughts: str, said: str, refused: str, calls: list[Any], ended: str
) -> None:
    message = message_with(thoughts, said, refused, calls)
    ended = "tool_calls" if calls and ended == "stop" else ended
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": ended}
    response = response_of(CALL, "m", repeated({}), {"choices": [choice]}, USAGE)
    completion = completion_of_response(response)
    assert completion["choices"] == [choice]
    assert (completion["usage"], completion["model"]) == (usage(), "m")


PIECES = st.lists(WORDS, max_size=4)


@given(PIECES, PIECES, PIECES, CALLS, ENDS)
def test_a_stream_there_and_back_loses_nothing(
    thoughts: list[str], said: list[str], refused: list[str], calls: list[Any], ended: str
) -> None:
    whole = message_with("".join(thoughts), "".join(said), "".join(refused), calls)
    ended = "tool_calls" if calls and ended == "stop" else ended
    deltas: list[Json] = [{"reasoning_content": piece} for piece in thoughts] + [{"content": piece} for piece in said]
    deltas += [{"refusal": piece} for piece in refused]
    deltas += [{"tool_calls": [{"index": at, **call}]} for at, call in enumerate(whole.get("tool_calls", ()))]
    response = Events(CALL, "m", repeated({}))
    events = response.begin()
    for delta in deltas:
        events += response.feed({"choices": [{"index": 0, "delta": delta}]})
    events += response.feed({"choices": [{"index": 0, "delta": {}, "finish_reason": ended}]})
    splitter = Splitter()
    back = completion_of(ResponseReader().read(splitter.feed(as_bytes([*events, *response.complete(USAGE)]))))
    assert back
    (choice,) = back["choices"]
    assert {"content": None, "refusal": None, **choice["message"], "role": "assistant"} == whole
    assert (choice["finish_reason"], back["usage"], back["model"]) == (ended, usage(), "m")


# Events as providers send them


def told(*chunks: Json) -> list[Event]:
    return ResponseReader().read([Event(b"", chunk) for chunk in chunks])


def completed(*output: Any, **fields: Any) -> Json:
    return {"type": "response.completed", "response": {"id": "r", "status": "completed", "output": [*output], **fields}}


CALLED = {"type": "function_call", "id": "fc", "call_id": "c", "name": "f", "arguments": "{}"}
SPOKEN = {"type": "message", "content": [{"type": "output_text", "text": "Hi"}, {"type": "output_text", "text": "!"}]}


def test_what_only_says_that_somebody_is_there_is_nothing() -> None:
    comment = Event(b": still here")
    opened = {"type": "response.output_item.added", "item": {"type": "reasoning"}}
    created = {"type": "response.created", "response": {"id": "r", "created_at": 1.0}}
    assert ResponseReader().read([comment, *(Event(b"", c) for c in (created, opened, {"type": "x"}))]) == [comment]


def test_arguments_that_come_only_as_their_item_closes() -> None:
    added, done = ({"type": f"response.output_item.{what}", "output_index": 0, "item": CALLED}
                   for what in ("added", "done"))  # fmt: skip
    completion = completion_of(told(added, done, completed(CALLED)))
    assert completion
    called = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    assert completion["choices"][0]["message"]["tool_calls"] == [called]
    assert completion == completion_of(told(done, done, completed(CALLED)))


def test_an_answer_whose_end_alone_is_told() -> None:
    output = [{"type": "reasoning", "summary": [{"text": "a"}, {"text": "b"}]}, SPOKEN, CALLED, "odd"]
    ended = completed(*output, usage={"input_tokens": 1, "output_tokens": 2, "cost_in_usd_ticks": 3})
    completion = completion_of(told(ended))
    assert completion
    message = completion["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("Hi!", "a\n\nb")
    assert message["tool_calls"][0]["id"] == "c"
    assert completion["usage"] == {
        "prompt_tokens": 1, "completion_tokens": 2, "cost_in_usd_ticks": 3, "total_tokens": 3,
    }  # fmt: skip


def test_two_messages_of_an_answer_have_a_line_between_them() -> None:
    deltas = [{"type": "response.output_text.delta", "output_index": at, "delta": "Hi!"} for at in (0, 2, 2)]
    completion = completion_of(told(*deltas, completed()))
    assert completion
    assert completion["choices"][0]["message"]["content"] == "Hi!\n\nHi!Hi!"
    plain = completion_of_response({"output": [SPOKEN, SPOKEN]})
    assert plain["choices"][0]["message"]["content"] == "Hi!\n\nHi!"


@pytest.mark.parametrize(
    "event",
    [
        {"type": "error", "code": "server_error", "message": "no", "param": None},
        {"type": "error", "error": {"code": "server_error", "message": "no"}},
        {"type": "response.failed", "response": {"error": {"code": "server_error", "message": "no"}}},
    ],
)
def test_errors(event: Json) -> None:
    (told_of,) = told(event)
    assert told_of.chunk
    error = told_of.chunk["error"]
    assert (error["code"], error["message"]) == ("server_error", "no")


def test_a_failure_tells_what_was_billed_where_something_was_said() -> None:
    failed = {"type": "response.failed", "response": {"error": None, "usage": {"input_tokens": 1}}}
    assert [list(event.chunk or {}) for event in told(failed)] == [["error", "usage"]]
    said = {"type": "response.output_text.delta", "delta": "Hi"}
    _, billed, error = told(said, failed)
    assert billed.chunk
    assert billed.chunk["usage"] == {"prompt_tokens": 1}
    assert error.chunk
    assert error.chunk["error"]


@pytest.mark.parametrize("odd", [None, [], {}, {"output": None}, {"output": [], "status": "failed"}, {"choices": []}])
def test_what_is_no_answered_response_is_none(odd: Any) -> None:
    assert completion_of_response(odd) is odd
    (error, _) = told({"type": "response.completed", "response": odd})
    assert error.chunk
    assert error.chunk["error"]


def test_odd_items_are_passed_over() -> None:
    output = [1, {}, {"type": "message", "content": "x"}, {"type": "web_search_call"}, {"type": "reasoning"}]
    completion = completion_of_response({"output": output, "usage": [], "service_tier": "default"})
    assert completion["choices"][0]["message"] == {"role": "assistant", "content": None, "refusal": None}
    assert (completion["service_tier"], completion["choices"][0]["finish_reason"]) == ("default", "stop")


@pytest.mark.parametrize(
    ("details", "reason"), [({"reason": "max_output_tokens"}, "length"), (None, "length"), ({"reason": "x"}, "length")]
)
def test_an_incomplete_answer(details: Any, reason: str) -> None:
    response = {"status": "incomplete", "incomplete_details": details, "output": [SPOKEN]}
    assert completion_of_response(response)["choices"][0]["finish_reason"] == reason


def test_a_document_is_chunks_too() -> None:
    assert completion_of(events_of(completion_of_response(completed(SPOKEN)["response"])))
