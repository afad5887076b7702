"""What was said in a call, as lines to read: who, and what. Pure.

What is not known here is shown as it is, as JSON.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson


@dataclass(frozen=True)
class Line:
    who: str
    text: str


def lines_of(said: Mapping[str, Any]) -> tuple[list[Line], list[Line]]:
    """The prompt's lines and the answer's."""
    return list(_prompt(said.get("messages"))), list(_answer(said.get("answer")))


def _prompt(messages: Any) -> Iterator[Line]:
    for message in messages if isinstance(messages, list) else [messages]:
        yield from _message(message)


def _answer(choices: Any) -> Iterator[Line]:
    for choice in choices if isinstance(choices, list) else [choices]:
        yield from _message(choice.get("message") if isinstance(choice, Mapping) else choice)


def _message(message: Any) -> Iterator[Line]:
    """A line each for its text, for a refusal or whatever else was said, and for each tool that was called."""
    if not isinstance(message, Mapping):
        yield Line("", _text(message))
        return
    who = str(message.get("role") or "")
    for name, value in message.items():
        if name == "tool_calls" and isinstance(value, list):
            yield from (Line(f"{who} calls".strip(), _called(call)) for call in value)
        elif name != "role" and value:
            yield Line(who if name == "content" else f"{who} {name}".strip(), _text(value))


def _called(call: Any) -> str:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping):
        return _text(call)
    return f"{function.get('name')}({function.get('arguments') or ''})"


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "\n".join(map(_text, value))
    if isinstance(value, Mapping) and isinstance(value.get("text"), str):
        return str(value["text"])
    return value if isinstance(value, str) else orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()
