"""What an invoice says of a day: read, named as the catalogue does, and kept in the place of what was known of it."""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable
from datetime import date, datetime
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from typing import NamedTuple

from django.db import transaction

from spend.models import CatalogueModel, InvoicedDay, InvoiceSource
from tenants.money import TICKS_PER_USD, ticks_from_usd

LONGEST_NAME = 200
AFTER_A_NAME = re.compile(r"(-\d{4}-?\d\d-?\d\d)?([ ,:;(/].*)?", re.DOTALL)
"""A model's dated version, and what of it is billed: "gpt-6-luna-2026-05-01, cached input"."""


class Line(NamedTuple):
    """`model` in the provider's words."""

    day: date
    model: str
    cost_ticks: int


def ticks_of(usd: Decimal) -> int:
    """Rounded to a tick: providers report what their own sums of floats come to. Raises ValueError."""
    if not usd.is_finite():
        raise ValueError("must be a finite number")
    with localcontext(prec=80):
        return ticks_from_usd(usd.quantize(Decimal(1) / TICKS_PER_USD, ROUND_HALF_EVEN))


def take(provider: str, lines: Iterable[Line], days: Collection[date], source: InvoiceSource, now: datetime) -> None:
    """Make `lines` what is known of `days`: a day that none of them is of was billed nothing."""
    names = CatalogueModel.objects.filter(provider=provider).values_list("upstream_name", flat=True)
    by_length = sorted(names, key=len, reverse=True)
    costs: dict[tuple[date, str], int] = defaultdict(int)
    for line in lines:
        costs[line.day, name_of(line.model, by_length)] += line.cost_ticks
    rows = [
        InvoicedDay(provider=provider, day=day, model=model, cost_ticks=ticks, source=source, taken_at=now)
        for (day, model), ticks in costs.items()
    ]
    with transaction.atomic():
        InvoicedDay.objects.filter(provider=provider, day__in=days).delete()
        InvoicedDay.objects.bulk_create(rows)


def name_of(words: str, known: Iterable[str]) -> str:
    """The model's name of `known`, the longest first, that the words begin with; else the words themselves."""
    tidied = " ".join(words.split())
    for name in known:
        if tidied.lower().startswith(name.lower()) and AFTER_A_NAME.fullmatch(tidied[len(name) :]):
            return name
    return tidied[:LONGEST_NAME]
