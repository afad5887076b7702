"""A budget with a reserve, of a real server under many calls at once: who may use it, and that the cap holds."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from functools import partial

import pytest
import requests
from django.db import transaction

from spend.models import Window
from spend.pricing.cost import bound_input_tokens
from tests.factories import BudgetFactory
from tests.support.agents import HELLO, Agent, audit, upstream
from tests.support.provider import Provider
from tests.support.server import GuardServer

INPUT, OUTPUT, MAX_TOKENS = 12_500, 25_000, 50
HISTORY = [*HELLO, {"role": "assistant", "content": "It is on its way."}, {"role": "user", "content": "Since when?"}]
HOLD = bound_input_tokens(HISTORY) * INPUT + MAX_TOKENS * OUTPUT
LIMIT = 12 * HOLD
AT_ONCE = 12


@pytest.fixture
def agent(module_server: Callable[..., GuardServer], provider: Provider) -> Iterator[Agent]:
    server = module_server(HOLD_WAIT_SECONDS="0.2")
    with server.database(wait=False), transaction.atomic():
        agent = Agent.create(server, floor_max_tokens=64)
        BudgetFactory.create(tenant_id=agent.tenant_id, tenant=None, limit_ticks=LIMIT, reserve=Decimal("0.5"))
    usage = {"prompt_tokens": 60, "completion_tokens": MAX_TOKENS, "total_tokens": 60 + MAX_TOKENS}
    provider.behave(upstream(agent.model), usage=usage)
    yield agent
    audit(server)


def ask(agent: Agent, conversation: str) -> requests.Response:
    messages = HISTORY if conversation == "begun" else HELLO
    return agent.own_chat(messages=messages, conversationId=conversation, maxTokens=MAX_TOKENS, model=agent.model)


def is_spent(answer: requests.Response) -> bool:
    return answer.status_code == 429 and answer.json()["error"]["code"] == "budget_exceeded"


def spent_ticks(agent: Agent) -> int:
    with agent.server.database():
        (window,) = Window.objects.filter(tenant_id=agent.tenant_id, scope="tenant", period="day")
    assert window.held_ticks == 0
    return int(window.spent_ticks)


def test_conversations_that_have_begun_finish_and_the_cap_holds(agent: Agent) -> None:
    assert ask(agent, "begun").status_code == 200
    with ThreadPoolExecutor(AT_ONCE) as threads:
        while not is_spent(ask(agent, "another")):
            list(threads.map(partial(ask, agent), [f"new-{number}" for number in range(AT_ONCE)]))
        assert spent_ticks(agent) <= LIMIT // 2
        names = [name for number in range(AT_ONCE) for name in ("begun", f"late-{number}")]
        served = set()
        while not is_spent(ask(agent, "begun")):
            answers = list(threads.map(partial(ask, agent), names))
            served |= {name for name, answer in zip(names, answers, strict=True) if answer.status_code == 200}
            late = [answer for name, answer in zip(names, answers, strict=True) if name != "begun"]
            assert all(map(is_spent, late))
    assert served == {"begun"}
    assert LIMIT // 2 < spent_ticks(agent) <= LIMIT
