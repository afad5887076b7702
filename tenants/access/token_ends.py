"""An operator's tokens end with what they were issued for: the login's activity, its password, its roles."""

from collections.abc import Iterable
from typing import Any

from django.contrib.auth.models import Group, User
from django.db.models.signals import m2m_changed, pre_delete, pre_save
from django.utils import timezone

from tenants.models import OperatorToken


def connect() -> None:
    pre_save.connect(_user_changes, sender=User)
    m2m_changed.connect(_groups_change, sender=User.groups.through)
    pre_delete.connect(_group_goes, sender=Group)


def end_tokens(users: Iterable[Any], because: str) -> None:
    """Row by row, so that each is in the audit trail."""
    for token in OperatorToken.objects.filter(user__in=users, revoked_at=None):
        token.revoke(timezone.now(), because)


def _user_changes(instance: User, update_fields: frozenset[str] | None, raw: bool = False, **_signal: Any) -> None:
    before = User.objects.filter(pk=instance.pk).first() if instance.pk and not raw else None
    if before is None:
        return
    saved = update_fields or {"is_active", "is_staff", "is_superuser", "password"}
    if "is_active" in saved and before.is_active and not instance.is_active:
        end_tokens([instance], "deactivated")
    if any(flag in saved and getattr(before, flag) != getattr(instance, flag) for flag in ("is_staff", "is_superuser")):
        end_tokens([instance], "role changed")
    if "password" in saved and before.password != instance.password and not _is_rehash(instance, update_fields):
        end_tokens([instance], "password changed")


def _is_rehash(user: User, update_fields: frozenset[str] | None) -> bool:
    """The same password, hashed by Django in a newer way as somebody signs in."""
    is_known = getattr(user, "_password", None) is not None
    return set(update_fields or ()) == {"password"} and not is_known and user.has_usable_password()


def _groups_change(instance: User | Group, action: str, reverse: bool, pk_set: set[int] | None, **_signal: Any) -> None:
    """Of `user.groups`, or from the other side of `group.user_set`; a clear says before which they were."""
    if action in {"post_add", "post_remove"} and pk_set:
        end_tokens(pk_set if reverse else [instance], "role changed")
    elif action == "pre_clear":
        cleared = User.objects.filter(groups__pk=instance.pk) if reverse else User.objects.filter(pk=instance.pk)
        end_tokens(cleared.filter(groups__isnull=False).distinct(), "role changed")


def _group_goes(instance: Group, **_signal: Any) -> None:
    end_tokens(User.objects.filter(groups=instance), "role changed")
