"""Single sign-on through a running server, as browsers go it: by an HTTP client, and in Chromium."""

from collections.abc import Callable

import pytest
from playwright.sync_api import ConsoleMessage, expect

from tenants.sign_in.sso.views import COOKIE
from tests.support.browser import axe_source, chromium, findings, settle
from tests.support.openid import OpenIdProvider
from tests.support.server import GuardServer

pytestmark = pytest.mark.once

PHONE, DESK = 390, 1440


@pytest.fixture(scope="module")
def server(module_server: Callable[..., GuardServer], openid_process: OpenIdProvider) -> GuardServer:
    server: GuardServer = module_server(start=False)
    server.environment |= openid_process.settings(server.url)
    server.start()
    return server


def test_a_client_goes_the_whole_way(server: GuardServer, openid: OpenIdProvider) -> None:
    client = server.client_of(None)
    assert f'href="{server.url}/sso/?next=%2Fadmin%2F"' in client.get("/admin/").text
    way = client.get("/sso/?next=/admin/", allow_redirects=False).headers["Location"]
    assert COOKIE in client.cookies
    back = openid.agree(way, openid.person("carla", "steerers"))
    assert back.startswith(f"{server.url}/sso/callback/?")
    answer = client.get(back.removeprefix(server.url))
    assert (answer.status_code, answer.url) == (200, f"{server.url}/admin/")
    assert "code=" not in server.log
    assert COOKIE not in client.cookies


def test_a_person_signs_in_and_out_in_a_browser(server: GuardServer, openid: OpenIdProvider) -> None:
    openid.person("olga", "watchers")
    axe = axe_source()
    with chromium() as browser:
        page = browser.new_context(viewport={"width": PHONE, "height": 800}, color_scheme="dark").new_page()
        problems: list[str] = []

        def is_problem(said: ConsoleMessage) -> bool:
            is_ours = said.location["url"].startswith(server.url) and "forged" not in said.location["url"]
            return said.type == "error" and is_ours

        page.route(
            lambda url: not url.startswith("http://127.0.0.1:"), lambda route: route.abort()
        )  # the provider's styles
        page.on("console", lambda said: problems.append(said.text) if is_problem(said) else None)
        page.goto(f"{server.url}/admin/")
        settle(page)
        assert findings(page, axe) == []
        page.get_by_role("link", name="Sign in with Shop ID").click()
        page.locator("input[name=sub]").fill("olga")
        page.locator("button[type=submit]").first.click()
        page.wait_for_url(f"{server.url}/admin/")
        page.set_viewport_size({"width": DESK, "height": 900})
        page.goto(f"{server.url}/")
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_role("status")).to_contain_text("still signed in at Shop ID")
        settle(page)
        assert findings(page, axe) == []
        page.get_by_role("link", name="Sign out there, too").click()
        page.wait_for_url(f"{openid.issuer}/oauth2/end_session?**")
        page.goto(f"{server.url}/sso/callback/?state=forged&code=forged")  # whose status the browser remarks
        expect(page.get_by_role("heading", name="This sign-in was not begun here")).to_be_visible()
        assert findings(page, axe) == []
        assert problems == []
