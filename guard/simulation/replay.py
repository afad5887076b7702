"""A replay: the calls of the past decided anew under other settings, by the very rules that decide real ones.

Each call is planned by `guard.policy.routing`, bound by `guard.policy.limits` and admitted by `spend.ledger.rules`, on
windows that exist only here. Nothing is written and no provider is called, so what cannot be known is assumed, and
`guard.simulation.what_if` says so to people: another model takes the same tokens; a call that was refused in real
life would have had an answer of the tenant's average length; an answer takes as long as it did; what failed, fails.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock_time
from heapq import heappop, heappush
from itertools import count
from uuid import UUID

import orjson

from guard.policy.last_served import Conversations, LastServed
from guard.policy.limits import Clock, limits_of
from guard.policy.routing import BYTES_PER_TOKEN, Ask, expected_usage, plan, recalled
from guard.policy.snapshot import Policy, TenantPolicy
from guard.worker.runtime import Lengths
from spend.codes import StepCode
from spend.ledger.past_calls import PastCall
from spend.ledger.rules import (
    Balance,
    Caller,
    Chosen,
    Limit,
    Offer,
    WindowKey,
    choose,
    fits_without_holds,
)
from spend.models import Outcome, Route
from spend.pricing.cost import Usage, cost_ticks
from tenants.periods import Period

OVER_BUDGET = frozenset({"budget_exceeded", "budget_held"})
"""Refusals that other settings may spare."""
FAILED_BY = frozenset(
    {
        StepCode.FAILED,
        StepCode.CIRCUIT_OPEN,
        StepCode.RATE_LIMITED,
        StepCode.REJECTED,
        StepCode.NO_PROVIDER_KEY,
        StepCode.BROKE_OFF,
    }
)
"""Steps that say of a model that it could not serve the call, whatever the budget."""
MOST_PLANS = 50_000
MOST_CONVERSATIONS = 100_000
NO_CONVERSATIONS: Mapping[str, LastServed] = {}
NO_CALL = UUID(int=0)


@dataclass(slots=True)
class Tally:
    """How many calls, and what they cost in ticks by model."""

    as_asked: int = 0
    downgraded: int = 0
    fallback: int = 0
    shortened: int = 0
    refused: int = 0
    failed: int = 0
    cost_ticks: int = 0

    @property
    def served(self) -> int:
        return self.as_asked + self.downgraded + self.fallback


@dataclass(slots=True)
class Difference:
    """Where what is spent less, or more where it is below zero, comes from; in ticks. They sum to the whole of it.

    `by_model`: another model answered. `by_length`: the same one, cut shorter or less. `by_price`: at another price.
    `by_refusing`: what was answered in real life is refused. `by_serving`: what was refused is answered.
    """

    by_model: int = 0
    by_length: int = 0
    by_price: int = 0
    by_refusing: int = 0
    by_serving: int = 0

    @property
    def ticks(self) -> int:
        return self.by_model + self.by_length + self.by_price + self.by_refusing + self.by_serving


ByDay = dict[datetime, dict[str, int]]
"""What each model cost, in ticks, by the first instant of the tenant's day."""


def _by_day() -> ByDay:
    return defaultdict(lambda: defaultdict(int))


@dataclass(slots=True)
class Replay:
    """What was, and what would have been."""

    before: Tally = field(default_factory=Tally)
    after: Tally = field(default_factory=Tally)
    saved: Difference = field(default_factory=Difference)
    days_before: ByDay = field(default_factory=_by_day)
    days_after: ByDay = field(default_factory=_by_day)
    estimated: int = 0
    """Calls of which is not known how much they asked for."""
    calls: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a call: an offer with its maximum, else a refusal, or None of both where no model can serve."""

    offer: Offer | None
    max_tokens: int = 0
    is_refused: bool = False


Opening = Callable[[WindowKey], int]
"""What had been spent in a window before the first call, in ticks."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What is replayed under: the policy with its prices, the tenant with its budgets and route.

    The installation's own budgets, which other tenants use too, do not bind here.
    """

    policy: Policy
    tenant: TenantPolicy
    repriced: frozenset[str] = frozenset()
    """Models whose price is another than it was."""


class Player:
    """Plays calls, oldest first, one after the other. `hold_wait` is how long one waits for others' holds."""

    def __init__(
        self,
        terms: Terms,
        opening: Opening,
        hold_wait: timedelta,
        usual_answer_tokens: int,
        begun: Mapping[str, LastServed] = NO_CONVERSATIONS,
        providers: Collection[str] | None = None,
    ) -> None:
        """`begun` are conversations that were answered before the first call, each with its latest answer.

        `providers` are those with a key; None where all count as such.
        """
        self.providers = providers
        self.terms, self.opening, self.hold_wait = terms, opening, hold_wait
        self.usual_answer_tokens = usual_answer_tokens
        self.policy = replace(terms.policy, installation=())
        self.replay = Replay()
        self.balances: dict[WindowKey, Balance] = {}
        self.in_flight: list[tuple[datetime, int, int, int, list[Balance]]] = []
        self.numbers = count()
        self.conversations = Conversations(MOST_CONVERSATIONS)
        self.lengths = Lengths()
        for conversation, last in begun.items():
            self.conversations.note(self._caller(0, "", conversation), last)
        self.clock = Clock()
        self.plans: dict[tuple[object, ...], tuple[Offer, ...]] = {}
        self.turns = _turns(self.policy)
        self.next_turn = datetime.min.replace(tzinfo=UTC)
        self.thinks = any(model.capabilities.thinks_within_maximum for model in self.policy.models.values())

    def play(self, calls: Iterable[PastCall]) -> Replay:
        for call in calls:
            self._play_one(call)
        return self.replay

    def _play_one(self, call: PastCall) -> None:
        self._settle_until(call.at)
        day = self.clock.bounds(Period.DAY, self.terms.tenant.zone, call.at).starts_at
        replay = self.replay
        replay.calls += 1
        replay.before.cost_ticks += call.cost_ticks
        if call.cost_ticks:
            replay.days_before[day][call.model] += call.cost_ticks
        is_over = call.outcome == Outcome.HANDED_OFF or (call.outcome == Outcome.REFUSED and call.code in OVER_BUDGET)
        if not is_over and call.outcome != Outcome.SERVED:
            self._keep(call, day)
            return
        if is_over:  # what it was charged for did not serve it
            call.attempt = None
        ask = self._ask_of(call)
        last = self._last_of(call, ask)
        limits = self._limits(call, has_begun=last is not None)
        balances = [self._balance(limit.key) for limit in limits]
        verdict = self._decide(call, ask, last, limits, balances)
        was_cut = self._was_cut(call, ask, last)
        self._count_before(call, was_cut=was_cut)
        self._account(call, ask, verdict, balances, day, was_cut=was_cut)

    def _keep(self, call: PastCall, day: datetime) -> None:
        """What failed, or was refused for another reason than the budget, does so again, at the same cost."""
        for tally in (self.replay.before, self.replay.after):
            tally.failed += 1
        self.replay.after.cost_ticks += call.cost_ticks
        if not call.cost_ticks:
            return
        self.replay.days_after[day][call.model] += call.cost_ticks
        for limit in self._limits(call, has_begun=True):
            self._balance(limit.key).end(0, call.cost_ticks)

    def _limits(self, call: PastCall, *, has_begun: bool) -> tuple[Limit, ...]:
        return limits_of(
            self.policy, self.terms.tenant, call.key_id, call.customer, call.conversation, call.at,
            has_begun=has_begun, clock=self.clock,
        )  # fmt: skip

    def _ask_of(self, call: PastCall) -> Ask:
        if call.asked is not None:
            return recalled(orjson.loads(call.asked), call.requested_model)
        self.replay.estimated += 1
        tokens = call.attempt.usage.input_tokens if call.attempt else self.usual_answer_tokens
        return Ask(call.requested_model, tokens * BYTES_PER_TOKEN)

    def _last_of(self, call: PastCall, ask: Ask) -> LastServed | None:
        """The answer before, as it was given here."""
        if not (call.conversation and ask.has_begun):
            return None
        return self.conversations.get(self._caller(call.key_id, call.customer, call.conversation))

    def _caller(self, key_id: int, customer: str, conversation: str) -> Caller:
        return Caller(NO_CALL, "", self.terms.tenant.id, key_id, customer, conversation, "")

    def _balance(self, key: WindowKey) -> Balance:
        found = self.balances.get(key)
        if found is None:
            found = self.balances[key] = Balance(0, self.opening(key), 0)
        return found

    def _decide(
        self, call: PastCall, ask: Ask, last: LastServed | None, limits: Sequence[Limit], balances: Sequence[Balance]
    ) -> Verdict:
        offers = self._offers(call, ask, last)
        if not offers:
            return Verdict(None)
        until = call.at + self.hold_wait
        chosen = choose(offers, limits, balances, may_wait=True)
        is_plain = chosen and chosen.max_tokens == offers[chosen.position].max_tokens
        if not is_plain or any(balance.held_ticks for balance in balances):
            offers = self._plan(call, ask, last, self.lengths.known)
            chosen = self._wait(offers, limits, balances, until)
        if chosen is None:
            return Verdict(None, is_refused=True)
        return Verdict(offers[chosen.position], chosen.max_tokens)

    def _wait(
        self, offers: Sequence[Offer], limits: Sequence[Limit], balances: Sequence[Balance], until: datetime
    ) -> Chosen | None:
        """For other calls' holds to end, while only they are in the way."""
        while True:
            may_wait = bool(self.in_flight) and self.in_flight[0][0] <= until
            chosen = choose(offers, limits, balances, may_wait=may_wait)
            if chosen or not may_wait or not fits_without_holds(offers, limits, balances):
                return chosen
            self._settle_until(self.in_flight[0][0])

    def _offers(self, call: PastCall, ask: Ask, last: LastServed | None) -> tuple[Offer, ...]:
        """Without what was learned of answers' lengths, which changes with each: it counts only where one is cut."""
        if call.route == Route.FALLBACK or self.thinks:
            return self._plan(call, ask, last, self.lengths.known)
        if call.at >= self.next_turn:
            self.plans.clear()
            self.next_turn = next((turn for turn in self.turns if turn > call.at), datetime.max.replace(tzinfo=UTC))
        cached = last and (last.model, last.route, last.cached_tokens(call.at))
        key = (call.requested_model, call.asked or ask.input_tokens, cached)
        found = self.plans.get(key)
        if found is None:
            if len(self.plans) >= MOST_PLANS:
                self.plans.clear()
            found = self.plans[key] = self._plan(call, ask, last, {})
        return found

    def _plan(self, call: PastCall, ask: Ask, last: LastServed | None, lengths: Mapping) -> tuple[Offer, ...]:  # type: ignore[type-arg]
        failed = _failed_models(call) if call.route == Route.FALLBACK else ()
        planned = plan(
            ask, self.terms.tenant, self.policy, call.at,
            failed=failed, providers=self.providers, lengths=lengths, last=last,
        )  # fmt: skip
        return planned.offers

    def _account(
        self, call: PastCall, ask: Ask, verdict: Verdict, balances: list[Balance], day: datetime, *, was_cut: bool
    ) -> None:
        replay, offer = self.replay, verdict.offer
        if offer is None:
            replay.after.refused += verdict.is_refused
            replay.after.failed += not verdict.is_refused
            replay.saved.by_refusing += call.cost_ticks
            return
        usage, is_cut = self._usage(call, ask, offer, verdict.max_tokens)
        ticks = self._cost(call, offer, verdict.max_tokens, usage, is_cut=is_cut)
        failed_ticks = call.cost_ticks - (call.attempt.cost_ticks if call.attempt else 0)
        hold_ticks = offer.hold_ticks(verdict.max_tokens)
        for balance in balances:
            balance.held_ticks += hold_ticks
            balance.spent_ticks += failed_ticks
        ends_at = call.at + timedelta(milliseconds=call.duration_ms)
        heappush(self.in_flight, (ends_at, next(self.numbers), hold_ticks, ticks, balances))
        self._count_after(call, offer, ticks + failed_ticks, day, is_cut=is_cut or was_cut)
        self._learn(call, ask, offer, usage, ends_at, is_cut=is_cut, max_tokens=verdict.max_tokens)

    def _usage(self, call: PastCall, ask: Ask, offer: Offer, max_tokens: int) -> tuple[Usage, bool]:
        """The tokens that the call had, or would usually have, in an answer that is not cut; and whether it is."""
        attempt, most = call.attempt, max_tokens * ask.choices
        if attempt is None:
            model = self.policy.models[offer.model]
            usage = expected_usage(ask, model, min(max_tokens, self.usual_answer_tokens))
            return usage, False
        usage = attempt.usage
        if usage.output_tokens <= most:
            return usage, False
        return replace(usage, output_tokens=most, reasoning_tokens=min(usage.reasoning_tokens, most)), True

    def _cost(self, call: PastCall, offer: Offer, max_tokens: int, usage: Usage, *, is_cut: bool) -> int:
        """What was billed, where nothing is different; else by our figures, and the hold where none are known."""
        attempt = call.attempt
        if attempt is None:
            return cost_ticks(usage, offer.price)
        is_same = attempt.model == offer.model and offer.model not in self.terms.repriced
        if is_same and not is_cut:
            return attempt.cost_ticks
        return cost_ticks(usage, offer.price) if attempt.is_usage_known else offer.hold_ticks(max_tokens)

    def _was_cut(self, call: PastCall, ask: Ask, last: LastServed | None) -> bool:
        """Whether its answer filled a hold that was less than its model would be held for whole."""
        attempt = call.attempt
        if attempt is None or call.asked is None:
            return False
        known = next((offer for offer in self._offers(call, ask, last) if offer.model == attempt.model), None)
        if known is None or attempt.hold_ticks >= known.hold_ticks(known.max_tokens):
            return False
        return attempt.usage.output_tokens >= known.tokens_within(attempt.hold_ticks) * ask.choices

    def _count_before(self, call: PastCall, *, was_cut: bool) -> None:
        before = self.replay.before
        if call.outcome != Outcome.SERVED:
            before.refused += 1
            return
        _count_route(call.route, before)
        before.shortened += was_cut

    def _count_after(self, call: PastCall, offer: Offer, ticks: int, day: datetime, *, is_cut: bool) -> None:
        replay = self.replay
        _count_route(offer.route, replay.after)
        replay.after.shortened += is_cut
        replay.after.cost_ticks += ticks
        replay.days_after[day][offer.model] += ticks
        saved, difference = replay.saved, call.cost_ticks - ticks
        if call.attempt is None:
            saved.by_serving += difference
        elif call.model != offer.model:
            saved.by_model += difference
        elif offer.model in self.terms.repriced:
            saved.by_price += difference
        else:
            saved.by_length += difference

    def _learn(
        self, call: PastCall, ask: Ask, offer: Offer, usage: Usage, at: datetime, *, is_cut: bool, max_tokens: int
    ) -> None:
        """As `guard.chat.settlement.learn` does of a real one, for the calls that come after it."""
        if call.conversation:
            last = LastServed(offer.model, offer.route, usage.input_tokens, at)
            self.conversations.note(self._caller(call.key_id, call.customer, call.conversation), last)
        is_lowered = max_tokens < (ask.max_tokens or self.terms.tenant.default_max_tokens)
        if not is_cut and not (is_lowered and usage.output_tokens >= max_tokens * ask.choices):
            self.lengths.note((self.terms.tenant.id, offer.model), usage.output_tokens // ask.choices)

    def _settle_until(self, at: datetime) -> None:
        in_flight = self.in_flight
        while in_flight and in_flight[0][0] <= at:
            _, _, hold_ticks, ticks, balances = heappop(in_flight)
            for balance in balances:
                balance.end(hold_ticks, ticks)


def _count_route(route: str, tally: Tally) -> None:
    tally.downgraded += route == Route.DOWNGRADE
    tally.fallback += route == Route.FALLBACK
    tally.as_asked += route == Route.PRIMARY


def _failed_models(call: PastCall) -> set[str]:
    """Which could not serve it, by its steps."""
    return {step["model"] for step in orjson.loads(call.steps or "[]") if step["decision"] in FAILED_BY}


def _turns(policy: Policy) -> list[datetime]:
    """The instants at which a plan of the same call may become another: a price or a model begins or ends."""
    turns = set[datetime]()
    for model in policy.models.values():
        turns.update(instant for period in model.prices for instant in period[:2] if instant)
        if model.shutdown_on and model.shutdown_on < date.max:
            turns.add(datetime.combine(model.shutdown_on + timedelta(days=1), clock_time(), tzinfo=UTC))
    return sorted(turns)
