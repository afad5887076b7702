"""`manage.py load_tenants [--issue-keys]`: tenants and their daily budgets from the environment."""

from collections.abc import Iterable
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction
from django.utils import timezone

from tenants.configured import ConfiguredBudget
from tenants.models import ApiKey, Budget, Scope, Tenant
from tenants.money import usd_string
from tenants.periods import Period
from tenants.trail import changed_by


class Command(BaseCommand):
    help = (
        "Create the tenants of TENANT_BUDGETS and set their daily budgets; done twice, it changes nothing. "
        "With --issue-keys, standard output is one 'tenant<TAB>key' line for each tenant without a valid key."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--issue-keys", action="store_true", help="issue a key to each tenant that has none")

    def handle(self, *args: Any, **options: Any) -> None:
        with changed_by("load_tenants"), transaction.atomic():
            tenants = [self.load(*item) for item in settings.TENANT_BUDGETS.items()]
            issued = [ApiKey.objects.issue(each, "load_tenants") for each in keyless(tenants) if options["issue_keys"]]
        # Keys are shown once and only after they are committed.
        for key, secret in issued:
            self.stdout.write(f"{key.tenant_id}\t{secret}")
        if not tenants:
            self.stderr.write("TENANT_BUDGETS names no tenant; nothing was loaded.")

    def load(self, tenant_id: str, configured: ConfiguredBudget) -> Tenant:
        tenant = Tenant.objects.filter(pk=tenant_id).first() or new_tenant(tenant_id)
        budget = tenant.budgets.filter(scope=Scope.TENANT, period=Period.DAY).first() or Budget(tenant=tenant)
        before = None if budget.pk is None else as_text(budget)
        budget.limit_ticks = configured.limit_ticks or settings.DEFAULT_DAILY_BUDGET_TICKS
        budget.soft_cap, budget.hard_cap = round(configured.soft_cap, 4), round(configured.hard_cap, 4)
        if as_text(budget) != before:
            budget.save()
            self.stderr.write(f"{tenant_id}: {as_text(budget)} (was {before or 'not there'})")
        return tenant


def new_tenant(tenant_id: str) -> Tenant:
    tenant = Tenant(id=tenant_id)
    try:
        tenant.full_clean()
    except ValidationError as error:
        raise CommandError(f"TENANT_BUDGETS: {tenant_id!r} is no tenant id: {' '.join(error.messages)}") from error
    tenant.save()
    return tenant


def as_text(budget: Budget) -> str:
    """What the environment sets of a budget; equal texts are equal budgets."""
    return f"{usd_string(budget.limit_ticks)} USD a day, caps {budget.soft_cap:.4f} and {budget.hard_cap:.4f}"


def keyless(tenants: Iterable[Tenant]) -> list[Tenant]:
    now = timezone.now()
    return [tenant for tenant in tenants if not any(key.is_valid_at(now) for key in tenant.keys.all())]
