"""What comes over the wire is bounded in size, in number and in time, on every path."""

import socket
from collections.abc import Callable

import pytest
import requests

from guard.http.connection import MOST_HEAD_BYTES
from guard.http.errors import InvalidRequest
from guard.http.request_body import MOST_OTHER_BYTES
from guard.http.strict_json import MOST_CONTAINERS, MOST_PIECES, parse_json
from tests.support.server import GuardServer

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def server(module_server: Callable[..., GuardServer]) -> GuardServer:
    server: GuardServer = module_server(BODY_SECONDS="0.5")
    return server


def said(server: GuardServer, *pieces: bytes) -> bytes:
    """The answer to raw bytes, until the server closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        for piece in pieces:
            connection.sendall(piece)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_a_body_of_a_million_objects_is_refused_by_its_bytes() -> None:
    many = b"[" + b"{}," * 1_000_000 + b"{}]"
    for body, field in [
        (b'{"model": "auto", "messages": ' + many + b"}", "messages"),
        (b'{"messages": [{"role": "user"}], "tools" : ' + many + b"}", "tools"),
        (b'{"stop": [' + b'"",' * MOST_PIECES + b'""]}', "stop"),
        (many, "body"),
    ]:
        with pytest.raises(InvalidRequest, match="is too much") as refused:
            parse_json(body, exact=False)
        assert refused.value.param == field


def test_brackets_and_commas_in_a_text_are_text() -> None:
    text = "[{}, " * MOST_CONTAINERS * 2
    assert parse_json(b'{"content": "%b \\" [", "n": 1}' % text.encode())["content"] == f'{text} " ['


def test_every_path_has_a_limit_and_says_413(server: GuardServer) -> None:
    body = b"x" * (MOST_OTHER_BYTES + 1)
    for path in ("/login/", "/admin/login/", "/api/tenants", "/nowhere/", "/"):
        told = server.client.post(path, data=body)
        in_chunks = server.client.post(path, data=iter([body]))
        for answer in (told, in_chunks):
            assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large"), path
    assert server.client.post("/login/", data={"username": "x"}).status_code == 403


@pytest.mark.parametrize("path", [b"/api/chat", b"/login/"])
def test_a_body_that_drips_ends(server: GuardServer, path: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n" % path)
        connection.settimeout(0.05)
        answer = b""
        while not answer:
            connection.sendall(b"x")
            try:
                answer = connection.recv(65536)
            except TimeoutError:
                continue
    assert answer.startswith(b"HTTP/1.1 408 ")  # the rest of it may be lost to what drips still


@pytest.mark.parametrize(
    "pieces",
    [
        [b"GET /", b"x" * MOST_HEAD_BYTES * 16],
        [b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Odd: ", b"x" * MOST_HEAD_BYTES * 16],
        [b"GET / HTTP/1.1\r\nHost: localhost\r\n", b"X-Odd: x\r\n" * 10_000, b"\r\n"],
        [b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"x" * MOST_HEAD_BYTES * 16],
    ],
    ids=["request line", "header", "headers", "chunk"],
)
def test_what_comes_before_a_body_is_bounded(server: GuardServer, pieces: list[bytes]) -> None:
    try:
        answer = said(server, *pieces)
    except (BrokenPipeError, ConnectionResetError):  # closed while the rest was on its way
        answer = b"HTTP/1.1 431 "
    assert answer.startswith((b"HTTP/1.1 431 ", b"HTTP/1.1 400 "))
    assert server.client.get("/api/health").ok


def test_what_is_no_http_is_told_in_the_envelope(server: GuardServer) -> None:
    answer = said(server, b"nonsense\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"code":"invalid_request"' in answer


def test_requests_share_a_connection(server: GuardServer) -> None:
    with requests.Session() as session:
        for _ in range(3):
            assert session.get(f"{server.url}/api/health", timeout=20).ok
