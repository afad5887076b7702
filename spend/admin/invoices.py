"""The books beside the providers' invoices, day by day, and where a file of an invoice is dropped."""

from datetime import UTC, date, timedelta
from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.messages import success
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.template.defaultfilters import pluralize
from django.urls import reverse
from django.utils import timezone
from unfold.widgets import UnfoldAdminFileFieldWidget, UnfoldAdminSelectWidget, UnfoldAdminSingleDateWidget

from spend.models import InvoicedDay, InvoiceSource, LedgerDay, Provider, provider_label
from spend.reconciliation.differences import Compared, Day, days_compared
from spend.reconciliation.invoice_files import read_file
from spend.reconciliation.ledger_days import sum_days
from spend.reconciliation.lines import Line, take
from spend.reconciliation.provider_reports import reports
from tenants.money import dollars

TEMPLATE = "spend/invoices.html"
SHOWN_DAYS = 31
MOST_FILE_BYTES = 8 * 1024 * 1024


def providers() -> list[tuple[str, str]]:
    return [(name, provider_label(name)) for name in Provider.objects.values_list("name", flat=True)]


class SpanForm(forms.Form):
    """Which days are shown: so many up to one."""

    until = forms.DateField(required=False, label="Up to", widget=UnfoldAdminSingleDateWidget)


class InvoiceForm(forms.Form):
    provider = forms.ChoiceField(choices=providers, widget=UnfoldAdminSelectWidget)
    file = forms.FileField(
        widget=UnfoldAdminFileFieldWidget({"accept": ".csv"}),
        help_text="CSV with a column each for day, model and cost in USD, as the provider's console exports it.",
    )

    def clean_file(self) -> list[Line]:
        file = self.cleaned_data["file"]
        if file.size > MOST_FILE_BYTES:
            raise ValidationError(f"At most {MOST_FILE_BYTES // 1024**2} MiB are read.")
        try:
            return read_file(file.read().decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            raise ValidationError("This is no text in UTF-8.") from error


def may_look(request: HttpRequest) -> bool:
    return request.user.has_perm("spend.view_invoicedday")


def invoices_page(request: HttpRequest) -> HttpResponse:
    if not may_look(request):
        raise PermissionDenied
    may_add = request.user.has_perm("spend.add_invoicedday")
    if request.method == "POST" and not may_add:
        raise PermissionDenied
    form = InvoiceForm(request.POST or None, request.FILES or None)
    if form.is_valid():
        return _take_in(request, form.cleaned_data["provider"], form.cleaned_data["file"])
    return _page(request, form if may_add else None)


def _take_in(request: HttpRequest, provider: str, lines: list[Line]) -> HttpResponse:
    days = {line.day for line in lines}
    take(provider, lines, days, InvoiceSource.FILE, timezone.now())
    sum_days(min(days), max(days))
    success(request, f"Taken in: {len(days)} day{pluralize(len(days))} of {provider_label(provider)}'s invoice.")
    return HttpResponseRedirect(f"{reverse('invoices')}?until={max(days)}")


def _page(request: HttpRequest, form: InvoiceForm | None) -> HttpResponse:
    span = SpanForm(request.GET)
    today = timezone.now().astimezone(UTC).date()
    until = (span.cleaned_data["until"] if span.is_valid() else None) or today
    days = days_compared(until - timedelta(days=SHOWN_DAYS - 1), until)
    page = {
        **admin.site.each_context(request),
        "title": "Invoices",
        "span": span,
        "form": form,
        "days": [_row(day, today) for day in days],
        "invoiced": _sums([day for day in days if day.is_invoiced]),
        "since": until - timedelta(days=SHOWN_DAYS - 1),
        "until": until,
        "asked": [provider_label(name) for name in reports()],
        "summed": LedgerDay.objects.exists() or InvoicedDay.objects.exists(),
    }
    return render(request, TEMPLATE, page)


def _row(day: Day, today: date) -> dict[str, Any]:
    return {
        "day": day.day,
        "provider": provider_label(day.provider),
        "models": [_figures(model) | {"model": model.model, "why": model.why(today)} for model in day.models],
        "percent": day.percent if day.is_to_be_told(today) else None,
        **_figures(day),
    }


def _figures(row: Day | Compared) -> dict[str, str]:
    is_known = row.is_invoiced
    return {
        "ledger": dollars(row.ledger_ticks),
        "invoiced": dollars(row.invoiced_ticks or 0) if is_known else "",
        "difference": _difference(row.difference_ticks) if is_known else "",
    }


def _difference(ticks: int) -> str:
    return f"{'+' if ticks > 0 else ''}{dollars(ticks)}"


def _sums(days: list[Day]) -> dict[str, Any]:
    """Of the days that are invoiced."""
    ledger, invoiced = sum(day.ledger_ticks for day in days), sum(day.invoiced_ticks for day in days)
    difference = invoiced - ledger
    how = f"{dollars(abs(difference))} {'above' if difference > 0 else 'below'} the ledger" if difference else ""
    return {"days": len(days), "ledger": dollars(ledger), "invoiced": dollars(invoiced), "how": how}
