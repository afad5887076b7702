"""The map of the house: whatever file it says to open is there."""

import re

import pytest

from tests.support.environment import ROOT

PAGE = (ROOT / "docs" / "architecture.md").read_text()
FILES = re.findall(r"`(\w[\w/.]*/[\w.]+)`", PAGE)
DIRECTORIES = re.findall(r"`([\w/]+/)`", PAGE)


@pytest.mark.parametrize("path", sorted({*FILES, *DIRECTORIES}))
def test_what_the_page_names_is_there(path: str) -> None:
    assert (ROOT / path).exists()


def test_every_change_has_its_file() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| I want")]
    assert len(rows) > 20
    assert all("`" in row for row in rows)
