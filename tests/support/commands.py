"""Commands of the ledger, with everything in them that a test does not care about."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from spend.ids import new_id
from spend.ledger.rules import Bill, Caller, Limit, Offer, Record, Reserve, Reserved, Settle, WindowKey
from spend.models import Outcome, Route
from spend.pricing.cost import PriceList, TierPrice, Usage, cost_ticks

NOON = datetime(2025, 6, 15, 12, 0, tzinfo=UTC)
MIDNIGHT = datetime(2025, 6, 16, tzinfo=UTC)
TODAY = NOON.replace(hour=0)
LEASE = timedelta(minutes=15)

PRICE = PriceList(
    id=1, tiers=(TierPrice(0, input_ticks=10, cached_input_ticks=1, cache_write_ticks=12, output_ticks=100),)
)


def limit_of(
    hard_ticks: int,
    tenant_id: str = "acme",
    *,
    scope: str = "tenant",
    subject: str = "",
    soft_ticks: int | None = None,
    starts_at: datetime = TODAY,
    ends_at: datetime | None = MIDNIGHT,
) -> Limit:
    """A limit on a day's window; past the soft cap from `hard_ticks` on where none is given."""
    key = WindowKey(tenant_id, scope, subject, "day" if ends_at else "total", starts_at)
    return Limit(key, ends_at, hard_ticks, hard_ticks if soft_ticks is None else soft_ticks, hard_ticks)


def offer_of(fixed_ticks: int, **changes: Any) -> Offer:
    """An offer of one fixed price: no output tokens, unless `changes` says so."""
    offer = Offer(
        model="model", provider="xai", price=PRICE, route=Route.PRIMARY, fixed_ticks=fixed_ticks,
        token_ticks=0, max_tokens=10, floor_tokens=10,
    )  # fmt: skip
    return replace(offer, **changes)


def caller_of(tenant_id: str = "acme", **changes: Any) -> Caller:
    call_id = new_id()
    caller = Caller(
        call_id=call_id, request_id=f"req_{call_id.hex}", tenant_id=tenant_id, key_id=1, customer="",
        conversation="", requested_model="model",
    )  # fmt: skip
    return replace(caller, **changes)


def reserve_of(
    limits: Iterable[Limit], offers: Iterable[Offer] | int, at: datetime = NOON, *, caller: Caller | None = None
) -> Reserve:
    """Offers may be given as the ticks of a single one."""
    offers = [offer_of(offers)] if isinstance(offers, int) else offers
    return Reserve(new_id(), caller or caller_of(), tuple(limits), tuple(offers), at, at + LEASE)


def bill_of(ticks: int | None) -> Bill:
    """A bill by the provider's own figure, or an unknown one."""
    return Bill(cost_ticks=ticks, provider_ticks=ticks, is_estimated=ticks is None)


def bill_for(usage: Usage, price: PriceList = PRICE) -> Bill:
    """A bill by our own figures."""
    ticks = cost_ticks(usage, price)
    return Bill(cost_ticks=ticks, usage=usage, computed_ticks=ticks)


def settle_of(reserved: Reserved, ticks: int | None, at: datetime = NOON) -> Settle:
    return Settle(reserved, bill_of(ticks), at)


def record_of(reserved: Reserved, ticks: int) -> Record:
    """The story of a call that this reservation's model served."""
    return Record(
        caller=reserved.caller,
        outcome=Outcome.SERVED,
        at=reserved.created_at,
        model=reserved.offer.model,
        route=reserved.offer.route,
        cost_ticks=ticks,
    )
