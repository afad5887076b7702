"""Budgets of the whole installation."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from unfold.decorators import display

from tenants.admin.declared_filters import ModelAdmin
from tenants.admin.mixins import ShowsLadder, ShowsUsd
from tenants.models import Budget, Scope
from tenants.money import dollars


@admin.register(Budget)
class InstallationBudgetAdmin(ShowsLadder, ShowsUsd, ModelAdmin):
    """Budgets of the whole installation; a tenant's are on its page."""

    list_display = ("period", "limit", "soft", "hard")
    fields = ("period", "limit_ticks", "soft_cap", "further_steps", "hard_cap", "reserve", "alert_percents")

    @display(description="Limit", ordering="limit_ticks")
    def limit(self, budget: Budget) -> str:
        return dollars(budget.limit_ticks)

    @display(description="Soft cap", ordering="soft_cap")
    def soft(self, budget: Budget) -> str:
        return f"{budget.soft_cap.normalize():f}"

    @display(description="Hard cap", ordering="hard_cap")
    def hard(self, budget: Budget) -> str:
        return f"{budget.hard_cap.normalize():f}"

    def get_queryset(self, request: HttpRequest) -> QuerySet[Budget]:
        return super().get_queryset(request).filter(tenant__isnull=True)

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        form = super().get_form(request, obj, change, **kwargs)

        class InstallationBudgetForm(form):  # type: ignore[misc, valid-type]
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs)
                self.instance.scope = Scope.INSTALLATION

            def clean(self) -> Any:
                """Django leaves out a constraint on a field that the form has not: the tenant."""
                others = Budget.objects.filter(tenant__isnull=True).exclude(pk=self.instance.pk)
                if others.filter(period=self.cleaned_data.get("period")).exists():
                    self.add_error("period", "The installation already has a budget of that period.")
                return super().clean()

        return InstallationBudgetForm
