"""The parameters of a response: which are translated, which are dropped, and which are refused.

As in `guard.chat.request.parameters`, whose checks these are where the two APIs mean the same.
`docs/responses.md` is this table for people; a test holds both to the openai package's own type.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from guard.chat.request import field_checks, schemas
from guard.chat.request.field_checks import (
    MOST_TOOLS,
    NOT_BOUNDED,
    Check,
    an_object,
    any_object,
    anything,
    check_fields,
    counted_id,
    either,
    identifier,
    number,
    one_of_kinds,
    only,
    refused,
    text,
    tokens,
    true_or_false,
    whole_number,
    with_a,
)
from guard.chat.request.parameters import BOUNDED as BOUNDED_IN_CHAT
from guard.chat.request.parameters import metadata
from guard.chat.request.schemas import passes, schema_of
from guard.http.errors import refuse

a_list = partial(field_checks.a_list, place="[{}]")


def not_here(why: str) -> Check:
    def check(_value: Any, param: str) -> None:
        raise refuse(param, why)

    return check


@passes(schemas.only(False))
def never_in_background(value: Any, param: str) -> None:
    true_or_false(value, param)
    if value:
        raise refuse(param, "only false: the guard answers each call while its caller waits. Use stream.")


def a_function_tool(value: Any, param: str) -> None:
    """A function of the caller's. Any other tool runs at the provider's and is billed by the use."""
    kind = value.get("type") if isinstance(value, Mapping) else None
    if kind != "function":
        named = repr(kind) if isinstance(kind, str) and len(kind) <= 64 else "this one"
        raise refuse(f"{param}.type", f"only 'function' tools can be priced, and not {named}.")
    check_fields(value, TOOL_FIELDS, param)
    with_a("name", text)(value, param)


TOOL_FIELDS: dict[str, Check] = {
    "type": anything,
    "name": text,
    "description": text,
    "parameters": any_object,
    "strict": true_or_false,
    "allowed_callers": only(["direct"]),
    "async": only(False),
    "defer_loading": only(False),
    "output_schema": any_object,
}
TOOL_SCHEMA = schemas.closed(
    {"type": schemas.only("function"), "name": schema_of(text)},
    {name: schema_of(check) for name, check in TOOL_FIELDS.items() if name not in {"type", "name"}},
)
function_tool = passes(TOOL_SCHEMA)(a_function_tool)
named_function = with_a("name", text)
chosen_tool = one_of_kinds(
    {
        "function": named_function,
        "allowed_tools": with_a("tools", a_list(one_of_kinds({"function": named_function}, "must be 'function'."))),
    },
    "must be 'function' or 'allowed_tools'.",
)
text_format = one_of_kinds(
    {"text": any_object, "json_object": any_object, "json_schema": with_a("schema", any_object)},
    "must be 'text', 'json_object' or 'json_schema'.",
)

# Translated: each has its place in a chat completion's request.
TRANSLATED: dict[str, Check] = {
    "include": a_list(text),
    "input": anything,
    "instructions": text,
    "max_output_tokens": tokens,
    "parallel_tool_calls": true_or_false,
    "prompt_cache_key": identifier,
    "reasoning": an_object(
        {
            "effort": identifier,
            "summary": text,
            "generate_summary": text,
            "context": text,
            "mode": only("standard"),
        }
    ),
    "safety_identifier": counted_id,
    "temperature": number,
    "text": an_object({"format": text_format, "verbosity": identifier}),
    "tool_choice": either(text, chosen_tool),
    "tools": a_list(function_tool, MOST_TOOLS),
    "top_logprobs": whole_number,
    "top_p": number,
    "user": counted_id,
}

# Translated with values that leave the price alone, else refused.
BOUNDED: dict[str, Check] = {
    "background": never_in_background,
    "prompt_cache_options": BOUNDED_IN_CHAT["prompt_cache_options"],
    "prompt_cache_retention": BOUNDED_IN_CHAT["prompt_cache_retention"],
    "service_tier": BOUNDED_IN_CHAT["service_tier"],
}

# Hints that cost nothing, and that a chat completion has no place for.
DROPPED: dict[str, Check] = {
    "max_tool_calls": whole_number,
    "stream_options": an_object({"include_obfuscation": true_or_false}),
    "truncation": only("disabled", "auto"),
}

# The guard's own to read.
OURS: dict[str, Check] = {
    "metadata": metadata,
    "model": identifier,
    "previous_response_id": identifier,
    "store": true_or_false,
    "stream": true_or_false,
}

# Billed by what no hold can bound, or kept where the guard's budgets and erasures do not reach.
REFUSED: dict[str, Check] = {
    "access_programs": refused,
    "background_options": refused,
    "context_management": not_here(f"{NOT_BOUNDED} Compaction is a call that its provider makes by itself."),
    "conversation": not_here("is not supported: such objects are kept at a provider's. Send the history as input."),
    "image": refused,
    "moderation": refused,
    "prompt": not_here("is not supported: templates are kept at a provider's. Send instructions and input."),
}

TABLE: dict[str, Check] = {**TRANSLATED, **BOUNDED, **DROPPED, **OURS, **REFUSED}


def check_parameters(body: Any) -> None:
    """Raises InvalidRequest naming the first parameter, or field of one, that cannot be served or priced."""
    check_fields(body, TABLE)
    if body.get("model") is None:
        raise refuse("model", "is required: a model's name, or 'auto' for the tenant's route.")
