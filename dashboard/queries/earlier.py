"""What the span before cost, for the figures of a page to be compared with."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime

from dashboard.date_spans import Span
from dashboard.queries.cached import CachedSaving, cached_saving
from dashboard.queries.savings import Savings, savings_of
from dashboard.queries.subjects import Subjects, costs_of_customers, top_conversations
from dashboard.queries.sums import Figures, Row, grouped, rows_of, total_of
from tenants.models import Tenant


@dataclass(frozen=True)
class Earlier:
    """Of the span before: its rows and their sums, what customers who are shown cost, savings, and conversations."""

    span: Span
    rows: list[Row]
    total: Figures
    models: dict[str, Figures]
    customers: dict[str, int]
    savings: Savings
    cached: CachedSaving
    conversations: Subjects

    def total_of(self, span: Span) -> Figures | None:
        """None of another span than this one."""
        return self.total if span == self.span else None


def earlier_of(tenant: Tenant, span: Span, mark: datetime, customers: Collection[str]) -> Earlier:
    rows = rows_of(tenant, span, mark)
    return Earlier(
        span=span,
        rows=rows,
        total=total_of(rows),
        models=grouped(rows, "model"),
        customers=costs_of_customers(tenant, span, mark, customers),
        savings=savings_of(tenant, span, mark),
        cached=cached_saving(rows, span),
        conversations=top_conversations(tenant, _days_of(span), mark, limit=0),
    )


def _days_of(span: Span) -> Span:
    """A conversation counts on the day it began: of days that are compared until a time, the last counts whole."""
    return span if span.since else replace(span, until=None)
