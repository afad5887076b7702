"""Operators' tasks in a real browser, as people do them: two at once, from a first key to a call, and back again."""

import shlex
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import orjson
import pytest
from django.utils import timezone
from playwright.sync_api import Browser, Page, expect

from tenants.models import Tenant
from tenants.money import TICKS_PER_USD as USD
from tenants.periods import Period
from tests.factories import (
    BudgetFactory,
    CatalogueModelFactory,
    DowngradeRuleFactory,
    RouteStepFactory,
    TenantFactory,
    UserFactory,
)
from tests.support.browser import axe_source, chromium, enter_admin, findings, problems_of, settle
from tests.support.history import place_call
from tests.support.server import GuardServer

pytestmark = pytest.mark.once

expect.set_options(timeout=30_000)

ODD = "/admin/tenants/tenant/acme_5Fshop/change/"
PHONE, DESK = 390, 1440


@pytest.fixture(scope="module")
def server(module_server: Callable[..., GuardServer]) -> GuardServer:
    server: GuardServer = module_server(start=False)
    with server.database():
        for name in ("olga", "carla"):
            UserFactory.create(username=name, is_staff=True, is_superuser=True)
        place_tenant()
    server.start()
    return server


def place_tenant() -> None:
    odd = TenantFactory.create(id="acme_shop", name="Acme Shop", time_zone="Europe/Oslo")
    BudgetFactory.create(tenant=odd, limit_ticks=5 * USD)
    BudgetFactory.create(tenant=odd, period=Period.MONTH, limit_ticks=90 * USD)
    for name in ("steady", "quick"):
        RouteStepFactory.create(tenant=odd, model=CatalogueModelFactory.create(id=name))
    RouteStepFactory.create(tenant=odd, model=CatalogueModelFactory.create(id="outgoing", is_enabled=False))
    DowngradeRuleFactory.create(tenant=odd, to_model_id="quick")
    key = odd.keys.model.objects.issue(odd, "Zendesk")[0]
    place_call(odd, key, timezone.now(), model="steady", cost_ticks=USD)


@contextmanager
def operator(browser: Browser, server: GuardServer, name: str, width: int = DESK, zone: str = "UTC") -> Iterator[Page]:
    context = browser.new_context(viewport={"width": width, "height": 900}, timezone_id=zone)
    problems = problems_of(context, server.url)
    page = context.new_page()
    enter_admin(page, server.url, name)
    yield page
    assert problems == []
    context.close()


def do(page: Page, action: str) -> None:
    """One of the page's actions, which a phone has in a menu."""
    settle(page)
    button = page.locator(f'[hx-get$="/{action}/"]').first
    if not button.is_visible():
        page.get_by_role("link", name="more_horiz").first.click()
    button.click()
    page.locator("#dialog").wait_for()


def submit(page: Page, words: str) -> None:
    page.locator("#dialog").get_by_role("button", name=words).click()


def save(page: Page) -> None:
    page.get_by_role("button", name="Save and continue editing").click()
    settle(page)


@pytest.mark.parametrize("width", [DESK, PHONE])
def test_every_action_of_a_tenant_with_an_underscore(server: GuardServer, width: int) -> None:
    with chromium() as browser, operator(browser, server, "olga", width) as page:
        page.goto(server.url + ODD)
        expect(page.get_by_role("heading", name="Audit trail")).to_be_visible()
        do(page, "raise-today")
        page.locator("#dialog #id_amount_ticks").fill("0,05")
        submit(page, "Raise until midnight")
        expect(page.locator("#dialog")).to_contain_text("no commas: 0.05.")
        page.locator("#dialog #id_amount_ticks").fill("0.05")
        submit(page, "Raise until midnight")
        expect(page.get_by_text("0.05 USD higher until")).to_be_visible()
        do(page, "pause")
        submit(page, "Pause")
        expect(page.get_by_text("This tenant is paused")).to_be_visible()
        do(page, "resume")
        submit(page, "Resume")
        expect(page.get_by_text("is open to calls again")).to_be_visible()


def test_two_operators_at_one_tenant(server: GuardServer) -> None:
    with (
        chromium() as browser,
        operator(browser, server, "olga") as old,
        operator(browser, server, "carla") as other,
    ):
        old.goto(f"{server.url}{ODD}#budgets")
        other.goto(f"{server.url}{ODD}#budgets")
        settle(old)
        settle(other)
        limits = [page.locator("#id_budgets-0-limit_ticks") for page in (old, other)]
        limits[1].fill("7")
        save(other)
        do(other, "pause")
        submit(other, "Pause")
        expect(other.get_by_text("This tenant is paused")).to_be_visible()
        limits[0].fill("6")
        old.locator("#id_budgets-1-limit_ticks").fill("80")
        save(old)
        expect(old.get_by_text("carla changed this from 5.00 USD to 7.00 USD")).to_be_visible()
        expect(limits[0]).to_have_value("6")
        save(old)
        expect(limits[0]).to_have_value("6.00")
        expect(old.locator("#id_budgets-1-limit_ticks")).to_have_value("80.00")
        expect(old.get_by_text("This tenant is paused")).to_be_visible()
        do(old, "resume")
        submit(old, "Resume")
        expect(old.get_by_text("is open to calls again")).to_be_visible()


@pytest.mark.parametrize("width", [DESK, PHONE])
def test_a_budget_gets_a_ladder_step_by_step(server: GuardServer, width: int) -> None:
    with server.database():
        tenant = TenantFactory.create(id=f"ladder-{width}")
        budget = BudgetFactory.create(tenant=tenant)
    with chromium() as browser, operator(browser, server, "olga", width) as page:
        page.goto(f"{server.url}/admin/tenants/tenant/ladder-{width}/change/#budgets")
        settle(page)
        add = page.get_by_role("button", name="Add a step")
        expect(add).to_have_count(1)
        expect(page.get_by_label("What calls get")).to_have_count(0)
        add.click()
        page.get_by_label("From percent of the limit").fill("85")
        add.click()
        page.get_by_label("From percent of the limit").nth(1).fill("70")
        save(page)
        expect(page.get_by_text("a further step is above the soft cap")).to_be_visible()
        page.get_by_label("From percent of the limit").nth(1).fill("95")
        page.get_by_label("Most output tokens").nth(1).fill("200")
        save(page)
        expect(page.get_by_text("Further steps:").first).to_contain_text("85 %: 2 downgrades, 95 %: 200 tokens")
        assert findings(page, axe_source()) == []
        page.get_by_role("button", name="Remove the step from 85 percent").click()
        save(page)
    with server.database():
        budget.refresh_from_db()
        assert budget.further_steps == "95 %: 200 tokens"


def test_models_are_dragged_swapped_and_added_on_a_route(server: GuardServer) -> None:
    with chromium() as browser, operator(browser, server, "olga") as page:
        page.goto(f"{server.url}{ODD}#route_steps")
        settle(page)
        expect(page.locator("#id_route_steps-2-model option:checked")).to_have_text("outgoing (is disabled)")
        page.locator("#id_route_steps-0-model").select_option("quick")
        page.locator("#id_route_steps-1-model").select_option("steady")
        save(page)
        models = [page.locator(f"#id_route_steps-{number}-model") for number in range(3)]
        expect(models[0]).to_have_value("quick")
        expect(models[1]).to_have_value("steady")
        handles = page.locator("#route_steps-data .material-symbols-outlined", has_text="drag_indicator")
        handles.nth(2).drag_to(handles.nth(0))
        save(page)
        expect(models[0]).to_have_value("outgoing")


def test_a_change_is_undone_in_the_trail_which_has_the_readers_time(server: GuardServer) -> None:
    with chromium() as browser, operator(browser, server, "olga", zone="America/New_York") as page:
        page.goto(server.url + ODD)
        page.locator("#id_name").fill("Renamed")
        save(page)
        change = page.locator(".trail li").first
        expect(change).to_contain_text("Changed tenant Renamed")
        expect(change).to_contain_text("Name: Acme Shop → Renamed")
        expect(change.locator("time")).to_contain_text(("EST", "EDT")[timezone.now().month in range(4, 11)])
        change.get_by_role("button", name="Undo").click()
        submit(page, "Change it back")
        expect(page.get_by_text("It is changed back.")).to_be_visible()
        expect(page.locator("#id_name")).to_have_value("Acme Shop")


def test_a_key_is_rotated_where_it_is_listed(server: GuardServer) -> None:
    with chromium() as browser, operator(browser, server, "olga", PHONE) as page:
        page.goto(f"{server.url}{ODD}#keys")
        settle(page)
        row = page.locator("#keys-data tr.form-row", has_text="Zendesk").first
        expect(row).to_contain_text("today")
        expect(row).to_contain_text("$1.00")
        row.get_by_role("button", name="Rotate").click()
        submit(page, "Issue the new key")
        expect(page.get_by_text("The new key, shown only now")).to_be_visible()


def test_from_nothing_to_a_call_that_works(server: GuardServer) -> None:
    """The page's own words, run by a shell."""
    axe = axe_source()
    with chromium() as browser, operator(browser, server, "olga") as page:
        page.goto(f"{server.url}/admin/tenants/tenant/add/")
        page.locator("#id_id").fill("new_one")
        page.locator("#id_name").fill("New One")
        page.locator("#id_day_ticks").fill("2.50")
        page.locator("#id_model_1").select_option("steady")
        page.get_by_role("button", name="Begin").click()
        curl = page.locator("#curl").inner_text()
        settle(page)
        assert findings(page, axe) == []
        done = subprocess.run(shlex.split(curl), capture_output=True, text=True, check=True, timeout=60)
        assert orjson.loads(done.stdout).get("tenantId") == "new_one", done.stdout
        page.get_by_role("link", name="To the page of New One").click()
        expect(page.get_by_text("of 2.50 USD").first).to_be_visible()
    with server.database():
        assert Tenant.objects.get(pk="new_one").keys.count() == 1


def test_many_are_changed_after_a_look(server: GuardServer) -> None:
    axe = axe_source()
    with server.database():
        for number in range(2):
            BudgetFactory.create(tenant=TenantFactory.create(id=f"many-{number}"), limit_ticks=(1 + number) * USD)
    with chromium() as browser, operator(browser, server, "olga") as page:
        page.goto(f"{server.url}/admin/tenants/tenant/?q=many-")
        settle(page)
        for box in page.locator("input.action-select").all():
            box.check()
        page.locator("select[name=action]").select_option("change_several")
        page.get_by_role("button", name="Run").click()
        page.locator("#id_kind").select_option("percent")
        page.locator("#id_percent").fill("50")
        page.get_by_role("button", name="Show what it would do").click()
        expect(page.get_by_role("row", name="many-1")).to_contain_text("3.00 USD a day")
        settle(page)
        assert findings(page, axe) == []
        page.get_by_role("button", name="Change them so").click()
        expect(page.get_by_text("2 tenants changed.")).to_be_visible()
