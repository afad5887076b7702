"""Whatever a client sends, the running guard answers in the envelope, and never with a defect of ours."""

import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

from guard.http.strict_json import MOST_DEPTH
from spend.models import Call, LedgerEntry, Reservation
from tests.factories import ApiKeyFactory, RouteStepFactory
from tests.support.provider import Provider
from tests.support.server import GuardServer

MOST_BYTES = 100_000
HELLO = [{"role": "user", "content": "Hello"}]


class Target:
    """A running guard, and a tenant's key for it."""

    def __init__(self, server: GuardServer) -> None:
        self.server = server
        with server.database():
            self.key = ApiKeyFactory.create()
            self.model = RouteStepFactory.create(tenant=self.key.tenant).model
        self.client = server.client_of(self.key.secret)

    def body(self, path: str, **fields: Any) -> dict[str, Any]:
        shape = {"tenantId": self.key.tenant.id} if path == "/api/chat" else {"model": "auto"}
        return {**shape, "messages": HELLO, **fields}

    def post(self, path: str, body: bytes, **headers: str) -> requests.Response:
        return self.client.post(path, data=body, headers={"Content-Type": "application/json", **headers})

    def exchange(self, head: bytes, body: bytes = b"") -> tuple[int, dict[str, Any]]:
        """What no client library would send: the status and the JSON of the answer."""
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=10) as connection:
            connection.sendall(head + body)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        top, _, content = answer.partition(b"\r\n\r\n")
        return int(top.split()[1]), json.loads(content) if content.startswith(b"{") else {}


@pytest.fixture(params=["/api/chat", "/v1/chat/completions"])
def path(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def server(module_server: Callable[..., GuardServer]) -> GuardServer:
    server: GuardServer = module_server(MAX_BODY_BYTES=str(MOST_BYTES))
    return server


@pytest.fixture
def target(server: GuardServer, provider: Provider) -> Iterator[Target]:
    yield Target(server)
    assert "Traceback" not in server.log


def error_of(answer: requests.Response) -> dict[str, Any]:
    """The envelope's content, checked."""
    error: dict[str, Any] = answer.json()["error"]
    request_id = error["request_id" if answer.url.split("/")[3] == "v1" else "requestId"]
    assert request_id == answer.headers["X-Request-Id"]
    assert {"message", "type", "code", "param"} <= error.keys()
    return error


def deep(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


BAD_BODIES: dict[str, bytes] = {
    "empty": b"",
    "no JSON": b"{messages: []}",
    "no object": b"[]",
    "not UTF-8": b'{"messages": [{"role": "user", "content": "\xff\xfe"}]}',
    "UTF-16": '{"messages": []}'.encode("utf-16"),
    "byte order mark": b'\xef\xbb\xbf{"messages": []}',
    "NaN": b'{"messages": [], "temperature": NaN}',
    "infinity": b'{"messages": [], "temperature": 1e999}',
    "half a surrogate pair": b'{"messages": [{"role": "user", "content": "\\ud83d"}]}',
    "raw control character": b'{"messages": [{"role": "user", "content": "\x01"}]}',
    "name twice": b'{"messages": [], "messages": []}',
    "name twice inside": b'{"messages": [{"role": "user", "role": "user", "content": ""}]}',
    "huge integer": b'{"messages": [], "maxTokens": ' + b"9" * 400 + b"}",
    "endless integer": b'{"messages": [], "maxTokens": ' + b"9" * 5000 + b"}",
    "65 bits": b'{"messages": [{"role": "user", "content": "", "parsed": 18446744073709551616}]}',
    "deep": b'{"messages": ' + deep(MOST_DEPTH + 1) + b"}",
    "too deep for any parser": deep(40_000),
}


def test_a_body_that_is_not_strict_json_is_400(target: Target, provider: Provider, path: str) -> None:
    for what, body in BAD_BODIES.items():
        answer = target.post(path, body)
        assert answer.status_code == 400, (what, answer.text)
        assert error_of(answer)["code"] == "invalid_request", what
    assert provider.calls() == []
    with target.server.database():
        assert not Reservation.objects.filter(tenant_id=target.key.tenant_id).exists()
        assert not Call.objects.filter(tenant_id=target.key.tenant_id).exists()


def test_fields_past_their_limits_are_400_and_named(target: Target, provider: Provider, path: str) -> None:
    customer, conversation = ("customerId", "conversationId") if path == "/api/chat" else ("user", "metadata")
    for name, value, param in [
        (customer, "a\0b", customer),
        (customer, "a\x7f", customer),
        (customer, "c" * 256, customer),
        (conversation, {"conversation_id": "a\nb"} if conversation == "metadata" else "a\nb", conversation),
        ("model", "m" * 90_000, "model"),
        ("messages", HELLO * 2049, "messages"),
        ("x" * 5000, 1, "x" * 128 + "…"),
    ]:
        answer = target.post(path, json.dumps(target.body(path, **{name: value})).encode())
        assert answer.status_code == 400, answer.text
        assert error_of(answer)["param"].split(".")[0] == param
    assert provider.calls() == []


def test_a_body_over_the_limit_is_413_however_it_comes(target: Target, path: str) -> None:
    fits = json.dumps(target.body(path)).encode().ljust(MOST_BYTES)
    assert target.post(path, fits).status_code == 200
    for body in (fits + b" ", iter([fits, b" " * 10])):  # the second in chunks, without a length
        answer = target.client.post(path, data=body, headers={"Content-Type": "application/json"})
        assert (answer.status_code, error_of(answer)["code"]) == (413, "request_too_large")


def test_text_is_passed_on_as_it_is(target: Target, provider: Provider, path: str) -> None:
    """NUL and other odd characters are fine in what the model reads; only the ledger's own fields refuse them."""
    odd = "\0 \x1b \u2028 \U0001f600 \ufffe e\u0301 " + "ü" * 1000
    messages = [{"role": "user", "content": odd}]
    body = target.body(
        path, messages=messages, **({"customerId": "Zoë 🙂"} if path == "/api/chat" else {"user": "Zoë 🙂"})
    )
    assert target.post(path, json.dumps(body).encode()).status_code == 200
    assert target.post(path, json.dumps(body, ensure_ascii=False).encode()).status_code == 200
    assert [call["body"]["messages"] for call in provider.calls()] == [messages, messages]
    with target.server.database():
        entries = LedgerEntry.objects.filter(tenant_id=target.key.tenant_id)
        assert set(entries.values_list("customer", flat=True)) == {"Zoë 🙂"}


def test_the_same_words_for_other_mistakes(target: Target, path: str) -> None:
    body = json.dumps(target.body(path)).encode()
    wrong_type = target.client.post(path, data=body, headers={"Content-Type": "text/plain"})
    wrong_method = target.client.get(path)
    no_key = target.server.client.post(path, data=body)
    answers = [(wrong_type, 415), (wrong_method, 405), (no_key, 401)]
    for answer, status in answers:
        assert answer.status_code == status
        assert error_of(answer)["code"] in ("unsupported_media_type", "method_not_allowed", "invalid_api_key")
    assert target.client.post(path, json=target.body(path)).status_code == 200


ODD_HEADERS = [
    b"Idempotency-Key: \x01\x02", b"Idempotency-Key: \xff\xfe", b"Idempotency-Key: " + b"k" * 256,
    b"Idempotency-Key:", b"X-Request-Id: \xff\xfe", b"X-Request-Id: " + b"x" * 5000, b"X-Request-Id: a b\tc",
    b"Content-Type: \xff", b"Content-Type: ;;=", b"Authorization: Bearer \xff\xfe", b"Authorization: Bearer",
    b"Authorization: Basic YTpi", b"Content-Encoding: gzip", b"Accept: nothing/known", b"X-Odd: \x00",
    b"Transfer-Encoding: odd",
]  # fmt: skip


def test_odd_headers_are_no_defect(target: Target, path: str) -> None:
    body = json.dumps(target.body(path)).encode()
    given = {
        b"Host": b"localhost",
        b"Connection": b"close",
        b"Content-Length": b"%d" % len(body),
        b"Authorization": b"Bearer %b" % target.key.secret.encode(),
        b"Content-Type": b"application/json",
    }
    for header in ODD_HEADERS:
        others = [b"%b: %b" % (name, value) for name, value in given.items() if not header.startswith(name + b":")]
        head = b"\r\n".join([b"POST %b HTTP/1.1" % path.encode(), *others, header]) + b"\r\n\r\n"
        status, answer = target.exchange(head, body)
        assert status == 200 or 400 <= status < 500, (header, status, answer)
