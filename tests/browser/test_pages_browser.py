"""The managers' pages in a real browser: accessible, on a phone and a desk, light and dark, and live."""

from collections.abc import Callable
from datetime import timedelta
from threading import Thread
from typing import Any, Literal

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.urls import reverse
from django.utils import timezone
from playwright.sync_api import BrowserContext, Page, expect
from pytest_django.live_server_helper import LiveServer

from spend.models import Call, Route
from tenants.models import Scope, Tenant
from tests.factories import ApiKeyFactory, BudgetFactory, CatalogueModelFactory, TenantFactory, UserFactory
from tests.support.browser import axe_source, chromium, enter_dashboard, findings, problems_of, settle
from tests.support.history import made_history, place_call

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.once]

LIVE_WITHIN_MS = 30_000


@pytest.fixture(scope="session")
def axe() -> str:
    return axe_source()


@pytest.fixture
def url(live_server: LiveServer, settings: Any) -> str:
    settings.SESSION_COOKIE_SECURE = settings.CSRF_COOKIE_SECURE = False  # it speaks plain HTTP
    return str(live_server.url)


@pytest.fixture
def manager(url: str) -> User:
    """Of a tenant with a history, one that is new, and one that is stopped."""
    full = made_history(entries=300, tenants=1, days=30, now=timezone.now())[0]
    BudgetFactory.create(tenant=full, scope=Scope.CUSTOMER, limit_ticks=1)
    key = full.keys.get()
    steps = [{"model": "dear", "decision": "failed", "code": "timeout"}, {"model": "cheap", "decision": "held"}]
    place_call(full, key, timezone.now(), request_id="req_told", route=Route.FALLBACK, steps=steps, input_tokens=5)
    stopped = TenantFactory.create(id="stopped")
    BudgetFactory.create(tenant=stopped, limit_ticks=1)
    place_call(stopped, ApiKeyFactory.create(tenant=stopped), timezone.now(), cost_ticks=5)
    CatalogueModelFactory.create(id="grok")
    user = UserFactory.create(username="mia")
    user.tenants.add(full, stopped, TenantFactory.create(id="new", name="Fresh Bakery"))
    return user


def log_in(context: BrowserContext, url: str) -> Page:
    page = context.new_page()
    enter_dashboard(page, url, "mia")
    return page


def addresses() -> list[str]:
    """Every page, full, new and stopped, and those that say that there is nothing."""
    call = Call.objects.get(request_id="req_told")
    full = call.tenant_id
    found = [
        reverse("overview"),
        reverse("overview") + "?q=nothing",
        reverse("find"),
        reverse("find") + "?request_id=no",
        reverse("find") + "?q=customer",
        reverse("password"),
        reverse("password") + "?changed=yes",
    ]
    for tenant in (full, "new", "stopped"):
        found += [f"{reverse('tenant', args=[tenant])}?span={span}" for span in ("today", "month", "30", "90")]
        found += [reverse(name, args=[tenant]) for name in ("calls", "statement")]
        found += [f"{reverse('tenant', args=[tenant])}?first={day}&last={day}" for day in (timezone.localdate(), "x")]
    found += [
        reverse("calls", args=[full]) + "?sort=cost",
        reverse("subject", args=[full, "customer"]),
        *(f"{reverse('subject', args=[full, kind])}?id={name}" for kind, name in subjects(call).items()),
        f"{reverse('subject_content', args=[full, 'key'])}?id={call.key_id}",
    ]
    return [*found, reverse("call", args=[full, call.id]), reverse("calls", args=[full]) + "?first=x", "/nothing/here/"]


def subjects(call: Call) -> dict[str, str]:
    """One customer, conversation and key of the call's tenant."""
    named = Call.objects.filter(tenant=call.tenant_id).exclude(customer="").exclude(conversation="")
    some = named.latest("at")
    return {"customer": some.customer, "conversation": some.conversation, "key": str(call.key_id)}


@pytest.mark.parametrize("width", [390, 1440])
def test_every_page_is_accessible_fits_and_breaks_no_policy(url: str, manager: User, axe: str, width: int) -> None:
    pages = addresses()
    with chromium() as browser:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme="dark")
        problems = problems_of(context, url)
        login = context.new_page()
        login.goto(f"{url}{reverse('login')}")
        problems += findings_light_and_dark(login, axe)
        page = log_in(context, url)
        for address in pages:
            page.goto(url + address)
            problems += findings_light_and_dark(page, axe)
            if page.evaluate("document.documentElement.scrollWidth") > width:
                problems.append(f"{address} is wider than {width} pixels")
    # The browser reports the page that is not there, which is asked for on purpose.
    assert [each for each in problems if "status of 404" not in each] == []


def findings_light_and_dark(page: Page, axe: str) -> list[str]:
    """The pages follow the system at once; in which look the next one is loaded changes with each."""
    found = []
    schemes: list[Literal["light", "dark"]] = ["light", "dark"]
    for scheme in schemes if not is_dark(page) else schemes[::-1]:
        page.emulate_media(color_scheme=scheme)
        settle(page)
        assert is_dark(page) == (scheme == "dark"), page.url
        found += findings(page, axe)
    return found


def is_dark(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.classList.contains('dark')"))


def test_hours_are_chosen_by_dragging_over_the_chart_and_by_keyboard(url: str, manager: User) -> None:
    full = Call.objects.get(request_id="req_told").tenant_id
    day = timezone.localdate() - timedelta(days=3)
    with chromium() as browser:
        page = log_in(browser.new_context(viewport={"width": 1440, "height": 900}), url)
        page.goto(f"{url}{reverse('tenant', args=[full])}?first={day}&last={day}")
        settle(page)
        canvas = page.locator("canvas")
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        assert box
        middle = box["y"] + box["height"] / 3
        page.mouse.move(box["x"] + box["width"] * 0.4, middle)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.6, middle, steps=4)
        expect(page.locator(".chosen")).to_be_visible()
        page.mouse.up()
        page.wait_for_url("**first_time=**")
        expect(page.locator("h2", has_text="compared with")).to_contain_text("until")
        page.locator("details.range summary").focus()
        page.keyboard.press("Enter")
        page.get_by_label("From time").fill("00:00")
        page.get_by_label("To time").fill("12:00")
        page.keyboard.press("Enter")
        page.wait_for_url("**last_time=12%3A00**")


def in_a_thread(work: Callable[[], Any]) -> None:
    def run() -> None:
        work()
        connection.close()

    thread = Thread(target=run)
    thread.start()
    thread.join()


def test_the_overview_is_live_and_says_when_it_is_not(url: str, manager: User) -> None:
    tenant = Tenant.objects.get(pk="new")
    key = ApiKeyFactory.create(tenant=tenant)
    with chromium() as browser:
        page = log_in(browser.new_context(), url)
        mine = page.locator("li", has=page.locator("#to-new"))
        expect(mine.locator("dd").last).to_have_text("0")
        page.evaluate("window.isTheSamePage = true")
        page.locator("#to-new").focus()
        in_a_thread(lambda: place_call(tenant, key, timezone.now(), cost_ticks=5))
        expect(mine.locator("dd").last).to_have_text("1", timeout=LIVE_WITHIN_MS)
        assert page.evaluate("window.isTheSamePage")
        assert page.evaluate("document.activeElement.id") == "to-new"

        expect(page.locator("#stale")).to_be_hidden()
        page.route("**/live/**", lambda route: route.abort())
        expect(page.locator("#stale")).to_be_visible(timeout=LIVE_WITHIN_MS)
        expect(page.locator("[data-service=Database] strong")).to_have_text("unavailable")
        page.unroute("**/live/**")
        expect(page.locator("#stale")).to_be_hidden(timeout=LIVE_WITHIN_MS)

        page.context.clear_cookies()
        expect(page.get_by_role("heading", name="Log in")).to_be_visible(timeout=LIVE_WITHIN_MS)


def test_the_keyboard_suffices(url: str, manager: User) -> None:
    with chromium() as browser:
        page = log_in(browser.new_context(color_scheme="light"), url)
        page.goto(f"{url}{reverse('tenant', args=['shop-0001'])}")
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "content"
        page.get_by_role("button", name="Switch between light and dark").focus()
        page.keyboard.press("Enter")
        assert page.evaluate("document.documentElement.classList.contains('dark')")
        page.reload()
        assert page.evaluate("document.documentElement.classList.contains('dark')")
        assert page.evaluate("JSON.parse(localStorage.getItem('adminTheme'))") == "dark"  # the admin's own choice too
        summary = page.get_by_text("The numbers as a table")
        summary.focus()
        page.keyboard.press("Enter")
        expect(page.get_by_role("region", name="Spent each day as a table")).to_be_visible()


def test_a_chart_draws_the_numbers_of_its_table(url: str, manager: User) -> None:
    with chromium() as browser:
        page = log_in(browser.new_context(), url)
        page.goto(f"{url}{reverse('tenant', args=['shop-0001'])}")
        drawn: Any = page.evaluate("Chart.getChart(document.querySelector('canvas')).data.datasets.map(d => d.label)")
        page.get_by_text("The numbers as a table").click()
        heads = page.get_by_role("region", name="as a table").locator("thead th").all_inner_texts()
        noted = page.get_by_text("far above what is drawn here.").all_inner_texts()
    assert heads[-2:] == ["All", "Before"]
    assert [label for label in drawn if not label.startswith(("Daily limit", "All, before"))] == heads[1:-2]
    assert "All, before" in drawn
    assert any(text.startswith("Daily limit: $") for text in [*drawn, *noted])
