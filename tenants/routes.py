"""A tenant's route and its downgrade rules, and how they are set.

A route of its own replaces the installation's default as a whole, downgrades included.
"""

from collections.abc import Sequence

from django.conf import settings
from django.db import transaction

from tenants.models import ANY_MODEL, DowngradeRule, RouteStep, Tenant

Downgrade = tuple[str, str]
"""From a model, or from any (`*`), to a cheaper one."""


@transaction.atomic
def set_route(
    tenant: Tenant, route: Sequence[str] | None = None, downgrades: Sequence[Downgrade] | None = None
) -> None:
    """Set what is given, of models that stand in the catalogue; None leaves it, an empty route is the default's.

    A tenant on the default route that wants no downgrades gets the default route as its own: without a
    row of either kind it would be back on the default, downgrades and all.
    """
    tenant = Tenant.objects.select_for_update().get(pk=tenant.pk)
    steps = [step.model_id for step in tenant.route_steps.all()] if route is None else list(route)
    if downgrades is not None and not downgrades and route is None and not steps:
        steps = list(settings.DEFAULT_ROUTE)
    _write_steps(tenant, steps)
    if downgrades is not None:
        write_downgrades(tenant, list(downgrades))


def _write_steps(tenant: Tenant, models: list[str]) -> None:
    standing = {step.model_id: step for step in tenant.route_steps.all()}
    for position, model in enumerate(models):
        step = standing.pop(model, None) or RouteStep(tenant=tenant, model_id=model)
        if step.pk is None or step.position != position:
            step.position = position
            step.save()
    for step in standing.values():
        step.delete()


def write_downgrades(tenant: Tenant, wanted: list[Downgrade]) -> None:
    """The order of rules is that of their ids, so from the first that differs on they are made anew."""
    standing = list(tenant.downgrade_rules.all())
    same = 0
    for rule, pair in zip(standing, wanted, strict=False):
        if rule.pair != pair:
            break
        same += 1
    for rule in standing[same:]:
        rule.delete()
    for from_model, to_model in wanted[same:]:
        DowngradeRule.objects.create(
            tenant=tenant, from_model_id=None if from_model == ANY_MODEL else from_model, to_model_id=to_model
        )
