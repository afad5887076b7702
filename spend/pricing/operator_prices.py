"""An operator's change of the price that is in force, and models with theirs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import transaction

from spend.models import CatalogueModel, Price, PriceSource, is_shut_down
from spend.pricing.catalogue import Rates, tiers_of, write_price
from spend.pricing.rates import price_in_force


@dataclass(frozen=True)
class PricedModel:
    """A model and its price in force; without one it cannot be called."""

    model: CatalogueModel
    price: Price | None

    @classmethod
    def of(cls, model: CatalogueModel, now: datetime) -> "PricedModel":
        """Costs no query where `prices__tiers` are prefetched."""
        return cls(model, price_in_force(model.prices.all(), now))

    @property
    def rates(self) -> Rates | None:
        """The base rates."""
        return tiers_of(self.price)[0] if self.price else None


def callable_models(names: Iterable[str], now: datetime) -> list[PricedModel]:
    """Of these models those that a call can be sent to, in the given order: enabled, priced, not shut down."""
    models = CatalogueModel.objects.prefetch_related("prices__tiers").in_bulk(list(names))
    priced = [PricedModel.of(models[name], now) for name in names if name in models]
    open_for_calls = [each for each in priced if each.model.is_enabled and each.price]
    return [each for each in open_for_calls if not is_shut_down(each.model.shutdown_on, now)]


@transaction.atomic
def change_price(model: CatalogueModel, rates: Rates, now: datetime) -> Price | None:
    """Start an operator's price with these base `rates` from `now` on, or none if they are in force already.

    Higher tiers of the price in force stay, raised to the new base where they would fall below it: a long
    request must not become cheaper than a short one by leaving its tier out.
    """
    _one_at_a_time(model)
    price = price_in_force(model.prices.prefetch_related("tiers"), now)
    tiers = dict(tiers_of(price)) if price else {}
    if tiers.get(0) == rates:
        return None
    raised = {above: _at_least(tier, rates) for above, tier in tiers.items() if above}
    return write_price(model, now, {0: rates, **raised}, PriceSource.OPERATOR)


def catalogue_price(model: CatalogueModel, now: datetime) -> Price | None:
    """What the model would cost at `now` without its operator's price, or None where it has no such price, or
    no other."""
    prices = list(model.prices.prefetch_related("tiers"))
    in_force = price_in_force(prices, now)
    if in_force is None or in_force.source != PriceSource.OPERATOR:
        return None
    return price_in_force([price for price in prices if price.source == PriceSource.CATALOGUE], now)


@transaction.atomic
def back_to_catalogue(model: CatalogueModel, now: datetime) -> Price | None:
    """End the operator's prices that have started, all of them: an older one must not come back instead.

    Their rows stay, as entries were billed by them. Returns the price now in force; None where
    `catalogue_price` has none, and nothing was changed.
    """
    _one_at_a_time(model)
    price = catalogue_price(model, now)
    standing = model.prices.filter(source=PriceSource.OPERATOR, starts_at__lte=now, ends_at=None) if price else ()
    for each in standing:
        each.ends_at = now
        each.save()  # row by row: each is in the audit trail
    return price if standing else None


def _one_at_a_time(model: CatalogueModel) -> None:
    """Until the transaction ends: who decides by the price in force must not decide by one that is being ended."""
    CatalogueModel.objects.select_for_update().get(pk=model.pk)


def _at_least(tier: Rates, base: Rates) -> Rates:
    writes = [rates.cache_write_ticks for rates in (tier, base) if rates.cache_write_ticks is not None]
    return Rates(
        input_ticks=max(tier.input_ticks, base.input_ticks),
        cached_input_ticks=max(tier.cached_input_ticks, base.cached_input_ticks),
        cache_write_ticks=max(writes, default=None),
        output_ticks=max(tier.output_ticks, base.output_ticks),
    )


@transaction.atomic
def put_model(model_id: str, fields: Mapping[str, Any], rates: Rates | None, now: datetime) -> None:
    """Create the model or change these fields of it, and its price where `rates` are others than those in force."""
    model = CatalogueModel.objects.select_for_update().filter(pk=model_id).first()
    if model is None:
        model = CatalogueModel(**{"id": model_id, "upstream_name": model_id, **fields})
        model.save(force_insert=True)
    elif changed := {name: value for name, value in fields.items() if getattr(model, name) != value}:
        for name, value in changed.items():
            setattr(model, name, value)
        model.save()
    if rates is not None:
        change_price(model, rates, now)
