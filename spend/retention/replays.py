"""Answers that are kept to be given again under their `Idempotency-Key`."""

from datetime import datetime, timedelta

from spend.models import IdempotentCall

KEPT = timedelta(hours=24)


def forget_old(now: datetime) -> None:
    IdempotentCall.objects.filter(claimed_at__lte=now - KEPT).delete()
