"""Which limits a tenant's history recommends: the least under which fewer than one call in a thousand is refused.

A call is refused where what its window had spent, and its own hold, come to more than the limit. So of each call it is
reckoned which limit it would have needed, and a limit refuses at most those that needed more: fewer, since what is
refused leaves room for others, and cheaper models, which are taken before, are left out. All in whole ticks.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from heapq import heappush, heapreplace
from zoneinfo import ZoneInfo

from spend.ledger.past_calls import PastCall, past_calls
from spend.models import Call, Outcome
from tenants.models import Scope, Tenant
from tenants.money import TICKS_PER_USD
from tenants.periods import BEGINNING, Bounds, Period, bounds

ONE_IN = 1000
DAYS = 30
LEAST_DAYS = 14
LEAST_CALLS = 100
CENT = TICKS_PER_USD // 100
STEPS = (10, 12, 15, 20, 25, 30, 40, 50, 60, 70, 80, 100)
"""Limits that people would choose, in tenths of a power of ten."""


@dataclass(frozen=True)
class Recommended:
    """A limit with why: the dearest window of its kind, and how many of the calls it would have refused at most."""

    scope: Scope
    period: Period
    limit_ticks: int
    dearest_ticks: int
    calls: int
    refused: int
    days: int


@dataclass(slots=True)
class Needs:
    """Of one kind of budget: what each window has spent, and the highest limits that calls would have needed."""

    most: int
    spent: dict[tuple[str, datetime], int] = field(default_factory=lambda: defaultdict(int))
    highest: list[int] = field(default_factory=list)
    calls: int = 0

    def see(self, window: tuple[str, datetime], hold_ticks: int, cost_ticks: int) -> None:
        self.calls += 1
        need = self.spent[window] + max(hold_ticks, cost_ticks)
        self.spent[window] += cost_ticks
        if len(self.highest) < self.most:
            heappush(self.highest, need)
        elif need > self.highest[0]:
            heapreplace(self.highest, need)

    @property
    def allowed(self) -> int:
        """The most calls that are fewer than one in a thousand."""
        return (self.calls - 1) // ONE_IN

    def limit_ticks(self) -> int:
        return rounded_up(sorted(self.highest, reverse=True)[self.allowed])

    def refused_at(self, limit_ticks: int) -> int:
        return sum(need > limit_ticks for need in self.highest)


def rounded_up(ticks: int) -> int:
    """To an amount that people would choose, in whole cents: 6.12 to 7, 0.113 to 0.12."""
    cents = max(1, -(-ticks // CENT))
    unit = 1
    while unit * 10 < cents:
        unit *= 10
    return next(-(-step * unit // 10) for step in STEPS if step * unit >= cents * 10) * CENT


def recommend(tenant: Tenant, now: datetime) -> list[Recommended]:
    """For the tenant's day, a customer's day and a conversation; those of which there is too little are left out."""
    today = bounds(Period.DAY, tenant.zone, now).starts_at
    starts_at = bounds(Period.DAY, tenant.zone, today - timedelta(days=DAYS - 1, hours=-12)).starts_at
    in_span = Call.objects.filter(tenant=tenant, at__gte=starts_at, at__lt=now).order_by("at")
    first = in_span.values_list("at", flat=True).first()
    if first is None or (now - first).days < LEAST_DAYS:
        return []
    most = in_span.order_by().count() // ONE_IN + 1
    needs = seen(past_calls(tenant.id, starts_at, now), tenant.zone, most)
    return list(_recommended(needs, min(DAYS, (now - first).days + 1)))


KINDS = ((Scope.TENANT, Period.DAY), (Scope.CUSTOMER, Period.DAY), (Scope.CONVERSATION, Period.TOTAL))


def seen(calls: Iterable[PastCall], zone: ZoneInfo, most: int) -> dict[tuple[Scope, Period], Needs]:
    """What served calls, oldest first, needed; of each kind the `most` highest needs are kept."""
    needs = {kind: Needs(most) for kind in KINDS}
    tenant_day, customer_day, conversation = (needs[kind] for kind in KINDS)
    day = Bounds(BEGINNING, BEGINNING)
    for call in calls:
        if call.outcome != Outcome.SERVED or call.attempt is None:
            continue
        if not (day.starts_at <= call.at and day.ends_at and call.at < day.ends_at):
            day = bounds(Period.DAY, zone, call.at)
        hold_ticks = call.attempt.hold_ticks
        tenant_day.see(("", day.starts_at), hold_ticks, call.cost_ticks)
        if call.customer:
            customer_day.see((call.customer, day.starts_at), hold_ticks, call.cost_ticks)
        if call.conversation:
            conversation.see((call.conversation, BEGINNING), hold_ticks, call.cost_ticks)
    return needs


def _recommended(needs: dict[tuple[Scope, Period], Needs], days: int) -> Iterator[Recommended]:
    for (scope, period), each in needs.items():
        if each.calls >= LEAST_CALLS:
            limit = each.limit_ticks()
            dearest = max(each.spent.values())
            yield Recommended(scope, period, limit, dearest, each.calls, each.refused_at(limit), days)
