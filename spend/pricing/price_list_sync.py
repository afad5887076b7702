"""The price list: the current chat and embedding models and their prices, out of the genai-prices package. Pure.

The package ships its prices with its wheel. Nothing else imports it: reading it costs a fifth of a second,
and only `manage.py sync_prices` needs it.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, time
from decimal import Decimal

from genai_prices import data_snapshot
from genai_prices.types import ConditionalPrice, ModelInfo, ModelPrice, StartDateConstraint, TieredPrices

from spend.capabilities import is_embedding_family
from spend.models import OPENAI, XAI
from spend.pricing.catalogue import ListedModel, Rates, Tiers
from tenants.money import TICKS_PER_TOKEN_AT_ONE_USD_PER_MILLION, ticks_from_usd
from tenants.periods import BEGINNING

PROVIDERS = {"x-ai": XAI, "openai": OPENAI}

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

# Of a model whose context the package does not give.
SMALLEST_CONTEXT_TOKENS = 128_000

# Billed by other units, for things that the guard refuses to pass on (server-side tools).
NOT_CHARGED = frozenset(["web_searches_kcount", "storage_searches_kcount"])


def listed_models() -> tuple[list[ListedModel], dict[str, str]]:
    """The package's current chat models, embedding models, and those refused, with the reason."""
    models, refused = [], {}
    for source in data_snapshot.get_snapshot().providers:
        for model in source.models if source.id in PROVIDERS else ():
            if not (is_chat_model(model.id) or is_embedding_family(model.id)):
                continue
            try:
                models.append(read_model(model, PROVIDERS[source.id]))
            except ValueError as error:
                refused[model.id] = str(error)
    return models, refused


def is_chat_model(name: str) -> bool:
    found = NAME.fullmatch(name)
    return found is not None and name not in RETIRED and NOT_CHAT.isdisjoint(found["words"].split("-"))


def read_model(model: ModelInfo, provider: str) -> ListedModel:
    """Raises ValueError where the prices are not whole ticks a token or have a unit we don't charge."""
    return ListedModel(
        id=model.id,
        provider=provider,
        context_tokens=model.context_window or SMALLEST_CONTEXT_TOKENS,
        prices={start: _dearest(_with_output(model, prices)) for start, prices in _history(model).items()},
    )


def _with_output(model: ModelInfo, prices: list[ModelPrice]) -> list[ModelPrice]:
    """Embeddings have no output, and so no price of one."""
    if not is_embedding_family(model.id):
        return prices
    return [ModelPrice(**{**vars(price), "output_mtok": price.output_mtok or Decimal(0)}) for price in prices]


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
