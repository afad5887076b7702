"""Strict JSON."""

import json
from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest
from django.conf import settings
from hypothesis import given
from hypothesis import strategies as st

from guard.http.errors import InvalidRequest, RequestTooLarge
from guard.http.strict_json import MOST_DEPTH, _unique, parse_json

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=30,
)


@given(JSON, st.booleans())
def test_what_is_json_is_read_as_it_is(value: Any, ascii_only: bool) -> None:
    assert parse_json(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@given(st.decimals(-(10**20), 10**20, allow_nan=False, places=12))
def test_numbers_with_a_point_are_exact(number: Decimal) -> None:
    read = parse_json(f"{number:f}".encode())
    assert isinstance(read, Decimal)
    assert read.as_tuple() == Decimal(f"{number:f}").as_tuple()


@given(st.binary(max_size=40))
def test_no_body_is_a_defect_of_ours(body: bytes) -> None:
    with suppress(InvalidRequest):
        parse_json(body)


@pytest.mark.parametrize(
    "body",
    [
        b"", b" ", b"NaN", b"Infinity", b"-Infinity", b"[NaN]", b"1e999", b"-1e999", b"1e99999999999999999999",
        b"9" * 5000,
        b"01", b"1.", b".5", b"+1", b"0x1", b"1_000", b"'a'", b"{a: 1}", b"[1,]", b"{} {}", b"// c\n1", b"\xff",
        b'"\xff"',
        b'"\xed\xa0\x80"', b"\xef\xbb\xbf1", "1".encode("utf-16"), b'"\x01"', b'"\\ud800"', b'"\\udc00\\ud800"',
        b'"\\x"',
        b'{"a": 1, "a": 2}', b'[{"b": {"a": 1, "\\u0061": 1}}]', b"[" * 900 + b"]" * 900, b"[" * 100_000,
    ],
)  # fmt: skip
def test_what_is_not_strict_json_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        parse_json(body)


class Name(str):
    """A name that counts how often it is compared with others."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        Name.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def test_the_name_that_comes_twice_is_found_in_one_pass() -> None:
    """Each with all others, the body of one caller would stop the worker's other calls for a minute."""
    with pytest.raises(InvalidRequest, match=r"^999: appears twice"):
        _unique([(Name(number), None) for number in [*range(1000), 999]])
    assert Name.compared < 2000


def test_a_name_twice_is_named_in_short() -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_json(b'{"%b": 1, "%b": 2}' % ((b"n" * 1000,) * 2))
    assert refused.value.param == "n" * 128 + "…"
    assert len(str(refused.value)) < 200


def test_a_name_twice_is_named() -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_json(b'{"limitUsd": 1, "limitUsd": 2}')
    assert refused.value.param == "limitUsd"


@pytest.mark.parametrize("inside", [b"", b"1"])
@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_nesting_has_a_limit(opening: bytes, closing: bytes, inside: bytes) -> None:
    inside = inside or (b"[]" if opening == b"[" else b"{}")
    levels = MOST_DEPTH if inside == b"1" else MOST_DEPTH - 1
    parse_json(opening * levels + inside + closing * levels)
    with pytest.raises(InvalidRequest, match="nested"):
        parse_json(opening * (levels + 1) + inside + closing * (levels + 1))


def test_a_wide_body_is_not_a_deep_one() -> None:
    assert len(parse_json(b"[" + b",".join([b"{}"] * 500) + b"]")) == 500


def test_a_body_has_a_limit() -> None:
    body = b'"' + b"a" * (settings.MAX_BODY_BYTES - 2) + b'"'
    assert parse_json(body)
    with pytest.raises(RequestTooLarge):
        parse_json(body + b" ")
