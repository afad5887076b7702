"""A window's opening: what its scope had already spent in the period when the window was first needed.

A budget made in the middle of a month so counts the month's spend, not only what comes after it.
Calls that are in flight at that moment count in the windows they were held against, not in this one.
Entries that were removed since count as what they had cost: only a window in total can begin before them.
"""

from datetime import datetime

from django.db import DEFAULT_DB_ALIAS
from django.db.models import Subquery, Sum, Value
from django.db.models.functions import Coalesce

from spend.ledger import WindowKey
from spend.models import ArchivedSpend, LedgerEntry
from tenants.models import Scope


def opening_ticks(key: WindowKey, ends_at: datetime | None, using: str = DEFAULT_DB_ALIAS) -> int:
    entries = LedgerEntry.objects.using(using).filter(at__gte=key.starts_at)
    if ends_at is not None:  # a window may be made when its period is over, for a call of its last moment
        entries = entries.filter(at__lt=ends_at)
    if key.scope != Scope.INSTALLATION:
        entries = entries.filter(tenant_id=key.tenant_id)
    if key.scope == Scope.KEY:
        entries = entries.filter(key_id=int(key.subject))
    elif key.scope == Scope.CUSTOMER:
        entries = entries.filter(customer=key.subject)
    elif key.scope == Scope.CONVERSATION:
        entries = entries.filter(conversation=key.subject)
    # In one statement, which sees one state: what moves from the entries to the archive is counted once.
    ticks: int = entries.aggregate(ticks=Sum("cost_ticks", default=0) + _archived(key, ends_at))["ticks"]
    return ticks


def _archived(key: WindowKey, ends_at: datetime | None) -> Coalesce | Value:
    if ends_at is not None:
        return Value(0)
    archived = ArchivedSpend.objects.filter(tenant_id=key.tenant_id, scope=key.scope, subject=key.subject)
    return Coalesce(Subquery(archived.values("cost_ticks")), 0)
