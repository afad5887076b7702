"""Answers as providers really give them, by name: for behaviours such as `{"answer": "xai-content"}`.

Status, headers and fields are the providers'; the messages are ours.  What a model refuses of a request is
in `guard.demo.strictness`.
"""

from collections.abc import Mapping
from typing import Any

Fields = dict[str, Any]

HI = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
THINKING = {"role": "assistant", "content": None, "reasoning_content": "thinking"}
EVENTS = {"content-type": "text/event-stream"}
PAGE = {"content-type": "text/html"}


def _openai_error(message: str, kind: str, code: str | None) -> Fields:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def _said_hi(**usage: Any) -> Fields:
    return {"body": {"choices": [HI], "usage": usage}}


def _events(*data: str) -> Fields:
    return {"headers": EVENTS, "body": "".join(f"data: {each}\n\n" for each in data)}


THROTTLED = _openai_error("rate limit reached", "requests", "rate_limit_exceeded")
ANSWERS: Mapping[str, Fields] = {
    "xai-content": {
        "status": 403,
        "body": {"code": "permission-denied", "error": "Content violates usage guidelines."},
    },
    "xai-content-old": {
        "status": 403,
        "body": {
            "code": "The caller does not have permission to execute the specified operation",
            "error": "Content violates usage guidelines. Team, key, model and the check that failed follow here.",
        },
    },
    "xai-credit": {
        "status": 403,
        "body": {"code": "permission-denied", "error": "This team has no credits left."},
    },
    "xai-access": {
        "status": 403,
        "body": {"code": "permission-denied", "error": "This key may not use this model."},
    },
    "openai-quota": {
        "status": 429,
        "body": _openai_error("no quota left on this account", "insufficient_quota", "insufficient_quota"),
    },
    "payment-required": {"status": 402, "body": {"error": {"message": "pay first", "code": 402}}},
    "throttled": {"status": 429, "headers": {"retry-after": "2", "retry-after-ms": "1500"}, "body": THROTTLED},
    "throttled-long": {"status": 429, "headers": {"retry-after": "3600"}, "body": THROTTLED},
    "error-within": {"body": {"error": {"message": "rate limit reached", "code": 429}, "user_id": "u"}},
    "error-within-object": {"body": {"object": "error", "message": "bad", "code": 400}},
    "error-within-null": {
        "body": {"id": "x", "choices": None, "error_type": "BadRequestError", "error_message": "too long"}
    },
    "error-within-detail": {"body": {"detail": "no such thing here"}},
    "error-event": _events('{"error": {"message": "rate limit reached", "code": 429}}', "[DONE]"),
    "error-event-null": _events(
        '{"id": "x", "choices": null, "error_type": "BadRequestError", "error_message": "too long"}', "[DONE]"
    ),
    "error-event-object": _events('{"object": "error", "message": "bad", "code": 400}', "[DONE]"),
    "error-event-detail": _events('{"detail": "no such thing here"}', "[DONE]"),
    "usage-floats": _said_hi(prompt_tokens=1000.0, completion_tokens=500.0, total_tokens=1500.0),
    "usage-strings": _said_hi(prompt_tokens="1000", completion_tokens="500"),
    "usage-half": _said_hi(prompt_tokens=1000, completion_tokens=None, total_tokens=1500),
    "usage-negative": _said_hi(prompt_tokens=-1_000_000, completion_tokens=500),
    "usage-absurd": _said_hi(prompt_tokens=5_000_000, completion_tokens=20, total_tokens=5_000_020),
    "usage-absurd-ticks": _said_hi(
        prompt_tokens=5_000_000, completion_tokens=20, total_tokens=5_000_020, cost_in_usd_ticks=2_709_000
    ),
    "thinking-only": {
        "body": {
            "choices": [{"index": 0, "message": THINKING, "finish_reason": "length"}],
            "usage": {
                "prompt_tokens": 100,
                "completion_tokens": 16,
                "total_tokens": 116,
                "completion_tokens_details": {"reasoning_tokens": 16},
            },
        }
    },
    "comments-only": {"headers": EVENTS, "body": ": OPENROUTER PROCESSING\n\n: OPENROUTER PROCESSING\n\n"},
    "page": {"headers": PAGE, "body": "<!doctype html><title>Welcome</title>"},
    "page-not-found": {"status": 404, "headers": PAGE, "body": "<!doctype html><title>Not found</title>"},
    "redirect": {"status": 302, "headers": {"location": "/login"}, "body": ""},
    "redirect-kept": {"status": 307, "headers": {"location": "/v1/elsewhere"}, "body": ""},
}
