"""The parameters of a chat completion: which pass, which are priced, and which are refused.

A parameter passes if it only shapes text, whose cost the hold bounds already.  One that changes the
price is bounded here or refused, naming it; so is one that nobody here knows: an unpriced call never
leaves.  The OpenAPI document is made from this table.  `docs/parameters.md` is it for people, with the
reasons; a test holds both to the openai package's own type of the request, so that a parameter it adds
waits here for a decision.
"""

from collections.abc import Mapping
from typing import Any

from guard.chat.request import schemas
from guard.chat.request.field_checks import (
    MOST_ITEMS,
    MOST_TOOLS,
    NOT_BOUNDED,
    Check,
    a_list,
    an_object,
    any_object,
    anything,
    between,
    check_fields,
    counted_id,
    either,
    identifier,
    number,
    one_of_kinds,
    only,
    refused,
    tags,
    text,
    tokens,
    true_or_false,
    whole_number,
    with_a,
)
from guard.chat.request.schemas import ANY_OBJECT, NUMBER, TEXT, passes, schema_of, with_property
from guard.http.errors import refuse

MOST_CHOICES = 128
# The one lifetime whose price the catalogue knows; writing to the cache is in the hold.
CACHE_LIFETIME = only("30m")


METADATA: dict[str, Check] = {"conversation_id": counted_id, "tags": tags}
"""What of it the guard reads."""


@passes(
    {
        **ANY_OBJECT,
        "properties": {"conversation_id": schema_of(identifier), "tags": schema_of(tags)},
        "additionalProperties": TEXT,
    }
)
def metadata(value: Any, param: str) -> None:
    any_object(value, param)
    for name, inner in value.items():
        METADATA.get(name, text)(inner, f"{param}.{name}")


@passes(with_property(ANY_OBJECT, "mode", schemas.only("off"), required=True))
def switched_off(value: Any, param: str) -> None:
    """Of xAI's live search: whatever else it is told, it does not run."""
    any_object(value, param)
    if value.get("mode") != "off":
        raise refuse(param, NOT_BOUNDED)


# Anthropic's way to mark what is worth caching, which clients send to all. An hour of it is a tariff of its own.
CACHE_HINT: Check = an_object({"type": only("ephemeral"), "ttl": only("5m")})


def hinted(check: Check) -> Check:
    """An object that may carry a hint for the cache."""

    @passes(with_property(schema_of(check), "cache_control", schema_of(CACHE_HINT)))
    def check_both(value: Any, param: str) -> None:
        check(value, param)
        if (hint := value.get("cache_control")) is not None:
            CACHE_HINT(hint, f"{param}.cache_control")

    return check_both


@passes({**ANY_OBJECT, "additionalProperties": NUMBER, "maxProperties": MOST_ITEMS})
def logit_bias(value: Any, param: str) -> None:
    any_object(value, param)
    if len(value) > MOST_ITEMS:
        raise refuse(param, f"must have at most {MOST_ITEMS:,} tokens.")
    for name, bias in value.items():
        number(bias, f"{param}.{name}")


named_function = with_a("name", text)
# A tool that runs at the provider's (a web search, a code interpreter) is billed by a tariff of its own.
callers_tool = hinted(
    one_of_kinds(
        {"function": with_a("function", hinted(named_function)), "custom": with_a("custom", named_function)},
        "only 'function' and 'custom' tools can be priced.",
    )
)
chosen_tool = one_of_kinds(
    {
        "function": with_a("function", named_function),
        "custom": with_a("custom", named_function),
        "allowed_tools": with_a("allowed_tools", with_a("tools", a_list(callers_tool))),
    },
    "must be 'function', 'custom' or 'allowed_tools'.",
)
text_format = one_of_kinds(
    {"text": any_object, "json_object": any_object, "json_schema": with_a("json_schema", any_object)},
    "must be 'text', 'json_object' or 'json_schema'.",
)

# Passed on as they are: they shape the text.
PASSED: dict[str, Check] = {
    "frequency_penalty": number,
    "function_call": either(text, any_object),
    "functions": a_list(named_function, MOST_TOOLS),
    "logit_bias": logit_bias,
    "logprobs": true_or_false,
    "parallel_tool_calls": true_or_false,
    "presence_penalty": number,
    "prompt_cache_key": identifier,
    "reasoning_effort": identifier,
    "response_format": text_format,
    "safety_identifier": counted_id,
    "seed": whole_number,
    "stop": either(text, a_list(text)),
    "temperature": number,
    "tool_choice": either(text, chosen_tool),
    "tools": a_list(callers_tool, MOST_TOOLS),
    "top_logprobs": whole_number,
    "top_p": number,
    "user": counted_id,
    "verbosity": identifier,
}

# Passed on, and priced: the hold grows with them.
PRICED: dict[str, Check] = {"n": between(1, MOST_CHOICES, "of choices")}

# Passed on with values that leave the price alone, else refused.
BOUNDED: dict[str, Check] = {
    "modalities": only(["text"]),
    "prompt_cache_options": an_object({"mode": only("implicit", "explicit"), "ttl": CACHE_LIFETIME}),
    "prompt_cache_retention": only("in_memory", "24h"),
    "service_tier": only("default"),
    "store": only(False),
}

# Hints that cost nothing, and refusals of what is refused here anyway: left out of what is sent.
DROPPED: dict[str, Check] = {
    "cache_control": CACHE_HINT,
    "deferred": only(False),
    "search_parameters": switched_off,
}

# The guard's own to read or to set; the provider gets its own version of them.
OURS: dict[str, Check] = {
    "max_completion_tokens": tokens,
    "max_tokens": tokens,
    "messages": anything,
    "metadata": metadata,
    "model": identifier,
    "stream": true_or_false,
    "stream_options": an_object({"include_obfuscation": true_or_false, "include_usage": true_or_false}),
}

# Billed by a tariff of their own that no hold here can bound, or answered with something that has no bill.
REFUSED: dict[str, Check] = dict.fromkeys(["audio", "moderation", "prediction", "web_search_options"], refused)

TABLE: dict[str, Check] = {**PASSED, **PRICED, **BOUNDED, **DROPPED, **OURS, **REFUSED}
SENT = frozenset([*PASSED, *PRICED, *BOUNDED])
IN_THE_PROMPT = ["tools", "functions", "response_format", "tool_choice"]
"""Parameters that providers write into the prompt, where they are billed as input."""


def without_hints(value: Any) -> Any:
    """Tools or parts without their hints for the cache, which not every provider takes."""
    if isinstance(value, list):
        return [without_hints(inner) for inner in value]
    if not isinstance(value, Mapping):
        return value
    kept = {name: inner for name, inner in value.items() if name != "cache_control"}
    return {**kept, "function": without_hints(kept["function"])} if "function" in kept else kept


def check_parameters(body: Mapping[str, Any]) -> None:
    """Raises InvalidRequest naming the first parameter, or field of one, that cannot be priced."""
    check_fields(body, TABLE)
