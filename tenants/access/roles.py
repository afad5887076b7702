"""The roles that people have, as groups: what a login may do, where a tenant's members may look.

    operator  steers: adds, changes and deletes configuration, sees everything, who may be a tenant's member,
            and lets a login in that was locked out
    auditor   sees everything but what was said, changes nothing
    manager   sees the dashboards of the tenants they are a member of; needs no permission for that

Operators and auditors enter the admin, for which Django wants `is_staff` too. Created after every
migration, because that is when Django creates the permissions, and after a flush: a test's database
and a fresh one have them alike. Permissions are only added, so that an installation may grant more.
"""

from typing import Any

from django.contrib.auth.models import Group, Permission
from django.db.models import Q

CONFIGURATION = {
    "tenants": [
        "tenant",
        "apikey",
        "budget",
        "topup",
        "routestep",
        "downgraderule",
        "handofftranslation",
        "alertchannel",
    ],
    "spend": ["provider", "cataloguemodel", "learnedcapability", "price", "pricetier", "review", "invoicedday"],
}
ENTERING_THE_ADMIN = frozenset({"operator", "auditor"})
READABLE_APPS = [*CONFIGURATION, "auditlog", "django_tasks_database"]


def own_permissions() -> dict[str, Q]:
    """By role what the product gives it of itself, of the permissions that exist by now."""
    readable = Q(content_type__app_label__in=READABLE_APPS, codename__startswith="view_")
    editable = Q()
    for app_label, models in CONFIGURATION.items():
        editable |= Q(content_type__app_label=app_label, content_type__model__in=models)
    users = Q(content_type__app_label="auth", codename="view_user")
    lock_outs = Q(content_type__app_label="axes", codename__in=["view_accessattempt", "delete_accessattempt"])
    tokens = Q(content_type__app_label="tenants", codename="change_operatortoken")  # to revoke one
    return {
        "operator": readable | editable | users | tokens | lock_outs | Q(codename="read_callcontent"),
        "auditor": readable,
        "manager": Q(pk__in=[]),
    }


def create_roles(**_signal: Any) -> None:
    """Make the groups and give them their permissions."""
    for role, permissions in own_permissions().items():
        group, _ = Group.objects.get_or_create(name=role)
        group.permissions.add(*Permission.objects.filter(permissions))


def role(name: str) -> Group:
    """The group of a role, complete."""
    create_roles()
    return Group.objects.get(name=name)
