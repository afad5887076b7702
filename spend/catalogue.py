"""The model catalogue, filled from the prices that the genai-prices package ships with its wheel.

`listed_models` reads the package (pure), `sync` brings the database in line. What an operator set
stays: a model that stands keeps its fields, and an operator's price wins by its source. What a call
was billed at stays too: a price that has begun is never rewritten, a correction begins now.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import NamedTuple

from django.conf import settings
from django.db import transaction
from django.db.models import Q
from genai_prices import data_snapshot
from genai_prices.types import ConditionalPrice, ModelInfo, ModelPrice, StartDateConstraint, TieredPrices

from spend.models import CatalogueModel, Price, PriceSource, PriceTier, Provider
from tenants.money import TICKS_PER_TOKEN_AT_ONE_USD_PER_MILLION, ticks_from_usd
from tenants.periods import BEGINNING

PROVIDERS = {"x-ai": Provider.XAI, "openai": Provider.OPENAI}

# Chat models of grok-4 and gpt-5 or later. Left out by the words after the version: what is no chat
# model, what only the Responses API serves (pro, codex, multi-agent), and what needs a contract
# (cyber, rosalind). gpt-5.3 is there because the package's id is no name that the API knows.
NAME = re.compile(r"(grok-(?=[4-9]|\d{2})|gpt-(?=[5-9]|\d{2}))(?P<version>\d+(\.\d+)?)(?P<words>(-[a-z0-9.]+)*)")
NOT_CHAT = frozenset(
    ["audio", "image", "realtime", "search", "transcribe", "tts", "codex", "pro", "multi", "cyber", "rosalind"]
)
# Retired in May 2026. xAI answers these names with grok-4.3 and bills its price, not the listed one.
RETIRED = frozenset(
    [
        "grok-4-0709",
        "grok-4-fast-reasoning",
        "grok-4-fast-non-reasoning",
        "grok-4-1-fast-reasoning",
        "grok-4-1-fast-non-reasoning",
        "gpt-5.3",
    ]
)
# From the providers' deprecation pages; the package has no dates.
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
ENABLED_AT_FIRST = frozenset(["grok-4.3", "grok-4.7", "gpt-6-luna", "gpt-6.1-terra", "gpt-6.1-sol"])

# Not in the package. OpenAI's pages give 128,000 for every model from gpt-5 on; xAI gives no figure.
MAX_OUTPUT_TOKENS = 128_000
SMALLEST_CONTEXT_TOKENS = 128_000

# Billed by other units, for things that the guard refuses to pass on (server-side tools).
NOT_CHARGED = frozenset(["web_searches_kcount", "storage_searches_kcount"])


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
    provider: Provider
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


def listed_models() -> tuple[list[ListedModel], dict[str, str]]:
    """The package's current chat models, and those refused, with the reason."""
    models, refused = [], {}
    for source in data_snapshot.get_snapshot().providers:
        for model in source.models if source.id in PROVIDERS else ():
            if not is_chat_model(model.id):
                continue
            try:
                models.append(read_model(model, PROVIDERS[source.id]))
            except ValueError as error:
                refused[model.id] = str(error)
    return models, refused


def is_chat_model(name: str) -> bool:
    found = NAME.fullmatch(name)
    return found is not None and name not in RETIRED and NOT_CHAT.isdisjoint(found["words"].split("-"))


def read_model(model: ModelInfo, provider: Provider) -> ListedModel:
    """Raises ValueError where the prices are not whole ticks a token or have a unit we don't charge."""
    return ListedModel(
        id=model.id,
        provider=provider,
        context_tokens=model.context_window or SMALLEST_CONTEXT_TOKENS,
        prices={start: _dearest(prices) for start, prices in _history(model).items()},
    )


def _history(model: ModelInfo) -> dict[datetime, list[ModelPrice]]:
    """From each start of a price on, the prices that may apply then: several where the hour decides."""
    if isinstance(model.prices, ModelPrice):
        return {BEGINNING: [model.prices]}
    starts = {_start_of(price) for price in model.prices if not _is_hourly(price)}
    return {start: _applicable(model.prices, start) for start in sorted(starts | {BEGINNING})}


def _applicable(prices: Sequence[ConditionalPrice], at: datetime) -> list[ModelPrice]:
    """The last price in the list that has started, and the hourly ones after it, which go before it."""
    started = [index for index, price in enumerate(prices) if not _is_hourly(price) and _start_of(price) <= at]
    last = max(started, default=0)
    return [prices[last].prices, *(price.prices for price in prices[last + 1 :] if _is_hourly(price))]


def _is_hourly(price: ConditionalPrice) -> bool:
    return price.constraint is not None and not isinstance(price.constraint, StartDateConstraint)


def _start_of(price: ConditionalPrice) -> datetime:
    if isinstance(price.constraint, StartDateConstraint):
        return datetime.combine(price.constraint.start_date, time.min, tzinfo=UTC)
    return BEGINNING


def _dearest(prices: Sequence[ModelPrice]) -> Tiers:
    """One set of tiers; of several, the dearest figure of each kind, so that no hold is too small."""
    thresholds = sorted({0}.union(*map(_thresholds, prices)))
    return {above: _dearest_rates([_rates(price, above) for price in prices]) for above in thresholds}


def _thresholds(price: ModelPrice) -> set[int]:
    return {tier.start for value in vars(price).values() if isinstance(value, TieredPrices) for tier in value.tiers}


def _dearest_rates(rates: Sequence[Rates]) -> Rates:
    writes = [each.cache_write_ticks for each in rates]
    return Rates(
        input_ticks=max(each.input_ticks for each in rates),
        cached_input_ticks=max(each.cached_input_ticks for each in rates),
        cache_write_ticks=max((write for write in writes if write is not None), default=None),
        output_ticks=max(each.output_ticks for each in rates),
    )


def _rates(price: ModelPrice, above: int) -> Rates:
    figures = {name: value for name, value in vars(price).items() if value is not None and name not in NOT_CHARGED}
    if unknown := figures.keys() - {"input_mtok", "cache_read_mtok", "cache_write_mtok", "output_mtok"}:
        raise ValueError(f"is priced by {sorted(unknown)[0]}, which the guard does not charge")
    if missing := {"input_mtok", "output_mtok"} - figures.keys():
        raise ValueError(f"has no {sorted(missing)[0]}")
    ticks = {name: _ticks(name, _figure_above(value, above)) for name, value in figures.items()}
    return Rates(
        input_ticks=ticks["input_mtok"],
        cached_input_ticks=ticks.get("cache_read_mtok", ticks["input_mtok"]),
        cache_write_ticks=ticks.get("cache_write_mtok"),
        output_ticks=ticks["output_mtok"],
    )


def _figure_above(value: Decimal | TieredPrices, above: int) -> Decimal:
    """USD per million tokens of a request of more than `above` input tokens; the package's tiers are
    ours: each begins past its threshold and prices the whole request."""
    if isinstance(value, Decimal):
        return value
    return next((tier.price for tier in reversed(value.tiers) if tier.start <= above), value.base)


def _ticks(name: str, usd_per_million: Decimal) -> int:
    if usd_per_million < 0:
        raise ValueError(f"has a negative {name}")
    try:
        return ticks_from_usd(usd_per_million, TICKS_PER_TOKEN_AT_ONE_USD_PER_MILLION)
    except ValueError as error:
        raise ValueError(f"has a {name} of {usd_per_million} USD, which {error}") from None


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


def prices_in_force(now: datetime) -> dict[str, Price]:
    """Each priced model's price at `now`, with its tiers: the operator's latest, else the catalogue's."""
    holding = Q(ends_at=None) | Q(ends_at__gt=now)
    started = Price.objects.filter(holding, starts_at__lte=now, tiers__above_tokens=0).order_by("starts_at")
    in_force: dict[str, Price] = {}
    for source in (PriceSource.CATALOGUE, PriceSource.OPERATOR):
        in_force |= {price.model_id: price for price in started.filter(source=source).prefetch_related("tiers")}
    return in_force


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
