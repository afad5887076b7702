"""What the page of one customer, conversation or API key shows."""

from dataclasses import dataclass
from datetime import datetime

from dashboard.charts import StackedChart, by_day, by_slot
from dashboard.date_spans import Span, span_before
from dashboard.queries.one_subject import (
    OneSubject,
    RecentModels,
    buckets_of_subject,
    conversation_total,
    recent_models,
    rows_of_subject,
)
from dashboard.queries.sums import Figures, Row, at_mark, total_of
from spend.budgets.usage import Use, uses_of
from tenants.models import Scope


@dataclass(frozen=True)
class SubjectReport:
    uses: list[Use]
    total: Figures
    before: Figures
    span_before: Span
    chart: StackedChart
    models: RecentModels
    all_of_it_ticks: int | None
    """What a conversation cost altogether."""


def subject_report(subject: OneSubject, span: Span, now: datetime) -> SubjectReport:
    return at_mark(subject.tenant, lambda mark: _subject_report(subject, span, now, mark))


def _subject_report(subject: OneSubject, span: Span, now: datetime, mark: datetime) -> SubjectReport:
    earlier = span_before(span, now)
    rows, rows_before = rows_of_subject(subject, span, mark), rows_of_subject(subject, earlier, mark)
    is_conversation = subject.kind == Scope.CONVERSATION
    return SubjectReport(
        uses=uses_of(subject.tenant, subject.kind, subject.name, now),
        total=total_of(rows),
        before=total_of(rows_before),
        span_before=earlier,
        chart=_chart(subject, span, now, rows, (earlier, rows_before)),
        models=recent_models(subject, span),
        all_of_it_ticks=conversation_total(subject, mark) if is_conversation else None,
    )


def _chart(
    subject: OneSubject, span: Span, now: datetime, rows: list[Row], before: tuple[Span, list[Row]]
) -> StackedChart:
    if not span.is_of_a_day:
        return by_day(rows, span, [], now.astimezone(span.zone).date(), before)
    earlier, _ = before
    return by_slot(buckets_of_subject(subject, span), span, now, [], (earlier, buckets_of_subject(subject, earlier)))
