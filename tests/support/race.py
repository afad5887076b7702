"""Threads that start at the same instant, each with a database connection of its own."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest
from django.conf import settings
from django.db import connections

Result = TypeVar("Result")

on_postgres = pytest.mark.skipif(
    "postgres" not in str(settings.DATABASES["default"]["ENGINE"]), reason="SQLite has one writer, which hides races"
)


def at_once(count: int, function: Callable[..., Result], *args: Any) -> list[Result]:
    """What `count` simultaneous calls of `function` return."""
    barrier = threading.Barrier(count)

    def run() -> Result:
        connections["default"].ensure_connection()
        barrier.wait()
        try:
            return function(*args)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(count) as pool:
        return [future.result() for future in [pool.submit(run) for _ in range(count)]]
