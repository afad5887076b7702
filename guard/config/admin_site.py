"""How the operators' admin looks and is laid out: unfold's settings."""

from collections.abc import Callable
from typing import Any

from django.http import HttpRequest
from django.templatetags.static import static
from django.urls import reverse_lazy


def _may_view(model: str) -> Callable[[HttpRequest], bool]:
    app_label, name = model.split(".")
    return lambda request: request.user.has_perm(f"{app_label}.view_{name}")


def _page(title: str, icon: str, model: str) -> dict[str, Any]:
    return {
        "title": title,
        "icon": icon,
        "link": reverse_lazy(f"admin:{model.replace('.', '_')}_changelist"),
        "permission": _may_view(model),
    }


UNFOLD: dict[str, Any] = {
    "SITE_TITLE": "Guard",
    "SITE_HEADER": "Guard",
    "SITE_SUBHEADER": "Budgets for AI agents",
    "SITE_SYMBOL": "shield_with_heart",
    "SITE_URL": reverse_lazy("overview"),
    "SHOW_HISTORY": False,
    "SHOW_VIEW_ON_SITE": False,
    "DASHBOARD_CALLBACK": "spend.admin.home.callback",
    "LOGIN": {"form": "tenants.sign_in.login.AdminSignInForm"},
    "ACCOUNT": {"navigation": [{"title": "Two-factor sign-in", "link": reverse_lazy("admin:second_factor")}]},
    "STYLES": [lambda _request: static("spend/operators.css")],
    "SCRIPTS": [lambda _request: static("spend/operators.js")],
    "SITE_FAVICONS": [{"rel": "icon", "type": "image/svg+xml", "href": lambda _request: static("spend/favicon.svg")}],
    "BORDER_RADIUS": "8px",
    # A calm blue-green; each step keeps at least 4.5:1 where unfold sets text on it.
    "COLORS": {
        "primary": {
            "50": "oklch(97.9% .014 196)",
            "100": "oklch(94.5% .035 196)",
            "200": "oklch(89.5% .066 197)",
            "300": "oklch(83% .098 199)",
            "400": "oklch(74% .12 204)",
            "500": "oklch(63% .118 212)",
            "600": "oklch(49.5% .1 217)",
            "700": "oklch(43.5% .087 218)",
            "800": "oklch(38% .073 220)",
            "900": "oklch(33.5% .06 222)",
            "950": "oklch(25.5% .047 225)",
        }
    },
    "SIDEBAR": {
        "show_search": False,
        "navigation": [
            {
                "items": [
                    {"title": "What needs you", "icon": "notifications", "link": reverse_lazy("admin:index")},
                    # Its address begins every other: unfold would take it for the page one is on.
                    {"title": "Dashboards", "icon": "monitoring", "link": reverse_lazy("overview"), "active": False},
                ]
            },
            {
                "title": "What is allowed",
                "separator": True,
                "items": [
                    _page("Tenants", "storefront", "tenants.tenant"),
                    _page("Providers", "dns", "spend.provider"),
                    _page("Models", "neurology", "spend.cataloguemodel"),
                    _page("Prices", "payments", "spend.price"),
                    _page("Installation budgets", "account_balance", "tenants.budget"),
                    _page("Alert channels", "campaign", "tenants.alertchannel"),
                    {
                        "title": "Configuration file",
                        "icon": "import_export",
                        "link": reverse_lazy("configuration"),
                        "permission": "spend.configuration.access.may_take_files",
                    },
                ],
            },
            {
                "title": "What happened",
                "separator": True,
                "items": [
                    _page("Calls", "forum", "spend.call"),
                    _page("Ledger", "receipt_long", "spend.ledgerentry"),
                    _page("Holds", "lock_clock", "spend.reservation"),
                    _page("Windows", "date_range", "spend.window"),
                    {
                        "title": "Invoices",
                        "icon": "request_quote",
                        "link": reverse_lazy("invoices"),
                        "permission": "spend.admin.invoices.may_look",
                    },
                    _page("Audit trail", "history", "auditlog.logentry"),
                ],
            },
            {
                "title": "What was told and done",
                "separator": True,
                "items": [
                    _page("Alerts", "notification_important", "spend.alert"),
                    _page("Deliveries", "outgoing_mail", "spend.delivery"),
                    _page("Tasks", "task", "django_tasks_database.dbtaskresult"),
                    _page("Scheduled jobs", "schedule", "spend.schedule"),
                ],
            },
            {
                "title": "People",
                "separator": True,
                "items": [
                    _page("Users", "person", "auth.user"),
                    _page("Groups", "group", "auth.group"),
                    _page("API tokens", "key", "tenants.operatortoken"),
                    _page("Single sign-on", "passkey", "tenants.ssoidentity"),
                    _page("Second factors", "phonelink_lock", "otp_totp.totpdevice"),
                    _page("Locked-out logins", "gpp_maybe", "axes.accessattempt"),
                ],
            },
        ],
    },
}
