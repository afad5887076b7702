"""The whole story in one test: an operator lowers a limit, an agent's calls follow it, and the manager sees it."""

import re
import time
from collections.abc import Callable

import requests
from playwright.sync_api import Page, expect

from tenants.access.roles import role
from tenants.models import Tenant
from tenants.money import TICKS_PER_USD as USD
from tests.factories import ApiKeyFactory, BudgetFactory, CatalogueModelFactory, TenantFactory, UserFactory
from tests.support.browser import chromium, enter_admin, enter_dashboard
from tests.support.provider import Provider
from tests.support.server import GuardServer

TAKES_EFFECT_WITHIN_S = 1.0
SHOWN_WITHIN_MS = 30_000

LONG_PROMPT_TOKENS = 200_000
USAGE = {"prompt_tokens": LONG_PROMPT_TOKENS, "completion_tokens": 0, "total_tokens": LONG_PROMPT_TOKENS}
"""At 1.25 USD per million, 0.25 USD."""


class Agent:
    def __init__(self, server: GuardServer, secret: str) -> None:
        self.client = server.client_of(secret)

    def asks(self, question: str) -> requests.Response:
        body = {"tenantId": "acme", "messages": [{"role": "user", "content": question}], "conversationId": "chat-1"}
        return self.client.post("/api/chat", json=body)


class Operator:
    """Signed in, on the tenant's page in the admin."""

    def __init__(self, page: Page, url: str) -> None:
        enter_admin(page, url, "olga")
        page.goto(f"{url}/admin/tenants/tenant/acme/change/")
        self.page = page

    def lowers_the_limit_to(self, usd: str) -> None:
        self.page.get_by_role("link", name=re.compile("Budgets")).click()
        self.page.locator("#id_budgets-0-limit_ticks").fill(usd)
        self.page.get_by_role("button", name="Save and continue editing").click()

    def is_told(self, sentence: str) -> None:
        expect(self.page.get_by_text(sentence).first).to_be_visible()


def make_acme() -> str:
    """Its agent's key. On the default route grok-4.3, past the soft cap gpt-6-luna, a budget of 1 USD a day."""
    tenant: Tenant = TenantFactory.create(id="acme", name="Acme")
    BudgetFactory.create(tenant=tenant, limit_ticks=USD)
    CatalogueModelFactory.create(id="grok-4.3")
    cheap = {"price__tier__input_ticks": 1_000, "price__tier__output_ticks": 4_000}
    CatalogueModelFactory.create(id="gpt-6-luna", provider="openai", **cheap)
    UserFactory.create(username="olga", is_staff=True).groups.add(role("operator"))
    tenant.members.add(UserFactory.create(username="mia"))
    return ApiKeyFactory.create(tenant=tenant).secret


def test_an_operator_lowers_a_limit_and_the_agent_is_downgraded_then_refused_and_the_manager_sees_it(
    guard_server: Callable[..., GuardServer], provider: Provider
) -> None:
    provider.behave("grok-4.3", usage=USAGE)
    server = guard_server(start=False, DEBUG="true")  # over plain HTTP cookies cannot be for HTTPS only
    with server.database():
        agent = Agent(server, make_acme())
    server.start()

    with chromium() as browser:
        manager = browser.new_context().new_page()
        enter_dashboard(manager, server.url, "mia")
        expect(manager.get_by_text("Spending is within budget.")).to_be_visible()
        operator = Operator(browser.new_context().new_page(), server.url)

        served = agent.asks("x" * LONG_PROMPT_TOKENS)
        assert (served.status_code, served.headers["X-Guard-Model"]) == (200, "grok-4.3")
        assert served.headers["X-Guard-Cost-Usd"] == "0.25"

        operator.lowers_the_limit_to("0.30")
        operator.is_told("Today: 0.25 of 0.30 USD spent. That is past the soft cap")
        time.sleep(TAKES_EFFECT_WITHIN_S)
        downgraded = agent.asks("Where is my order?")
        assert (downgraded.status_code, downgraded.headers["X-Guard-Model"]) == (200, "gpt-6-luna")
        assert downgraded.headers["X-Guard-Route"] == "downgrade"
        assert downgraded.headers["X-Guard-Budget-State"] == "degraded"
        expect(manager.get_by_text("1 degraded: cheaper models answer.")).to_be_visible(timeout=SHOWN_WITHIN_MS)

        operator.lowers_the_limit_to("0.20")
        operator.is_told("Today: 0.25 of 0.20 USD spent. The tenant is stopped at once.")
        time.sleep(TAKES_EFFECT_WITHIN_S)
        refused = agent.asks("Where is my order?")
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "budget_exceeded")
        assert len(provider.calls()) == 2

        expect(manager.get_by_text("1 stopped: calls are refused.")).to_be_visible(timeout=SHOWN_WITHIN_MS)
        expect(manager.get_by_text("1 refused")).to_be_visible(timeout=SHOWN_WITHIN_MS)
        manager.goto(f"{server.url}/tenants/acme/calls/")
        rows = manager.get_by_role("row")
        expect(rows.filter(has_text="grok-4.3")).to_have_count(3)
        expect(rows.filter(has_text=re.compile("downgrade", re.IGNORECASE))).to_have_count(1)
