"""The addresses of single sign-on: the way to the provider, back from it, and out of it."""

import hmac
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from functools import wraps

from django.conf import settings
from django.contrib.auth import login
from django.contrib.auth.views import LogoutView
from django.core import signing
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme, urlencode
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from tenants.sign_in.addresses import counted_address
from tenants.sign_in.hashing import HasherBusyError, Places
from tenants.sign_in.sso.configured import is_on
from tenants.sign_in.sso.errors import NotBegunHere, ProviderRefused, SsoError, TooManyAtOnce
from tenants.sign_in.sso.people import sign_in
from tenants.sign_in.sso.provider import Begun, claims_of, said, way_out, way_there

COOKIE = "guard_sso"
BEGUN_FOR_S = 600
LONGEST_NEXT = 1500
"""Browsers keep no cookie of more than 4096 characters."""
BACKEND = "django.contrib.auth.backends.ModelBackend"
MARK = "sso"
"""In a session that began so."""
CHECKS = Places()
"""Of answers that are checked with the provider: some at once, and of one client not all."""

View = Callable[[HttpRequest], HttpResponse]
logger = logging.getLogger(__name__)


def step(view: View) -> View:
    """An address of single sign-on, where that is set up; where it fails, a page that says what to do."""

    @wraps(view)
    def guarded(request: HttpRequest) -> HttpResponse:
        if not is_on():
            raise Http404("Single sign-on is not set up.")
        try:
            return view(request)
        except SsoError as error:
            logger.warning("single sign-on failed: %s: %s", type(error).__name__, error)
            return _failed(request, error)

    kept: View = never_cache(require_safe(guarded))
    return kept


@step
def begin(request: HttpRequest) -> HttpResponse:
    url, begun = way_there(_callback_url(), _next_path(request))
    return _with_cookie(HttpResponseRedirect(url), signing.dumps(asdict(begun), salt=COOKIE), BEGUN_FOR_S)


@step
def callback(request: HttpRequest) -> HttpResponse:
    begun = _begun(request)
    if error := request.GET.get("error"):
        raise ProviderRefused(f"the provider said {said(error)}")
    with _place(request):
        claims = claims_of(request.GET.dict(), begun, _callback_url(), settings.SSO_ROLES_CLAIM)
    login(request, sign_in(claims), BACKEND)
    request.session[MARK] = True
    request.session.set_expiry(timedelta(hours=settings.SSO_SESSION_HOURS))
    return _used(HttpResponseRedirect(begun.next))


@step
def sign_out_there(request: HttpRequest) -> HttpResponse:
    url = way_out(settings.PUBLIC_URL + reverse("login"))
    return HttpResponseRedirect(url or reverse("login"))


class SignOut(LogoutView):
    """Out of the guard. Who came from the provider is still signed in there, and reads so."""

    def post(self, request: HttpRequest, *args: object, **kwargs: object) -> HttpResponse:
        self.is_from_provider = MARK in request.session
        return super().post(request, *args, **kwargs)

    def get_default_redirect_url(self) -> str:
        return reverse("login") + ("?signed_out" if self.is_from_provider and is_on() else "")


def _begun(request: HttpRequest) -> Begun:
    """What this browser began, if that is what comes back. Raises NotBegunHere."""
    try:
        begun = Begun(**signing.loads(request.COOKIES.get(COOKIE, ""), salt=COOKIE, max_age=BEGUN_FOR_S))
    except (signing.BadSignature, TypeError):
        raise NotBegunHere("no sign-in was begun in this browser, or long ago") from None
    if not hmac.compare_digest(begun.state.encode(), request.GET.get("state", "").encode()):
        raise NotBegunHere("the state is not the one that this browser was given")
    return begun


@contextmanager
def _place(request: HttpRequest) -> Iterator[None]:
    try:
        with CHECKS.one(counted_address(request)):
            yield
    except HasherBusyError:
        raise TooManyAtOnce("too many answers are being checked") from None


def _next_path(request: HttpRequest) -> str:
    """Where to after it: a page of ours."""
    path = request.GET.get("next", "")
    if len(path) <= LONGEST_NEXT and url_has_allowed_host_and_scheme(
        path, {request.get_host()}, require_https=request.is_secure()
    ):
        return path
    return settings.LOGIN_REDIRECT_URL


def sign_in_url(next_path: str) -> str:
    """Where the button leads: at PUBLIC_URL, whose cookie it is that must come back."""
    return settings.PUBLIC_URL + reverse("sso") + (f"?{urlencode({'next': next_path})}" if next_path else "")


def _callback_url() -> str:
    return settings.PUBLIC_URL + reverse("sso_callback")


def _failed(request: HttpRequest, error: SsoError) -> HttpResponse:
    name = settings.SSO_NAME
    page = {"title": error.title.format(name=name), "advice": error.advice.format(name=name)}
    return _used(render(request, "dashboard/sso_failed.html", page, status=error.status))


def _used(answer: HttpResponse) -> HttpResponse:
    """What was begun has come to its end, either way."""
    return _with_cookie(answer, "", 0)


def _with_cookie(answer: HttpResponse, value: str, max_age_s: int) -> HttpResponse:
    """Set and taken away with the same marks, so that no client has a reason to keep it."""
    answer.set_cookie(
        COOKIE,
        value,
        max_age=max_age_s,
        path=reverse("sso"),
        secure=settings.SESSION_COOKIE_SECURE,
        httponly=True,
        samesite="Lax",
    )
    return answer
