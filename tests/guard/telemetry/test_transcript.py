"""What is kept of a call: its messages and its answer, however it came, and never more than its bound."""

from typing import Any

import orjson

from dashboard.transcript import Line, lines_of
from guard.http.sse import encode
from guard.telemetry.transcript import MOST_BYTES, answer_of, body_of
from tests.support.agents import Json

TOOL = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}}


def choice(delta: Json, finish_reason: str | None = None, **further: Any) -> Json:
    return {"index": 0, "delta": delta, "finish_reason": finish_reason, **further}


def chunk(*choices: Json) -> Json:
    return {"id": "c-1", "object": "chat.completion.chunk", "choices": list(choices)}


ODDITIES = [
    chunk(choice({"role": "assistant", "content": None, "tool_calls": [TOOL]})),
    chunk(choice({"tool_calls": [{"index": 0, "function": {"arguments": '{"città": '}}]})),
    chunk(choice({"tool_calls": [{"index": 0, "function": {"arguments": '"Zürich 🚉"}'}}]})),
    chunk(choice({"refusal": "I can't."}, logprobs={"content": []})),
    chunk(choice({"reasoning_content": "hm", "content": ""})),
    {"usage": {"prompt_tokens": 3}},
    chunk(choice({}, "tool_calls")),
    chunk(choice({}, "content_filter", index=1)),
]


def streamed(*chunks: Json) -> list[Json]:
    return answer_of({"choices": [], "events": b"".join(map(encode, chunks)).decode()})


def test_a_stream_is_put_together() -> None:
    first, second = streamed(*ODDITIES)
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"città": "Zürich 🚉"}'}}
    said = {"role": "assistant", "refusal": "I can't.", "reasoning_content": "hm", "content": ""}
    assert first == {"index": 0, "message": {**said, "tool_calls": [call]}, "finish_reason": "tool_calls"}
    assert second == {"index": 1, "message": {}, "finish_reason": "content_filter"}


def test_text_keeps_its_order_and_its_line_ends() -> None:
    texts = ["Hello\n", "\u2028", "world\r\n\r\n", ""]
    (only,) = streamed(chunk(choice({"role": "assistant"})), *(chunk(choice({"content": text})) for text in texts))
    assert only["message"]["content"] == "".join(texts)


def test_what_a_provider_repeats_is_kept_once() -> None:
    parts = [{"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}]
    (only,) = streamed(*(chunk(choice(part)) for part in parts))
    assert only["message"] == {"role": "assistant", "content": "ab"}


def test_oddities_are_passed_over() -> None:
    assert streamed({"choices": [None, {"delta": "x"}, {"delta": {"tool_calls": [None, "x"]}}]}, {"choices": 7}) == [
        {"index": 0, "message": {}, "finish_reason": None}
    ]
    assert answer_of({"choices": ["x"]}) == answer_of({}) == []


def test_long_texts_are_cut_with_a_note_and_the_rest_stays() -> None:
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "x" * MOST_BYTES}]
    said = orjson.loads(body_of(messages, {}))
    assert said["messages"][0] == messages[0]
    assert said["messages"][1]["content"] == "x" * 4000 + f" […{MOST_BYTES - 4000:,} more characters were not kept]"


def test_many_texts_are_cut_to_the_beginning_of_their_json() -> None:
    body = body_of([{"role": "user", "content": '"' * 100}] * 50_000, {"choices": []})
    assert len(body) < MOST_BYTES
    said = orjson.loads(body)["messages"]
    assert said.startswith('[{"role":"user"')
    assert said.endswith("more bytes were not kept]")


def test_within_the_bound_nothing_is_cut() -> None:
    messages = [{"role": "user", "content": "x" * (MOST_BYTES - 100)}]
    assert orjson.loads(body_of(messages, {}))["messages"] == messages


def test_lines_to_read() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "find", "arguments": '{"id": 7}'}}
    picture = {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}
    said = {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "What is this?"}, picture]},
            {"role": "tool", "tool_call_id": "call_0", "content": "sunny"},
            "odd",
        ],
        "answer": [
            {"index": 0, "message": {"role": "assistant", "content": None, "refusal": "No.", "tool_calls": [call]}}
        ],
    }
    prompt, answer = lines_of(said)
    assert prompt[0].who == "user"
    assert prompt[0].text.startswith("What is this?\n{")
    assert "https://x.example/a.png" in prompt[0].text
    assert prompt[1:] == [Line("tool tool_call_id", "call_0"), Line("tool", "sunny"), Line("", "odd")]
    assert answer == [Line("assistant refusal", "No."), Line("assistant calls", 'find({"id": 7})')]


def test_what_was_cut_to_text_is_shown_as_text() -> None:
    assert lines_of({"messages": '[{"role"', "answer": []}) == ([Line("", '[{"role"')], [])
