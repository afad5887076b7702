"""Who may see which tenant's pages: staff all, members their own. To everybody else a tenant does not exist.

Here, since pages of `dashboard` and of `guard` are guarded alike, and neither may import the other.
"""

import logging
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

from csp.constants import SELF
from csp.decorators import csp_replace
from django.contrib.auth.decorators import login_required
from django.contrib.auth.models import AbstractBaseUser, AnonymousUser, User
from django.db import InterfaceError, OperationalError
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import get_object_or_404
from django.template.loader import render_to_string
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from spend import replica
from tenants.models import Tenant

logger = logging.getLogger(__name__)

# Stricter than the admin's: these pages evaluate no code and style nothing inline.
strict = csp_replace({"script-src": [SELF], "style-src": [SELF]})
View = Callable[..., HttpResponseBase]


def visible_tenants(user: User | AbstractBaseUser | AnonymousUser) -> QuerySet[Tenant]:
    """Every tenant that `user` may see; pages, filters, exports and fragments all start from here."""
    if not (isinstance(user, User) and user.is_active):
        return Tenant.objects.none()
    return Tenant.objects.all() if user.is_staff else Tenant.objects.filter(members=user)


def page(view: View, methods: Callable[[View], View] = require_safe) -> View:
    """A page for who has logged in, to read unless `methods` says otherwise. Where the database is away it says so."""

    @wraps(view)
    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        try:
            if any("\0" in text for text in (request.path, *request.GET.values())):
                raise Http404("Nothing here has such a character in its name, and Postgres takes none.")
            return shown(request, *args, **kwargs)
        except (OperationalError, InterfaceError) as error:
            logger.warning("a page could not be shown, the database failed: %s", error)
            return _unavailable()

    made = _read_from_a_replica(view) if methods is require_safe else view
    shown: View = never_cache(methods(login_required(made)))
    protected: View = strict(guarded)
    return protected


def _read_from_a_replica(view: View) -> View:
    @wraps(view)
    def dated(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        response = view(request, *args, **kwargs)
        for name, value in replica.source().headers.items():
            response.headers[name] = value
        return response

    @wraps(view)
    def chosen(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        return replica.read(partial(dated, request, *args, **kwargs))

    return chosen


def tenant_page(view: View, methods: Callable[[View], View] = require_safe) -> View:
    """A page of one tenant, in its time zone; the tenant replaces the id in the address.

    404 to those who may not see it.
    """

    @wraps(view)
    def found(request: HttpRequest, tenant_id: str, **kwargs: Any) -> HttpResponseBase:
        with replica.on_primary():
            tenant = get_object_or_404(visible_tenants(request.user), pk=tenant_id)
        with timezone.override(tenant.zone):
            return view(request, tenant, **kwargs)

    return page(found, methods)


def _unavailable() -> HttpResponse:
    # Without the request: its context processors would ask the database who is logged in.
    content = render_to_string("dashboard/unavailable.html")
    return HttpResponse(content, status=503, headers={"Retry-After": "5"})
