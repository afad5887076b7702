"""CSV, streamed: rows are made as they are sent, so a million of them need no more memory than a few."""

import csv
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from datetime import datetime
from io import StringIO
from itertools import chain, islice
from typing import Any
from zoneinfo import ZoneInfo

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, StreamingHttpResponse

from tenants.money import usd_from_ticks

ROWS_AT_ONCE = 500

# A spreadsheet would run such a text as a formula.
FORMULA = re.compile(r"\s*[=+\-@]|[\t\r\n]")


def csv_response(
    request: HttpRequest, filename: str, header: Sequence[str], rows: Iterable[Sequence[Any]]
) -> StreamingHttpResponse:
    """The rows under their header, as a file to save. `rows` is read in a thread where the server is asynchronous."""
    parts = _parts(chain([header], rows))
    content = _in_threads(parts) if isinstance(request, ASGIRequest) else parts
    return StreamingHttpResponse(
        content,
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{filename}"'},
    )


def _parts(rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    remaining = iter(rows)
    while some := list(islice(remaining, ROWS_AT_ONCE)):
        buffer = StringIO()
        csv.writer(buffer).writerows([[cell_of(value) for value in row] for row in some])
        yield buffer.getvalue()


async def _in_threads(parts: Iterator[str]) -> AsyncIterator[str]:
    # Django would read a plain iterator to its end before it sends the first byte.
    next_part = sync_to_async(lambda: next(parts, None))
    while (part := await next_part()) is not None:
        yield part


def cell_of(value: Any) -> Any:
    """A value as a cell. Text that a spreadsheet would run is quoted; numbers are no text and stay."""
    if isinstance(value, str) and FORMULA.match(value):
        return f"'{value}"
    return "" if value is None else value


def usd_cell(ticks: int | None) -> Any:
    """Exact USD as a number."""
    return None if ticks is None else Number(usd_from_ticks(ticks))


class Number:
    """A number written plainly, without an exponent."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __str__(self) -> str:
        return f"{self.value:f}"


def time_cell(at: datetime, zone: ZoneInfo) -> str:
    return at.astimezone(zone).isoformat(timespec="seconds")
