"""Very many calls of the guard at once."""

import asyncio
import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any

import aiohttp

from tests.support.agents import HELLO, Agent

TIMEOUT = aiohttp.ClientTimeout(total=60)


def burst(agents: Sequence[Agent], calls: int, *, over_s: float = 0, **body: Any) -> Counter[str]:
    """Calls of these agents in turn, all at once or spread over a time: how often which outcome.

    An outcome is "served", the error's code, or "disconnected". `user` may have the call's `{number}` in it.
    """
    return asyncio.run(_burst(agents, calls, over_s, {"model": "auto", "messages": HELLO, **body}))


async def _burst(agents: Sequence[Agent], calls: int, over_s: float, body: dict[str, Any]) -> Counter[str]:
    connector = aiohttp.TCPConnector(limit=0, force_close=True)  # each on a connection of its own: to any worker
    async with aiohttp.ClientSession(agents[0].server.url, connector=connector, timeout=TIMEOUT) as session:
        asks = [
            _call(session, agents[number % len(agents)], number * over_s / calls, _numbered(body, number))
            for number in range(calls)
        ]
        return Counter(await asyncio.gather(*asks))


async def _call(session: aiohttp.ClientSession, agent: Agent, after_s: float, body: dict[str, Any]) -> str:
    await asyncio.sleep(after_s)
    headers = {"Authorization": f"Bearer {agent.secret}"}
    try:
        async with session.post("/v1/chat/completions", json=body, headers=headers) as answer:
            said = await answer.json()
    except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError):  # before its answer, or within it
        return "disconnected"
    return "served" if answer.status == 200 else str(said["error"]["code"])


def _numbered(body: dict[str, Any], number: int) -> dict[str, Any]:
    return {**body, "user": body["user"].format(number=number)} if "user" in body else body


class Burst(threading.Thread):
    """Calls of one agent in the background, each by a customer of its own."""

    def __init__(self, agent: Agent, calls: int, over_s: float = 0, **body: Any) -> None:
        super().__init__()
        self.agent, self.calls, self.over_s, self.body = agent, calls, over_s, body
        self.outcomes: Counter[str] = Counter()
        self.start()

    def run(self) -> None:
        self.outcomes = burst([self.agent], self.calls, over_s=self.over_s, user="customer {number}", **self.body)
