"""A real browser, and the accessibility checker in it."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.factories import PASSWORD
from tests.support.lacking import lacking

BROWSER_DIRECTORY = Path(__file__).parents[1] / "browser"
AXE = BROWSER_DIRECTORY / "node_modules" / "axe-core" / "axe.min.js"
CHROMIUM = shutil.which("chromium-headless-shell") or shutil.which("chromium")
"""The first is made for this, and needs half the CPU of a whole browser."""
OPTIONS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


def axe_source() -> str:
    """The accessibility checker, at the version in package.json."""
    if not AXE.exists():
        npm = shutil.which("npm") or lacking("npm")
        install = [str(npm), "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"]
        done = subprocess.run(install, cwd=BROWSER_DIRECTORY, capture_output=True, text=True, check=False, timeout=120)
        assert AXE.exists(), done.stderr
    return AXE.read_text()


@contextmanager
def chromium() -> Iterator[Browser]:
    """While it is open, the ORM may be used in other threads only: Playwright runs an event loop in this one."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM or lacking("chromium"), args=OPTIONS)
        try:
            yield browser
        finally:
            browser.close()


def problems_of(context: BrowserContext, url: str) -> list[str]:
    """What the pages of `context` will complain of, and the requests that they send elsewhere than to `url`."""
    problems: list[str] = []
    context.on("console", lambda said: problems.append(said.text) if said.type == "error" else None)
    context.on("request", lambda request: None if request.url.startswith(url) else problems.append(request.url))
    return problems


def settle(page: Page) -> None:
    """Wait until what its scripts and styles do at once is done: rows from the server, fonts, transitions."""
    page.evaluate(
        """async () => {
            const frame = () => new Promise(requestAnimationFrame);
            const ends = animation => animation.effect.getComputedTiming().endTime !== Infinity;
            const deadline = performance.now() + 20_000;
            await document.fonts.ready;
            await frame();
            while (document.querySelector("[x-cloak], .htmx-request") || document.getAnimations().some(ends)) {
                if (performance.now() > deadline) throw new Error(`${location} does not come to rest`);
                await frame();
            }
            await frame();
        }"""
    )


def findings(page: Page, axe: str) -> list[str]:
    """What the checker finds serious or worse, with everything that can be unfolded unfolded."""
    page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    if page.evaluate("typeof axe === 'undefined'"):
        page.evaluate(axe)
    violations = page.evaluate("axe.run({resultTypes: ['violations']}).then(found => found.violations)")
    return [
        f"{page.url}: {each['id']} ({each['impact']}): {node['html'][:200]} {node['failureSummary']}"
        for each in violations
        if each["impact"] in {"serious", "critical"}
        for node in each["nodes"]
    ]


def enter_admin(page: Page, url: str, name: str, password: str = PASSWORD) -> None:
    page.goto(f"{url}/admin/login/")
    page.locator("#id_username").fill(name)
    page.locator("#id_password").fill(password)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(f"{url}/admin/")


def enter_dashboard(page: Page, url: str, name: str, password: str = PASSWORD) -> None:
    page.goto(f"{url}/")
    page.get_by_label("User name").fill(name)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("heading", name="Overview").wait_for()
