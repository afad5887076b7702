"""CSV, streamed: rows are made as they are sent, so a million of them need no more memory than a few.

People open it in a spreadsheet, which takes it for UTF-8 only where it begins with a byte order mark, splits it at
commas or, in much of Europe, at semicolons, and runs what looks like a formula. Machines get the values as they are.
"""

import csv
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextvars import Context, copy_context
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

BYTE_ORDER_MARK = "\ufeff"

# Full-width, small, raised and lowered signs, too: spreadsheets of East Asia read them as the plain ones.
SIGNS = "=+\\-@＝＋－＠﹦﹢﹣﹫⁼⁺⁻₌₊₋−"
# A cell begins where the text does, and, where it is split at semicolons, after one, a line's end or a quote.
FORMULA = re.compile(rf"(?:\A|(?<=[;\t\r\n\"]))(?=[^\S;\t\r\n]*[{SIGNS}])|\A(?=[\t\r\n])")


def csv_response(
    request: HttpRequest, filename: str, header: Sequence[str], rows: Iterable[Sequence[Any]]
) -> StreamingHttpResponse:
    """The rows under their header, as a file to save and to open in a spreadsheet.

    `rows` is read in a thread where the server is asynchronous.
    """
    cells = ([cell_of(value) for value in row] for row in rows)
    return _file(request, filename, chain([BYTE_ORDER_MARK], _parts(chain([header], cells))))


def machine_csv_response(
    request: HttpRequest, filename: str, header: Sequence[str], rows: Iterable[Sequence[Any]]
) -> StreamingHttpResponse:
    """The same for programs: nothing is before the header, and no text is changed."""
    return _file(request, filename, _parts(chain([header], rows)))


def _file(request: HttpRequest, filename: str, parts: Iterator[str]) -> StreamingHttpResponse:
    parts = _in_context(copy_context(), parts)
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
        csv.writer(buffer).writerows(some)
        yield buffer.getvalue()


def _in_context(context: Context, parts: Iterator[str]) -> Iterator[str]:
    """Made after the view has ended, rows come from the database all the same that it read from."""
    while (part := context.run(next, parts, None)) is not None:
        yield part


async def _in_threads(parts: Iterator[str]) -> AsyncIterator[str]:
    # Django would read a plain iterator to its end before it sends the first byte.
    next_part = sync_to_async(lambda: next(parts, None))
    while (part := await next_part()) is not None:
        yield part


def cell_of(value: Any) -> Any:
    """A value as a cell. Where a spreadsheet would run a text it gets an apostrophe; numbers are no text and stay."""
    return FORMULA.sub("'", value) if isinstance(value, str) else value


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
