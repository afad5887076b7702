"""The tenant's page with what it spent: bars, today's use in the list, and what an edited limit does."""

from collections.abc import Sequence
from typing import Any, ClassVar

from django.contrib import admin
from django.contrib.messages import info, warning
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.utils import timezone
from django.utils.safestring import SafeString
from unfold.decorators import display
from unfold.views import ChangeList

from spend.admin.bars import STATE_COLOURS, Bar, bar_of, bar_of_tenant, bars_of, effect_of
from spend.budgets.attention import names_with_faults, tightest_uses
from spend.budgets.refusing import REFUSING, mostly_over_budget, state_told
from spend.budgets.usage import current_uses
from spend.models import CatalogueModel
from spend.summaries.keys import DAYS, KeyUse, first_day, uses_of_keys
from tenants.admin import (
    ApiKeyInline,
    BudgetInline,
    DowngradeRuleInline,
    RouteStepInline,
    TenantAdmin,
    state_of_key,
)
from tenants.models import ApiKey, Budget, Scope, Tenant
from tenants.money import dollars

BARS_OF_TEMPLATES = 5
UNUSED = f"unused for {DAYS} days"


class ListWithUse(ChangeList):
    """Puts the tightest budget's bar on each tenant of one page of the list, by a few queries for all."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        tenants = list(self.result_list.prefetch_related("route_steps", "downgrade_rules"))  # type: ignore[has-type]
        for each in tightest_uses(tenants, timezone.now()):
            each.tenant.bar = bar_of_tenant(each)  # type: ignore[attr-defined]
        self.result_list = tenants


class BudgetUseInline(BudgetInline):
    """The budgets with their bars, beside the limits that one edits."""

    fields: ClassVar = [*BudgetInline.fields, "use"]
    readonly_fields = ("use",)

    def get_formset(self, request: HttpRequest, obj: Any = None, **kwargs: Any) -> Any:
        """An inline is made anew for each request, so the bars may be kept on it."""
        self.bars = _fullest_bars(obj) if obj else {}
        return super().get_formset(request, obj, **kwargs)

    @display(description="Use now")
    def use(self, budget: Budget) -> str | SafeString:
        bar = self.bars.get((budget.scope, budget.period))
        return render_to_string("spend/bar.html", {"bar": bar, "is_small": True}) if bar else "–"


class KeyUseInline(ApiKeyInline):
    """The keys with when each was used last, what its calls cost, and whether it is used at all."""

    fields: ClassVar = ["name", "hint_shown", "state", "used", "spent", "created_at", "expires_at", "change"]
    readonly_fields = fields

    def get_formset(self, request: HttpRequest, obj: Any = None, **kwargs: Any) -> Any:
        self.now = timezone.now()
        self.uses = uses_of_keys(obj, self.now) if obj else {}
        self.unused_before = first_day(obj, self.now) if obj else None
        return super().get_formset(request, obj, **kwargs)

    @display(description="State")
    def state(self, key: ApiKey) -> str:
        state = state_of_key(key, self.now)
        last_sign = self._use_of(key).last_day or key.created_at.astimezone(key.tenant.zone).date()
        return UNUSED if state == "valid" and self.unused_before and last_sign < self.unused_before else state

    @display(description="Last used")
    def used(self, key: ApiKey) -> str:
        day, today = self._use_of(key).last_day, self.now.astimezone(key.tenant.zone).date()
        return "never" if day is None else "today" if day == today else f"{day}"

    @display(description=f"Spent in {DAYS} days")
    def spent(self, key: ApiKey) -> str:
        return dollars(self._use_of(key).cost_ticks)

    def _use_of(self, key: ApiKey) -> KeyUse:
        return self.uses.get(key.pk, KeyUse())


def _fullest_bars(tenant: Tenant) -> dict[tuple[str, str], Bar]:
    """By scope and period the bar of the fullest current window; a template budget has many windows."""
    bars: dict[tuple[str, str], Bar] = {}
    for use in current_uses(tenant).windows:
        bars.setdefault((use.budget.scope, use.budget.period), bar_of(use, tenant.zone))
    return bars


class NamesModels:
    """Says of each model that one may choose, and of one that is chosen, whether calls of it are refused."""

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        field = super().formfield_for_foreignkey(db_field, request, **kwargs)  # type: ignore[misc]
        if field is not None and db_field.remote_field.model is CatalogueModel:
            names = names_with_faults(CatalogueModel.objects.all(), timezone.now())
            field.label_from_instance = lambda model: names.get(model.pk, model.pk)
        return field


class MarkedRouteStepInline(NamesModels, RouteStepInline):
    pass


class MarkedDowngradeRuleInline(NamesModels, DowngradeRuleInline):
    pass


WITH_USE = {
    BudgetInline: BudgetUseInline,
    RouteStepInline: MarkedRouteStepInline,
    DowngradeRuleInline: MarkedDowngradeRuleInline,
    ApiKeyInline: KeyUseInline,
}


@admin.register(Tenant)
class TenantPage(TenantAdmin):
    list_display: Sequence[Any] = ["id", "name", "use_now", "state_now", "call_state", "time_zone"]
    inlines: Sequence[Any] = [WITH_USE.get(each, each) for each in TenantAdmin.inlines]
    change_form_outer_before_template = "spend/standing.html"

    def model_names(self) -> dict[str, str]:
        return names_with_faults(CatalogueModel.objects.order_by("pk"), timezone.now())

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return ListWithUse

    @display(description="Tightest budget")
    def use_now(self, tenant: Tenant) -> SafeString:
        return render_to_string("spend/bar.html", {"bar": _bar_on(tenant), "is_small": True})

    @display(description="State", label=STATE_COLOURS)
    def state_now(self, tenant: Tenant) -> str:
        return _bar_on(tenant).state

    def page_context(self, tenant: Tenant) -> dict[str, Any]:
        uses = current_uses(tenant).windows
        own = [use for use in uses if use.budget.scope == Scope.TENANT]
        others = [use for use in uses if use.budget.scope != Scope.TENANT][:BARS_OF_TEMPLATES]
        is_over_budget = bool(mostly_over_budget([tenant.pk], timezone.now()))
        bars = [bar_of(use, tenant.zone, state_told(use, is_over_budget=is_over_budget)) for use in own]
        is_default = not any(budget.scope == Scope.TENANT for budget in tenant.budgets.all())
        return super().page_context(tenant) | {
            "bars": bars,
            "template_bars": bars_of(others, tenant.zone),
            "is_default_budget": is_default,
            "is_refusing": any(bar.state == REFUSING for bar in bars),
        }

    def save_formset(self, request: HttpRequest, form: Any, formset: Any, change: bool) -> None:
        super().save_formset(request, form, formset, change)
        if formset.model is Budget and formset.has_changed():
            edited = [*formset.new_objects, *(budget for budget, _ in formset.changed_objects)]
            self._say_what_they_do(request, form.instance, edited)

    def _say_what_they_do(self, request: HttpRequest, tenant: Tenant, edited: Sequence[Budget]) -> None:
        """Of the edited budgets on the tenant itself; where some were only deleted, of those that are left."""
        named = {(budget.scope, budget.period) for budget in edited}
        for use in current_uses(Tenant.objects.get(pk=tenant.pk)).windows:
            if use.budget.scope == Scope.TENANT and (not named or (use.budget.scope, use.budget.period) in named):
                say = info if use.state == "active" else warning
                say(request, effect_of(use))


def _bar_on(tenant: Tenant) -> Bar:
    bar: Bar = tenant.bar  # type: ignore[attr-defined]
    return bar
