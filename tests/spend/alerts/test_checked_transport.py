"""What is sent to an address from the admin: looked up, checked, connected to as checked. Nothing leaves loopback."""

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from django.core.exceptions import ValidationError

from spend.alerts.channels import UndeliveredError, post
from spend.alerts.checked_transport import CheckedTransport
from tenants.models import AlertChannel, ChannelKind
from tenants.targets import Address, AllowedTargets, TargetError, may_reach, read_allowed_targets
from tests.support.sink import Sink, http_sink


@pytest.fixture
def sink() -> Iterator[Sink]:
    with http_sink() as sink:
        yield sink


def allow(settings: Any, text: str) -> None:
    settings.ALLOW_PRIVATE_TARGETS = read_allowed_targets(text)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001"])
def test_nothing_is_sent_into_the_own_network_however_it_is_written(sink: Sink, settings: Any, host: str) -> None:
    allow(settings, "")
    with pytest.raises(UndeliveredError, match="is loopback: nothing is sent there unless ALLOW_PRIVATE_TARGETS"):
        post(sink.url.replace("127.0.0.1", host), b"{}", {})
    assert sink.received == []


@pytest.mark.parametrize("listed", ["127.0.0.0/8", "127.0.0.1", "localhost"])
def test_what_is_listed_is_sent_to_under_its_own_name(sink: Sink, settings: Any, listed: str) -> None:
    allow(settings, listed)
    url = sink.url.replace("127.0.0.1", "localhost")
    post(url, b"{}", {})
    assert sink.received[0].headers["Host"] == url.removeprefix("http://")


def test_a_proxy_of_the_environment_is_not_asked(sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    post(sink.url, b"{}", {})
    assert len(sink.received) == 1


async def test_a_name_is_looked_up_once_and_that_is_connected_to(sink: Sink) -> None:
    """A name server may say another address the second time, as one does that wants to get past a check."""
    asked: list[str] = []

    async def rebinding(host: str, port: int) -> list[Address]:
        asked.append(host)
        return [ip_address("127.0.0.1" if len(asked) == 1 else "10.0.0.1")]

    url = sink.url.replace("127.0.0.1", "rebinding.example")
    async with httpx2.AsyncClient(transport=CheckedTransport(rebinding)) as client:
        assert (await client.post(url)).status_code == 200
        with pytest.raises(TargetError, match=r"leads to 10\.0\.0\.1, which is private"):
            await client.post(url)
    assert asked == ["rebinding.example"] * 2
    assert [received.headers["Host"] for received in sink.received] == [url.removeprefix("http://")]


async def test_an_address_that_takes_no_connection_leaves_the_next_to_be_tried(sink: Sink, settings: Any) -> None:
    async def two(host: str, port: int) -> list[Address]:
        return [ip_address("127.0.0.9"), ip_address("127.0.0.1")]

    allow(settings, "127.0.0.0/8")
    async with httpx2.AsyncClient(transport=CheckedTransport(two)) as client:
        assert (await client.post(sink.url)).status_code == 200
    assert len(sink.received) == 1


@pytest.fixture
def certified(sink: Sink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sink:
    """The sink over TLS, with a certificate for hooks.example, which is trusted."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hooks")])
    now, names = datetime.now(UTC), x509.SubjectAlternativeName([x509.DNSName("hooks.example")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(1), now + timedelta(1))
    whole = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (both := tmp_path / "both.pem").write_bytes(whole.public_bytes(Encoding.PEM) + secret)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(both)
    sink.server.socket = context.wrap_socket(sink.server.socket, server_side=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(both))
    return sink


async def test_a_certificate_must_be_for_the_name_though_its_address_is_connected_to(certified: Sink) -> None:
    async def loopback(host: str, port: int) -> list[Address]:
        return [ip_address("127.0.0.1")]

    url = certified.url.replace("http://127.0.0.1", "https://{}")
    async with httpx2.AsyncClient(transport=CheckedTransport(loopback)) as client:
        assert (await client.post(url.format("hooks.example"))).status_code == 200
        with pytest.raises(httpx2.ConnectError, match="not valid for"):
            await client.post(url.format("other.example"))


def test_only_addresses_that_are_allowed_are_tried() -> None:
    nothing = AllowedTargets()
    public, private = ip_address("8.8.8.8"), ip_address("10.0.0.1")
    assert may_reach("x.example", [private, public], nothing) == [public]
    with pytest.raises(TargetError, match=r"x\.example leads to 10\.0\.0\.1, which is private"):
        may_reach("x.example", [private], nothing)
    listed = AllowedTargets(hosts=frozenset({"x.example"}))
    assert may_reach("x.example", [private, public], listed) == [private, public]


@pytest.mark.parametrize(
    ("target", "is_fit"),
    [
        ("https://hooks.example.com/x", True), ("http://127.0.0.1:8080/x", True), ("http://10.0.0.1/", False),
        ("https://[fd00::1]/x", False), ("http://localhost:9/x", True), ("https://169.254.169.254/latest", False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", [ChannelKind.SLACK, ChannelKind.WEBHOOK])
def test_the_form_refuses_an_address_that_is_known_to_lead_inside(kind: str, target: str, is_fit: bool) -> None:
    channel = AlertChannel(kind=kind, target=target)
    if is_fit:
        channel.clean()
        return
    with pytest.raises(ValidationError, match="unless ALLOW_PRIVATE_TARGETS lists it"):
        channel.clean()
    channel.is_active = False  # it can still be turned off
    channel.clean()
