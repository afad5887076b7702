"""Making a request fit for the model that serves, without changing what it means. Pure.

A request is the provider's body without its model and maximum.  Only where the guard chose the model
(`chosen`: policy moved the call, a provider failed, or the caller left the choice to the route) are its
parameters touched; a caller who named a model hears from it.  What the guard itself carries from one
model to another in a conversation (fields of messages, ids) is made fit always.

    left out   what only flavours the text: temperature, stop, penalties, seed, …
    mapped     reasoning_effort to the nearest value the model takes, or to none where its tools need that; long ids
    never      what the answer must have or be: tools, a JSON schema, images, choices.  Where a model refuses one
               of those, the call is not for it (`unfit`).  Log probabilities are left out only where no model has them
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from spend.capabilities import EFFORTS, IMAGES, JSON_SCHEMA, NO_REASONING, Capabilities, Lesson, LessonKind
from spend.codes import StepCode

FLAVOUR = frozenset(
    {
        "frequency_penalty", "logit_bias", "logprobs", "modalities", "presence_penalty", "prompt_cache_key",
        "prompt_cache_options", "prompt_cache_retention", "reasoning_effort", "safety_identifier", "seed",
        "service_tier", "stop", "store", "stream_options", "temperature", "top_logprobs", "top_p", "user", "verbosity",
    }
)  # fmt: skip
"""Parameters without which an answer is still one to this request."""

MEANINGS = {
    "tools": StepCode.NO_TOOLS,
    "functions": StepCode.NO_TOOLS,
    "tool_choice": StepCode.NO_TOOLS,
    "function_call": StepCode.NO_TOOLS,
    "parallel_tool_calls": StepCode.NO_TOOLS,
    JSON_SCHEMA: StepCode.NO_JSON_SCHEMA,
    "response_format": StepCode.NO_JSON_SCHEMA,
    IMAGES: StepCode.NO_IMAGES,
    "n": StepCode.NO_CHOICES,
    "logprobs": StepCode.NO_LOGPROBS,
    "top_logprobs": StepCode.NO_LOGPROBS,
}
"""What a model that refuses it cannot serve, and the code for why it is passed over."""

STANDARD_FIELDS = frozenset(
    {"role", "content", "name", "tool_call_id", "tool_calls", "function_call", "refusal", "audio"}
)
TOOL_CALL_ID = "tool_call_id"
ALWAYS_FIT = frozenset({TOOL_CALL_ID, "prompt_cache_key", "safety_identifier", "user"})
MEANS_NOTHING = {"tool_choice": "auto", "function_call": "auto", "parallel_tool_calls": True, "n": 1, "logprobs": False}
"""Values of meaningful parameters that ask for what happens anyway."""


@dataclass(frozen=True, slots=True)
class Adapted:
    """A request as it is sent, and the names of what was left out or mapped, in order."""

    body: Mapping[str, Any]
    names: tuple[str, ...] = ()


def needs_of(body: Mapping[str, Any], images: int) -> frozenset[str]:
    """What of MEANINGS the request cannot do without."""
    needs = {name for name in MEANINGS if name in body and body[name] != MEANS_NOTHING.get(name)}
    if (body.get("response_format") or {}).get("type") == JSON_SCHEMA:
        needs.add(JSON_SCHEMA)
    elif (body.get("response_format") or {}).get("type") == "text":
        needs.discard("response_format")
    return frozenset(needs | {IMAGES} if images else needs)


def unfit(needs: frozenset[str], effort: str, known: Capabilities) -> StepCode | None:
    """The code for why a model of these capabilities cannot serve such a request, or None where it can."""
    if not needs:
        return None
    effort = effort_for(needs, effort, known)
    return next((MEANINGS[name] for name in MEANINGS if name in needs and known.refuses(name, effort)), None)


def effort_for(needs: frozenset[str], effort: str, known: Capabilities) -> str:
    """The `reasoning_effort` to send: the given one, the nearest that the model takes, or none where tools need that.

    Empty for no such parameter.
    """
    if known.refused_while_reasoning & needs & {"tools", "functions"} and known.takes_effort(NO_REASONING):
        return NO_REASONING
    if "reasoning_effort" in known.refused or not effort or known.takes_effort(effort):
        return effort
    return _nearest(effort, known)


def _nearest(effort: str, known: Capabilities) -> str:
    taken = [name for name in known.efforts or EFFORTS if name in EFFORTS and known.takes_effort(name)]
    if not taken or effort not in EFFORTS:
        return ""
    # Of two as near, the lesser, which costs less.
    return min(taken, key=lambda name: (abs(EFFORTS.index(name) - EFFORTS.index(effort)), EFFORTS.index(name)))


def adapt(body: Mapping[str, Any], needs: frozenset[str], known: Capabilities, *, chosen: bool) -> Adapted:
    """The request as a model of these capabilities takes it."""
    fitted, names = dict(body), dict[str, None]()
    if chosen:
        _fit_parameters(fitted, needs, known, names)
    limits = dict(known.id_characters)
    for name in ALWAYS_FIT & limits.keys() & fitted.keys():
        if len(fitted[name]) > limits[name]:
            fitted[name] = digest_of(fitted[name], limits[name])
            names[name] = None
    if messages := body.get("messages"):
        fitted["messages"] = [_fit_message(message, known, limits.get(TOOL_CALL_ID), names) for message in messages]
    return Adapted(fitted, tuple(names)) if names else Adapted(body)


def _fit_parameters(body: dict[str, Any], needs: frozenset[str], known: Capabilities, names: dict[str, None]) -> None:
    given = body.get("reasoning_effort", "")
    effort = effort_for(needs, given, known)
    for name in [name for name in body if name in FLAVOUR and known.refuses(name, effort)]:
        del body[name]
        names[name] = None
    for name, value in MEANS_NOTHING.items():
        if name in body and body[name] == value and known.refuses(name, effort):
            del body[name]
            names[name] = None
    if effort != given and "reasoning_effort" not in names:
        body["reasoning_effort"] = effort
        if not effort:
            del body["reasoning_effort"]
        names["reasoning_effort"] = None


def _fit_message(
    message: Mapping[str, Any], known: Capabilities, most_characters: int | None, names: dict[str, None]
) -> Mapping[str, Any]:
    unknown = [field for field in message if not _takes_field(field, known)]
    has_long_id = most_characters is not None and any(len(each) > most_characters for each in _tool_call_ids(message))
    if not unknown and not has_long_id:
        return message
    names.update(dict.fromkeys(f"messages.{field}" for field in unknown))
    fitted = {field: value for field, value in message.items() if field not in unknown}
    if most_characters is not None and has_long_id:
        names[TOOL_CALL_ID] = None
        _shorten_ids(fitted, most_characters)
    return fitted


def _takes_field(field: str, known: Capabilities) -> bool:
    if field in known.refused_message_fields:
        return False
    return field in STANDARD_FIELDS or known.message_fields is None or field in known.message_fields


def _tool_call_ids(message: Mapping[str, Any]) -> Iterator[str]:
    if isinstance(result_of := message.get(TOOL_CALL_ID), str):
        yield result_of
    for call in message.get("tool_calls") or ():
        if isinstance(call.get("id"), str):
            yield call["id"]


def _shorten_ids(message: dict[str, Any], most: int) -> None:
    """In the call and in its result alike: the same id has the same digest."""
    if message.get(TOOL_CALL_ID):
        message[TOOL_CALL_ID] = _shortened(message[TOOL_CALL_ID], most)
    if message.get("tool_calls"):
        message["tool_calls"] = [
            {**call, "id": _shortened(call["id"], most)} if isinstance(call.get("id"), str) else call
            for call in message["tool_calls"]
        ]


def _shortened(given: str, most: int) -> str:
    return digest_of(given, most) if len(given) > most else given


def digest_of(given: str, most: int) -> str:
    """A stable stand-in of at most so many characters; below about 20 two ids might meet."""
    return sha256(given.encode("utf-8", "surrogatepass")).hexdigest()[:most]


# What a refusal teaches


def lessons_of(
    body: Mapping[str, Any], needs: frozenset[str], known: Capabilities, param: str | None, code: str | None, words: str
) -> tuple[Lesson, ...]:
    """What a provider's 400 to `body` teaches of its model; nothing where it is about the request alone.

    `param`, `code` and `words` are the provider's: xAI and others name the parameter in their words only.
    """
    if code == "context_length_exceeded":
        figure = _figure_before("tokens", words) or _figure_after("maximum context length is", words)
        return (Lesson(LessonKind.CONTEXT, "", figure),) if figure else ()
    name = param or _parameter_named_in(words, body)
    if name is None:
        return ()
    if name.startswith(("messages", "input")):
        return _lessons_of_message(name, code, words)
    if code == "string_above_max_length" and name in ALWAYS_FIT:
        return (Lesson(LessonKind.ID_CHARACTERS, name, _most_characters(name, words)),)
    if name == "reasoning_effort":
        return _lessons_of_effort(body, needs, known, words)
    if name == "response_format" and JSON_SCHEMA in needs and code in UNSUPPORTED:
        name = JSON_SCHEMA
    is_about_the_model = code in UNSUPPORTED or _sounds_unsupported(words)
    if (name not in body and name != JSON_SCHEMA) or not is_about_the_model:
        return ()
    return (Lesson(LessonKind.PARAMETER, name),)


UNSUPPORTED = frozenset({"unsupported_parameter", "unsupported_value", "unknown_parameter"})
SOUNDS = ("not support", "unsupported", "no argument", "unknown parameter", "unrecognized", "not allowed")


def _sounds_unsupported(words: str) -> bool:
    return any(sound in words.lower() for sound in SOUNDS)


def _parameter_named_in(words: str, body: Mapping[str, Any]) -> str | None:
    """The one parameter of the request that the words name, in either way of writing it; None for none or several."""
    said = set(re.findall(r"[a-z0-9_]+", words.lower()))
    named = [name for name in body if name != "messages" and {name, name.replace("_", "")} & said]
    return named[0] if len(named) == 1 else None


def _lessons_of_message(param: str, code: str | None, words: str) -> tuple[Lesson, ...]:
    field = param.rpartition(".")[2].partition("[")[0]
    if code == "string_above_max_length" and field in {"id", TOOL_CALL_ID}:
        return (Lesson(LessonKind.ID_CHARACTERS, TOOL_CALL_ID, _most_characters(TOOL_CALL_ID, words)),)
    if code in {"unknown_parameter", "unsupported_parameter"} and field not in {*STANDARD_FIELDS, "messages", "input"}:
        return (Lesson(LessonKind.MESSAGE_FIELD, field),)
    return ()


def _lessons_of_effort(
    body: Mapping[str, Any], needs: frozenset[str], known: Capabilities, words: str
) -> tuple[Lesson, ...]:
    """Either the value is none of this model's, or its tools don't go with reasoning."""
    given, tools = body.get("reasoning_effort", ""), needs & {"tools", "functions"}
    if tools and given != NO_REASONING and ("tool" in words.lower() or not given):
        return tuple(Lesson(LessonKind.WHILE_REASONING, name) for name in sorted(tools))
    if given:
        whole = "value" not in words.lower() and NO_REASONING not in words.lower() and given not in words.lower()
        return (Lesson(LessonKind.PARAMETER, "reasoning_effort") if whole else Lesson(LessonKind.EFFORT, given),)
    return ()


DEFAULT_ID_CHARACTERS = {TOOL_CALL_ID: 40}


def _most_characters(name: str, words: str) -> int:
    """As the words say, which tell the length that was sent as well: the least figure that makes sense."""
    figures = [figure for figure in _figures(words) if 16 <= figure <= 512]
    return min(figures, default=DEFAULT_ID_CHARACTERS.get(name, 64))


def _figures(words: str) -> list[int]:
    pieces = "".join(letter if letter.isdigit() else " " for letter in words.replace(",", "")).split()
    return [int(piece) for piece in pieces if len(piece) < 9]


def _figure_before(unit: str, words: str) -> int:
    return next(iter(_figures(words.partition(unit)[0])[-1:]), 0)


def _figure_after(lead: str, words: str) -> int:
    return next(iter(_figures(words.partition(lead)[2])), 0)


def disproved(body: Mapping[str, Any], needs: frozenset[str], known: Capabilities) -> tuple[Lesson, ...]:
    """Of what was learned, what a call with this body has just proved wrong by being served."""
    return tuple(lesson for lesson in known.lessons if _is_disproved(lesson, body, needs))


def _is_disproved(lesson: Lesson, body: Mapping[str, Any], needs: frozenset[str]) -> bool:
    effort = body.get("reasoning_effort", "")
    match lesson.kind:
        case LessonKind.PARAMETER:
            return lesson.name in body or lesson.name in needs
        case LessonKind.WHILE_REASONING:
            return lesson.name in needs and effort not in {"", NO_REASONING}
        case LessonKind.EFFORT:
            return bool(effort == lesson.name)
        case LessonKind.MESSAGE_FIELD:
            return any(lesson.name in message for message in body.get("messages", ()))
    return False
