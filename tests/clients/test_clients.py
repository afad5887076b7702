"""The clients that agents are built on, unchanged, against the running guard: `make test-clients` installs them.

Each is a script in `tests/clients` that runs in the clients' own environment and prints what it saw.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from spend.models import Call, LedgerEntry, Outcome, Route
from tests.factories import (
    ApiKeyFactory,
    BudgetFactory,
    CatalogueModelFactory,
    DowngradeRuleFactory,
    RouteStepFactory,
    TenantFactory,
)
from tests.support.environment import ROOT
from tests.support.provider import Provider
from tests.support.server import GuardServer

CLIENTS = ROOT / "tests" / "clients"
PYTHON = ROOT / ".venv-clients" / "bin" / "python"
COMMANDS: dict[str, list[str]] = {
    **{script.stem: [str(PYTHON)] for script in CLIENTS.glob("[a-z]*_*.py") if script.stem[:5] != "test_"},
    "openai_node": ["node"],
}
TIMEOUT_S = 180
SAID = "[demo] Thanks for your patience."
REFUSED = {"stop", "stop_stream", "outage"}
STOP_ERRORS = {"RateLimitError", "OpenAIRateLimitError", "ModelQuotaExceededError"}
OUTAGE_ERRORS = {"InternalServerError", "OpenAIAPIError", "ServiceUnavailableError", "ModelUnavailableError"}
LOOKED_UP = "[demo] I've looked that up for you. Our system says: sunny, 7 degrees."


def skip_unless_installed(command: str) -> None:
    """On a machine without them the tests are skipped, unless they were asked for."""
    needed = CLIENTS / "node_modules" / ".installed" if command == "node" else Path(shutil.which(command) or command)
    if not (needed.exists() and shutil.which(command)):
        without_node = command == "node" and not shutil.which("npm")
        assert without_node or os.environ.get("GUARD_TEST_CLIENTS") != "required", f"{needed} is not there"
        pytest.skip(f"{needed.relative_to(ROOT)} is not there: make test-clients")


@dataclass(frozen=True)
class Shop:
    """A running guard and five tenants: two have money, two are past a cap, and the providers of one are down."""

    server: GuardServer
    keys: dict[str, str]

    @property
    def environment(self) -> dict[str, str]:
        # Nothing of the machine's own settings of these clients, and no telemetry of theirs.
        bare = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "NO_PROXY": "*"}
        quiet = {
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LANGSMITH_TRACING": "false",
            "OPENAI_AGENTS_DISABLE_TRACING": "1",
        }
        return bare | quiet | {"GUARD_URL": self.server.url, "GUARD_KEYS": json.dumps(self.keys)}

    def run(self, command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=CLIENTS,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )


@pytest.fixture
def shop(guard_server: Callable[..., GuardServer], provider: Provider) -> Shop:
    server = guard_server(start=False, CONTENT_KEYS="MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=")
    keys = {}
    with server.database():
        dear, cheap = (
            CatalogueModelFactory.create(id="dear"),
            CatalogueModelFactory.create(id="cheap", price__tier__input_ticks=10, price__tier__output_ticks=10),
        )
        CatalogueModelFactory.create(id="vectors", makes_embeddings=True)
        broken = CatalogueModelFactory.create(id="broken")
        for name in ("open", "keeps", "soft", "stopped", "down"):
            tenant = TenantFactory.create(id=name, content_days=30 if name == "keeps" else 0)
            keys[name] = ApiKeyFactory.create(tenant=tenant).secret
            RouteStepFactory.create(tenant_id=name, model=broken if name == "down" else dear)
        BudgetFactory.create(tenant_id="soft", soft_cap=Decimal("0.0001"))
        DowngradeRuleFactory.create(tenant_id="soft", to_model=cheap)
        BudgetFactory.create(tenant_id="stopped", limit_ticks=1)
    server.start()
    provider.behave("broken", status=500)
    return Shop(server, keys)


@pytest.fixture
def command(name: str) -> list[str]:
    """The client's interpreter; without it the test is skipped before a guard is started for it."""
    skip_unless_installed(COMMANDS[name][0])
    return COMMANDS[name]


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_a_client_works_unchanged(command: list[str], shop: Shop, provider: Provider, name: str) -> None:
    script = CLIENTS / (f"{name}.mjs" if command == ["node"] else f"{name}.py")
    ran = shop.run([*command, str(script)])
    assert ran.returncode == 0, ran.stderr
    seen = json.loads(ran.stdout.splitlines()[-1])
    check_answers(seen)
    check_refusals(seen)
    check_ledger(shop, seen)
    assert {call["model"] for call in provider.calls()} - {"vectors"} == {"dear", "cheap", "broken"}


def check_answers(seen: dict[str, Any]) -> None:
    assert not [one for name, one in seen.items() if name not in REFUSED and "error" in one], seen
    assert seen["chat"]["content"].startswith(SAID), seen
    assert seen["chat"].get("model", "dear") == "dear"
    assert seen["stream"]["content"].startswith(SAID), seen
    assert seen["stream"]["pieces"] > 5
    assert seen["stream"].get("models", ["dear"]) == ["dear"]
    assert seen["tools"]["content"].startswith(LOOKED_UP), seen
    assert seen.get("structured", {}).get("parsed", "Order") == "Order", seen
    assert seen.get("embeddings", {"dimensions": [8] * 6}) == {"dimensions": [8] * 6}
    if memory := seen.get("memory"):
        assert memory["content"].startswith(LOOKED_UP), seen
        assert memory["again"].startswith("[demo]"), seen
        assert memory.get("items", ["function_call_output"]) == ["function_call_output"]
    assert seen["downgrade"].get("model", "cheap") == "cheap", seen
    assert seen["downgrade"].get("route", "downgrade") == "downgrade"


def check_refusals(seen: dict[str, Any]) -> None:
    assert seen["stop"]["error"] in STOP_ERRORS, seen["stop"]
    assert seen["stop"]["status"] == 429
    assert "no model on the route fits what is left" in seen["stop"]["message"]
    assert seen.get("stop_stream", {"status": 429})["status"] == 429
    assert seen["outage"]["error"] in OUTAGE_ERRORS, seen["outage"]
    assert seen["outage"]["status"] == 503
    assert "No model on the route could answer" in seen["outage"]["message"]


def check_ledger(shop: Shop, seen: dict[str, Any]) -> None:
    """The guard's own record of it: each refused call came exactly once, whatever the client's retries."""
    with shop.server.database():
        calls = Call.objects.filter(tenant_id="stopped")
        stops = [name for name in seen if name.startswith("stop")]
        assert list(calls.values_list("outcome", "code")) == [(Outcome.REFUSED, "budget_exceeded")] * len(stops)
        (downgraded,) = LedgerEntry.objects.filter(tenant_id="soft")
        assert (downgraded.model, downgraded.route) == ("cheap", Route.DOWNGRADE)
        assert Call.objects.filter(tenant_id="down", code="all_models_failed").count() == 1
        assert not LedgerEntry.objects.filter(tenant_id__in=["stopped", "down"]).exists()


SNIPPET = re.compile(r"^```(sh|python|js) test\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SNIPPETS = SNIPPET.findall((ROOT / "docs" / "integrate.md").read_text())
RUN_BY = {"sh": ["sh", "-c"], "python": [str(PYTHON), "-c"], "js": ["node", "--input-type=module", "-e"]}


def test_the_page_has_a_snippet_for_each_client() -> None:
    text = "".join(code for _, code in SNIPPETS)
    for client in (
        "import OpenAI",
        "AsyncOpenAI",
        "with_raw_response",
        "Idempotency-Key",
        "ChatOpenAI",
        "litellm",
        "pydantic_ai",
        "agents",
    ):
        assert client in text
    assert {language for language, _ in SNIPPETS} == RUN_BY.keys()


def test_every_snippet_on_the_page_runs_as_it_stands(shop: Shop, subtests: pytest.Subtests) -> None:
    for number, (language, code) in enumerate(SNIPPETS):
        with subtests.test(f"{number} {language}"):
            skip_unless_installed(RUN_BY[language][0])
            key = {"OPENAI_BASE_URL": f"{shop.server.url}/v1", "OPENAI_API_KEY": shop.keys["open"]}
            ran = shop.run([*RUN_BY[language], code], **key)
            assert ran.returncode == 0, ran.stderr
            assert SAID.split("]")[1] in ran.stdout.replace("\n", " ")
