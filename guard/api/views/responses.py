"""What clients ask of a response by its id: it is there where the tenant keeps its conversations."""

from typing import Any
from uuid import UUID

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from guard.api.base import ApiView
from guard.api.permissions import IsAgent
from guard.http.authentication import agent_of
from guard.http.errors import InvalidRequest, NotFound, refuse
from guard.responses.answer import call_id_of
from guard.responses.input_items import listed, page
from guard.responses.memory import KEEPS_NONE, REFERENCE
from guard.telemetry.content_capture import keeps_content
from spend.privacy.encryption import UnreadableError
from spend.privacy.responses import KeptResponse, forget_response, kept_responses, unpack
from tenants.models import Tenant

MOST_LISTED = 100
LISTED = 20
"""Of input items, where the client names no number; OpenAI's own two bounds."""


@extend_schema(exclude=True)
class KeptResponseView(ApiView):
    """`GET` and `DELETE /v1/responses/{id}`."""

    permission_classes = [IsAgent]

    def get(self, request: Request, response_id: str) -> Response:
        return Response(found(agent_of(request).tenant, response_id)[1].response)

    def delete(self, request: Request, response_id: str) -> Response:
        tenant = agent_of(request).tenant
        if not forget_response(tenant, call_of(tenant, response_id), timezone.now()):
            raise not_kept(tenant, response_id)
        return Response({"id": response_id, "object": "response", "deleted": True})


@extend_schema(exclude=True)
class InputItemsView(ApiView):
    """`GET /v1/responses/{id}/input_items`: what was put in for this response alone, newest first unless asked."""

    permission_classes = [IsAgent]

    def get(self, request: Request, response_id: str) -> Response:
        call_id, kept = found(agent_of(request).tenant, response_id)
        limit = request.query_params.get("limit", str(LISTED))
        if not (limit.isascii() and limit.isdigit() and 0 < int(limit) <= MOST_LISTED):
            raise refuse("limit", f"must be a whole number from 1 to {MOST_LISTED}.")
        order, after = request.query_params.get("order", "desc"), request.query_params.get("after")
        if order not in ("asc", "desc"):
            raise refuse("order", "must be 'asc' or 'desc'.")
        items = listed(call_id, [item for item in kept.input if item.get("type") != REFERENCE])
        return Response(page(items, limit=int(limit), after=after, newest_first=order == "desc"))


@extend_schema(exclude=True)
class CancelView(ApiView):
    """`POST /v1/responses/{id}/cancel`."""

    permission_classes = [IsAgent]

    def post(self, request: Request, response_id: str) -> Response:
        found(agent_of(request).tenant, response_id)
        raise InvalidRequest("Only responses in the background can be cancelled, and the guard runs none there.")


def found(tenant: Tenant, response_id: str) -> tuple[UUID, KeptResponse]:
    """Raises NotFound."""
    call_id = call_of(tenant, response_id)
    row: Any = kept_responses(tenant, [call_id], timezone.now()).first()
    try:
        if row is not None:
            return call_id, unpack(row)
    except UnreadableError:
        pass  # its key is no longer set
    raise not_kept(tenant, response_id)


def call_of(tenant: Tenant, response_id: str) -> UUID:
    if (call_id := call_id_of(response_id)) is None:
        raise not_kept(tenant, response_id)
    return call_id


def not_kept(tenant: Tenant, response_id: str) -> NotFound:
    if not keeps_content(tenant):
        return NotFound(f"There is no such response: {KEEPS_NONE}")
    return NotFound(f"No response {response_id[:80]!r} is kept, or not any more.")
