"""A database that is away is told once, with the reason, and once more when it is back.

Everything in a process that asks the database again and again reports here, so that whoever notices first tells it, and
the others add nothing.
"""

import logging
import threading
from time import monotonic

logger = logging.getLogger(__name__)

QUIET_S = 60.0
"""A database that comes and goes is told of so often at most."""


class Outage:
    """`whose` begins the line that tells of it."""

    def __init__(self, whose: str = "the database") -> None:
        self.whose = whose
        self.lock = threading.Lock()
        self.began_at: float | None = None
        self.told_at: float | None = None
        self.is_told = False

    def failed(self, error: Exception) -> None:
        """The database could not be asked, for this reason."""
        with self.lock:
            if self.began_at is not None:
                return
            now = self.began_at = monotonic()
            self.is_told = self.told_at is None or now - self.told_at >= QUIET_S
            if self.is_told:
                self.told_at = now
                logger.error("%s cannot be used: %s", self.whose, " ".join(str(error).split()))

    def is_over(self) -> None:
        """The database has answered."""
        if self.began_at is None:  # as four times a second
            return
        with self.lock:
            if self.began_at is not None and self.is_told:
                logger.warning("%s can be used again, after %.1f s", self.whose, monotonic() - self.began_at)
            self.began_at = None


DATABASE = Outage()
"""Of this process."""
