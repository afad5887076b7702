"""The bench's load generator counts every answer that is not a whole 200: else its figures would flatter."""

import asyncio
from typing import Any

import pytest

from tests.bench.load import Run, Target, ask_in_turn, keep_asking, percentile
from tests.support.provider import Provider


def burst(target: Target, calls: int = 8) -> Run:
    return asyncio.run(keep_asking(target, calls, seconds=0))


@pytest.mark.parametrize("stream", [False, True])
def test_whole_answers_are_served(provider: Provider, stream: bool) -> None:
    provider.behave(latency_s=0.2, chunks=3, chunk_delay_s=0.1)
    target = Target(provider.url, "model", stream=stream)
    run = burst(target)
    assert (target.served, target.failures.total(), len(run.times)) == (8, 0, 8)
    # The provider's clock, uvloop's, counts whole milliseconds: it may wake up to one too early.
    assert all(0.199 <= each.first_byte_s <= each.whole_s for each in run.times)
    assert (max(each.whole_s - each.first_byte_s for each in run.times) > 0.3) == stream
    assert len(provider.calls("model")) == 8


@pytest.mark.parametrize(
    ("behaviour", "stream", "said"),
    [
        ({"status": 503}, False, "model: 503"),
        ({"status": 503}, True, "model: 503"),
        ({"break_connection": "before"}, False, "the connection was closed"),
        ({"break_connection": "mid"}, False, "the connection was closed"),
        ({"break_after_chunks": 2}, True, "the connection was closed"),
        ({"garbage_after_chunks": 2}, True, "a stream broke off"),
    ],
)
def test_all_else_is_a_failure(provider: Provider, behaviour: dict[str, Any], stream: bool, said: str) -> None:
    provider.behave(**behaviour)
    target = Target(provider.url, "model", stream=stream)
    burst(target)
    (failure,) = target.failures
    assert said in failure
    assert (target.served, target.failures.total()) == (0, 8)


def test_an_error_within_a_stream_is_a_failure(provider: Provider) -> None:
    provider.behave(chunks=[{"error": {"message": "The model's provider broke off."}}])
    target = Target(provider.url, "model", stream=True)
    burst(target, 1)
    assert (target.served, target.failures.total()) == (0, 1)


def test_pairs_are_asked_in_turn(provider: Provider) -> None:
    provider.behave("slow", latency_s=0.1)
    pairs = asyncio.run(ask_in_turn(Target(provider.url, "fast"), Target(provider.url, "slow"), seconds=0.3))
    assert [call["model"] for call in provider.calls()] == ["fast", "slow"] * len(pairs)
    assert all(slow.whole_s > fast.whole_s for fast, slow in pairs)


def test_percentiles() -> None:
    assert [percentile(range(1, 201), percent) for percent in (50, 99, 100)] == [100, 198, 200]
