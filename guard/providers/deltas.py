"""Reading what providers say: texts, objects, and a stream's choice put together from its deltas. Pure."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Streamed:
    """One choice of a stream, put together from its deltas."""

    texts: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    tools: dict[Any, "Streamed"] = field(default_factory=dict)
    ended: Any = None

    def take(self, delta: Any) -> None:
        for name, value in delta.items() if isinstance(delta, dict) else ():
            if name == "function":  # within a tool call
                self.take(value)
            elif isinstance(value, str):
                self.texts[name].append(value)
            for call in objects_in(value) if name == "tool_calls" else ():
                self.tools.setdefault(call.get("index"), Streamed()).take(call)

    def said(self) -> dict[str, Any]:
        said: dict[str, Any] = {name: "".join(texts) for name, texts in self.texts.items()}
        for name in said.keys() & {"role", "id", "type"}:  # some providers say these again and again
            said[name] = self.texts[name][0]
        return {**said, "tool_calls": [call.called() for call in self.tools.values()]} if self.tools else said

    def called(self) -> dict[str, Any]:
        said = self.said()
        function = {name: said.pop(name) for name in ("name", "arguments") if name in said}
        return {**said, "function": function}


def objects_in(value: Any) -> Iterator[dict[str, Any]]:
    """The objects in what should be a list of them: no oddity of a provider's may keep a bill from being read."""
    return (each for each in value if isinstance(each, dict)) if isinstance(value, list) else iter(())


def text_of(value: Any) -> str:
    """The text itself, or that of a list's parts; of anything else none."""
    if isinstance(value, list):
        return "".join(text_of(part.get("text")) for part in objects_in(value))
    return value if isinstance(value, str) else ""
