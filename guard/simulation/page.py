"""The operators' page that answers: what would happen to a call of this tenant now?"""

from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.utils import timezone
from unfold.widgets import (
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextareaWidget,
    UnfoldAdminTextInputWidget,
)

from guard.http.errors import GuardError
from guard.simulation.simulate import rehearse
from guard.simulation.wording import limit_rows, offer_rows, outcome_of, outcome_of_error
from spend.admin.bars import STATE_COLOURS
from spend.budgets.attention import names_with_faults
from spend.models import AUTO, CatalogueModel
from tenants.admin import change_url
from tenants.models import ApiKey, Tenant

TEMPLATE = "guard/rehearsal.html"
TITLE = "What would happen to a call now"
MOST_PROMPT_CHARACTERS = 4000
USUAL_CALL = {"model": AUTO, "prompt": "Where is my order?"}
FILLER = "x"


class CallForm(forms.Form):
    """A call as an agent would send it. Sent by GET: it asks and changes nothing, and its address can be kept."""

    model = forms.ChoiceField(widget=UnfoldAdminSelectWidget)
    prompt = forms.CharField(
        required=False,
        max_length=MOST_PROMPT_CHARACTERS,
        widget=UnfoldAdminTextareaWidget({"rows": 3}),
        help_text="All that the agent sends: its instructions, the history and the question.",
    )
    characters = forms.IntegerField(
        label="Or its length in characters",
        required=False,
        min_value=1,
        max_value=settings.MAX_BODY_BYTES,
        widget=UnfoldAdminIntegerFieldWidget,
        help_text="Wins over the text.",
    )
    max_tokens = forms.IntegerField(
        label="Maximum of output tokens", required=False, min_value=1, widget=UnfoldAdminIntegerFieldWidget
    )
    customer = forms.CharField(required=False, max_length=255, widget=UnfoldAdminTextInputWidget)
    conversation = forms.CharField(
        required=False,
        max_length=255,
        widget=UnfoldAdminTextInputWidget,
        help_text="One that goes on keeps its model while that is no dearer.",
    )
    key = forms.ModelChoiceField(
        label="API key",
        queryset=ApiKey.objects.none(),
        required=False,
        empty_label="a new key",
        widget=UnfoldAdminSelectWidget,
    )

    def __init__(self, tenant: Tenant, data: Any) -> None:
        super().__init__(data, label_suffix="")
        self.tenant = tenant
        auto = (AUTO, f"auto: the tenant's route, from {tenant.effective_route()[0]} on")
        callable_models = tenant.callable_models()
        names = names_with_faults(CatalogueModel.objects.filter(pk__in=callable_models), timezone.now())
        named = [(model, names.get(model, f"{model} (is not in the catalogue)")) for model in callable_models]
        self.fields["model"].choices = [auto, *named]  # type: ignore[attr-defined]
        self.fields["key"].queryset = tenant.keys.filter(revoked_at=None)  # type: ignore[attr-defined]
        self.fields["max_tokens"].help_text = f"Empty: the tenant's {tenant.default_max_tokens:,}."

    def request(self) -> dict[str, Any]:
        """In the shape of `POST /api/chat`."""
        asked = self.cleaned_data
        text = FILLER * asked["characters"] if asked["characters"] else asked["prompt"]
        return {
            "messages": [{"role": "user", "content": text}],
            "model": asked["model"],
            "maxTokens": asked["max_tokens"],
            "customerId": asked["customer"] or None,
            "conversationId": asked["conversation"] or None,
        }

    def api_key(self) -> ApiKey:
        return self.cleaned_data["key"] or ApiKey(tenant=self.tenant)


def rehearsal_page(request: HttpRequest, tenant_id: str) -> HttpResponse:
    if not request.user.has_perm("tenants.view_tenant"):
        raise PermissionDenied
    tenant = get_object_or_404(Tenant, pk=tenant_id)
    form = CallForm(tenant, request.GET or USUAL_CALL)
    context = {
        **admin.site.each_context(request),
        "title": TITLE,
        "tenant": tenant,
        "object": tenant,
        "content_title": TITLE,
        "form": form,
        "back_url": change_url(Tenant, tenant.pk),
        **(_answer(form, tenant) if form.is_valid() else {}),
    }
    return render(request, TEMPLATE, context)


def _answer(form: CallForm, tenant: Tenant) -> dict[str, Any]:
    now = timezone.now()
    try:
        goes_on = bool(form.cleaned_data["conversation"])
        found = rehearse(tenant, form.api_key(), form.request(), now, goes_on=goes_on)
    except GuardError as error:
        return {"outcome": outcome_of_error(error)}
    limits = limit_rows(found, can_downgrade=bool(tenant.effective_downgrades()))
    return {
        "outcome": outcome_of(found, tenant.zone),
        "offers": offer_rows(found),
        "left_out": [(model, why.replace("_", " ")) for model, why in found.left_out],
        "limits": [{**row, "colour": STATE_COLOURS[row["state"]]} for row in limits],
        "now": now,
        "input_tokens": found.asked.ask.input_tokens,
    }
