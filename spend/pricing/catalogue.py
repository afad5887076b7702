"""The model catalogue, filled from a price list (`spend.pricing.price_list_sync`).

`sync` brings the database in line. What an operator set stays: a model that stands keeps its fields, and
an operator's price wins by its source. What a call was billed at stays too: a price that has begun is never
rewritten, a correction begins now.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import NamedTuple

from django.conf import settings
from django.db import transaction

from spend.models import CatalogueModel, Price, PriceSource, PriceTier

# From the providers' deprecation pages; the price list has no dates.
SHUTDOWNS = {
    "gpt-5": date(2026, 12, 11),
    "gpt-5-mini": date(2026, 12, 11),
    "gpt-5-nano": date(2026, 12, 11),
    "gpt-5.1": date(2027, 4, 1),
    "gpt-5.4-nano": date(2027, 4, 1),
}
# One cheap, one middling, one strong model of each provider's current generation; and the default
# route, see `_is_enabled_at_first`. The dear and the outgoing wait for an operator's yes: an agent
# may name any model that is enabled.
ENABLED_AT_FIRST = frozenset(
    [
        "grok-4.3", "grok-4.7", "gpt-6-luna", "gpt-6.1-terra", "gpt-6.1-sol",
        "text-embedding-3-large", "text-embedding-3-small",
    ]
)  # fmt: skip

# Not in the price list. OpenAI's pages give 128,000 for every model from gpt-5 on; xAI gives no figure.
MAX_OUTPUT_TOKENS = 128_000


class Rates(NamedTuple):
    """Ticks per token. `cache_write_ticks` None is the input's price."""

    input_ticks: int
    cached_input_ticks: int
    cache_write_ticks: int | None
    output_ticks: int


Tiers = Mapping[int, Rates]  # keyed by above_tokens, 0 for the base


@dataclass(frozen=True)
class ListedModel:
    """A model as the package lists it; `prices` are its tiers by the instant from which they hold."""

    id: str
    provider: str
    context_tokens: int
    prices: Mapping[datetime, Tiers]

    def tiers_at(self, now: datetime) -> Tiers:
        return self.prices[max(start for start in self.prices if start <= now)]


@dataclass
class SyncReport:
    """What `sync` did; `refused` has the models whose prices it could not take, and why."""

    models: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    prices: list[Price] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)


@transaction.atomic
def sync(models: Iterable[ListedModel], now: datetime) -> SyncReport:
    """Bring catalogue and prices in line with `models`; done twice, the second changes nothing."""
    report = SyncReport()
    for listed in models:
        model, is_new = CatalogueModel.objects.get_or_create(id=listed.id, defaults=_first_fields(listed))
        report.models.append(model.id)
        if is_new:
            report.added.append(model.id)
        _note_shutdown(model)
        report.prices += _sync_prices(model, listed, now)
    return report


def _first_fields(listed: ListedModel) -> dict[str, object]:
    return {
        "provider": listed.provider,
        "upstream_name": listed.id,
        "context_tokens": listed.context_tokens,
        "max_output_tokens": min(MAX_OUTPUT_TOKENS, listed.context_tokens),
        "shutdown_on": SHUTDOWNS.get(listed.id),
        "is_enabled": _is_enabled_at_first(listed.id),
    }


def _is_enabled_at_first(model_id: str) -> bool:
    on_default_route = {*settings.DEFAULT_ROUTE, *(to_model for _, to_model in settings.DEFAULT_DOWNGRADES)}
    return model_id in ENABLED_AT_FIRST | on_default_route


def _note_shutdown(model: CatalogueModel) -> None:
    """A date that became known after the model was added; one that an operator set stays."""
    if model.shutdown_on is None and model.id in SHUTDOWNS:
        model.shutdown_on = SHUTDOWNS[model.id]
        model.save()


def _sync_prices(model: CatalogueModel, listed: ListedModel, now: datetime) -> list[Price]:
    standing = {
        price.starts_at: price for price in model.prices.filter(source=PriceSource.CATALOGUE).prefetch_related("tiers")
    }
    written = []
    for start, tiers in listed.prices.items():
        price = standing.get(start)
        if price is None or (start > now and tiers_of(price) != tiers):
            standing[start] = write_price(model, start, tiers, PriceSource.CATALOGUE)
            written.append(standing[start])
    current = standing[max(start for start in standing if start <= now)]
    if current not in written and tiers_of(current) != listed.tiers_at(now):
        written.append(write_price(model, now, listed.tiers_at(now), PriceSource.CATALOGUE))
    return written


def tiers_of(price: Price) -> Tiers:
    return {
        tier.above_tokens: Rates(tier.input_ticks, tier.cached_input_ticks, tier.cache_write_ticks, tier.output_ticks)
        for tier in price.tiers.all()
    }


def write_price(model: CatalogueModel, starts_at: datetime, tiers: Tiers, source: PriceSource) -> Price:
    """A price and its tiers, row by row: each is in the audit trail."""
    price, _ = Price.objects.get_or_create(model=model, starts_at=starts_at, source=source)
    for tier in price.tiers.all():
        tier.delete()
    for above_tokens, rates in tiers.items():
        PriceTier.objects.create(price=price, above_tokens=above_tokens, **rates._asdict())
    return price
