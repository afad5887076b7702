"""The operators' home page: what needs them."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils import timezone

from spend.admin.bars import bar_of_tenant, bars_of
from spend.budgets.attention import UTC_ZONE, TenantUse, attention

admin.site.index_template = "spend/home.html"
admin.site.index_title = "What needs you"


def callback(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """unfold's DASHBOARD_CALLBACK: adds what needs the operator to the index page's context."""
    if not request.user.has_perm("tenants.view_tenant"):
        return context
    found = attention(timezone.now())
    return context | {
        "attention": found,
        "stopped": [_row(each) for each in found.stopped],
        "refusing": [_row(each) for each in found.refusing],
        "degraded": [_row(each) for each in found.degraded],
        "installation": bars_of(found.installation, UTC_ZONE),
        "is_calm": not any(
            (
                found.stopped,
                found.refusing,
                found.degraded,
                found.installation,
                found.failing,
                found.faults,
                found.expired,
                found.overruns,
                found.impossible,
                found.paused,
            )
        ),
    }


def _row(each: TenantUse) -> dict[str, Any]:
    return {"tenant": each.tenant, "bar": bar_of_tenant(each)}
