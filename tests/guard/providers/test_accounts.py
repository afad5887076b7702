"""Providers that operators made: a real server, told by rows, at Azure's, OpenRouter's and everybody's addresses."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from auditlog.models import LogEntry
from cryptography.fernet import Fernet

from spend.models import Breaker, LedgerEntry, Provider
from spend.providers.accounts import set_key
from tests.factories import ApiKeyFactory, CatalogueModelFactory, RouteStepFactory
from tests.support.agents import HELLO, chunks_of, eventually, text_of
from tests.support.provider import Provider as Demo
from tests.support.server import GuardServer

CONTENT_KEY = Fernet.generate_key().decode()
USAGE = {"prompt_tokens": 40, "completion_tokens": 5, "total_tokens": 45}


@pytest.fixture(scope="module")
def server(module_server: Callable[..., GuardServer]) -> GuardServer:
    return module_server(CONTENT_KEYS=CONTENT_KEY, GROQ_API_KEY="key-of-groq")


@pytest.fixture(autouse=True)
def content_keys(settings: Any) -> None:
    settings.CONTENT_KEYS = (CONTENT_KEY,)


class Shop:
    """A tenant whose route is of one provider's models."""

    def __init__(self, server: GuardServer, **fields: Any) -> None:
        self.server = server
        self.provider = Provider(**fields)
        self.provider.clean()
        if not self.provider.key_setting:
            set_key(self.provider, "a-key-of-the-shop", self.provider.base_url)
        self.provider.save()
        self.key = ApiKeyFactory.create()
        self.models: list[str] = []
        self.client = server.client_of(self.key.secret)

    def add_model(self, upstream_name: str, **model: Any) -> str:
        made = CatalogueModelFactory.create(
            id=f"{self.provider.name}/{upstream_name}",
            upstream_name=upstream_name,
            **{"provider": self.provider.name, **model},
        )
        RouteStepFactory.create(tenant=self.key.tenant, model=made)
        self.models.append(made.id)
        return str(made.id)

    def ask(self, path: str = "/v1/chat/completions", **fields: Any) -> Any:
        body = {"model": "auto", "messages": HELLO, "max_tokens": 60, **fields}
        return self.client.post(path, json=body, stream=fields.get("stream", False))

    def entry(self) -> LedgerEntry:
        with self.server.database():
            entries = LedgerEntry.objects.filter(tenant=self.key.tenant_id)
            eventually(entries.exists)
            return entries.get()


@pytest.fixture
def shop(server: GuardServer, provider: Demo) -> Iterator[Callable[..., Shop]]:
    provider.reset()
    made = []

    def make(upstream_name: str, **fields: Any) -> Shop:
        with server.database():
            made.append(Shop(server, **fields))
            made[-1].add_model(upstream_name)
        return made[-1]

    yield make
    provider.reset()


@pytest.mark.parametrize("stream", [False, True])
def test_azures_deployments_are_in_the_path(shop: Callable[..., Shop], provider: Demo, stream: bool) -> None:
    name = f"azure-{stream}".lower()
    azure = shop(f"our-{name}", name=name, kind="azure", base_url=provider.url, api_version="2025-04-01-preview")
    provider.behave(f"our-{name}", content="Hello", usage=USAGE)
    answer = azure.ask(stream=stream)
    assert answer.status_code == 200, answer.text
    assert (text_of(chunks_of(answer)) if stream else answer.json()["choices"][0]["message"]["content"]) == "Hello"
    (call,) = provider.calls(f"our-{name}")
    assert call["path"] == f"/openai/deployments/our-{name}/chat/completions?api-version=2025-04-01-preview"
    assert call["headers"]["api-key"] == "a-key-of-the-shop"
    assert "authorization" not in call["headers"]
    assert azure.entry().provider == name
    assert azure.entry().provider_ticks is None


def test_azures_responses_name_the_deployment_in_the_body(shop: Callable[..., Shop], provider: Demo) -> None:
    azure = shop(
        "our-gpt", name="azure-r", kind="azure", base_url=provider.url, api_version="2025-04-01", dialect="responses"
    )
    assert azure.ask().status_code == 200
    (call,) = provider.calls("our-gpt")
    assert call["path"] == "/openai/responses?api-version=2025-04-01"
    assert call["body"]["model"] == "our-gpt"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("usage", "ticks"),
    [
        ({"cost": 0.0001234}, 1_234_000),
        ({"cost": 1.23456789012e-05}, 123_457),
        ({"cost": 0}, 0),
        ({"cost": 0.000002, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.0003}}, 3_020_000),
        ({"cost": 0.5, "is_byok": False, "cost_details": {"upstream_inference_cost": 0.4}}, 5_000_000_000),
    ],
)
def test_what_openrouter_says_it_billed_is_what_is_settled(
    shop: Callable[..., Shop], provider: Demo, stream: bool, usage: Any, ticks: int
) -> None:
    name = f"router-{stream}-{ticks}".lower()
    router = shop(f"vendor/{name}", name=name, kind="openrouter", base_url=f"{provider.url}/api/v1")
    provider.behave(f"vendor/{name}", content="Hello", usage={**USAGE, **usage})
    answer = router.ask(stream=stream)
    assert answer.status_code == 200, answer.text
    assert answer.content
    entry = router.entry()
    assert (entry.cost_ticks, entry.provider_ticks, entry.is_estimated) == (ticks, ticks, False)
    (call,) = provider.calls(f"vendor/{name}")
    assert call["path"] == "/api/v1/chat/completions"
    assert call["body"]["usage"] == {"include": True}


def test_a_cost_that_others_tell_in_who_knows_what_is_no_bill(shop: Callable[..., Shop], provider: Demo) -> None:
    plain = shop("llama", name="plain", base_url=provider.base_url, takes_max_tokens=True, headers={"X-Title": "shop"})
    provider.behave("llama", content="Hello", usage={**USAGE, "cost": 0.5, "cost_in_usd_ticks": None})
    assert plain.ask().status_code == 200
    assert plain.entry().provider_ticks is None
    (call,) = provider.calls("llama")
    assert (call["headers"]["x-title"], call["headers"]["authorization"]) == ("shop", "Bearer a-key-of-the-shop")
    assert call["body"]["max_tokens"] == 60
    assert "max_completion_tokens" not in call["body"]
    assert "service_tier" not in call["body"]


def test_a_provider_that_fails_is_spared_and_another_serves(shop: Callable[..., Shop], provider: Demo) -> None:
    groq = shop("dead", name="groq", base_url=provider.base_url, key_setting="GROQ_API_KEY")
    with groq.server.database():
        alive = groq.add_model("alive", provider="xai")
    provider.behave("dead", status=500)
    for _ in range(5):
        answer = groq.ask()
        assert (answer.status_code, answer.headers["X-Guard-Model"]) == (200, alive)
    assert {call["headers"]["authorization"] for call in provider.calls("dead")} == {"Bearer key-of-groq"}
    with groq.server.database():
        assert Breaker.objects.get(pk=groq.models[0]).opened_at is not None
    assert groq.ask().status_code == 200
    assert len(provider.calls("dead")) == 5


def test_a_change_is_in_force_within_a_second(shop: Callable[..., Shop], provider: Demo) -> None:
    changing = shop("m", name="changing", base_url=provider.base_url)
    assert changing.ask().status_code == 200
    with changing.server.database():
        set_key(changing.provider, "another-key", changing.provider.base_url)
        changing.provider.save()
    assert changing.ask().status_code == 200
    assert [call["headers"]["authorization"] for call in provider.calls("m")] == [
        "Bearer a-key-of-the-shop",
        "Bearer another-key",
    ]
    with changing.server.database():
        changing.provider.is_enabled = False
        changing.provider.save()
    refused = changing.ask()
    assert refused.status_code == 503, refused.text
    assert len(provider.calls("m")) == 2
    with changing.server.database():
        trail = LogEntry.objects.get_for_object(changing.provider)
        assert "another-key" not in str([entry.changes for entry in trail])
        assert {"sealed_key": ["***", "***"]} in [entry.changes for entry in trail]


def test_a_model_without_a_price_is_refused_in_plain_words(shop: Callable[..., Shop], provider: Demo) -> None:
    own = shop("priced", name="own", base_url=provider.base_url)
    with own.server.database():
        CatalogueModelFactory.create(id="unpriced", provider="own", price=None)
        RouteStepFactory.create(tenant=own.key.tenant, model_id="unpriced", model=None)
    refused = own.ask(model="unpriced")
    assert refused.status_code == 400
    assert "price" in refused.json()["error"]["message"]
