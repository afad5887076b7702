"""How requests leave: by the environment's proxy where it names one, and how they end when nobody is there."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from guard.providers.endpoint import Endpoint, failures_told
from guard.providers.failures import Failed
from spend.codes import FailureCode

ADDRESS = "http://provider.example/v1/chat/completions"
HEADS = list[tuple[str, dict[str, str]]]


@contextmanager
def proxy(status: int = 200) -> Iterator[tuple[int, HEADS]]:
    """A proxy's port, and what was asked of it. It answers by itself, so that nothing leaves this machine."""
    heads: HEADS = []

    class Proxy(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heads.append((self.path, dict(self.headers)))
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        do_CONNECT = do_POST  # noqa: N815

        def log_message(self, *_args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Proxy) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server.server_port, heads
        finally:
            server.shutdown()


async def answer_of(address: str) -> bytes:
    endpoint = Endpoint(address, "secret")
    try:
        with failures_told():
            async with await endpoint.post(b"{}", {"traceparent": "t"}, 5) as response:
                return await response.read()
    finally:
        await endpoint.close()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize("name", ["http_proxy", "ALL_PROXY"])
def test_requests_go_by_the_environments_proxy(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with proxy() as (port, heads):
        monkeypatch.setenv(name, f"http://ann:pass@127.0.0.1:{port}")
        assert asyncio.run(answer_of(ADDRESS)) == b"{}"
    ((path, headers),) = heads
    assert path == ADDRESS
    assert headers["Authorization"] == "Bearer secret"
    assert headers["Proxy-Authorization"] == "Basic YW5uOnBhc3M="
    assert headers["traceparent"] == "t"


def test_what_no_proxy_names_is_reached_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    with proxy() as (port, heads):
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert asyncio.run(answer_of(f"http://127.0.0.1:{port}/v1/chat/completions")) == b"{}"
    assert [path for path, _ in heads] == ["/v1/chat/completions"]


@pytest.mark.parametrize("address", ["http://127.0.0.1:1/v1", "https://127.0.0.1:1/v1"])
def test_a_request_that_nobody_took_billed_nothing(address: str) -> None:
    with pytest.raises(Failed) as failed:
        asyncio.run(answer_of(address))
    assert (failed.value.code, failed.value.billed) == (FailureCode.CONNECTION_FAILED, False)


def test_a_proxy_that_refuses_to_connect_billed_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with proxy(status=407) as (port, _heads):
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{port}")
        with pytest.raises(Failed) as failed:
            asyncio.run(answer_of(ADDRESS.replace("http:", "https:")))
    assert (failed.value.code, failed.value.billed) == (FailureCode.CONNECTION_FAILED, False)
