"""Roles, which are groups: of the product's own what an installation gave them beyond it, of others everything.

So a file from one version takes nothing from a role that the next version gives it.
"""

from typing import Any

from django.contrib.auth.models import Group, Permission

from spend.configuration.changes import Plan
from spend.configuration.columns import Columns
from spend.configuration.places import Place, Problems
from tenants.access.roles import own_permissions

COLUMNS = Columns.of(Group, "name")


def shown() -> list[dict[str, Any]]:
    own = _own_names()
    roles = Group.objects.prefetch_related("permissions__content_type").order_by("name")
    return [{"name": role.name, "permissions": sorted(_names(role) - own.get(role.name, set()))} for role in roles]


def _own_names() -> dict[str, set[str]]:
    return {
        role: set(map(_name, Permission.objects.filter(permissions).select_related("content_type")))
        for role, permissions in own_permissions().items()
    }


def _names(role: Group) -> set[str]:
    return set(map(_name, role.permissions.all()))


def _name(permission: Permission) -> str:
    return f"{permission.content_type.app_label}.{permission.codename}"


def plan_roles(plan: Plan, place: Place) -> None:
    known = {_name(each): each for each in Permission.objects.select_related("content_type")}
    standing = {role.name: role for role in Group.objects.prefetch_related("permissions__content_type")}
    own, named = _own_names(), set()
    for each in place.elements():
        with plan.problems.gathered():
            given = each.fields(["name", "permissions"], ["name"])
            name = COLUMNS.read(given)["name"]
            if name in named:
                raise given["name"].refused(f"names {name} a second time")
            named.add(name)
            role = standing.get(name) or Group(name=name)
            wanted = _permissions(given["permissions"], known) if "permissions" in given else None
            COLUMNS.check(each, role)
            _plan_role(plan, role, wanted, own.get(name, set()), known)
    plan.leave("roles", [name for name in standing if name not in named])


def _permissions(place: Place, known: dict[str, Permission]) -> set[str]:
    names, problems = set(), Problems()
    for each in place.elements():
        with problems.gathered():
            if each.text() not in known:
                raise each.refused(f"must be a permission such as tenants.view_tenant, which {each.value!r} is not")
            names.add(each.text())
    problems.tell()
    return names


def _plan_role(plan: Plan, role: Group, wanted: set[str] | None, own: set[str], known: dict[str, Permission]) -> None:
    if role._state.adding:
        plan.change(f"role {role.name}: new", role.save)
    before = set() if role._state.adding else _names(role)
    wanted = before if wanted is None else wanted | own
    if added := sorted(wanted - before):
        rows = [known[name] for name in added]
        plan.change(f"role {role.name}: may also {', '.join(added)}", lambda: role.permissions.add(*rows))
    if removed := sorted(before - wanted):
        gone = [known[name] for name in removed]
        plan.change(f"role {role.name}: may no longer {', '.join(removed)}", lambda: role.permissions.remove(*gone))
