"""Prices as rows, made into the price lists that `spend.pricing` reckons with."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from spend.models import Price, PriceSource
from spend.pricing import PriceList, TierPrice


@dataclass(frozen=True)
class PriceHistory:
    """Prices by model, the winning one last: an operator's wins over the catalogue's, then the later start."""

    prices: Mapping[str, Sequence[tuple[datetime, PriceList]]]

    def price_at(self, model_id: str, at: datetime) -> PriceList | None:
        """The model's price at `at`, or None where it had none."""
        started = [price for starts_at, price in self.prices.get(model_id, ()) if starts_at <= at]
        return started[-1] if started else None


def load_history(model_ids: Iterable[str]) -> PriceHistory:
    """Every price of these models."""
    rows = Price.objects.filter(model_id__in=list(model_ids)).prefetch_related("tiers")
    prices: defaultdict[str, list[tuple[datetime, PriceList]]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: (row.source == PriceSource.OPERATOR, row.starts_at)):
        if price := price_list_of(row):
            prices[row.model_id].append((row.starts_at, price))
    return PriceHistory(prices)


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
