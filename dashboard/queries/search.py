"""One box for ids: of calls, customers, conversations and tenants, among the tenants that somebody may see."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from uuid import UUID

from django.db.models import Exists, OuterRef, Q, QuerySet

from dashboard.queries.calls import bearing_any, existing
from spend import names
from spend.models import Call
from tenants.models import Scope, Tenant

MOST_HITS = 20
MOST_NEAR = 5
MOST_TENANTS_NEAR = 10
"""Of how many tenants ids are looked for that only begin so: each takes some look-ups of its own."""
KINDS = (Scope.CONVERSATION, Scope.CUSTOMER)


@dataclass(frozen=True)
class Hit:
    """`kind` is "call", "tenant", "customer" or "conversation"; only a call has `call`."""

    kind: str
    tenant: Tenant
    name: str
    call: Call | None = None


def search(tenants: QuerySet[Tenant], text: str) -> list[Hit]:
    """Those whose id is just `text`, or as the API would read it; where there is none, those that begin with it."""
    if not text:
        return []
    exact = list(islice(_exact(tenants, text), MOST_HITS))
    return exact or list(islice(_near(tenants, text), MOST_HITS))


def _exact(tenants: QuerySet[Tenant], text: str) -> Iterator[Hit]:
    calls = Call.objects.filter(_names_call(text), tenant__in=tenants).select_related("tenant").order_by("-at")
    yield from (Hit("call", call.tenant, call.request_id, call) for call in calls[:MOST_HITS])
    yield from (Hit("tenant", tenant, tenant.id) for tenant in tenants.filter(pk=text))
    for kind in KINDS:
        for name in dict.fromkeys([text, names.tidy(text)]):
            bearing = Exists(existing(**{kind: name}).filter(tenant=OuterRef("pk")))
            yield from (Hit(kind, tenant, name) for tenant in tenants.filter(bearing)[:MOST_HITS] if name)


def _names_call(text: str) -> Q:
    try:
        return Q(request_id=text) | Q(pk=UUID(text))
    except ValueError:
        return Q(request_id=text)


def _near(tenants: QuerySet[Tenant], text: str) -> Iterator[Hit]:
    some = list(tenants[: MOST_TENANTS_NEAR + 1])
    if len(some) > MOST_TENANTS_NEAR:
        return
    for tenant in some:
        for kind in KINDS:
            for name in islice(_beginning_with(tenant, kind, text), MOST_NEAR):
                yield Hit(kind, tenant, name)


def _beginning_with(tenant: Tenant, kind: str, text: str) -> Iterator[str]:
    """Name by name along the index, however many calls each has."""
    named = bearing_any(tenant, kind).order_by(kind).values_list(kind, flat=True)
    name = named.filter(**{f"{kind}__gte": text}).first()
    while name is not None and name.startswith(text):
        yield name
        name = named.filter(**{f"{kind}__gt": name}).first()
