"""Made-up history in bulk, for the bench and for looking at full pages: books that balance, made fast.

Python writes one staging row a call; the windows, reservations, entries, calls and rollups are then
derived from it by set-based SQL, so that they agree by construction.
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from itertools import islice
from typing import Any, NamedTuple

from django.db import connection, transaction
from django.db.models import Max

from spend.models import DEMO, CatalogueModel, Price, PriceSource, PriceTier, Route, Window
from tenants.models import ApiKey, Budget, DowngradeRule, RouteStep, Scope, Tenant
from tenants.money import TICKS_PER_USD
from tenants.periods import BEGINNING, Period, bounds

DAYS = 90
ZONES = ["UTC", "Europe/Berlin", "America/New_York"]
HOURS = [1, 1, 1, 1, 1, 2, 3, 5, 8, 10, 11, 11, 10, 10, 11, 11, 10, 8, 6, 5, 4, 3, 2, 1]
"""How busy each hour is."""

# Input, cached input and output, in ticks a token.
PRICES = {
    "bench-large": (12_500, 2_000, 25_000),
    "bench-medium": (4_000, 1_000, 12_000),
    "bench-small": (1_000, 250, 4_000),
}
LARGE, MEDIUM, SMALL = PRICES
TURNS = 4
"""Calls a conversation, on average; a customer has as many conversations."""
BATCH = 20_000

REFUSED_SHARE = 0.015
LARGE_SHARE = 0.7

STAGED = [
    "call_id", "reservation_id", "request_id", "tenant_id", "key_id", "customer", "conversation", "provider",
    "price_id", "at", "bucket", "day_starts_at", "day_ends_at", "month_starts_at", "month_ends_at", "duration_ms",
    "outcome", "code", "model", "requested_model", "route", "input_tokens", "cached_input_tokens", "output_tokens",
    "cost_ticks", "hold_ticks",
]  # fmt: skip

Actor = tuple[Tenant, int]
"""A tenant and the id of its key."""


def make(entries: int, tenants: int, now: datetime, prefix: str = "bench", days: int = DAYS) -> None:
    """`entries` ledger entries over `tenants` new tenants, the busiest far busier than the rest."""
    prices = _catalogue()
    actors = _actors(tenants, prefix)
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(STAGING[connection.vendor])
        _stage(cursor, _calls(entries, actors, prices, now, days))
        for statement in DERIVED[connection.vendor]:
            cursor.execute(statement)
        cursor.execute("DROP TABLE bench_call")
    _set_limits(actors)
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE")


def _catalogue() -> dict[str, int]:
    """The bench's models, each with a price; their prices' ids."""
    prices = {}
    for name, (input_ticks, cached_input_ticks, output_ticks) in PRICES.items():
        model, _ = CatalogueModel.objects.get_or_create(
            id=name, defaults={"provider": DEMO, "upstream_name": name, "is_enabled": False}
        )
        price, is_new = Price.objects.get_or_create(model=model, starts_at=BEGINNING, source=PriceSource.OPERATOR)
        if is_new:
            PriceTier.objects.create(
                price=price, input_ticks=input_ticks, cached_input_ticks=cached_input_ticks, output_ticks=output_ticks
            )
        prices[name] = price.pk
    return prices


def _actors(count: int, prefix: str) -> list[Actor]:
    return [
        _actor(f"{prefix}-{number:04}", f"{prefix.capitalize()} shop {number}", number)
        for number in range(1, count + 1)
    ]


def _actor(tenant_id: str, name: str, number: int) -> Actor:
    tenant = Tenant.objects.create(id=tenant_id, name=name, time_zone=ZONES[number % len(ZONES)])
    for position, model in enumerate((LARGE, MEDIUM)):
        RouteStep.objects.create(tenant=tenant, position=position, model_id=model)
    DowngradeRule.objects.create(tenant=tenant, to_model_id=SMALL)
    key, _ = ApiKey.objects.issue(tenant, "bench")
    return tenant, key.pk


def _shares(total: int, count: int) -> list[int]:
    """`total` in `count` parts: the second half as big as the first, the third a third, and so on."""
    weights = [1 / rank for rank in range(1, count + 1)]
    shares = [int(total * weight / sum(weights)) for weight in weights]
    shares[0] += total - sum(shares)
    return shares


def _calls(
    entries: int, actors: Sequence[Actor], prices: dict[str, int], now: datetime, days: int
) -> Iterator[tuple[Any, ...]]:
    dice = random.Random(entries)
    for (tenant, key_id), share in zip(actors, _shares(entries, len(actors)), strict=True):
        shop = Shop(dice, tenant, key_id, prices)
        for day in range(days):
            count = share * (day + 1) // days - share * day // days
            midnight = datetime.combine((now - timedelta(days=days - 1 - day)).date(), time.min, tzinfo=UTC)
            yield from shop.day(midnight, min(now, midnight + timedelta(days=1)), count)


@dataclass
class Shop:
    """One tenant's customers, and the calls that come of them, as staging rows."""

    dice: random.Random
    tenant: Tenant
    key_id: int
    prices: dict[str, int]
    periods: dict[tuple[date, int], tuple[Any, ...]] = field(default_factory=dict)

    def day(self, starts_at: datetime, ends_at: datetime, count: int) -> Iterator[tuple[Any, ...]]:
        """`count` served calls, and now and then one refused."""
        while count > 0:
            turns = min(count, self.dice.randint(1, 2 * TURNS - 1))
            count -= turns
            customer = f"customer-{int(self.dice.expovariate(1 / 40)) + 1}"
            conversation = f"conv-{self.dice.getrandbits(40):010x}"
            for _ in range(turns):
                at = self._moment(starts_at, ends_at)
                yield self._row(at, customer, conversation, self._served())
                if self.dice.random() < REFUSED_SHARE:
                    yield self._row(at, customer, conversation, REFUSED)

    def _moment(self, starts_at: datetime, ends_at: datetime) -> datetime:
        hour = self.dice.choices(range(24), HOURS)[0]
        at = starts_at + timedelta(hours=hour, microseconds=self.dice.randrange(3_600_000_000))
        return at if at < ends_at else starts_at + (ends_at - starts_at) * self.dice.random()

    def _served(self) -> "Happening":
        requested = LARGE if self.dice.random() < LARGE_SHARE else MEDIUM
        served = [(requested, Route.PRIMARY), (SMALL, Route.DOWNGRADE), (SMALL, Route.FALLBACK)]
        model, route = self.dice.choices(served, [88, 10, 2])[0]
        inputs = self.dice.randint(200, 4000)
        tokens = (inputs, self.dice.randrange(0, inputs // 2), self.dice.randint(20, 900))
        return Happening(
            "served",
            "",
            model,
            requested,
            route.value,
            *tokens,
            _cost(model, *tokens),
            _cost(model, 2 * inputs, 0, 1024),
        )

    def _row(self, at: datetime, customer: str, conversation: str, what: "Happening") -> tuple[Any, ...]:
        """In the order of STAGED."""
        call_id = self._id(at)
        bucket = at.replace(minute=at.minute // 15 * 15, second=0, microsecond=0)
        return (
            call_id, self._id(at), f"req_{call_id}", self.tenant.id, self.key_id, customer, conversation, "demo",
            self.prices.get(what.model, 0), at, bucket, *self._periods_at(at), self.dice.randint(300, 6000), *what,
        )  # fmt: skip

    def _id(self, at: datetime) -> str:
        """Ordered by time, as the guard's own ids are."""
        return f"{int(at.timestamp() * 1000):012x}7{self.dice.getrandbits(76):019x}"

    def _periods_at(self, at: datetime) -> tuple[Any, ...]:
        """The tenant's day and month, worked out once an hour of history."""
        hour = (at.date(), at.hour)
        if hour not in self.periods:
            zone = self.tenant.zone
            self.periods[hour] = (*bounds(Period.DAY, zone, at), *bounds(Period.MONTH, zone, at))
        return self.periods[hour]


class Happening(NamedTuple):
    """How a call went."""

    outcome: str
    code: str
    model: str
    requested_model: str
    route: str
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    cost_ticks: int = 0
    hold_ticks: int = 0


REFUSED = Happening("refused", "budget_exceeded", "", LARGE, "")


def _cost(model: str, inputs: int, cached: int, outputs: int) -> int:
    input_ticks, cached_input_ticks, output_ticks = PRICES[model]
    return (inputs - cached) * input_ticks + cached * cached_input_ticks + outputs * output_ticks


def _stage(cursor: Any, rows: Iterable[tuple[Any, ...]]) -> None:
    columns = ", ".join(STAGED)
    if connection.vendor == "postgresql":
        with cursor.copy(f"COPY bench_call ({columns}) FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
        cursor.execute("ANALYZE bench_call")
        return
    remaining = iter(rows)
    statement = f"INSERT INTO bench_call ({columns}) VALUES ({', '.join(['%s'] * len(STAGED))})"
    while batch := list(islice(remaining, BATCH)):
        cursor.executemany(statement, [_as_stored(row) for row in batch])


def _as_stored(row: tuple[Any, ...]) -> tuple[Any, ...]:
    adapt = connection.ops.adapt_datetimefield_value
    return tuple(adapt(value) if isinstance(value, datetime) else value for value in row)


def _set_limits(actors: Iterable[Actor]) -> None:
    """A limit a quarter above the dearest period so far, so that no history breaks it."""
    for tenant, _ in actors:
        for period in (Period.DAY, Period.MONTH):
            windows = Window.objects.filter(tenant_id=tenant.id, scope=Scope.TENANT, period=period)
            most = windows.aggregate(most=Max("spent_ticks"))["most"] or 0
            limit = (-(-most * 5 // 4 // TICKS_PER_USD) or 1) * TICKS_PER_USD
            Budget.objects.create(tenant=tenant, period=period, limit_ticks=limit)


_COLUMNS = """
    call_id {uuid}, reservation_id {uuid}, request_id text, tenant_id text, key_id bigint, customer text,
    conversation text, provider text, model text, requested_model text, route text, price_id bigint, outcome text,
    code text, at {time}, bucket {time}, day_starts_at {time}, day_ends_at {time}, month_starts_at {time},
    month_ends_at {time}, input_tokens bigint, cached_input_tokens bigint, output_tokens bigint, cost_ticks bigint,
    hold_ticks bigint, duration_ms bigint
"""
STAGING = {
    "postgresql": f"CREATE TEMP TABLE bench_call ({_COLUMNS.format(uuid='uuid', time='timestamptz')})",
    "sqlite": f"CREATE TEMP TABLE bench_call ({_COLUMNS.format(uuid='char(32)', time='datetime')})",
}

_WINDOWS = """
    INSERT INTO spend_window (
        tenant_id, scope, subject, period, starts_at, ends_at, opening_ticks, spent_ticks, held_ticks
    )
    SELECT tenant_id, 'tenant', '', '{period}', {period}_starts_at, {period}_ends_at, 0, SUM(cost_ticks), 0
    FROM bench_call WHERE outcome = 'served' GROUP BY tenant_id, {period}_starts_at, {period}_ends_at
"""
_WHO = (
    "call_id, request_id, tenant_id, key_id, customer, conversation, provider, model, requested_model, route, price_id"
)
_RESERVATIONS = """
    INSERT INTO spend_reservation (
        id, {who}, state, hold_ticks, max_tokens, window_ids, created_at, lease_expires_at, ended_at
    )
    SELECT reservation_id, {staged}, 'settled', hold_ticks, 1024, {windows}, at, {lease}, {end}
    FROM bench_call AS staged
    JOIN spend_window AS days ON days.tenant_id = staged.tenant_id AND days.scope = 'tenant'
        AND days.subject = '' AND days.period = 'day' AND days.starts_at = day_starts_at
    JOIN spend_window AS months ON months.tenant_id = staged.tenant_id AND months.scope = 'tenant'
        AND months.subject = '' AND months.period = 'month' AND months.starts_at = month_starts_at
    WHERE outcome = 'served'
"""
_STAGED_WHO = ", ".join(f"staged.{name.strip()}" for name in _WHO.split(","))
_ENTRIES = f"""
    INSERT INTO spend_ledgerentry (
        reservation_id, {_WHO}, at, cost_ticks, hold_ticks, computed_ticks, provider_ticks, input_tokens,
        cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, is_estimated, is_overrun,
        is_expired, duration_ms
    )
    SELECT reservation_id, {_WHO}, at, cost_ticks, hold_ticks, cost_ticks, NULL, input_tokens, cached_input_tokens,
        0, output_tokens, 0, FALSE, FALSE, FALSE, duration_ms
    FROM bench_call WHERE outcome = 'served' ORDER BY at
"""
_CALLS = """
    INSERT INTO spend_call (
        id, request_id, tenant_id, key_id, customer, conversation, at, requested_model, model, route, outcome, code,
        cost_ticks, duration_ms, steps
    )
    SELECT call_id, request_id, tenant_id, key_id, customer, conversation, at, requested_model, model, route, outcome,
        code, cost_ticks, duration_ms, {steps}
    FROM bench_call ORDER BY at
"""
_ROLLUPS = """
    INSERT INTO spend_rollup (
        tenant_id, bucket, model, route, attempts, cost_ticks, input_tokens, cached_input_tokens, output_tokens,
        reasoning_tokens, served, refused, failed
    )
    SELECT tenant_id, bucket, model, route, SUM(CASE WHEN outcome = 'served' THEN 1 ELSE 0 END), SUM(cost_ticks),
        SUM(input_tokens), SUM(cached_input_tokens), SUM(output_tokens), 0,
        SUM(CASE WHEN outcome = 'served' THEN 1 ELSE 0 END), SUM(CASE WHEN outcome = 'refused' THEN 1 ELSE 0 END), 0
    FROM bench_call GROUP BY tenant_id, bucket, model, route
"""
_DIALECTS = {
    "postgresql": {
        "windows": "jsonb_build_array(days.id, months.id)",
        "lease": "at + interval '15 minutes'",
        "end": "at + duration_ms * interval '1 millisecond'",
        "steps": """CASE outcome WHEN 'served'
            THEN jsonb_build_array(jsonb_build_object('model', model, 'decision', 'held', 'hold_ticks', hold_ticks))
            ELSE jsonb_build_array(jsonb_build_object('model', requested_model, 'decision', 'does_not_fit')) END""",
    },
    "sqlite": {
        "windows": "json_array(days.id, months.id)",
        "lease": "strftime('%Y-%m-%d %H:%M:%f', at, '+15 minutes')",
        "end": "strftime('%Y-%m-%d %H:%M:%f', at, (duration_ms / 1000.0) || ' seconds')",
        "steps": """CASE outcome WHEN 'served'
            THEN json_array(json_object('model', model, 'decision', 'held', 'hold_ticks', hold_ticks))
            ELSE json_array(json_object('model', requested_model, 'decision', 'does_not_fit')) END""",
    },
}


def _derived(dialect: dict[str, str]) -> list[str]:
    return [
        _WINDOWS.format(period="day"),
        _WINDOWS.format(period="month"),
        _RESERVATIONS.format(who=_WHO, staged=_STAGED_WHO, **dialect),
        _ENTRIES,
        _CALLS.format(**dialect),
        _ROLLUPS,
    ]


DERIVED = {vendor: _derived(dialect) for vendor, dialect in _DIALECTS.items()}
