"""Room: the pages of a SQLite file that deleted rows left empty go back to the disk, a few at a time.

`auto_vacuum=INCREMENTAL` keeps a file such that this needs no rebuilding. `migrate` gives it to a file that is new,
and `manage.py vacuum` to an old one. Postgres vacuums by itself.
"""

import time
from typing import Any

from django.db import DEFAULT_DB_ALIAS, connection

from spend.sql import Sql

PAGES = 500
"""Given back in one transaction, some milliseconds."""

PAUSE_S = 0.05
"""Between two of them, for calls."""

INCREMENTAL = 2
MOST_BYTES_OF_A_NEW_FILE = 8 * 1024 * 1024


def make_small(using: str = DEFAULT_DB_ALIAS, **_: Any) -> None:
    """After `migrate`. To ask for it at each connection would be a write at each, which waits for its turn."""
    if using != DEFAULT_DB_ALIAS or connection.vendor != "sqlite" or connection.in_atomic_block:
        return
    if not gives_back() and file_bytes() < MOST_BYTES_OF_A_NEW_FILE:
        rebuild()


def rebuild() -> None:
    """Without empty pages, and able to give back those to come. Everybody else waits."""
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA auto_vacuum=INCREMENTAL")
        cursor.execute("VACUUM")


def gives_back() -> bool:
    """Whether the file is one that can be made smaller without being rebuilt."""
    return _pragma("auto_vacuum") == INCREMENTAL


def give_back(within_s: float = float("inf")) -> int:
    """Give the empty pages back, until none is left or `within_s` is over; how many bytes.

    Raises django.db.Error.
    """
    before, deadline = file_bytes(), time.monotonic() + within_s
    while (free := _pragma("freelist_count")) and time.monotonic() < deadline:
        with Sql.on(connection).turn(), connection.cursor() as cursor:
            # A page goes with each step of the statement; the driver's `execute` takes one step of what brings no
            # columns, and its `executescript` all of them.
            cursor.executescript(f"PRAGMA incremental_vacuum({PAGES})")
        if _pragma("freelist_count") >= free:
            break  # others empty pages faster, or this file gives none back
        time.sleep(PAUSE_S)
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    return before - file_bytes()


def file_bytes() -> int:
    return _pragma("page_count") * _pragma("page_size")


def _pragma(name: str) -> int:
    with connection.cursor() as cursor:
        return int(cursor.execute(f"PRAGMA {name}").fetchone()[0])
