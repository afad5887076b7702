"""A budget's ladder: how its further steps are written, which of them make sense, and what they say."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenants.ladder import FurtherStep, check, step_at, steps_of, text_of, words_of

pytestmark = pytest.mark.pure

CHEAPEST, SHORT = FurtherStep(Decimal("0.85"), downgrades=2), FurtherStep(Decimal("0.95"), max_tokens=256)
SHARES = st.integers(1, 10_000).map(lambda number: Decimal(number).scaleb(-4))
STEPS = st.builds(FurtherStep, SHARES, downgrades=st.integers(2, 9)) | st.builds(
    FurtherStep, SHARES, max_tokens=st.integers(1, 100_000)
)


@given(st.lists(STEPS, max_size=4))
def test_what_is_written_is_read(steps: list[FurtherStep]) -> None:
    assert list(steps_of(text_of(steps))) == sorted(steps, key=lambda step: step.share)


@pytest.mark.parametrize("text", ["85 %: 2 downgrades, 95 %: 256 tokens", "0.95:256 tokens,0.85: 2 downgrades"])
def test_percents_and_shares_in_any_order(text: str) -> None:
    assert steps_of(text) == (CHEAPEST, SHORT)
    assert text_of(steps_of(text)) == "85 %: 2 downgrades, 95 %: 256 tokens"


@pytest.mark.parametrize(
    "text", ["85", "85 %", "85 %: cheaper", "85 %: -1 tokens", "85 %: 2 downgrades;", "٨٥ %: 2 tokens!"]
)
def test_what_is_no_step_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="write them as in 85 %: 2 downgrades"):
        steps_of(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("80 %: 2 downgrades", "above the soft cap"),
        ("91 %: 2 downgrades", "at most at the hard cap"),
        ("85 %: 2 downgrades, 85 %: 256 tokens", "another step at the same share"),
        ("85 %: 3 downgrades, 88 %: 2 downgrades", "asks for more than those below it"),
        ("85 %: 256 tokens, 88 %: 256 tokens", "asks for more than those below it"),
        ("85 %: 1 downgrade", "the soft cap asks for one"),
        ("85 %: 10 downgrades", "2 to 9 downgrades"),
        ("85 %: 0 tokens", "downgrades, or for shorter answers"),
        ("85 %: 1000001 tokens", "at most 1,000,000 tokens"),
        ("85.001 %: 2 downgrades", "a percent 2"),
        ("81 %: 9 tokens, 82 %: 8 tokens, 83 %: 7 tokens, 84 %: 6 tokens, 85 %: 5 tokens", "at most 4"),
    ],
)
def test_a_ladder_that_makes_no_sense_says_why(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        check(steps_of(text), Decimal("0.8"), Decimal("0.9"))


def test_where_a_use_stands_and_what_that_means() -> None:
    further = tuple(step.mark(1_000) for step in (CHEAPEST, SHORT))
    assert [step_at(use, 700, further) for use in (699, 700, 849, 850, 949, 950, 5_000)] == [0, 1, 1, 2, 2, 3, 3]
    assert [words_of(further, step, True) for step in (1, 2, 3)] == [
        "cheaper models", "cheapest models", "cheapest models, answers of at most 256 tokens",
    ]  # fmt: skip
    assert words_of(further, 3, False) == "answers of at most 256 tokens"
    assert words_of(further, 1, False).startswith("nothing changes")
