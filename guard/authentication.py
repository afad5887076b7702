"""Who calls: an agent by its tenant's API key, an operator by a DRF token or a login's session."""

from dataclasses import dataclass
from typing import ClassVar

from django.utils import timezone
from rest_framework.authentication import BaseAuthentication, SessionAuthentication
from rest_framework.exceptions import PermissionDenied
from rest_framework.request import Request

from guard.errors import Forbidden, InvalidApiKey
from tenants.models import ApiKey, Tenant, digest_of


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


class ApiKeyAuthentication(BaseAuthentication):
    """`Authorization: Bearer <tenant API key>`; `request.user` is an Agent, `request.auth` its ApiKey.

    Raises InvalidApiKey for a key that is wrong, revoked or expired, Forbidden where its tenant is disabled.
    """

    def authenticate(self, request: Request) -> tuple[Agent, ApiKey] | None:
        scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        key = ApiKey.objects.select_related("tenant").filter(digest=digest_of(secret.strip())).first()
        if key is None or not key.is_valid_at(timezone.now()):
            raise InvalidApiKey
        if not key.tenant.is_active:
            raise Forbidden("This tenant is disabled.")
        return Agent(key), key

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


class OperatorSession(SessionAuthentication):
    """A login's session, with Django's CSRF check; a failure says what is wrong."""

    def enforce_csrf(self, request: Request) -> None:
        try:
            super().enforce_csrf(request)
        except PermissionDenied as error:
            raise Forbidden(f"{error.detail}") from error
