"""Whose word counts for where a client is, and what the guard takes its own address to be."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import requests
from django.contrib.auth.models import User
from django.test import Client

from guard.config.environment import networks, public_url
from guard.http.proxies import Proxies
from tests.factories import PASSWORD, UserFactory
from tests.support.server import GuardServer, manage

pytestmark = pytest.mark.once

PROXIES = Proxies(networks("10.0.0.0/8, fd00::/8, 192.0.2.7"))
CLIENT = "203.0.113.5"


def seen(
    peer: str | None, *headers: tuple[str, str], scheme: str = "http", proxies: Proxies = PROXIES
) -> tuple[Any, str]:
    """Client and scheme of a request that `peer` sent."""
    raw = [(name.lower().encode(), value.encode()) for name, value in headers]
    scope = {"type": "http", "client": peer and (peer, 4711), "scheme": scheme, "headers": raw}
    through = proxies.seen_through(scope)
    return through["client"] and through["client"][0], through["scheme"]


def forwarded_for(peer: str, *addresses: str) -> Any:
    return seen(peer, *(("X-Forwarded-For", each) for each in addresses))[0]


@pytest.mark.parametrize("peer", ["::1", "127.0.0.1", "::ffff:127.0.0.1"])
def test_without_the_setting_this_machine_says_how_it_was_reached_and_not_by_whom(peer: str) -> None:
    told = [("X-Forwarded-For", CLIENT), ("X-Forwarded-Proto", "https")]
    assert seen(peer, *told, proxies=Proxies(())) == (peer, "https")
    assert seen(CLIENT, *told, proxies=Proxies(())) == (CLIENT, "http")


@pytest.mark.parametrize("peer", [CLIENT, "192.0.2.8", "2001:db8::1", "::1", "127.0.0.1"])
def test_a_client_cannot_choose_its_address_or_scheme(peer: str) -> None:
    told = [("X-Forwarded-For", "198.51.100.1"), ("X-Forwarded-Proto", "https"), ("Forwarded", "for=198.51.100.1")]
    assert seen(peer, *told) == (peer, "http")


@pytest.mark.parametrize("peer", ["10.1.2.3", "192.0.2.7", "fd12::1", "::ffff:10.1.2.3"])
def test_a_proxy_of_ours_tells_both(peer: str) -> None:
    assert seen(peer, ("X-Forwarded-For", CLIENT), ("X-Forwarded-Proto", "https")) == (CLIENT, "https")
    assert seen(peer, ("X-Forwarded-Proto", "http"), scheme="https")[1] == "http"


@pytest.mark.parametrize(
    ("addresses", "client"),
    [
        ([f"198.51.100.1, {CLIENT}"], CLIENT),
        (["198.51.100.1", CLIENT], CLIENT),
        ([f"198.51.100.1, {CLIENT}, 10.9.9.9, 10.8.8.8"], CLIENT),
        ([CLIENT, "10.9.9.9"], CLIENT),
        ([f"10.0.0.9, {CLIENT}"], CLIENT),
        ([f"{CLIENT}:51234"], CLIENT),
        (["[2001:db8::5]:51234"], "2001:db8::5"),
        (["2001:db8::5"], "2001:db8::5"),
        ([f"::ffff:{CLIENT}"], CLIENT),
        (["10.4.4.4"], "10.4.4.4"),
        ([f"{CLIENT}, unknown"], "10.1.2.3"),
        ([f"{CLIENT}, <script>, 10.9.9.9"], "10.9.9.9"),
        ([""], "10.1.2.3"),
        ([","], "10.1.2.3"),
        ([], "10.1.2.3"),
    ],
)
def test_the_client_is_the_right_most_that_is_no_proxy_of_ours(addresses: list[str], client: str) -> None:
    assert forwarded_for("10.1.2.3", *addresses) == client


@pytest.mark.parametrize(
    ("told", "scheme"), [("HTTPS", "https"), ("https, http", "http"), ("gopher", "http"), ("", "http")]
)
def test_the_scheme_is_the_nearest_proxys_word(told: str, scheme: str) -> None:
    assert seen("10.1.2.3", ("X-Forwarded-Proto", told))[1] == scheme


def test_who_comes_by_a_socket_has_no_address() -> None:
    assert seen(None, ("X-Forwarded-For", CLIENT)) == (None, "http")


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("", ""),
        ("https://Guard.example/", "https://guard.example"),
        ("https://guard.example:443", "https://guard.example"),
        ("http://guard.lan:8000", "http://guard.lan:8000"),
        ("http://[fd00::1]:8000", "http://[fd00::1]:8000"),
    ],
)
def test_a_public_url_is_written_as_browsers_write_origins(text: str, url: str) -> None:
    assert public_url(text) == url


# Forms and cookies


@pytest.fixture(scope="module")
def behind_https(module_server: Callable[..., GuardServer]) -> GuardServer:
    """Behind a proxy on this machine that takes HTTPS on a port, and names the host without it."""
    server: GuardServer = module_server(PUBLIC_URL="https://guard.example:8443")
    return server


@pytest.fixture(scope="module")
def on_plain_http(module_server: Callable[..., GuardServer]) -> GuardServer:
    """On a private network; whatever this machine sends is no proxy's word."""
    server: GuardServer = module_server(PUBLIC_URL="http://guard.lan:8000", TRUSTED_PROXIES="10.0.0.0/8")
    return server


def sign_in(server: GuardServer, host: str, origin: str, **headers: str) -> tuple[requests.Response, requests.Response]:
    """The login page as a browser gets it, and the answer to its form; cookies are sent whatever they are for."""
    page = server.client.get("/login/", headers={"Host": host, **headers})
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text)
    assert token, page.text
    form = {"username": "nobody", "password": "x", "csrfmiddlewaretoken": token[1]}
    cookies = "; ".join(f"{name}={value}" for name, value in page.cookies.items())
    sent = {"Host": host, "Origin": origin, "Cookie": cookies, **headers}
    return page, server.client.post("/login/", data=form, headers=sent)


def test_behind_https_on_a_port_forms_are_taken_and_cookies_are_secure(behind_https: GuardServer) -> None:
    page, answer = sign_in(
        behind_https, "guard.example", "https://guard.example:8443", **{"X-Forwarded-Proto": "https"}
    )
    assert "Secure" in page.headers["Set-Cookie"]
    assert page.headers["Strict-Transport-Security"] == "max-age=3600"
    assert (answer.status_code, "Please enter a correct" in answer.text) == (200, True)


def test_on_plain_http_forms_are_taken_and_cookies_are_not_secure(on_plain_http: GuardServer) -> None:
    page, answer = sign_in(on_plain_http, "guard.lan:8000", "http://guard.lan:8000", **{"X-Forwarded-Proto": "https"})
    assert "Secure" not in page.headers["Set-Cookie"]
    assert "Strict-Transport-Security" not in page.headers, "not a proxy of ours"
    assert (answer.status_code, "Please enter a correct" in answer.text) == (200, True)


def test_a_form_from_elsewhere_is_refused(on_plain_http: GuardServer) -> None:
    answer = sign_in(on_plain_http, "guard.lan:8000", "https://evil.example")[1]
    assert answer.status_code == 403
    assert "PUBLIC_URL=https://evil.example" in answer.text


def refused(secure: bool = False, **headers: str) -> str:
    answer = Client(enforce_csrf_checks=True).post("/login/", {"username": "x"}, headers=headers, secure=secure)
    assert answer.status_code == 403
    assert answer["Content-Type"] == "text/html; charset=utf-8"
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", answer.content.decode()))


def test_a_refused_form_names_the_setting_to_change(caplog: pytest.LogCaptureFixture) -> None:
    on_a_port = refused(origin="https://guard.example:8443")
    assert "at https://guard.example:8443, but the guard takes its address to be http://testserver" in on_a_port
    assert "set PUBLIC_URL=https://guard.example:8443" in on_a_port
    assert "TRUSTED_PROXIES" in on_a_port
    by_http = refused()
    assert "set PUBLIC_URL=http://testserver" in by_http
    assert "load the page again" in refused(secure=True, referer="https://testserver/login/")
    assert "a form was refused: CSRF cookie not set." in caplog.text


@pytest.mark.parametrize("origin", ["null", "https://a<b>", "javascript:x", "https://" + "a" * 300])
def test_what_is_no_origin_is_not_shown(origin: str) -> None:
    assert origin not in refused(origin=origin)


@pytest.mark.django_db
def test_a_page_of_another_site_cannot_sign_somebody_in() -> None:
    UserFactory.create(username="olga")
    form = {"username": "olga", "password": PASSWORD}
    assert Client(enforce_csrf_checks=True).post("/login/", form).status_code == 403
    assert User.objects.get().last_login is None


def test_the_public_urls_host_is_served() -> None:
    code = "from django.conf import settings; print(settings.ALLOWED_HOSTS[-1])"
    said = manage("shell", "-v", "0", "-c", code, environment={"PUBLIC_URL": "https://[fd00::1]:8443"})
    assert said.stdout.strip() == "[fd00::1]", said.stderr
