"""What the managers' pages add to the operators'."""

from tenants.admin import TenantAdmin

TenantAdmin.further_pages.append(("Its dashboard: spend, calls and statements", "tenant"))
