"""/api/providers: rows without their keys."""

from typing import Any

import pytest
from auditlog.models import LogEntry
from cryptography.fernet import Fernet

from spend.models import Provider
from spend.providers.accounts import account_of
from tests.factories import CatalogueModelFactory
from tests.support.api import Api, operator

pytestmark = pytest.mark.django_db

MADE = {
    "name": "azure-eu",
    "kind": "azure",
    "baseUrl": "https://shop.openai.azure.com",
    "keySetting": "",
    "hasOwnKey": True,
    "dialect": "responses",
    "apiVersion": "2025-04-01-preview",
    "takesMaxTokens": False,
    "answerTimeoutS": 60,
    "streamIdleS": None,
    "headers": {"X-Title": "shop"},
    "isEnabled": True,
}
GIVEN = {name: value for name, value in MADE.items() if name != "hasOwnKey"} | {"apiKey": "sk-secret"}


@pytest.fixture(autouse=True)
def content_keys(settings: Any) -> None:
    settings.CONTENT_KEYS = (Fernet.generate_key().decode(),)


@pytest.fixture
def api() -> Api:
    return operator()


def key_of(name: str) -> str:
    return account_of(Provider.objects.get(pk=name)).api_key


def test_a_provider_is_made_read_listed_changed_and_deleted(api: Api) -> None:
    made = api.put("/api/providers/azure-eu", GIVEN)
    assert (made.status_code, made.json()) == (201, MADE)
    assert key_of("azure-eu") == "sk-secret"
    assert api.get("/api/providers/azure-eu").json() == MADE
    assert [each["name"] for each in api.get("/api/providers").json()["providers"]] == ["azure-eu", "openai", "xai"]
    changed = api.put("/api/providers/azure-eu", {"dialect": "", "isEnabled": False})
    assert (changed.status_code, changed.json()) == (200, {**MADE, "dialect": "", "isEnabled": False})
    assert key_of("azure-eu") == "sk-secret"
    assert "sk-secret" not in str(list(LogEntry.objects.values_list("changes", flat=True)))
    model = CatalogueModelFactory.create(provider="azure-eu")
    refused = api.delete("/api/providers/azure-eu")
    assert (refused.status_code, "has models still" in refused.text) == (400, True)
    model.prices.all().delete()
    model.delete()
    assert api.delete("/api/providers/azure-eu").status_code == 204
    assert api.get("/api/providers/azure-eu").status_code == 404


def test_who_gives_another_address_is_not_sent_the_key(api: Api) -> None:
    api.put("/api/providers/azure-eu", GIVEN)
    same_host = api.put("/api/providers/azure-eu", {"baseUrl": "https://shop.openai.azure.com/openai"})
    assert same_host.json()["hasOwnKey"] is True
    for address in ("https://evil.example", "http://shop.openai.azure.com", "https://shop.openai.azure.com:8443"):
        api.put("/api/providers/azure-eu", GIVEN)
        moved = api.put("/api/providers/azure-eu", {"baseUrl": address})
        assert (moved.status_code, moved.json()["hasOwnKey"]) == (200, False)
    both = api.put("/api/providers/azure-eu", {"baseUrl": "https://new.example", "apiKey": "sk-new"})
    assert (both.json()["hasOwnKey"], key_of("azure-eu")) == (True, "sk-new")
    assert api.put("/api/providers/azure-eu", {"apiKey": ""}).json()["hasOwnKey"] is False


def test_a_key_of_the_environment_goes_where_the_environment_says(
    api: Api, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.XAI_BASE_URL = "https://api.x.ai/v1"
    assert api.put("/api/providers/xai", {"baseUrl": "https://evil.example"}).status_code == 200
    assert key_of("xai") == ""
    api.put("/api/providers/xai", {"baseUrl": "https://api.x.ai/v2"})
    assert key_of("xai") == settings.XAI_API_KEY
    monkeypatch.setenv("GROQ_API_KEY", "sk-groq")
    api.put("/api/providers/groq", {"keySetting": "GROQ_API_KEY", "baseUrl": "https://api.groq.com/openai/v1"})
    assert key_of("groq") == "sk-groq"
    monkeypatch.setenv("GROQ_BASE_URL", "https://other.example/v1")
    assert key_of("groq") == ""
    api.put("/api/providers/groq", {"baseUrl": ""})
    assert account_of(Provider.objects.get(pk="groq")).base_url == "https://other.example/v1"
    assert key_of("groq") == "sk-groq"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "baseUrl"),
        ({"baseUrl": "ftp://a.example"}, "baseUrl"),
        ({"baseUrl": "https://ann:secret@a.example"}, "baseUrl"),
        ({"baseUrl": "https://a.example/v1?x=1"}, "baseUrl"),
        ({"baseUrl": "http://10.0.0.1/v1"}, "baseUrl"),
        ({"baseUrl": "http://[::ffff:169.254.169.254]/v1"}, "baseUrl"),
        ({"baseUrl": "https://a.example", "keySetting": "SECRET_KEY"}, "keySetting"),
        ({"baseUrl": "https://a.example", "keySetting": "HELICONE_API_KEY"}, "keySetting"),
        ({"baseUrl": "https://a.example", "apiKey": "a b"}, "apiKey"),
        ({"baseUrl": "https://a.example", "apiKey": "schlüssel"}, "apiKey"),
        ({"baseUrl": "https://a.example", "apiVersion": "2025"}, "apiVersion"),
        ({"baseUrl": "https://a.example", "kind": "azure", "apiVersion": "2025&x=1"}, "apiVersion"),
        ({"baseUrl": "https://a.example", "headers": {"Authorization": "Bearer x"}}, "headers"),
        ({"baseUrl": "https://a.example", "headers": {"X-Title": "a\r\nHost: b"}}, "headers"),
        ({"baseUrl": "https://a.example", "headers": {"X Title": "a"}}, "headers"),
        ({"baseUrl": "https://a.example", "sealedKey": "gAAAA"}, "sealedKey"),
        ({"baseUrl": "https://a.example", "name": "other"}, "name"),
        ({"baseUrl": "https://a.example", "answerTimeoutS": 0}, "answerTimeoutS"),
    ],
)
def test_what_no_provider_can_have_is_refused_by_its_name(api: Api, fields: Any, param: str) -> None:
    refused = api.put("/api/providers/mine", fields)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param), refused.text
    assert not Provider.objects.filter(pk="mine").exists()


def test_without_a_key_to_encrypt_by_none_is_kept(api: Api, settings: Any) -> None:
    settings.CONTENT_KEYS = ()
    refused = api.put("/api/providers/mine", {"baseUrl": "https://a.example", "apiKey": "sk"})
    assert (refused.status_code, "CONTENT_KEYS" in refused.text) == (400, True)


def test_those_of_the_settings_stay_and_none_is_named_as_what_stands_in(api: Api) -> None:
    assert api.delete("/api/providers/xai").status_code == 400
    assert api.put("/api/providers/demo", {"baseUrl": "https://a.example"}).status_code == 400


def test_a_model_names_a_provider_that_is_there(api: Api) -> None:
    model = {"provider": "nobody", "inputUsdPerMillion": "1", "outputUsdPerMillion": "1"}
    refused = api.put("/api/models/mine", model)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "provider")
    api.put("/api/providers/nobody", {"baseUrl": "https://a.example"})
    assert api.put("/api/models/mine", model).status_code == 201
