"""What the chat endpoints take, and that the table for people says the same as the code."""

import re
import typing
from typing import Any, get_args

import orjson
import pytest
from openai.types.chat import ChatCompletionContentPartParam, ChatCompletionMessage, ChatCompletionMessageParam
from openai.types.chat.chat_completion_assistant_message_param import ContentArrayOfContentPart
from openai.types.chat.chat_completion_content_part_image_param import ImageURL
from openai.types.chat.completion_create_params import (
    CompletionCreateParamsNonStreaming,
    CompletionCreateParamsStreaming,
    PromptCacheOptions,
)

from guard.api.chat_schema import COMPLETION_REQUEST
from guard.chat.request import parameters
from guard.chat.request.field_checks import CONTROL_CHARACTER, MOST_CHARACTERS, anything
from guard.chat.request.messages import MESSAGE_FIELDS, MOST_MESSAGES, PARTS
from guard.chat.request.reader import CallRequest, read_chat, read_completion
from guard.chat.request.schemas import schema_of
from guard.http.errors import InvalidRequest
from guard.http.strict_json import MOST_DEPTH, parse_json
from spend.names import tidy
from tests.support.environment import ROOT

PAGE = (ROOT / "docs" / "parameters.md").read_text()
ROW = re.compile(r"^\| (.+?) \| (.+?) \| (.+?) \|$", re.MULTILINE)
VERBS = {
    "passes it on": parameters.PASSED,
    "prices it": parameters.PRICED,
    "bounds it": parameters.BOUNDED,
    "drops it": parameters.DROPPED,
    "reads it": parameters.OURS,
    "sets its own": parameters.OURS,
    "refuses": parameters.REFUSED,
}
HELLO = [{"role": "user", "content": "Hello"}]
TOO_MANY = HELLO * (MOST_MESSAGES + 1)


def rows_of(section: str) -> dict[str, str]:
    """From each name in the section's table to what the guard does with it."""
    table = PAGE.split(f"# {section}")[1].split("\n#")[0]
    rows = [match.groups() for match in ROW.finditer(table) if match[2] in VERBS]
    return {name: verb for names, verb, _ in rows for name in re.findall(r"`([a-z_]+)`", names)}


def known_to_the_package(*kinds: Any) -> set[str]:
    return {field for kind in kinds for field in typing.get_type_hints(kind)}


def test_every_parameter_that_the_openai_package_knows_is_decided() -> None:
    known = known_to_the_package(CompletionCreateParamsNonStreaming, CompletionCreateParamsStreaming)
    assert "messages" in known
    assert known - parameters.TABLE.keys() == set()


def test_every_field_of_a_message_that_the_openai_package_knows_is_decided() -> None:
    known = known_to_the_package(*get_args(ChatCompletionMessageParam)) | ChatCompletionMessage.model_fields.keys()
    assert known - MESSAGE_FIELDS.keys() == set()


def test_every_content_part_that_the_openai_package_knows_is_decided() -> None:
    for part in {*get_args(ChatCompletionContentPartParam), *get_args(ContentArrayOfContentPart)}:
        (kind,) = get_args(get_args(typing.get_type_hints(part, include_extras=True)["type"])[0])
        if kind in ("input_audio", "file"):
            assert kind not in PARTS
        else:
            assert known_to_the_package(part) == PARTS[kind].keys() - {"cache_control"}
    assert known_to_the_package(ImageURL) == {"url", "detail"}
    assert known_to_the_package(PromptCacheOptions) == {"mode", "ttl"}


def test_the_page_has_every_parameter_and_says_what_the_code_does() -> None:
    rows = rows_of("Parameters")
    assert rows.keys() == parameters.TABLE.keys()
    for name, verb in rows.items():
        assert name in VERBS[verb], f"the page says that the guard {verb}: {name}"


def test_the_page_names_the_values_that_are_allowed() -> None:
    bounded = {**parameters.BOUNDED, **parameters.DROPPED, **parameters.PRICED}
    schemas = {name: schema_of(check) for name, check in bounded.items()}
    for names, _, why in ROW.findall(PAGE):
        schema = schemas.get(names.strip("`"), {})
        for value in schema.get("enum", []):
            assert f"`{value if isinstance(value, str) else orjson.dumps(value).decode()}`" in why, names
        assert f"{schema.get('maximum', '')}" in why, names


def test_every_check_says_what_it_lets_pass() -> None:
    """The OpenAPI document is made of it."""
    mute = {name for name, check in {**parameters.TABLE, **MESSAGE_FIELDS}.items() if not schema_of(check)}
    assert mute == {*parameters.REFUSED, "messages", "role", "content", "parsed", "provider_specific_fields"}
    assert COMPLETION_REQUEST["properties"].keys() == parameters.TABLE.keys() - parameters.REFUSED.keys()


def test_the_document_allows_around_a_customers_name_what_is_taken_off() -> None:
    pattern = schema_of(parameters.TABLE["user"])["pattern"]
    for number in range(0x3100):
        for text in (chr(number), f"a{chr(number)}", f"a{chr(number)}b"):
            assert bool(re.search(pattern, text)) == (not CONTROL_CHARACTER.search(tidy(text))), text.encode()


def test_the_page_has_every_field_and_part_of_a_message() -> None:
    rows = rows_of("Messages")
    assert rows.keys() == {*MESSAGE_FIELDS, *PARTS, "input_audio", "file", "prompt_cache_breakpoint"}
    assert rows["audio"] == rows["file"] == rows["input_audio"] == "refuses"


def test_the_page_has_the_limits_of_the_code() -> None:
    limits = PAGE.split("# Limits")[1]
    for limit in (f"{MOST_MESSAGES:,}", f"{MOST_DEPTH} levels", f"{MOST_CHARACTERS} characters", "(4 MiB)"):
        assert limit in limits


def test_a_parameter_stands_in_one_group_only() -> None:
    groups = [*VERBS.values(), parameters.REFUSED]
    groups = [group for at, group in enumerate(groups) if group not in groups[:at]]
    assert sum(map(len, groups)) == len(parameters.TABLE)


# A value of each parameter that is passed on, as a client sends it.
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "look_up", "parameters": {"type": "object"}, "strict": True},
}
GOOD: dict[str, Any] = {
    "frequency_penalty": -0.5,
    "function_call": {"name": "look_up"},
    "functions": [{"name": "look_up", "parameters": {}}],
    "logit_bias": {"50256": -100},
    "logprobs": True,
    "modalities": ["text"],
    "n": 2,
    "parallel_tool_calls": False,
    "presence_penalty": 1,
    "prompt_cache_key": "shop",
    "prompt_cache_options": {"mode": "explicit", "ttl": "30m"},
    "prompt_cache_retention": "24h",
    "reasoning_effort": "low",
    "response_format": {"type": "json_schema", "json_schema": {"name": "order", "schema": {"type": "object"}}},
    "safety_identifier": "abc",
    "seed": -7,
    "service_tier": "default",
    "stop": ["\n", "END"],
    "store": False,
    "temperature": 0,
    "tool_choice": {"type": "function", "function": {"name": "look_up"}},
    "tools": [TOOL, {"type": "custom", "custom": {"name": "shell", "format": {"type": "text"}}}],
    "top_logprobs": 3,
    "top_p": 0.1,
    "user": "customer-7",
    "verbosity": "low",
}


def asked(**fields: Any) -> CallRequest:
    return read_completion({"model": "auto", "messages": HELLO, **fields})


def refused(**fields: Any) -> str | None:
    with pytest.raises(InvalidRequest) as error:
        asked(**fields)
    assert str(error.value).startswith(f"{error.value.param}: ")
    return error.value.param


def test_what_passes_passes_unchanged() -> None:
    assert GOOD.keys() == set(parameters.SENT)
    assert asked(**GOOD).body == {"messages": HELLO, **GOOD}


@pytest.mark.parametrize("asked_for", [True, False])
def test_obfuscation_is_asked_of_the_provider_as_the_caller_asked_for_it(asked_for: bool) -> None:
    options = {"include_obfuscation": asked_for, "include_usage": True}
    streamed = asked(stream=True, stream_options=options)
    assert streamed.body["stream_options"] == {"include_obfuscation": asked_for}
    assert "stream_options" not in asked(stream_options=options).body
    assert "stream_options" not in asked(stream=True, stream_options={"include_obfuscation": None}).body


@pytest.mark.parametrize("name", sorted(parameters.TABLE.keys() - {"messages", "model"}))
def test_null_is_as_good_as_absent(name: str) -> None:
    assert asked(**{name: None}) == asked()


@pytest.mark.parametrize("name", sorted(parameters.TABLE))
@pytest.mark.parametrize("value", [True, 1.5, "\0", [None], {"a": [1]}, [], 10**18], ids=str)
def test_a_bad_value_is_refused_by_name_and_never_a_defect(name: str, value: Any) -> None:
    try:
        taken = asked(**{name: value})
    except InvalidRequest as error:
        param = error.param or ""
    else:
        assert orjson.dumps(taken.body)
        return
    assert param.split(".")[0] == name


@pytest.mark.parametrize("name", sorted(parameters.REFUSED))
def test_what_has_no_bound_is_refused(name: str) -> None:
    assert refused(**{name: {"mode": "on"}}) == name


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"turbo": True}, "turbo"),
        ({"deferred": True}, "deferred"),
        ({"search_parameters": {"mode": "auto"}}, "search_parameters"),
        ({"search_parameters": {}}, "search_parameters"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"cache_control": {"type": "ephemeral", "ttl": "1h"}}, "cache_control.ttl"),
        ({"tools": [{**TOOL, "cache_control": {"type": "ephemeral", "ttl": "1h"}}]}, "tools.0.cache_control.ttl"),
        ({"service_tier": "priority"}, "service_tier"),
        ({"service_tier": "auto"}, "service_tier"),
        ({"store": True}, "store"),
        ({"store": 0}, "store"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"n": True}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": 10.0}, "max_completion_tokens"),
        ({"max_completion_tokens": 2**31}, "max_completion_tokens"),
        ({"prompt_cache_options": {"ttl": "12h"}}, "prompt_cache_options.ttl"),
        ({"prompt_cache_options": {"size": 1}}, "prompt_cache_options.size"),
        ({"prompt_cache_retention": "7d"}, "prompt_cache_retention"),
        ({"tools": [TOOL, {"type": "web_search"}]}, "tools.1.type"),
        ({"tools": [{"type": "live_search"}]}, "tools.0.type"),
        ({"tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]}, "tools.0.type"),
        ({"tools": [{"type": ["function"]}]}, "tools.0.type"),
        ({"tools": [{"type": "function"}]}, "tools.0.function"),
        ({"tools": {}}, "tools"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice.type"),
        (
            {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"tools": [{"type": "mcp"}]}}},
            "tool_choice.allowed_tools.tools.0.type",
        ),
        ({"stream_options": {"include_cost": True}}, "stream_options.include_cost"),
        ({"metadata": {"conversation_id": 5}}, "metadata.conversation_id"),
        ({"metadata": {"conversation_id": "a\0b"}}, "metadata.conversation_id"),
        ({"metadata": {"conversation_id": "c" * 256}}, "metadata.conversation_id"),
        ({"user": "a\nb"}, "user"),
        ({"user": "u" * 256}, "user"),
        ({"user": "a\x85b"}, "user"),
        ({"user": "a\u2028b"}, "user"),
        ({"user": "\u202eevil"}, "user"),
        ({"metadata": {"conversation_id": "a\u2066b"}}, "metadata.conversation_id"),
        ({"logit_bias": {"7": "much"}}, "logit_bias.7"),
        ({"response_format": {"type": "grammar"}}, "response_format.type"),
        ({"model": None}, "model"),
        ({"x" * 4000: 1}, "x" * 128 + "…"),
    ],
)
def test_what_could_change_the_price_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    assert refused(**fields) == param


PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "high"}}
CALLED = {"id": "call_1", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}


@pytest.mark.parametrize(
    "message",
    [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "See"}, PICTURE], "name": "Ann"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [CALLED],
            "refusal": None,
            "annotations": [],
            "audio": None,
        },
        {"role": "assistant", "tool_calls": [{"id": "1", "type": "custom", "custom": {"name": "sh", "input": "ls"}}]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}], "reasoning_content": "Hm"},
        {"role": "tool", "content": "sunny", "tool_call_id": "call_1"},
        {"role": "function", "content": "sunny", "name": "look_up"},
    ],
)
def test_a_message_of_text_and_pictures_passes_unchanged(message: dict[str, Any]) -> None:
    assert asked(messages=[message]).body == {"messages": [message]}


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ("Hello", ""),
        ({"content": "Hello"}, ".role"),
        ({"role": ["user"], "content": "Hello"}, ".role"),
        ({"role": "customer", "content": "Hello"}, ".role"),
        ({"role": "user"}, ".content"),
        ({"role": "user", "content": 7}, ".content"),
        (
            {"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {"ttl": "1h"}}]},
            ".content.0.cache_control.ttl",
        ),
        ({"role": "user", "content": [{"type": "thinking", "thinking": "Hm"}]}, ".content.0.type"),
        ({"role": "assistant", "content": [{"type": "input_audio", "input_audio": {}}]}, ".content.0.type"),
        ({"role": "user", "content": "Hello", "attachments": []}, ".attachments"),
        ({"role": "assistant", "audio": {"id": "a"}, "content": "Hello"}, ".audio"),
        ({"role": "user", "content": ["Hello"]}, ".content.0.type"),
        ({"role": "user", "content": [{"type": ["text"], "text": "Hello"}]}, ".content.0.type"),
        ({"role": "user", "content": [{"type": "text"}]}, ".content.0.text"),
        ({"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}, ".content.0.type"),
        ({"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}, ".content.0.type"),
        ({"role": "user", "content": [{"type": "text", "text": "a", "video": "b"}]}, ".content.0.video"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": "http://a"}]}, ".content.0.image_url"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, ".content.0.image_url.url"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a", "detail": "original"}}]},
            ".content.0.image_url.detail",
        ),
        (
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "a", "prompt_cache_breakpoint": {"mode": "explicit", "ttl": "12h"}}
                ],
            },
            ".content.0.prompt_cache_breakpoint.ttl",
        ),
        ({"role": "assistant", "tool_calls": [{"type": "function"}]}, ".tool_calls.0.function"),
        (
            {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "a", "arguments": 7}}]},
            ".tool_calls.0.function.arguments",
        ),
    ],
)
def test_a_message_that_cannot_be_priced_is_refused_by_name(message: Any, param: str) -> None:
    assert refused(messages=[*HELLO, message]) == f"messages.1{param}"


@pytest.mark.parametrize(
    "value", [None, [], {}, "Hello", HELLO * (MOST_MESSAGES + 1)], ids=lambda value: str(value)[:9]
)
def test_messages_are_a_list_of_some_but_not_too_many(value: Any) -> None:
    assert refused(messages=value) == "messages"
    assert asked(messages=HELLO * MOST_MESSAGES)


def test_a_picture_is_counted_and_not_its_address() -> None:
    plain = asked(messages=[{"role": "user", "content": [{"type": "text", "text": "See"}]}])
    pictured = asked(messages=[{"role": "user", "content": [PICTURE, {"type": "text", "text": "See"}, PICTURE]}])
    assert pictured.ask.images == 2
    assert pictured.ask.input_tokens == plain.ask.input_tokens


@pytest.mark.parametrize("name", parameters.IN_THE_PROMPT)
def test_what_joins_the_prompt_is_in_the_bound(name: str) -> None:
    added = asked(**{name: GOOD[name]}).ask.input_tokens - asked().ask.input_tokens
    assert added == len(orjson.dumps(GOOD[name]))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tenantId", None), ("tenantId", ""), ("tenantId", 7), ("maxTokens", 0), ("maxTokens", "5"), ("model", []),
        ("customerId", "a\0"), ("conversationId", "c" * 256), ("stream", 1), ("temperature", 1), ("messages", None),
    ],
)  # fmt: skip
def test_the_guards_own_shape_is_checked_by_name(field: str, value: Any) -> None:
    with pytest.raises(InvalidRequest) as error:
        read_chat({"tenantId": "acme", "messages": HELLO, field: value})
    assert error.value.param == field


@pytest.mark.parametrize("body", [None, [], "x", 1])
@pytest.mark.parametrize("read", [read_chat, read_completion])
def test_a_body_is_an_object(read: Any, body: Any) -> None:
    with pytest.raises(InvalidRequest, match="must be a JSON object"):
        read(body)


@pytest.mark.parametrize("digits", ["9223372036854775808", "-9223372036854775809", "9" * 400])
@pytest.mark.parametrize("where", ['{"seed": %s}', '{"tools": [{"a": [%s]}]}'])
def test_an_integer_that_cannot_be_sent_on_is_refused(digits: str, where: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_json((where % digits).encode(), exact=False)
    assert parse_json(b'{"seed": -9223372036854775808, "top_p": 0.5}', exact=False) == {"seed": -(2**63), "top_p": 0.5}


def test_only_what_is_read_elsewhere_goes_unchecked() -> None:
    unchecked = {name for name, check in {**parameters.TABLE, **MESSAGE_FIELDS}.items() if check is anything}
    assert unchecked == {"messages", "role", "content", "parsed", "provider_specific_fields"}


# Hints, and what comes back


EPHEMERAL = {"type": "ephemeral"}


@pytest.mark.parametrize(
    "fields",
    [
        {"turbo": None},
        {"deferred": False},
        {"search_parameters": {"mode": "off", "return_citations": True}},
        {"web_search_options": None},
        {"cache_control": EPHEMERAL},
        {"messages": [{**HELLO[0], "cache_control": EPHEMERAL}]},
        {"messages": [{**HELLO[0], "turbo": None}]},
    ],
)
def test_hints_that_cost_nothing_are_dropped(fields: dict[str, Any]) -> None:
    assert asked(**fields).body == {"messages": HELLO}


@pytest.mark.parametrize("hint", [EPHEMERAL, {"type": "ephemeral", "ttl": "5m"}, {}, None])
def test_hints_for_the_cache_are_dropped_wherever_they_stand(hint: Any) -> None:
    part, picture = {"type": "text", "text": "See"}, dict(PICTURE)
    messages = [{"role": "user", "content": [{**part, "cache_control": hint}, {**picture, "cache_control": hint}]}]
    tools = [
        {**TOOL, "cache_control": hint},
        {**TOOL, "function": {**TOOL["function"], "cache_control": hint}},
    ]
    body = asked(messages=messages, tools=tools).body
    assert body == {"messages": [{"role": "user", "content": [part, picture]}], "tools": [TOOL, TOOL]}


@pytest.mark.parametrize(
    ("delivered", "sent"),
    [
        ({"content": None}, {"content": ""}),
        ({}, {"content": ""}),
        ({"content": None, "tool_calls": []}, {"content": ""}),
        ({"content": "Hi", "tool_calls": []}, {"content": "Hi"}),
        (
            {"content": None, "reasoning_content": "Hm", "tool_calls": None},
            {"content": "", "reasoning_content": "Hm", "tool_calls": None},
        ),
        ({"content": None, "tool_calls": [CALLED]}, {"content": None, "tool_calls": [CALLED]}),
        ({"content": None, "refusal": "No."}, {"content": None, "refusal": "No."}),
        ({"content": "Hi", "thinking_blocks": [{"type": "thinking"}], "index": 7}, {"content": "Hi"}),
        (
            {"content": [{"type": "thinking", "thinking": "Hm"}, {"type": "text", "text": "Hi"}]},
            {"content": [{"type": "text", "text": "Hi"}]},
        ),
        ({"content": [{"type": "thinking", "thinking": "Hm"}]}, {"content": ""}),
        (
            {"content": "Hi", "tool_calls": [{"id": "s", "type": "web_search", "query": "q"}, CALLED]},
            {"content": "Hi", "tool_calls": [CALLED]},
        ),
        ({"content": None, "tool_calls": [{"id": "s", "type": "web_search"}]}, {"content": ""}),
        (
            {"content": None, "tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "f", "input": None}}]},
            {"content": None, "tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "f", "input": ""}}]},
        ),
        (
            {"content": None, "function_call": {"name": "f", "arguments": None}},
            {"content": None, "function_call": {"name": "f", "arguments": "{}"}},
        ),
    ],
)
def test_what_was_delivered_is_taken_back(delivered: dict[str, Any], sent: dict[str, Any]) -> None:
    history = [*HELLO, {"role": "assistant", **delivered}, *HELLO]
    assert asked(messages=history).body["messages"] == [*HELLO, {"role": "assistant", **sent}, *HELLO]


def called_with(arguments: Any) -> dict[str, Any]:
    return {"function": {"name": "f", "arguments": arguments}}


@pytest.mark.parametrize(
    ("delivered", "sent"),
    [
        (called_with(None), called_with("{}")),
        ({"function": {"name": "f"}}, called_with("{}")),
        (called_with({"a": 1}), called_with('{"a":1}')),
        (called_with(""), called_with("")),
        ({"type": None}, {"type": "function"}),
        ({"type": ""}, {"type": "function"}),
        ({"type": "tool_use"}, {"type": "function"}),
        ({"type": ["function"]}, {"type": "function"}),
    ],
)
def test_a_call_of_a_function_is_taken_back_as_such(delivered: dict[str, Any], sent: dict[str, Any]) -> None:
    message = {"role": "assistant", "content": None}
    history = [*HELLO, {**message, "tool_calls": [{**CALLED, **delivered}]}]
    assert asked(messages=history).body["messages"][-1] == {**message, "tool_calls": [{**CALLED, **sent}]}
