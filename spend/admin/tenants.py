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
from spend.budgets.attention import tightest_uses
from spend.budgets.refusing import REFUSING, mostly_over_budget, state_told
from spend.budgets.usage import current_uses
from tenants.admin import BudgetInline, TenantAdmin
from tenants.models import Budget, Scope, Tenant

BARS_OF_TEMPLATES = 5


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


def _fullest_bars(tenant: Tenant) -> dict[tuple[str, str], Bar]:
    """By scope and period the bar of the fullest current window; a template budget has many windows."""
    bars: dict[tuple[str, str], Bar] = {}
    for use in current_uses(tenant).windows:
        bars.setdefault((use.budget.scope, use.budget.period), bar_of(use, tenant.zone))
    return bars


@admin.register(Tenant)
class TenantPage(TenantAdmin):
    list_display: Sequence[Any] = ["id", "name", "use_now", "state_now", "call_state", "time_zone"]
    inlines: Sequence[Any] = [BudgetUseInline, *TenantAdmin.inlines[1:]]
    change_form_outer_before_template = "spend/standing.html"

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
