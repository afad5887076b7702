"""Money in ticks: the integer unit of every amount in this project.

One tick is 1e-10 USD, the unit xAI bills in. Decimal USD exists only at the edges (forms, JSON,
pages); a float never touches an amount.
"""

from decimal import ROUND_HALF_EVEN, Decimal, localcontext

TICKS_PER_USD = 10_000_000_000
TICKS_PER_TOKEN_AT_ONE_USD_PER_MILLION = TICKS_PER_USD // 1_000_000
MAX_TICKS = 2**63 - 1
MOST_PLACES = 10
TOLD_APART_BY = 3
"""Digits of amounts below a cent."""


def ticks_from_usd(usd: Decimal, ticks_per_unit: int = TICKS_PER_USD) -> int:
    """Exact ticks of a Decimal amount.

    Raises ValueError for NaN, infinities, amounts finer than one tick, and amounts that do not
    fit a 64-bit integer.
    """
    if not usd.is_finite():
        raise ValueError("must be a finite number")
    if abs(usd.adjusted()) > 30:
        raise ValueError("is out of range")
    with localcontext(prec=80):
        ticks = usd * ticks_per_unit
        if ticks != ticks.to_integral_value():
            raise ValueError(f"must be a multiple of {usd_from_ticks(1, ticks_per_unit):f}")
    if abs(ticks) > MAX_TICKS:
        raise ValueError("is out of range")
    return int(ticks)


def usd_from_ticks(ticks: int, ticks_per_unit: int = TICKS_PER_USD) -> Decimal:
    """The exact Decimal USD of an amount in ticks."""
    with localcontext(prec=80):
        return Decimal(ticks) / ticks_per_unit


def usd_string(ticks: int, ticks_per_unit: int = TICKS_PER_USD) -> str:
    """Exact USD as a plain decimal string, at least two decimals: "5.00", "0.0232856"."""
    whole, _, decimals = f"{usd_from_ticks(ticks, ticks_per_unit):f}".partition(".")
    return f"{whole}.{decimals.rstrip('0').ljust(2, '0')}"


def usd_rounded(ticks: int, places: int = 2) -> str:
    """USD for people to read, rounded half-even and with thousands separators: "1,234.57"."""
    exponent = Decimal(1).scaleb(-places)
    return f"{usd_from_ticks(ticks).quantize(exponent, ROUND_HALF_EVEN):,f}"


def dollars(ticks: int, largest: int | None = None) -> str:
    """An amount as all pages write it: in cents, in hundredths of them below ten cents, and below one cent with the
    three digits that tell it apart: "$12.30", "−$0.0412", "$0.000305". Zero is "$0.00".

    `largest` is the largest amount of a column, whose decimals all of it has: "$0.04" beside "$12.30".
    """
    size = abs(ticks)
    text = usd_rounded(size, places_of(ticks if largest is None else largest)) if size else "0.00"
    if size and not text.strip("0.,"):
        text = usd_rounded(size, places_of(size))
    return f"{'−' if ticks < 0 else ''}${text}"


def places_of(ticks: int) -> int:
    """Decimals that an amount is written with."""
    size = abs(ticks)
    if size >= TICKS_PER_USD // 10:
        return 2
    if size >= TICKS_PER_USD // 100 or not size:
        return 4
    return min(MOST_PLACES, MOST_PLACES - len(str(size)) + TOLD_APART_BY)
