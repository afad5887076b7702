"""The page on the configuration's file names each field of a tenant and of a budget, and no other."""

import re

import pytest

from spend.configuration import budgets, tenants
from tests.support.environment import ROOT

pytestmark = pytest.mark.pure

PAGE = (ROOT / "docs" / "configuration.md").read_text()


@pytest.mark.parametrize(
    ("whose", "fields"),
    [
        ("a tenant", [*tenants.COLUMNS.by_name, *tenants.BELONGINGS]),
        ("a budget", [*budgets.OF_TENANT.by_name]),
    ],
)
def test_the_page_names_just_the_fields_that_there_are(whose: str, fields: list[str]) -> None:
    _, table = PAGE.split(f"| of {whose} | |\n|---|---|\n")
    rows = table.partition("\n\n")[0].splitlines()
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(named) == sorted(fields)


def test_a_budget_of_the_installation_has_all_but_a_scope() -> None:
    assert budgets.OF_INSTALLATION.by_name.keys() == budgets.OF_TENANT.by_name.keys() - {"scope"}
