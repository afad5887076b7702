"""Whose login somebody is who comes from the provider, and which roles it has from now on.

What SSO_ROLES names is the provider's: given and taken at each sign-in, the marks `staff` and `superuser` always. What
an administrator gives by hand besides, other groups, single permissions, a tenant's membership, stays.
"""

import re
from collections.abc import Collection, Iterable
from typing import Any

from django.conf import settings
from django.contrib.auth.models import Group, User
from django.db import IntegrityError, transaction
from django.utils import timezone

from tenants.access.roles import ENTERING_THE_ADMIN
from tenants.models import SsoIdentity
from tenants.sign_in.sso.configured import FLAGS, STAFF, SUPERUSER
from tenants.sign_in.sso.errors import Deactivated, NoRole
from tenants.sign_in.sso.provider import Claims
from tenants.trail import changed_by, note_sign_in

BY = "single sign-on"
NOT_IN_A_NAME = re.compile(r"[^\w.@+-]+")
LONGEST_NAME = 150
LONGEST_ADDRESS = 254
ROOM_FOR_A_NUMBER = 10


def roles_of(claims: Claims) -> frozenset[str]:
    """What the person's groups give, of the groups that there are; nothing where none is in SSO_ROLES."""
    given = {name for group in _groups(claims) for name in settings.SSO_ROLES.get(group, ())}
    return frozenset(given & {*FLAGS, *Group.objects.filter(name__in=given).values_list("name", flat=True)})


def _groups(claims: Claims) -> list[str]:
    """The claim's values. An address as the claim counts only if the provider says that it is theirs."""
    claim = settings.SSO_ROLES_CLAIM
    if claim == "email" and not is_email_verified(claims):
        return []
    value: Any = claims.get(claim)
    if value is None:
        value = _nested(claims, claim)
    listed = value if isinstance(value, list) else [value]
    return [each for each in listed if isinstance(each, str)]


def _nested(claims: Claims, claim: str) -> Any:
    """`realm_access.roles` is `roles` in what `realm_access` holds."""
    value: Any = claims
    for name in claim.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def is_email_verified(claims: Claims) -> bool:
    return claims.get("email_verified") is True


def sign_in(claims: Claims) -> User:
    """The person's login, made at the first sign-in, its roles brought up to date. Raises NoRole, Deactivated.

    Who has no role any more loses what they had, and is refused all the same.
    """
    roles = roles_of(claims)
    with transaction.atomic(), changed_by(BY):
        user = _login_of(claims, is_wanted=bool(roles))
        if user is not None:
            _bring_up_to_date(user, claims, roles)
    if user is None or not roles:
        raise NoRole("no group of theirs is in SSO_ROLES")
    if not user.is_active:
        raise Deactivated(f"the login {user.get_username()} is deactivated")
    return user


def _login_of(claims: Claims, *, is_wanted: bool) -> User | None:
    """By issuer and subject. A name or an address that is another login's never leads to that login."""
    whose = {"issuer": claims["iss"].rstrip("/"), "subject": claims["sub"]}
    if identity := SsoIdentity.objects.select_related("user").filter(**whose).first():
        return identity.user
    if not is_wanted:
        return None
    try:
        with transaction.atomic():
            user = User(username=_free_name(claims))
            user.set_unusable_password()
            user.save()
            SsoIdentity.objects.create(user=user, **whose)
            return user
    except IntegrityError:  # signed in for the first time twice at once
        return SsoIdentity.objects.get(**whose).user


def _free_name(claims: Claims) -> str:
    """As the provider calls them, with a number where somebody has that name, in whatever letters' case."""
    told = str(claims.get("preferred_username") or claims.get("email") or claims["sub"])
    name = NOT_IN_A_NAME.sub("-", User.normalize_username(told))[: LONGEST_NAME - ROOM_FOR_A_NUMBER]
    free, number = name, 1
    while User.objects.filter(username__iexact=free).exists():
        number += 1
        free = f"{name}-{number}"
    return free


def _bring_up_to_date(user: User, claims: Claims, roles: frozenset[str]) -> None:
    _set_fields(user, claims, roles)
    _set_groups(user, roles)
    if roles and user.is_active:
        SsoIdentity.objects.filter(user=user).update(signed_in_at=timezone.now())
        note_sign_in(user, f"by {settings.SSO_NAME}, as {', '.join(sorted(roles))}")
    else:
        if not roles:
            _end_sessions(user)
        note_sign_in(user, f"refused: {'deactivated' if roles else 'no role'} ({settings.SSO_NAME})")


def _set_fields(user: User, claims: Claims, roles: Collection[str]) -> None:
    wanted = {
        "is_superuser": SUPERUSER in roles,
        "is_staff": not ENTERING_THE_ADMIN.isdisjoint(roles) or not {STAFF, SUPERUSER}.isdisjoint(roles),
        "first_name": _text(claims, "given_name", LONGEST_NAME) or user.first_name,
        "last_name": _text(claims, "family_name", LONGEST_NAME) or user.last_name,
    }
    if is_email_verified(claims):
        wanted["email"] = _text(claims, "email", LONGEST_ADDRESS)
    changed = [name for name, value in wanted.items() if getattr(user, name) != value]
    for name in changed:
        setattr(user, name, wanted[name])
    if changed:
        user.save(update_fields=changed)


def _text(claims: Claims, claim: str, longest: int) -> str:
    """A claim that people may have written themselves, without what no database takes."""
    value = claims.get(claim)
    return value.encode(errors="ignore").decode().replace("\0", "")[:longest] if isinstance(value, str) else ""


def _set_groups(user: User, roles: frozenset[str]) -> None:
    """Only what changes, so that the trail and the ends of tokens tell of nothing else."""
    have = set(user.groups.filter(name__in=mapped_groups()))
    want = set(Group.objects.filter(name__in=roles - FLAGS))
    if more := want - have:
        user.groups.add(*more)
    if less := have - want:
        user.groups.remove(*less)


def mapped_groups() -> set[str]:
    """The guard's groups that SSO_ROLES gives and takes."""
    roles: Iterable[frozenset[str]] = settings.SSO_ROLES.values()
    return {name for names in roles for name in names} - FLAGS


def _end_sessions(user: User) -> None:
    """Django's sessions end with the password they began under. Who has one of their own signs in here without us."""
    if not user.has_usable_password():
        user.set_unusable_password()
        user.save(update_fields=["password"])
