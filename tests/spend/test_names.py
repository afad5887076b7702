"""The one form of customers' and conversations' ids."""

from unicodedata import is_normalized, normalize

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spend.names import tidy


@pytest.mark.parametrize(
    ("typed", "counted"),
    [
        (None, ""), ("", ""), (" \t\n\u3000\u200b\ufeff", ""), (" alice\r\n", "alice"), ("\ufeffalice\u2060", "alice"),
        ("Rene\u0301e", "Ren\u00e9e"), ("a b", "a b"), ("\u2460", "\u2460"), ("\uff21", "\uff21"), ("\ufb01", "\ufb01"),
        ("Q7a", "Q7a"), ("\u0645\u06cc\u200c\u062e", "\u0645\u06cc\u200c\u062e"),
    ],
)  # fmt: skip
def test_blanks_and_unseen_marks_go_and_letters_are_composed_and_nothing_is_folded(typed: str, counted: str) -> None:
    assert tidy(typed) == counted


@given(st.text())
def test_a_tidied_id_stays_and_however_it_was_decomposed_is_the_same(typed: str) -> None:
    counted = tidy(typed)
    assert tidy(counted) == counted
    assert is_normalized("NFC", counted)
    assert tidy(normalize("NFD", typed)) == counted
    assert tidy(f" {typed}\u3000") == counted
