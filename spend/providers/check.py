"""Whether a provider is well and knows our key, found out as any OpenAI client would: by the openai package.

Its list of models is asked for, which costs nothing; and where that is wanted its cheapest model for a word, which is
the least that tells whether there is money, and whether it knows the model. The guard's own client plays no part, so
that what is wrong here is wrong with the address, the key or the provider.
"""

import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, TypeVar

import httpx2
import openai
from django.conf import settings
from django.utils import timezone

from spend.models import CatalogueModel, Dialect, ProviderKind
from spend.pricing.operator_prices import PricedModel, callable_models
from spend.providers.accounts import Account
from tenants.targets import TargetError, may_reach

Found = TypeVar("Found")

WAIT_S = 20.0
MOST_TOKENS = 16
"""OpenAI takes no smaller maximum of a response."""
WORDS: dict[type[openai.OpenAIError], str] = {
    openai.APITimeoutError: f"said nothing for {WAIT_S:.0f} seconds",
    openai.AuthenticationError: "refuses the key",
    openai.PermissionDeniedError: "knows the key, and lets it do nothing: check its rights and its account's credit",
    openai.NotFoundError: "has no list of models at this address: check the address, which mostly ends in /v1",
    openai.RateLimitError: "is throttling this key, or its account is out of money",
    openai.InternalServerError: "has trouble of its own: try again later",
    openai.OpenAIError: "answered with what no provider of models would: check the address",
}
"""By kind, the narrower first."""
NO_LIST = "something that is no list of models came back: check the address, which mostly ends in /v1"
MONEY_CODES = {"insufficient_quota", "billing_hard_limit_reached", "insufficient_balance", "insufficient_credits"}
OUT_OF_MONEY = 402


@dataclass(frozen=True)
class Finding:
    """What was found at one provider: `models` are the names it lists, none where something is wrong."""

    words: str
    models: frozenset[str] = frozenset()
    is_well: bool = False


class CheckedTransport(httpx2.HTTPTransport):
    """As `spend.alerts.checked_transport`, for a command and a page that wait."""

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Raises TargetError where the host leads nowhere that it may."""
        url, host = request.url, request.url.raw_host.decode("ascii")
        try:
            found = socket.getaddrinfo(host, url.port or 443, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise TargetError(f"the name {host} leads to no address") from None
        addresses = list(dict.fromkeys(ip_address(address[0]) for *_, address in found))
        reachable = may_reach(host, addresses, settings.ALLOW_PRIVATE_TARGETS)
        request.extensions = {**request.extensions, "sni_hostname": host}
        for address in reachable[:-1]:
            request.url = url.copy_with(host=str(address))
            with suppress(httpx2.ConnectError, httpx2.ConnectTimeout):  # nothing was sent: the next one
                return super().handle_request(request)
        request.url = url.copy_with(host=str(reachable[-1]))
        return super().handle_request(request)


def check_provider(account: Account) -> Finding:
    """Whether it lists its models. Never raises: whatever goes wrong is the finding. `words` never have the key."""
    if not account.is_usable:
        return Finding(account.fault)
    found = _asked(account, "", lambda client: frozenset(model.id for model in client.models.list().data))
    if isinstance(found, Finding):
        return found
    return Finding(f"works, and lists {len(found)} models", found, is_well=True)


def try_model(account: Account, model: CatalogueModel) -> Finding:
    """Whether this model of it answers a word, which is billed. Never raises, as `check_provider`."""
    if not account.is_usable:
        return Finding(account.fault)
    found = _asked(account, model.upstream_name, lambda client: _say_hello(client, account, model))
    return found if isinstance(found, Finding) else Finding(f"{model.id} answers", is_well=True)


def cheapest_model(provider: str) -> CatalogueModel | None:
    """Of those that calls can be sent to and that chat, the one whose output costs least."""
    named = CatalogueModel.objects.filter(provider=provider, makes_embeddings=False).values_list("id", flat=True)
    priced = callable_models(named, timezone.now())
    return min(priced, key=_output_ticks).model if priced else None


def _output_ticks(priced: PricedModel) -> int:
    assert priced.rates  # noqa: S101
    return priced.rates.output_ticks


def _say_hello(client: openai.OpenAI, account: Account, model: CatalogueModel) -> bool:
    if account.dialect == Dialect.RESPONSES:
        client.responses.create(model=model.upstream_name, input="Hello", max_output_tokens=MOST_TOKENS, store=False)
        return True
    limit: dict[str, Any] = {"max_tokens" if account.takes_max_tokens else "max_completion_tokens": MOST_TOKENS}
    answer = client.chat.completions.create(
        model=model.upstream_name, messages=[{"role": "user", "content": "Hello"}], **limit
    )
    return answer.choices[0].message is not None


def _asked(account: Account, model: str, ask: Callable[[openai.OpenAI], Found]) -> Found | Finding:
    try:
        with _client_of(account) as client:
            return ask(client)
    except openai.OpenAIError as error:
        return Finding(words_of(error, model))
    except (AttributeError, TypeError, ValueError):  # the package reads whatever comes with status 200 as its own type
        return Finding(NO_LIST if not model else f"something that is no answer came back for {model}")


def _client_of(account: Account) -> openai.OpenAI:
    # The key goes to the address that was configured, and to no other.
    if account.is_checked:
        http_client = openai.DefaultHttpxClient(follow_redirects=False, transport=CheckedTransport(), trust_env=False)
    else:
        http_client = openai.DefaultHttpxClient(follow_redirects=False)
    shared: dict[str, Any] = {
        "api_key": account.api_key, "max_retries": 1, "timeout": WAIT_S, "http_client": http_client,
        "default_headers": dict(account.headers),
    }  # fmt: skip
    if account.kind == ProviderKind.AZURE and account.api_version:
        endpoint = account.base_url.removesuffix("/openai")
        return openai.AzureOpenAI(azure_endpoint=endpoint, api_version=account.api_version, **shared)
    if account.kind == ProviderKind.AZURE:
        shared["default_headers"] = {**shared["default_headers"], "api-key": account.api_key}
    return openai.OpenAI(base_url=account.base_url, **shared)


def words_of(error: openai.OpenAIError, model: str = "") -> str:
    """Half a sentence about the provider, asked for its list or, with its name, for a model."""
    # xAI answers 400, not 401, to a key that it does not know.
    if isinstance(error, openai.BadRequestError) and "api key" in error.response.text.lower():
        return WORDS[openai.AuthenticationError]
    if isinstance(error, openai.APIConnectionError) and not isinstance(error, openai.APITimeoutError):
        return _unreachable(error)
    if isinstance(error, openai.APIStatusError) and (
        error.status_code == OUT_OF_MONEY or {error.code, error.type} & MONEY_CODES
    ):
        return "knows the key, and its account is out of money: add credit there"
    if model and isinstance(error, openai.NotFoundError):
        return f"does not know the model {model}, or has nothing at this address"
    if model and isinstance(error, openai.BadRequestError):
        return f"refuses a plain request of {model}: {error.message[:200]}"
    return next(words for kind, words in WORDS.items() if isinstance(error, kind))


def _unreachable(error: openai.APIConnectionError) -> str:
    if isinstance(error.__cause__, TargetError):
        return f"may not be connected to: {error.__cause__}".rstrip(".")
    return f"can't be reached: {error.__cause__ or error}".rstrip(".")
