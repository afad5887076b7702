"""System checks: what a production installation lacks, said by `manage.py check --deploy`.

guard.E001  the secret key can be guessed, which stops the start where DEBUG is off
guard.W002  SQLite and several workers
guard.W003  SQLite and several outside host names
guard.W004  no provider key: the demo provider answers, or with DEBUG off nobody
guard.W005  the database does not answer, or is not migrated: routes were not checked
guard.E006  a route or downgrade leads to a model that cannot be called
guard.W007  a route or downgrade leads to a model that its provider ends soon
guard.W008  a downgrade leads to a model that costs as much or more
guard.W009  a tenant asks for prompts and answers to be kept, and there is no key to encrypt them
guard.W010  alerts are to be sent by email, and there is no mail server
guard.E011  single sign-on is half set up, said by every `manage.py check`
guard.W012  a group of the provider is mapped to a group that there is not
guard.W013  the provider of single sign-on is asked without TLS
guard.W014  DATABASE_URL leads to PgBouncer, and does not say so
guard.W015  REPORTS_DATABASE_URL leads to no replica: pages are read from the primary
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.contrib.auth.models import Group
from django.core.checks import CheckMessage, Error, Tags, register
from django.core.checks import Warning as Warn
from django.db import DatabaseError, connection, connections
from django.utils import timezone

from guard.config.environment import weakness_of
from spend.budgets.attention import DEFAULT_ROUTE_NAME, ModelFault, model_faults
from spend.models import Price
from spend.pricing.catalogue import tiers_of
from spend.pricing.rates import prices_in_force
from spend.providers.accounts import load_accounts
from spend.replica import ALIAS
from tenants.models import AlertChannel, ChannelKind, DowngradeRule, Tenant
from tenants.sign_in.sso import configured as sso
from tenants.sign_in.sso.people import mapped_groups

NAMES_SHOWN = 3
LOCAL_HOSTS = frozenset({"localhost", ".localhost", "127.0.0.1", "[::1]", "testserver"})


@register(Tags.security, deploy=True)
def check_secret_key(**_: Any) -> list[CheckMessage]:
    if not (why := weakness_of(settings.SECRET_KEY)):
        return []
    return [Error(f"SECRET_KEY {why}: anybody could forge a login.", id="guard.E001")]


@register(Tags.database, deploy=True)
def check_sqlite(**_: Any) -> Iterator[CheckMessage]:
    if connection.vendor != "sqlite":
        return
    if settings.WORKERS > 1:
        yield Warn(
            f"SQLite has one writer at a time; {settings.WORKERS} workers will wait for each other.",
            hint="Set WORKERS to 1, or DATABASE_URL to a Postgres.",
            id="guard.W002",
        )
    outside = [host for host in settings.ALLOWED_HOSTS if host not in LOCAL_HOSTS]
    if len(outside) > 1 or any(host.startswith(("*", ".")) for host in outside):
        yield Warn(
            f"SQLite is for one machine, and ALLOWED_HOSTS has several outside names: {_some(outside)}.",
            hint="Where several machines serve, each would keep budgets of its own: set DATABASE_URL to a Postgres.",
            id="guard.W003",
        )


@register(Tags.database, deploy=True)
def check_pooler(**_: Any) -> list[CheckMessage]:
    """Who answers a login is then not the process that runs the statements. `serve` says it, too."""
    if connection.vendor != "postgresql" or connection.settings_dict["DISABLE_SERVER_SIDE_CURSORS"]:
        return []
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            ((runs_statements,),) = cursor.fetchall()
    except DatabaseError:
        return []  # guard.W005 says it
    if runs_statements == connection.connection.info.backend_pid:
        return []
    return [
        Warn(
            "DATABASE_URL leads to PgBouncer or another pooler, and does not say so.",
            hint="Unless it pools by session, add pgbouncer=true to the URL's query: else statements will fail.",
            id="guard.W014",
        )
    ]


@register(Tags.database, deploy=True)
def check_replica(**_: Any) -> list[CheckMessage]:
    if ALIAS not in connections.settings:
        return []
    try:
        with connections[ALIAS].cursor() as cursor:
            cursor.execute("SELECT pg_is_in_recovery()")
            ((is_replica,),) = cursor.fetchall()
    except DatabaseError as error:
        fault = f"does not answer: {str(error).splitlines()[0]}"
    else:
        if is_replica:
            return []
        fault = "is no streaming replica"
    return [Warn(f"What REPORTS_DATABASE_URL leads to {fault}. Pages are read from the primary.", id="guard.W015")]


@register(deploy=True)
def check_provider_keys(**_: Any) -> list[CheckMessage]:
    if settings.XAI_API_KEY or settings.OPENAI_API_KEY or _is_any_usable():
        return []
    what_comes_of_it = "the demo provider answers every call" if settings.DEBUG else "no call can be answered"
    return [
        Warn(
            f"No provider has a key: {what_comes_of_it}.",
            hint="Set XAI_API_KEY or OPENAI_API_KEY, or give a provider a key in the admin.",
            id="guard.W004",
        )
    ]


def _is_any_usable() -> bool:
    try:
        return any(account.is_usable for account in load_accounts().values())
    except DatabaseError:
        return False  # guard.W005 says it


@register(Tags.database, deploy=True)
def check_routes(**_: Any) -> list[CheckMessage]:
    now = timezone.now()
    try:
        faults, downgrades, prices = list(model_faults(now)), downgrades_in_use(), prices_in_force(now)
    except DatabaseError as error:
        return [Warn(f"The routes were not checked: {str(error).splitlines()[0]}", id="guard.W005")]
    return [*map(_message_of, faults), *_useless_downgrades(downgrades, prices)]


@register(Tags.database, deploy=True)
def check_content_keys(**_: Any) -> list[CheckMessage]:
    if settings.CONTENT_KEYS:
        return []
    try:
        asking = list(Tenant.objects.filter(content_days__gt=0).values_list("id", flat=True))
    except DatabaseError:
        return []  # guard.W005 says it
    if not asking:
        return []
    return [
        Warn(
            f"Prompts and answers of {_some(asking)} are to be kept, but are not: CONTENT_KEYS has no key.",
            hint="Set CONTENT_KEYS to a Fernet key, or the tenants' days to 0.",
            id="guard.W009",
        )
    ]


@register(Tags.database, deploy=True)
def check_mail_server(**_: Any) -> list[CheckMessage]:
    if settings.EMAIL_BACKEND != "django.core.mail.backends.console.EmailBackend":
        return []
    try:
        is_used = AlertChannel.objects.filter(kind=ChannelKind.EMAIL, is_active=True).exists()
    except DatabaseError:
        return []  # guard.W005 says it
    if not is_used:
        return []
    return [
        Warn(
            "Alerts go to an email channel, but EMAIL_URL is the console: they are printed, and count as delivered.",
            hint="Set EMAIL_URL to your mail server, such as smtp+tls://user:password@host:587.",
            id="guard.W010",
        )
    ]


@register(Tags.security)
def check_single_sign_on(**_: Any) -> list[CheckMessage]:
    if not (missing := sso.missing()):
        return []
    return [
        Error(
            f"Single sign-on is half set up, and offered to nobody: {', '.join(missing)} not set.",
            hint="Set them as docs/sso.md says, or none of SSO_ISSUER, SSO_CLIENT_ID, SSO_CLIENT_SECRET, SSO_ROLES.",
            id="guard.E011",
        )
    ]


@register(Tags.database, deploy=True)
def check_roles_of_single_sign_on(**_: Any) -> list[CheckMessage]:
    try:
        unknown = sorted(mapped_groups() - set(Group.objects.values_list("name", flat=True)))
    except DatabaseError:
        return []  # guard.W005 says it
    if not unknown:
        return []
    return [
        Warn(
            f"SSO_ROLES gives {_some(unknown)}, and there is no such group: whoever has no other role has none.",
            hint="Make the group in the admin, or name operator, auditor, manager, staff or superuser.",
            id="guard.W012",
        )
    ]


@register(Tags.security, deploy=True)
def check_issuer(**_: Any) -> list[CheckMessage]:
    url = urlsplit(settings.SSO_ISSUER)
    if url.scheme != "http" or f"{url.hostname}" in LOCAL_HOSTS:
        return []
    return [
        Warn(
            "SSO_ISSUER is http: whoever is on the way there can sign in as anybody.",
            hint="Set it to an https address.",
            id="guard.W013",
        )
    ]


def _message_of(fault: ModelFault) -> CheckMessage:
    if fault.is_final:
        return Error(
            f"{fault.model_id} {fault.fault}, and is used by {_some(fault.users)}: its calls will be refused.",
            hint="Run sync_prices, or correct the model or the route in the admin.",
            id="guard.E006",
        )
    return Warn(
        f"{fault.model_id} {fault.fault}, and is used by {_some(fault.users)}.",
        hint="Put another model on the route before that day.",
        id="guard.W007",
    )


def downgrades_in_use() -> dict[tuple[str, str], list[str]]:
    """Every downgrade that names both its models, and whose it is."""
    rules: dict[tuple[str, str], list[str]] = defaultdict(list)
    for from_model, to_model in settings.DEFAULT_DOWNGRADES:
        if from_model != "*":
            rules[from_model, to_model].append(DEFAULT_ROUTE_NAME)
    named = DowngradeRule.objects.filter(from_model__isnull=False)
    for tenant_id, from_model_id, to_model_id in named.values_list("tenant_id", "from_model_id", "to_model_id"):
        rules[from_model_id, to_model_id].append(tenant_id)
    return rules


def _useless_downgrades(
    downgrades: Mapping[tuple[str, str], Iterable[str]], prices: Mapping[str, Price]
) -> Iterator[CheckMessage]:
    for (from_model, to_model), users in sorted(downgrades.items()):
        if from_model in prices and to_model in prices and not _is_cheaper(prices[to_model], prices[from_model]):
            yield Warn(
                f"The downgrade from {from_model} to {to_model} of {_some(users)} saves nothing at today's prices.",
                hint="A downgrade is used for a call only where it makes that call cheaper.",
                id="guard.W008",
            )


def _is_cheaper(price: Price, than: Price) -> bool:
    """Whether some call costs less: fewer ticks for input or for output."""
    rates, other = tiers_of(price)[0], tiers_of(than)[0]
    return rates.input_ticks < other.input_ticks or rates.output_ticks < other.output_ticks


def _some(names: Iterable[str]) -> str:
    shown = list(names)
    return ", ".join(shown[:NAMES_SHOWN]) + (
        f" and {len(shown) - NAMES_SHOWN} more" if len(shown) > NAMES_SHOWN else ""
    )
