"""The managers' pages. Each view reads the address, asks for one report and shows it."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db.models import Max, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render
from django.utils import timezone

from dashboard import exports
from dashboard.access import may_read_content, page, tenant_page, visible_tenants
from dashboard.focus import COLUMNS, focus_rows
from dashboard.forms import CallFilterForm, cursor_text, read_cursor
from dashboard.queries.calls import CallFilter, attempts_of, every_call, every_entry, page_of_calls
from dashboard.queries.models import models_of
from dashboard.queries.status import services
from dashboard.queries.subjects import every_conversation, every_customer
from dashboard.queries.sums import at_mark, daily_rows
from dashboard.reports import overview as overview_of
from dashboard.reports import statement as statement_of
from dashboard.reports import tenant_report
from dashboard.said import lines_of
from dashboard.spans import Span, month_span, next_month, previous_month, spans_at
from dashboard.story import reason_of, story_of
from spend.contents import kept as kept_contents
from spend.contents import said_in
from spend.models import Call, CallContent
from spend.retention import RemovedError, removed_before
from spend.sealing import UnreadableError
from tenants.models import Tenant
from tenants.periods import BEGINNING
from tenants.trail import note_look

DEFAULT_SPAN = "30"


@page
def overview(request: HttpRequest) -> HttpResponse:
    return _overview(request, "dashboard/overview.html")


@page
def live(request: HttpRequest) -> HttpResponse:
    """The overview's figures alone; the page asks for them again and again."""
    return _overview(request, "dashboard/parts/live.html")


def _overview(request: HttpRequest, template: str) -> HttpResponse:
    """In the zone of all tenants that are shown, if that is one."""
    now = timezone.now()
    search = request.GET.get("q", "")[:100].strip()
    number = request.GET.get("page", "1")[:9]  # Python reads no number of thousands of digits
    report = overview_of(visible_tenants(request.user), search, int(number) if number.isdecimal() else 1, now)
    zone = report.zones[0] if len(report.zones) == 1 else "UTC"
    context = {"report": report, "services": services(now), "now": now, "search": search, "zone": zone}
    with timezone.override(zone):
        return render(request, template, context)


@page
def find(request: HttpRequest) -> HttpResponse:
    """A call by its request id, among all that somebody may see."""
    request_id = request.GET.get("request_id", "").strip()[:128]
    tenants = visible_tenants(request.user)
    calls = Call.objects.filter(request_id=request_id, tenant__in=tenants).select_related("tenant")
    found = list(calls.order_by("-at")[:20]) if request_id else []
    if len(found) == 1:
        return redirect("call", found[0].tenant_id, found[0].id)
    removed = tenants.aggregate(removed_before=Max("rollup_mark__archived_through"))
    return render(request, "dashboard/find.html", {"request_id": request_id, "calls": found, **removed})


@tenant_page
def tenant(request: HttpRequest, tenant: Tenant) -> HttpResponse:
    now = timezone.now()
    spans = spans_at(now, tenant.zone)
    span = _span(request, spans)
    context = {"tab": "tenant", "spans": spans.values(), "span": span, "now": now}
    report = tenant_report(tenant, span, now)
    return render(request, "dashboard/tenant.html", {"tenant": tenant, "report": report, **context})


def _span(request: HttpRequest, spans: dict[str, Span]) -> Span:
    return spans.get(request.GET.get("span", ""), spans[DEFAULT_SPAN])


@tenant_page
def calls(request: HttpRequest, tenant: Tenant) -> HttpResponse:
    now = timezone.now()
    form, wanted = _filter(request, tenant, now)
    found = page_of_calls(
        wanted.calls_of(tenant) if wanted else Call.objects.none(),
        before=read_cursor(request.GET.get("before", "")),
        after=read_cursor(request.GET.get("after", "")),
    )
    cursors = {"newer": cursor_text(found.newer), "older": cursor_text(found.older)}
    is_end = found.older is None
    context = {
        "tenant": tenant,
        "tab": "calls",
        "form": form,
        "calls": found.calls,
        "removed_before": _removed_of(tenant, wanted) if wanted and is_end else None,
        **cursors,
    }
    return render(request, "dashboard/calls.html", context)


def _removed_of(tenant: Tenant, wanted: CallFilter) -> datetime | None:
    return removed_before(tenant.id, wanted.starts_at or BEGINNING)


def _filter(request: HttpRequest, tenant: Tenant, now: datetime) -> tuple[CallFilterForm, CallFilter | None]:
    form = CallFilterForm(request.GET, models=models_of(tenant, now))
    return form, form.call_filter(tenant.zone)


@tenant_page
def call(request: HttpRequest, tenant: Tenant, call_id: UUID) -> HttpResponse:
    found = Call.objects.select_related("key").filter(pk=call_id, tenant=tenant).first()
    if found is None:
        return _missing(request, tenant)
    attempts = attempts_of(found)
    context = {
        "tenant": tenant,
        "tab": "calls",
        "call": found,
        "story": story_of(found.steps),
        "reason": reason_of(found.code),
        "attempts": attempts,
        "tokens": (sum(each.input_tokens for each in attempts), sum(each.output_tokens for each in attempts)),
        "has_content": _content_of(found, tenant).exists() and may_read_content(request.user),
    }
    return render(request, "dashboard/call.html", context)


def _missing(request: HttpRequest, tenant: Tenant) -> HttpResponse:
    before = removed_before(tenant.id)
    if before is None:
        raise Http404("There is no such call.")
    context = {"tenant": tenant, "tab": "calls", "removed_before": before}
    return render(request, "dashboard/removed.html", context, status=404)


@tenant_page
def content(request: HttpRequest, tenant: Tenant, call_id: UUID) -> HttpResponse:
    """What was said in a call. Each look is in the audit trail, before anything is shown."""
    found = Call.objects.filter(pk=call_id, tenant=tenant).first()
    if not may_read_content(request.user):
        raise Http404("What was said is not theirs to read.")
    if found is None:
        return _missing(request, tenant)
    said, is_unreadable = None, False
    if kept := _content_of(found, tenant).first():
        note_look(tenant, f"prompt and answer of call {found.request_id}")
        try:
            said = lines_of(said_in(kept))
        except UnreadableError:
            is_unreadable = True
    context = {"tenant": tenant, "tab": "calls", "call": found, "said": said, "is_unreadable": is_unreadable}
    return render(request, "dashboard/content.html", context)


def _content_of(call: Call, tenant: Tenant) -> QuerySet[CallContent]:
    return kept_contents(tenant, timezone.now()).filter(call_id=call.id)


@tenant_page
def statement(request: HttpRequest, tenant: Tenant) -> HttpResponse:
    now = timezone.now()
    span = _month(request, tenant)
    context = {
        "tenant": tenant,
        "tab": "statement",
        "span": span,
        "previous": f"{previous_month(span.first):%Y-%m}",
        "next": f"{next_month(span.first):%Y-%m}" if span.ends_at <= now else "",
        "removed_before": removed_before(tenant.id, span.starts_at),
        "is_running": span.ends_at > now,
        "now": now,
    }
    return render(request, "dashboard/statement.html", {**context, "report": statement_of(tenant, span)})


def _month(request: HttpRequest, tenant: Tenant) -> Span:
    span = month_span(request.GET.get("month", ""), timezone.now(), tenant.zone)
    if span is None:
        raise Http404("There is no statement of that month.")
    return span


# Exports: the same addresses with .csv, the same filters.


@page
def overview_csv(request: HttpRequest) -> HttpResponseBase:
    now = timezone.now()
    report = overview_of(visible_tenants(request.user), request.GET.get("q", "")[:100].strip(), 1, now, size=None)
    header = [
        "tenantId", "name", "timeZone", "state", "budgetPeriod", "limitUsd", "spentUsd", "heldUsd", "resetsAt",
        "todayUsd", "monthUsd", "callsToday", "refusedToday", "downgradedToday",
    ]  # fmt: skip
    return exports.csv_response(request, "overview.csv", header, map(_standing_cells, report.shown))


def _standing_cells(standing: Any) -> list[Any]:
    tenant, use, usd = standing.tenant, standing.tightest, exports.usd_cell
    resets_at = use.window.ends_at
    return [
        tenant.id, tenant.name, tenant.time_zone, standing.state, use.budget.period, usd(use.budget.limit_ticks),
        usd(use.window.spent_ticks), usd(use.window.held_ticks),
        exports.time_cell(resets_at, tenant.zone) if resets_at else None,
        usd(standing.today.cost_ticks), usd(standing.month.cost_ticks), standing.today.calls,
        standing.today.refused, standing.today.downgraded,
    ]  # fmt: skip


@tenant_page
def days_csv(request: HttpRequest, tenant: Tenant) -> HttpResponseBase:
    """Days by model and route, of a span or, with `month`, of a month."""
    span = _span_or_month(request, tenant)
    rows = at_mark(tenant, lambda mark: daily_rows(tenant, span, mark))
    header = [
        "day", "timeZone", "model", "route", "served", "refused", "failed", "inputTokens", "cachedInputTokens",
        "outputTokens", "reasoningTokens", "costUsd",
    ]  # fmt: skip
    cells = (
        [
            row.day.isoformat(), tenant.time_zone, row.model, row.route, each.served, each.refused, each.failed,
            each.input_tokens, each.cached_input_tokens, each.output_tokens, each.reasoning_tokens,
            exports.usd_cell(each.cost_ticks),
        ]
        for row in rows
        for each in [row.figures]
    )  # fmt: skip
    return _csv(request, tenant, span, "days", header, cells)


def _span_or_month(request: HttpRequest, tenant: Tenant) -> Span:
    if "month" in request.GET:
        return _month(request, tenant)
    return _span(request, spans_at(timezone.now(), tenant.zone))


Rows = Iterable[Sequence[Any]]


def _csv(
    request: HttpRequest, tenant: Tenant, span: Span, what: str, header: Sequence[str], rows: Rows
) -> HttpResponseBase:
    return exports.csv_response(request, f"{tenant.id}-{what}-{span.first}-{span.last}.csv", header, rows)


def _single_calls_csv(
    request: HttpRequest, tenant: Tenant, span: Span, what: str, header: Sequence[str], rows: Rows
) -> HttpResponseBase:
    """All of them or none: a file with some of the span's calls would pass for the whole."""
    if before := removed_before(tenant.id, span.starts_at):
        context = {"tenant": tenant, "tab": "statement", "removed_before": before}
        return render(request, "dashboard/removed.html", context, status=410)
    return _csv(request, tenant, span, what, header, _whole(tenant, span, rows))


def _whole(tenant: Tenant, span: Span, rows: Rows) -> Iterator[Sequence[Any]]:
    """Breaks off where calls of the span are removed while it is read."""
    yield from rows
    if before := removed_before(tenant.id, span.starts_at):
        raise RemovedError(before)


EVERY = {"customer": every_customer, "conversation": every_conversation}


@tenant_page
def subjects_csv(request: HttpRequest, tenant: Tenant, kind: str) -> HttpResponseBase:
    span = _span_or_month(request, tenant)
    subjects = EVERY[kind](tenant, span)
    cells = ([each.name, each.attempts, exports.usd_cell(each.cost_ticks)] for each in subjects)
    respond = _single_calls_csv if kind == "conversation" else _csv
    return respond(request, tenant, span, f"{kind}s", [kind, "attempts", "costUsd"], cells)


@tenant_page
def calls_csv(request: HttpRequest, tenant: Tenant) -> HttpResponseBase:
    _, wanted = _filter(request, tenant, timezone.now())
    if wanted is None:
        raise Http404("The filter is not valid.")
    header = [
        "at", "requestId", "outcome", "code", "route", "requestedModel", "model", "customer", "conversation",
        "costUsd", "durationMs",
    ]  # fmt: skip
    cells = (
        [
            exports.time_cell(each.at, tenant.zone), each.request_id, each.outcome, each.code, each.route,
            each.requested_model, each.model, each.customer, each.conversation, exports.usd_cell(each.cost_ticks),
            each.duration_ms,
        ]
        for each in every_call(wanted.calls_of(tenant))
    )  # fmt: skip
    removed = _removed_of(tenant, wanted)
    since = f"-since-{removed.astimezone(tenant.zone).date()}" if removed else ""
    return exports.csv_response(request, f"{tenant.id}-calls{since}.csv", header, cells)


@tenant_page
def entries_csv(request: HttpRequest, tenant: Tenant) -> HttpResponseBase:
    """The ledger itself: what each attempt of a month cost."""
    span = _month(request, tenant)
    header = [
        "at", "requestId", "callId", "provider", "model", "requestedModel", "route", "customer", "conversation",
        "inputTokens", "cachedInputTokens", "cacheWriteTokens", "outputTokens", "reasoningTokens", "heldUsd",
        "costUsd", "isEstimated", "isOverrun", "isExpired",
    ]  # fmt: skip
    return _single_calls_csv(request, tenant, span, "ledger", header, _entry_cells(tenant, span))


def _entry_cells(tenant: Tenant, span: Span) -> Iterator[list[Any]]:
    for each in every_entry(tenant, span.starts_at, span.ends_at):
        yield [
            exports.time_cell(each.at, tenant.zone), each.request_id, each.call_id, each.provider, each.model,
            each.requested_model, each.route, each.customer, each.conversation, each.input_tokens,
            each.cached_input_tokens, each.cache_write_tokens, each.output_tokens, each.reasoning_tokens,
            exports.usd_cell(each.hold_ticks), exports.usd_cell(each.cost_ticks), each.is_estimated,
            each.is_overrun, each.is_expired,
        ]  # fmt: skip


@tenant_page
def focus_csv(request: HttpRequest, tenant: Tenant) -> HttpResponseBase:
    span = _month(request, tenant)
    return _single_calls_csv(request, tenant, span, "focus", COLUMNS, focus_rows(tenant, span))
