"""One change of many tenants, shown for each of them before it is made."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from hashlib import sha256
from typing import Any

from django import forms
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from unfold.widgets import UnfoldAdminSelectWidget

from tenants.admin.forms import ShareInput, UsdInput
from tenants.budgets import DAILY, default_budget, set_budget, terms_of
from tenants.fields import ShareFormField, UsdFormField
from tenants.ladder import kept_within
from tenants.models import SMALLEST_CAP, Budget, Tenant
from tenants.money import TICKS_PER_USD, usd_rounded, usd_string

TEMPLATE = "tenants/bulk.html"
WHOLE = Decimal(100)
LIMIT, PERCENT, SOFT_CAP, PAUSE, RESUME = "limit", "percent", "soft_cap", "pause", "resume"
KINDS = [
    (LIMIT, "Set the daily limit"),
    (PERCENT, "Raise or lower the daily limit by percent"),
    (SOFT_CAP, "Set the soft cap of the daily limit"),
    (PAUSE, "Pause"),
    (RESUME, "Resume"),
]
ASKS = {LIMIT: "limit_ticks", PERCENT: "percent", SOFT_CAP: "soft_cap"}
"""The field that a kind of change needs."""


class BulkForm(forms.Form):
    kind = forms.ChoiceField(label="What to change", choices=KINDS, widget=UnfoldAdminSelectWidget)
    limit_ticks = UsdFormField(
        label="Daily limit (USD)", required=False, widget=UsdInput,
        validators=[MinValueValidator(1, "This must be more than nothing.")],
    )  # fmt: skip
    percent = forms.DecimalField(
        label="Percent", required=False, widget=ShareInput, help_text="10 raises it by a tenth, -10 lowers it.",
        validators=[MinValueValidator(-99), MaxValueValidator(1000)], decimal_places=2,
    )  # fmt: skip
    soft_cap = ShareFormField(
        label="Soft cap",
        required=False,
        decimal_places=4,
        widget=ShareInput,
        validators=[MinValueValidator(SMALLEST_CAP)],
    )

    def clean(self) -> dict[str, Any]:
        needed = ASKS.get(self.cleaned_data.get("kind", ""))
        if needed and self.cleaned_data.get(needed) is None and not self.has_error(needed):
            self.add_error(needed, "This change needs it.")
        return self.cleaned_data


@dataclass(frozen=True)
class Planned:
    """What would become of one tenant. `before` and `after` are for people, and equal where nothing changes."""

    tenant: Tenant
    before: str
    after: str
    budget: Budget | None = None
    is_active: bool | None = None

    @property
    def is_change(self) -> bool:
        return self.before != self.after


def plan(tenants: Iterable[Tenant], wanted: dict[str, Any]) -> list[Planned]:
    return [_plan_of(tenant, wanted) for tenant in tenants]


def _plan_of(tenant: Tenant, wanted: dict[str, Any]) -> Planned:
    kind = wanted["kind"]
    if kind in (PAUSE, RESUME):
        is_active = kind == RESUME
        return Planned(tenant, _state(tenant.is_active), _state(is_active), is_active=is_active)
    own = {(row.scope, row.period): row for row in tenant.budgets.all()}
    row = own.get(DAILY) or default_budget(tenant)
    new = Budget(scope=row.scope, period=row.period, **terms_of(row))
    if kind == SOFT_CAP:
        new.soft_cap = min(wanted["soft_cap"], row.hard_cap)
        new.further_steps = kept_within(row.further_steps, new.soft_cap, new.hard_cap)
    else:
        new.limit_ticks = wanted["limit_ticks"] if kind == LIMIT else _by_percent(row.limit_ticks, wanted["percent"])
    had = "" if DAILY in own else " (by default)" if not own else " (none of its own)"
    return Planned(tenant, _terms(row) + (had if _terms(row) != _terms(new) else ""), _terms(new), new)


def _state(is_active: bool) -> str:
    return "open to calls" if is_active else "paused"


def _by_percent(limit_ticks: int, percent: Decimal) -> int:
    """To the cent, so that no limit gets a tail of digits; but never to nothing."""
    cent = TICKS_PER_USD // 100
    cents = (Decimal(limit_ticks) * (WHOLE + percent) / WHOLE / cent).quantize(Decimal(1), ROUND_HALF_EVEN)
    return max(1, int(cents)) * cent


def _terms(row: Budget) -> str:
    is_whole_cents = row.limit_ticks % (TICKS_PER_USD // 100) == 0
    limit = usd_rounded(row.limit_ticks) if is_whole_cents else usd_string(row.limit_ticks)
    further = f", further steps {row.further_steps}" if row.further_steps else ""
    return f"{limit} USD a day, soft cap {row.soft_cap.normalize():f}{further}"


def digest_of(planned: Sequence[Planned]) -> str:
    """What a user was shown, to see whether it is still what would be done."""
    told = "\n".join(f"{each.tenant.pk}\t{each.before}\t{each.after}" for each in planned)
    return sha256(told.encode()).hexdigest()


@transaction.atomic
def make(planned: Sequence[Planned]) -> int:
    """Make the changes, row by row, so that each is in the audit trail; how many."""
    for each in planned:
        if not each.is_change:
            continue
        if each.budget:
            set_budget(each.tenant, each.budget)
        elif each.is_active is not None:
            each.tenant.is_active = each.is_active
            each.tenant.save(update_fields=["is_active"])
    return sum(each.is_change for each in planned)


def bulk_page(request: HttpRequest, tenants: QuerySet[Tenant], context: dict[str, Any]) -> HttpResponse | int:
    """The page that asks and shows; once what it showed is confirmed and still so, how many were changed."""
    is_asked = "kind" in request.POST
    form = BulkForm(request.POST if is_asked else None, label_suffix="")
    planned: list[Planned] = []
    is_stale = False
    if form.is_valid():
        with transaction.atomic():
            planned = plan(tenants.select_for_update().prefetch_related("budgets").order_by("pk"), form.cleaned_data)
            if "apply" in request.POST and request.POST.get("shown") == digest_of(planned):
                return make(planned)
        is_stale = "apply" in request.POST
    shown = {"form": form, "planned": planned, "digest": digest_of(planned), "is_stale": is_stale}
    ids = request.POST.getlist("_selected_action")
    return render(request, TEMPLATE, {**context, **shown, "ids": ids, "is_all": request.POST.get("select_across", "0")})
