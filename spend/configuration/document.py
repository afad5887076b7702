"""The whole file: what it has at the top, how it is written, planned and taken in."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from django.db import IntegrityError, transaction

from spend.configuration import budgets, channels, prices, providers, role_permissions, tenants
from spend.configuration.changes import Plan
from spend.configuration.places import Place, Refused
from spend.configuration.yaml_text import read_yaml, write_yaml
from spend.models import CatalogueModel, Provider
from tenants.models import AlertChannel, Budget, Tenant

VERSION = 1
HEAD = """\
# The guard's configuration: manage.py export_config writes it, import_config takes it in (--dry-run shows what
# would change). Amounts are USD, prices USD per million tokens. No keys, secrets or people are in it.
"""
SECTIONS: Mapping[str, Callable[[Plan, Place], None]] = {
    "budgets": budgets.plan_of_installation,
    "alert_channels": channels.plan_of_installation,
    "providers": providers.plan_providers,
    "tenants": tenants.plan_tenants,
    "prices": prices.plan_prices,
    "roles": role_permissions.plan_roles,
}


def export_text(now: datetime) -> str:
    """The configuration as YAML; imported again, it changes nothing."""
    document: dict[str, Any] = {
        "version": VERSION,
        "budgets": budgets.shown(Budget.objects.filter(tenant=None), budgets.OF_INSTALLATION),
        "alert_channels": channels.shown(AlertChannel.objects.filter(tenant=None)),
        "providers": providers.shown(),
        "tenants": tenants.shown(),
        "prices": prices.shown(now),
        "roles": role_permissions.shown(),
    }
    return HEAD + write_yaml(document)


def plan_text(text: str | bytes, now: datetime) -> Plan:
    """What the file would change now; writes nothing. Raises Refused, which tells all that is wrong in it."""
    given = Place("", read_yaml(text)).fields(["version", *SECTIONS], ["version"])
    if given["version"].whole_number() != VERSION:
        raise given["version"].refused(f"must be {VERSION}")
    plan = Plan(now)
    for section, plan_section in SECTIONS.items():
        if section in given:
            with plan.problems.gathered():
                plan_section(plan, given[section])
    plan.problems.tell()
    return plan


def import_text(text: str | bytes, now: datetime, *, shown: str | None = None) -> Plan:
    """Take the file in, all of it or nothing; only if the plan has the digest `shown`, if given. Raises Refused.

    Row by row, by `save`: each change is in the audit trail and raises the revision that workers watch.
    """
    try:
        with transaction.atomic():
            _lock()
            plan = plan_text(text, now)
            if shown in {None, plan.digest}:
                for change in plan.changes:
                    change.make()
    except IntegrityError:
        raise Refused(["Somebody changed the same rows meanwhile; nothing was written. Try again."]) from None
    return plan


def _lock() -> None:
    """In the order of their ids, as nobody else holds one and waits for another."""
    for model in (Tenant, CatalogueModel, Provider):
        list(model._default_manager.select_for_update(no_key=True).order_by("pk").values_list("pk"))
