"""What a page's address asks for: a search, a span, a month, a filter of calls."""

from datetime import datetime

from django.http import Http404, HttpRequest
from django.utils import timezone

from dashboard.date_spans import Span, month_span, spans_at
from dashboard.forms import CallFilterForm
from dashboard.queries.calls import CallFilter, as_counted
from dashboard.queries.models import models_of
from spend.summaries.removed import removed_before
from tenants.models import Tenant
from tenants.periods import BEGINNING

DEFAULT_SPAN = "30"


def search_of(request: HttpRequest) -> str:
    return request.GET.get("q", "")[:100].strip()


def page_number_of(request: HttpRequest) -> int:
    number = request.GET.get("page", "1")[:9]  # Python reads no number of thousands of digits
    return int(number) if number.isdecimal() else 1


def span_of(request: HttpRequest, spans: dict[str, Span]) -> Span:
    return spans.get(request.GET.get("span", ""), spans[DEFAULT_SPAN])


def month_of(request: HttpRequest, tenant: Tenant) -> Span:
    span = month_span(request.GET.get("month", ""), timezone.now(), tenant.zone)
    if span is None:
        raise Http404("There is no statement of that month.")
    return span


def span_or_month_of(request: HttpRequest, tenant: Tenant) -> Span:
    if "month" in request.GET:
        return month_of(request, tenant)
    return span_of(request, spans_at(timezone.now(), tenant.zone))


def filter_of(request: HttpRequest, tenant: Tenant, now: datetime) -> tuple[CallFilterForm, CallFilter | None]:
    """The form as it was filled in, and the filter; None where something in it is not valid."""
    form = CallFilterForm(request.GET, models=models_of(tenant, now))
    wanted = form.call_filter(tenant.zone)
    return form, as_counted(wanted, tenant) if wanted else None


def removed_of(tenant: Tenant, wanted: CallFilter) -> datetime | None:
    """Before when calls that the filter asks for were removed."""
    return removed_before(tenant.id, wanted.starts_at or BEGINNING)
