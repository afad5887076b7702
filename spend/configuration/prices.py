"""Operators' own prices: of each model the one in force, and those that are to begin.

What calls were billed by is never rewritten: a price that differs from the one in force starts now. Of those in a
file that have begun, the last is the one that is wanted now.
"""

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from spend.configuration.changes import Plan
from spend.configuration.columns import Columns
from spend.configuration.places import Place, Problems
from spend.models import CatalogueModel, Price, PriceSource, PriceTier
from spend.pricing.catalogue import Rates, Tiers, tiers_of, write_price
from spend.pricing.rates import price_in_force
from tenants.exact import instant_string, read_instant
from tenants.periods import BEGINNING

TIER = Columns.of(
    PriceTier,
    "above_tokens",
    input="input_ticks",
    cached_input="cached_input_ticks",
    cache_write="cache_write_ticks",
    output="output_ticks",
)


def shown(now: datetime) -> list[dict[str, Any]]:
    prices = [price for model in _priced_models() for price in _own(model, now)]
    return [
        {
            "model": price.model_id,
            "starts_at": instant_string(price.starts_at),
            "tiers": [TIER.shown(tier) for tier in sorted(price.tiers.all(), key=lambda tier: tier.above_tokens)],
        }
        for price in prices
    ]


def _priced_models() -> Iterable[CatalogueModel]:
    priced = CatalogueModel.objects.filter(prices__source=PriceSource.OPERATOR).distinct()
    return priced.order_by("pk").prefetch_related("prices__tiers")


def _own(model: CatalogueModel, now: datetime) -> list[Price]:
    """The model's operator's price in force, if it is one, and those to come, in the order of their starts."""
    prices = list(model.prices.all())
    in_force = price_in_force(prices, now)
    coming = [price for price in prices if price.source == PriceSource.OPERATOR and price.starts_at > now]
    own = [in_force] if in_force and in_force.source == PriceSource.OPERATOR else []
    return [*own, *sorted(coming, key=lambda price: price.starts_at)]


def plan_prices(plan: Plan, place: Place) -> None:
    models = CatalogueModel.objects.prefetch_related("prices__tiers").in_bulk()
    wanted: defaultdict[str, dict[datetime, Tiers]] = defaultdict(dict)
    for each in place.elements():
        with plan.problems.gathered():
            given = each.fields(["model", "starts_at", "tiers"], ["model", "tiers"])
            if given["model"].text() not in models:
                raise given["model"].refused(f"must be a model of the catalogue, which {given['model'].value!r} is not")
            starts_at = _instant(given["starts_at"]) if "starts_at" in given else BEGINNING
            of_model = wanted[given["model"].text()]
            if starts_at in of_model:
                raise each.refused("is a second price of this model from the same instant")
            of_model[starts_at] = _tiers(given["tiers"])
    for model_id, prices in wanted.items():
        _plan_model(plan, models[model_id], prices)
    others = [model for model in _priced_models() if model.pk not in wanted and _own(model, plan.now)]
    plan.leave("prices of operators", [model.pk for model in others])


def _instant(place: Place) -> datetime:
    instant = read_instant(place.value)
    if instant is None:
        raise place.refused("must be a time as in RFC 3339, such as 2026-12-31T23:59:59Z")
    return instant


def _tiers(place: Place) -> Tiers:
    tiers: dict[int, Rates] = {}
    problems = Problems()
    for each in place.elements():
        with problems.gathered():
            needed = [name for name in TIER.by_name if name not in {"above_tokens", "cache_write"}]
            values = {"above_tokens": 0, "cache_write_ticks": None, **TIER.read(each.fields(TIER.by_name, needed))}
            above_tokens = values.pop("above_tokens")
            if above_tokens in tiers:
                raise each.refused("has the above_tokens of another before it")
            tiers[above_tokens] = Rates(**values)
    problems.tell()
    if 0 not in tiers:
        raise place.refused("must have one with above_tokens 0, the base price")
    return tiers


def _plan_model(plan: Plan, model: CatalogueModel, wanted: dict[datetime, Tiers]) -> None:
    now = plan.now
    own = {price.starts_at: price for price in _own(model, now)}
    started = [start for start in wanted if start <= now]
    in_force = next((price for start, price in own.items() if start <= now), None)
    if started and (in_force is None or tiers_of(in_force) != wanted[max(started)]):
        _change(plan, model, now, "now", wanted[max(started)], in_force)
    for start in sorted(start for start in wanted if start > now):
        if start not in own or tiers_of(own[start]) != wanted[start]:
            _change(plan, model, start, instant_string(start), wanted[start], own.get(start))
    left = [f"the one from {instant_string(start)}" for start in own if start > now and start not in wanted]
    plan.leave(f"model {model.pk}, prices", left)


def _change(plan: Plan, model: CatalogueModel, at: datetime, told: str, tiers: Tiers, before: Price | None) -> None:
    was = f" (was {_told(tiers_of(before))})" if before else ""
    plan.change(
        f"model {model.pk}: {_told(tiers)} USD per million tokens from {told} on{was}",
        lambda: write_price(model, at, tiers, PriceSource.OPERATOR),
    )


def _told(tiers: Tiers) -> str:
    """ "1.25 / 0.20 / 2.50; above 199999 2.50 / 0.40 / 5.00": input, cached input, output, and cache write if any."""
    return "; ".join((f"above {above} " if above else "") + _figures(rates) for above, rates in sorted(tiers.items()))


def _figures(rates: Rates) -> str:
    columns = {column.field.attname: column for column in TIER.by_name.values()}
    order = ("input_ticks", "cached_input_ticks", "output_ticks", "cache_write_ticks")
    values = [(name, getattr(rates, name)) for name in order]
    return " / ".join(columns[name].show(ticks) for name, ticks in values if ticks is not None)
