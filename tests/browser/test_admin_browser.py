"""The operators' pages in a real browser: accessible, light and dark, on a desk and a phone, within the policy."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import pytest
from axes.models import AccessAttempt
from django.contrib.admin import autodiscover, site
from django.contrib.admin.utils import quote
from django.contrib.auth.models import User
from django.test import RequestFactory
from django.urls import reverse
from django.utils import timezone
from django_otp.plugins.otp_static.models import StaticDevice
from django_otp.plugins.otp_totp.models import TOTPDevice
from playwright.sync_api import BrowserContext, Page

from spend.models import Breaker, Route
from tenants.models import Scope
from tenants.periods import Period
from tests.factories import (
    PASSWORD,
    ApiKeyFactory,
    BudgetFactory,
    CatalogueModelFactory,
    DowngradeRuleFactory,
    RouteStepFactory,
    TenantFactory,
    UserFactory,
)
from tests.support.browser import axe_source, chromium, enter_admin, findings, problems_of, settle
from tests.support.history import made_history, place_background, place_call
from tests.support.server import GuardServer

pytestmark = pytest.mark.once

TENANT = "/admin/tenants/tenant/shop-0001/change/"
TABS = ["budgets", "route_steps", "downgrade_rules", "keys", "top_ups"]
RECOVERY_CODE = "abcdefgh"
DIALOGS = ["raise-today", "issue-key", "pause"]


@pytest.fixture(scope="module")
def server(module_server: Callable[..., GuardServer]) -> GuardServer:
    """With a tenant that has everything, one that is stopped, one that is paused, and a model that fails."""
    server: GuardServer = module_server(start=False)
    with server.database():
        full = made_history(entries=120, tenants=1, days=10, now=timezone.now())[0]
        BudgetFactory.create(tenant=full, scope=Scope.CUSTOMER)
        BudgetFactory.create(tenant=None, scope=Scope.INSTALLATION, period=Period.MONTH)
        key = full.keys.get()
        place_call(full, key, timezone.now(), route=Route.FALLBACK, cost_ticks=9, hold_ticks=5, is_overrun=True)
        stopped = TenantFactory.create(id="stopped")
        BudgetFactory.create(tenant=stopped, limit_ticks=1)
        RouteStepFactory.create(tenant=stopped, model=CatalogueModelFactory.create(id="failing"))
        DowngradeRuleFactory.create(tenant=stopped)
        place_call(stopped, ApiKeyFactory.create(tenant=stopped), timezone.now(), model="failing", cost_ticks=5)
        TenantFactory.create(id="paused", is_active=False)
        Breaker.objects.create(model_id="failing", opened_at=timezone.now(), last_failure="timeout")
        place_background(full, timezone.now())
        AccessAttempt.objects.create(username="max", ip_address="203.0.113.7", failures_since_start=5)
        place_people()
    server.start()
    return server


def place_people() -> None:
    """An operator, and one who asked for a second factor."""
    UserFactory.create(username="olga", is_staff=True, is_superuser=True)
    careful = UserFactory.create(username="carla", is_staff=True, is_superuser=True)
    TOTPDevice.objects.create(user=careful, name="app", confirmed=True)
    StaticDevice.objects.create(user=careful, name="recovery codes").token_set.create(token=RECOVERY_CODE)


ADDRESSES = [
    "/admin/",
    "/admin/tenants/tenant/?is_active__exact=0",
    *(f"{TENANT}#{tab}" for tab in TABS),
    "/admin/tenants/tenant/stopped/change/#route_steps",
    "/admin/tenants/tenant/shop-0001/rehearsal/",
    "/admin/tenants/tenant/stopped/rehearsal/?model=failing&max_tokens=0",
    "/admin/auth/user/second-factor/",
    "/admin/configuration/",
    "/admin/auth/user/1/password/",
    "/admin/password_change/",
    "/admin/password_change/done/",
    "/admin/auth/user/1/history/",
]


def lists_and_rows() -> Iterator[str]:
    """Every list in the admin and one row of each that has any; where that may be done, how one is added or deleted."""
    autodiscover()
    request = RequestFactory().get("/")
    request.user = User.objects.get(username="olga")
    for model, model_admin in site._registry.items():
        name = f"admin:{model._meta.app_label}_{model._meta.model_name}"
        row = model._default_manager.first()
        yield reverse(f"{name}_changelist")
        if row:
            yield reverse(f"{name}_change", args=[quote(str(row.pk))])
        if model_admin.has_add_permission(request):
            yield reverse(f"{name}_add")
        if row and model_admin.has_delete_permission(request, row):
            yield reverse(f"{name}_delete", args=[quote(str(row.pk))])


LOOKS: list[tuple[Literal["light", "dark"], int]] = [("light", 1440), ("dark", 390)]
looks = pytest.mark.parametrize(("scheme", "width"), LOOKS)
PARTS = 4
"""Of the pages, so that several processes can look at them."""


@contextmanager
def looking(server: GuardServer, scheme: Any, width: int) -> Iterator[tuple[BrowserContext, list[str]]]:
    """A browser of that look, and what its pages complain of."""
    with chromium() as browser:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        yield context, problems_of(context, server.url)


@pytest.mark.parametrize("part", range(PARTS))
def test_every_page_is_accessible_fits_and_breaks_no_policy(server: GuardServer, part: int) -> None:
    """Each page is loaded in one look, and then turned to the other."""
    axe = axe_source()
    with server.database():
        addresses = [*ADDRESSES, *lists_and_rows()]
    in_turn = LOOKS if part % 2 else LOOKS[::-1]
    with looking(server, *in_turn[0]) as (context, problems):
        page = context.new_page()
        enter_admin(page, server.url, "olga")
        for address in addresses[part::PARTS]:
            page.goto("about:blank")  # else another tab of the same page would not load it anew
            for number, (scheme, width) in enumerate(in_turn):
                page.emulate_media(color_scheme=scheme)
                page.set_viewport_size({"width": width, "height": 900})
                if number == 0:
                    page.goto(server.url + address)
                else:
                    follow_the_system(page)
                settle(page)
                assert is_dark(page) == (scheme == "dark"), page.url
                problems.extend(findings(page, axe) + cut_off(page) + idle_scroll_bars(page))
                if page.evaluate("document.documentElement.scrollWidth") > width:
                    problems.append(f"{address} is wider than {width} pixels")
    assert problems == []


def follow_the_system(page: Page) -> None:
    """The admin asks the system for light or dark when it is loaded, and when the user chooses to follow it."""
    page.evaluate(
        """async () => {
            const theme = Alpine.$data(document.documentElement);
            theme.switchTheme("light");
            await Alpine.nextTick();
            theme.switchTheme("auto");
            await Alpine.nextTick();
        }"""
    )


def is_dark(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.classList.contains('dark')"))


@looks
def test_every_dialog_is_accessible(server: GuardServer, scheme: str, width: int) -> None:
    with looking(server, scheme, width) as (context, problems):
        page = context.new_page()
        enter_admin(page, server.url, "olga")
        problems.extend(findings_in_dialogs(page, server.url, axe_source()))
    assert problems == []


@looks
def test_the_door_is_accessible(guard_server: Callable[..., GuardServer], scheme: str, width: int) -> None:
    """On a server of its own, where guessing locks nobody else out."""
    server = guard_server(start=False)
    with server.database():
        place_people()
    server.start()
    with looking(server, scheme, width) as (context, problems):
        problems.extend(findings_at_the_door(context.new_page(), server.url, axe_source()))
    # The browser reports the tries that are too many, which are made on purpose.
    assert [each for each in problems if "status of 429" not in each] == []


def cut_off(page: Page) -> list[str]:
    """What of a list's cells is out of sight."""
    found: list[str] = page.evaluate(
        """[...document.querySelectorAll("#result_list :is(td, th)")]
            .filter(cell => cell.clientHeight && cell.scrollHeight > cell.clientHeight + 3)
            .map(cell => `${location}: cut off: ${cell.className.match(/field-\\w+/)} ${cell.innerText}`)
        """
    )
    return found


def idle_scroll_bars(page: Page) -> list[str]:
    found: list[str] = page.evaluate(
        """[...document.querySelectorAll("#content .simplebar-horizontal")]
            .filter(track => getComputedStyle(track).visibility === "visible" && track.clientWidth)
            .filter(track => (inner => inner.scrollWidth <= inner.clientWidth)(
                track.parentElement.querySelector(".simplebar-content-wrapper")))
            .map(() => `${location}: a scroll bar where nothing scrolls`)
        """
    )
    return found


def test_keys_and_locked_out_logins_on_a_phone(server: GuardServer) -> None:
    with chromium() as browser:
        page = browser.new_context(viewport={"width": 390, "height": 900}).new_page()
        enter_admin(page, server.url, "olga")
        page.goto(f"{server.url}{TENANT}#keys", wait_until="networkidle")
        row = page.locator("#keys-data tr.form-row").first
        tops = row.evaluate(
            """row => Object.fromEntries([...row.cells].map(cell =>
                [cell.className.match(/field-(\\w+)/)[1], cell.getBoundingClientRect().top]))"""
        )
        assert sorted(tops, key=lambda name: tops[name]) == [
            "name", "hint_shown", "state", "used", "spent", "change", "created_at", "expires_at",
        ]  # fmt: skip
        page.goto(f"{server.url}/admin/axes/accessattempt/", wait_until="networkidle")
        page.get_by_role("button", name="Unlock").click()
        page.locator("#dialog").get_by_role("button", name="Unlock").click()
        page.get_by_text("max may sign in again.").wait_for()


def findings_at_the_door(page: Page, url: str, axe: str) -> list[str]:
    """Where a code is asked for, where two-factor sign-in is on, and where guessing was locked out."""
    page.goto(f"{url}/admin/login/")
    found = findings(page, axe)
    sign_in(page, url, "carla", PASSWORD)
    found += findings(page, axe)
    page.locator("#id_password").fill(PASSWORD)
    page.locator("#id_code").fill(RECOVERY_CODE)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(f"{url}/admin/")
    page.goto(f"{url}/admin/auth/user/second-factor/", wait_until="networkidle")
    found += findings(page, axe)
    page.context.clear_cookies()
    for _ in range(5):
        sign_in(page, url, "olga", "guess")
    page.get_by_role("heading", name="Too many tries").wait_for()
    return found + findings(page, axe)


def sign_in(page: Page, url: str, name: str, password: str) -> None:
    page.goto(f"{url}/admin/login/")
    page.locator("#id_username").fill(name)
    page.locator("#id_password").fill(password)
    # The page that is left may have come to rest long ago: what counts is the one that answers.
    with page.expect_navigation(wait_until="networkidle"):
        page.get_by_role("button", name="Sign in").click()


def findings_in_dialogs(page: Page, url: str, axe: str) -> list[str]:
    found: list[str] = []
    for name in DIALOGS:
        page.goto(url + TENANT)
        settle(page)
        action = page.locator(f'[hx-get$="/{name}/"]').first
        if not action.is_visible():  # a phone has them in a menu
            page.get_by_role("link", name="more_horiz").first.click()
        action.click()
        page.locator("#dialog").wait_for()
        found += findings(page, axe)
    return found
