"""`manage.py load_demo`: something to look at and to call, for `make run`."""

import json
import secrets
from datetime import timedelta
from decimal import Decimal
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction
from django.utils import timezone

from guard.management.made_up_weeks import DAYS, Business, live_through
from spend.models import provider_label
from spend.providers.accounts import load_accounts
from spend.retention.whole_tenants import InFlightError, remove_tenants
from tenants.access.roles import role
from tenants.models import ApiKey, Budget, DowngradeRule, RouteStep, Scope, Tenant
from tenants.money import ticks_from_usd
from tenants.periods import Period
from tenants.trail import changed_by

TENANTS: list[dict[str, Any]] = [
    {"id": "acme-corp", "name": "Acme Corporation", "time_zone": "America/Chicago"},
    {"id": "corner-bakery", "name": "Corner Bakery", "time_zone": "Europe/Paris", "hide_money": True},
    {"id": "nordic-outfitters", "name": "Nordic Outfitters", "time_zone": "Europe/Oslo", "default_max_tokens": 2048},
]
BUDGETS = [
    ("acme-corp", Scope.TENANT, Period.DAY, "2.50"),
    ("acme-corp", Scope.TENANT, Period.MONTH, "50.00"),
    ("acme-corp", Scope.CUSTOMER, Period.DAY, "0.50"),
    ("corner-bakery", Scope.TENANT, Period.DAY, "0.25"),
    ("nordic-outfitters", Scope.TENANT, Period.DAY, "0.75"),
    ("nordic-outfitters", Scope.CONVERSATION, Period.TOTAL, "0.20"),
]
ROUTES = {"corner-bakery": ["grok-4.3"], "nordic-outfitters": ["gpt-6.1-terra", "grok-4.3", "gpt-6-luna"]}
DOWNGRADES = {"nordic-outfitters": [(None, "gpt-6-luna")]}
BUSINESSES = [
    Business("acme-corp", chats_a_day=22, prompt_tokens=30_000, keys=("web shop", "phone app")),
    Business("corner-bakery", chats_a_day=15, prompt_tokens=2_500, weekend=1.5),
    Business("nordic-outfitters", chats_a_day=14, prompt_tokens=12_000),
]
KEY_LASTS = timedelta(days=7)
QUESTION = "Where is my order?"


class Command(BaseCommand):
    help = "Create demo tenants with made-up weeks, logins and a key, and print how to use them. For development only."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--days", type=int, default=DAYS, help="How many days to make up; 0 for none.")
        parser.add_argument("--remove", action="store_true", help="Remove the demo tenants and all that they spent.")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["remove"]:
            self.stdout.write(remove())
            return
        if not settings.DEBUG:
            raise CommandError("load_demo makes logins and tenants for trying things out: it wants DEBUG=true.")
        is_alone = not Tenant.objects.filter(is_demo=False).exists()
        with changed_by("load_demo"), transaction.atomic():
            load_tenants()
            admin = login("admin", is_superuser=True, is_staff=True)
            manager = login("maria", groups=["manager"], tenant="acme-corp")
            _, key = ApiKey.objects.issue(Tenant.objects.get(pk="acme-corp"), "make run", timezone.now() + KEY_LASTS)
        with changed_by("load_demo"):
            weeks = made_up(options["days"]) if is_alone else ""
        self.stdout.write(welcome(admin, manager, key, weeks))


def made_up(days: int) -> str:
    """Live through the demo's last days, and what to say of them."""
    live_through(BUSINESSES, timezone.now(), days)
    return """
  What the pages show is made up. `.venv/bin/python manage.py load_demo --remove` removes the demo tenants.
"""


def remove() -> str:
    """Remove the demo tenants. Says what went."""
    with changed_by("load_demo --remove"):
        ids = list(Tenant.objects.filter(is_demo=True).values_list("pk", flat=True))
        try:
            attempts = remove_tenants(ids)
        except InFlightError as error:
            raise CommandError(str(error)) from None
    if not ids:
        return "There are no demo tenants."
    return f"Removed {', '.join(ids)} and {attempts:,} attempts of their calls. The logins admin and maria stay."


def load_tenants() -> None:
    """What is there already stays as it is."""
    for fields in TENANTS:
        Tenant.objects.get_or_create(id=fields["id"], defaults={**fields, "is_demo": True})
    for tenant_id, scope, period, usd in BUDGETS:
        limit = {"limit_ticks": ticks_from_usd(Decimal(usd))}
        Budget.objects.get_or_create(tenant_id=tenant_id, scope=scope, period=period, defaults=limit)
    for tenant_id, route in ROUTES.items():
        for position, model_id in enumerate(route):
            RouteStep.objects.get_or_create(tenant_id=tenant_id, model_id=model_id, defaults={"position": position})
    for tenant_id, rules in DOWNGRADES.items():
        for from_model_id, to_model_id in rules:
            DowngradeRule.objects.get_or_create(
                tenant_id=tenant_id, from_model_id=from_model_id, to_model_id=to_model_id
            )


def login(name: str, *, groups: list[str] | None = None, tenant: str | None = None, **flags: bool) -> str:
    """A login "name / password"; the password is a new one each time, so that it can always be told."""
    user, _ = User.objects.get_or_create(username=name)
    for flag, value in flags.items():
        setattr(user, flag, value)
    user.set_password(password := secrets.token_urlsafe(9))
    user.save()
    user.groups.add(*map(role, groups or []))
    if tenant:
        Tenant.objects.get(pk=tenant).members.add(user)
    return f"{name} / {password}"


def welcome(admin: str, manager: str, key: str, weeks: str) -> str:
    url = f"http://localhost:{settings.PORT}"
    call = {"tenantId": "acme-corp", "messages": [{"role": "user", "content": QUESTION}]}
    curl = (
        f"curl {url}/api/chat -H 'Authorization: Bearer {key}' "
        f"-H 'Content-Type: application/json' -d '{json.dumps(call)}'"
    )
    return f"""
  Guard                                {providers()}

  Admin      {url}/admin/     {admin}
  Dashboard  {url}/           {manager}  (acme-corp only)
  API        {url}/api/docs/  {key}  (acme-corp, one week)
{weeks}
  Ask something:

{curl}
"""


def providers() -> str:
    accounts = load_accounts().values()
    real = [provider_label(account.name) for account in accounts if account.is_usable]
    keyless = [provider_label(account.name) for account in accounts if account.is_enabled and account.fault]
    if not real:
        return "No provider key is set: the demo provider answers."
    unasked = f" {keyless[0]} has no key, and is not asked." if keyless else ""
    return f"Answers come from {' and '.join(real)}.{unasked}"
