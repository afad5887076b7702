"""Agents with tools and a temperature, from an untouched budget to its hard cap, on models as strict as the real ones.

The default route: Grok first, past the soft cap or where Grok fails a GPT that refuses a temperature, and tools
while it reasons. Every turn is served until the hard cap.
"""

import json
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

from spend.models import LedgerEntry
from tests.clients.test_clients import CLIENTS, PYTHON, skip_unless_installed
from tests.factories import ApiKeyFactory, BudgetFactory, CatalogueModelFactory, RouteStepFactory
from tests.support.agents import audit
from tests.support.provider import Provider
from tests.support.server import GuardServer

GROK, GPT = "grok-4.3", "gpt-6-luna"
LIMIT_TICKS = 40_000_000
MOST_TURNS = 400
TOOL = {
    "type": "function",
    "function": {
        "name": "find_parcel",
        "parameters": {"type": "object", "properties": {"number": {"type": "string"}}, "required": ["number"]},
    },
}


@pytest.fixture
def server(guard_server: Callable[..., GuardServer]) -> Iterator[GuardServer]:
    server = guard_server(start=False)
    with server.database():
        CatalogueModelFactory.create(id=GROK)
        CatalogueModelFactory.create(
            id=GPT, provider="openai", price__tier__input_ticks=2_500, price__tier__output_ticks=5_000
        )
    server.start()
    yield server
    audit(server)


def key_of(server: GuardServer, *, downgrades: bool = True) -> str:
    """Of a tenant with a small budget and the default route, or one like it without a downgrade."""
    with server.database():
        key = ApiKeyFactory.create()
        BudgetFactory.create(tenant=key.tenant, limit_ticks=LIMIT_TICKS)
        if not downgrades:
            for model_id in (GROK, GPT):
                RouteStepFactory.create(tenant=key.tenant, model_id=model_id, model=None)
        return key.secret


class PlainAgent:
    """What everybody writes first: a loop over the chat, with the model's tool calls answered."""

    def __init__(self, server: GuardServer, secret: str, *, stream: bool, model: str) -> None:
        self.client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=secret)
        self.stream, self.model = stream, model
        self.messages: list[dict[str, Any]] = []
        self.states: list[str] = []
        self.served_by: list[str] = []

    def turn(self) -> None:
        """Ask, call the tool, and hear what the model makes of it; and some turns later begin anew."""
        self.messages = [*self.messages[-12:], {"role": "user", "content": "Please find parcel 17 for me."}]
        answer = self.ask()
        assert answer["tool_calls"], answer
        self.messages.append(answer)
        for call in answer["tool_calls"]:
            self.messages.append({"role": "tool", "tool_call_id": call["id"], "content": "It is in Berlin."})
        answer = self.ask()
        assert "Berlin" in answer["content"], answer
        self.messages.append(answer)

    def ask(self) -> dict[str, Any]:
        create: Any = self.client.chat.completions.with_raw_response.create
        raw = create(
            model=self.model,
            messages=self.messages,
            tools=[TOOL],
            temperature=0.2,
            # Grok takes none, and says so to who names it.
            stop=["Observation:"] if self.model == "auto" else openai.omit,
            max_tokens=60,
            user="ada",
            stream=self.stream,
        )
        self.states.append(raw.headers["X-Guard-Budget-State"])
        self.served_by.append(raw.headers["X-Guard-Model"])
        if self.stream:
            return self.put_together(raw.parse())
        message: dict[str, Any] = raw.parse().choices[0].message.model_dump()
        return message

    def put_together(self, chunks: Any) -> dict[str, Any]:
        content, calls = "", dict[int, dict[str, Any]]()
        for chunk in chunks:
            for delta in (choice.delta for choice in chunk.choices):
                content += delta.content or ""
                for piece in delta.tool_calls or ():
                    call = calls.setdefault(piece.index, {"id": piece.id, "type": "function", "function": {}})
                    function = call["function"]
                    function["name"] = function.get("name") or piece.function.name
                    function["arguments"] = function.get("arguments", "") + piece.function.arguments
        return {"role": "assistant", "content": content or None, "tool_calls": list(calls.values()) or None}

    def run(self) -> openai.APIStatusError:
        """Turn after turn; the error that ends it."""
        with self.client:
            for _ in range(MOST_TURNS):
                try:
                    self.turn()
                except openai.APIStatusError as error:
                    return error
        raise AssertionError("the budget did not end")


def in_order(states: list[str]) -> list[str]:
    """Each state once, as they came."""
    return [state for state, before in zip(states, ["", *states], strict=False) if state != before]


@pytest.mark.parametrize("model", ["auto", GROK])
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_an_agent_is_served_on_each_turn_until_its_hard_cap(
    server: GuardServer, provider: Provider, stream: bool, model: str
) -> None:
    agent = PlainAgent(server, key_of(server), stream=stream, model=model)
    error = agent.run()
    assert (error.status_code, error.code) == (429, "budget_exceeded"), error
    assert error.response.headers["X-Guard-Budget-State"] == "stopped"
    assert in_order(agent.states)[:2] == ["active", "degraded"]
    assert set(agent.served_by) == {GROK, GPT}
    assert {call["body"]["reasoning_effort"] for call in provider.calls(GPT)} == {"none"}
    assert all("stop" not in call["body"] for call in provider.calls(GROK))
    with server.database():
        spent = sum(LedgerEntry.objects.values_list("cost_ticks", flat=True))
    assert 0.9 * LIMIT_TICKS < spent <= LIMIT_TICKS


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_an_agent_is_served_on_each_turn_while_its_first_model_is_down(
    server: GuardServer, provider: Provider, stream: bool
) -> None:
    provider.behave(GROK, status=500)
    agent = PlainAgent(server, key_of(server), stream=stream, model="auto")
    error = agent.run()
    assert (error.status_code, error.code) == (429, "budget_exceeded"), error
    assert set(agent.served_by) == {GPT}
    assert in_order(agent.states)[:2] == ["active", "degraded"]


def test_without_a_downgrade_the_way_leads_over_warned(server: GuardServer, provider: Provider) -> None:
    agent = PlainAgent(server, key_of(server, downgrades=False), stream=False, model="auto")
    error = agent.run()
    assert (error.status_code, error.code) == (429, "budget_exceeded"), error
    assert in_order(agent.states)[:2] == ["active", "warned"]


@pytest.mark.parametrize("is_down", [False, True], ids=["up", "primary down"])
def test_the_agents_sdk_is_served_on_each_turn_until_the_hard_cap(
    server: GuardServer, provider: Provider, is_down: bool
) -> None:
    skip_unless_installed(str(PYTHON))
    if is_down:
        provider.behave(GROK, status=500)
    environment = {"GUARD_URL": server.url, "GUARD_KEYS": json.dumps({"small": key_of(server)}), "NO_PROXY": "*"}
    ran = subprocess.run(
        [str(PYTHON), str(CLIENTS / "agentloop.py")],
        cwd=CLIENTS, env=environment, capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    seen = json.loads(ran.stdout.splitlines()[-1])
    assert seen["loop"].get("turns", 0) > 10, seen
    assert (seen["loop"]["ended_by"]["status"], seen["loop"]["ended_by"]["code"]) == (429, "budget_exceeded"), seen
    with server.database():
        models = set(LedgerEntry.objects.values_list("model", flat=True))
    assert models == ({GPT} if is_down else {GROK, GPT})
