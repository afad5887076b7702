"""What a tenant's API keys were used for: from the daily sums, and from the calls since the tenant's mark."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from django.db.models import Max, Sum
from django.db.models.functions import TruncDate

from spend.models import Call, DailyKey, RollupMark
from tenants.models import Tenant
from tenants.periods import BEGINNING

DAYS = 30


@dataclass(frozen=True)
class KeyUse:
    """Of one key: what its calls of the last DAYS days cost, today's among them, and the day of its last call."""

    cost_ticks: int = 0
    last_day: date | None = None


def uses_of_keys(tenant: Tenant, now: datetime) -> Mapping[int, KeyUse]:
    """By key, of those that ever called. Read again where the mark moved meanwhile: that would count some twice."""
    while True:
        mark = _mark_of(tenant)
        found = _uses(tenant, mark, first_day(tenant, now))
        if _mark_of(tenant) == mark:
            return found


def first_day(tenant: Tenant, now: datetime) -> date:
    return now.astimezone(tenant.zone).date() - timedelta(days=DAYS - 1)


def _mark_of(tenant: Tenant) -> datetime:
    mark = RollupMark.objects.filter(tenant=tenant, time_zone=tenant.time_zone).first()
    return mark.through if mark else BEGINNING


def _uses(tenant: Tenant, mark: datetime, since: date) -> dict[int, KeyUse]:
    summed = DailyKey.objects.filter(tenant=tenant) if mark > BEGINNING else DailyKey.objects.none()
    spent: dict[int, int] = {}
    last: dict[int, date] = dict(summed.order_by().values_list("key_id").annotate(Max("day")))
    recent = summed.filter(day__gte=since).order_by().values_list("key_id").annotate(Sum("cost_ticks"))
    live = Call.objects.filter(tenant=tenant, at__gte=mark).annotate(day=TruncDate("at", tzinfo=tenant.zone)).order_by()
    spent.update({key_id: int(ticks) for key_id, ticks in recent})
    for key_id, day, ticks in live.values_list("key_id", "day").annotate(Sum("cost_ticks")):
        last[key_id] = max(day, last.get(key_id, day))
        spent[key_id] = spent.get(key_id, 0) + (int(ticks) if day >= since else 0)
    return {key_id: KeyUse(spent.get(key_id, 0), day) for key_id, day in last.items()}
