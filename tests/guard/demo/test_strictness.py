"""What the demo provider's models refuse as the real ones do, asked over real HTTP."""

from typing import Any

import pytest
import requests

from tests.support.provider import Provider

QUESTION: dict[str, Any] = {"role": "user", "content": "Where is my parcel?"}
TOOL: Any = {"type": "function", "function": {"name": "get_order", "parameters": {"type": "object"}}}
LONG_ID = "c" * 41


def called(identifier: str) -> list[dict[str, Any]]:
    call = {"id": identifier, "type": "function", "function": {"name": "get_order", "arguments": "{}"}}
    return [QUESTION, {"role": "assistant", "content": None, "tool_calls": [call]}]


def ask(provider: Provider, model: str, *, stream: bool = False, **parameters: Any) -> requests.Response:
    body = {"model": model, "messages": [QUESTION], "stream": stream, **parameters}
    return provider.session.post(f"{provider.base_url}/chat/completions", json=body, timeout=30)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("model", "parameters", "param", "code"),
    [
        ("gpt-5-mini", {"temperature": 0.2}, "temperature", "unsupported_value"),
        ("gpt-6-luna", {"temperature": 0}, "temperature", "unsupported_value"),
        ("gpt-6-luna", {"top_p": 1}, "top_p", "unsupported_parameter"),
        ("gpt-5.2", {"presence_penalty": 0}, "presence_penalty", "unsupported_parameter"),
        ("gpt-10", {"frequency_penalty": 0.5}, "frequency_penalty", "unsupported_parameter"),
        ("gpt-6.1-sol", {"stop": ["END"]}, "stop", "unsupported_parameter"),
        ("gpt-6-sol", {"logprobs": True}, "logprobs", "unsupported_parameter"),
        ("gpt-6-sol", {"max_tokens": 20, "reasoning_effort": "none"}, "max_tokens", "unsupported_parameter"),
        ("gpt-6-luna", {"tools": [TOOL]}, "reasoning_effort", "unsupported_value"),
        ("gpt-6-luna", {"tools": [TOOL], "reasoning_effort": "low"}, "reasoning_effort", "unsupported_value"),
        ("gpt-6-astra", {"reasoning_effort": "none"}, "reasoning_effort", "unsupported_value"),
        ("gpt-6.1-sol", {"reasoning_effort": "none"}, "reasoning_effort", "unsupported_value"),
        ("gpt-5-mini", {"reasoning_effort": "none"}, "reasoning_effort", "unsupported_value"),
        ("gpt-5.2", {"reasoning_effort": "much"}, "reasoning_effort", "unsupported_value"),
        ("gpt-5.2", {"prompt_cache_key": "k" * 65}, "prompt_cache_key", "string_above_max_length"),
        ("gpt-5.2", {"messages": called(LONG_ID)}, "messages[1].tool_calls[0].id", "string_above_max_length"),
        (
            "gpt-5.2",
            {"messages": [*called("c1"), {"role": "tool", "tool_call_id": LONG_ID, "content": "sent"}]},
            "messages[2].tool_call_id",
            "string_above_max_length",
        ),
        (
            "gpt-5.2",
            {"messages": [QUESTION, {"role": "assistant", "content": "Hm.", "reasoning_content": "They ask."}]},
            "messages[1].reasoning_content",
            "unknown_parameter",
        ),
    ],
)
def test_a_strict_gpt_refuses(
    provider: Provider, model: str, parameters: dict[str, Any], param: str, code: str, stream: bool
) -> None:
    answer = ask(provider, model, stream=stream, **parameters)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["param"], error["code"], error["type"]) == (param, code, "invalid_request_error")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", ["grok-4.3", "grok-4-fast-reasoning", "grok-10"])
@pytest.mark.parametrize("parameters", [{"stop": "END"}, {"presence_penalty": 0}, {"frequency_penalty": 0.5}])
def test_a_strict_grok_refuses(provider: Provider, model: str, parameters: dict[str, Any], stream: bool) -> None:
    answer = ask(provider, model, stream=stream, **parameters)
    assert answer.status_code == 400
    assert answer.json() == {
        "code": "Client specified an invalid argument",
        "error": f"{next(iter(parameters))} is no argument of this model",
    }


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        ("gpt-6-luna", {"temperature": 1, "max_completion_tokens": 20, "logprobs": False, "stop": None}),
        ("gpt-6-luna", {"temperature": 0.2, "top_p": 0.5, "stop": "x", "reasoning_effort": "none"}),
        ("gpt-6-luna", {"tools": [TOOL], "reasoning_effort": "none"}),
        ("gpt-6.1-terra", {"tools": [TOOL], "reasoning_effort": "high"}),
        ("gpt-5.2", {"prompt_cache_key": "k" * 64, "messages": called("c" * 40)}),
        ("grok-4.3", {"temperature": 0.2, "tools": [TOOL], "prompt_cache_key": "k" * 65, "max_tokens": 5}),
        ("grok-4-fast-non-reasoning", {"stop": "x", "presence_penalty": 1}),
        ("gpt-4.1", {"temperature": 0.2, "max_tokens": 5, "stop": "x"}),
        ("demo-large", {"temperature": 0.2, "stop": "x", "presence_penalty": 1}),
    ],
)
def test_it_takes_what_that_model_takes(provider: Provider, model: str, parameters: dict[str, Any]) -> None:
    answer = ask(provider, model, **parameters)
    assert answer.status_code == 200, answer.text


def test_a_prompt_longer_than_the_context_is_refused(provider: Provider) -> None:
    provider.behave("a", context_tokens=10)
    assert ask(provider, "a").status_code == 200
    answer = ask(provider, "a", messages=[{"role": "user", "content": "x" * 44}])
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")


def test_a_test_can_make_it_lenient_and_sees_how_refusals_ended(provider: Provider) -> None:
    assert ask(provider, "grok-4.3", stop="x").status_code == 400
    provider.behave("grok-4.3", strict=False)
    assert ask(provider, "grok-4.3", stop="x").status_code == 200
    assert [call["state"] for call in provider.calls()] == ["finished", "finished"]
