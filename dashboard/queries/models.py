"""The models that a tenant's calls went to."""

from datetime import datetime, timedelta

from dashboard.queries.sums import mark_of
from spend.models import DailyRollup, Rollup
from tenants.models import Tenant

LOOK_BACK = timedelta(days=92)


def models_of(tenant: Tenant, now: datetime) -> list[str]:
    """By name, of the last three months."""
    since = now - LOOK_BACK
    summed = DailyRollup.objects.filter(tenant=tenant, day__gte=since.date()).order_by()
    live = Rollup.objects.filter(tenant=tenant, bucket__gte=max(mark_of(tenant), since)).order_by()
    names = {*summed.values_list("model", flat=True).distinct(), *live.values_list("model", flat=True).distinct()}
    return sorted(names - {""})
