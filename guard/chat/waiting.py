"""How long a call waits for other calls' holds."""

from time import monotonic

from django.conf import settings

from spend.ledger.rules import Standing

POLL_OTHER_WORKERS_S = 0.1
MOST_TURNS = 4
"""How many times HOLD_WAIT_SECONDS a call waits in all, beside the first, while those before it are served."""


class HoldWait:
    """How long a call waits for other calls' holds: as long as nothing moves, or the queue goes on, up to a limit."""

    def __init__(self) -> None:
        self.wait_s_at_rest: float = settings.HOLD_WAIT_SECONDS
        self.started = self.moved = monotonic()
        self.spent: tuple[int, ...] = ()
        self.is_over = not self.wait_s_at_rest

    def wait_s(self, standings: tuple[Standing, ...]) -> float:
        """Seconds until the next try; `is_over` if that is to be the last."""
        now, spent = monotonic(), tuple(standing.spent_ticks for standing in standings)
        if spent != self.spent:  # calls before this one were settled, so its turn may come
            self.moved, self.spent = now, spent
        left_s = min(self.moved, self.started + MOST_TURNS * self.wait_s_at_rest) + self.wait_s_at_rest - now
        self.is_over = left_s <= POLL_OTHER_WORKERS_S
        return max(0.0, min(POLL_OTHER_WORKERS_S, left_s))
