"""Hashing passwords, which is meant to be slow, so that it slows nothing else down.

Whoever is hashed for, and by whatever form, it is one at a time in each process, in a thread that lets others go first.
"""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from django.contrib.auth.hashers import PBKDF2PasswordHasher

MOST_AT_ONCE = 8
"""One is hashed, the others wait: some seconds at most."""
NICER_BY = 10
RETRY_AFTER_S = 5


class HasherBusyError(Exception):
    """So many passwords wait to be hashed that one more is not taken."""


def _stand_back() -> None:
    """On Linux each thread has a niceness of its own; elsewhere it stays as it is."""
    thread_id = threading.get_native_id()
    with suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, thread_id, min(19, os.getpriority(os.PRIO_PROCESS, thread_id) + NICER_BY))


HASHING = ThreadPoolExecutor(1, "passwords", initializer=_stand_back)
PLACES = threading.BoundedSemaphore(MOST_AT_ONCE)


class BoundedHasher(PBKDF2PasswordHasher):
    """Django's own, hash for hash. Raises HasherBusyError."""

    def encode(self, password: str, salt: str, iterations: int | None = None) -> str:
        if not PLACES.acquire(blocking=False):
            raise HasherBusyError
        try:
            return HASHING.submit(super().encode, password, salt, iterations).result()
        finally:
            PLACES.release()
