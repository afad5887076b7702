"""The operators' pages for what happened, and for the tenants with what they spent."""

from spend.admin import alerts, catalogue, home, ledger, providers, tasks, tenants

__all__ = ["alerts", "catalogue", "home", "ledger", "providers", "tasks", "tenants"]
