"""DRF's view, async and without what the chat paths do not use.

DRF's own dispatch negotiates content, wraps the request and renders a template response; that costs
more than the rest of a call.  What stays is `as_view`, a method's name for its handler, exceptions answered
by the project's handler, and a schema that drf-spectacular can read.  Its classes for authentication and
permission are not asked: each endpoint finds its key in the policy, in memory.
"""

from collections.abc import Awaitable, Callable
from typing import Any, cast

from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.utils.functional import classproperty
from rest_framework.views import APIView

from guard.http.errors import MethodNotAllowed, UnsupportedMediaType, envelope, error_of
from guard.http.request_ids import line_of
from guard.http.sse import to_json
from guard.http.strict_json import parse_json

CROSS_ORIGIN = (
    "Pages of other origins cannot call this: a key in a browser is everybody's. Call it from your server, by POST."
)

Handler = Callable[..., Awaitable[HttpResponseBase]]


class AsyncAPIView(APIView):
    @classproperty
    def view_is_async(cls) -> bool:  # noqa: N805
        return True

    async def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:  # type: ignore[override]
        line = line_of(request)
        try:
            return await self.handler_of(request)(request, *args, **kwargs)
        except Exception as raised:  # noqa: BLE001  every error leaves in the envelope
            error = error_of(raised)
            line.refused(error.status, error.code)
            return envelope(error, request)

    def handler_of(self, request: HttpRequest) -> Handler:
        method = (request.method or "").lower()
        if method not in self.http_method_names or not hasattr(self, method):
            raise MethodNotAllowed(
                CROSS_ORIGIN if method == "options" else f"This address takes {' and '.join(self.allowed_methods)}.",
                headers={"Allow": ", ".join(self.allowed_methods)},
            )
        return cast(Handler, getattr(self, method))


def read_body(request: HttpRequest) -> Any:
    """The request's JSON. Raises InvalidRequest, RequestTooLarge or UnsupportedMediaType."""
    if request.content_type and not request.content_type.endswith("json"):
        raise UnsupportedMediaType
    return parse_json(request.body, exact=False)


def json_answer(body: Any, headers: dict[str, str]) -> HttpResponse:
    return HttpResponse(to_json(body), content_type="application/json", headers=headers)
