"""The ledger's own days of UTC by model: summed from the quarter hours, for days that are compared."""

from collections import defaultdict
from datetime import UTC, date, datetime, time, timedelta

from django.db import transaction
from django.db.models import Count, Q, QuerySet, Sum
from django.db.models.functions import TruncDate

from spend.models import CatalogueModel, LedgerDay, LedgerEntry, Rollup

Place = tuple[str, date, str]
"""Provider, day, and the model's name there."""


def sum_days(first: date, last: date) -> None:
    """Make these days anew, the last included."""
    begins, ends = (datetime.combine(day, time.min, UTC) for day in (first, last + timedelta(days=1)))
    places = {model.id: (model.provider, model.upstream_name) for model in CatalogueModel.objects.all()}
    sums: dict[Place, list[int]] = defaultdict(lambda: [0, 0, 0, 0])

    def add(rows: QuerySet[LedgerEntry] | QuerySet[Rollup], time_field: str, at: int, *figures: Count | Sum) -> None:
        within = rows.filter(**{f"{time_field}__gte": begins, f"{time_field}__lt": ends}).exclude(model="").order_by()
        by_day = within.annotate(day=TruncDate(time_field, tzinfo=UTC)).values_list("model", "day")
        for model, day, *values in by_day.annotate(*figures):
            if model in places:
                provider, name = places[model]
                for offset, value in enumerate(values):
                    sums[provider, day, name][at + offset] += value

    add(Rollup.objects.all(), "bucket", 0, Sum("cost_ticks", default=0), Sum("attempts", default=0))
    uncertain = LedgerEntry.objects.filter(Q(is_estimated=True) | Q(is_expired=True))
    add(uncertain, "at", 2, Count("pk"), Sum("cost_ticks", default=0))
    rows = [
        LedgerDay(
            provider=provider, day=day, model=model, cost_ticks=cost_ticks, attempts=attempts,
            uncertain=uncertain_count, uncertain_ticks=uncertain_ticks,
        )
        for (provider, day, model), (cost_ticks, attempts, uncertain_count, uncertain_ticks) in sums.items()
    ]  # fmt: skip
    with transaction.atomic():
        LedgerDay.objects.filter(day__gte=first, day__lte=last).delete()
        LedgerDay.objects.bulk_create(rows)
