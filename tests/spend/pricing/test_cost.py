"""Pricing: what a usage costs, how providers report it, and the bound that no call may pass."""

from typing import Any

import pytest
from bpe_openai import get_encoding
from hypothesis import given
from hypothesis import strategies as st

from spend.pricing.cost import (
    MOST_TOKENS,
    Most,
    PriceList,
    TierPrice,
    Usage,
    bound_input_tokens,
    cost_ticks,
    impossible_figures,
    read_provider_ticks,
    read_usage,
    worst_case,
)

TOKENIZERS = [get_encoding("o200k_base"), get_encoding("cl100k_base")]

# 1.25, 0.20 and 2.50 USD per million tokens; above 200k input tokens twice as much.
GROK = PriceList(
    id=1,
    tiers=(
        TierPrice(0, input_ticks=12_500, cached_input_ticks=2_000, cache_write_ticks=12_500, output_ticks=25_000),
        TierPrice(200_000, input_ticks=25_000, cached_input_ticks=4_000, cache_write_ticks=25_000, output_ticks=50_000),
    ),
)


def usage_of(
    prompt: Any = 100, completion: Any = 50, reasoning: Any = None, cached: Any = None, total: Any = None
) -> dict[str, Any]:
    """A usage object as providers send it; what is None is left out."""
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total}
    if cached is not None:
        usage["prompt_tokens_details"] = {"cached_tokens": cached}
    if reasoning is not None:
        usage["completion_tokens_details"] = {"reasoning_tokens": reasoning}
    return {name: value for name, value in usage.items() if value is not None}


def test_the_example_of_the_design() -> None:
    raw = usage_of(prompt=10_120, cached=128, completion=1_499, reasoning=2_809, total=14_428)
    usage = read_usage(raw, reasoning_on_top=True)
    assert usage == Usage(10_120, 128, 0, 1_499 + 2_809, 2_809)
    assert cost_ticks(usage, GROK) == 232_856_000


@pytest.mark.parametrize("habit", [True, False])
@pytest.mark.parametrize(("total", "output"), [(100 + 50 + 20, 70), (100 + 50, 50)])
def test_the_total_tells_whether_reasoning_comes_on_top(total: int, output: int, habit: bool) -> None:
    usage = read_usage(usage_of(100, 50, reasoning=20, total=total), reasoning_on_top=habit)
    assert usage == Usage(100, 0, 0, output, 20)


@pytest.mark.parametrize("total", [None, "many", 100 + 50 + 3])
@pytest.mark.parametrize(("habit", "output"), [(True, 70), (False, 50)])
def test_where_the_total_does_not_tell_the_providers_habit_does(total: Any, habit: bool, output: int) -> None:
    assert read_usage(usage_of(100, 50, reasoning=20, total=total), reasoning_on_top=habit) == Usage(
        100, 0, 0, output, 20
    )


def test_more_reasoning_than_output_must_be_on_top() -> None:
    usage = read_usage(usage_of(100, 50, reasoning=80), reasoning_on_top=False)
    assert usage == Usage(100, 0, 0, 130, 80)


@pytest.mark.parametrize(
    "raw",
    [
        None,
        "garbage",
        [],
        {},
        usage_of(0, 0, total=0),
        usage_of(prompt=None),
        usage_of(completion=None),
        usage_of(prompt=0, completion=50),
        usage_of(prompt="100 tokens"),
        usage_of(prompt="-100"),
        usage_of(prompt=True),
        usage_of(prompt=100.5),
        usage_of(prompt=-1),
        usage_of(prompt=MOST_TOKENS + 1),
        usage_of(completion=1e300),
        usage_of(completion=-50),
        usage_of(completion=float("nan")),
    ],
)
def test_usage_that_is_missing_zero_or_garbage_is_unknown_and_never_free(raw: Any) -> None:
    assert read_usage(raw, reasoning_on_top=False) is None


def test_an_answer_without_a_word_still_costs_its_input() -> None:
    assert read_usage(usage_of(100, 0), reasoning_on_top=False) == Usage(100)


@pytest.mark.parametrize("details", [None, "garbage", [], {}, {"cached_tokens": None}, {"cached_tokens": -1}])
def test_details_that_are_missing_or_garbage_count_as_none(details: Any) -> None:
    raw = {**usage_of(100, 50), "prompt_tokens_details": details, "completion_tokens_details": details}
    assert read_usage(raw, reasoning_on_top=True) == Usage(100, 0, 0, 50, 0)


def test_more_cached_tokens_than_there_are_are_not_credited() -> None:
    raw = usage_of(100, 50, cached=1_000)
    raw["prompt_tokens_details"]["cache_write_tokens"] = 7
    assert read_usage(raw, reasoning_on_top=False) == Usage(100, 0, 7, 50)


@pytest.mark.parametrize(
    "raw",
    [
        usage_of(100.0, 50.0, total=150.0),
        usage_of("100", "50"),
        usage_of(100, None, total=150),
        usage_of(None, 50, total=150),
        usage_of(0, 50, total=150),
        usage_of(-7, 50, total="150"),
    ],
)
def test_figures_that_are_there_are_used_however_they_are_written(raw: Any) -> None:
    assert impossible_figures(raw) == {}
    assert read_usage(raw, reasoning_on_top=False) == Usage(100, output_tokens=50)


COUNTED = Usage(input_tokens=9, output_tokens=3)


@pytest.mark.parametrize(
    ("raw", "impossible", "usage"),
    [
        (usage_of(0, 50), {"prompt_tokens": 0}, Usage(9, output_tokens=50)),
        (usage_of(-100, 50), {"prompt_tokens": -100}, Usage(9, output_tokens=50)),
        (usage_of(1_001, 50, total=1_051), {"prompt_tokens": 1_001}, Usage(9, output_tokens=50)),
        (usage_of(100, 501), {"completion_tokens": 501}, Usage(100, output_tokens=3)),
        (usage_of(100, -1), {"completion_tokens": -1}, Usage(100, output_tokens=3)),
        (usage_of(100, None, total=99), {"completion_tokens": None}, Usage(100, output_tokens=3)),
        (usage_of(0, 0, total=0), {"prompt_tokens": 0}, Usage(9, output_tokens=3)),
        (usage_of(1_001, 20, cached=1_001), {"prompt_tokens": 1_001}, Usage(9, output_tokens=20)),
    ],
)
def test_impossible_figures_are_taken_from_what_was_counted(raw: Any, impossible: Any, usage: Usage) -> None:
    most = Most(1_000, 500)
    assert impossible_figures(raw, most) == impossible
    assert read_usage(raw, reasoning_on_top=False, counted=COUNTED, most=most) == usage


@pytest.mark.parametrize("raw", [None, 7, {}, {"cost_in_usd_ticks": 5}])
def test_where_there_are_no_figures_none_is_impossible(raw: Any) -> None:
    assert impossible_figures(raw) == {}


FIGURES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)


@given(prompt=FIGURES, completion=FIGURES, total=FIGURES, cached=FIGURES, reasoning=FIGURES)
def test_whatever_a_provider_writes_is_a_usage_within_bounds(
    prompt: Any, completion: Any, total: Any, cached: Any, reasoning: Any
) -> None:
    raw = {
        "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }  # fmt: skip
    most = Most(1_000, 500)
    usage = read_usage(raw, reasoning_on_top=True, counted=COUNTED, most=most)
    assert usage is not None
    assert 1 <= usage.input_tokens <= most.input_tokens
    assert 0 <= usage.cached_input_tokens <= usage.input_tokens
    assert 0 <= usage.reasoning_tokens <= usage.output_tokens


def test_cached_and_cache_write_tokens_have_their_own_prices() -> None:
    tier = TierPrice(0, input_ticks=10, cached_input_ticks=1, cache_write_ticks=13, output_ticks=50)
    raw = usage_of(100, 5, cached=60)
    raw["prompt_tokens_details"]["cache_write_tokens"] = 30
    usage = read_usage(raw, reasoning_on_top=False)
    assert usage is not None
    assert cost_ticks(usage, PriceList(1, (tier,))) == 10 * 10 + 60 * 1 + 30 * 13 + 5 * 50


@pytest.mark.parametrize(
    ("input_tokens", "ticks_a_token"), [(0, 12_500), (199_999, 12_500), (200_000, 12_500), (200_001, 25_000)]
)
def test_a_tier_prices_the_whole_request_from_one_token_above_it(input_tokens: int, ticks_a_token: int) -> None:
    assert cost_ticks(Usage(input_tokens), GROK) == input_tokens * ticks_a_token


@pytest.mark.parametrize(
    ("raw", "ticks"),
    [
        ({"cost_in_usd_ticks": 232_856_000}, 232_856_000),
        ({"cost_in_usd_ticks": 0}, 0),
        ({"cost_in_usd_ticks": -1}, None),
        ({"cost_in_usd_ticks": True}, None),
        ({"cost_in_usd_ticks": "5"}, None),
        ({"cost_in_usd_ticks": 5.0}, None),
        ({"cost_in_usd_ticks": 2**63}, None),
        ({}, None),
        (None, None),
        ([5], None),
    ],
)
def test_the_providers_own_figure_is_read_strictly(raw: Any, ticks: int | None) -> None:
    assert read_provider_ticks(raw) == ticks


ticks = st.integers(0, 10**6)


@st.composite
def prices(draw: st.DrawFn) -> PriceList:
    """A price with up to three tiers; a higher one may well be cheaper, as nothing forbids it."""
    bounds = sorted(draw(st.sets(st.integers(1, 3_000), max_size=2)))
    return PriceList(1, tuple(TierPrice(above, *draw(st.tuples(ticks, ticks, ticks, ticks))) for above in [0, *bounds]))


@st.composite
def usages(draw: st.DrawFn, input_tokens: int, output_tokens: int) -> Usage:
    """Any usage within these bounds."""
    prompt = draw(st.integers(0, input_tokens))
    cached = draw(st.integers(0, prompt))
    written = draw(st.integers(0, prompt - cached))
    output = draw(st.integers(0, output_tokens))
    return Usage(prompt, cached, written, output, draw(st.integers(0, output)))


@given(
    st.data(), prices(), st.integers(0, 5_000), st.tuples(st.integers(0, 500), st.integers(0, 500)), st.integers(1, 4)
)
def test_no_call_within_its_bounds_costs_more_than_the_worst_case(
    data: st.DataObject, price: PriceList, input_tokens: int, output: tuple[int, int], choices: int
) -> None:
    max_tokens, reasoning = output
    worst = worst_case(price, input_tokens=input_tokens, reasoning_tokens=reasoning, choices=choices)
    usage = data.draw(usages(input_tokens, (max_tokens + reasoning) * choices))
    assert cost_ticks(usage, price) <= worst.ticks(max_tokens)


@given(prices(), st.integers(0, 5_000), st.integers(0, 500), st.integers(1, 4))
def test_the_worst_case_is_reached_where_there_is_one_tier_and_no_dearer_cache(
    price: PriceList, input_tokens: int, max_tokens: int, choices: int
) -> None:
    base = price.tiers[0]
    plain = PriceList(1, (TierPrice(0, base.input_ticks, 0, base.input_ticks, base.output_ticks),))
    worst = worst_case(plain, input_tokens=input_tokens, choices=choices)
    assert cost_ticks(Usage(input_tokens, 0, 0, max_tokens * choices), plain) == worst.ticks(max_tokens)


TEXTS = st.text(st.characters(codec="utf-8"), max_size=300) | st.text("🙂é漢 \n\t0🏽‍", max_size=200)


@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_the_bound_on_input_covers_what_real_tokenizers_make_of_it(texts: list[str]) -> None:
    messages = [{"role": "user", "content": text} for text in texts]
    for tokenizer in TOKENIZERS:
        # As OpenAI counts chat messages: 3 tokens around each, 3 to start the answer, and the role.
        written = [tokenizer.encode(text, disallowed_special=()) for text in texts]
        tokens = 3 + sum(3 + len(tokenizer.encode("user")) + len(ids) for ids in written)
        assert tokens <= bound_input_tokens(messages)


def test_the_bound_counts_every_text_that_joins_the_prompt() -> None:
    said = [{"role": "user", "content": [{"type": "text", "text": "é" * 10}], "name": "Ada"}]
    tool = {"type": "function", "function": {"name": "find", "description": "Finds it."}}
    call = [{"role": "assistant", "content": None, "tool_calls": [{"id": "call_1", "type": "function"}]}]
    assert bound_input_tokens(said) == 20 + 3 + 8 + 16
    assert bound_input_tokens(said, [tool]) >= bound_input_tokens(said) + len("find") + len("Finds it.")
    assert bound_input_tokens(said + call) == bound_input_tokens(said) + len("call_1") + 8


def test_the_bound_takes_text_that_is_no_unicode() -> None:
    assert bound_input_tokens([{"role": "user", "content": "\ud800"}]) == 3 + 8 + 16
