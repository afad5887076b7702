"""Who may call what: agents and operators never the same addresses, `GET /api/spend` apart."""

from typing import Any

from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request

from guard.http.authentication import Agent
from guard.http.errors import Forbidden


class IsAgent(BasePermission):
    def has_permission(self, request: Request, view: Any) -> bool:
        if request.user and request.user.is_authenticated and not isinstance(request.user, Agent):
            raise Forbidden("This address is for agents: send a tenant's API key.")
        return isinstance(request.user, Agent)


class IsOperator(BasePermission):
    """A login with the permissions that the view's `operator_permissions` name for the method.

    They are Django's own, those of the admin, so that the API lets nobody do what the admin would not. Who
    may change a thing may look at it. A method without a rule is nobody's.
    """

    def has_permission(self, request: Request, view: Any) -> bool:
        if isinstance(request.user, Agent):
            raise Forbidden("An agent's key may not do that: it takes an operator's token or login.")
        if not (request.user and request.user.is_authenticated):
            return False
        is_there = hasattr(view, str(request.method).lower())  # else it is told 405
        if is_there and not self.is_allowed(request, view.operator_permissions):
            raise Forbidden("This login lacks the permission to do that.")
        return True

    def is_allowed(self, request: Request, permissions: dict[str, list[str]]) -> bool:
        if request.method in SAFE_METHODS:
            return any(request.user.has_perm(permission) for permission in permissions["GET"])
        needed = permissions.get(str(request.method))
        return needed is not None and request.user.has_perms(needed)


class IsAgentOrOperator(IsOperator):
    def has_permission(self, request: Request, view: Any) -> bool:
        return isinstance(request.user, Agent) or super().has_permission(request, view)


def permissions_on(model: str, **needed: str) -> dict[str, list[str]]:
    """Permissions on a model of the tenants app by method; `needed` has each method's verbs, "change add"."""
    verbs = {"GET": "view change", "POST": "add", "PUT": "change", "PATCH": "change", "DELETE": "delete", **needed}
    return {method: [f"tenants.{verb}_{model}" for verb in words.split()] for method, words in verbs.items()}


# Who may look at tenants may look at the models that their routes name; who may change one sets no price.
READING_MODELS = {
    "GET": ["spend.view_cataloguemodel", "spend.change_cataloguemodel", "tenants.view_tenant", "tenants.change_tenant"]
}
