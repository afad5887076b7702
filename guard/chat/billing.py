"""Bills: what an attempt cost, read from the provider's usage, or counted for want of it.

Pure, but that counting takes a thread."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import orjson

from guard.chat.request.messages import without_images
from guard.chat.request.parameters import IN_THE_PROMPT
from spend.ledger.rules import Bill, Reserved
from spend.models import ProviderKind
from spend.pricing.cost import (
    COUNTS,
    NO_BOUND,
    Most,
    Usage,
    cost_ticks,
    impossible_figures,
    read_provider_ticks,
    read_usage,
    read_usd_cost,
)

REASONING_ON_TOP = frozenset({ProviderKind.XAI.value})
"""Kinds of providers that count reasoning beyond the completion's tokens, where their totals don't tell."""
FIGURES: Mapping[str, Callable[[Any], int | None]] = {ProviderKind.OPENROUTER: read_usd_cost}
"""How the kinds of providers that do not tell what they billed as xAI does tell it."""
TOKENS_PER_MESSAGE = 4
SLICE = 32 * 1024
STRUCTURE = frozenset({"role", "type", "id", "index"})
"""Fields of messages and deltas that are no generated text."""
DETAILS = ("prompt_tokens_details", "completion_tokens_details")


@dataclass(frozen=True, slots=True)
class Sent:
    """What of an attempt can be counted: its request, its images' tokens, and the most that the model can bill."""

    body: Mapping[str, Any]
    image_tokens: int = 0
    most: Most = NO_BOUND
    kind: str = ""
    """Of its provider."""


async def bill_of(
    raw_usage: Any, texts: Sequence[str], sent: Sent, reserved: Reserved, duration_ms: int
) -> tuple[Bill, dict[str, Any]]:
    """The bill of an answer of these texts, and the figures of its usage that are impossible, and so were counted."""
    impossible = impossible_figures(raw_usage, sent.most)
    # Counting a long prompt takes a while.
    counted = await asyncio.to_thread(counted_usage, sent, texts) if impossible else None
    bill = read_bill(raw_usage, reserved, duration_ms, counted=counted, most=sent.most, kind=sent.kind)
    return replace(bill, is_usage_impossible=bool(impossible)), impossible


def read_bill(
    raw_usage: Any,
    reserved: Reserved,
    duration_ms: int,
    *,
    counted: Usage | None = None,
    most: Most = NO_BOUND,
    kind: str = "",
) -> Bill:
    """The provider's own figure wins over ours; where neither can be had, the hold stands.

    A figure of nothing for a usage that nobody knows is no figure: it would make the call free.
    `counted` stands in for what is impossible in the usage; a bill that rests on it is an estimate.
    `kind` is the provider's; of one whose row is gone only its name tells.
    """
    kind = kind or reserved.offer.provider
    is_on_top = kind in REASONING_ON_TOP
    usage = read_usage(raw_usage, reasoning_on_top=is_on_top, counted=counted, most=most)
    is_whole = usage is not None and counted is None
    provider_ticks = FIGURES.get(kind, read_provider_ticks)(raw_usage)
    provider_ticks = provider_ticks if is_whole else provider_ticks or None
    computed_ticks = cost_ticks(usage, reserved.offer.price) if usage else None
    billed_ticks = computed_ticks if provider_ticks is None else provider_ticks
    return Bill(
        cost_ticks=billed_ticks,
        usage=usage or Usage(),
        computed_ticks=computed_ticks,
        provider_ticks=provider_ticks,
        is_estimated=billed_ticks is None or (counted is not None and provider_ticks is None),
        duration_ms=duration_ms,
    )


def tokens_only(usage: Any) -> dict[str, Any] | None:
    """A provider's usage for callers who may not see money: what is not known to count tokens may be a cost."""
    if not isinstance(usage, Mapping):
        return None
    counts = {name: usage[name] for name in COUNTS if name in usage}
    details = {name: usage[name] for name in DETAILS if isinstance(usage.get(name), Mapping)}
    return counts | {
        name: {what: count for what, count in inner.items() if what.endswith("_tokens")}
        for name, inner in details.items()
    }


def counted_bill(sent: Sent, texts: Iterable[str], reserved: Reserved, duration_ms: int) -> Bill:
    """An estimate: the prompt as it was sent and the answer as far as it came, at most what was held."""
    usage = counted_usage(sent, texts)
    computed_ticks = cost_ticks(usage, reserved.offer.price)
    return Bill(
        cost_ticks=min(computed_ticks, reserved.hold_ticks),
        usage=usage,
        computed_ticks=computed_ticks,
        is_estimated=True,
        duration_ms=duration_ms,
    )


def counted_usage(sent: Sent, texts: Iterable[str]) -> Usage:
    return Usage(input_tokens=count_prompt(sent.body) + sent.image_tokens, output_tokens=count_tokens("".join(texts)))


def count_prompt(body: Mapping[str, Any]) -> int:
    """The tokens of a provider's request, but for its images'; of embeddings some inputs are tokens already."""
    if "messages" not in body:
        return sum(count_tokens(each) if isinstance(each, str) else len(each) for each in body["input"])
    messages = ["\n".join(texts_in(message)) for message in without_images(body["messages"])]
    schemas = [orjson.dumps(body[name]).decode() for name in IN_THE_PROMPT if name in body]
    return sum(map(count_tokens, [*messages, *schemas])) + TOKENS_PER_MESSAGE * len(messages)


def texts_in(value: Any) -> Iterator[str]:
    """Every text in a message or a delta: content, refusal, reasoning, names and arguments of tool calls."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            if name not in STRUCTURE:
                yield from texts_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts_in(inner)


def count_tokens(text: str) -> int:
    """Of a long text in slices, which the encoder wants short: each cut is at most one token more."""
    encoding = _encoding()
    slices = (text[start : start + SLICE] for start in range(0, len(text), SLICE))
    return sum(len(encoding.encode_ordinary(part)) for part in slices)


@cache
def _encoding() -> Any:
    # Its tables take half a second to load and weigh more than all the rest of a worker, and few streams need them.
    import bpe_openai

    return bpe_openai.get_encoding("o200k_base")
