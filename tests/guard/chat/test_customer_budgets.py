"""The budgets of each customer and each conversation, on the running guard."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
import requests

from spend.models import LedgerEntry, Window
from tenants.models import Scope
from tests.factories import ApiKeyFactory, BudgetFactory, RouteStepFactory
from tests.support.provider import Provider
from tests.support.server import GuardServer

THREADS = 8
COST_TICKS = 10 * 12_500 + 20 * 25_000
USAGE = {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30}
NAMES: dict[tuple[str, Scope], Callable[[str], dict[str, Any]]] = {
    ("/v1/chat/completions", Scope.CUSTOMER): lambda who: {"user": who},
    ("/v1/chat/completions", Scope.CONVERSATION): lambda who: {"metadata": {"conversation_id": who}},
    ("/api/chat", Scope.CUSTOMER): lambda who: {"customerId": who},
    ("/api/chat", Scope.CONVERSATION): lambda who: {"conversationId": who},
}


class Shop:
    """A tenant with one template budget, on one path of a running guard."""

    def __init__(self, server: GuardServer, path: str, scope: Scope, limit_ticks: int) -> None:
        self.server, self.path, self.scope = server, path, scope
        with server.database():
            key = ApiKeyFactory.create(tenant__floor_max_tokens=20)
            RouteStepFactory.create(tenant=key.tenant)
            BudgetFactory.create(tenant=key.tenant, scope=scope, limit_ticks=limit_ticks, period="total")
        self.tenant_id, self.secret = key.tenant.id, key.secret

    def ask(self, who: str | None) -> requests.Response:
        body: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}], "model": "auto"}
        if self.path == "/api/chat":
            body |= {"tenantId": self.tenant_id, "maxTokens": 20}
        else:
            body |= {"max_tokens": 20}
        named = NAMES[self.path, self.scope](who) if who else {}
        return self.server.client_of(self.secret).post(self.path, json=body | named)

    def ask_at_once(self, who: str) -> list[requests.Response]:
        barrier = Barrier(THREADS)

        def ask(_number: int) -> requests.Response:
            barrier.wait()
            return self.ask(who)

        with ThreadPoolExecutor(THREADS) as pool:
            return list(pool.map(ask, range(THREADS)))


@pytest.fixture(scope="module")
def server(module_server: Callable[..., GuardServer]) -> GuardServer:
    """On Postgres, calls that come at once meet on two workers."""
    server: GuardServer = module_server(workers=2, HOLD_WAIT_SECONDS="5")
    return server


def code_of(answer: requests.Response) -> str:
    return "served" if answer.ok else str(answer.json()["error"]["code"])


@pytest.mark.parametrize(("path", "scope"), list(NAMES), ids=str)
def test_a_customers_and_a_conversations_budget_binds_each_of_them(
    server: GuardServer, provider: Provider, path: str, scope: Scope
) -> None:
    provider.behave(usage=USAGE)
    # One call's worst case is some dozens of tokens above its cost: this is room for two calls, and not for three.
    shop = Shop(server, path, scope, limit_ticks=COST_TICKS * 2 + COST_TICKS * 3 // 4)
    assert [code_of(shop.ask("ann")) for _ in range(3)] == ["served", "served", "budget_exceeded"]
    assert code_of(shop.ask("bob")) == "served"
    assert [code_of(shop.ask(None)) for _ in range(4)] == ["served"] * 4
    with shop.server.database():
        windows = Window.objects.filter(tenant_id=shop.tenant_id, scope=scope)
        spent = dict(windows.values_list("subject", "spent_ticks"))
        assert spent == {"ann": 2 * COST_TICKS, "bob": COST_TICKS}
        field = "customer" if scope == Scope.CUSTOMER else "conversation"
        assert LedgerEntry.objects.filter(tenant_id=shop.tenant_id, **{field: "ann"}).count() == 2


@pytest.mark.parametrize("scope", [Scope.CUSTOMER, Scope.CONVERSATION])
def test_first_sight_under_a_budget_of_nothing_pays_for_no_call(
    server: GuardServer, provider: Provider, scope: Scope
) -> None:
    """Eight at once are the first to need the window."""
    shop = Shop(server, "/v1/chat/completions", scope, limit_ticks=0)
    for number in range(3):
        assert {code_of(answer) for answer in shop.ask_at_once(f"new-{number}")} == {"budget_exceeded"}
    assert provider.calls() == []
    with shop.server.database():
        assert not LedgerEntry.objects.filter(tenant_id=shop.tenant_id).exists()
        windows = Window.objects.filter(tenant_id=shop.tenant_id, scope=scope)
        assert sorted(windows.values_list("subject", "spent_ticks", "held_ticks")) == [
            (f"new-{number}", 0, 0) for number in range(3)
        ]


def test_first_sight_under_a_small_budget_serves_exactly_what_fits(server: GuardServer, provider: Provider) -> None:
    provider.behave(usage=USAGE)
    shop = Shop(server, "/v1/chat/completions", Scope.CUSTOMER, limit_ticks=COST_TICKS * 3 + COST_TICKS * 3 // 4)
    for who in ("ann", "bob"):
        codes = [code_of(answer) for answer in shop.ask_at_once(who)]
        assert sorted(codes) == ["budget_exceeded"] * 5 + ["served"] * 3
    assert len(provider.calls()) == 6
    with server.database():
        windows = Window.objects.filter(tenant_id=shop.tenant_id, scope=Scope.CUSTOMER)
        spent = dict(windows.values_list("subject", "spent_ticks"))
        assert spent == {"ann": 3 * COST_TICKS, "bob": 3 * COST_TICKS}
