"""Whether the guard can work: for load balancers and whoever starts processes. No key, no detail, no query.

`guard.asgi` serves these by a short way, on which no Host header is looked at: a load balancer asks by address.
The URLconf has them for the API's schema.
"""

from collections.abc import Callable
from http import HTTPStatus
from time import monotonic
from typing import Any, TypeVar

from django.http import HttpRequest, HttpResponse
from drf_spectacular.utils import extend_schema

from guard import __version__
from guard.api.serializers import HealthSerializer, LiveSerializer, ReadySerializer
from guard.chat.endpoints import runtime_of
from guard.http.async_view import AsyncAPIView
from guard.http.sse import to_json

Check = TypeVar("Check", bound=Callable[..., Any])

STARTED_S = monotonic()


def checks(operation_id: str, summary: str, body: Any) -> Callable[[Check], Check]:
    """Document a check, whose body is the same whether all is well or not."""
    decorator: Callable[[Check], Check] = extend_schema(
        operation_id=operation_id, summary=summary, responses={200: body, 503: body}, tags=["health"], auth=[]
    )
    return decorator


class HealthCheck(AsyncAPIView):
    authentication_classes = []
    permission_classes = []
    http_method_names = ("get", "head")


class HealthView(HealthCheck):
    @checks("getHealth", "Whether the database answers", HealthSerializer)
    async def get(self, request: HttpRequest) -> HttpResponse:
        is_heard = runtime_of(request).readiness.is_database_heard
        database = "ok" if is_heard else "unavailable"
        return health_answer({"status": database, "database": database}, is_ok=is_heard)


class LiveView(HealthCheck):
    @checks("getLive", "Whether the process answers; where it does not, start it anew", LiveSerializer)
    async def get(self, request: HttpRequest) -> HttpResponse:
        return health_answer({"status": "ok"}, is_ok=True)


class ReadyView(HealthCheck):
    @checks("getReady", "Whether calls should be sent here", ReadySerializer)
    async def get(self, request: HttpRequest) -> HttpResponse:
        missing = runtime_of(request).readiness.missing()
        return health_answer({"status": "unavailable" if missing else "ok", "missing": missing}, is_ok=not missing)


def health_answer(body: dict[str, Any], *, is_ok: bool) -> HttpResponse:
    about = {"uptime": int(monotonic() - STARTED_S), "version": __version__}
    status = HTTPStatus.OK if is_ok else HTTPStatus.SERVICE_UNAVAILABLE
    headers = {"Cache-Control": "no-store"}
    return HttpResponse(to_json({**body, **about}), status=status, content_type="application/json", headers=headers)


HEALTH_VIEWS: dict[str, Any] = {
    "/api/health": HealthView.as_view(),
    "/api/health/live": LiveView.as_view(),
    "/api/health/ready": ReadyView.as_view(),
}
