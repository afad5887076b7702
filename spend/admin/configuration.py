"""The configuration as a file, for operators who may change all that is in it: written, compared and taken in."""

from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.messages import info, success, warning
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.template.defaultfilters import pluralize
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_safe
from unfold.widgets import UnfoldAdminFileFieldWidget

from spend.configuration.access import may_take_files
from spend.configuration.changes import Plan
from spend.configuration.document import export_text, import_text, plan_text
from spend.configuration.places import Refused

TEMPLATE = "spend/configuration.html"


class FileForm(forms.Form):
    file = forms.FileField(
        widget=UnfoldAdminFileFieldWidget({"accept": ".yaml,.yml"}),
        help_text="YAML, as Export writes it. What would change is shown first.",
    )

    def clean_file(self) -> str:
        try:
            text: str = self.cleaned_data["file"].read().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValidationError("This is no text in UTF-8.") from error
        return text


class ShownForm(forms.Form):
    """A file whose changes were shown: its text, and which they were."""

    text = forms.CharField(widget=forms.HiddenInput, strip=False)
    digest = forms.CharField(widget=forms.HiddenInput)


@require_safe
def export_file(request: HttpRequest) -> HttpResponse:
    if not may_take_files(request):
        raise PermissionDenied
    now = timezone.now()
    headers = {"Content-Disposition": f'attachment; filename="guard-{now:%Y-%m-%d}.yaml"'}
    return HttpResponse(export_text(now), content_type="application/yaml", headers=headers)


def configuration_page(request: HttpRequest) -> HttpResponse:
    """A file that is sent is compared; what was shown is then taken in, as it was shown."""
    if not may_take_files(request):
        raise PermissionDenied
    if "digest" in request.POST:
        return _take_in(request)
    form = FileForm(request.POST or None, request.FILES or None)
    return _compare(request, form, form.cleaned_data["file"]) if form.is_valid() else _page(request, form=form)


def _compare(request: HttpRequest, form: FileForm, text: str) -> HttpResponse:
    try:
        plan = plan_text(text, timezone.now())
    except Refused as error:
        return _page(request, form=form, problems=error.problems)
    return _page(request, form=FileForm(), plan=plan, shown=_shown(text, plan))


def _shown(text: str, plan: Plan) -> ShownForm:
    return ShownForm(initial={"text": text, "digest": plan.digest})


def _take_in(request: HttpRequest) -> HttpResponse:
    form = ShownForm(request.POST)
    if not form.is_valid():
        return _page(request, form=FileForm())
    text, digest = form.cleaned_data["text"], form.cleaned_data["digest"]
    try:
        plan = import_text(text, timezone.now(), shown=digest)
    except Refused as error:
        return _page(request, form=FileForm(), problems=error.problems)
    if plan.digest != digest:
        warning(request, "Something was changed since you looked. This is what the file would change now.")
        return _page(request, form=FileForm(), plan=plan, shown=_shown(text, plan))
    if plan.changes:
        success(request, f"Made and in force: {len(plan.changes)} change{pluralize(len(plan.changes))}.")
    else:
        info(request, "There was nothing to change.")
    return HttpResponseRedirect(reverse("configuration"))


def _page(request: HttpRequest, **context: Any) -> HttpResponse:
    page = {**admin.site.each_context(request), "title": "Configuration file", **context}
    return render(request, TEMPLATE, page)
