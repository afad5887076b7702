"""What a model takes and refuses, as data, and what is known of today's families. Pure.

A catalogue model begins with the capabilities of its family (`of_family`), which an operator may change; what a
provider's refusals taught since is kept beside them (`spend.pricing.learned_capabilities`) and counts as well
(`with_lesson`).
A family that nobody here knows is taken to refuse nothing until it does.

The price list's package, genai-prices, has contexts and prices but not these facts, so they stand here with their
source: OpenAI's and xAI's guides for reasoning models, as of November 2026.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import NamedTuple

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
"""Every value of `reasoning_effort` that some model takes, from least to most."""

NO_REASONING = "none"
JSON_SCHEMA, IMAGES = "json_schema", "images"
"""What can be refused besides parameters: `response_format` of that type, and pictures in the messages."""


class LessonKind(StrEnum):
    """What a refusal can teach of a model; a lesson's name or figure says which, or how many."""

    PARAMETER = "parameter"
    WHILE_REASONING = "while_reasoning"
    MESSAGE_FIELD = "message_field"
    EFFORT = "reasoning_effort"
    ID_CHARACTERS = "id_characters"
    CONTEXT = "context_tokens"
    THINKS_WITHIN = "thinks_within_maximum"


class Lesson(NamedTuple):
    """One thing that a model's answer taught: `name` of the parameter, field, value or id; `figure` of a limit."""

    kind: LessonKind
    name: str = ""
    figure: int = 0


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a model refuses.

    refused                  parameters, JSON_SCHEMA or IMAGES, whatever else the request says
    refused_while_reasoning  the same, unless `reasoning_effort` is none
    efforts                  values of `reasoning_effort` that it takes, least first; empty: nobody knows
    default_effort           what it does without one; empty: nobody knows
    message_fields           fields of messages it knows beyond the standard ones; None: nobody knows
    id_characters            most characters of `tool_call_id` and of parameters that are ids
    context_tokens           a limit below the catalogue's, learned; 0: none
    thinks_within_maximum    its reasoning counts against the maximum of output tokens
    """

    refused: frozenset[str] = frozenset()
    refused_while_reasoning: frozenset[str] = frozenset()
    efforts: tuple[str, ...] = ()
    default_effort: str = ""
    message_fields: frozenset[str] | None = None
    refused_message_fields: frozenset[str] = frozenset()
    refused_efforts: frozenset[str] = frozenset()
    id_characters: tuple[tuple[str, int], ...] = ()
    context_tokens: int = 0
    thinks_within_maximum: bool = False
    lessons: tuple[Lesson, ...] = field(default=(), compare=False)
    """Those that are in the above."""

    def takes_effort(self, effort: str) -> bool:
        return effort not in self.refused_efforts and (not self.efforts or effort in self.efforts)

    def refuses(self, name: str, effort: str) -> bool:
        """Whether it refuses `name` in a request with this `reasoning_effort`; empty for one without."""
        is_reasoning = (effort or self.default_effort) != NO_REASONING
        return name in self.refused or (is_reasoning and name in self.refused_while_reasoning)


UNKNOWN = Capabilities()


def with_lessons(known: Capabilities, lessons: Iterable[Lesson]) -> Capabilities:
    """What is known, and what was learned besides."""
    for lesson in lessons:
        known = replace(_with_lesson(known, lesson), lessons=(*known.lessons, lesson))
    return known


def _with_lesson(known: Capabilities, lesson: Lesson) -> Capabilities:
    name, figure = lesson.name, lesson.figure
    match lesson.kind:
        case LessonKind.PARAMETER:
            return replace(known, refused=known.refused | {name})
        case LessonKind.WHILE_REASONING:
            return replace(known, refused_while_reasoning=known.refused_while_reasoning | {name})
        case LessonKind.MESSAGE_FIELD:
            return replace(known, refused_message_fields=known.refused_message_fields | {name})
        case LessonKind.EFFORT:
            return replace(known, refused_efforts=known.refused_efforts | {name})
        case LessonKind.ID_CHARACTERS:
            limits = dict(known.id_characters)
            limits[name] = min(figure, limits.get(name, figure))
            return replace(known, id_characters=tuple(sorted(limits.items())))
        case LessonKind.CONTEXT:
            return replace(known, context_tokens=min(figure, known.context_tokens or figure))
        case LessonKind.THINKS_WITHIN:
            return replace(known, thinks_within_maximum=True)


# Families

SAMPLING = frozenset(["temperature", "top_p", "presence_penalty", "frequency_penalty", "logit_bias"])
TOOLS = frozenset(["tools", "functions"])
OPENAI_IDS = (("prompt_cache_key", 64), ("safety_identifier", 64), ("tool_call_id", 40), ("user", 64))
OPENAI_REASONING = Capabilities(
    refused_while_reasoning=SAMPLING | {"stop", "logprobs", "top_logprobs"},
    efforts=("none", "low", "medium", "high"),
    message_fields=frozenset(),
    id_characters=OPENAI_IDS,
    thinks_within_maximum=True,
)
GROK = Capabilities(message_fields=frozenset(["reasoning_content"]))
GROK_REASONING = replace(GROK, refused=frozenset(["stop", "presence_penalty", "frequency_penalty", "reasoning_effort"]))

FAMILIES: tuple[tuple[str, Capabilities], ...] = (
    # The first that fits. GPT-5 itself has no "none"; from 5.1 on it is the default, up to GPT-6.
    (r"gpt-5(-.*)?", replace(OPENAI_REASONING, efforts=("minimal", "low", "medium", "high"), default_effort="medium")),
    (r"gpt-5\.1(-.*)?", replace(OPENAI_REASONING, default_effort="none")),
    (r"gpt-5\..*", replace(OPENAI_REASONING, efforts=("none", "low", "medium", "high", "xhigh"))),
    (
        r"gpt-6-luna(-.*)?",
        replace(
            OPENAI_REASONING,
            refused_while_reasoning=OPENAI_REASONING.refused_while_reasoning | TOOLS,
            efforts=("none", "low", "medium", "high", "xhigh", "max"),
            default_effort="medium",
        ),
    ),
    (r"gpt-6-astra(-.*)?|gpt-6\.1-sol(-.*)?", replace(OPENAI_REASONING, efforts=("low", "medium", "high", "xhigh"))),
    (r"gpt-([6-9]|\d\d).*", replace(OPENAI_REASONING, efforts=("none", "low", "medium", "high", "xhigh", "max"))),
    (r"gpt-.*|o\d.*", replace(UNKNOWN, message_fields=frozenset(), id_characters=OPENAI_IDS)),
    (r"grok-.*non-reasoning.*", replace(GROK, refused=frozenset(["reasoning_effort"]))),
    (
        r"grok-4\.3.*",
        replace(
            GROK_REASONING,
            refused=GROK_REASONING.refused - {"reasoning_effort"},
            efforts=("none", "low", "medium", "high"),
            default_effort="low",
        ),
    ),
    (r"grok-4(\.(20|1|2).*|-.*)?", GROK_REASONING),
    # Later ones may take a `reasoning_effort`; nobody here knows its values.
    (r"grok-([4-9]|\d\d).*", replace(GROK_REASONING, refused=GROK_REASONING.refused - {"reasoning_effort"})),
    (r"grok-.*", GROK),
)


def is_embedding_family(name: str) -> bool:
    """By the provider's name of a model: all that make embeddings have it in theirs."""
    return "embed" in name.lower()


def of_family(name: str) -> Capabilities:
    """By the provider's name of a model, with or without an account's or a vendor's before a slash."""
    bare = name.rpartition("/")[2]
    return next((known for pattern, known in FAMILIES if re.fullmatch(pattern, bare)), UNKNOWN)
