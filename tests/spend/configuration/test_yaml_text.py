"""YAML as the configuration has it: exact, and without surprises."""

from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spend.configuration.places import Refused
from spend.configuration.yaml_text import read_yaml, write_yaml

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
SCALARS = TEXTS | st.integers(-(10**20), 10**20) | st.booleans() | st.none()
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner), max_leaves=8)


# By their own clock values are slow to make on a busy machine.
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(VALUES)
def test_what_is_written_is_read_again(value: object) -> None:
    assert read_yaml(write_yaml({"value": value})) == {"value": value}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.1", Decimal("0.1")),  # as a float it would be 0.1000000000000000055
        ("5.00", Decimal("5.00")),
        ("1e3", Decimal(1000)),
        (".5", Decimal("0.5")),
        ("010", 10),  # YAML 1.1: 8
        ("1:30", "1:30"),  # YAML 1.1: 90
        ("no", "no"),  # YAML 1.1: false
        ("2026-12-31", "2026-12-31"),
        ("0x1F", "0x1F"),
        (".nan", ".nan"),
        ("true", True),
        ("~", None),
        ('"0.1"', "0.1"),
        ("'true'", "true"),
        ("", None),
    ],
)
def test_what_a_word_means(text: str, value: object) -> None:
    read = read_yaml(f"value: {text}")["value"]
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a: 1\nb: 2\na: 3", "Line 3: 'a' appears twice."),
        ("a: &x [1]\nb: *x", "aliases"),
        ("a: !!python/object/apply:os.system [ls]", "Line 1: the tag tag:yaml.org,2002:python/object/apply:os.system"),
        ("a: !secret b", "the tag !secret"),
        ("a: [", "line 2"),
        ("a: 1\n---\na: 2", "single document"),
        ("? [a]\n: 1", "name must be text"),
        ("[" * 5000 + "]" * 5000, "nested too deeply"),
        (b"\xff\xfea", "no YAML"),
    ],
)
def test_what_is_not_taken(text: str | bytes, why: str) -> None:
    with pytest.raises(Refused, match=why.replace("(", r"\(")):
        read_yaml(text)
