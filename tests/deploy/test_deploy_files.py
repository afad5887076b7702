"""What the product is deployed by agrees with it. `make check` holds the files against their schemas."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from guard import __version__
from guard.management.commands.serve import SETTLE_S
from guard.worker.background import BEAT_S, STOP_S
from tests.deploy.dockerfile import copies, stages
from tests.support.environment import ROOT

BUILD, LAST = stages((ROOT / "Dockerfile").read_text())
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
MANIFESTS = [
    manifest
    for path in sorted((ROOT / "deploy" / "kubernetes").glob("*.yaml"))
    for manifest in yaml.safe_load_all(path.read_text())
]
UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))
EXAMPLE = dict(re.findall(r"^([A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE))
STOP_DELAY_S, PROVIDER_TIMEOUT_S = int(EXAMPLE["STOP_DELAY_SECONDS"]), int(EXAMPLE["PROVIDER_TIMEOUT_SECONDS"])
STOP_OF_BACKGROUND_S = STOP_S + BEAT_S
STOP_OF_WEB_S = STOP_DELAY_S + PROVIDER_TIMEOUT_S + SETTLE_S + STOP_OF_BACKGROUND_S
"""With the background beside it, which is told once the web processes have ended."""
SIX_MINUTES_S = 360
UNIT_S = {"s": 1, "m": 60, "": 1, "min": 60}


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    for manifest in MANIFESTS:
        if template := manifest.get("spec", {}).get("template"):
            yield manifest["metadata"]["name"], template["spec"]


PODS = dict(pods())


def test_the_image_ends_without_root_and_without_a_builder() -> None:
    assert BUILD.base == LAST.base
    assert not LAST.values("RUN")
    assert LAST.values("USER") == ["10001:10001"]


def test_only_what_the_image_needs_gets_near_it() -> None:
    """A checkout's secrets and databases cannot be copied: everything is ignored but what is named."""
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    lines = [line for line in ignore if line and not line.startswith("#")]
    let_in = {line[1:] for line in lines if line.startswith("!")}
    copied = {source.rstrip("/") for origin, sources, _ in copies(BUILD) if origin is None for source in sources}
    assert lines[0] == "*"
    assert copied == let_in
    assert all((ROOT / name).exists() for name in copied)
    packages = {path.parent.name for path in ROOT.glob("*/apps.py")}
    assert packages <= copied


def test_every_file_names_the_version_that_it_belongs_to() -> None:
    named = [ROOT / name for name in ("Dockerfile", "compose.yaml", "docs/deploy.md")]
    paths = [*named, *(ROOT / "deploy").rglob("*.yaml")]
    tags = {tag for path in paths for tag in re.findall(r"\bguard:(\d[\w.]*)", path.read_text())}
    assert tags == {__version__}
    assert f"\n## {__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_a_stop_is_waited_for_until_calls_in_flight_have_ended() -> None:
    web, background = COMPOSE["services"]["web"], COMPOSE["services"]["background"]
    assert seconds(background["stop_grace_period"]) > STOP_OF_BACKGROUND_S
    assert PODS["guard-background"]["terminationGracePeriodSeconds"] > STOP_OF_BACKGROUND_S
    stops = {unit.stem: stop_of_unit(unit) for unit in UNITS}
    of_pod = PODS["guard-web"]["terminationGracePeriodSeconds"]
    assert seconds(web["stop_grace_period"]) == of_pod == stops["guard-web"] == SIX_MINUTES_S
    assert SIX_MINUTES_S > STOP_OF_WEB_S
    assert stops["guard-background"] > STOP_OF_BACKGROUND_S


def test_upkeep_reckons_a_stop_as_it_is() -> None:
    page = (ROOT / "docs" / "upkeep.md").read_text()
    assert f"{STOP_DELAY_S} + {PROVIDER_TIMEOUT_S} + {SETTLE_S} seconds, and {STOP_OF_BACKGROUND_S:.0f} more" in page
    assert f"That is {STOP_OF_WEB_S:.0f} seconds" in page
    assert "wait six minutes" in page


def stop_of_unit(unit: Path) -> int:
    [timeout] = re.findall(r"^TimeoutStopSec=(\w+)$", unit.read_text(), re.MULTILINE)
    return seconds(timeout)


def seconds(text: str) -> int:
    """Of a span as compose ("6m") or systemd ("6min", "30") writes it."""
    digits = text.rstrip("msin")
    return int(digits) * UNIT_S[text.removeprefix(digits)]


@pytest.mark.parametrize("name", ["web", "background", "migrate"])
def test_compose_runs_each_of_one_image_read_only_and_without_powers(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["image"] == COMPOSE["services"]["web"]["image"]
    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    assert service["environment"]["BACKGROUND"] == "false"


@pytest.mark.parametrize("name", ["guard-web", "guard-background", "guard-migrate"])
def test_pods_are_read_only_and_without_powers(name: str) -> None:
    pod = PODS[name]
    [container] = pod["containers"]
    assert (pod["securityContext"]["runAsNonRoot"], pod["securityContext"]["runAsUser"]) == (True, 10001)
    assert container["securityContext"] == {
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd here")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_systemd_understands_the_units(unit: Any) -> None:
    verified = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    # The product is not installed at its place here.
    told = [line for line in verified.stderr.splitlines() if unit.stem in line and "is not executable" not in line]
    assert told == []
