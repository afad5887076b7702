"""Pricing: from a price and a usage to ticks, and the bound on what a call can cost. Pure.

Prices are ticks per token, so every product and sum here is an exact integer.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from math import ceil
from typing import Any

import orjson

from tenants.money import TICKS_PER_USD

BOUND_TOKENS_PER_MESSAGE = 8
BOUND_TOKENS_PER_CALL = 16
MOST_TOKENS = 2**31 - 1
DEAREST_PRICE_TICKS = 10**9
"""100,000 USD per million tokens: the most for which any call's cost still fits 64 bits."""
MOST_USD = 10**8
DIGITS = re.compile(r"[0-9]{1,10}")


@dataclass(frozen=True, slots=True)
class TierPrice:
    """Ticks per token of a request whose input has more than `above_tokens` tokens."""

    above_tokens: int
    input_ticks: int
    cached_input_ticks: int
    cache_write_ticks: int
    output_ticks: int

    @property
    def dearest_input_ticks(self) -> int:
        return max(self.input_ticks, self.cached_input_ticks, self.cache_write_ticks)


@dataclass(frozen=True, slots=True)
class PriceList:
    """A model's price at one instant: the row it came from, and its tiers in ascending order."""

    id: int
    tiers: tuple[TierPrice, ...]

    def tier_of(self, input_tokens: int) -> TierPrice:
        """The tier that prices the whole of a request with so many input tokens."""
        return [tier for tier in self.tiers if tier.above_tokens == 0 or input_tokens > tier.above_tokens][-1]

    def tiers_up_to(self, input_tokens: int) -> list[TierPrice]:
        """Every tier that a request of at most so many input tokens can fall into."""
        return [tier for tier in self.tiers if tier.above_tokens == 0 or input_tokens > tier.above_tokens]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as billed. Cached and cache-write tokens are part of input, reasoning part of output."""

    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0


def cost_ticks(usage: Usage, price: PriceList) -> int:
    """What `usage` costs at `price`, in ticks."""
    tier = price.tier_of(usage.input_tokens)
    plain_input_tokens = usage.input_tokens - usage.cached_input_tokens - usage.cache_write_tokens
    return (
        plain_input_tokens * tier.input_ticks
        + usage.cached_input_tokens * tier.cached_input_ticks
        + usage.cache_write_tokens * tier.cache_write_ticks
        + usage.output_tokens * tier.output_ticks
    )


@dataclass(frozen=True, slots=True)
class Most:
    """The most tokens that a call can have: what is beyond the model's context was never read nor written."""

    input_tokens: int = MOST_TOKENS
    output_tokens: int = MOST_TOKENS


NO_BOUND = Most()


def read_usage(
    raw: Any, *, reasoning_on_top: bool, counted: Usage | None = None, most: Most = NO_BOUND
) -> Usage | None:
    """The usage object of a chat completion; None where it is missing, zero or not to be believed.

    What is impossible in it, or missing, is taken from `counted`, where that is given: an answer's tokens as
    counted here.  Providers disagree on whether `completion_tokens` holds the reasoning.  Their total tells;
    where it does not, `reasoning_on_top` is the provider's habit (xAI: on top, OpenAI: inside).
    """
    if not isinstance(raw, Mapping):
        return None
    prompt, completion = _prompt_and_completion(raw, most)
    if counted and prompt is None:  # nothing written by a call that read nothing is no figure, either
        prompt, completion = counted.input_tokens, completion or None
    if counted and completion is None:
        completion = counted.output_tokens
    if prompt is None or completion is None:
        return None
    reasoning = _tokens(raw.get("completion_tokens_details"), "reasoning_tokens")
    total = _tokens(raw, "total_tokens")
    if reasoning and _is_on_top(total - prompt - completion, reasoning, completion, reasoning_on_top):
        completion += reasoning
    details = raw.get("prompt_tokens_details")
    cached = _tokens(details, "cached_tokens")
    if cached > prompt:  # impossible, and not to be credited
        cached = 0
    cache_write = min(_tokens(details, "cache_write_tokens"), prompt - cached)
    return Usage(prompt, cached, cache_write, completion, min(reasoning, completion))


def _prompt_and_completion(raw: Mapping[str, Any], most: Most) -> tuple[int | None, int | None]:
    """The figures that are there and possible, each from the total where only that is; every call has a prompt."""
    prompt, completion = _count(raw, "prompt_tokens") or None, _count(raw, "completion_tokens")
    if prompt is not None and prompt > most.input_tokens:
        prompt = None
    if completion is not None and completion > most.output_tokens:
        completion = None
    total = _tokens(raw, "total_tokens")
    if prompt is not None and completion is None and prompt <= total <= prompt + most.output_tokens:
        completion = total - prompt
    if prompt is None and completion is not None and completion < total <= completion + most.input_tokens:
        prompt = total - completion
    return prompt, completion


def impossible_figures(raw: Any, most: Most = NO_BOUND) -> dict[str, Any]:
    """The figures of a usage that no call can have, or that are missing where others are given; else nothing."""
    if not isinstance(raw, Mapping) or not any(name in raw for name in COUNTS):
        return {}
    found = _prompt_and_completion(raw, most)
    return {name: raw.get(name) for name, count in zip(COUNTS, found, strict=False) if count is None}


COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")


def _is_on_top(beyond: int, reasoning: int, completion: int, habit: bool) -> bool:
    if beyond == reasoning:
        return True
    if beyond == 0:
        return False
    return habit or reasoning > completion


def _tokens(raw: Any, field: str) -> int:
    return _count(raw, field) or 0


def _count(raw: Any, field: str) -> int | None:
    """A whole number from 0 on, which some providers write as 1000.0 or "1000"."""
    value = raw.get(field) if isinstance(raw, Mapping) else None
    if (isinstance(value, str) and DIGITS.fullmatch(value)) or (isinstance(value, float) and value.is_integer()):
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_TOKENS:
        return value
    return None


def read_provider_ticks(raw: Any) -> int | None:
    """xAI's `cost_in_usd_ticks`: the amount billed, in ticks; None where there is none."""
    value = raw.get("cost_in_usd_ticks") if isinstance(raw, Mapping) else None
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62:
        return value
    return None


def read_usd_cost(raw: Any) -> int | None:
    """OpenRouter's `cost` in USD, in ticks, a part of one for a whole; None where there is none.

    Where the vendor's key is the account's own there (`is_byok`), it is OpenRouter's fee only, and the vendor bills
    `upstream_inference_cost` besides.
    """
    if not isinstance(raw, Mapping):
        return None
    ticks = _ticks_of_usd(raw.get("cost"))
    details = raw.get("cost_details")
    if ticks is None or not raw.get("is_byok") or not isinstance(details, Mapping):
        return ticks
    return ticks + (_ticks_of_usd(details.get("upstream_inference_cost")) or 0)


def _ticks_of_usd(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < MOST_USD:
        return None
    return ceil(Decimal(repr(value)) * TICKS_PER_USD)


@dataclass(frozen=True, slots=True)
class WorstCase:
    """The most a call can cost: a fixed part, and a part for each output token it may ask for."""

    input_tokens: int
    fixed_ticks: int
    token_ticks: int

    def ticks(self, max_tokens: int) -> int:
        return self.fixed_ticks + max_tokens * self.token_ticks


def worst_case(price: PriceList, *, input_tokens: int, reasoning_tokens: int = 0, choices: int = 1) -> WorstCase:
    """The bound on a call of at most `input_tokens`, for `choices` answers.

    A bound on the input is no lower bound on it, so every tier that it may fall into counts, and all
    of it may be written to the provider's cache, which can cost more than reading it.
    """
    tiers = price.tiers_up_to(input_tokens)
    output_ticks = max(tier.output_ticks for tier in tiers) * choices
    return WorstCase(
        input_tokens=input_tokens,
        fixed_ticks=input_tokens * max(tier.dearest_input_ticks for tier in tiers) + reasoning_tokens * output_ticks,
        token_ticks=output_ticks,
    )


def bound_input_tokens(messages: Sequence[Any], schemas: Iterable[Any] = ()) -> int:
    """A hard upper bound on the tokens of `messages` and of JSON that joins the prompt, such as tool schemas.

    A byte-level BPE never makes more tokens than there are UTF-8 bytes.
    """
    return (
        _bytes_of_text(messages)
        + sum(len(orjson.dumps(schema)) for schema in schemas)
        + BOUND_TOKENS_PER_MESSAGE * len(messages)
        + BOUND_TOKENS_PER_CALL
    )


def _bytes_of_text(value: Any) -> int:
    """UTF-8 bytes of every text in a message, but for what becomes one special token."""
    if isinstance(value, str):
        return len(value) if value.isascii() else len(value.encode("utf-8", "surrogatepass"))
    if isinstance(value, Mapping):
        return sum(_bytes_of_text(inner) for name, inner in value.items() if name not in SPECIAL_TOKENS)
    if isinstance(value, list | tuple):
        return sum(map(_bytes_of_text, value))
    return 0


SPECIAL_TOKENS = frozenset({"role", "type"})
"""Fields that providers render as a special token, which the bound per message covers."""
