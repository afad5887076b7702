"""Signing in can neither be guessed nor used to stop the server, and a lock-out meets who was meant."""

import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from axes.models import AccessAttempt
from django.contrib.auth.hashers import PBKDF2PasswordHasher
from django.test import Client

from tenants.sign_in.hashing import (
    CLIENT,
    HASHING,
    MOST_AT_ONCE,
    MOST_OF_ONE_CLIENT,
    NICER_BY,
    PLACES,
    BoundedHasher,
    HasherBusyError,
)
from tests.factories import PASSWORD, UserFactory
from tests.support.agents import Agent, eventually, upstream
from tests.support.provider import Provider
from tests.support.server import Client as ServerClient
from tests.support.server import GuardServer

# Hashing


def hashed(iterations: int = 1, client: str | None = None) -> str:
    CLIENT.set(client)
    return BoundedHasher().encode("password", "salt", iterations)


@contextmanager
def waiting(*clients: str) -> Iterator[None]:
    """A password of each waits to be hashed, until the block ends."""
    go_on = threading.Event()
    HASHING.submit(go_on.wait)
    with ThreadPoolExecutor(len(clients)) as threads:
        hashing = [threads.submit(hashed, client=client) for client in clients]
        try:
            eventually(lambda: HASHING._work_queue.qsize() == len(clients))
            yield
        finally:
            go_on.set()
        assert {each.result() for each in hashing} == {hashed()}


EVERYBODY = [f"203.0.113.{number}" for number in range(MOST_AT_ONCE)]


def test_hashes_are_djangos_own() -> None:
    assert hashed(3) == PBKDF2PasswordHasher().encode("password", "salt", 3)
    assert BoundedHasher().verify("password", PBKDF2PasswordHasher().encode("password", "salt", 3))


def test_one_too_many_is_refused_at_once_and_the_others_are_hashed() -> None:
    with waiting(*EVERYBODY), pytest.raises(HasherBusyError):
        hashed(client="203.0.113.99")
    assert hashed(client="203.0.113.99")


def test_one_client_leaves_places_to_others() -> None:
    with waiting(*["203.0.113.1"] * MOST_OF_ONE_CLIENT):
        with pytest.raises(HasherBusyError):
            hashed(client="203.0.113.1")
        with PLACES.one("203.0.113.2"):
            pass
    assert not PLACES.taken


def test_one_is_hashed_at_a_time_in_a_thread_that_lets_others_go_first() -> None:
    def niceness() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    assert HASHING.submit(niceness).result() == min(19, niceness() + NICER_BY)
    assert HASHING._max_workers == 1


@pytest.mark.django_db
@pytest.mark.parametrize("path", ["/login/", "/admin/login/"])
def test_who_is_not_looked_at_is_told_so_and_has_not_tried(settings: Any, path: str) -> None:
    settings.PASSWORD_HASHERS = ["tenants.sign_in.hashing.BoundedHasher"]
    with waiting(*["127.0.0.1"] * MOST_OF_ONE_CLIENT):
        answer = Client().post(path, {"username": "nobody", "password": "guess"})
    assert (answer.status_code, answer["Retry-After"]) == (429, "5")
    assert "does not count as a wrong try" in answer.content.decode()
    assert not AccessAttempt.objects.exists()


class Browser:
    """Signs in at a server as `username`; `headers` go with it."""

    def __init__(self, client: ServerClient, username: str = "nobody", **headers: str) -> None:
        page = client.get("/login/")
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text)
        assert token
        self.client, self.username, self.token = client, username, token[1]
        # Sent by hand: a client of ours keeps no cookie that is for HTTPS only.
        self.headers = {"Cookie": f"csrftoken={page.cookies['csrftoken']}", **headers}

    def sign_in(self, password: str = "guess") -> int:
        form = {"username": self.username, "password": password, "csrfmiddlewaretoken": self.token}
        answer = self.client.post("/login/", data=form, headers=self.headers, allow_redirects=False)
        return answer.status_code


@pytest.mark.once
def test_calls_are_served_while_sign_ins_flood_the_server(shared_server: GuardServer, provider: Provider) -> None:
    server, agent = shared_server, Agent.hire(shared_server)
    provider.behave(upstream(agent.model))
    statuses: Counter[int] = Counter()
    is_over = threading.Event()

    def flood(number: int) -> None:
        browser = Browser(server.client_of(None), f"name-{number}")
        while not is_over.is_set():
            statuses[browser.sign_in()] += 1

    with ThreadPoolExecutor(2 * MOST_AT_ONCE) as threads:
        flooding = [threads.submit(flood, number) for number in range(2 * MOST_AT_ONCE)]
        try:
            eventually(lambda: statuses[429] > MOST_AT_ONCE)
            assert [agent.chat().status_code for _ in range(20)] == [200] * 20
            eventually(lambda: statuses[200] > 0)
        finally:
            is_over.set()
    for each in flooding:
        each.result()
    assert statuses.keys() == {200, 429}
    assert "Traceback" not in server.log


# Addresses


def tries(address: str, password: str = "guess", **headers: str) -> int:
    form = {"username": "olga", "password": password}
    return Client(REMOTE_ADDR=address).post("/login/", form, headers=headers).status_code


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("guesser", "others"),
    [
        (["203.0.113.5"] * 5, ["203.0.113.6", "2001:db8::1"]),
        (["203.0.113.5", "::ffff:203.0.113.5"] * 3, ["203.0.113.6", "::ffff:203.0.113.6"]),
        ([f"2001:db8:1:2:{number}::{number}" for number in range(1, 6)], ["2001:db8:1:3::1", "2001:db8::1"]),
    ],
)
def test_a_guesser_is_locked_out_and_nobody_else(guesser: list[str], others: list[str]) -> None:
    UserFactory.create(username="olga")
    for address in guesser:
        tries(address)
    assert tries(guesser[0], PASSWORD) == 429
    assert [tries(address, PASSWORD) for address in others] == [302] * len(others)


@pytest.mark.django_db
def test_tries_while_locked_out_neither_lengthen_it_nor_fill_the_database() -> None:
    for _ in range(5):
        tries("203.0.113.5")
    before = AccessAttempt.objects.values().get()
    assert [tries("203.0.113.5") for _ in range(3)] == [429] * 3
    assert AccessAttempt.objects.values().get() == before


@pytest.mark.once
def test_behind_a_proxy_the_real_client_is_locked_out(guard_server: Callable[..., GuardServer]) -> None:
    server = guard_server()

    def statuses(client: str, times: int) -> list[int]:
        """Each with another address that the client made up, before that which the proxy added."""
        made_up = [f"198.51.100.{number}, {client}" for number in range(times)]
        return [Browser(server.client_of(None), **{"X-Forwarded-For": each}).sign_in() for each in made_up]

    assert statuses("203.0.113.5", 6) == [200] * 4 + [429] * 2
    assert statuses("203.0.113.6", 1) == [200]
    with server.database():
        assert set(AccessAttempt.objects.values_list("ip_address", flat=True)) == {"203.0.113.5", "203.0.113.6"}


@pytest.mark.once
def test_a_client_escapes_no_lock_out_by_a_header(guard_server: Callable[..., GuardServer]) -> None:
    """As it comes: no proxy is named, and this machine is not believed, either."""
    server = guard_server(TRUSTED_PROXIES="")
    browsers = [Browser(server.client_of(None), **{"X-Forwarded-For": f"198.51.100.{each}"}) for each in range(7)]
    assert [browser.sign_in() for browser in browsers] == [200] * 4 + [429] * 3
    with server.database():
        assert set(AccessAttempt.objects.values_list("ip_address", flat=True)) == {"127.0.0.1"}
