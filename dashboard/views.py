"""The managers' pages. Each view reads the address, asks for one report and shows it."""

from collections.abc import Iterable
from uuid import UUID

from django.db.models import Max, QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone

from dashboard.access import may_read_content
from dashboard.date_spans import next_month, previous_month, spans_at
from dashboard.forms import cursor_text, read_cursor
from dashboard.page_reports import overview as overview_of
from dashboard.page_reports import statement as statement_of
from dashboard.page_reports import tenant_report
from dashboard.queries.calls import BY_COST, attempts_of, page_of_calls, tokens_of
from dashboard.queries.one_subject import find_subject
from dashboard.queries.search import search
from dashboard.queries.status import services
from dashboard.request_params import (
    DEFAULT_SPAN,
    filter_of,
    month_of,
    order_of,
    page_number_of,
    removed_of,
    search_of,
    span_of,
)
from dashboard.step_sentences import reason_of, sentences_of
from dashboard.subject_report import subject_report
from dashboard.templatetags.guard_pages import url_of_hit
from dashboard.transcript import Line, lines_of
from spend.models import Call, CallContent
from spend.page_access import page, tenant_page, visible_tenants
from spend.privacy.encryption import UnreadableError
from spend.privacy.stored_content import kept as kept_contents
from spend.privacy.stored_content import said_if_readable, said_in
from spend.summaries.removed import removed_before
from tenants.models import Tenant
from tenants.trail import note_look

LATEST = 20
MOST_ASKED = 255
MOST_NOTED = 300


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
    search = search_of(request)
    report = overview_of(visible_tenants(request.user), search, page_number_of(request), now)
    zone = report.zones[0] if len(report.zones) == 1 else "UTC"
    context = {"report": report, "services": services(now), "now": now, "search": search, "zone": zone}
    with timezone.override(zone):
        return render(request, template, context)


@page
def find(request: HttpRequest) -> HttpResponse:
    """A call, customer, conversation or tenant by its id, of all that somebody may see; straight to it if it is one."""
    asked = (request.GET.get("q") or request.GET.get("request_id", "")).strip()[:MOST_ASKED]
    tenants = visible_tenants(request.user)
    hits = search(tenants, asked)
    if len(hits) == 1:
        return redirect(url_of_hit(hits[0]))
    removed = tenants.aggregate(removed_before=Max("rollup_mark__archived_through"))
    return render(request, "dashboard/find.html", {"asked": asked, "hits": hits, **removed})


@tenant_page
def tenant(request: HttpRequest, tenant: Tenant) -> HttpResponse:
    now = timezone.now()
    spans = spans_at(now, tenant.zone)
    form, wanted = span_of(request, tenant, now)
    span = wanted or spans[DEFAULT_SPAN]
    context = {"tab": "tenant", "spans": spans.values(), "span": span, "form": form, "now": now}
    report = tenant_report(tenant, span, now)
    return render(request, "dashboard/tenant.html", {"tenant": tenant, "report": report, **context})


@tenant_page
def calls(request: HttpRequest, tenant: Tenant) -> HttpResponse:
    now = timezone.now()
    form, wanted = filter_of(request, tenant, now)
    order = order_of(request)
    found = page_of_calls(
        wanted.calls_of(tenant) if wanted else Call.objects.none(),
        before=read_cursor(request.GET.get("before", ""), order),
        after=read_cursor(request.GET.get("after", ""), order),
        by=order,
    )
    cursors = {"newer": cursor_text(found.newer), "older": cursor_text(found.older)}
    is_end = found.older is None
    context = {
        "tenant": tenant,
        "tab": "calls",
        "form": form,
        "calls": found.calls,
        "tokens": tokens_of(found.calls),
        "is_by_cost": order == BY_COST,
        "removed_before": removed_of(tenant, wanted) if wanted and is_end else None,
        **cursors,
    }
    return render(request, "dashboard/calls.html", context)


@tenant_page
def subject(request: HttpRequest, tenant: Tenant, kind: str) -> HttpResponse:
    """One customer, conversation or key; which of them the address asks for by `id`."""
    asked, now = request.GET.get("id", ""), timezone.now()
    found = find_subject(tenant, kind, asked)
    if found is None:
        return _which(request, tenant, kind, asked)
    spans = spans_at(now, tenant.zone)
    form, wanted = span_of(request, tenant, now)
    span = wanted or spans[DEFAULT_SPAN]
    latest = page_of_calls(found.calls, size=LATEST)
    context = {
        "tenant": tenant, "tab": "calls", "subject": found, "report": subject_report(found, span, now),
        "spans": spans.values(), "span": span, "form": form, "now": now, "calls": latest.calls,
        "tokens": tokens_of(latest.calls), "has_more": latest.older is not None,
        "has_content": may_read_content(request.user) and _content_of_calls(latest.calls, tenant).exists(),
        "removed_before": removed_before(tenant.id, span.starts_at),
    }  # fmt: skip
    return render(request, "dashboard/subject.html", context)


def _which(request: HttpRequest, tenant: Tenant, kind: str, asked: str) -> HttpResponse:
    context = {"tenant": tenant, "tab": "calls", "kind": kind, "asked": asked}
    return render(request, "dashboard/which.html", context, status=404 if asked else 200)


@tenant_page
def subject_content(request: HttpRequest, tenant: Tenant, kind: str) -> HttpResponse:
    """What was said in the latest calls of one, newest first. Each look is noted before anything is shown."""
    if not may_read_content(request.user):
        raise Http404("What was said is not theirs to read.")
    asked = request.GET.get("id", "")
    found = find_subject(tenant, kind, asked)
    if found is None:
        return _which(request, tenant, kind, asked)
    calls = {call.id: call for call in page_of_calls(found.calls, size=LATEST).calls}
    kept = {content.call_id: content for content in _content_of_calls(calls.values(), tenant)}
    if kept:
        note_look(tenant, f"prompts and answers of {found.kind} {found.label}"[:MOST_NOTED])
    said = [(call, lines_if_readable(kept[call.id])) for call in calls.values() if call.id in kept]
    return render(
        request, "dashboard/subject_content.html", {"tenant": tenant, "tab": "calls", "subject": found, "said": said}
    )


def lines_if_readable(content: CallContent) -> tuple[list[Line], list[Line]] | None:
    said = said_if_readable(content)
    return lines_of(said) if said else None


def _content_of_calls(calls: Iterable[Call], tenant: Tenant) -> QuerySet[CallContent]:
    return kept_contents(tenant, timezone.now()).filter(call_id__in=[call.id for call in calls])


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
        "story": sentences_of(found.steps),
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
    span = month_of(request, tenant)
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
    return render(request, "dashboard/statement.html", {**context, "report": statement_of(tenant, span, now)})
