"""A month as a FOCUS cost and usage dataset, version 1.3 (FinOps Open Cost and Usage Specification): docs/focus.md.

A row for each day of the tenant, model, price, set of tags and kind of token, priced at its list price; and, where the
provider billed another sum than the list prices give (or where usage is unknown), an adjustment row for the
difference. So BilledCost sums to the ledger exactly, and each usage row's ListUnitPrice × PricingQuantity is
its ListCost exactly. Units and prices are those of the providers' price lists, USD for a million tokens.
"""

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

from django.db.models import Max, OuterRef, Subquery
from django.db.models.functions import Coalesce

from dashboard.date_spans import Span, midnight
from dashboard.exports.csv_response import Number, usd_cell
from spend.models import LedgerEntry, Price, PriceTier, provider_label
from spend.pricing.cost import PriceList
from spend.pricing.rates import price_list_of
from spend.summaries.measures import sums_of
from tenants.models import Tenant

COLUMNS = [
    "BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodEnd",
    "BillingPeriodStart", "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargeFrequency",
    "ChargePeriodEnd", "ChargePeriodStart", "ConsumedQuantity", "ConsumedUnit", "ContractedCost",
    "EffectiveCost", "HostProviderName", "InvoiceId", "InvoiceIssuerName", "ListCost", "ListUnitPrice",
    "PricingCategory", "PricingQuantity", "PricingUnit", "ProviderName", "PublisherName", "ServiceCategory",
    "ServiceName", "ServiceProviderName", "ServiceSubcategory", "SkuId", "SkuMeter", "SkuPriceDetails", "SkuPriceId",
    "Tags", "x_Model",
]  # fmt: skip

PROVIDERS = ("HostProviderName", "InvoiceIssuerName", "ProviderName", "PublisherName", "ServiceProviderName")
"""One and the same here. Version 1.3 has new names for the third and fourth, and still wants both."""

CONSUMED_UNIT = "Tokens"
MILLION = 10**6
PRICING_UNIT = f"{MILLION} Tokens"


class DaySum(NamedTuple):
    """A day's entries of one model at one price and tier, summed."""

    provider: str
    model: str
    price_id: int
    tags: str
    tier: int
    cost_ticks: int
    input_tokens: int
    cached_input_tokens: int
    cache_write_tokens: int
    output_tokens: int


SUMMED = DaySum._fields[5:]


def focus_rows(tenant: Tenant, span: Span) -> Iterator[list[Any]]:
    """The dataset's rows in COLUMNS' order, day by day."""
    for day in span.days():
        for day_sum, price in _priced_day(tenant, day, span):
            yield from _rows(tenant, span, day, day_sum, price)


def _priced_day(tenant: Tenant, day: date, span: Span) -> Iterator[tuple[DaySum, PriceList | None]]:
    sums = [
        DaySum(*row) for row in _sums(tenant, midnight(day, span.zone), midnight(day + timedelta(days=1), span.zone))
    ]
    if not sums:
        return
    prices = Price.objects.filter(pk__in={each.price_id for each in sums}).prefetch_related("tiers")
    lists = {price.pk: price_list_of(price) for price in prices}
    for each in sums:
        yield each, lists.get(each.price_id)


def _sums(tenant: Tenant, starts_at: datetime, ends_at: datetime) -> Any:
    """The tier of an entry is the highest that its input passes."""
    passed = PriceTier.objects.filter(price_id=OuterRef("price_id"), above_tokens__lt=OuterRef("input_tokens"))
    highest = passed.order_by().values("price_id").annotate(highest=Max("above_tokens")).values("highest")
    return (
        LedgerEntry.objects.filter(tenant=tenant, at__gte=starts_at, at__lt=ends_at)
        .annotate(tier=Coalesce(Subquery(highest), 0))
        .order_by("provider", "model", "price_id", "tags", "tier")
        .values_list("provider", "model", "price_id", "tags", "tier")
        .annotate(**sums_of(SUMMED))
    )


def _rows(tenant: Tenant, span: Span, day: date, sums: DaySum, price: PriceList | None) -> Iterator[list[Any]]:
    listed_ticks = 0
    for meter, tokens, unit_ticks in _meters(sums, price):
        listed_ticks += tokens * unit_ticks
        if tokens:
            yield _row(tenant, span, day, sums, _usage(sums, meter, tokens, unit_ticks))
    if difference := sums.cost_ticks - listed_ticks:
        yield _row(tenant, span, day, sums, _adjustment(sums, difference))


def _meters(sums: DaySum, price: PriceList | None) -> list[tuple[str, int, int]]:
    """Kind of token, how many, ticks each."""
    if price is None:
        return []
    tier = next((tier for tier in price.tiers if tier.above_tokens == sums.tier), price.tiers[0])
    plain = sums.input_tokens - sums.cached_input_tokens - sums.cache_write_tokens
    return [
        ("Input Tokens", plain, tier.input_ticks),
        ("Cached Input Tokens", sums.cached_input_tokens, tier.cached_input_ticks),
        ("Cache Write Tokens", sums.cache_write_tokens, tier.cache_write_ticks),
        ("Output Tokens", sums.output_tokens, tier.output_ticks),
    ]


def _usage(sums: DaySum, meter: str, tokens: int, unit_ticks: int) -> dict[str, Any]:
    tier = f" above {sums.tier} input tokens" if sums.tier else ""
    sku = f"{sums.provider}/{sums.model}/{meter}"
    return {
        **_costs(tokens * unit_ticks),
        "ChargeCategory": "Usage",
        "ChargeDescription": f"{meter} of {sums.model}{tier}",
        "ChargeFrequency": "Usage-Based",
        "ConsumedQuantity": Number(Decimal(tokens)),
        "ConsumedUnit": CONSUMED_UNIT,
        "ListUnitPrice": usd_cell(unit_ticks * MILLION),
        "PricingCategory": "Standard",
        "PricingQuantity": Number(Decimal(tokens) / MILLION),
        "PricingUnit": PRICING_UNIT,
        "SkuId": sku,
        "SkuMeter": meter,
        "SkuPriceDetails": json.dumps({"x_AboveInputTokens": f"{sums.tier}"}),
        "SkuPriceId": f"{sku}/{sums.tier}",  # the same when the price changes
    }


def _adjustment(sums: DaySum, ticks: int) -> dict[str, Any]:
    return {
        **_costs(ticks),
        "ChargeCategory": "Adjustment",
        "ChargeDescription": f"Difference between what {sums.model} was billed at and its list prices",
        "ChargeFrequency": "Usage-Based",
    }


def _costs(ticks: int) -> dict[str, Any]:
    return dict.fromkeys(["BilledCost", "ContractedCost", "EffectiveCost", "ListCost"], usd_cell(ticks))


def _row(tenant: Tenant, span: Span, day: date, sums: DaySum, charge: dict[str, Any]) -> list[Any]:
    provider = provider_label(sums.provider)
    cells = {
        "BillingAccountId": tenant.id,
        "BillingAccountName": str(tenant),
        "BillingCurrency": "USD",
        "BillingPeriodStart": _instant(span.starts_at),
        "BillingPeriodEnd": _instant(span.ends_at),
        "ChargePeriodStart": _instant(midnight(day, span.zone)),
        "ChargePeriodEnd": _instant(midnight(day + timedelta(days=1), span.zone)),
        **dict.fromkeys(PROVIDERS, provider),
        "ServiceCategory": "AI and Machine Learning",
        "ServiceName": f"{provider} chat completions",
        "ServiceSubcategory": "Generative AI",
        "Tags": json.dumps(dict.fromkeys(filter(None, sums.tags.split(",")), True)) if sums.tags else None,
        "x_Model": sums.model,
        **charge,
    }
    return [cells.get(column) for column in COLUMNS]


def _instant(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
