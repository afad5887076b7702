"""Which price of a model is in force at an instant, and its rows made into what `spend.pricing.cost` reckons with.

A price holds from its start until it is ended; of those that hold, an operator's wins, then the last to have started.
One without a base tier never does: a small request would have no price, and so be free.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from django.db.models import QuerySet

from spend.models import Price, PriceSource
from spend.pricing.cost import PriceList, TierPrice


class PricePeriod(NamedTuple):
    """A price and when it may hold: from `starts_at` until, without it, `ends_at`."""

    starts_at: datetime
    ends_at: datetime | None
    price: PriceList


def price_at(periods: Iterable[PricePeriod], at: datetime) -> PriceList | None:
    """Of one model's periods, the winning one last, the price at `at`; None where it had none."""
    holding = [price for starts_at, ends_at, price in periods if starts_at <= at and (ends_at is None or at < ends_at)]
    return holding[-1] if holding else None


def periods_of(prices: Iterable[Price]) -> list[PricePeriod]:
    """When which of one model's prices may hold, the winning one last. No query where `tiers` are prefetched."""
    ranked = sorted(prices, key=lambda row: (row.source == PriceSource.OPERATOR, row.starts_at))
    return [PricePeriod(row.starts_at, row.ends_at, made) for row in ranked if (made := price_list_of(row))]


def price_in_force(prices: Iterable[Price], at: datetime) -> Price | None:
    """Of one model's prices the row that holds at `at`. No query where `tiers` are prefetched."""
    rows = {row.pk: row for row in prices}
    found = price_at(periods_of(rows.values()), at)
    return rows[found.id] if found else None


def prices_in_force(at: datetime) -> dict[str, Price]:
    """Each priced model's price at `at`, with its tiers, by the model's id."""
    found = {model_id: price_in_force(rows, at) for model_id, rows in _by_model(Price.objects.all()).items()}
    return {model_id: price for model_id, price in found.items() if price}


def _by_model(prices: QuerySet[Price]) -> dict[str, list[Price]]:
    by_model: defaultdict[str, list[Price]] = defaultdict(list)
    for price in prices.order_by("model_id").prefetch_related("tiers"):
        by_model[price.model_id].append(price)
    return by_model


@dataclass(frozen=True)
class PriceHistory:
    """Prices by model, the winning one last."""

    periods: Mapping[str, Sequence[PricePeriod]]

    def price_at(self, model_id: str, at: datetime) -> PriceList | None:
        """The model's price at `at`, or None where it had none."""
        return price_at(self.periods.get(model_id, ()), at)


def load_history(model_ids: Iterable[str]) -> PriceHistory:
    """Every price of these models."""
    prices = Price.objects.filter(model_id__in=list(model_ids))
    return PriceHistory({model_id: periods_of(rows) for model_id, rows in _by_model(prices).items()})


def price_list_of(price: Price) -> PriceList | None:
    """The row as a price list; None without a base tier, when a small request would have no price."""
    tiers = [
        TierPrice(
            above_tokens=tier.above_tokens,
            input_ticks=tier.input_ticks,
            cached_input_ticks=tier.cached_input_ticks,
            cache_write_ticks=tier.input_ticks if tier.cache_write_ticks is None else tier.cache_write_ticks,
            output_ticks=tier.output_ticks,
        )
        for tier in sorted(price.tiers.all(), key=lambda tier: tier.above_tokens)
    ]
    return PriceList(price.pk, tuple(tiers)) if tiers and tiers[0].above_tokens == 0 else None
