"""The policy: what is allowed now, as the chat path reads it, without a query.

A snapshot of the whole configuration (tenants, keys, budgets, routes, catalogue, prices), immutable, so that a call
sees one policy throughout. `guard.policy.loader` reads it, `guard.policy.keeper` keeps it fresh.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from zoneinfo import ZoneInfo

from spend.capabilities import UNKNOWN, Capabilities
from spend.ledger.rules import CallGroup, CallLimit
from spend.pricing.cost import PriceList
from spend.pricing.rates import PricePeriod, price_at
from spend.providers.accounts import Account
from tenants.budgets import EffectiveBudget
from tenants.handoff import chosen_language, filled
from tenants.ladder import StepMark
from tenants.models import ApiKey, Scope, Tenant
from tenants.periods import Period


@dataclass(frozen=True, slots=True)
class BudgetPolicy:
    scope: Scope
    period: Period
    limit_ticks: int
    soft_ticks: int
    hard_ticks: int
    reserve_ticks: int = 0
    further: tuple[StepMark, ...] = ()
    """The steps of its ladder after the soft cap."""

    @classmethod
    def of(cls, budget: EffectiveBudget) -> "BudgetPolicy":
        scope, period = Scope(budget.scope), Period(budget.period)
        return cls(
            scope, period, budget.limit_ticks, budget.soft_ticks, budget.hard_ticks, budget.reserve_ticks,
            budget.further,
        )  # fmt: skip

    def cap_ticks(self, *, has_begun: bool) -> int:
        """Up to where a call may use it: all, where its conversation has begun, else all but the reserve."""
        return self.hard_ticks if has_begun else max(0, self.hard_ticks - self.reserve_ticks)


@dataclass(frozen=True, slots=True)
class Handoff:
    """A tenant's own words to its customers when a budget is spent, by language."""

    words: Mapping[str, str]
    language: str
    link: str

    @classmethod
    def of(cls, tenant: Tenant) -> "Handoff | None":
        """None where calls are refused then."""
        if not tenant.hands_off:
            return None
        words = {**tenant.translations(), tenant.handoff_language: tenant.handoff_words}
        return cls(words, tenant.handoff_language, tenant.handoff_link)

    def told(self, accept_language: str, resets_at: datetime | None, zone: ZoneInfo) -> str:
        language = chosen_language(accept_language, self.words, self.language)
        return filled(self.words[language], language, resets_at, zone, self.link)


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
    handoff: Handoff | None = None

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
    makes_embeddings: bool = False

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
    turns: Mapping[str, datetime] = field(default_factory=dict)
    """When a tenant's next top-up starts or ends, which changes a limit without a change of any row."""
    providers: Mapping[str, Account] = field(default_factory=dict)

    def kind_of(self, provider: str) -> str:
        """How this provider differs from others; one that is gone, or stands in, does not."""
        account = self.providers.get(provider)
        return account.kind if account else ""
