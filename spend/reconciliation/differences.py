"""Ledger and invoice side by side, with why they differ as far as that is known. Pure, but for what it reads."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import groupby
from typing import Any

from django.conf import settings

from spend.models import InvoicedDay, LedgerDay
from tenants.money import TICKS_PER_USD, usd_rounded

ROUNDING_TICKS = TICKS_PER_USD // 200
"""Half a cent: what an invoice in cents may be off by in each of its lines."""
SETTLED_AFTER = timedelta(days=2)
"""Providers report a day's last calls late."""
SMALLEST_TOLD_TICKS = TICKS_PER_USD


@dataclass(frozen=True)
class Compared:
    """A model on a day; `invoiced_ticks` is None where the provider has told nothing of that day at all."""

    day: date
    model: str
    ledger_ticks: int = 0
    attempts: int = 0
    uncertain: int = 0
    uncertain_ticks: int = 0
    invoiced_ticks: int | None = None

    @property
    def is_invoiced(self) -> bool:
        return self.invoiced_ticks is not None

    @property
    def difference_ticks(self) -> int:
        """Above zero: the provider bills more than the ledger has."""
        return 0 if self.invoiced_ticks is None else self.invoiced_ticks - self.ledger_ticks

    def why(self, today: date) -> str:
        """A sentence; empty where the two agree."""
        if self.invoiced_ticks is None or self.difference_ticks == 0:
            return ""
        if abs(self.difference_ticks) <= ROUNDING_TICKS:
            return "Rounding."
        if self.attempts == 0:
            return "No call of the guard's: another key of that account."
        if self.difference_ticks > 0:
            return "Another key of that account, or a price that is not the catalogue's."
        if today - self.day < SETTLED_AFTER:
            return "The provider has not reported all of that day yet."
        return self._why_less()

    def _why_less(self) -> str:
        if not self.uncertain:
            return "Billed to another account, or at a lower price than the catalogue's."
        calls = f"{self.uncertain:,} call{'s' * (self.uncertain != 1)} whose bill never came"
        counted = f"counted at ${usd_rounded(self.uncertain_ticks)} at most"
        if -self.difference_ticks <= self.uncertain_ticks + ROUNDING_TICKS:
            return f"{calls}, {counted}."
        return f"{calls}, {counted}, explain a part; the rest may be billed to another account."


@dataclass(frozen=True)
class Day:
    """All models of a provider on a day."""

    provider: str
    day: date
    models: list[Compared]

    @property
    def is_invoiced(self) -> bool:
        return any(model.is_invoiced for model in self.models)

    @property
    def ledger_ticks(self) -> int:
        return sum(model.ledger_ticks for model in self.models)

    @property
    def invoiced_ticks(self) -> int:
        return sum(model.invoiced_ticks or 0 for model in self.models)

    @property
    def difference_ticks(self) -> int:
        return self.invoiced_ticks - self.ledger_ticks if self.is_invoiced else 0

    @property
    def percent(self) -> int:
        """The difference, whole percent of the greater of the two, rounded down."""
        return abs(self.difference_ticks) * 100 // max(self.ledger_ticks, self.invoiced_ticks, 1)

    def is_to_be_told(self, today: date) -> bool:
        is_large = abs(self.difference_ticks) >= SMALLEST_TOLD_TICKS
        return is_large and self.percent >= settings.INVOICE_ALERT_PERCENT and today - self.day >= SETTLED_AFTER


def days_compared(first: date, last: date, provider: str = "") -> list[Day]:
    """The days of which either has something, the newest first."""
    wanted: dict[str, Any] = {"day__gte": first, "day__lte": last} | ({"provider": provider} if provider else {})
    in_ledger = {_place(row): row for row in LedgerDay.objects.filter(**wanted)}
    invoiced = {_place(row): row.cost_ticks for row in InvoicedDay.objects.filter(**wanted)}
    told_of = {place[:2] for place in invoiced}
    places = sorted({*in_ledger, *invoiced}, key=lambda place: (-place[1].toordinal(), place[0], place[2]))
    return [
        Day(provider, day, list(_compared(models, in_ledger, invoiced, told_of)))
        for (provider, day), models in groupby(places, key=lambda place: place[:2])
    ]


Place = tuple[str, date, str]


def _place(row: LedgerDay | InvoicedDay) -> Place:
    return row.provider, row.day, row.model


def _compared(
    places: Iterable[Place],
    in_ledger: dict[Place, LedgerDay],
    invoiced: dict[Place, int],
    told_of: set[tuple[str, date]],
) -> Iterator[Compared]:
    for place in places:
        provider, day, model = place
        row = in_ledger.get(place) or LedgerDay(cost_ticks=0, attempts=0, uncertain=0, uncertain_ticks=0)
        yield Compared(
            day, model, row.cost_ticks, row.attempts, row.uncertain, row.uncertain_ticks,
            invoiced.get(place, 0) if (provider, day) in told_of else None,
        )  # fmt: skip
