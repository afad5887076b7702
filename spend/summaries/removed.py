"""Which single calls were removed (`spend.retention.removal`), so that only their sums can be told."""

from datetime import datetime

from django.db.models import Max

from spend.models import RollupMark


class RemovedError(Exception):
    """Single calls that were asked for are not all there: those before `before` were removed."""

    def __init__(self, before: datetime) -> None:
        super().__init__(f"single calls before {before} were removed")
        self.before = before


def removed_before(tenant_id: str | None = None, starts_at: datetime | None = None) -> datetime | None:
    """Single calls before this instant were removed, of this tenant or of some.

    None where none were of those from `starts_at` on.
    """
    marks = RollupMark.objects.all() if tenant_id is None else RollupMark.objects.filter(tenant=tenant_id)
    if starts_at is not None:
        marks = marks.filter(archived_through__gt=starts_at)
    through: datetime | None = marks.aggregate(through=Max("archived_through"))["through"]
    return through
