"""What downgrading saved: each downgraded attempt priced at the model asked for, minus what it cost."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from dashboard.date_spans import Span
from dashboard.queries.sums import mark_for, summed_range
from spend.models import DailyDowngrade, LedgerEntry
from spend.summaries.daily import downgrades
from spend.summaries.measures import DOWNGRADE_MEASURES, add_to, sums_of
from tenants.models import Tenant


@dataclass(frozen=True)
class Saving:
    requested_model: str
    model: str
    attempts: int
    cost_ticks: int
    asked_ticks: int

    @property
    def saved_ticks(self) -> int:
        """Below zero where the model that was asked for would have been cheaper after all."""
        return self.asked_ticks - self.cost_ticks


@dataclass(frozen=True)
class Savings:
    rows: list[Saving]
    unpriced: int

    @property
    def saved_ticks(self) -> int:
        return sum(row.saved_ticks for row in self.rows)

    @property
    def attempts(self) -> int:
        return sum(row.attempts for row in self.rows)


def savings_of(tenant: Tenant, span: Span, mark: datetime) -> Savings:
    sums: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0] * len(DOWNGRADE_MEASURES))
    for part in span.parts:
        of_part = mark_for(part, mark)
        for requested_model, model, figures in [*_summed(tenant, part, of_part), *_live(tenant, part, of_part)]:
            add_to(sums[requested_model, model], figures)
    rows = [Saving(*pair, *figures[:3]) for pair, figures in sums.items() if figures[0]]
    rows.sort(key=lambda row: -row.saved_ticks)
    return Savings(rows, sum(figures[3] for figures in sums.values()))


Sums = list[tuple[str, str, Sequence[int]]]


def _summed(tenant: Tenant, span: Span, mark: datetime) -> Sums:
    rows = (
        DailyDowngrade.objects.filter(tenant=tenant, day__range=summed_range(span, mark))
        .order_by()
        .values_list("requested_model", "model")
        .annotate(**sums_of(DOWNGRADE_MEASURES))
    )
    return [(requested_model, model, [int(figure) for figure in figures]) for requested_model, model, *figures in rows]


def _live(tenant: Tenant, span: Span, mark: datetime) -> Sums:
    entries = LedgerEntry.objects.filter(tenant=tenant, at__gte=max(mark, span.starts_at), at__lt=span.ends_at)
    sums = downgrades(entries, span.zone)
    return [(requested_model, model, figures) for (_, _, requested_model, model), figures in sums.items()]
