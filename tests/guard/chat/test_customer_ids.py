"""Customers' and conversations' ids at the door: the same on every endpoint, in body and header."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.agents import Agent, upstream
from tests.support.provider import Provider
from tests.support.server import GuardServer

COMPOSED, DECOMPOSED = "Ren\u00e9e", "Rene\u0301e"
GROWS = "\u0958"  # a letter that is two once it is composed

Name = Callable[[Agent, str], Any]


@pytest.fixture
def server(shared_server: GuardServer) -> GuardServer:
    return shared_server


@pytest.fixture
def agent(server: GuardServer, provider: Provider) -> Agent:
    return Agent.hire(server)


def by_own_body(agent: Agent, given: str) -> Any:
    return agent.own_chat(customerId=given, conversationId=given)


def by_completion(agent: Agent, given: str) -> Any:
    return agent.chat(user=given, metadata={"conversation_id": given})


def by_safety_identifier(agent: Agent, given: str) -> Any:
    return agent.chat(user=" \u200b", safety_identifier=given, metadata={"conversation_id": given})


def by_response(agent: Agent, given: str) -> Any:
    body = {"model": agent.model, "input": "Hi", "user": given, "metadata": {"conversation_id": given}}
    return agent.client.post("/v1/responses", json=body)


def by_headers(agent: Agent, given: str) -> Any:
    # A client of HTTP trims a header's blanks itself.
    named = given.strip("\n").encode()
    return agent.chat({"X-Guard-Customer": named, "X-Guard-Conversation": named})  # type: ignore[dict-item]


WAYS: list[Name] = [by_own_body, by_completion, by_safety_identifier, by_response, by_headers]


def named(agent: Agent) -> set[tuple[str, str]]:
    return {(entry.customer, entry.conversation) for entry in agent.entries()}


@pytest.mark.parametrize("call", WAYS)
def test_an_id_is_trimmed_and_composed_on_every_way_in(agent: Agent, call: Name) -> None:
    for given in (COMPOSED, f"\u3000{DECOMPOSED}\u2003", f"\ufeff{COMPOSED}", f"{COMPOSED}\n", DECOMPOSED * 51):
        assert call(agent, given).status_code == 200, given
    assert named(agent) == {(COMPOSED, COMPOSED), (COMPOSED * 51, COMPOSED * 51)}


@pytest.mark.parametrize("call", WAYS)
def test_an_id_of_nothing_is_none(agent: Agent, call: Name) -> None:
    assert call(agent, "\u00a0\u200b\ufeff").status_code == 200
    assert named(agent) == {("", "")}


@pytest.mark.parametrize("call", WAYS)
def test_an_id_too_long_once_composed_is_refused_naming_it(agent: Agent, provider: Provider, call: Name) -> None:
    answer = call(agent, GROWS * 128)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] in {"customerId", "user", "safety_identifier", "X-Guard-Customer"}
    assert not provider.calls()


def test_a_provider_is_told_the_id_that_is_counted_or_none(agent: Agent, provider: Provider) -> None:
    assert agent.chat(user=f" {DECOMPOSED}").status_code == 200
    assert agent.chat(user=" ", safety_identifier="\u200b").status_code == 200
    told, none = (call["body"] for call in provider.calls(upstream(agent.model)))
    assert told["user"] == COMPOSED
    assert not none.keys() & {"user", "safety_identifier"}
