"""Values from outside, of JSON or of a file, taken only where they are exact: whole numbers, decimals, instants."""

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

MOST_INTEGER = 2**31 - 1
"""The most that every database keeps in a column of whole numbers."""

PLAIN_DECIMAL = re.compile(r"-?[0-9]{1,30}(\.[0-9]{1,30})?")
RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def exact_decimal(data: Any) -> Decimal:
    """A number without a float in it, or a string of plain digits such as "12.50". Raises ValueError."""
    is_number = isinstance(data, int | Decimal) and not isinstance(data, bool)
    if not is_number and not (isinstance(data, str) and PLAIN_DECIMAL.fullmatch(data)):
        raise ValueError('must be a decimal string such as "12.50", or a number')
    return Decimal(data)


def read_instant(data: Any) -> datetime | None:
    """The instant in UTC, or None for what is no RFC 3339 time of the years that Python knows."""
    if not isinstance(data, str) or not RFC3339.fullmatch(data):
        return None
    try:
        return datetime.fromisoformat(data.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def instant_string(at: datetime) -> str:
    """RFC 3339 in UTC: "2026-12-31T23:59:59Z"."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")
