"""What was spent, in sums: altogether, and by day, model, customer or conversation.

Days, models and tags are read from the rollups, which count in quarters of an hour. A span that begins or ends
within a quarter is read from the ledger and the calls themselves, as are customers and conversations.
A call with several tags counts under each of them, so theirs may add up to more than the total.
Cost and tokens are those of every attempt that was billed; calls are those that were answered, or charged though
they were not: they have a model.
Where single calls were removed (see `spend.retention.removal`), only what the rollups know can be told.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from typing import Any

from django.db.models import Count, Model, QuerySet, Sum, TextChoices
from django.db.models.functions import TruncDate

from spend.models import Call, LedgerEntry, Rollup, TagRollup
from spend.summaries.buckets import begins_a_bucket
from spend.summaries.measures import CHARGED, CHARGED_CALLS, sums_of
from spend.summaries.removed import RemovedError, removed_before
from tenants.periods import BEGINNING

MOST_GROUPS = 1000
SPENT = sums_of(["cost_ticks", "input_tokens", "output_tokens"])


class GroupBy(TextChoices):
    DAY = "day"
    MODEL = "model"
    CUSTOMER = "customer"
    CONVERSATION = "conversation"
    TAG = "tag"


KEYS = {
    GroupBy.DAY: ["day"],
    GroupBy.MODEL: ["model"],
    GroupBy.CUSTOMER: ["customer", "tenant_id"],
    GroupBy.CONVERSATION: ["conversation", "tenant_id"],
    GroupBy.TAG: ["tag", "tenant_id"],
}
"""Customers, conversations and tags of two tenants may have one name, and stay two."""


@dataclass(frozen=True)
class Selection:
    """Whose spend, and when: `starts_at <= at < ends_at`; None is no bound. Days are those of `zone`."""

    tenant_id: str | None = None
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    zone: tzinfo = UTC

    def of(self, model: type[Model], time_field: str) -> QuerySet[Any]:
        wanted = {"tenant_id": self.tenant_id, f"{time_field}__gte": self.starts_at, f"{time_field}__lt": self.ends_at}
        rows = model._default_manager.filter(**{name: value for name, value in wanted.items() if value is not None})
        by_day: QuerySet[Any] = rows.annotate(day=TruncDate(time_field, tzinfo=self.zone)).order_by()
        return by_day

    @property
    def is_of_whole_buckets(self) -> bool:
        bounds = [bound for bound in (self.starts_at, self.ends_at) if bound is not None]
        return all(map(begins_a_bucket, bounds))


@dataclass
class Sums:
    cost_ticks: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    calls: int = 0


Key = tuple[Any, ...]


@dataclass(frozen=True)
class Report:
    """`groups` by their key (see KEYS), days in order and the rest by cost; the dearest `MOST_GROUPS` of them."""

    totals: Sums
    calls_by_model: dict[str, int]
    groups: dict[Key, Sums] = field(default_factory=dict)
    groups_omitted: int = 0


def report(selection: Selection, group_by: GroupBy | None = None) -> Report:
    """Raises RemovedError."""
    by_model = _sums(selection, KEYS[GroupBy.MODEL])
    totals = Sums(*(sum(column) for column in zip(*map(_figures, by_model.values()), strict=True)))
    calls_by_model = {model: sums.calls for (model,), sums in sorted(by_model.items()) if sums.calls}
    groups, omitted = _groups(selection, group_by) if group_by else ({}, 0)
    return Report(totals, calls_by_model, groups, omitted)


def _figures(sums: Sums) -> tuple[int, int, int, int]:
    return sums.cost_ticks, sums.input_tokens, sums.output_tokens, sums.calls


def _groups(selection: Selection, group_by: GroupBy) -> tuple[dict[Key, Sums], int]:
    by = KEYS[group_by]
    found = _sums_of_tags(selection) if group_by is GroupBy.TAG else _sums(selection, by)
    groups = {key: sums for key, sums in found.items() if any(_figures(sums))}
    if group_by is GroupBy.DAY:
        return dict(sorted(groups.items())), 0
    ranked = sorted(groups.items(), key=lambda group: (-group[1].cost_ticks, group[0]))
    return dict(ranked[:MOST_GROUPS]), max(0, len(ranked) - MOST_GROUPS)


def _sums(selection: Selection, by: list[str]) -> dict[Key, Sums]:
    """Sums by the fields `by`."""
    if selection.is_of_whole_buckets and by in (KEYS[GroupBy.DAY], KEYS[GroupBy.MODEL]):
        rows = selection.of(Rollup, "bucket").values_list(*by).annotate(**SPENT, calls=CHARGED_CALLS)
        return {row[: len(by)]: Sums(*row[len(by) :]) for row in rows}
    return _sums_of_single_calls(selection, by)


def _sums_of_tags(selection: Selection) -> dict[Key, Sums]:
    if selection.is_of_whole_buckets:
        rows = selection.of(TagRollup, "bucket").values_list(*KEYS[GroupBy.TAG]).annotate(**SPENT, calls=Sum("calls"))
        return {row[:2]: Sums(*row[2:]) for row in rows}
    sums: dict[Key, Sums] = {}
    for (tags, tenant_id), each in _sums_of_single_calls(selection, ["tags", "tenant_id"]).items():
        for tag in filter(None, tags.split(",")):
            total = sums.setdefault((tag, tenant_id), Sums())
            for name in vars(each):
                setattr(total, name, getattr(total, name) + getattr(each, name))
    return sums


def _sums_of_single_calls(selection: Selection, by: list[str]) -> dict[Key, Sums]:
    entries = selection.of(LedgerEntry, "at").values_list(*by).annotate(**SPENT)
    sums = {row[: len(by)]: Sums(*row[len(by) :]) for row in entries.iterator()}
    calls = selection.of(Call, "at").filter(CHARGED).values_list(*by).annotate(Count("pk"))
    for row in calls.iterator():
        sums.setdefault(row[: len(by)], Sums()).calls = row[-1]
    # Asked last: what is being removed was marked before.
    if before := removed_before(selection.tenant_id, selection.starts_at or BEGINNING):
        raise RemovedError(before)
    return sums
