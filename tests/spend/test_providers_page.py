"""The operators' page for providers, and their place in the configuration's file."""

from typing import Any

import pytest
from auditlog.models import LogEntry
from cryptography.fernet import Fernet
from django.test import Client
from django.utils import timezone

from spend.configuration.document import export_text, import_text
from spend.configuration.places import Refused
from spend.models import Provider
from spend.privacy.stored_content import rotate
from spend.providers.accounts import account_of, set_key
from tests.factories import CatalogueModelFactory, UserFactory
from tests.support.forms import form_in
from tests.support.provider import Provider as Demo

pytestmark = pytest.mark.django_db

ADDRESS = "/admin/spend/provider"


@pytest.fixture(autouse=True)
def content_keys(settings: Any) -> None:
    settings.CONTENT_KEYS = (Fernet.generate_key().decode(),)
    settings.PASSWORD_HASHERS = ["tests.support.passwords.OneRound"]


@pytest.fixture
def page() -> Client:
    client = Client()
    client.force_login(UserFactory.create(is_staff=True, is_superuser=True))
    return client


def saved(page: Client, row: str, /, **fields: str) -> Any:
    """The page of a provider as a browser sends it back, with these fields changed."""
    address = f"{ADDRESS}/{row}/change/" if row else f"{ADDRESS}/add/"
    form = form_in(page.get(address).content.decode(), "provider_form")
    return page.post(address, {**form, **{field: [value] for field, value in fields.items()}}, follow=True)


def acted(page: Client, name: str, action: str, **fields: str) -> str:
    """One of its dialogs submitted: what it then says, or the provider's page."""
    answer = page.post(f"{ADDRESS}/{name}/{action}/", {"_form_submitted": "True", **fields})
    shown = page.get(answer["HX-Redirect"]) if "HX-Redirect" in answer else answer
    return str(shown.content.decode())


def test_a_provider_is_made_keyed_tested_and_moved(page: Client, provider: Demo) -> None:
    made = saved(page, "", name="mine", kind="compatible", base_url=provider.base_url, headers='{"X-Title": "shop"}')
    assert made.status_code == 200
    row = Provider.objects.get(pk="mine")
    assert account_of(row).fault == "has no key"
    keyed = acted(page, "mine", "set-key", api_key="sk-secret")
    row.refresh_from_db()
    assert account_of(row).api_key == "sk-secret"
    assert "kept, encrypted" in keyed
    assert "sk-secret" not in keyed
    assert "printable ASCII" in acted(page, "mine", "set-key", api_key="sk secret")
    CatalogueModelFactory.create(id="m", provider="mine")
    assert "mine works, and lists 3 models; m answers." in acted(page, "mine", "test")
    provider.behave("m", status=402, body={"error": {"message": "no"}})
    assert "out of money" in acted(page, "mine", "test")
    same = saved(page, "mine", takes_max_tokens="on")
    assert b"is gone" not in same.content
    moved = saved(page, "mine", base_url="https://evil.example")
    assert b"The key that was kept is gone" in moved.content
    row.refresh_from_db()
    assert (row.sealed_key, row.takes_max_tokens) == ("", True)
    assert "sk-secret" not in str(list(LogEntry.objects.values_list("changes", flat=True)))


def test_the_list_says_what_is_in_use_and_from_where(page: Client) -> None:
    Provider.objects.create(name="keyless", base_url="https://a.example", key_setting="NOBODYS_API_KEY")
    shown = page.get(f"{ADDRESS}/").content.decode()
    assert "from XAI_API_KEY" in shown
    assert "has no key: NOBODYS_API_KEY is not set" in shown


def test_what_models_name_or_settings_fill_is_not_deleted(page: Client) -> None:
    Provider.objects.create(name="mine", base_url="https://a.example")
    CatalogueModelFactory.create(provider="mine")
    for name in ("mine", "xai"):
        assert page.post(f"{ADDRESS}/{name}/delete/", {"post": "yes"}).status_code == 403


def test_keys_are_encrypted_anew_with_the_rest(settings: Any) -> None:
    row = Provider(name="mine", base_url="https://a.example")
    set_key(row, "sk-secret", "")
    row.save()
    settings.CONTENT_KEYS = (Fernet.generate_key().decode(), *settings.CONTENT_KEYS)
    assert sum(count for count, _ in rotate()) == 1
    settings.CONTENT_KEYS = settings.CONTENT_KEYS[:1]
    row.refresh_from_db()
    assert account_of(row).api_key == "sk-secret"


def test_a_file_has_providers_without_their_keys() -> None:
    row = Provider(name="mine", base_url="https://a.example", headers={"X-Title": "shop"}, answer_timeout_s=9)
    set_key(row, "sk-secret", "")
    row.save()
    text = export_text(timezone.now())
    assert "sk-secret" not in text
    assert row.sealed_key not in text
    assert import_text(text, timezone.now()).lines == []
    row.delete()
    assert import_text(text, timezone.now()).lines == [
        "provider mine: new, with name mine, kind compatible, base_url https://a.example, key_setting none, "
        "dialect none, api_version none, takes_max_tokens no, answer_timeout_s 9, stream_idle_s none, "
        "headers X-Title: shop, is_enabled yes"
    ]
    made = Provider.objects.get(pk="mine")
    assert (made.headers, made.answer_timeout_s, account_of(made).fault) == ({"X-Title": "shop"}, 9, "has no key")


def test_a_file_that_moves_a_provider_takes_its_key_away() -> None:
    row = Provider(name="mine", base_url="https://a.example")
    set_key(row, "sk-secret", "")
    row.save()
    lines = import_text("version: 1\nproviders: [{name: mine, base_url: 'https://evil.example'}]", timezone.now()).lines
    assert lines == [
        "provider mine: base_url https://a.example → https://evil.example",
        "provider mine: its key is not in use at another host: set it again",
    ]
    row.refresh_from_db()
    assert row.sealed_key == ""


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ("name: Mine, base_url: 'https://a.example'", "name: Small letters"),
        ("name: mine", "base_url: Is needed"),
        ("name: mine, base_url: 'http://10.0.0.1'", "base_url: 10.0.0.1 is private"),
        ("name: mine, base_url: 'https://a.example', headers: {Host: b}", "no header that can be set"),
        ("name: mine, base_url: 'https://a.example', headers: [b]", "must be names with texts"),
        ("name: mine, base_url: 'https://a.example', sealed_key: gAAAA", "is not known"),
    ],
)
def test_a_file_that_is_wrong_is_refused(fields: str, words: str) -> None:
    with pytest.raises(Refused, match=words):
        import_text(f"version: 1\nproviders: [{{{fields}}}]", timezone.now())
