"""The audit: whether the books balance, to the tick, asked of the database in sets.

Of calls that retention removed there are sums only: they are held against each other, and against the
rollups, which stay.  What began after a tenant's mark is checked to the row.

Each check is one query that returns what is wrong, never what is right, so memory stays small however
long the ledger.  All of them read one snapshot: an audit of a running guard sees no half of a batch,
and keeps no call waiting.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from django.db import connection

from spend.summaries.buckets import BUCKET_MINUTES
from spend.summaries.measures import BILLED, MEASURES, OUTCOMES

MOST_SHOWN = 20
"""Discrepancies shown of each check: a defect that breaks one row often breaks them all."""

TABLES = {
    "windows": "spend_window",
    "reservations": "spend_reservation",
    "entries": "spend_ledgerentry",
    "calls": "spend_call",
    "rollups": "spend_rollup",
}


@dataclass(frozen=True)
class Check:
    """A query of discrepancies, and the words for a row of it: `{0}` is its first column.

    Names in the query's braces are of FRAGMENTS, or of the database's DIALECTS.
    """

    words: str
    query: str


# What SQLite and Postgres say differently: the window ids of reservation r (as counted.value), the
# quarter of an hour of `at`, and a transaction that reads one snapshot and locks nothing.
DIALECTS = {
    "sqlite": {
        "window_ids": "json_each(r.window_ids) AS counted",
        "bucket": "substr(at, 1, 14) || printf('%02d', CAST(substr(at, 15, 2) AS integer) "
        f"/ {BUCKET_MINUTES} * {BUCKET_MINUTES}) || ':00'",
        "begin": "BEGIN DEFERRED",  # Django's own would be IMMEDIATE
    },
    "postgresql": {
        "window_ids": "jsonb_array_elements_text(r.window_ids) AS counted(value)",
        "bucket": f"date_bin('{BUCKET_MINUTES} minutes', at, TIMESTAMPTZ '1970-01-01 00:00:00+00')",
        "begin": "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
    },
}

ATTEMPTED = [
    "call_id", "request_id", "tenant_id", "key_id", "customer", "conversation", "provider", "model",
    "requested_model", "tags", "route", "price_id", "hold_ticks",
]  # fmt: skip
"""What a reservation and its entry have in common."""

# What fell in window w by its scope and period, as `spend.ledger.window_opening` sums it; each read off an index.
END = "coalesce(w.ends_at, '9999-12-31')"
ENTRIES = f"""SELECT coalesce(sum(e.cost_ticks), 0) FROM spend_ledgerentry e
    WHERE e.tenant_id = w.tenant_id AND e.at >= w.starts_at AND e.at < {END}"""
ROLLUPS = (
    f"SELECT coalesce(sum(l.cost_ticks), 0) FROM spend_rollup l WHERE l.bucket >= w.starts_at AND l.bucket < {END}"
)
ARCHIVED = """CASE WHEN w.ends_at IS NULL THEN coalesce((SELECT a.cost_ticks FROM spend_archivedspend a
    WHERE a.tenant_id = w.tenant_id AND a.scope = w.scope AND a.subject = w.subject), 0) ELSE 0 END"""

FRAGMENTS = {
    "attempted_differs": " OR ".join(f"e.{column} <> r.{column}" for column in ATTEMPTED),
    "end": END,
    "fell": f"""CASE w.scope
        WHEN 'installation' THEN ({ROLLUPS})
        WHEN 'tenant' THEN ({ROLLUPS} AND l.tenant_id = w.tenant_id)
        WHEN 'key' THEN ({ENTRIES} AND CAST(e.key_id AS text) = w.subject) + {ARCHIVED}
        WHEN 'customer' THEN ({ENTRIES} AND e.customer = w.subject AND e.customer <> '') + {ARCHIVED}
        ELSE ({ENTRIES} AND e.conversation = w.subject AND e.conversation <> '') + {ARCHIVED}
    END""",
    "in_scope": """w.tenant_id IN ('', r.tenant_id) AND w.subject = CASE w.scope WHEN 'key' THEN CAST(r.key_id AS text)
        WHEN 'customer' THEN r.customer WHEN 'conversation' THEN r.conversation ELSE '' END""",
    "is_live": """NOT EXISTS (SELECT 1 FROM spend_rollupmark m
        WHERE m.tenant_id = parts.tenant_id AND parts.at < m.archived_through)""",
    "tier": """t.price_id = e.price_id AND t.above_tokens = (
        SELECT max(above_tokens) FROM spend_pricetier
        WHERE price_id = e.price_id AND (above_tokens = 0 OR e.input_tokens > above_tokens))""",
    "owed": """coalesce(provider_ticks, CASE WHEN is_estimated AND computed_ticks > hold_ticks
        THEN hold_ticks ELSE computed_ticks END, hold_ticks)""",  # an estimate takes no more than was held
    "corrected": "CASE WHEN corrects_id IS NULL THEN 0 ELSE hold_ticks END",  # what the expired one cost already
    "key": "tenant_id, bucket, model, route",
    "figures": ", ".join(BILLED),
    "outcomes": ", ".join(f"CASE WHEN outcome = '{outcome}' THEN 1 ELSE 0 END" for outcome in OUTCOMES),
    "less_the_rollup": ", ".join(f"-{name} AS {name}" for name in MEASURES),
    "sums": ", ".join(f"sum({name})" for name in MEASURES),
    "sums_differ": " OR ".join(f"sum({name}) <> 0" for name in MEASURES),
}

COUNTED = """
    SELECT CAST(counted.value AS bigint) AS window_id, sum(coalesce(e.cost_ticks, 0)) AS cost_ticks,
        sum(CASE WHEN r.state = 'pending' THEN r.hold_ticks ELSE 0 END) AS hold_ticks
    FROM spend_reservation r CROSS JOIN {window_ids}
    LEFT JOIN spend_ledgerentry e ON e.reservation_id = r.id
    GROUP BY CAST(counted.value AS bigint)"""

CHECKS = [
    Check(
        "window {0} (tenant {1!r}, {2} {3!r}, {4}): spent is {5}, but its opening, archive and entries are {6}",
        f"""SELECT w.id, w.tenant_id, w.scope, w.subject, w.period, w.spent_ticks,
                w.opening_ticks + w.archived_ticks + coalesce(c.cost_ticks, 0)
            FROM spend_window w LEFT JOIN ({COUNTED}) c ON c.window_id = w.id
            WHERE w.spent_ticks <> w.opening_ticks + w.archived_ticks + coalesce(c.cost_ticks, 0)""",
    ),
    Check(
        "window {0} (tenant {1!r}, {2} {3!r}, {4}): held is {5}, but its pending holds are {6}",
        f"""SELECT w.id, w.tenant_id, w.scope, w.subject, w.period, w.held_ticks, coalesce(c.hold_ticks, 0)
            FROM spend_window w LEFT JOIN ({COUNTED}) c ON c.window_id = w.id
            WHERE w.held_ticks <> coalesce(c.hold_ticks, 0)""",
    ),
    Check(
        # Of keys, customers and conversations those that began before single calls were removed cannot be checked,
        # unless they never end: what was removed is in no sum of theirs.
        "window {0} (tenant {1!r}, {2} {3!r}, {4}): it is stale: spent is {5}, but what fell in it cost {6}",
        """SELECT * FROM (
                SELECT w.id, w.tenant_id, w.scope, w.subject, w.period, w.spent_ticks, CAST({fell} AS bigint) AS ticks
                FROM spend_window w
                WHERE w.scope IN ('installation', 'tenant') OR w.ends_at IS NULL OR NOT EXISTS (
                    SELECT 1 FROM spend_rollupmark m
                    WHERE m.tenant_id = w.tenant_id AND m.archived_through > w.starts_at)
            ) summed WHERE spent_ticks <> ticks""",
    ),
    Check(
        "reservation {0}: it is pending in window {1} (tenant {2!r}, {3} {4!r}, {5}), but not held against it",
        """SELECT r.id, w.id, w.tenant_id, w.scope, w.subject, w.period FROM spend_reservation r
            JOIN spend_window w ON w.starts_at <= r.created_at AND r.created_at < {end} AND {in_scope}
            WHERE r.state = 'pending'
            AND NOT EXISTS (SELECT 1 FROM {window_ids} WHERE CAST(counted.value AS bigint) = w.id)""",
    ),
    Check(
        "reservation {0}: it counts against window {1}, which there is not",
        """SELECT r.id, counted.value FROM spend_reservation r CROSS JOIN {window_ids}
            LEFT JOIN spend_window w ON w.id = CAST(counted.value AS bigint) WHERE w.id IS NULL""",
    ),
    Check(
        "reservation {0}: it is {1}, but has no entry",
        """SELECT r.id, r.state FROM spend_reservation r LEFT JOIN spend_ledgerentry e ON e.reservation_id = r.id
            WHERE r.state IN ('settled', 'expired') AND e.reservation_id IS NULL""",
    ),
    Check(
        "reservation {0}: it is {1}, but has an entry of {2}",
        """SELECT r.id, r.state, e.cost_ticks FROM spend_reservation r
            JOIN spend_ledgerentry e ON e.reservation_id = r.id WHERE r.state IN ('pending', 'voided')""",
    ),
    Check(
        "reservation {0}: it is {1}, but its end is {2}",
        """SELECT id, state, ended_at FROM spend_reservation WHERE (state = 'pending') <> (ended_at IS NULL)""",
    ),
    Check(
        "entry {0}: it has no reservation",
        """SELECT e.reservation_id FROM spend_ledgerentry e
            LEFT JOIN spend_reservation r ON r.id = e.reservation_id WHERE r.id IS NULL""",
    ),
    Check(
        "entry {0}: who called which model when, or for what hold, is not what its reservation says",
        """SELECT e.reservation_id FROM spend_ledgerentry e JOIN spend_reservation r ON r.id = e.reservation_id
            WHERE {attempted_differs} OR e.at <> r.created_at""",
    ),
    Check(
        "entry {0}: whether it is marked expired does not agree with its reservation, which is {1}",
        """SELECT e.reservation_id, r.state FROM spend_ledgerentry e JOIN spend_reservation r
            ON r.id = e.reservation_id WHERE e.is_expired <> (r.state = 'expired')""",
    ),
    Check(
        "entry {0}: it expired, but call {1}, which it is of, is not recorded",
        """SELECT e.reservation_id, e.call_id FROM spend_ledgerentry e LEFT JOIN spend_call c ON c.id = e.call_id
            WHERE e.is_expired AND c.id IS NULL""",
    ),
    Check(
        "entry {0}: its cost is {1}, but the provider's figure, else ours, else the hold is {2}",
        """SELECT reservation_id, cost_ticks, {owed} FROM spend_ledgerentry WHERE cost_ticks <> {owed} - {corrected}""",
    ),
    Check(
        "entry {0}: it corrects {1}, which is no other attempt of the same call that expired at the same hold",
        """SELECT c.reservation_id, c.corrects_id FROM spend_ledgerentry c LEFT JOIN spend_ledgerentry e
            ON e.reservation_id = c.corrects_id AND e.is_expired AND e.call_id = c.call_id
            AND e.hold_ticks = c.hold_ticks AND e.at = c.at
            WHERE c.corrects_id IS NOT NULL AND e.reservation_id IS NULL""",
    ),
    Check(
        "entry {0}: its cost by our own figures is {1}, but its tokens and its price make {2}",
        """SELECT reservation_id, computed_ticks, priced_ticks FROM (
                SELECT e.reservation_id, e.computed_ticks,
                    (e.input_tokens - e.cached_input_tokens - e.cache_write_tokens) * t.input_ticks
                    + e.cached_input_tokens * t.cached_input_ticks
                    + e.cache_write_tokens * coalesce(t.cache_write_ticks, t.input_ticks)
                    + e.output_tokens * t.output_ticks AS priced_ticks
                FROM spend_ledgerentry e LEFT JOIN spend_pricetier t ON {tier}
                WHERE e.computed_ticks IS NOT NULL
            ) priced WHERE priced_ticks IS NULL OR priced_ticks <> computed_ticks""",
    ),
    Check(
        "entry {0}: it has more cached than input tokens, or more reasoning than output tokens",
        """SELECT reservation_id FROM spend_ledgerentry
            WHERE cached_input_tokens + cache_write_tokens > input_tokens OR reasoning_tokens > output_tokens""",
    ),
    Check(
        "entry {0}: whether it is marked an overrun does not agree with its cost {1} and its hold {2}",
        """SELECT reservation_id, cost_ticks, hold_ticks FROM spend_ledgerentry
            WHERE is_overrun <> (cost_ticks + {corrected} > hold_ticks)""",
    ),
    Check(
        "entry {0}: nobody knows its bill, but it is not marked estimated",
        """SELECT reservation_id FROM spend_ledgerentry
            WHERE provider_ticks IS NULL AND computed_ticks IS NULL AND NOT is_estimated""",
    ),
    Check(
        # One that expired cost the hold, while its call, if it came to an end, knew what it was to cost.
        "call {0}: its cost is {1}, but its entries are {2}",
        """SELECT c.id, c.cost_ticks, coalesce(sum(e.cost_ticks), 0)
            FROM spend_call c LEFT JOIN spend_ledgerentry e ON e.call_id = c.id GROUP BY c.id
            HAVING c.cost_ticks <> coalesce(sum(e.cost_ticks), 0)
            AND sum(CASE WHEN e.is_expired THEN 1 ELSE 0 END) = 0""",
    ),
    Check(
        "call {0}: it was served by {1!r} ({2}), of which it has no entry",
        """SELECT c.id, c.model, c.route FROM spend_call c
            LEFT JOIN spend_ledgerentry e ON e.call_id = c.id AND e.model = c.model AND e.route = c.route
            WHERE c.outcome = 'served' AND e.reservation_id IS NULL""",
    ),
    Check(
        "rollup of {0}, {1}, {2!r} {3}: entries and calls less the rollup should be 0, but make "
        + ", ".join(f"{name} {{{position}}}" for position, name in enumerate(MEASURES, 4)),
        """SELECT {key}, {sums} FROM (
                SELECT {key}, bucket AS at, {less_the_rollup} FROM spend_rollup
                UNION ALL SELECT tenant_id, {bucket}, model, route, at, 1, {figures}, 0, 0, 0, 0 FROM spend_ledgerentry
                UNION ALL SELECT tenant_id, {bucket}, model, route, at, 0, 0, 0, 0, 0, 0, {outcomes} FROM spend_call
            ) parts WHERE {is_live} GROUP BY {key} HAVING {sums_differ}""",
    ),
    Check(
        "archive of {0}: with what is left before its mark it has {1} entries that cost {2}; its rollups say {3}, {4}",
        """SELECT tenant_id, sum(attempts), sum(cost_ticks), sum(rolled), sum(rolled_ticks) FROM (
                SELECT tenant_id, entries AS attempts, cost_ticks, 0 AS rolled, 0 AS rolled_ticks
                FROM spend_archivedspend WHERE scope = 'tenant'
                UNION ALL SELECT e.tenant_id, 1, e.cost_ticks, 0, 0 FROM spend_ledgerentry e
                JOIN spend_rollupmark m ON m.tenant_id = e.tenant_id AND e.at < m.archived_through
                UNION ALL SELECT r.tenant_id, 0, 0, r.attempts, r.cost_ticks FROM spend_rollup r
                JOIN spend_rollupmark m ON m.tenant_id = r.tenant_id AND r.bucket < m.archived_through
            ) parts GROUP BY tenant_id
            HAVING sum(attempts) <> sum(rolled) OR sum(cost_ticks) <> sum(rolled_ticks)""",
    ),
    Check(
        "archive of {0}: its parts have {1} entries more than the whole, and cost {2} more",
        """SELECT tenant_id, sum(CASE scope WHEN 'key' THEN entries ELSE -entries END) AS entries,
                sum(CASE scope WHEN 'key' THEN cost_ticks ELSE -cost_ticks END) AS cost_ticks
            FROM spend_archivedspend WHERE scope IN ('key', 'tenant') GROUP BY tenant_id
            HAVING sum(CASE scope WHEN 'key' THEN entries ELSE -entries END) <> 0
            OR sum(CASE scope WHEN 'key' THEN cost_ticks ELSE -cost_ticks END) <> 0
            UNION ALL SELECT * FROM (
                SELECT 'the installation', sum(CASE scope WHEN 'tenant' THEN entries ELSE -entries END) AS entries,
                    sum(CASE scope WHEN 'tenant' THEN cost_ticks ELSE -cost_ticks END) AS cost_ticks
                FROM spend_archivedspend WHERE scope IN ('tenant', 'installation')
            ) parts WHERE entries <> 0 OR cost_ticks <> 0""",
    ),
    Check(
        "archive of {0}: its {1}s are {2} entries at a cost of {3}, more than its {4} at a cost of {5}",
        """SELECT part.tenant_id, part.scope, sum(part.entries), sum(part.cost_ticks), coalesce(max(whole.entries), 0),
                coalesce(max(whole.cost_ticks), 0)
            FROM spend_archivedspend part LEFT JOIN spend_archivedspend whole
            ON whole.tenant_id = part.tenant_id AND whole.scope = 'tenant'
            WHERE part.scope IN ('customer', 'conversation') GROUP BY part.tenant_id, part.scope
            HAVING sum(part.entries) > coalesce(max(whole.entries), 0)
            OR sum(part.cost_ticks) > coalesce(max(whole.cost_ticks), 0)""",
    ),
]


@dataclass(frozen=True)
class Audit:
    """How many rows there are of each kind, and what is wrong with them."""

    counts: dict[str, int]
    discrepancies: list[str]


def audit() -> Audit:
    """Check everything. Raises django.db.Error."""
    with one_snapshot():
        counts = {name: _rows(f"SELECT count(*) FROM {table}")[0][0] for name, table in TABLES.items()}
        return Audit(counts, [words for check in CHECKS for words in _discrepancies(check)])


def _discrepancies(check: Check) -> Iterator[str]:
    query = check.query.format(**FRAGMENTS, **DIALECTS[connection.vendor])
    rows = _rows(f"{query} LIMIT {MOST_SHOWN + 1}")
    for row in rows[:MOST_SHOWN]:
        yield check.words.format(*row)
    if len(rows) > MOST_SHOWN:
        yield f"… and more like the last {MOST_SHOWN}"


def _rows(query: str) -> list[tuple[int, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(query)
        rows: list[tuple[int, ...]] = cursor.fetchall()
        return rows


@contextmanager
def one_snapshot() -> Iterator[None]:
    """Reads inside see the database as it stood at one instant; inside a transaction, as that sees it."""
    if connection.in_atomic_block:
        yield
        return
    with connection.cursor() as cursor:
        cursor.execute(DIALECTS[connection.vendor]["begin"])
        try:
            yield
        finally:
            cursor.execute("ROLLBACK")
