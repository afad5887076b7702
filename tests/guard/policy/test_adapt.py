"""Requests made fit for the model that serves: what goes, what is mapped, and what may never change."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.policy.adapt import FLAVOUR, MEANINGS, adapt, disproved, lessons_of, needs_of, unfit
from spend.capabilities import EFFORTS, UNKNOWN, Capabilities, Lesson, LessonKind, of_family, with_lessons

HELLO = [{"role": "user", "content": "Hello."}]
TOOLS = [{"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}]
SCHEMA = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}}}
LONG_ID = "call_" + "x" * 60
LUNA, ASTRA, GROK = of_family("gpt-6-luna"), of_family("gpt-6-astra"), of_family("grok-4.3")


def fitted(known: Capabilities, messages: Any = HELLO, *, chosen: bool = True, **parameters: Any) -> tuple[Any, ...]:
    """The parameters as they are sent, and what was adapted."""
    body = {"messages": messages, **parameters}
    adapted = adapt(body, needs_of(parameters, 0), known, chosen=chosen)
    sent = {name: value for name, value in adapted.body.items() if name != "messages"}
    return sent, adapted.names


@pytest.mark.parametrize(
    ("known", "given_parameters", "sent", "names"),
    [
        (LUNA, {"temperature": 0.2, "top_p": 0.9, "seed": 1}, {"seed": 1}, ("temperature", "top_p")),
        (LUNA, {"stop": ["x"], "presence_penalty": 0}, {}, ("stop", "presence_penalty")),
        (LUNA, {"temperature": 0.2, "reasoning_effort": "none"}, {"temperature": 0.2, "reasoning_effort": "none"}, ()),
        # Without reasoning, which its tools need, it takes a temperature.
        (
            LUNA,
            {"tools": TOOLS, "temperature": 0.2},
            {"tools": TOOLS, "temperature": 0.2, "reasoning_effort": "none"},
            ("reasoning_effort",),
        ),
        (
            LUNA,
            {"tools": TOOLS, "reasoning_effort": "high"},
            {"tools": TOOLS, "reasoning_effort": "none"},
            ("reasoning_effort",),
        ),
        (ASTRA, {"reasoning_effort": "none"}, {"reasoning_effort": "low"}, ("reasoning_effort",)),
        (ASTRA, {"reasoning_effort": "max"}, {"reasoning_effort": "xhigh"}, ("reasoning_effort",)),
        (ASTRA, {"reasoning_effort": "minimal"}, {"reasoning_effort": "low"}, ("reasoning_effort",)),
        (of_family("gpt-5-mini"), {"reasoning_effort": "none"}, {"reasoning_effort": "minimal"}, ("reasoning_effort",)),
        (GROK, {"stop": "x", "frequency_penalty": 0, "seed": 1}, {"seed": 1}, ("stop", "frequency_penalty")),
        (of_family("grok-4-0709"), {"reasoning_effort": "low"}, {}, ("reasoning_effort",)),
        (LUNA, {"logprobs": True, "top_logprobs": 3}, {}, ("logprobs", "top_logprobs")),
        (UNKNOWN, {"temperature": 0.2, "stop": "x"}, {"temperature": 0.2, "stop": "x"}, ()),
    ],
)  # fmt: skip
def test_what_a_model_refuses_is_left_out_or_mapped(
    known: Capabilities, given_parameters: dict[str, Any], sent: dict[str, Any], names: tuple[str, ...]
) -> None:
    assert fitted(known, **given_parameters) == (sent, names)


def test_a_model_that_the_caller_named_gets_the_parameters_as_they_are() -> None:
    assert fitted(LUNA, chosen=False, temperature=0.2, tools=TOOLS) == ({"temperature": 0.2, "tools": TOOLS}, ())


@pytest.mark.parametrize("chosen", [True, False])
def test_what_another_model_left_in_the_conversation_is_made_fit_whoever_chose(chosen: bool) -> None:
    call = {"id": LONG_ID, "type": "function", "function": {"name": "find", "arguments": "{}"}}
    messages: list[dict[str, Any]] = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "Hm.", "annotations": []},
        {"role": "tool", "tool_call_id": LONG_ID, "content": "here"},
    ]
    body: dict[str, Any] = {"messages": messages, "prompt_cache_key": "k" * 65, "user": "u" * 64}
    adapted = adapt(body, frozenset(), LUNA, chosen=chosen)
    _, asked, result = adapted.body["messages"]
    assert asked.keys() == {"role", "content", "tool_calls"}
    (call_sent,) = asked["tool_calls"]
    assert call_sent["id"] == result["tool_call_id"] != LONG_ID
    assert (len(call_sent["id"]), call_sent["function"]) == (40, call["function"])
    assert len(adapted.body["prompt_cache_key"]) == 64
    assert adapted.body["user"] == "u" * 64
    assert set(adapted.names) == {
        "prompt_cache_key", "messages.reasoning_content", "messages.annotations", "tool_call_id",
    }  # fmt: skip
    assert adapt(body, frozenset(), GROK, chosen=chosen).names == ("messages.annotations",)
    assert adapt(body, frozenset(), UNKNOWN, chosen=chosen).body is body
    assert messages[1]["tool_calls"] == [call], "the caller's own is as it was"


@pytest.mark.parametrize(
    ("known", "parameters", "images", "why"),
    [
        (LUNA, {"tools": TOOLS}, 0, None),
        (with_lessons(ASTRA, [Lesson(LessonKind.WHILE_REASONING, "tools")]), {"tools": TOOLS}, 0, "no_tools"),
        (Capabilities(refused=frozenset({"json_schema"})), {"response_format": SCHEMA}, 0, "no_json_schema"),
        (Capabilities(refused=frozenset({"json_schema"})), {"response_format": {"type": "json_object"}}, 0, None),
        (Capabilities(refused=frozenset({"images"})), {}, 2, "no_images"),
        (Capabilities(refused=frozenset({"n"})), {"n": 2}, 0, "no_choices"),
        (Capabilities(refused=frozenset({"n"})), {"n": 1}, 0, None),
        (Capabilities(refused=frozenset({"tool_choice"})), {"tools": TOOLS, "tool_choice": "auto"}, 0, None),
        (Capabilities(refused=frozenset({"tool_choice"})), {"tools": TOOLS, "tool_choice": "required"}, 0, "no_tools"),
        (LUNA, {"logprobs": True}, 0, "no_logprobs"),
        (LUNA, {"logprobs": True, "reasoning_effort": "none"}, 0, None),
        (UNKNOWN, {"tools": TOOLS, "response_format": SCHEMA, "n": 3}, 5, None),
    ],
)
def test_a_model_that_refuses_what_a_request_means_is_unfit(
    known: Capabilities, parameters: dict[str, Any], images: int, why: str | None
) -> None:
    assert unfit(needs_of(parameters, images), parameters.get("reasoning_effort", ""), known) == why


PARAMETERS = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.floats(0, 2),
        "top_p": st.floats(0, 1),
        "stop": st.text(max_size=3),
        "presence_penalty": st.integers(-2, 2),
        "seed": st.integers(),
        "n": st.integers(1, 3),
        "logprobs": st.booleans(),
        "tools": st.just(TOOLS),
        "tool_choice": st.sampled_from(["auto", "required", "none"]),
        "parallel_tool_calls": st.booleans(),
        "response_format": st.sampled_from([SCHEMA, {"type": "json_object"}, {"type": "text"}]),
        "reasoning_effort": st.sampled_from(EFFORTS),
        "user": st.text(max_size=90),
    },
)
NAMES = st.frozensets(st.sampled_from([*FLAVOUR, *MEANINGS]))
KNOWN = st.builds(
    Capabilities,
    refused=NAMES,
    refused_while_reasoning=NAMES,
    efforts=st.lists(st.sampled_from(EFFORTS), unique=True).map(tuple),
    default_effort=st.sampled_from(["", *EFFORTS]),
    message_fields=st.none() | st.frozensets(st.sampled_from(["reasoning_content", "annotations"])),
    id_characters=st.sampled_from([(), (("tool_call_id", 40), ("user", 64))]),
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "tool"]), "content": st.text(max_size=5)},
        optional={
            "tool_call_id": st.sampled_from(["a", LONG_ID]),
            "tool_calls": st.just([{"id": LONG_ID, "type": "function", "function": {"name": "f", "arguments": "{}"}}]),
            "reasoning_content": st.text(max_size=3),
        },
    ),
    min_size=1,
    max_size=4,
)


@given(parameters=PARAMETERS, messages=MESSAGES, known=KNOWN, chosen=st.booleans())
def test_adapting_never_changes_what_a_request_means(
    parameters: dict[str, Any], messages: list[dict[str, Any]], known: Capabilities, chosen: bool
) -> None:
    body, needs = {"messages": messages, **parameters}, needs_of(parameters, 0)
    sent = adapt(body, needs, known, chosen=chosen).body
    for name in parameters.keys() & (MEANINGS.keys() - FLAVOUR):
        if name in needs:
            assert sent[name] == parameters[name]
    assert sent.keys() <= {*body, "reasoning_effort"}
    changed = {name for name in parameters if sent.get(name) != parameters[name]} | (sent.keys() - body.keys())
    assert changed <= FLAVOUR | MEANINGS.keys()
    assert chosen or changed <= {"user"}
    for said, told in zip(messages, sent["messages"], strict=True):
        assert [told.get(field) for field in ("role", "content")] == [said["role"], said["content"]]
        assert [call["function"] for call in told.get("tool_calls", ())] == [
            call["function"] for call in said.get("tool_calls", ())
        ]


@given(parameters=PARAMETERS, messages=MESSAGES, known=KNOWN)
def test_what_is_fit_holds_nothing_that_the_model_refuses_and_stays_as_it_is(
    parameters: dict[str, Any], messages: list[dict[str, Any]], known: Capabilities
) -> None:
    needs = needs_of(parameters, 0)
    if unfit(needs - {"logprobs", "top_logprobs"}, parameters.get("reasoning_effort", ""), known):
        return
    adapted = adapt({"messages": messages, **parameters}, needs, known, chosen=True)
    effort = adapted.body.get("reasoning_effort", "")
    assert not [name for name in adapted.body.keys() & FLAVOUR if known.refuses(name, effort)]
    assert adapt(adapted.body, needs, known, chosen=True).body == adapted.body
    sent_names = {name.partition(".")[0] for name in adapted.names}
    assert sent_names <= {*parameters, "reasoning_effort", "messages", "tool_call_id"}


# What refusals teach

PARAMETER = LessonKind.PARAMETER


@pytest.mark.parametrize(
    ("parameters", "param", "code", "words", "lessons"),
    [
        (
            {"temperature": 0},
            "temperature",
            "unsupported_value",
            "only 1 is supported",
            [(PARAMETER, "temperature", 0)],
        ),
        ({"stop": "x"}, None, None, "stop is no argument of this model", [(PARAMETER, "stop", 0)]),
        ({"stop": "x"}, None, None, "Model m does not support parameter stop.", [(PARAMETER, "stop", 0)]),
        (
            {"presence_penalty": 0, "temperature": 1},
            None,
            None,
            "Argument not supported on this model: presencePenalty",
            [(PARAMETER, "presence_penalty", 0)],
        ),
        ({"temperature": 3}, "temperature", "decimal_above_max_value", "at most 2", []),
        ({"temperature": 3}, "temperature", None, "it must be at most 2", []),
        ({"temperature": 3}, None, "invalid", "something is wrong", []),
        ({}, "temperature", "unsupported_value", "not sent at all", []),
        ({"temperature": 1, "stop": "x"}, None, None, "temperature and stop are not supported", []),
        (
            {"tools": TOOLS},
            "reasoning_effort",
            "unsupported_value",
            "function tools with reasoning are not served here",
            [(LessonKind.WHILE_REASONING, "tools", 0)],
        ),
        (
            {"reasoning_effort": "none"},
            "reasoning_effort",
            "unsupported_value",
            "none is not a value of it",
            [(LessonKind.EFFORT, "none", 0)],
        ),
        (
            {"reasoning_effort": "low"},
            None,
            None,
            "Model grok-9 does not support parameter reasoningEffort.",
            [(PARAMETER, "reasoning_effort", 0)],
        ),
        ({"tools": TOOLS}, "tools", "unsupported_parameter", "no tools here", [(PARAMETER, "tools", 0)]),
        (
            {"response_format": SCHEMA},
            "response_format",
            "unsupported_value",
            "not by a schema",
            [(PARAMETER, "json_schema", 0)],
        ),
        (
            {"user": "u" * 70},
            "user",
            "string_above_max_length",
            "maximum length 64, but got 70",
            [(LessonKind.ID_CHARACTERS, "user", 64)],
        ),
        (
            {},
            "messages[1].tool_calls[0].id",
            "string_above_max_length",
            "tool call id is too long, 40 at most",
            [(LessonKind.ID_CHARACTERS, "tool_call_id", 40)],
        ),
        (
            {},
            "messages[1].reasoning_content",
            "unknown_parameter",
            "unknown field in a message",
            [(LessonKind.MESSAGE_FIELD, "reasoning_content", 0)],
        ),
        ({}, "messages[0].content", "unknown_parameter", "no content", []),
        (
            {},
            "messages",
            "context_length_exceeded",
            "the prompt is longer than this model's context of 8000 tokens",
            [(LessonKind.CONTEXT, "", 8000)],
        ),
        ({}, "messages", "context_length_exceeded", "too long", []),
    ],
)
def test_what_a_refusal_teaches(
    parameters: dict[str, Any], param: str | None, code: str | None, words: str, lessons: list[tuple[Any, ...]]
) -> None:
    body = {"messages": HELLO, **parameters}
    assert list(lessons_of(body, needs_of(parameters, 0), UNKNOWN, param, code, words)) == lessons


@pytest.mark.parametrize(
    ("lesson", "parameters", "is_wrong"),
    [
        (Lesson(PARAMETER, "temperature"), {"temperature": 0.1}, True),
        (Lesson(PARAMETER, "temperature"), {"stop": "x"}, False),
        (Lesson(PARAMETER, "json_schema"), {"response_format": SCHEMA}, True),
        (Lesson(LessonKind.WHILE_REASONING, "tools"), {"tools": TOOLS, "reasoning_effort": "low"}, True),
        (Lesson(LessonKind.WHILE_REASONING, "tools"), {"tools": TOOLS, "reasoning_effort": "none"}, False),
        (Lesson(LessonKind.EFFORT, "none"), {"reasoning_effort": "none"}, True),
        (Lesson(LessonKind.MESSAGE_FIELD, "annotations"), {}, False),
        (Lesson(LessonKind.CONTEXT, "", 8000), {}, False),
    ],
)
def test_a_served_call_proves_a_lesson_wrong(lesson: Lesson, parameters: dict[str, Any], is_wrong: bool) -> None:
    known = with_lessons(UNKNOWN, [lesson])
    body = {"messages": HELLO, **parameters}
    assert disproved(body, needs_of(parameters, 0), known) == ((lesson,) if is_wrong else ())


@pytest.mark.parametrize("name", ["gpt-6-luna", "openai/gpt-6-luna", "gpt-6-luna-2026-09-22"])
def test_a_family_is_known_by_the_providers_name(name: str) -> None:
    assert "tools" in of_family(name).refused_while_reasoning


@pytest.mark.parametrize("name", ["grok-4-1-fast-non-reasoning", "primary-0501", "gpt-4o", "model-1"])
def test_what_is_not_known_to_reason_refuses_no_stop(name: str) -> None:
    assert not of_family(name).refuses("stop", "")
