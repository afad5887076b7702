"""An invoice as a CSV file, of either provider's console or made by hand: a column each for the day, model and cost."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation

from django.core.exceptions import ValidationError

from spend.reconciliation.lines import Line, ticks_of

# Names of columns as consoles write them, lower case, the best first.
DAY = ("day", "date", "start_time_iso", "start_time", "usage date", "usage_date", "billing date", "chargeperiodstart")
MODEL = ("model", "line_item", "line item", "item", "description", "sku", "skuid", "chargedescription")
COST = ("cost", "amount_value", "amount", "cost_usd", "cost (usd)", "usd", "total", "billedcost")
CURRENCY = ("currency", "amount_currency", "billingcurrency")
MOST_LINES = 100_000
FIRST_SECOND_OF_2000 = 946_684_800


def read_file(text: str) -> list[Line]:
    """Raises ValidationError, which names the line and the column of what is not right."""
    header, *rows = _rows(text)
    columns = {name.strip().lower(): position for position, name in enumerate(header)}
    day, model, cost = (_column(columns, *names) for names in (("day", DAY), ("model", MODEL), ("cost", COST)))
    currency = next((columns[name] for name in CURRENCY if name in columns), None)
    lines, problems = [], []
    for number, row in enumerate(rows, 2):
        if not any(map(str.strip, row)):
            continue
        try:
            lines.append(_line(row, day, model, cost, currency))
        except ValueError as error:
            problems.append(f"Line {number}: {error}.")
    if problems:
        raise ValidationError(problems[:10])
    if not lines:
        raise ValidationError("There is no line below the names of the columns.")
    return lines


def _rows(text: str) -> list[Sequence[str]]:
    first = text.lstrip().partition("\n")[0]
    separator = max(",;\t", key=first.count)
    try:
        rows = list(_at_most(csv.reader(io.StringIO(text.strip()), delimiter=separator, strict=True)))
    except csv.Error as error:
        raise ValidationError(f"This is no CSV: {error}.") from error
    if not rows:
        raise ValidationError("The file is empty.")
    return rows


def _at_most(rows: Iterator[Sequence[str]]) -> Iterator[Sequence[str]]:
    for number, row in enumerate(rows):
        if number > MOST_LINES:
            raise ValidationError(f"At most {MOST_LINES:,} lines are read.")
        yield row


def _column(columns: Mapping[str, int], what: str, names: Sequence[str]) -> int:
    for name in names:
        if name in columns:
            return columns[name]
    found = ", ".join(columns)[:200]
    raise ValidationError(f"No column for the {what}: one of {', '.join(names)} is looked for among: {found}.")


def _line(row: Sequence[str], day: int, model: int, cost: int, currency: int | None) -> Line:
    """Raises ValueError."""
    if len(row) <= max(day, model, cost):
        raise ValueError("has fewer columns than the first line")
    if currency is not None and (named := row[currency].strip().lower()) not in {"usd", ""}:
        raise ValueError(f"is in {named[:10]!r}, and the ledger is in USD")
    return Line(_day(row[day].strip()), row[model].strip(), _ticks(row[cost].strip()))


def _day(text: str) -> date:
    """A day, or an instant in it: ISO 8601, or seconds since 1970."""
    try:
        if text.isdecimal() and int(text) >= FIRST_SECOND_OF_2000:
            return datetime.fromtimestamp(int(text), UTC).date()
        at = datetime.fromisoformat(text)
    except (ValueError, OverflowError, OSError):
        raise ValueError(f"{text[:40]!r} is no day such as 2026-11-03") from None
    return (at.astimezone(UTC) if at.tzinfo else at).date()


def _ticks(text: str) -> int:
    plain = text.removeprefix("$").removesuffix("USD").strip()
    try:
        return ticks_of(Decimal(plain))
    except (InvalidOperation, ValueError):
        raise ValueError(f"{text[:40]!r} is no amount such as 12.50") from None
