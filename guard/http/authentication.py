"""Who calls: an agent by its tenant's API key, an operator by a token or a login's session."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

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


def secret_of(headers: Mapping[str, str]) -> str | None:
    """The API key that a request carries, wherever its client puts it; None where there is none.

    Some clients write the scheme before a key that begins with it.  Raises InvalidApiKey where two keys differ.
    """
    authorization = headers.get("Authorization", "").strip()
    given = [headers[name].strip() for name in KEY_HEADERS if headers.get(name, "").strip()]
    if BEARER.match(authorization):
        while scheme := BEARER.match(authorization):
            authorization = authorization[scheme.end() :]
        given.append(authorization)
    if len(set(given)) > 1:
        raise InvalidApiKey("Authorization, api-key and x-api-key carry different keys. Send the key once.")
    return given[0] if given else None


class ApiKeyAuthentication(BaseAuthentication):
    """The key that `secret_of` finds; `request.user` is an Agent, `request.auth` its ApiKey.

    Raises InvalidApiKey for a key that is wrong, revoked or expired, Forbidden where its tenant is disabled.
    """

    def authenticate(self, request: Request) -> tuple[Agent, ApiKey] | None:
        if (secret := secret_of(request.headers)) is None:
            return None
        key = ApiKey.objects.select_related("tenant").filter(digest=digest_of(secret)).first()
        if key is None or not key.is_valid_at(timezone.now()):
            raise InvalidApiKey
        if not key.tenant.is_active:
            raise Forbidden("This tenant is disabled.")
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
