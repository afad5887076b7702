"""JSON, read strictly: nothing in a body is guessed, dropped or rounded."""

import json
import re
from codecs import BOM_UTF8
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import IO, Any

import orjson
from django.conf import settings
from rest_framework.parsers import BaseParser

from guard.http.errors import InvalidRequest, RequestTooLarge, refuse
from tenants.json_names import name_given_twice

MOST_DEPTH = 64
MOST_CONTAINERS = 30_000
MOST_PIECES = 350_000
"""Of a body: strings, brackets and commas. Each object and list costs far more to read than a number in one."""
PIECE = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{},]', re.DOTALL)
LEAST_INTEGER, MOST_INTEGER = -(2**63), 2**63 - 1


def parse_json(body: bytes, *, exact: bool = True) -> Any:
    """The JSON value in `body`; numbers with a point or an exponent are exact Decimals, or floats if not `exact`.

    Raises InvalidRequest for what is not strict JSON in UTF-8: NaN, half a surrogate pair, a name twice in
    one object, numbers past a double's range, nesting deeper than MOST_DEPTH; and RequestTooLarge.
    """
    if len(body) > settings.MAX_BODY_BYTES:
        raise RequestTooLarge
    if body.startswith(BOM_UTF8 + b"{"):  # which some editors and shells put before a file that is sent as it is
        body = body[len(BOM_UTF8) :]
    _refuse_many(body)
    try:
        orjson.loads(body)  # stricter than the standard library's, which then reads exactly; both take about 10 µs
        value = (EXACT_DECODER if exact else DECODER).decode(body.decode())
    except (ValueError, InvalidOperation, RecursionError) as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}.") from error
    # A value has no more levels than brackets, so short bodies need no walk.
    if body.count(b"{") + body.count(b"[") > MOST_DEPTH:
        _refuse_deep(value)
    return value


def _refuse_many(body: bytes) -> None:
    """Counted in the bytes: to build a million objects only to refuse them keeps all other callers waiting."""
    containers = body.count(b"{") + body.count(b"[")
    if containers <= MOST_CONTAINERS and containers * 2 + body.count(b",") + body.count(b'"') <= MOST_PIECES:
        return
    # Most of them may stand in texts, so they are counted exactly: a text is one piece, however long.
    depth, containers, field = 0, 0, b""
    for pieces, found in enumerate(PIECE.finditer(body)):
        piece = found[0]
        if piece in b"{[":
            depth += 1
            containers += 1
        elif piece in b"]}":
            depth -= 1
        elif depth == 1 and piece != b"," and body[found.end() : found.end() + 8].lstrip().startswith(b":"):
            field = piece
        if containers > MOST_CONTAINERS:
            raise refuse(_name_of(field), f"is too much: a body has at most {MOST_CONTAINERS:,} objects and lists.")
        if pieces >= MOST_PIECES:
            raise refuse(_name_of(field), f"is too much: a body has at most {MOST_PIECES:,} values and brackets.")


def _name_of(field: bytes) -> str:
    return field.strip(b'"').decode(errors="replace") or "body"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if (twice := name_given_twice(pairs)) is not None:
        raise refuse(twice, "appears twice in one object.")
    return dict(pairs)


def _at_most_64_bits(digits: str) -> int:
    """What is sent on has to fit, and the standard library's integers know no end."""
    if not LEAST_INTEGER <= (value := int(digits)) <= MOST_INTEGER:
        raise InvalidRequest("The body is not valid: an integer in it has more than 64 bits.")
    return value


EXACT_DECODER = json.JSONDecoder(parse_float=Decimal, object_pairs_hook=_unique)
DECODER = json.JSONDecoder(parse_int=_at_most_64_bits, object_pairs_hook=_unique)


def _refuse_deep(value: Any) -> None:
    level = _containers([value])
    for _ in range(MOST_DEPTH):
        level = [inner for outer in level for inner in _containers(outer)]
        if not level:
            return
    raise InvalidRequest(f"The body is nested more than {MOST_DEPTH} levels deep.")


def _containers(outer: dict[str, Any] | list[Any]) -> list[dict[str, Any] | list[Any]]:
    inside = outer.values() if isinstance(outer, dict) else outer
    return [inner for inner in inside if isinstance(inner, dict | list)]


class StrictJSONParser(BaseParser):
    """`parse_json` for DRF; refuses a body that is too large before it is read."""

    media_type = "application/json"

    def parse(
        self, stream: IO[Any], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> Any:
        return parse_json(stream.read(settings.MAX_BODY_BYTES + 1))
