"""A raise of today's limit ends at the tenant's own midnight, also when the tenant moves to another time zone."""

from typing import Any

from django.db.models.signals import pre_save
from django.utils import timezone

from tenants.models import Tenant
from tenants.periods import Period, bounds


def connect() -> None:
    pre_save.connect(_tenant_changes, sender=Tenant)


def _tenant_changes(instance: Tenant, update_fields: frozenset[str] | None, raw: bool = False, **_signal: Any) -> None:
    if raw or instance._state.adding or "time_zone" not in (update_fields or {"time_zone"}):
        return
    if Tenant.objects.filter(pk=instance.pk).exclude(time_zone=instance.time_zone).exists():
        _end_at_midnight(instance)


def _end_at_midnight(tenant: Tenant) -> None:
    """Row by row, so that each is in the audit trail."""
    now = timezone.now()
    midnight = bounds(Period.DAY, tenant.zone, now).ends_at
    assert midnight is not None  # noqa: S101  a day ends
    for top_up in tenant.top_ups.filter(starts_at__lte=now, ends_at__gt=now).exclude(ends_at=midnight):
        top_up.ends_at = midnight
        top_up.save()
