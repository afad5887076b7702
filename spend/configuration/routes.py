"""A tenant's own route and downgrades. Each is one value: an ordered list, taken as a whole."""

from collections.abc import Collection
from typing import Any

from spend.configuration.changes import Plan
from spend.configuration.places import Place, Problems
from tenants.models import ANY_MODEL, Tenant
from tenants.routes import Downgrade, set_route


def shown(tenant: Tenant) -> dict[str, Any]:
    """Empty where the tenant has the installation's."""
    return {
        "route": [step.model_id for step in tenant.route_steps.all()],
        "downgrades": [{"from": rule.pair[0], "to": rule.pair[1]} for rule in tenant.downgrade_rules.all()],
    }


def plan_route(plan: Plan, given: dict[str, Place], tenant: Tenant, is_new: bool, models: Collection[str]) -> None:
    standing = {"route": [], "downgrades": []} if is_new else shown(tenant)
    route = _route(given["route"], models) if "route" in given else None
    pairs = _downgrades(given["downgrades"], models) if "downgrades" in given else None
    before = [(each["from"], each["to"]) for each in standing["downgrades"]]
    new_route = None if route == standing["route"] else route
    new_pairs = None if pairs == before else pairs
    if new_route is not None:
        line = f"route {_told(standing['route'])} → {_told(new_route)}"
        plan.change(f"tenant {tenant.pk}: {line}", lambda: set_route(tenant, new_route))
    if new_pairs is not None:
        line = f"downgrades {_told(_arrows(before))} → {_told(_arrows(new_pairs))}"
        plan.change(f"tenant {tenant.pk}: {line}", lambda: set_route(tenant, route, new_pairs))


def _route(place: Place, models: Collection[str]) -> list[str]:
    route, problems = [], Problems()
    for each in place.elements():
        with problems.gathered():
            model = _model(each, models)
            if model in route:
                raise each.refused(f"names {model} a second time")
            route.append(model)
    problems.tell()
    return route


def _downgrades(place: Place, models: Collection[str]) -> list[Downgrade]:
    pairs, problems = [], Problems()
    for each in place.elements():
        with problems.gathered():
            given = each.fields(["from", "to"], ["from", "to"])
            pair = _model(given["from"], [*models, ANY_MODEL]), _model(given["to"], models)
            if pair[0] == pair[1]:
                raise given["to"].refused("must be another model than from")
            if pair in pairs:
                raise each.refused("is there already")
            pairs.append(pair)
    problems.tell()
    return pairs


def _model(place: Place, models: Collection[str]) -> str:
    if place.text() not in models:
        raise place.refused(f"must be a model of the catalogue, which {place.value!r} is not")
    return place.text()


def _arrows(pairs: list[Downgrade]) -> list[str]:
    return [f"{'any model' if old == ANY_MODEL else old} to {new}" for old, new in pairs]


def _told(names: list[str]) -> str:
    return ", ".join(names) or "the installation's"
