"""Tenants most of whose calls no longer fit what is left of a budget, though none of it is used up quite."""

from collections.abc import Collection
from datetime import datetime, timedelta

from django.db.models import Case, OuterRef, Subquery, Sum, Value, When
from django.db.models.functions import Coalesce

from spend.budgets.usage import Use
from spend.models import Call
from tenants.models import Tenant

LATEST = timedelta(minutes=15)
MOST_COUNTED = 50
OVER_BUDGET = "budget_exceeded"
REFUSING = "refusing"


def mostly_over_budget(tenant_ids: Collection[str], now: datetime) -> set[str]:
    """Of which tenants most of the latest calls were refused because no model fitted what was left of a budget.

    Of each tenant only the latest `MOST_COUNTED` are read, however many there were.
    """
    latest = Call.objects.filter(tenant=OuterRef("pk"), at__gte=now - LATEST).order_by("-at", "-id").values("at")
    since = Coalesce(Subquery(latest[MOST_COUNTED - 1 : MOST_COUNTED]), Value(now - LATEST))
    counted = Call.objects.filter(tenant=OuterRef("pk"), at__gte=OuterRef("since")).order_by().values("tenant")
    lead = counted.annotate(lead=Sum(Case(When(code=OVER_BUDGET, then=1), default=-1))).values("lead")
    tenants = Tenant.objects.filter(pk__in=tenant_ids).alias(since=since).alias(lead=Subquery(lead))
    return set(tenants.filter(lead__gt=0).values_list("pk", flat=True))


def state_told(use: Use, *, is_over_budget: bool) -> str:
    """The budget's state, or that it refuses most calls though it is not used up quite.

    Far from its limit it does not: then some single customer's or key's budget is it that refuses.
    """
    return REFUSING if is_over_budget and use.state in {"warned", "degraded"} else use.state
