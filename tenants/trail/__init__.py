"""The audit trail, and the revision by which every worker notices a change within a second.

The trail itself is django-auditlog's: who, when, old value, new value, for each row of each watched
model, whoever saves it. Beside it a counter is raised in the same transaction as each change, with a row that says what
changed; workers poll the counter and read what has changed, instead of the configuration again and again.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from auditlog.context import set_extra_data
from auditlog.models import LogEntry
from auditlog.registry import auditlog
from django.db import transaction
from django.db.models import F, Model
from django.db.models.signals import m2m_changed, post_delete, post_save
from django.http import HttpRequest, HttpResponseBase
from django.utils.functional import SimpleLazyObject

from tenants.models import Change, Revision, Tenant


def watch(*models: type[Model], m2m: Mapping[type[Model], set[str]] | None = None) -> None:
    """Record every change of these models in the audit trail and raise the revision at each.

    A bulk `update()` sends no signal and so leaves no trail: configuration is saved row by row.
    """
    for model in models:
        m2m_fields = (m2m or {}).get(model, set())
        auditlog.register(
            model,
            m2m_fields=m2m_fields,
            exclude_fields=_untold(model),
            mask_fields=_masked(model),
            mask_callable=f"tenants.trail.{'whether_kept' if _keeps_key(model) else 'without_address'}",
        )
        post_save.connect(raise_revision, sender=model)
        post_delete.connect(raise_revision, sender=model)
        for field in m2m_fields:
            m2m_changed.connect(raise_revision, sender=getattr(model, field).through)


def watch_people(model: type[Model], m2m: Collection[str] = ()) -> None:
    """Record every change of who may what. Workers keep none of it, so the revision stays."""
    auditlog.register(
        model,
        m2m_fields=set(m2m),
        exclude_fields=[*_untold(model), "last_login", "last_used_at", "signed_in_at"],
        mask_fields=["password"],
        mask_callable="tenants.trail.without_password",
    )


def without_password(_hash: str) -> str:
    """That there is one, or another, and nothing of it."""
    return "***"


def _untold(model: type[Model]) -> list[str]:
    """Fields that the trail leaves out: what other rows say of this one, a secret, and the hash of one."""
    fields = model._meta.get_fields()
    return [field.name for field in fields if not field.concrete or field.name in {"digest", "secret"}]


def _masked(model: type[Model]) -> list[str]:
    """Fields that the trail shows in part: auditors read it, to whom a channel's page shows no address either."""
    return [field.name for field in model._meta.get_fields() if field.name in {"target", "sealed_key"}]


def _keeps_key(model: type[Model]) -> bool:
    return any(field.name == "sealed_key" for field in model._meta.get_fields())


def whether_kept(sealed: str) -> str:
    """That there is a key, or another, and nothing of it."""
    return "***" if sealed else ""


def without_address(target: str) -> str:
    """Of a webhook's address, which may be its password, only the host; anything else as it is."""
    scheme, separator, rest = target.partition("://")
    if not separator:
        return target
    host = re.split(r"[/?#\\]", rest)[0].rpartition("@")[2]
    return f"{scheme}://{host}/…"


@transaction.atomic
def raise_revision(sender: type[Model] | None = None, instance: Model | None = None, **_signal: Any) -> None:
    """Say that `instance` changed; without one, after a bulk statement, that anything may have.

    Whoever raises it holds the row until the transaction ends, so numbers are in the order of commits.
    """
    while not Revision.objects.filter(pk=1).update(number=F("number") + 1):
        Revision.objects.get_or_create(pk=1, defaults={"number": 0})
    number = Revision.current()
    Change.objects.create(
        number=number, table=sender._meta.label_lower if sender else "", tenant_id=_tenant_of(instance)
    )
    if number % Change.KEPT == 0:
        Change.objects.filter(number__lte=number - Change.KEPT).delete()


def _tenant_of(instance: Model | None) -> str:
    tenant_id = instance.pk if isinstance(instance, Tenant) else getattr(instance, "tenant_id", None)
    return tenant_id or ""


def note_look(tenant: Tenant, what: str) -> None:
    """That somebody looked at something confidential of the tenant; who, is known from the request."""
    LogEntry.objects.log_create(
        tenant, force_log=True, action=LogEntry.Action.ACCESS, object_repr=f"{tenant}: {what}", changes={}
    )


def note_unlock(attempt: Model, login: str) -> None:
    """That somebody let a login in again that was locked out."""
    LogEntry.objects.log_create(
        attempt,
        force_log=True,
        action=LogEntry.Action.UPDATE,
        object_repr=f"of {login}",
        changes={"login": ["locked out", "unlocked"]},
    )


def note_sign_in(user: Model, how: str) -> None:
    """That somebody came from the provider of single sign-on, and what became of it."""
    LogEntry.objects.log_create(user, force_log=True, action=LogEntry.Action.UPDATE, changes={"sign-in": ["", how]})


@contextmanager
def changed_by(who: str) -> Iterator[None]:
    """Name the command that makes the changes inside."""
    with set_extra_data({"additional_data": {"by": who}}):
        yield


def trail_middleware(get_response: Callable[[HttpRequest], HttpResponseBase]) -> Callable[[HttpRequest], Any]:
    """Name the request's user as the author of its changes.

    auditlog's own middleware asks for the user before the view runs, when a token has not been
    read yet; this one asks when the first change is written.
    """

    def middleware(request: HttpRequest) -> HttpResponseBase:
        with set_extra_data({"actor": SimpleLazyObject(lambda: request.user)}):
            return get_response(request)

    return middleware
