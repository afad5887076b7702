"""What a test told the demo provider to do, and the log of what it was asked."""

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

import orjson

from guard.demo.answers import ANSWERS

ANY_MODEL = "*"
CALLS_KEPT = 20_000

Ending = Literal["started", "finished", "disconnected", "broken"]


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How the provider treats calls of one model. All of it optional; without any it just answers.

    latency_s             before the first byte, exactly
    status, body          the answer verbatim: an object, or a string that need not be JSON; without a body,
                          a status of 400 or more answers with an error as OpenAI words it
    answer                the name of such an answer in `guard.demo.answers`
    headers               further headers of the answer
    wire                  pieces of text for the socket itself, from the status line on, `chunk_delay_s` apart; then
                          the connection is closed, or with `hang` left open
    hang                  never answer; ends when the client goes away
    break_connection      "before" or "mid" (or true): close the socket before a byte or within the body
    usage                 an object: verbatim; null: left out; else counted
    content, finish_reason, tool_calls   parts of the answer
    chunks                a number: how many pieces the content is streamed in; a list: the chunks verbatim, or the
                          events, where responses are asked for
    chunk_delay_s         between two chunks
    break_after_chunks, stall_after_chunks, garbage_after_chunks
                          after so many chunks: close the socket; send nothing more; send what is no JSON and end
    omit_stream_usage     no usage in streams, even if asked
    strict                false: takes what the model's family refuses (see `guard.demo.strictness`)
    context_tokens        longer prompts are refused
    fail_first_n          status, body, hang and break_connection meet the first n calls only
    """

    latency_s: float | None = None
    status: int | None = None
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    wire: list[str] | None = None
    hang: bool = False
    break_connection: bool | Literal["before", "mid"] = False
    usage: Mapping[str, Any] | Literal["counted"] | None = "counted"
    content: str | None = None
    finish_reason: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    chunks: int | list[dict[str, Any]] | None = None
    chunk_delay_s: float | None = None
    break_after_chunks: int | None = None
    stall_after_chunks: int | None = None
    garbage_after_chunks: int | None = None
    omit_stream_usage: bool = False
    strict: bool = True
    context_tokens: int | None = None
    fail_first_n: int | None = None

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> "Behaviour":
        """Raises ValueError for a field there isn't: a test must not pass because of a slip of the pen."""
        if unknown := given.keys() - {"answer"} - {known.name for known in fields(cls)}:
            raise ValueError(f"{sorted(unknown)[0]} is not a behaviour")
        behaviour = cls(**named_answer(given))
        if behaviour.fail_first_n and not (behaviour.status or behaviour.hang or behaviour.break_connection):
            return replace(behaviour, status=500)
        return behaviour

    def without_failure(self) -> "Behaviour":
        return replace(self, status=None, body=None, hang=False, break_connection=False)


def named_answer(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields, with those of the answer that they name. Raises ValueError where there is none of that name."""
    others = {name: value for name, value in given.items() if name != "answer"}
    if (name := given.get("answer")) is None:
        return others
    if name not in ANSWERS:
        raise ValueError(f"{name} is not an answer")
    return {"status": 200, **ANSWERS[name], **others}


PLAIN = Behaviour()


@dataclass(slots=True)
class Record:
    """One request as it arrived, and how it ended; "broken" is a connection closed on purpose."""

    number: int
    model: str
    raw_body: bytes
    raw_headers: list[tuple[bytes, bytes]]
    path: str = ""
    """With its query."""
    started_at: float = field(default_factory=time.time)
    ended_at: float | None = None
    state: Ending = "started"

    def end(self, state: Ending) -> None:
        self.state, self.ended_at = state, time.time()

    def as_json(self) -> dict[str, Any]:
        shown = asdict(self)
        del shown["raw_body"], shown["raw_headers"]
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in self.raw_headers}
        return {**shown, "body": orjson.loads(self.raw_body), "headers": headers}


class Script:
    """The behaviours by model, and the calls so far (the last 20,000 of them, and how many in all)."""

    def __init__(self) -> None:
        self.behaviours: dict[str, Behaviour] = {}
        self.failed: dict[str, int] = {}
        self.forget_calls()

    def learn(self, given: Mapping[str, Mapping[str, Any]]) -> None:
        """Replaces the behaviours of the models that are named. Raises ValueError, and then changes nothing."""
        self.behaviours |= {model: Behaviour.read(fields_given) for model, fields_given in given.items()}
        for model in given:
            self.failed.pop(model, None)

    def forget_behaviours(self) -> None:
        self.behaviours.clear()
        self.failed.clear()

    def forget_calls(self) -> None:
        self.calls: deque[Record] = deque(maxlen=CALLS_KEPT)
        self.total = 0

    def record(self, model: str, raw_body: bytes, raw_headers: list[tuple[bytes, bytes]], path: str) -> Record:
        self.total += 1
        record = Record(self.total, model, raw_body, raw_headers, path)
        self.calls.append(record)
        return record

    def behaviour_for(self, model: str) -> Behaviour:
        """What the next call of this model meets; counts it where only the first calls fail."""
        name = model if model in self.behaviours else ANY_MODEL
        behaviour = self.behaviours.get(name, PLAIN)
        if behaviour.fail_first_n is None:
            return behaviour
        self.failed[name] = self.failed.get(name, 0) + 1
        return behaviour if self.failed[name] <= behaviour.fail_first_n else behaviour.without_failure()
