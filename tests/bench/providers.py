"""The demo provider as the two providers of the bench: the fast one and the slow one."""

import math
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate

import requests

from tests.support.environment import ROOT
from tests.support.postgres import free_port
from tests.support.provider import START_TIMEOUT_S, Provider

FAST_MODEL = "grok-4.3"
SLOW_MODEL = "gpt-6-luna"
SLOW_ANSWER_S = 0.5
PIECES, CHUNK_DELAY_S = 40, 0.1
CHUNKS_A_STREAM = PIECES + 3
"""One goes before the pieces of the text, and its end and the usage after them."""
STREAM_S = SLOW_ANSWER_S + (CHUNKS_A_STREAM - 1) * CHUNK_DELAY_S


class SlowProvider(Provider):
    """Answers after half a second; its streams then go on for four more. Keeps a log."""

    def start_over(self) -> None:
        """With an empty log."""
        self.reset()
        self.behave(latency_s=SLOW_ANSWER_S, chunks=PIECES, chunk_delay_s=CHUNK_DELAY_S)

    def most_at_once(self) -> int:
        """How many calls it had before it at its busiest moment."""
        calls = self.calls()
        begun = [(call["started_at"], 1) for call in calls]
        ended = [(call["ended_at"] or math.inf, -1) for call in calls]
        return max(accumulate(change for _, change in sorted(begun + ended)), default=0)


@dataclass(frozen=True)
class Providers:
    """The fast one plays xAI and keeps no log, which would cost; the slow one plays OpenAI, and has one."""

    fast_url: str
    slow: SlowProvider

    @property
    def environment(self) -> dict[str, str]:
        return {"XAI_BASE_URL": f"{self.fast_url}/v1", "OPENAI_BASE_URL": self.slow.base_url}


@contextmanager
def playing_providers() -> Iterator[Providers]:
    with fast_provider() as fast_url, slow_provider() as slow:
        yield Providers(fast_url, slow)


@contextmanager
def fast_provider() -> Iterator[str]:
    """Answers at once; its URL."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "guard.demo", "--port", str(port), "--latency", "0"], cwd=ROOT)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_it_answers(url, process)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=10)


def wait_until_it_answers(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            requests.get(f"{url}/v1/models", timeout=5).raise_for_status()
        except requests.ConnectionError:
            assert process.poll() is None, "the demo provider ended at its start"
            assert time.monotonic() < deadline, "the demo provider did not start"
            time.sleep(0.02)
        else:
            return


@contextmanager
def slow_provider() -> Iterator[SlowProvider]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        provider = SlowProvider(listener)
    try:
        yield provider
    finally:
        provider.stop()
