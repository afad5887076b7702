"""Who calls: an agent by its tenant's API key, an operator by a token or a login's session."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, Protocol, TypeVar

from django.contrib.auth.models import AbstractBaseUser
from django.utils import timezone
from rest_framework.authentication import BaseAuthentication, SessionAuthentication, TokenAuthentication
from rest_framework.exceptions import PermissionDenied
from rest_framework.request import Request

from guard.http.errors import Forbidden, InvalidApiKey
from tenants.models import ApiKey, OperatorToken, Tenant, digest_of


@dataclass(frozen=True)
class Agent:
    """The caller behind an API key. It stands where DRF expects a user, and is no login: it has no permission."""

    key: ApiKey

    is_authenticated: ClassVar[bool] = True
    is_anonymous: ClassVar[bool] = False
    is_active: ClassVar[bool] = True
    is_staff: ClassVar[bool] = False
    is_superuser: ClassVar[bool] = False
    pk: ClassVar[None] = None

    @property
    def tenant(self) -> Tenant:
        return self.key.tenant

    def has_perm(self, permission: str, obj: object = None) -> bool:
        return False


def agent_of(request: Request) -> Agent:
    """The caller of a view that only agents reach."""
    assert isinstance(request.user, Agent)  # noqa: S101
    return request.user


BEARER = re.compile(r"bearer(\s+|$)", re.IGNORECASE)
KEY_HEADERS = ("api-key", "x-api-key")


def bearer_of(headers: Mapping[str, str]) -> str | None:
    """What stands after `Authorization: Bearer`; None where another scheme does, or none.

    Some clients write the scheme before a key that begins with it.
    """
    authorization = headers.get("Authorization", "").strip()
    if not BEARER.match(authorization):
        return None
    while scheme := BEARER.match(authorization):
        authorization = authorization[scheme.end() :]
    return authorization


def secret_of(headers: Mapping[str, str]) -> str | None:
    """The API key that a request carries, wherever its client puts it; None where there is none.

    Raises InvalidApiKey where two keys differ.
    """
    given = [headers[name].strip() for name in KEY_HEADERS if headers.get(name, "").strip()]
    if (token := bearer_of(headers)) is not None:
        given.append(token)
    if len(set(given)) > 1:
        raise InvalidApiKey("Authorization, api-key and x-api-key carry different keys. Send the key once.")
    return given[0] if given else None


class Key(Protocol):
    """An API key: the row, or what the policy knows of it."""

    def is_valid_at(self, now: datetime) -> bool: ...


AnyKey = TypeVar("AnyKey", bound=Key)


def valid(key: AnyKey | None) -> AnyKey:
    """The key that was found. Raises InvalidApiKey where none was, or it is revoked or expired."""
    if key is None or not key.is_valid_at(timezone.now()):
        raise InvalidApiKey
    return key


def refuse_disabled(*, is_active: bool) -> None:
    """Raises Forbidden for a tenant that is not active."""
    if not is_active:
        raise Forbidden("This tenant is disabled.")


class ApiKeyAuthentication(BaseAuthentication):
    """The key that `secret_of` finds; `request.user` is an Agent, `request.auth` its ApiKey.

    Raises InvalidApiKey for a key that is wrong, revoked or expired, Forbidden where its tenant is disabled.
    """

    def authenticate(self, request: Request) -> tuple[Agent, ApiKey] | None:
        if (secret := secret_of(request.headers)) is None:
            return None
        key = valid(ApiKey.objects.select_related("tenant").filter(digest=digest_of(secret)).first())
        refuse_disabled(is_active=key.tenant.is_active)
        return Agent(key), key

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


class OperatorTokenAuthentication(TokenAuthentication):
    """`Authorization: Token …`; `request.user` is its login, `request.auth` the OperatorToken.

    Raises InvalidApiKey for a token that is wrong, revoked or expired, or whose login is not active.
    """

    def authenticate_credentials(self, key: str) -> tuple[AbstractBaseUser, OperatorToken]:
        now = timezone.now()
        token = OperatorToken.objects.select_related("user").filter(digest=digest_of(key)).first()
        if token is None or not token.is_valid_at(now) or not token.user.is_active:
            raise InvalidApiKey("This token is wrong, revoked or expired.")
        token.note_use(now)
        return token.user, token


class OperatorSession(SessionAuthentication):
    """A login's session, with Django's CSRF check; a failure says what is wrong."""

    def enforce_csrf(self, request: Request) -> None:
        try:
            super().enforce_csrf(request)
        except PermissionDenied as error:
            raise Forbidden(f"{error.detail}") from error
