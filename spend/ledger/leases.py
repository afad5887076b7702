"""Leases: a reservation whose worker died is settled at its hold once its lease ends.

The provider may have billed the call and nobody knows how much, so the worst case stands, flagged
for the operator.  Any number of workers may expire at once: a reservation ends once.
"""

from dataclasses import fields

from django.utils import timezone

from spend.ledger.posting import Posting
from spend.ledger.rules import Caller, Ended, Expire, Offer, Reserved
from spend.models import Reservation, ReservationState, Route
from spend.pricing.cost import PriceList

MOST_AT_ONCE = 500


def expire_reservations() -> int:
    """Expire what is due, in batches; how many there were. Raises django.db.Error."""
    posting, expired = Posting(), 0
    while due := _due():
        now = timezone.now()
        results = posting.post([Expire(reserved_of(row), now) for row in due])
        expired += sum(isinstance(result, Ended) for result in results)
    return expired


def _due() -> list[Reservation]:
    pending = Reservation.objects.filter(state=ReservationState.PENDING, lease_expires_at__lte=timezone.now())
    return list(pending.order_by("lease_expires_at")[:MOST_AT_ONCE])


def reserved_of(row: Reservation) -> Reserved:
    """A reservation as the ledger's commands want it."""
    caller = Caller(**{field.name: getattr(row, field.name) for field in fields(Caller)})
    offer = Offer(
        model=row.model,
        provider=row.provider,
        price=PriceList(row.price_id, ()),
        route=Route(row.route),
        fixed_ticks=row.hold_ticks,
        token_ticks=0,
        max_tokens=row.max_tokens,
        floor_tokens=row.max_tokens,
    )
    return Reserved(
        row.id, caller, offer, row.max_tokens, row.hold_ticks, tuple(row.window_ids), row.created_at,
        row.lease_expires_at, row.step,
    )  # fmt: skip
