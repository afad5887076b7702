"""Tenants, and what belongs to each: budgets, its route, its alert channels. Not its keys, members or top-ups."""

from collections.abc import Sequence
from typing import Any

from django.db.models import QuerySet

from spend.configuration import budgets, channels, routes, translations
from spend.configuration.changes import Plan
from spend.configuration.columns import Columns
from spend.configuration.places import Place, Refused
from spend.models import CatalogueModel
from tenants.models import Tenant

COLUMNS = Columns.of(
    Tenant,
    "id",
    "name",
    "is_active",
    "time_zone",
    "default_max_tokens",
    "floor_max_tokens",
    "requests_per_minute",
    "calls_in_flight",
    "share_content",
    "content_days",
    "hide_money",
    "hard_stop",
    "handoff_words",
    "handoff_language",
    "handoff_link",
)
BELONGINGS = ("budgets", "route", "downgrades", "handoff_translations", "alert_channels")


def whole_tenants() -> QuerySet[Tenant]:
    return Tenant.objects.prefetch_related(
        "budgets", "route_steps", "downgrade_rules", "handoff_translations", "alert_channels"
    )


def shown() -> list[dict[str, Any]]:
    return [
        {
            **COLUMNS.shown(tenant),
            "budgets": budgets.shown(tenant.budgets.all(), budgets.OF_TENANT),
            **routes.shown(tenant),
            "handoff_translations": translations.shown(tenant),
            "alert_channels": channels.shown(tenant.alert_channels.all()),
        }
        for tenant in whole_tenants().order_by("pk")
    ]


def plan_tenants(plan: Plan, place: Place) -> None:
    models = set(CatalogueModel.objects.values_list("pk", flat=True))
    standing = whole_tenants().in_bulk()
    named: set[str] = set()
    for each in place.elements():
        with plan.problems.gathered():
            given = each.fields([*COLUMNS.by_name, *BELONGINGS], ["id"])
            tenant_id = given["id"].text()
            if tenant_id in named:
                raise given["id"].refused(f"names {tenant_id} a second time")
            named.add(tenant_id)
            _plan_tenant(plan, each, given, standing.get(tenant_id), models)
    plan.leave("tenants", [tenant_id for tenant_id in standing if tenant_id not in named])


def _plan_tenant(plan: Plan, place: Place, given: dict[str, Place], row: Tenant | None, models: set[str]) -> None:
    tenant = row or Tenant()
    try:
        plan.set_row(place, tenant, f"tenant {given['id'].value}", COLUMNS, COLUMNS.read(given))
    except Refused as error:
        plan.problems.found += error.problems
        tenant.pk = given["id"].value  # what belongs to it is read all the same, for what is wrong there
    _plan_belongings(plan, given, tenant, row is None, models)


def _plan_belongings(plan: Plan, given: dict[str, Place], tenant: Tenant, is_new: bool, models: set[str]) -> None:
    if "budgets" in given:
        with plan.problems.gathered():
            budgets.plan_of_tenant(plan, given["budgets"], tenant, [] if is_new else tenant.budgets.all())
    with plan.problems.gathered():
        routes.plan_route(plan, given, tenant, is_new, models)
    if "handoff_translations" in given:
        with plan.problems.gathered():
            translations.plan_translations(plan, given["handoff_translations"], tenant, is_new)
    if "alert_channels" in given:
        rows: Sequence[Any] = [] if is_new else list(tenant.alert_channels.all())
        with plan.problems.gathered():
            channels.plan_channels(plan, given["alert_channels"], tenant, rows)
