"""Hashing passwords, which is meant to be slow, so that it slows nothing else down.

Whoever is hashed for, and by whatever form, it is one at a time in each process, in a thread that lets others go first.
"""

import os
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import ContextVar

from django.contrib.auth.hashers import PBKDF2PasswordHasher

MOST_AT_ONCE = 8
"""One is hashed, the others wait: some seconds at most."""
MOST_OF_ONE_CLIENT = 4
"""Whoever floods the forms from one address leaves places to others."""
NICER_BY = 10
RETRY_AFTER_S = 5


class HasherBusyError(Exception):
    """So many passwords wait to be hashed that one more is not taken."""


def _stand_back() -> None:
    """On Linux each thread has a niceness of its own; elsewhere it stays as it is."""
    thread_id = threading.get_native_id()
    with suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, thread_id, min(19, os.getpriority(os.PRIO_PROCESS, thread_id) + NICER_BY))


class Places:
    """Of passwords that are hashed or wait for it, by who sent them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.taken: Counter[str | None] = Counter()

    @contextmanager
    def one(self, client: str | None) -> Iterator[None]:
        """Raises HasherBusyError."""
        with self.lock:
            if self.taken.total() >= MOST_AT_ONCE or self.taken[client] >= MOST_OF_ONE_CLIENT:
                raise HasherBusyError
            self.taken[client] += 1
        try:
            yield
        finally:
            with self.lock:
                self.taken -= Counter([client])  # which forgets who has none


HASHING = ThreadPoolExecutor(1, "passwords", initializer=_stand_back)
PLACES = Places()
CLIENT: ContextVar[str | None] = ContextVar("client", default=None)
"""Whose request this is, as `counted_address` says."""


class BoundedHasher(PBKDF2PasswordHasher):
    """Django's own, hash for hash. Raises HasherBusyError."""

    def encode(self, password: str, salt: str, iterations: int | None = None) -> str:
        with PLACES.one(CLIENT.get()):
            return HASHING.submit(super().encode, password, salt, iterations).result()
