"""What if: a tenant's own past under other settings, and what people should know of the answer."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, time, timedelta
from threading import Semaphore

from django.conf import settings
from django.db.models import Sum

from guard.http.errors import InvalidRequest, RateLimited
from guard.policy.last_served import LastServed
from guard.policy.loader import load_models, tenant_policy
from guard.policy.routing import SHARE_WITHOUT_HISTORY
from guard.policy.snapshot import ModelPolicy, Policy
from guard.simulation.replay import ByDay, Player, Replay, Terms
from spend.ledger.past_calls import past_calls
from spend.ledger.rules import WindowKey
from spend.ledger.window_opening import spent_by_subject
from spend.models import Call, LedgerEntry, Rollup, Route
from spend.pricing.cost import PriceList, TierPrice
from spend.pricing.rates import PricePeriod
from spend.providers.accounts import load_accounts, names_with_key
from tenants.budgets import default_budget, effective
from tenants.models import Budget, Scope, Tenant
from tenants.periods import BEGINNING, Period, bounds

DAYS = (7, 30, 90)
ASSUMPTIONS = (
    "Another model would have used the same tokens, at its own price.",
    "A call that was refused in real life would have had an answer of the usual length.",
    "An answer that was cut short in real life would have been no longer.",
    "What failed, or was refused for another reason than the budget, does so again, at the same cost.",
    "An answer takes as long as it did, and a call waits a moment for others' holds.",
    "Who was refused does not ask again, and the conversation goes on as it did.",
    "Budgets of the whole installation and amounts that raised a limit for a day are left out.",
)
"""What cannot be known, in words for people."""
MOST_CALLS = 300_000
"""Each takes some 50 to 100 µs of a processor, while somebody waits."""
CONVERSATIONS_REST = timedelta(days=2)
"""One that goes on after a longer rest is taken for a new one."""
WAIT_S = 20
TURN = Semaphore(1)
"""A replay keeps a processor busy, which calls need too: a process does one at a time."""


@dataclass(frozen=True)
class Settings:
    """What a replay runs under: rows as they would be saved, models by id, prices in force throughout.

    Without a budget of the tenant's own scope the default binds it, as in real life.
    """

    budgets: tuple[Budget, ...]
    route: tuple[str, ...]
    downgrades: tuple[tuple[str, str], ...]
    prices: Mapping[str, TierPrice] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What was found, of the days from `starts_at` until `ends_at`."""

    days: int
    starts_at: datetime
    ends_at: datetime
    replay: Replay

    @property
    def models(self) -> list["ModelCost"]:
        """What each model cost and would have cost, the dearest first."""
        before, after = _sums(self.replay.days_before), _sums(self.replay.days_after)
        found = [ModelCost(name, before[name], after[name]) for name in before.keys() | after.keys()]
        return sorted(found, key=lambda each: (-max(each.before_ticks, each.after_ticks), each.model))


@dataclass(frozen=True)
class ModelCost:
    """In ticks."""

    model: str
    before_ticks: int
    after_ticks: int


def _sums(days: ByDay) -> Counter[str]:
    sums = Counter[str]()
    for by_model in days.values():
        sums.update(by_model)
    return sums


def todays_settings(tenant: Tenant) -> Settings:
    """Without top-ups, which end by themselves."""
    return Settings(
        tuple(binding(tuple(tenant.budgets.all()), tenant)),
        tuple(tenant.effective_route()),
        tuple(tenant.effective_downgrades()),
    )


def binding(budgets: Sequence[Budget], tenant: Tenant) -> Sequence[Budget]:
    """With the default's, where none is of the tenant's own scope."""
    has_own = any(row.scope == Scope.TENANT for row in budgets)
    return budgets if has_own else (*budgets, default_budget(tenant))


def span_of(tenant: Tenant, days: int, now: datetime) -> datetime:
    """The first instant of the last so many days, today included, where the tenant is."""
    first = now.astimezone(tenant.zone).date() - timedelta(days=days - 1)
    noon = datetime.combine(first, time(12), tzinfo=tenant.zone)
    return bounds(Period.DAY, tenant.zone, noon).starts_at


def what_if(tenant: Tenant, wanted: Settings, days: int, now: datetime) -> Answer:
    """Raises InvalidRequest where there are too many calls, and RateLimited while others' questions are answered."""
    starts_at = span_of(tenant, days, now)
    found = Call.objects.filter(tenant=tenant, at__gte=starts_at, at__lt=now)
    if found.order_by().values("pk")[: MOST_CALLS + 1].count() > MOST_CALLS:
        raise InvalidRequest(
            f"There are more than {MOST_CALLS:,} calls in these {days} days: ask about fewer.", param="days"
        )
    if not TURN.acquire(timeout=WAIT_S):
        raise RateLimited("Another question like this is being answered.", retry_after_s=5)
    try:
        player = _player(tenant, wanted, starts_at)
        return Answer(days, starts_at, now, player.play(past_calls(tenant.id, starts_at, now)))
    finally:
        TURN.release()


def _player(tenant: Tenant, wanted: Settings, starts_at: datetime) -> Player:
    models = load_models()
    models |= {name: _repriced(models[name], price) for name, price in wanted.prices.items() if name in models}
    own = [effective(row) for row in binding(wanted.budgets, tenant)]
    asked = replace(tenant_policy(tenant, own), route=wanted.route, downgrades=wanted.downgrades)
    policy = Policy({}, {}, models, (), 0)
    return Player(
        Terms(policy, asked, frozenset(wanted.prices)),
        Openings(tenant.id, starts_at),
        timedelta(seconds=settings.HOLD_WAIT_SECONDS),
        _usual_answer_tokens(tenant, starts_at),
        _begun_before(tenant, starts_at),
        names_with_key(load_accounts()),
    )


def _repriced(model: ModelPolicy, price: TierPrice) -> ModelPolicy:
    return replace(model, prices=(PricePeriod(BEGINNING, None, PriceList(0, (price,))),))


@dataclass
class Openings:
    """What had been spent before the first call in windows that began before it; a query for all of a kind."""

    tenant_id: str
    until: datetime
    known: dict[tuple[str, datetime], dict[str, int]] = field(default_factory=dict)

    def __call__(self, key: WindowKey) -> int:
        if key.starts_at >= self.until:
            return 0
        kind = (key.scope, key.starts_at)
        if kind not in self.known:
            self.known[kind] = spent_by_subject(
                self.tenant_id, key.scope, key.starts_at, self.until, with_removed=key.period == Period.TOTAL
            )
        return self.known[kind].get(key.subject, 0)


def _usual_answer_tokens(tenant: Tenant, starts_at: datetime) -> int:
    rows = Rollup.objects.filter(tenant=tenant, bucket__gte=starts_at)
    found = rows.aggregate(tokens=Sum("output_tokens", default=0), attempts=Sum("attempts", default=0))
    if found["attempts"]:
        return max(1, int(found["tokens"]) // int(found["attempts"]))
    return max(1, tenant.default_max_tokens // SHARE_WITHOUT_HISTORY)


def _begun_before(tenant: Tenant, starts_at: datetime) -> dict[str, LastServed]:
    """Conversations that may go on, each with its latest answer."""
    entries = LedgerEntry.objects.filter(tenant=tenant, at__gte=starts_at - CONVERSATIONS_REST, at__lt=starts_at)
    rows = entries.exclude(conversation="").order_by("at")
    return {
        conversation: LastServed(model, Route(route), input_tokens, at)
        for conversation, model, route, input_tokens, at in rows.values_list(
            "conversation", "model", "route", "input_tokens", "at"
        )
    }
