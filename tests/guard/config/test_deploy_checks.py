"""What `manage.py check --deploy` says."""

import re
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.core.checks import CheckMessage
from django.db import connection
from django.test import Client
from django.utils import timezone

from guard.config.deploy_checks import (
    check_issuer,
    check_mail_server,
    check_provider_keys,
    check_roles_of_single_sign_on,
    check_routes,
    check_secret_key,
    check_single_sign_on,
    check_sqlite,
)
from guard.config.environment import INSECURE_KEY
from spend.models import CatalogueModel, Price, Provider
from spend.privacy.encryption import encrypt
from tenants.models import AlertChannel, ChannelKind
from tests.factories import CatalogueModelFactory, DowngradeRuleFactory, RouteStepFactory, TenantFactory
from tests.support.server import GuardServer, manage


def ids(messages: Iterable[CheckMessage]) -> list[str | None]:
    return [message.id for message in messages]


@pytest.mark.parametrize(
    ("key", "found"),
    [("x" * 60, ["guard.E001"]), ("short", ["guard.E001"]), (INSECURE_KEY, ["guard.E001"]), ("abcdefgh" * 4, [])],
)
def test_secret_key(settings: Any, key: str, found: list[str]) -> None:
    settings.SECRET_KEY = key
    assert ids(check_secret_key()) == found


@pytest.mark.parametrize(
    ("workers", "hosts", "found"),
    [
        (1, ["localhost", "127.0.0.1", "guard.example"], []),
        (2, ["localhost"], ["guard.W002"]),
        (1, ["a.example", "b.example"], ["guard.W003"]),
        (1, ["*"], ["guard.W003"]),
        (1, [".example.com"], ["guard.W003"]),
        (1, ["localhost", ".localhost", "guard.example"], []),
    ],
)
def test_sqlite(settings: Any, workers: int, hosts: list[str], found: list[str]) -> None:
    settings.WORKERS, settings.ALLOWED_HOSTS = workers, hosts
    assert ids(check_sqlite()) == (found if connection.vendor == "sqlite" else [])


@pytest.mark.django_db
@pytest.mark.parametrize(("xai", "openai", "found"), [("", "", ["guard.W004"]), ("x", "", []), ("", "y", [])])
def test_provider_keys(settings: Any, xai: str, openai: str, found: list[str]) -> None:
    settings.XAI_API_KEY, settings.OPENAI_API_KEY = xai, openai
    assert ids(check_provider_keys()) == found


@pytest.mark.django_db
def test_a_key_that_is_kept_is_one(settings: Any) -> None:
    settings.XAI_API_KEY, settings.OPENAI_API_KEY = "", ""
    settings.CONTENT_KEYS = (Fernet.generate_key().decode(),)
    Provider.objects.create(name="mine", base_url="https://a.example", sealed_key=encrypt(b"key"))
    assert check_provider_keys() == []
    Provider.objects.update(is_enabled=False)
    assert ids(check_provider_keys()) == ["guard.W004"]


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("debug", "said"), [(True, "the demo provider answers every call"), (False, "no call can be answered")]
)
def test_what_no_provider_key_means(settings: Any, debug: bool, said: str) -> None:
    settings.XAI_API_KEY, settings.OPENAI_API_KEY, settings.DEBUG = "", "", debug
    (warning,) = check_provider_keys()
    assert said in warning.msg


SINGLE_SIGN_ON = {
    "PUBLIC_URL": "https://guard.example",
    "SSO_ISSUER": "https://login.example",
    "SSO_CLIENT_ID": "guard",
    "SSO_CLIENT_SECRET": "secret",
    "SSO_ROLES": {"all": frozenset({"operator"})},
}


@pytest.mark.parametrize("missing", SINGLE_SIGN_ON)
def test_single_sign_on_is_set_up_as_a_whole(settings: Any, missing: str) -> None:
    for name, value in SINGLE_SIGN_ON.items():
        setattr(settings, name, value)
    assert check_single_sign_on() == []
    setattr(settings, missing, type(SINGLE_SIGN_ON[missing])())
    [said] = check_single_sign_on()
    assert (said.id, f"to nobody: {missing} not set" in said.msg) == ("guard.E011", True)


def test_an_address_of_ours_is_not_half_of_single_sign_on(settings: Any) -> None:
    settings.PUBLIC_URL = "https://guard.example"
    assert check_single_sign_on() == []


@pytest.mark.once
def test_check_says_so_without_being_asked_to_deploy() -> None:
    done = manage("check", environment={"SSO_ISSUER": "https://login.example"})
    assert done.returncode == 1
    assert "SSO_CLIENT_ID, SSO_CLIENT_SECRET, SSO_ROLES, PUBLIC_URL not set" in done.stderr


@pytest.mark.parametrize(
    ("issuer", "found"),
    [
        ("", []),
        ("https://login.example", []),
        ("http://localhost:8080", []),
        ("http://login.example", ["guard.W013"]),
    ],
)
def test_the_issuer_is_asked_by_tls(settings: Any, issuer: str, found: list[str]) -> None:
    settings.SSO_ISSUER = issuer
    assert ids(check_issuer()) == found


@pytest.mark.django_db
def test_groups_that_single_sign_on_gives_exist(settings: Any) -> None:
    settings.SSO_ROLES = {"a": frozenset({"operator", "superuser", "staff"}), "b": frozenset({"auditor", "night"})}
    [said] = check_roles_of_single_sign_on()
    assert (said.id, "night" in said.msg, "auditor" in said.msg) == ("guard.W012", True, False)


@pytest.mark.django_db
def test_email_channels_want_a_mail_server(settings: Any) -> None:
    settings.EMAIL_BACKEND = "django.core.mail.backends.console.EmailBackend"
    AlertChannel.objects.create(kind=ChannelKind.WEBHOOK, target="https://hook.example/")
    assert check_mail_server() == []
    AlertChannel.objects.create(kind=ChannelKind.EMAIL, target="ann@example.com")
    assert ids(check_mail_server()) == ["guard.W010"]
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    assert check_mail_server() == []


@pytest.fixture
def model(settings: Any) -> CatalogueModel:
    """The one model that the default route leads to."""
    settings.DEFAULT_ROUTE, settings.DEFAULT_DOWNGRADES = ["only"], []
    return CatalogueModelFactory.create(id="only")


def said() -> str:
    return "\n".join(f"{message.id} {message.msg}" for message in check_routes())


@pytest.mark.django_db
def test_a_sound_route_is_passed_over(model: CatalogueModel) -> None:
    RouteStepFactory.create(model=model)
    assert said() == ""


@pytest.mark.django_db
def test_the_default_route_is_checked(model: CatalogueModel, settings: Any) -> None:
    settings.DEFAULT_DOWNGRADES = [("*", "nowhere")]
    assert said() == (
        "guard.E006 nowhere is not in the catalogue, and is used by the default route: its calls will be refused."
    )


@pytest.mark.django_db
def test_a_model_without_a_price(model: CatalogueModel) -> None:
    Price.objects.all().delete()
    assert "guard.E006 only has no price" in said()


@pytest.mark.django_db
def test_a_price_that_has_not_begun_is_none(model: CatalogueModel) -> None:
    Price.objects.update(starts_at=timezone.now() + timedelta(hours=1))
    assert "only has no price" in said()


@pytest.mark.django_db
def test_a_disabled_model_on_a_tenants_route_and_downgrade(model: CatalogueModel) -> None:
    off = CatalogueModelFactory.create(id="off", is_enabled=False)
    RouteStepFactory.create(tenant=TenantFactory.create(id="acme"), model=off)
    DowngradeRuleFactory.create(tenant=TenantFactory.create(id="bakery"), to_model=off)
    assert "guard.E006 off is disabled, and is used by acme, bakery" in said()


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("days", "found"),
    [(-1, "guard.E006 only was shut down"), (0, "guard.W007 only ends on"), (29, "guard.W007 only ends on"), (31, "")],
)
def test_a_shutdown(model: CatalogueModel, days: int, found: str) -> None:
    model.shutdown_on = (timezone.now() + timedelta(days=days)).date()
    model.save()
    assert said().startswith(found)
    assert bool(said()) is bool(found)


@pytest.mark.django_db
def test_a_downgrade_that_saves_nothing(model: CatalogueModel) -> None:
    dear = CatalogueModelFactory.create(id="dear", price__tier__input_ticks=99_999)
    DowngradeRuleFactory.create(tenant=TenantFactory.create(id="acme"), from_model=model, to_model=dear)
    assert "guard.W008 The downgrade from only to dear of acme saves nothing" in said()
    cheap = CatalogueModelFactory.create(id="cheap", price__tier__output_ticks=1)
    DowngradeRuleFactory.create(tenant=TenantFactory.create(id="bakery"), from_model=model, to_model=cheap)
    assert "cheap" not in said()


@pytest.mark.django_db(transaction=True)
def test_before_the_migrations_it_says_so_and_goes_on(model: CatalogueModel) -> None:
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE tenants_routestep RENAME TO elsewhere")
    try:
        assert "guard.W005 The routes were not checked" in said()
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE elsewhere RENAME TO tenants_routestep")


def test_a_page_over_https_and_no_other_is_to_be_fetched_by_https_again(client: Client) -> None:
    assert client.get("/login/", secure=True)["Strict-Transport-Security"] == "max-age=3600"
    assert "Strict-Transport-Security" not in client.get("/login/", headers={"x-forwarded-proto": "https"})
    assert "Strict-Transport-Security" not in client.get("/login/")


@pytest.mark.once
@pytest.mark.parametrize(("environment", "is_warned"), [({}, False), ({"HSTS_SECONDS": "0"}, True)])
def test_nothing_of_security_is_left_to_say(environment: dict[str, str], is_warned: bool) -> None:
    said = manage("check", "--deploy", environment={"DATABASE_URL": "sqlite://:memory:", **environment}).stderr
    assert "guard.W005" in said
    assert ("security.W004" in said) == is_warned
    assert said.count("security.W") == is_warned


@pytest.mark.once
@pytest.mark.parametrize(
    ("url", "said"),
    [("https://guard.example.com", []), ("http://guard.lan:8000", ["security.W012", "security.W016"])],
    ids=["https", "cookies-by-plain-http"],
)
def test_of_a_production_installation_nothing_else_is_left_to_say(
    guard_server: Callable[..., GuardServer], url: str, said: list[str]
) -> None:
    """As it is set up by the documents: migrated, with prices, a provider's key, a mail server and PUBLIC_URL."""
    server = guard_server(start=False)
    assert server.manage("sync_prices").returncode == 0
    mail = "smtp+tls://guard:secret@mail.example.com:587"
    checked = server.manage("check", "--deploy", PUBLIC_URL=url, ALLOWED_HOSTS="localhost", EMAIL_URL=mail)
    assert checked.returncode == 0, checked.stderr
    assert re.findall(r"\(([a-z]+\.[EW]\d+)\)", checked.stderr) == said, checked.stderr
