"""How requests leave: by the environment's proxy where it names one, and how they end when nobody is there."""

import asyncio
from typing import Any

import pytest
from yarl import URL

from guard.providers.endpoint import Connections, Endpoint
from guard.providers.failures import Failed
from spend.codes import FailureCode
from tenants.targets import read_allowed_targets
from tests.support.sink import http_sink

ADDRESS = "http://provider.example/v1/chat/completions"


async def answer_of(address: str, *, is_checked: bool = False) -> bytes:
    connections = Connections(is_checked=is_checked)
    endpoint = Endpoint(address, {"Authorization": "Bearer secret"}, connections)
    try:
        return (await endpoint.fetch(URL(address), b"{}", {"traceparent": "t"}, 5))[1]
    finally:
        await connections.close()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize("name", ["http_proxy", "ALL_PROXY"])
def test_requests_go_by_the_environments_proxy(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with http_sink() as proxy:  # it answers by itself, so that nothing leaves this machine
        monkeypatch.setenv(name, proxy.url.replace("http://", "http://ann:pass@"))
        assert asyncio.run(answer_of(ADDRESS)) == b"{}"
    (received,) = proxy.received
    assert received.path == ADDRESS
    assert received.headers["Authorization"] == "Bearer secret"
    assert received.headers["Proxy-Authorization"] == "Basic YW5uOnBhc3M="
    assert received.headers["traceparent"] == "t"


def test_what_no_proxy_names_is_reached_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    with http_sink() as provider:
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert asyncio.run(answer_of(f"{provider.url}/v1/chat/completions")) == b"{}"
    assert [received.path for received in provider.received] == ["/v1/chat/completions"]


@pytest.mark.parametrize("address", ["http://127.0.0.1:1/v1", "https://127.0.0.1:1/v1"])
def test_a_request_that_nobody_took_billed_nothing(address: str) -> None:
    with pytest.raises(Failed) as failed:
        asyncio.run(answer_of(address))
    assert (failed.value.code, failed.value.billed) == (FailureCode.CONNECTION_FAILED, False)


def test_a_proxy_that_refuses_to_connect_billed_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with http_sink() as proxy:
        proxy.status = 407
        monkeypatch.setenv("https_proxy", proxy.url)
        with pytest.raises(Failed) as failed:
            asyncio.run(answer_of(ADDRESS.replace("http:", "https:")))
    assert (failed.value.code, failed.value.billed) == (FailureCode.CONNECTION_FAILED, False)


@pytest.mark.parametrize("listed", ["127.0.0.1,::1", "localhost"])
def test_a_name_that_people_entered_leads_where_it_may(settings: Any, listed: str) -> None:
    """Looked up at each connection, since the form can't know where it will lead."""
    with http_sink() as provider:
        address = provider.url.replace("127.0.0.1", "localhost")
        settings.ALLOW_PRIVATE_TARGETS = read_allowed_targets("")
        with pytest.raises(Failed) as failed:
            asyncio.run(answer_of(address, is_checked=True))
        assert (failed.value.code, failed.value.billed) == (FailureCode.ADDRESS_NOT_ALLOWED, False)
        assert provider.received == []
        settings.ALLOW_PRIVATE_TARGETS = read_allowed_targets(listed)
        assert asyncio.run(answer_of(address, is_checked=True)) == b"{}"


def test_of_an_address_that_people_entered_no_proxy_looks_the_name_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with http_sink() as provider:
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        assert asyncio.run(answer_of(provider.url, is_checked=True)) == b"{}"
