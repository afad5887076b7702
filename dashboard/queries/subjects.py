"""Customers and conversations by what they cost.

A customer comes back day after day: their days are summed. A conversation is soon over: it counts whole, on
the day on which it began. Both are taken from `spend.summaries.daily` up to the mark and from the ledger after it.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from django.db.models import Count, Min, QuerySet, Sum

from dashboard.date_spans import Span
from dashboard.queries.sums import at_mark, mark_for, summed_range
from spend.models import ConversationTotal, DailyCustomer, LedgerEntry, TagRollup
from spend.replica import reports_connection
from tenants.models import Tenant
from tenants.periods import BEGINNING

TOP = 10
DAYS_AT_ONCE = 100
"""In one statement: SQLite takes 500 parts of one."""


@dataclass(frozen=True)
class Subject:
    name: str
    attempts: int
    cost_ticks: int


@dataclass(frozen=True)
class Subjects:
    """The dearest ones, and of all of them: how many, and what they cost together."""

    top: list[Subject]
    count: int
    cost_ticks: int

    @property
    def mean_ticks(self) -> int:
        return self.cost_ticks // self.count if self.count else 0


# The condition on the empty name is written out, as in the index, or SQLite would not use the index.
CUSTOMERS = """
    SELECT customer, SUM(attempts) AS attempts, SUM(cost_ticks) AS cost_ticks FROM (
        SELECT customer, attempts, cost_ticks FROM spend_dailycustomer
        WHERE tenant_id = %s AND day BETWEEN %s AND %s
        UNION ALL
        SELECT customer, 1, cost_ticks FROM spend_ledgerentry
        WHERE tenant_id = %s AND at >= %s AND at < %s AND NOT (customer = '')
    ) AS both_parts GROUP BY customer
"""
TOP_CUSTOMERS = f"""
    SELECT customer, attempts, cost_ticks, COUNT(*) OVER (), SUM(cost_ticks) OVER ()
    FROM ({CUSTOMERS}) AS customers ORDER BY cost_ticks DESC, customer LIMIT %s
"""  # noqa: S608
ALL_CUSTOMERS = f"{CUSTOMERS} ORDER BY customer"
ALL_CONVERSATIONS = """
    WITH lately AS (
        SELECT conversation, COUNT(*) AS attempts, SUM(cost_ticks) AS cost_ticks, MIN(at) AS first_at
        FROM spend_ledgerentry WHERE tenant_id = %s AND at >= %s AND NOT (conversation = '') GROUP BY conversation
    )
    SELECT conversation, SUM(attempts), SUM(cost_ticks) FROM (
        SELECT conversation, attempts, cost_ticks FROM spend_conversationtotal
        WHERE tenant_id = %s AND began_on BETWEEN %s AND %s
        UNION ALL
        SELECT lately.conversation, lately.attempts, lately.cost_ticks FROM lately
        LEFT JOIN spend_conversationtotal known ON known.tenant_id = %s AND known.conversation = lately.conversation
        WHERE CASE WHEN known.began_on IS NULL THEN first_at >= %s AND first_at < %s
              ELSE known.began_on BETWEEN %s AND %s END
    ) AS both_parts GROUP BY conversation ORDER BY conversation
"""


CONVERSATIONS_OF_HOURS = """
    SELECT conversation, COUNT(*), SUM(cost_ticks) FROM spend_ledgerentry
    WHERE tenant_id = %s AND at >= %s AND at < %s AND NOT (conversation = '')
    GROUP BY conversation ORDER BY conversation
"""


def top_customers(tenant: Tenant, span: Span, mark: datetime, limit: int = TOP) -> Subjects:
    """In one query: the sums over all of them ride along with the dearest."""
    with reports_connection().cursor() as cursor:
        cursor.execute(TOP_CUSTOMERS, [*_customer_params(tenant, span, mark), limit])
        rows = cursor.fetchall()
    top = [Subject(name, int(attempts), int(ticks)) for name, attempts, ticks, *_ in rows]
    return Subjects(top, int(rows[0][3]) if rows else 0, int(rows[0][4]) if rows else 0)


def _customer_params(tenant: Tenant, span: Span, mark: datetime) -> list[Any]:
    mark = mark_for(span, mark)
    days = [day.isoformat() for day in summed_range(span, mark)]
    return [tenant.id, *days, tenant.id, *_instants(max(mark, span.starts_at), span.ends_at)]


def _instants(*instants: datetime) -> list[Any]:
    return [reports_connection().ops.adapt_datetimefield_value(instant) for instant in instants]


def costs_of_customers(tenant: Tenant, span: Span, mark: datetime, names: Collection[str]) -> dict[str, int]:
    """What each of `names` cost in the span, in ticks; those who cost nothing are left out."""
    ticks: dict[str, int] = {}
    for part in span.parts:
        of_part = mark_for(part, mark)
        days = _days_between(*summed_range(part, of_part)) or [date.max]
        summed = DailyCustomer.objects.filter(tenant=tenant, customer__in=names, day__in=days)
        live = LedgerEntry.objects.filter(
            tenant=tenant, customer__in=names, at__gte=max(of_part, part.starts_at), at__lt=part.ends_at
        ).exclude(customer="")
        for rows in (summed, live):
            for name, cost_ticks in rows.order_by().values_list("customer").annotate(Sum("cost_ticks")):
                ticks[name] = ticks.get(name, 0) + int(cost_ticks)
    return ticks


def _days_between(first: date, last: date) -> list[date]:
    """One by one: the index has the day before the customer, so a range would read all customers of it."""
    return [first + timedelta(days=index) for index in range((last - first).days + 1)] if first <= last else []


def top_conversations(tenant: Tenant, span: Span, mark: datetime, limit: int = TOP) -> Subjects:
    """The dearest of those that began in the span, each at all that it cost so far; of hours of a day, those that had
    calls in them, at what these cost.

    The dearest of the span are among the dearest of its days and those that had calls after the mark.
    """
    if not span.is_whole:
        return _conversations_in(tenant, span, limit)
    lately = _conversations_since(tenant, mark)
    known = _known_conversations(tenant, mark)
    found = _dearest_of_days(tenant, span, mark, limit)
    count, ticks = _begun_in(tenant, span, mark)
    for name, (first_at, attempts, cost_ticks) in lately.items():
        total = known.get(name)
        began_on = total.began_on if total else first_at.astimezone(span.zone).date()
        if span.first <= began_on <= span.last:
            count, ticks = count + (total is None), ticks + cost_ticks
            before = (total.attempts, total.cost_ticks) if total else (0, 0)
            found[name] = Subject(name, before[0] + attempts, before[1] + cost_ticks)
    top = sorted(found.values(), key=lambda subject: (-subject.cost_ticks, subject.name))
    return Subjects(top[:limit], count, ticks)


def _conversations_in(tenant: Tenant, span: Span, limit: int) -> Subjects:
    rows = _since(tenant, span.starts_at).filter(at__lt=span.ends_at).values_list("conversation")
    found = [Subject(*row) for row in rows.annotate(Count("pk"), Sum("cost_ticks"))]
    found.sort(key=lambda subject: (-subject.cost_ticks, subject.name))
    return Subjects(found[:limit], len(found), sum(subject.cost_ticks for subject in found))


def _conversations_since(tenant: Tenant, mark: datetime) -> dict[str, tuple[datetime, int, int]]:
    """Those with calls after the mark: when the first of these was, how many, and their cost."""
    rows = _since(tenant, mark).values_list("conversation").annotate(Min("at"), Count("pk"), Sum("cost_ticks"))
    return {name: (first_at, count, int(ticks)) for name, first_at, count, ticks in rows}


def _since(tenant: Tenant, mark: datetime) -> QuerySet[LedgerEntry]:
    return LedgerEntry.objects.filter(tenant=tenant, at__gte=mark).exclude(conversation="").order_by()


def _known_conversations(tenant: Tenant, mark: datetime) -> dict[str, ConversationTotal]:
    """The summed part of those with calls after the mark. Their names stay in the database: there may be more
    of them than a statement may have parameters, where the sums were not made for long."""
    if mark == BEGINNING:  # what is summed there is of another zone's days
        return {}
    names = _since(tenant, mark).values("conversation")
    totals = ConversationTotal.objects.filter(tenant=tenant, conversation__in=names)
    return {total.conversation: total for total in totals}


def _begun_in(tenant: Tenant, span: Span, mark: datetime) -> tuple[int, int]:
    begun = ConversationTotal.objects.filter(tenant=tenant, began_on__range=summed_range(span, mark))
    sums = begun.aggregate(count=Count("cost_ticks"), ticks=Sum("cost_ticks", default=0))
    return sums["count"], int(sums["ticks"])


def _dearest_of_days(tenant: Tenant, span: Span, mark: datetime, limit: int) -> dict[str, Subject]:
    """The dearest of each day, straight off the index: a few rows a day, however many began."""
    first, last = summed_range(span, mark)
    days = [day for day in span.days() if first <= day <= last] if limit else []
    steps = range(0, len(days), DAYS_AT_ONCE)
    rows = [row for step in steps for row in _dearest_of(tenant, days[step : step + DAYS_AT_ONCE], limit)]
    return {name: Subject(name, int(attempts), int(ticks)) for name, attempts, ticks in rows}


def _dearest_of(tenant: Tenant, days: Sequence[date], limit: int) -> list[Any]:
    with reports_connection().cursor() as cursor:
        cursor.execute(_dearest_statement(len(days), limit), [part for day in days for part in (tenant.id, _text(day))])
        rows: list[Any] = cursor.fetchall()
        return rows


def _dearest_statement(days: int, limit: int) -> str:
    of_a_day = f"""
        SELECT * FROM (
            SELECT conversation, attempts, cost_ticks FROM spend_conversationtotal
            WHERE tenant_id = %s AND began_on = %s ORDER BY cost_ticks DESC LIMIT {limit:d}
        ) AS dearest
    """  # noqa: S608
    return " UNION ALL ".join([of_a_day] * days)


def _text(day: date) -> str:
    return day.isoformat()


def every_tag(tenant: Tenant, span: Span) -> list[Subject]:
    """What calls with each tag cost in the span, the dearest first. A call counts under each of its tags."""
    rows = TagRollup.objects.filter(tenant=tenant, bucket__gte=span.starts_at, bucket__lt=span.ends_at)
    sums = rows.order_by().values_list("tag").annotate(Sum("attempts"), Sum("cost_ticks"))
    found = [Subject(tag, int(attempts), int(ticks)) for tag, attempts, ticks in sums]
    return sorted(found, key=lambda subject: (-subject.cost_ticks, subject.name))


def every_customer(tenant: Tenant, span: Span) -> Iterator[Subject]:
    """What each cost in the span, by name."""
    return _streamed(tenant, ALL_CUSTOMERS, lambda mark: _customer_params(tenant, span, mark))


def every_conversation(tenant: Tenant, span: Span) -> Iterator[Subject]:
    """Those that began in the span, each at all that it cost so far, by name; of hours as `top_conversations`."""
    if not span.is_whole:
        params = [tenant.id, *_instants(span.starts_at, span.ends_at)]
        return _streamed(tenant, CONVERSATIONS_OF_HOURS, lambda mark: params)
    return _streamed(tenant, ALL_CONVERSATIONS, lambda mark: _conversation_params(tenant, span, mark))


def _conversation_params(tenant: Tenant, span: Span, mark: datetime) -> list[Any]:
    days = [day.isoformat() for day in summed_range(span, mark)]
    known = tenant.id if mark > BEGINNING else ""  # else what is summed there is of another zone's days
    instants = _instants(mark, span.starts_at, span.ends_at)
    return [tenant.id, instants[0], tenant.id, *days, known, *instants[1:], *days]


def _streamed(tenant: Tenant, statement: str, params: Any, size: int = 2000) -> Iterator[Subject]:
    """From a cursor on the server, so that memory stays bounded."""
    with reports_connection().chunked_cursor() as cursor:
        at_mark(tenant, lambda mark: cursor.execute(statement, params(mark)))
        while rows := cursor.fetchmany(size):
            yield from (Subject(name, int(attempts), int(ticks)) for name, attempts, ticks in rows)
