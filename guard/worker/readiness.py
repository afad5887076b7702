"""Whether a worker should be sent calls, from what it knows already: to ask costs no query, however often."""

import asyncio
import signal
import threading
from dataclasses import dataclass
from time import monotonic
from typing import Any

from django.conf import settings

from guard.config.migrations import missing_migrations
from guard.policy.keeper import PolicyKeeper

SILENCE_S = 15.0
"""A database that has neither answered nor failed for so long is away. The keeper asks it four times a second."""


@dataclass(slots=True)
class Readiness:
    """What a worker lacks to serve calls."""

    keeper: PolicyKeeper
    is_stopping: bool = False
    lacks_migrations: bool = False

    @property
    def is_database_heard(self) -> bool:
        heard_at = self.keeper.heard_at
        return heard_at is not None and monotonic() - heard_at < SILENCE_S

    def look_at_migrations(self) -> None:
        """Raises django.db.Error."""
        self.lacks_migrations = bool(missing_migrations())

    def missing(self) -> list[str]:
        """Of `stopping`, `database`, `migrations` and `policy` what stands in the way; nothing where it is ready."""
        found = {
            "stopping": self.is_stopping,
            "database": not self.is_database_heard,
            "migrations": self.lacks_migrations,
            "policy": not self.keeper.is_loaded,
        }
        return [name for name, is_missing in found.items() if is_missing]


def stop_late(readiness: Readiness) -> None:
    """On SIGTERM say first that no more calls should come, and stop STOP_DELAY_SECONDS later.

    The server would close its listener at once, and idle connections with it: a load balancer that has not looked
    since would send calls where nobody listens.  Ctrl+C (SIGINT) stops at once, as in development.
    """
    server_stops = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or not callable(server_stops):
        return  # not a server's process
    loop = asyncio.get_running_loop()

    def stop(*signal_and_frame: Any) -> None:
        readiness.is_stopping = True
        loop.call_soon_threadsafe(loop.call_later, settings.STOP_DELAY_SECONDS, server_stops, *signal_and_frame)

    signal.signal(signal.SIGTERM, stop)
