"""A tenant's calls of the past, in order, each with what it asked for and what it came to: for reckoning them anew.

As plain tuples and by a statement of our own: there may be very many of them, and a model's instance takes longer to
make than all that is done with it. Read by the thousand, each time from behind the last, so that no cursor stays open.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

from spend.models import Call, LedgerEntry
from spend.pricing.cost import Usage
from spend.replica import reports_connection

BATCH = 5_000
CALLS, ENTRIES = Call._meta.db_table, LedgerEntry._meta.db_table

# The steps are long, and only those of calls that met a failure are asked for.
STATEMENT = f"""
    WITH chosen AS (
        SELECT * FROM {CALLS} WHERE tenant_id = %s AND at < %s AND (at > %s OR (at = %s AND id > %s))
        ORDER BY at, id LIMIT {BATCH}
    )
    SELECT chosen.id, chosen.at, chosen.key_id, chosen.customer, chosen.conversation, chosen.requested_model,
        chosen.model, chosen.route, chosen.outcome, chosen.code, chosen.cost_ticks, chosen.duration_ms, chosen.asked,
        CASE WHEN chosen.route = 'fallback' OR chosen.outcome = 'failed' THEN chosen.steps END,
        entry.at, entry.model, entry.cost_ticks, entry.hold_ticks, entry.computed_ticks, entry.input_tokens,
        entry.cached_input_tokens, entry.cache_write_tokens, entry.output_tokens, entry.reasoning_tokens
    FROM chosen LEFT JOIN {ENTRIES} entry ON entry.call_id = chosen.id AND entry.at >= %s
    ORDER BY chosen.at, chosen.id, entry.at
"""  # noqa: S608  the tables' names are our models'


class Attempt(NamedTuple):
    """What an attempt was held for and cost, in ticks; its usage is known where it could be priced by our figures."""

    model: str
    cost_ticks: int
    hold_ticks: int
    is_usage_known: bool
    usage: Usage


@dataclass(slots=True)
class PastCall:
    """`at` is when its first hold was made, else when it came. `asked` and `steps` are JSON; None where there is none.

    `attempt` is the one whose model served.
    """

    at: datetime
    key_id: int
    customer: str
    conversation: str
    requested_model: str
    model: str
    route: str
    outcome: str
    code: str
    cost_ticks: int
    duration_ms: int
    asked: str | None
    steps: str | None
    attempt: Attempt | None = None


def past_calls(tenant_id: str, starts_at: datetime, ends_at: datetime) -> Iterator[PastCall]:
    """Those that came from `starts_at` on and before `ends_at`, oldest first."""
    after, last_id = starts_at, UUID(int=0)
    while rows := _rows(tenant_id, ends_at, after, last_id, starts_at):
        yield from _grouped(rows)
        after, last_id = _instant(rows[-1][1]), UUID(str(rows[-1][0]))


def _rows(tenant_id: str, ends_at: datetime, after: datetime, last_id: UUID, starts_at: datetime) -> list[Any]:
    """In the database's own types, which are turned into ours one by one: that is a third of all the time."""
    connection = reports_connection()
    at, identity = connection.ops.adapt_datetimefield_value, last_id.hex if connection.vendor == "sqlite" else last_id
    with connection.cursor() as cursor:
        cursor.execute(STATEMENT, [tenant_id, at(ends_at), at(after), at(after), identity, at(starts_at)])
        rows: list[Any] = cursor.fetchall()
    return rows


def _grouped(rows: Sequence[Any]) -> Iterator[PastCall]:
    call: PastCall | None = None
    last_id = None
    for row in rows:
        if row[0] != last_id:
            if call:
                yield call
            last_id, call = row[0], PastCall(_instant(row[14] or row[1]), *row[2:14])
        assert call  # noqa: S101
        if row[15] is not None and row[15] == call.model:
            call.attempt = _with(call.attempt, row)
    if call:
        yield call


def _with(before: Attempt | None, row: Any) -> Attempt:
    """An entry that corrects an expired one is the rest of its cost, and has the usage."""
    spent = before.cost_ticks if before else 0
    hold_ticks = before.hold_ticks if before else row[17]
    return Attempt(row[15], spent + row[16], hold_ticks, row[18] is not None, Usage(*row[19:24]))


def _instant(value: Any) -> datetime:
    """SQLite's are in UTC and do not say so, as texts where a statement has reckoned with them."""
    at: datetime = datetime.fromisoformat(value) if isinstance(value, str) else value
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at
