"""What cached input saved: the cached tokens of each day, at what the model's input cost more than cached on it."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from dashboard.date_spans import Span, midnight
from dashboard.queries.sums import Row
from spend.pricing.rates import load_history


@dataclass(frozen=True)
class CachedSaving:
    """Input tokens that were cached, and how much less they cost; `input_tokens` are all."""

    tokens: int
    input_tokens: int
    saved_ticks: int


def cached_saving(rows: Iterable[Row], span: Span) -> CachedSaving:
    """By the base price in force when each day ends: the sums don't know which tokens were in a higher tier."""
    rows = list(rows)
    cached = [row for row in rows if row.figures.cached_input_tokens]
    history = load_history({row.model for row in cached}) if cached else None
    saved_ticks = 0
    for row in cached:
        ends_at = midnight(row.day + timedelta(days=1), span.zone) - timedelta(microseconds=1)
        if history and (price := history.price_at(row.model, ends_at)):
            base = price.tiers[0]
            saved_ticks += row.figures.cached_input_tokens * (base.input_ticks - base.cached_input_ticks)
    tokens = sum(row.figures.cached_input_tokens for row in rows)
    return CachedSaving(tokens, sum(row.figures.input_tokens for row in rows), saved_ticks)
