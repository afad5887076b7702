"""`python -m tests.screenshots`: the README's pictures, of a real server with some weeks of made-up business."""

import os
import re
import sys
import tempfile
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import django
from playwright.sync_api import BrowserContext, Page

from tests.support.environment import ROOT, environment_of_tests

PICTURES = ROOT / "docs" / "images"
MOST_BYTES = 250_000
DRAWN_AFTER_MS = 1_500
DESK = {"width": 1440, "height": 900}
TALL_DESK = {"width": 1280, "height": 1400}
PHONE = {"width": 390, "height": 844}

Logins = dict[str, str]
"""Passwords by name."""


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="guard-screenshots-") as directory:
        environment = environment_of_tests(f"sqlite:///{directory}/guard.sqlite3", "http://127.0.0.1:1/v1")
        os.environ |= {**environment, "DEBUG": "true", "XAI_API_KEY": "", "OPENAI_API_KEY": ""}
        django.setup()
        logins = fill()
        take_all(Path(directory), logins)
    too_large = [path for path in PICTURES.glob("*.png") if path.stat().st_size > MOST_BYTES]
    for path in too_large:
        print(f"{path.relative_to(ROOT)} is larger than {MOST_BYTES:,} bytes.", file=sys.stderr)
    return len(too_large)


def fill() -> Logins:
    """Make a database as `make run` does, with its made-up weeks."""
    from django.core.management import call_command

    from tests.support.books import assert_the_books_balance

    welcome = StringIO()
    call_command("migrate", verbosity=0)
    call_command("sync_prices", stdout=welcome)
    call_command("load_demo", stdout=welcome)
    assert_the_books_balance()
    return dict(re.findall(r"(\w+) / (\S+)", welcome.getvalue()))


def take_all(directory: Path, logins: Logins) -> None:
    from tests.support.browser import chromium
    from tests.support.server import GuardServer

    PICTURES.mkdir(exist_ok=True)
    server = GuardServer(os.environ["DATABASE_URL"], directory / "server.log")
    server.start()
    try:
        with chromium() as browser:
            for name, (take, options) in SHOTS.items():
                take_one(name, take, browser.new_context(**options), server.url, logins)
    finally:
        server.close()


def take_one(
    name: str, take: Callable[[Page, str, Logins], None], context: BrowserContext, url: str, logins: Logins
) -> None:
    page = context.new_page()
    take(page, url, logins)
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(DRAWN_AFTER_MS)
    page.screenshot(path=PICTURES / f"{name}.png")
    context.close()


def overview(page: Page, url: str, logins: Logins) -> None:
    from tests.support.browser import enter_dashboard

    enter_dashboard(page, url, "admin", logins["admin"])


def tenant(page: Page, url: str, logins: Logins) -> None:
    from tests.support.browser import enter_dashboard

    enter_dashboard(page, url, "maria", logins["maria"])
    page.goto(f"{url}/tenants/acme-corp/")


def admin_tenant(page: Page, url: str, logins: Logins) -> None:
    from tests.support.browser import enter_admin

    enter_admin(page, url, "admin", logins["admin"])
    page.goto(f"{url}/admin/tenants/tenant/acme-corp/change/#budgets")


SHOTS: dict[str, tuple[Callable[[Page, str, Logins], None], dict[str, Any]]] = {
    "overview": (overview, {"viewport": DESK, "color_scheme": "light"}),
    "tenant": (tenant, {"viewport": TALL_DESK, "color_scheme": "dark"}),
    "phone": (overview, {"viewport": PHONE, "color_scheme": "light", "device_scale_factor": 2}),
    "admin": (admin_tenant, {"viewport": DESK, "color_scheme": "light"}),
}

if __name__ == "__main__":
    sys.exit(main())
