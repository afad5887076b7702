"""Prices as rows, made into the price lists that `spend.pricing.cost` reckons with."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

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


@dataclass(frozen=True)
class PriceHistory:
    """Prices by model, the winning one last: an operator's wins over the catalogue's, then the later start."""

    periods: Mapping[str, Sequence[PricePeriod]]

    def price_at(self, model_id: str, at: datetime) -> PriceList | None:
        """The model's price at `at`, or None where it had none."""
        return price_at(self.periods.get(model_id, ()), at)


def load_history(model_ids: Iterable[str]) -> PriceHistory:
    """Every price of these models."""
    rows = Price.objects.filter(model_id__in=list(model_ids)).prefetch_related("tiers")
    periods: defaultdict[str, list[PricePeriod]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: (row.source == PriceSource.OPERATOR, row.starts_at)):
        if price := price_list_of(row):
            periods[row.model_id].append(PricePeriod(row.starts_at, row.ends_at, price))
    return PriceHistory(periods)


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
