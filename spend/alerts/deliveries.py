"""Deliveries: each alert reaches each of its channels, if not at once then later.

`dispatch` claims what is due, a channel at a time, and queues a task for it.
The claim is a lease: `due_at` moves on by one conditional update, so whatever becomes of the task, the
delivery is due again and never lost.  A channel that fails is left alone for a while, longer each
time; one that is slow has a turn like every other, and then waits for its next.
"""

import logging
from datetime import datetime, timedelta
from time import monotonic
from typing import Any

from django.db import transaction
from django.db.models import F, QuerySet
from django.utils import timezone
from django_tasks import task

from spend.alerts.channels import UndeliveredError, send
from spend.models import Alert, Delivery, DeliveryState
from spend.schedule import enqueue

logger = logging.getLogger(__name__)

LEASE = timedelta(minutes=2)
FIRST_WAIT = timedelta(seconds=5)
LONGEST_WAIT = timedelta(hours=1)
MOST_ATTEMPTS = 30
KEPT = timedelta(days=93)
STEP = 500
QUEUE = "deliveries"
TURN_S = 20.0
"""Of one channel, after which others have theirs; its last attempt may take as long again."""


def dispatch(now: datetime) -> int:
    """Queue a task for each channel that has something due; how many."""
    channels = set(_due(now).order_by().values_list("channel_id", flat=True).distinct())
    return sum(_dispatch_to(channel_id, now) for channel_id in channels)


def _dispatch_to(channel_id: int, now: datetime) -> bool:
    lease = now + LEASE
    with transaction.atomic():
        if not _due(now).filter(channel_id=channel_id).update(due_at=lease):
            return False
        enqueue(deliver.using(queue_name=QUEUE), channel_id, lease.isoformat())
    return True


def _due(now: datetime) -> QuerySet[Delivery]:
    return Delivery.objects.filter(state=DeliveryState.PENDING, due_at__lte=now)


@task
def deliver(channel_id: int, lease: str, turn_s: float = TURN_S) -> str:
    """Send the deliveries claimed by `lease` until one fails; then put the rest of them off too.

    What is left when the channel's turn is over is due again at once.
    """
    claimed = Delivery.objects.filter(
        channel_id=channel_id, state=DeliveryState.PENDING, due_at=datetime.fromisoformat(lease)
    )
    sent, turn_ends = 0, monotonic() + turn_s
    for delivery in list(claimed.select_related("alert", "channel").order_by("attempts", "id")):
        if monotonic() > turn_ends:
            claimed.update(due_at=timezone.now())
            break
        if not begin(delivery, claimed):
            continue
        try:
            _send(delivery)
        except UndeliveredError as error:
            wait = wait_after(delivery.attempts + 1)
            _end(delivery, state=_state_after(delivery), due_at=timezone.now() + wait, last_error=str(error)[:300])
            claimed.update(due_at=timezone.now() + wait)
            return f"{sent} delivered; then the channel failed: {error}"
        _end(delivery, state=DeliveryState.DELIVERED, delivered_at=timezone.now(), last_error="")
        sent += 1
    return f"{sent} delivered"


def begin(delivery: Delivery, claimed: QuerySet[Delivery]) -> bool:
    """Take a claimed delivery for one attempt; nobody else gets it before the lease ends."""
    mine = claimed.filter(pk=delivery.pk)
    return bool(mine.update(attempts=F("attempts") + 1, due_at=timezone.now() + LEASE))


def _send(delivery: Delivery) -> None:
    if not delivery.channel.is_active:
        raise UndeliveredError("the channel is turned off")
    try:
        send(delivery.alert, delivery.channel, delivery.pk)
    except UndeliveredError:
        raise
    except Exception as error:
        logger.exception("a defect kept an alert from its channel")
        raise UndeliveredError(type(error).__name__) from error


def wait_after(attempts: int) -> timedelta:
    """Doubles with each attempt: 5 s, 10 s, 20 s … an hour."""
    return min(FIRST_WAIT * (1 << min(attempts - 1, 20)), LONGEST_WAIT)


def _state_after(delivery: Delivery) -> DeliveryState:
    if delivery.attempts + 1 < MOST_ATTEMPTS and delivery.channel.is_active:
        return DeliveryState.PENDING
    return DeliveryState.FAILED


def _end(delivery: Delivery, **outcome: object) -> None:
    """Note what became of the attempt, unless somebody asked for it to be sent again meanwhile."""
    Delivery.objects.filter(pk=delivery.pk, attempts=delivery.attempts + 1).update(**outcome)


def resend(deliveries: QuerySet[Delivery], now: datetime) -> int:
    """Send these again, whatever became of them; how many."""
    return deliveries.update(state=DeliveryState.PENDING, attempts=0, due_at=now, delivered_at=None, last_error="")


def forget(now: datetime) -> int:
    """Delete what is older than KEPT: deliveries that are done, and alerts of periods that are over; how many rows.

    An alert stays as long as its period: it is what keeps the same from being told again.
    """
    old = now - KEPT
    done = Delivery.objects.exclude(state=DeliveryState.PENDING).filter(alert__at__lt=old)
    over = Alert.objects.filter(at__lt=old, ends_at__lt=old).exclude(deliveries__state=DeliveryState.PENDING)
    return _delete(done) + _delete(over)


def _delete(rows: QuerySet[Any]) -> int:
    deleted = 0
    while some := list(rows.order_by("pk").values_list("pk", flat=True)[:STEP]):
        deleted += rows.model._default_manager.filter(pk__in=some).delete()[0]
    return deleted
