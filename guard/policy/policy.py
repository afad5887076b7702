"""The policy: what is allowed now, as the chat path reads it, without a query.

A snapshot of the whole configuration (tenants, keys, budgets, routes, catalogue, prices) is held per
process and read again within a second of a change: a background thread polls the one-row revision
(`tenants.trail`) and the breakers.  A snapshot is immutable, so a call sees one policy throughout.
"""

import asyncio
import logging
import threading
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, datetime
from time import monotonic
from typing import Any
from zoneinfo import ZoneInfo

from django.db import Error, connection
from django.utils import timezone

from spend.capabilities import UNKNOWN, Capabilities, Lesson, with_lessons
from spend.ledger.rules import CallGroup, CallLimit, Limit, WindowKey
from spend.models import Breaker, CatalogueModel, LearnedCapability
from spend.pricing.cost import PriceList
from spend.pricing.rates import PricePeriod, load_history, price_at
from tenants.budgets import EffectiveBudget, budgets_in_force
from tenants.models import ApiKey, Revision, Scope, Tenant
from tenants.periods import Bounds, Period, bounds

logger = logging.getLogger(__name__)

Asking = tuple[asyncio.AbstractEventLoop, "asyncio.Future[None]"]

POLL_S = 0.25
LEAST_S = 0.05
"""Between two looks at the database, however many ask for one."""
MOST_WAIT_S = 5.0
MAX_AGE_S = 10.0
"""A change that went round the audit trail, by bulk SQL, is seen after this long."""


@dataclass(frozen=True, slots=True)
class BudgetPolicy:
    scope: Scope
    period: Period
    limit_ticks: int
    soft_ticks: int
    hard_ticks: int

    @classmethod
    def of(cls, budget: EffectiveBudget) -> "BudgetPolicy":
        return cls(Scope(budget.scope), Period(budget.period), budget.limit_ticks, budget.soft_ticks, budget.hard_ticks)


@dataclass(frozen=True, slots=True)
class TenantPolicy:
    id: str
    is_active: bool
    zone: ZoneInfo
    default_max_tokens: int
    floor_max_tokens: int
    hide_money: bool
    route: tuple[str, ...]
    downgrades: tuple[tuple[str, str], ...]
    budgets: tuple[BudgetPolicy, ...]
    share_content: bool = False
    content_days: int = 0

    @property
    def models(self) -> tuple[str, ...]:
        """Every model that a call of this tenant may name: its route, then where downgrades lead."""
        return tuple(dict.fromkeys([*self.route, *(to for _, to in self.downgrades)]))


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast the calls of a key may come: by its own limits, and by its tenant's."""

    per_minute: tuple[CallLimit, ...] = ()
    in_flight: tuple[CallLimit, ...] = ()

    @classmethod
    def of(cls, key: ApiKey, tenant: Tenant) -> "Pace":
        limited = [(CallGroup(tenant.id, key.id), key), (CallGroup(tenant.id), tenant)]
        return cls(
            tuple(CallLimit(group, each.requests_per_minute) for group, each in limited if each.requests_per_minute),
            tuple(CallLimit(group, each.calls_in_flight) for group, each in limited if each.calls_in_flight),
        )


UNLIMITED = Pace()


@dataclass(frozen=True, slots=True)
class KeyPolicy:
    id: int
    tenant: TenantPolicy
    expires_at: datetime | None
    revoked_at: datetime | None
    pace: Pace = UNLIMITED

    def is_valid_at(self, now: datetime) -> bool:
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


@dataclass(frozen=True, slots=True)
class ModelPolicy:
    id: str
    provider: str
    upstream_name: str
    context_tokens: int
    max_output_tokens: int
    reasoning_allowance_tokens: int
    input_allowance_percent: int
    input_surplus_tokens: int
    input_raised_at: datetime | None
    image_allowance_tokens: int | None
    answer_timeout_s: int | None
    is_enabled: bool
    shutdown_on: date | None
    prices: tuple[PricePeriod, ...]
    """When which price holds, the winning one last."""
    capabilities: Capabilities = UNKNOWN

    def price_at(self, now: datetime) -> PriceList | None:
        return price_at(self.prices, now)


@dataclass(frozen=True, slots=True)
class Policy:
    """One snapshot."""

    tenants: Mapping[str, TenantPolicy]
    keys: Mapping[str, KeyPolicy]
    models: Mapping[str, ModelPolicy]
    installation: tuple[BudgetPolicy, ...]
    revision: int
    good_until: datetime | None = None
    """When the next top-up starts or ends, which changes a limit without a change of any row."""


@dataclass(slots=True)
class Clock:
    """The bounds of each zone's current periods, worked out once a period and not once a call."""

    current: dict[tuple[str, Period], Bounds] = field(default_factory=dict)

    def bounds(self, period: Period, zone: ZoneInfo, now: datetime) -> Bounds:
        found = self.current.get((zone.key, period))
        if found is None or now < found.starts_at or (found.ends_at is not None and now >= found.ends_at):
            found = self.current[(zone.key, period)] = bounds(period, zone, now)
        return found


UTC_ZONE = ZoneInfo("UTC")
CLOCK = Clock()


def limits_of(
    policy: Policy, tenant: TenantPolicy, key_id: int, customer: str, conversation: str, now: datetime
) -> tuple[Limit, ...]:
    """Every limit that binds a call at `now`: the installation's, then the tenant's own."""
    subjects = {
        Scope.TENANT: "",
        Scope.KEY: str(key_id),
        Scope.CUSTOMER: customer,
        Scope.CONVERSATION: conversation,
    }
    named = [budget for budget in tenant.budgets if budget.scope is Scope.TENANT or subjects[budget.scope]]
    return tuple(
        [_limit(budget, "", "", UTC_ZONE, now) for budget in policy.installation]
        + [_limit(budget, tenant.id, subjects[budget.scope], tenant.zone, now) for budget in named]
    )


def _limit(budget: BudgetPolicy, tenant_id: str, subject: str, zone: ZoneInfo, now: datetime) -> Limit:
    starts_at, ends_at = CLOCK.bounds(budget.period, zone, now)
    key = WindowKey(tenant_id, budget.scope.value, subject, budget.period.value, starts_at)
    return Limit(key, ends_at, budget.limit_ticks, budget.soft_ticks, budget.hard_ticks)


def load() -> Policy:
    """Read the whole configuration. The revision is read first: a change meanwhile is read again."""
    now = timezone.now()
    revision = Revision.current()
    rows = {tenant.id: tenant for tenant in Tenant.objects.prefetch_related("route_steps", "downgrade_rules")}
    in_force = budgets_in_force(now, rows.values())
    tenants = {tenant.id: _tenant_policy(tenant, in_force.of_tenants[tenant.id]) for tenant in rows.values()}
    keys = {
        key.digest: KeyPolicy(
            key.id, tenants[key.tenant_id], key.expires_at, key.revoked_at, Pace.of(key, rows[key.tenant_id])
        )
        for key in ApiKey.objects.all()
        if key.tenant_id in tenants
    }
    installation = tuple(BudgetPolicy.of(budget) for budget in in_force.of_installation)
    return Policy(tenants, keys, load_models(), installation, revision, in_force.until)


def _tenant_policy(tenant: Tenant, budgets: Iterable[EffectiveBudget]) -> TenantPolicy:
    return TenantPolicy(
        id=tenant.id,
        is_active=tenant.is_active,
        zone=tenant.zone,
        default_max_tokens=tenant.default_max_tokens,
        floor_max_tokens=tenant.floor_max_tokens,
        hide_money=tenant.hide_money,
        share_content=tenant.share_content,
        content_days=tenant.content_days,
        route=tuple(tenant.effective_route()),
        downgrades=tuple(tenant.effective_downgrades()),
        budgets=tuple(BudgetPolicy.of(budget) for budget in budgets),
    )


def load_models() -> dict[str, ModelPolicy]:
    models = CatalogueModel.objects.in_bulk()
    periods = load_history(models).periods
    learned: dict[str, list[Lesson]] = defaultdict(list)
    for row in LearnedCapability.objects.all():
        learned[row.model_id].append(row.lesson)
    return {name: _model_policy(model, periods.get(name, ()), learned[name]) for name, model in models.items()}


def _model_policy(model: CatalogueModel, prices: Sequence[PricePeriod], learned: Sequence[Lesson]) -> ModelPolicy:
    return ModelPolicy(
        id=model.id,
        provider=model.provider,
        upstream_name=model.upstream_name,
        context_tokens=model.context_tokens,
        max_output_tokens=model.max_output_tokens,
        reasoning_allowance_tokens=model.reasoning_allowance_tokens,
        input_allowance_percent=model.input_allowance_percent,
        input_surplus_tokens=model.input_surplus_tokens,
        input_raised_at=model.input_raised_at,
        image_allowance_tokens=model.image_allowance_tokens,
        answer_timeout_s=model.answer_timeout_s,
        is_enabled=model.is_enabled,
        shutdown_on=model.shutdown_on,
        prices=tuple(prices),
        capabilities=with_lessons(model.capabilities, learned),
    )


# Asked four times a second in each process: to put these together anew costs ten times what it costs to ask.
REVISION_QUERY, REVISION_PARAMS = Revision.objects.filter(pk=1).values_list("number").query.sql_with_params()
BREAKERS_QUERY, BREAKERS_PARAMS = Breaker.objects.all().query.sql_with_params()


def current_revision() -> int:
    """As `Revision.current`."""
    with connection.cursor() as cursor:
        cursor.execute(REVISION_QUERY, REVISION_PARAMS)
        row = cursor.fetchone()
    return row[0] if row else 0


def breaker_rows() -> list[tuple[Any, ...]]:
    """The breakers as the database has them, to see whether any has changed."""
    with connection.cursor() as cursor:
        cursor.execute(BREAKERS_QUERY, BREAKERS_PARAMS)
        return list(cursor.fetchall())


class PolicyKeeper:
    """Holds the current policy and the breakers' rows, and keeps both fresh from a thread of its own."""

    def __init__(self) -> None:
        self.policy = Policy({}, {}, {}, (), -1)
        self.breakers: dict[str, Breaker] = {}
        self.breaker_rows: list[tuple[Any, ...]] | None = None
        self.loaded_at = 0.0
        self.stopping = threading.Event()
        self.wanted = threading.Event()
        self.asked: deque[Asking] = deque()
        self.thread = threading.Thread(target=self._run, name="policy-keeper", daemon=True)

    def start(self) -> None:
        """Keep fresh what `refresh` read first."""
        self.thread.start()

    def stop(self) -> None:
        self.stopping.set()
        self.wanted.set()
        self.thread.join()

    async def look_again(self) -> None:
        """Return once the policy is as fresh as the database was when this was called.

        All who ask share the next look, and two looks begin LEAST_S apart: so a flood of them is no load.
        Raises django.db.Error, or TimeoutError where the database does not answer.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self.asked.append((loop, future))
        self.wanted.set()
        async with asyncio.timeout(MOST_WAIT_S):
            await future

    def refresh(self) -> None:
        if (rows := breaker_rows()) != self.breaker_rows:
            breakers = {breaker.model_id: breaker for breaker in Breaker.objects.all()}
            self.breaker_rows = rows  # before the breakers: one that is learnt between is then read again
            self.breakers = breakers
        if self._is_stale():
            self.policy = load()
            self.loaded_at = monotonic()

    def learn_breaker(self, breaker: Breaker) -> None:
        """What this worker has just written it knows at once: else a success right after a failure would not count."""
        self.breakers = {**self.breakers, breaker.model_id: breaker}
        self.breaker_rows = None  # it may be older than what stands there by now

    def _is_stale(self) -> bool:
        good_until = self.policy.good_until
        return (
            current_revision() != self.policy.revision
            or monotonic() - self.loaded_at > MAX_AGE_S
            or (good_until is not None and timezone.now() >= good_until)
        )

    def _run(self) -> None:
        try:
            while not self.stopping.wait(LEAST_S):
                self.wanted.wait(POLL_S - LEAST_S)
                self.wanted.clear()  # before those who asked are counted: who asks from here on is for the next look
                asked = [self.asked.popleft() for _ in range(len(self.asked))]
                _answer(asked, self._look())
        finally:
            connection.close()

    def _look(self) -> Exception | None:
        """Refresh; the error, if that failed."""
        try:
            self.refresh()
        except Error as error:
            # The writer refuses calls where the database is away; the last policy stands meanwhile.
            logger.warning("the policy could not be read: %s", error)
            connection.close()  # else kept: to connect costs ten times what is asked
            return error
        except Exception as error:  # without this thread the policy would stay as it is for ever
            logger.exception("the policy could not be read")
            return error
        return None


def _answer(asked: Sequence[Asking], error: Exception | None) -> None:
    for loop, future in asked:
        with suppress(RuntimeError):  # a loop that is closed
            loop.call_soon_threadsafe(_resolve, future, error)


def _resolve(future: "asyncio.Future[None]", error: Exception | None) -> None:
    if future.done():  # nobody waits any more
        return
    if error:
        future.set_exception(error)
    else:
        future.set_result(None)
