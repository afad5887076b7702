"""The operators' pages for what is allowed: tenants with their budgets, keys and routes, people, the trail."""

from tenants.admin.addresses import back_to, change_url, row_url
from tenants.admin.budgets import InstallationBudgetAdmin
from tenants.admin.keys import ApiKeyAdmin, OperatorTokenAdmin, state_of_key
from tenants.admin.mixins import ReadOnly, Row, ShowsUsd, dialog_link
from tenants.admin.people import LOCKED_OUT, GroupAdmin, LockOutAdmin, SecondFactorAdmin, UserAdmin
from tenants.admin.tenants import (
    ApiKeyInline,
    BudgetInline,
    DowngradeRuleInline,
    RouteStepInline,
    TenantAdmin,
    TopUpInline,
    has_daily_budget,
)
from tenants.admin.trail import TrailAdmin

__all__ = [
    "LOCKED_OUT",
    "ApiKeyAdmin",
    "ApiKeyInline",
    "BudgetInline",
    "DowngradeRuleInline",
    "GroupAdmin",
    "InstallationBudgetAdmin",
    "LockOutAdmin",
    "OperatorTokenAdmin",
    "ReadOnly",
    "RouteStepInline",
    "Row",
    "SecondFactorAdmin",
    "ShowsUsd",
    "TenantAdmin",
    "TopUpInline",
    "TrailAdmin",
    "UserAdmin",
    "back_to",
    "change_url",
    "dialog_link",
    "has_daily_budget",
    "row_url",
    "state_of_key",
]
