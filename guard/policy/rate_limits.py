"""Requests a minute: DRF's throttling over Django's database cache, so that all workers count together.

Calls in flight are the ledger's to count (`spend.ledger.rules.TooMany`).
"""

import math
from collections.abc import Callable, Iterable
from time import time
from typing import Any

from django.db import Error, transaction
from rest_framework.throttling import SimpleRateThrottle

from guard.http.errors import LedgerUnavailable, RateLimited
from spend.ledger.rules import CallLimit
from tenants.models import Tenant

MINUTE_S = 60
NO_REQUEST: Any = None
"""DRF hands throttles the request and the view; these know what they count."""


class PerMinute(SimpleRateThrottle):
    """The last minute's calls of a tenant or of a key."""

    def __init__(self, limit: CallLimit, timer: Callable[[], float]) -> None:
        self.rate = f"{limit.most}/minute"
        self.limit, self.timer = limit, timer
        super().__init__()

    def get_cache_key(self, request: object, view: object) -> str:
        return "calls:{}:{}".format(*self.limit.group)

    def throttle_success(self) -> bool:
        """DRF's counts the call here; ours waits until every limit allows it."""
        return True

    def count(self) -> None:
        super().throttle_success()

    def wait(self) -> float:
        """Seconds until as few calls are left in the last minute as allow another."""
        return float(self.history[self.limit.most - 1] + MINUTE_S - self.now)


def take_turn(limits: Iterable[CallLimit], timer: Callable[[], float] = time) -> None:
    """Count one more call against each of one tenant's limits. A call that is refused is not counted.

    Raises RateLimited, with the time after which it would not be, or LedgerUnavailable.
    """
    throttles = [PerMinute(limit, timer) for limit in limits]
    try:
        with transaction.atomic():
            # The cache reads, and then writes: one worker at a time.
            Tenant.objects.select_for_update(no_key=True).filter(pk=throttles[0].limit.group.tenant_id).first()
            refusing = [throttle for throttle in throttles if not throttle.allow_request(NO_REQUEST, NO_REQUEST)]
            if not refusing:
                for throttle in throttles:
                    throttle.count()
    except Error as error:
        raise LedgerUnavailable(retry_after_s=1) from error
    if refusing:
        slowest = max(refusing, key=PerMinute.wait)
        raise RateLimited(
            f"There were {slowest.limit.most:,} calls in the last minute, which is the limit.",
            retry_after_s=max(1, math.ceil(slowest.wait())),
        )
