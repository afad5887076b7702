"""The files: what the pages show as CSV, at the same addresses, and a month's ledger, whole."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from django.http import Http404, HttpRequest, HttpResponseBase
from django.shortcuts import render
from django.utils import timezone

from dashboard.date_spans import HOUR, Span, hour_of, spans_at
from dashboard.exports import csv_response
from dashboard.exports.focus_export import COLUMNS, focus_rows
from dashboard.forms import RangeForm
from dashboard.page_reports import overview as overview_of
from dashboard.queries.budgets import Standing
from dashboard.queries.calls import every_call, every_entry, with_tokens
from dashboard.queries.one_subject import find_subject, rows_of_subject
from dashboard.queries.savings import savings_of
from dashboard.queries.subjects import every_conversation, every_customer, every_tag
from dashboard.queries.sums import at_mark, buckets_of, rows_of
from dashboard.request_params import filter_of, month_of, removed_of, search_of, span_or_month_of
from spend.budgets.usage import Use, every_use
from spend.page_access import page, tenant_page, visible_tenants
from spend.summaries.removed import RemovedError, removed_before
from tenants.models import Scope, Tenant


@page
def overview_csv(request: HttpRequest) -> HttpResponseBase:
    now = timezone.now()
    report = overview_of(visible_tenants(request.user), search_of(request), 1, now, size=None)
    header = [
        "tenantId", "name", "timeZone", "state", "budgetPeriod", "limitUsd", "spentUsd", "heldUsd", "resetsAt",
        "todayUsd", "monthUsd", "callsToday", "tokensToday", "refusedToday", "downgradedToday",
        "handedOffToday",
    ]  # fmt: skip
    return csv_response.csv_response(request, "overview.csv", header, map(_standing_cells, report.shown))


def _standing_cells(standing: Standing) -> list[Any]:
    tenant, use, usd = standing.tenant, standing.tightest, csv_response.usd_cell
    resets_at = use.window.ends_at
    return [
        tenant.id, tenant.name, tenant.time_zone, standing.state, use.budget.period, usd(use.budget.limit_ticks),
        usd(use.window.spent_ticks), usd(use.window.held_ticks),
        csv_response.time_cell(resets_at, tenant.zone) if resets_at else None,
        usd(standing.today.cost_ticks), usd(standing.month.cost_ticks), standing.today.calls,
        standing.today.tokens, standing.today.refused, standing.today.downgraded, standing.today.handoff,
    ]  # fmt: skip


@tenant_page
def budgets_csv(request: HttpRequest, tenant: Tenant) -> HttpResponseBase:
    """Every budget as it stands: the tenant's own, then those of keys, customers and conversations, most used first."""
    now = timezone.now()
    names = {str(key.pk): str(key) for key in tenant.keys.all()}
    header = [
        "scope", "scopeId", "keyName", "period", "startsAt", "resetsAt", "limitUsd", "spentUsd", "heldUsd",
        "remainingUsd", "state",
    ]  # fmt: skip
    cells = (_use_cells(use, names, tenant) for use in every_use(tenant, now))
    return csv_response.csv_response(request, f"{tenant.id}-budgets.csv", header, cells)


def _use_cells(use: Use, key_names: dict[str, str], tenant: Tenant) -> list[Any]:
    window, usd = use.window, csv_response.usd_cell
    key_name = key_names.get(window.subject) if window.scope == Scope.KEY else None
    resets_at = csv_response.time_cell(window.ends_at, tenant.zone) if window.ends_at else None
    return [
        window.scope, use.scope_id, key_name, window.period, csv_response.time_cell(window.starts_at, tenant.zone),
        resets_at, usd(use.budget.limit_ticks), usd(window.spent_ticks), usd(window.held_ticks),
        usd(use.remaining_ticks), use.state,
    ]  # fmt: skip


@tenant_page
def hours_csv(request: HttpRequest, tenant: Tenant) -> HttpResponseBase:
    """What each hour of a day or two cost, by model: of today, or of what is asked for."""
    span = _day_of(request, tenant)
    hours = Counter[tuple[int, str]]()
    for bucket in buckets_of(tenant, span):
        hours[hour_of(bucket.at, span.starts_at), bucket.model] += bucket.figures.cost_ticks
    cells = (
        [csv_response.time_cell(span.starts_at + hour * HOUR, tenant.zone), model, csv_response.usd_cell(ticks)]
        for (hour, model), ticks in hours.items()
    )
    return _csv(request, tenant, span, "hours", ["hour", "model", "costUsd"], cells)


def _day_of(request: HttpRequest, tenant: Tenant) -> Span:
    if not {"span", "month", *RangeForm.base_fields} & request.GET.keys():
        return spans_at(timezone.now(), tenant.zone)["today"]
    return span_or_month_of(request, tenant)


@tenant_page
def savings_csv(request: HttpRequest, tenant: Tenant) -> HttpResponseBase:
    span = span_or_month_of(request, tenant)
    savings = at_mark(tenant, lambda mark: savings_of(tenant, span, mark))
    cells = (
        [
            row.requested_model, row.model, row.attempts, csv_response.usd_cell(row.asked_ticks),
            csv_response.usd_cell(row.cost_ticks), csv_response.usd_cell(row.saved_ticks),
        ]
        for row in savings.rows
    )  # fmt: skip
    header = ["requestedModel", "model", "answers", "wouldHaveCostUsd", "costUsd", "savedUsd"]
    return _csv(request, tenant, span, "savings", header, cells)


@tenant_page
def days_csv(request: HttpRequest, tenant: Tenant) -> HttpResponseBase:
    """Days by model and route, of a span or, with `month`, of a month."""
    span = span_or_month_of(request, tenant)
    rows = at_mark(tenant, lambda mark: rows_of(tenant, span, mark))
    header = [
        "day", "timeZone", "model", "route", "served", "refused", "failed", "inputTokens", "cachedInputTokens",
        "outputTokens", "reasoningTokens", "costUsd", "handedOff",
    ]  # fmt: skip
    cells = (
        [
            row.day.isoformat(), tenant.time_zone, row.model, row.route, each.served, each.refused, each.failed,
            each.input_tokens, each.cached_input_tokens, each.output_tokens, each.reasoning_tokens,
            csv_response.usd_cell(each.cost_ticks), each.handoff,
        ]
        for row in rows
        for each in [row.figures]
    )  # fmt: skip
    return _csv(request, tenant, span, "days", header, cells)


Rows = Iterable[Sequence[Any]]


def _csv(
    request: HttpRequest, tenant: Tenant, span: Span, what: str, header: Sequence[str], rows: Rows
) -> HttpResponseBase:
    return csv_response.csv_response(request, _filename(tenant, what, span), header, rows)


def _filename(tenant: Tenant, what: str, span: Span) -> str:
    times = [f"{at.astimezone(span.zone):%H%M}" for at in (span.starts_at, span.ends_at)] if not span.is_whole else []
    return "-".join([tenant.id, what, f"{span.first}", f"{span.last}", *times]) + ".csv"


def _single_calls_csv(
    request: HttpRequest,
    tenant: Tenant,
    span: Span,
    what: str,
    header: Sequence[str],
    rows: Rows,
    respond: Callable[..., HttpResponseBase] = csv_response.csv_response,
) -> HttpResponseBase:
    """All of them or none: a file with some of the span's calls would pass for the whole."""
    if before := removed_before(tenant.id, span.starts_at):
        context = {"tenant": tenant, "tab": "statement", "removed_before": before}
        return render(request, "dashboard/removed.html", context, status=410)
    return respond(request, _filename(tenant, what, span), header, _whole(tenant, span, rows))


def _whole(tenant: Tenant, span: Span, rows: Rows) -> Iterator[Sequence[Any]]:
    """Breaks off where calls of the span are removed while it is read."""
    yield from rows
    if before := removed_before(tenant.id, span.starts_at):
        raise RemovedError(before)


EVERY = {"customer": every_customer, "conversation": every_conversation}


@tenant_page
def subjects_csv(request: HttpRequest, tenant: Tenant, kind: str) -> HttpResponseBase:
    span = span_or_month_of(request, tenant)
    subjects = EVERY[kind](tenant, span)
    cells = ([each.name, each.attempts, csv_response.usd_cell(each.cost_ticks)] for each in subjects)
    return _csv(request, tenant, span, f"{kind}s", [kind, "attempts", "costUsd"], cells)


@tenant_page
def subject_csv(request: HttpRequest, tenant: Tenant, kind: str) -> HttpResponseBase:
    """What one customer, conversation or key cost each day; nothing of one that no call named."""
    span = span_or_month_of(request, tenant)
    subject = find_subject(tenant, kind, request.GET.get("id", ""))
    rows = at_mark(tenant, lambda mark: rows_of_subject(subject, span, mark)) if subject else []
    cells = (
        [
            subject.label if subject else "", row.day.isoformat(), tenant.time_zone, row.figures.attempts,
            csv_response.usd_cell(row.figures.cost_ticks),
        ]
        for row in rows
    )  # fmt: skip
    return _csv(request, tenant, span, kind, [kind, "day", "timeZone", "answers", "costUsd"], cells)


@tenant_page
def tags_csv(request: HttpRequest, tenant: Tenant) -> HttpResponseBase:
    span = span_or_month_of(request, tenant)
    cells = ([each.name, each.attempts, csv_response.usd_cell(each.cost_ticks)] for each in every_tag(tenant, span))
    return _csv(request, tenant, span, "tags", ["tag", "attempts", "costUsd"], cells)


@tenant_page
def calls_csv(request: HttpRequest, tenant: Tenant) -> HttpResponseBase:
    _, wanted = filter_of(request, tenant, timezone.now())
    if wanted is None:
        raise Http404("The filter is not valid.")
    header = [
        "at", "requestId", "outcome", "code", "route", "requestedModel", "model", "customer", "conversation",
        "costUsd", "durationMs", "keyName", "inputTokens", "outputTokens", "tags",
    ]  # fmt: skip
    key_names = {key.pk: str(key) for key in tenant.keys.all()}
    cells = (
        [
            csv_response.time_cell(each.at, tenant.zone), each.request_id, each.outcome, each.code, each.route,
            each.requested_model, each.model, each.customer, each.conversation, csv_response.usd_cell(each.cost_ticks),
            each.duration_ms, key_names.get(each.key_id), *(tokens or (None, None)), each.tags,
        ]
        for each, tokens in with_tokens(every_call(wanted.calls_of(tenant)))
    )  # fmt: skip
    removed = removed_of(tenant, wanted)
    since = f"-since-{removed.astimezone(tenant.zone).date()}" if removed else ""
    return csv_response.csv_response(request, f"{tenant.id}-calls{since}.csv", header, cells)


@tenant_page
def entries_csv(request: HttpRequest, tenant: Tenant) -> HttpResponseBase:
    """The ledger itself: what each attempt of a month cost."""
    span = month_of(request, tenant)
    header = [
        "at", "requestId", "callId", "provider", "model", "requestedModel", "route", "customer", "conversation",
        "inputTokens", "cachedInputTokens", "cacheWriteTokens", "outputTokens", "reasoningTokens", "heldUsd",
        "costUsd", "isEstimated", "isOverrun", "isExpired", "tags",
    ]  # fmt: skip
    return _single_calls_csv(request, tenant, span, "ledger", header, _entry_cells(tenant, span))


def _entry_cells(tenant: Tenant, span: Span) -> Iterator[list[Any]]:
    for each in every_entry(tenant, span.starts_at, span.ends_at):
        yield [
            csv_response.time_cell(each.at, tenant.zone), each.request_id, each.call_id, each.provider, each.model,
            each.requested_model, each.route, each.customer, each.conversation, each.input_tokens,
            each.cached_input_tokens, each.cache_write_tokens, each.output_tokens, each.reasoning_tokens,
            csv_response.usd_cell(each.hold_ticks), csv_response.usd_cell(each.cost_ticks), each.is_estimated,
            each.is_overrun, each.is_expired, each.tags,
        ]  # fmt: skip


@tenant_page
def focus_csv(request: HttpRequest, tenant: Tenant) -> HttpResponseBase:
    span = month_of(request, tenant)
    rows = focus_rows(tenant, span)
    return _single_calls_csv(request, tenant, span, "focus", COLUMNS, rows, csv_response.machine_csv_response)
