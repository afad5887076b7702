"""One customer, conversation or API key: what it cost day by day, which models served it, and its calls."""

from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from django.db.models import Count, Model, QuerySet, Sum
from django.db.models.functions import TruncDate

from dashboard.date_spans import Span
from dashboard.queries.calls import CallFilter
from dashboard.queries.sums import Bucket, Figures, Row, mark_for, summed_range
from spend import names
from spend.models import ArchivedSpend, Call, ConversationTotal, DailyCustomer, DailyKey, LedgerEntry
from tenants.models import Scope, Tenant

MOST_DIGITS = 18
MOST_RECENT = 1000
"""Calls that models are counted of: of a busy key all of them would take too long."""


@dataclass(frozen=True)
class OneSubject:
    """`name` is what calls bear; of a key it is its number."""

    tenant: Tenant
    kind: str
    name: str
    label: str

    @property
    def calls(self) -> QuerySet[Call]:
        return calls_naming(self.tenant, self.kind, self.name)

    @property
    def billed(self) -> QuerySet[Any]:
        """What its cost is summed of: entries, by the customer's or the conversation's index; of a key calls, as its
        daily sums are."""
        if self.kind == Scope.KEY:
            return self.calls.order_by()
        named = LedgerEntry.objects.filter(tenant=self.tenant, **{self.kind: self.name})
        return named.exclude(**{self.kind: ""}).order_by()


def calls_naming(tenant: Tenant, kind: str, name: str) -> QuerySet[Call]:
    named: dict[str, Any] = {kind: name}
    return CallFilter(**named).calls_of(tenant)


def find_subject(tenant: Tenant, kind: str, asked: str) -> OneSubject | None:
    """As its calls bear it: just as asked for where one does, else as the API would read it. None where none does."""
    if kind == Scope.KEY:
        is_number = asked.isascii() and asked.isdigit() and len(asked) < MOST_DIGITS
        found = tenant.keys.filter(pk=int(asked)).first() if is_number else None
        return OneSubject(tenant, kind, str(found.pk), str(found)) if found else None
    name = names.as_counted(asked, lambda given: is_known(tenant, kind, given))
    return OneSubject(tenant, kind, name, name) if name and is_known(tenant, kind, name) else None


def is_known(tenant: Tenant, kind: str, name: str) -> bool:
    """By a call, or by what removed ones had cost."""
    if calls_naming(tenant, kind, name).exists():
        return True
    return ArchivedSpend.objects.filter(tenant_id=tenant.id, scope=kind, subject=name).exists()


def rows_of_subject(subject: OneSubject, span: Span, mark: datetime) -> list[Row]:
    """What it cost, in days' order, all models together; attempts are those that were billed, of a key its calls."""
    days: dict[date, Figures] = defaultdict(Figures)
    for part in span.parts:
        of_part = mark_for(part, mark)
        for day, attempts, ticks in [*_summed(subject, part, of_part), *_live(subject, part, of_part)]:
            days[day].add(Figures(attempts=attempts, cost_ticks=int(ticks)))
    return [Row(day, "spent", "", figures) for day, figures in sorted(days.items())]


Sums = list[tuple[date, int, int]]


def _summed(subject: OneSubject, part: Span, mark: datetime) -> Sums:
    """Day by day, as the indexes have them; of conversations there are no sums of days."""
    first, last = summed_range(part, mark)
    if subject.kind == Scope.CONVERSATION or first > last:
        return []
    days = [first + timedelta(days=index) for index in range((last - first).days + 1)]
    of_days: dict[str, tuple[type[Model], dict[str, str], str]] = {
        Scope.CUSTOMER: (DailyCustomer, {"customer": subject.name}, "attempts"),
        Scope.KEY: (DailyKey, {"key_id": subject.name}, "calls"),
    }
    model, named, count = of_days[subject.kind]
    rows = model._default_manager.filter(tenant=subject.tenant, day__in=days, **named).order_by()
    return list(rows.values_list("day", count, "cost_ticks"))


def _live(subject: OneSubject, part: Span, mark: datetime) -> Sums:
    since = part.starts_at if subject.kind == Scope.CONVERSATION else max(mark, part.starts_at)
    rows = subject.billed.filter(at__gte=since, at__lt=part.ends_at).annotate(day=TruncDate("at", tzinfo=part.zone))
    return list(rows.values_list("day").annotate(Count("pk"), Sum("cost_ticks")))


def buckets_of_subject(subject: OneSubject, span: Span) -> list[Bucket]:
    """Each of what it was billed in a day or two."""
    rows = subject.billed.filter(at__gte=span.starts_at, at__lt=span.ends_at).values_list("at", "cost_ticks")
    return [Bucket(at, "spent", Figures(cost_ticks=ticks)) for at, ticks in rows if ticks]


@dataclass(frozen=True)
class RecentModels:
    """Of the span's latest calls, `MOST_RECENT` at most: how many each model answered and what they cost."""

    models: list[tuple[str, int, int]]
    calls: int
    is_all: bool


def recent_models(subject: OneSubject, span: Span) -> RecentModels:
    calls = subject.calls.filter(at__gte=span.starts_at, at__lt=span.ends_at).order_by("-at", "-id")
    rows = list(calls.values_list("model", "cost_ticks")[: MOST_RECENT + 1])
    shown = rows[:MOST_RECENT]
    counts, ticks = Counter(model for model, _ in shown), Counter[str]()
    for model, cost_ticks in shown:
        ticks[model] += cost_ticks
    models = [(model, counts[model], ticks[model]) for model in counts if model]
    return RecentModels(sorted(models, key=lambda each: (-each[2], each[0])), len(shown), len(rows) == len(shown))


def conversation_total(subject: OneSubject, mark: datetime) -> int:
    """What a conversation cost from its beginning, in ticks: its sum as far as it reaches, and the ledger after it."""
    known = ConversationTotal.objects.filter(tenant=subject.tenant, conversation=subject.name).first()
    since = subject.billed.filter(at__gte=mark) if known else subject.billed
    return (int(known.cost_ticks) if known else 0) + int(since.aggregate(ticks=Sum("cost_ticks", default=0))["ticks"])
