"""Errors that no view answers: in the envelope under /api and /v1, as Django's pages elsewhere."""

from django.core.exceptions import DisallowedHost
from django.http import HttpRequest, HttpResponse
from django.views import defaults
from django.views.decorators.csrf import csrf_exempt

from guard.errors import Forbidden, GuardError, InternalError, InvalidRequest, NotFound, envelope

API_PREFIXES = ("/api/", "/v1/")
MOST_HOST_CHARACTERS = 255


@csrf_exempt
def no_such_address(request: HttpRequest) -> HttpResponse:
    """Every address under /api and /v1 that no view has, in DEBUG too, where Django shows a page of its own."""
    return envelope(NotFound(), request)


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    error = InvalidRequest()
    if isinstance(exception, DisallowedHost):
        host = request.headers.get("Host", "")[:MOST_HOST_CHARACTERS]
        error = InvalidRequest(f"The host {host!r} is not served here: ALLOWED_HOSTS does not name it.")
    return _answer(request, error) or defaults.bad_request(request, exception)


def permission_denied(request: HttpRequest, exception: Exception) -> HttpResponse:
    return _answer(request, Forbidden()) or defaults.permission_denied(request, exception)


def page_not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    return _answer(request, NotFound()) or defaults.page_not_found(request, exception)


def server_error(request: HttpRequest) -> HttpResponse:
    return _answer(request, InternalError()) or defaults.server_error(request)


def _answer(request: HttpRequest, error: GuardError) -> HttpResponse | None:
    return envelope(error, request) if request.path.startswith(API_PREFIXES) else None
