"""Reading an embeddings request: its parameters and its inputs, checked. Pure.

`docs/embeddings.md` is the table for people; a test holds both to the openai package's own type.
"""

from typing import Any

from guard.chat.request.field_checks import Check, anything, check_fields, counted_id, identifier, only, tokens
from guard.chat.request.reader import CallRequest
from guard.http.errors import refuse
from guard.policy.routing import Ask
from spend.models import AUTO
from spend.names import tidy
from spend.pricing.cost import bound_input_tokens

MOST_INPUTS = 2048
MOST_TOKENS = 300_000
"""Of all inputs together, where they come as tokens. Both are OpenAI's own limits."""
MOST_TOKEN_ID = 2**31 - 1
NO_OUTPUT = 1
"""Of output tokens an embedding has none; the least that a hold can be made for stands for that."""

TABLE: dict[str, Check] = {
    "dimensions": tokens,
    "encoding_format": only("float", "base64"),
    "input": anything,
    "model": identifier,
    "user": counted_id,
}
SENT = ("dimensions", "encoding_format", "user")

Input = str | list[int]


def read_embeddings(body: Any) -> CallRequest:
    """The OpenAI shape. Raises InvalidRequest naming the field."""
    check_fields(body, TABLE)
    model = body.get("model")
    if model is None or model == AUTO:
        raise refuse("model", "must name a model: vectors of different models don't mix, so there is no route.")
    inputs = inputs_of(body.get("input"))
    return CallRequest(
        ask=Ask(model=model, input_tokens=bound_tokens(inputs), max_tokens=NO_OUTPUT),
        body={"input": inputs, **{name: body[name] for name in SENT if body.get(name) is not None}},
        customer=tidy(body.get("user")),
        conversation="",
    )


def inputs_of(given: Any) -> list[Input]:
    """The inputs as a list: texts, or the tokens of texts. Raises InvalidRequest naming the one that is neither."""
    if isinstance(given, str) or _are_tokens(given):
        _check_input(given, "input")
        return [given]
    if not isinstance(given, list) or not given:
        raise refuse("input", "must be a string, a list of tokens, or a list of at least one of these.")
    if len(given) > MOST_INPUTS:
        raise refuse("input", f"must be at most {MOST_INPUTS:,} inputs.")
    for position, each in enumerate(given):
        _check_input(each, f"input[{position}]")
    _check_sum(given)
    return given


def _are_tokens(given: Any) -> bool:
    """One input's tokens, by the first of them; whether all are is for `_check_input`."""
    return isinstance(given, list) and bool(given) and type(given[0]) is int


def _check_input(given: Any, param: str) -> None:
    if not given or not isinstance(given, str | list):
        raise refuse(param, "must be a string or a list of tokens, and not empty.")
    if isinstance(given, list) and not all(type(token) is int and 0 <= token <= MOST_TOKEN_ID for token in given):
        raise refuse(param, "must be a list of tokens: whole numbers from 0 on.")


def _check_sum(inputs: list[Input]) -> None:
    if (count := sum(len(each) for each in inputs if isinstance(each, list))) > MOST_TOKENS:
        raise refuse("input", f"has {count:,} tokens, and at most {MOST_TOKENS:,} are taken at once.")


def bound_tokens(inputs: list[Input]) -> int:
    """A hard upper bound on the tokens that will be billed; what is a token already is one."""
    return bound_input_tokens(inputs) + sum(len(each) for each in inputs if isinstance(each, list))
