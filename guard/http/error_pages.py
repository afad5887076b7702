"""Errors that no view answers: in the envelope under /api and /v1, as Django's pages elsewhere."""

import logging
import re
from collections.abc import Callable
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.exceptions import DisallowedHost
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import render
from django.views import defaults
from django.views.decorators.csrf import csrf_exempt

from guard.http.errors import Forbidden, GuardError, InternalError, InvalidRequest, NotFound, envelope, is_openai_path
from tenants.sign_in.addresses import counted_address
from tenants.sign_in.hashing import CLIENT, RETRY_AFTER_S, HasherBusyError

OPENAI_ADDRESS = re.compile(r"(chat/completions|completions|embeddings|responses|models(?:/[^/]+)?)/*\Z")
OWN_ADDRESS = re.compile(r"(api/chat)/*\Z")
API_ADDRESSES = (
    r"^(?:/+)?(?:(?:api|v1|openai)(?:/|\Z)|(?:chat/completions|completions|embeddings|responses|models)/*\Z)"
)
"""Where clients of an API ask, a slash too many or a prefix too few included."""
BASE_URL = "The base URL of OpenAI clients ends in /v1, once."
MOST_HOST_CHARACTERS = 255
ORIGIN = re.compile(r"https?://[A-Za-z0-9._:\[\]-]{1,255}")

logger = logging.getLogger(__name__)


@csrf_exempt
def no_such_address(request: HttpRequest) -> HttpResponse:
    """Every address that an API's client may ask and no view has, in DEBUG too, where Django has a page of its own."""
    return envelope(not_found(request.path), request)


def not_found(path: str) -> NotFound:
    """The error, which says what to ask instead, where that can be guessed."""
    meant = f"/{found[1]}" if (found := OWN_ADDRESS.search(path)) else ""
    if found := OPENAI_ADDRESS.search(path):
        meant = f"/v1/{found[1]}"
    words = [NotFound.message, f"Ask {meant}." if meant not in ("", path) else "", BASE_URL * is_openai_path(path)]
    return NotFound(" ".join(filter(None, words)))


def is_api(path: str) -> bool:
    """Whether who asks for this path is a program, and not a person with a browser."""
    return is_openai_path(path) or path.strip("/").split("/")[0] == "api"


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    error = InvalidRequest()
    if isinstance(exception, DisallowedHost):
        host = request.headers.get("Host", "")[:MOST_HOST_CHARACTERS]
        error = InvalidRequest(f"The host {host!r} is not served here: ALLOWED_HOSTS does not name it.")
    return _answer(request, error) or defaults.bad_request(request, exception)


def permission_denied(request: HttpRequest, exception: Exception) -> HttpResponse:
    return _answer(request, Forbidden()) or defaults.permission_denied(request, exception)


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """A form came from an address, or without a cookie, that the guard wants: says which setting may be wrong."""
    error = Forbidden(reason)
    seen, served_at = origin_of(request), f"{request.scheme}://{request.get_host()}"
    is_elsewhere = bool(seen) and seen not in (served_at, settings.PUBLIC_URL)
    logger.warning(
        "a form was refused: %s",
        reason,
        extra={"from": seen, "served_at": served_at, "peer": request.META["REMOTE_ADDR"]},
    )
    # Browsers keep a cookie that is for HTTPS only for localhost, and for nothing else by http: they sent none, then.
    is_cookie_lost = settings.CSRF_COOKIE_SECURE and not request.is_secure() and not request.COOKIES
    context = {
        "seen": seen,
        "served_at": served_at,
        "is_elsewhere": is_elsewhere,
        "is_cookie_lost": is_cookie_lost and not is_elsewhere,
    }
    return _answer(request, error) or render(request, "403_csrf.html", context, status=error.status)


def password_middleware(get_response: Callable[[HttpRequest], HttpResponseBase]) -> Any:
    """Says whose passwords are hashed, and answers a form, whichever it is, whose password could not be looked at."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        before = CLIENT.set(counted_address(request))
        try:
            return get_response(request)
        finally:
            CLIENT.reset(before)

    def process_exception(request: HttpRequest, exception: Exception) -> HttpResponse | None:
        if not isinstance(exception, HasherBusyError):
            return None
        answer = render(request, "dashboard/sign_ins_busy.html", status=HTTPStatus.TOO_MANY_REQUESTS)
        answer.headers["Retry-After"] = str(RETRY_AFTER_S)
        return answer

    middleware.process_exception = process_exception  # type: ignore[attr-defined]
    return middleware


def origin_of(request: HttpRequest) -> str:
    """Where the browser says that it shows the guard's pages; nothing where it does not say."""
    url = urlsplit(request.headers.get("Origin", "") or request.headers.get("Referer", ""))
    origin = f"{url.scheme}://{url.netloc}"
    return origin if ORIGIN.fullmatch(origin) else ""


def page_not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    return _answer(request, not_found(request.path)) or defaults.page_not_found(request, exception)


def server_error(request: HttpRequest) -> HttpResponse:
    return _answer(request, InternalError()) or defaults.server_error(request)


def _answer(request: HttpRequest, error: GuardError) -> HttpResponse | None:
    return envelope(error, request) if is_api(request.path) else None
