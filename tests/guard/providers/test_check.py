"""`check_providers`: what an operator reads of an address and a key, from a real server that answers in each way."""

import json
from contextlib import nullcontext
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.core.management import CommandError, call_command

from spend.models import Provider
from spend.privacy.encryption import encrypt
from spend.providers.accounts import account_of
from tenants.targets import AllowedTargets
from tests.factories import CatalogueModelFactory
from tests.support.provider import Provider as Demo
from tests.support.sink import http_sink

pytestmark = pytest.mark.django_db

REFUSED: list[tuple[int, Any, str]] = [
    (200, "<html>Welcome</html>", "no list of models"),
    (200, {"models": []}, "no list of models"),
    (302, "", "check the address"),
    (400, {"error": "Incorrect API key provided"}, "refuses the key"),
    (400, {"error": "what?"}, "check the address"),
    (401, {"error": {"message": "no"}}, "refuses the key"),
    (403, {"error": {"message": "no"}}, "check its rights"),
    (404, "", "ends in /v1"),
    (429, {"error": {"message": "no"}}, "throttling"),
    (500, "", "try again later"),
]


@pytest.fixture(autouse=True)
def one_provider(settings: Any) -> None:
    settings.XAI_API_KEY, settings.OPENAI_API_KEY = "", "a-secret-key"


def check(capsys: pytest.CaptureFixture[str]) -> str:
    call_command("check_providers")
    return capsys.readouterr().out


def test_a_provider_that_works_and_what_it_does_not_list(provider: Demo, capsys: pytest.CaptureFixture[str]) -> None:
    CatalogueModelFactory.create(id="mine", provider="openai", upstream_name="of-yesterday")
    CatalogueModelFactory.create(id="off", provider="openai", upstream_name="off-yesterday", is_enabled=False)
    said = check(capsys)
    assert "OpenAI at" in said
    assert "works, and lists" in said
    assert "mine is enabled here, and of-yesterday is not in its list." in said
    assert "off-yesterday" not in said
    assert "xAI: has no key: XAI_API_KEY is not set" in said


@pytest.mark.parametrize(("status", "body", "words"), REFUSED)
def test_what_is_wrong_is_said_in_plain_words(
    settings: Any, capsys: pytest.CaptureFixture[str], status: int, body: Any, words: str
) -> None:
    with http_sink() as sink:
        is_page = isinstance(body, str)
        sink.status, sink.answer = status, (body if is_page else json.dumps(body)).encode()
        kind = "text/html" if is_page else "application/json"
        sink.headers = {"Content-Type": kind, "Location": "/v1/models", "x-should-retry": "false"}
        settings.OPENAI_BASE_URL = f"{sink.url}/v1"
        with pytest.raises(CommandError, match=r"Not working: OpenAI\."):
            check(capsys)
    said = capsys.readouterr().out
    assert words in said
    assert "a-secret-key" not in said


def test_an_address_where_nobody_listens(settings: Any, capsys: pytest.CaptureFixture[str]) -> None:
    settings.OPENAI_BASE_URL = "http://127.0.0.1:1/v1"
    with pytest.raises(CommandError):
        check(capsys)
    assert "can't be reached" in capsys.readouterr().out


def test_without_keys_there_is_nothing_to_check(settings: Any) -> None:
    settings.OPENAI_API_KEY = ""
    with pytest.raises(CommandError, match="OPENAI_API_KEY"):
        call_command("check_providers")


def made(name: str, **fields: Any) -> Provider:
    row = Provider(name=name, **{"base_url": "https://api.example.com/v1", **fields})
    row.sealed_key = encrypt(b"a-secret-key")
    row.save()
    return row


@pytest.fixture
def content_keys(settings: Any) -> None:
    settings.CONTENT_KEYS = (Fernet.generate_key().decode(),)


@pytest.mark.usefixtures("content_keys")
@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("azure", "/openai/deployments/m/chat/completions?api-version=2025"),
        ("compatible", "/v1/chat/completions"),
    ],
)
@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        (None, None, "cheap answers"),
        (401, {"message": "no"}, "refuses the key"),
        (402, {"message": "no"}, "out of money"),
        (429, {"message": "no", "code": "insufficient_quota"}, "out of money"),
        (404, {"message": "no"}, "does not know the model m"),
        (400, {"message": "too hot"}, "too hot"),
    ],
)
def test_a_models_word_is_asked_for_too(
    provider: Demo, capsys: pytest.CaptureFixture[str], kind: str, path: str, status: Any, error: Any, words: str
) -> None:
    url, version = (provider.url, "2025") if kind == "azure" else (provider.base_url, "")
    made("mine", kind=kind, base_url=url, api_version=version)
    CatalogueModelFactory.create(id="cheap", provider="mine", upstream_name="m")
    CatalogueModelFactory.create(id="dear", provider="mine", price__tier__output_ticks=10**6)
    CatalogueModelFactory.create(id="unpriced", provider="mine", price=None)
    if status:
        provider.behave("m", status=status, body={"error": error}, headers={"x-should-retry": "false"})
    with nullcontext() if status is None else pytest.raises(CommandError, match="Not working: mine"):
        call_command("check_providers", "mine", "--call")
    said = capsys.readouterr().out
    assert words in said
    assert "a-secret-key" not in said
    assert {call["path"] for call in provider.calls()} == {path}
    assert provider.calls()[0]["body"]["max_completion_tokens"] == 16


@pytest.mark.usefixtures("content_keys")
def test_an_address_inside_is_not_asked(settings: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with http_sink() as sink:
        made("mine", base_url=sink.url.replace("127.0.0.1", "localhost"))
        settings.ALLOW_PRIVATE_TARGETS = AllowedTargets()
        with pytest.raises(CommandError):
            call_command("check_providers", "mine")
        assert sink.received == []


def test_what_is_wrong_before_anything_is_asked(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"A_API_KEY": "k", "B_API_KEY": "k", "B_BASE_URL": "ftp://b", "C_API_KEY": "a b"}.items():
        monkeypatch.setenv(name, value)
        if name.endswith("KEY"):
            Provider.objects.create(name=name[0].lower(), key_setting=name)
    Provider.objects.create(name="nameless", key_setting="NOBODYS_API_KEY", base_url="https://a.example")
    Provider.objects.create(name="sealed", base_url="https://a.example", sealed_key="gAAAAno")
    Provider.objects.create(name="moved", kind="openai", key_setting="OPENAI_API_KEY", base_url="https://a.example/v1")
    Provider.objects.filter(name="openai").update(is_enabled=False)
    with pytest.raises(CommandError, match="No provider has a key"):
        call_command("check_providers")
    said = {row.name: account_of(row).fault for row in Provider.objects.all()}
    assert said["a"] == "has no address: A_BASE_URL is not set"
    assert said["b"] == "has no address: B_BASE_URL is no http or https URL"
    assert said["c"] == "has no key: C_API_KEY is not printable ASCII without spaces"
    assert said["nameless"] == "has no key: NOBODYS_API_KEY is not set"
    assert said["sealed"] == "has a key that no key of CONTENT_KEYS opens"
    assert said["openai"] == "is switched off"
    assert f"goes to {settings.OPENAI_BASE_URL.removesuffix('/v1')} only" in said["moved"]
