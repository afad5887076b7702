"""No name twice in one JSON object."""

import pytest

from tenants.json_names import name_given_twice

pytestmark = pytest.mark.pure


@pytest.mark.parametrize(
    ("names", "twice"),
    [("", None), ("a", None), ("abc", None), ("aa", "a"), ("abcb", "b"), ("abba", "a"), ("bab", "b")],
)
def test_the_first_name_that_comes_twice_is_named(names: str, twice: str | None) -> None:
    assert name_given_twice([(name, None) for name in names]) == twice
