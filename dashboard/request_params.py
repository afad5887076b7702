"""What a page's address asks for: a search, a span, a month, a filter of calls."""

from datetime import datetime

from django.http import Http404, HttpRequest
from django.utils import timezone

from dashboard.date_spans import Span, month_span, spans_at
from dashboard.forms import CallFilterForm, RangeForm
from dashboard.queries.calls import BY_COST, BY_TIME, CallFilter, as_counted
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


def span_of(request: HttpRequest, tenant: Tenant, now: datetime) -> tuple[RangeForm, Span | None]:
    """Days or hours that somebody chose, else one of those on offer; None where what was chosen is not valid.

    The form holds what was chosen."""
    spans = spans_at(now, tenant.zone)
    today = spans["today"].last
    if any(request.GET.get(name) for name in RangeForm.base_fields):
        form = RangeForm(request.GET, today=today)
        return form, form.span(tenant.zone)
    span = spans.get(request.GET.get("span", ""), spans[DEFAULT_SPAN])
    return RangeForm(initial={"first": span.first, "last": span.last}, today=today), span


def month_of(request: HttpRequest, tenant: Tenant) -> Span:
    span = month_span(request.GET.get("month", ""), timezone.now(), tenant.zone)
    if span is None:
        raise Http404("There is no statement of that month.")
    return span


def span_or_month_of(request: HttpRequest, tenant: Tenant) -> Span:
    if "month" in request.GET:
        return month_of(request, tenant)
    _, span = span_of(request, tenant, timezone.now())
    if span is None:
        raise Http404("These days are not valid.")
    return span


def filter_of(request: HttpRequest, tenant: Tenant, now: datetime) -> tuple[CallFilterForm, CallFilter | None]:
    """The form as it was filled in, and the filter; None where something in it is not valid."""
    form = CallFilterForm(request.GET, models=models_of(tenant, now), keys=tenant.keys.all())
    wanted = form.call_filter(tenant.zone)
    return form, as_counted(wanted, tenant) if wanted else None


def order_of(request: HttpRequest) -> str:
    return BY_COST if request.GET.get("sort") == "cost" else BY_TIME


def removed_of(tenant: Tenant, wanted: CallFilter) -> datetime | None:
    """Before when calls that the filter asks for were removed."""
    return removed_before(tenant.id, wanted.starts_at or BEGINNING)
