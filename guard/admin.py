"""What the guard adds to the operators' pages. The page itself is loaded with the addresses only: it is heavy."""

from tenants.admin import TenantAdmin

TenantAdmin.further_pages.append(("What would happen to a call now?", "rehearsal"))
