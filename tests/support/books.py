"""Many at once on one database, and whether the books balance after it."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from django.db import connections

from spend.ledger.audit import audit

Result = TypeVar("Result")

WAIT_S = 60


def at_once(works: Sequence[Callable[[], Result]]) -> list[Result]:
    """Run each in a thread, and so on a connection, of its own; all begin together. Raises what one raises."""
    barrier = threading.Barrier(len(works))

    def run(work: Callable[[], Result]) -> Result:
        try:
            connections["default"].ensure_connection()
            barrier.wait(WAIT_S)
            return work()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(works)) as threads:
        return list(threads.map(run, works))


def assert_the_books_balance() -> None:
    assert audit().discrepancies == []
