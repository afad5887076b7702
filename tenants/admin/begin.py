"""One page to begin a tenant: its name, budgets, route, members and first key; and the call that then works."""

import json
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from django import forms
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied, ValidationError
from django.core.validators import MinValueValidator
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from unfold.widgets import (
    UnfoldAdminSelect2MultipleWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextInputWidget,
    UnfoldBooleanSwitchWidget,
)

from tenants.admin.addresses import change_url
from tenants.admin.forms import ShareInput, UsdInput, ZoneField
from tenants.budgets import terms_of
from tenants.fields import ShareFormField, UsdFormField
from tenants.models import SMALLEST_CAP, ApiKey, Budget, Scope, Tenant
from tenants.periods import Period
from tenants.routes import set_route
from tenants.translations import set_translations

TEMPLATE, DONE_TEMPLATE = "tenants/begin.html", "tenants/begun.html"
FEWEST_STEPS = 3
STEPS_AFTER = ("id", "name", "time_zone", "day_ticks", "month_ticks", "soft_cap")
QUESTION = "Where is my order?"
SETTINGS = (
    "default_max_tokens", "floor_max_tokens", "requests_per_minute", "calls_in_flight", "hide_money",
    "hard_stop", "handoff_words", "handoff_language", "handoff_link",
)  # fmt: skip
"""What a copy has of another tenant, beside its budgets, route and members. What was agreed with it alone, such as
what is kept of prompts, it has not."""


def limit_field(label: str, help_text: str) -> UsdFormField:
    positive = MinValueValidator(1, "This must be more than nothing.")
    return UsdFormField(label=label, required=False, widget=UsdInput, validators=[positive], help_text=help_text)


class BeginForm(forms.Form):
    """`copied` is the tenant whose settings it begins with; `model_names` says what models are called, by id."""

    id = forms.CharField(label="Id", widget=UnfoldAdminTextInputWidget, help_text="The tenantId that its agents send.")
    name = forms.CharField(required=False, max_length=200, widget=UnfoldAdminTextInputWidget)
    time_zone = ZoneField(label="Time zone", initial="UTC", help_text="Its budgets start at midnight there.")
    day_ticks = limit_field("Limit a day (USD)", "Empty with the next: the installation's default.")
    month_ticks = limit_field("Limit a month (USD)", "Empty: none.")
    soft_cap = ShareFormField(
        label="Soft cap",
        decimal_places=4,
        initial=Decimal("0.8"),
        validators=[MinValueValidator(SMALLEST_CAP)],
        widget=ShareInput,
        help_text="Share of a limit from which calls go to cheaper models, such as 0.8.",
    )
    downgrade_to = forms.ChoiceField(label="Past the soft cap, move to", required=False, widget=UnfoldAdminSelectWidget)
    members = forms.ModelMultipleChoiceField(
        User.objects.filter(is_active=True), required=False, widget=UnfoldAdminSelect2MultipleWidget,
        help_text="Who sees its dashboard.",
    )  # fmt: skip
    issues_key = forms.BooleanField(
        label="Issue an API key", required=False, initial=True, widget=UnfoldBooleanSwitchWidget
    )

    def __init__(self, data: Any, *, copied: Tenant | None, model_names: dict[str, str]) -> None:
        super().__init__(data, initial=_like(copied) if copied else None, label_suffix="")
        self.copied = copied
        named = list(model_names.items())
        self.fields["downgrade_to"].choices = [("", "nothing cheaper"), *named]  # type: ignore[attr-defined]
        self.route = _like(copied)["models"] if copied else []
        self.steps = [self._add_step(number, named) for number in range(max(FEWEST_STEPS, len(self.route)))]
        self.order_fields([*STEPS_AFTER, *self.steps])

    def _add_step(self, number: int, named: list[tuple[str, str]]) -> str:
        """A field for a model's place on the route; its name."""
        name, nothing = f"model_{number + 1}", "none" if number else "the installation's default route"
        self.fields[name] = forms.ChoiceField(
            label="If that cannot, then" if number else "Model", required=False, widget=UnfoldAdminSelectWidget,
            choices=[("", nothing), *named], initial=self.route[number] if number < len(self.route) else "",
        )  # fmt: skip
        return name

    def clean_id(self) -> str:
        tenant_id: str = self.cleaned_data["id"].strip()
        Tenant._meta.get_field("id").run_validators(tenant_id)
        if Tenant.objects.filter(pk=tenant_id).exists():
            raise ValidationError("There is a tenant with this id already.")
        return tenant_id

    def clean(self) -> dict[str, Any]:
        given = [self.cleaned_data.get(name) for name in self.steps]
        models = self.cleaned_data["models"] = list(dict.fromkeys(filter(None, given)))
        to_model = self.cleaned_data.get("downgrade_to")
        if to_model and models == [to_model]:
            self.add_error("downgrade_to", "This is the only model on the route: a downgrade leads to another.")
        return self.cleaned_data


def _like(tenant: Tenant) -> dict[str, Any]:
    """What the form says of a tenant that is copied."""
    own = {budget.period: budget for budget in tenant.budgets.filter(scope=Scope.TENANT)}
    first = own.get(Period.DAY) or own.get(Period.MONTH)
    rules = tenant.downgrade_rules.filter(from_model=None)
    return {
        "time_zone": tenant.time_zone,
        "day_ticks": own[Period.DAY].limit_ticks if Period.DAY in own else None,
        "month_ticks": own[Period.MONTH].limit_ticks if Period.MONTH in own else None,
        "soft_cap": first.soft_cap if first else Decimal("0.8"),
        "models": [step.model_id for step in tenant.route_steps.all()],
        "downgrade_to": rules[0].to_model_id if rules else "",
        "members": list(tenant.members.all()),
    }


@dataclass(frozen=True)
class Begun:
    """A tenant that is begun, and its first key's secret, which is known only now."""

    tenant: Tenant
    secret: str


@transaction.atomic
def begin(form: BeginForm) -> Begun:
    given, copied = form.cleaned_data, form.copied
    tenant = Tenant(id=given["id"], name=given["name"], time_zone=given["time_zone"])
    for name in SETTINGS if copied else ():
        setattr(tenant, name, getattr(copied, name))
    tenant.full_clean()
    tenant.save()
    tenant.members.set(given["members"])
    _set_budgets(tenant, form)
    if copied:
        set_translations(tenant, copied.translations())
    set_route(tenant, route=given["models"], downgrades=_downgrades(form) or None)
    secret = ApiKey.objects.issue(tenant, "first key")[1] if given["issues_key"] else ""
    return Begun(tenant, secret)


def _set_budgets(tenant: Tenant, form: BeginForm) -> None:
    """The two that the form names, as it has them; others as the copied tenant has them."""
    limits = {Period.DAY: form.cleaned_data["day_ticks"], Period.MONTH: form.cleaned_data["month_ticks"]}
    stored = form.copied.budgets.all() if form.copied else ()
    rows = {(row.scope, row.period): _copy_of(row, tenant) for row in stored}
    for period, limit_ticks in limits.items():
        row = rows.pop((Scope.TENANT, period), Budget(tenant=tenant, scope=Scope.TENANT, period=period))
        if limit_ticks:
            row.limit_ticks, row.soft_cap = limit_ticks, min(form.cleaned_data["soft_cap"], row.hard_cap)
            rows[row.scope, row.period] = row
    for row in rows.values():
        row.full_clean()
        row.save()


def _copy_of(row: Budget, tenant: Tenant) -> Budget:
    return Budget(tenant=tenant, scope=row.scope, period=row.period, alert_percents=row.alert_percents, **terms_of(row))


def _downgrades(form: BeginForm) -> list[tuple[str, str]]:
    """The one from any model that the form names; those from single models as the copied tenant has them."""
    to_model = form.cleaned_data["downgrade_to"]
    copied = form.copied.downgrade_rules.exclude(from_model=None) if form.copied else ()
    return [*(rule.pair for rule in copied), *([("*", to_model)] if to_model else [])]


def _begun(form: BeginForm) -> Begun | None:
    """None where the form has errors: its own, or of what is copied, which may have been stored before a rule was."""
    try:
        return begin(form) if form.is_valid() else None
    except ValidationError as error:
        for name, messages in error.message_dict.items():
            if name in form.fields:
                form.add_error(name, messages)
            else:
                form.add_error(None, [f"{name.replace('_', ' ').capitalize()}: {message}" for message in messages])
        return None


def begin_page(request: HttpRequest, context: dict[str, Any], model_names: dict[str, str]) -> HttpResponse:
    """The page, and after it what to do with what was begun; `context` is that of every page of the admin."""
    if not request.user.has_perm("tenants.add_tenant"):
        raise PermissionDenied
    copied = Tenant.objects.filter(pk=request.GET.get("copy", "")).first()
    form = BeginForm(request.POST or None, copied=copied, model_names=model_names)
    title = f"Begin a tenant like {copied}" if copied else "Begin a tenant"
    if not (begun := _begun(form)):
        return render(request, TEMPLATE, {**context, "title": title, "form": form, "copied": copied})
    shown = {"tenant": begun.tenant, "secret": begun.secret, "url": change_url(Tenant, begun.tenant.pk)}
    curl = curl_of(request.build_absolute_uri("/api/chat"), begun)
    return render(request, DONE_TEMPLATE, {**context, "title": f"Begun: {begun.tenant}", "curl": curl, **shown})


def curl_of(url: str, begun: Begun) -> str:
    """A call that works as it stands. An id has no character that a shell or JSON would read otherwise."""
    body = json.dumps({"tenantId": begun.tenant.id, "messages": [{"role": "user", "content": QUESTION}]})
    return f"curl {url} -H 'Authorization: Bearer {begun.secret}' -H 'Content-Type: application/json' -d '{body}'"
