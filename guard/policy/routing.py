"""Routing: which models may serve a call, in which order, and why. Pure.

Below the soft cap the model that was asked for comes first.  Past it, the tenant's downgrade rules
put a cheaper model first, where it really is cheaper for this call at today's prices: by the tokens to
expect, since a worst case counts four times as many and can so end in a tier that the call never sees.
Where a model does not fit what is left of the budget, a cheaper one on the route may.  Where a budget's ladder
asks for several downgrades, the rules are followed so many times, each time to what is cheaper still.

A conversation that has begun keeps its model, whose provider has most of it cached, where the caller left the
choice to the route and no other is cheaper in spite of that; and moving past the soft cap must save as much.

A model that the caller did not name is passed over where it cannot serve what the call means (`guard.policy.adapt`).
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from types import MappingProxyType
from typing import Any, NamedTuple

from guard.policy.adapt import effort_for, unfit
from guard.policy.last_served import LastServed
from guard.policy.snapshot import ModelPolicy, Policy, TenantPolicy
from spend.capabilities import NO_REASONING
from spend.codes import StepCode
from spend.ledger.rules import Offer
from spend.models import AUTO, Route, is_shut_down
from spend.pricing.cost import PriceList, Usage, WorstCase, cost_ticks, worst_case
from spend.pricing.learned_bounds import NOTED_EVERY, bound_tokens
from spend.providers.accounts import Account

BYTES_PER_TOKEN = 4
"""Of usual text, of which the bound is one token a byte."""

SHARE_WITHOUT_HISTORY = 4
"""Most answers need far less than the tenant's default maximum; until some came, a quarter is taken for enough."""

LEAST_OF_USUAL = 2
"""An answer is cut to no less than one such part of its usual length: a stub costs its input and helps nobody."""


class Length(NamedTuple):
    """How many output tokens answers had lately: usually, and what all of them would have kept within."""

    usual: int
    enough: int


Lengths = Mapping[tuple[str, str], Length]
"""By tenant and model."""

NOTHING: Mapping[Any, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Ask:
    """What decides a call's worst case: a bound on its input, its images, its maximum and its choices."""

    model: str
    input_tokens: int
    max_tokens: int | None = None
    choices: int = 1
    images: int = 0
    needs: frozenset[str] = frozenset()
    """What its answer must have or be, by `guard.policy.adapt.MEANINGS`."""
    effort: str = ""
    has_begun: bool = False
    """Whether there is an answer in it already."""

    def recorded(self) -> dict[str, Any]:
        """As a call's record has it, from which `recalled` makes it again: without what is as usual."""
        facts: dict[str, Any] = {"input_tokens": self.input_tokens}
        if self.model == AUTO:
            facts["model"] = AUTO
        for name in ("max_tokens", "choices", "images", "effort", "has_begun"):
            if (value := getattr(self, name)) != getattr(USUAL_ASK, name):
                facts[name] = value
        return facts | ({"needs": sorted(self.needs)} if self.needs else {})


USUAL_ASK = Ask(AUTO, 0)


def recalled(facts: Mapping[str, Any], requested_model: str) -> Ask:
    """The Ask of a call's record, which names the model that was asked for beside it."""
    return Ask(**{"model": requested_model, **facts, "needs": frozenset(facts.get("needs", ()))})


RELUCTANT = frozenset({StepCode.NO_LOGPROBS, StepCode.TOO_LONG})
"""Why a model serves only where no other does: it can leave these out, or may turn out to have room after all."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that could serve the call, priced for it."""

    model: ModelPolicy
    price: PriceList
    worst: WorstCase
    expected_ticks: int
    max_tokens: int
    floor_tokens: int
    fair_share_tokens: int | None
    thinking_tokens: int
    """What its answers usually need, where they think within their maximum; else 0."""
    shortest_tokens: int
    """To which a step of a budget's ladder may shorten its answer."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The offers in order, and the models that were left out, with why."""

    offers: tuple[Offer, ...]
    left_out: tuple[tuple[str, StepCode], ...]


def plan(
    ask: Ask,
    tenant: TenantPolicy,
    policy: Policy,
    now: datetime,
    *,
    failed: Collection[str] = (),
    again: Collection[str] = (),
    spared: Mapping[str, StepCode] = NOTHING,
    providers: Collection[str] | None = None,
    lengths: Lengths = NOTHING,
    last: LastServed | None = None,
) -> Plan:
    """The offers for `ask`, best first; of models to be tried `again`, which refused it as it was, last.

    `last` is the latest answer in its conversation.

    Left out are models that failed already, that are `spared` (and why), or whose provider is none of `providers`,
    which are those with a key; and those that cannot serve what the call means, unless the caller named them.
    """
    wanted = tenant.route[0] if ask.model == AUTO else ask.model
    depth = depth_of(tenant, policy)
    order = list(dict.fromkeys([wanted, *tenant.route, *_names_down(wanted, tenant, depth)]))
    candidates: dict[str, Candidate] = {}
    reluctant: dict[str, Candidate] = {}
    left_out: list[tuple[str, StepCode]] = []
    for name in order:
        candidate = _candidate(name, ask, tenant, policy, now, lengths, last)
        if name in failed:
            continue
        why = candidate if isinstance(candidate, StepCode) else _why_not(candidate, ask, wanted, spared)
        if isinstance(candidate, Candidate) and providers is not None and candidate.model.provider not in providers:
            why = _why_unreachable(policy.providers.get(candidate.model.provider))
        if why:
            left_out.append((name, why))
        if isinstance(candidate, Candidate) and why in {None, *RELUCTANT}:
            (reluctant if why else candidates)[name] = candidate
    keeps = last if ask.model == AUTO else None
    offers = _offers(wanted, order, candidates or reluctant, tenant, keeps, depth)
    if offers and keeps and offers[0].model == keeps.model != wanted and wanted in candidates:
        left_out.append((wanted, StepCode.CONVERSATION_KEPT))
    return Plan(tuple(sorted(offers, key=lambda offer: offer.model in again)), tuple(left_out))


def _why_unreachable(account: Account | None) -> StepCode:
    return StepCode.NO_PROVIDER_KEY if account is None or account.is_enabled else StepCode.PROVIDER_OFF


def _why_not(candidate: Candidate, ask: Ask, wanted: str, spared: Mapping[str, StepCode]) -> StepCode | None:
    model = candidate.model
    if why := spared.get(model.id):
        return why
    if model.id == ask.model:  # its own word counts, and goes to the caller
        return None
    known = model.capabilities
    if why := unfit(ask.needs, ask.effort, known):
        return why
    if model.id != wanted and candidate.thinking_tokens > candidate.max_tokens:
        return StepCode.THINKS_LONGER
    contexts = [tokens for tokens in (model.context_tokens, known.context_tokens) if tokens]
    return StepCode.TOO_LONG if contexts and ask.input_tokens // BYTES_PER_TOKEN > min(contexts) else None


def _offers(
    wanted: str,
    order: list[str],
    candidates: dict[str, Candidate],
    tenant: TenantPolicy,
    keeps: LastServed | None,
    depth: int,
) -> list[Offer]:
    """Below the soft cap: the first that works. Past it: cheaper ones by rule, then what else fits.

    Each offer of the way down but the last is there twice: while no step asks for more downgrades than led to it, and
    from the bottom up where nothing below it fits.
    """
    if not candidates:
        return []
    usable = [name for name in order if name in candidates]
    # A model reached only because a provider failed is a fallback, even if it is cheaper.
    otherwise = Route.PRIMARY if usable[0] == wanted else Route.FALLBACK
    first = candidates[_first_on_route(usable, wanted, tenant)]
    kept = candidates.get(keeps.model) if keeps else None
    if kept and keeps and kept is not first and kept.expected_ticks <= first.expected_ticks:
        first, otherwise = kept, keeps.route
    levels = _levels(first, wanted, candidates, tenant, depth)
    offers: list[Offer] = []
    for (_, level), (below, _) in pairwise(levels):
        offers += [_offer(each, _route_of(each, first, otherwise), most_downgrades=below - 1) for each in level]
    lasting = {each.model.id: each for _, level in reversed(levels) for each in level}
    offers += [_offer(each, _route_of(each, first, otherwise)) for each in lasting.values()]
    named = {offer.model for offer in offers}
    others = [candidates[name] for name in usable if name not in named]
    rest = [candidate for candidate in others if candidate.expected_ticks < first.expected_ticks]
    return offers + [_offer(candidate, Route.DOWNGRADE) for candidate in rest]


def _route_of(candidate: Candidate, first: Candidate, otherwise: Route) -> Route:
    return otherwise if candidate is first else Route.DOWNGRADE


def _levels(
    first: Candidate, wanted: str, candidates: Mapping[str, Candidate], tenant: TenantPolicy, depth: int
) -> list[tuple[int, list[Candidate]]]:
    """The first choice, and what each number of downgrades leads to, where that is something.

    A conversation that keeps a model to which it was downgraded is that far down already, where there is a ladder.
    """
    begun = 0
    if depth > 1 and first.model.id != wanted and wanted in candidates:
        above = _ways_down(candidates[wanted], candidates, tenant, depth)
        begun = next((number for number, way in enumerate(above, 1) if any(each is first for each in way)), 0)
    ways = _ways_down(first, candidates, tenant, depth - begun)
    return [(begun, [first]), *((number, way) for number, way in enumerate(ways, begun + 1) if way)]


def _ways_down(
    first: Candidate, candidates: Mapping[str, Candidate], tenant: TenantPolicy, depth: int
) -> list[list[Candidate]]:
    """What the rules lead to by one downgrade, by two and so on, each time only to what is cheaper for this call.

    A model that cannot serve now still leads on to its own downgrades, which then are cheaper than the first.
    """
    found: list[list[Candidate]] = []
    names = [first.model.id]
    for _ in range(depth):
        pairs = [(name, down) for name in names for down in _downgrades_of(name, tenant)]
        cheaper = dict.fromkeys(
            down
            for name, down in pairs
            if down in candidates and candidates[down].expected_ticks < candidates.get(name, first).expected_ticks
        )
        found.append([candidates[name] for name in cheaper])
        names = list(dict.fromkeys(down for _, down in pairs if down in cheaper or down not in candidates))
    return found


def depth_of(tenant: TenantPolicy, policy: Policy) -> int:
    """The most downgrades that a ladder may ask of this tenant's calls: one, where there are soft caps only."""
    budgets = (*policy.installation, *tenant.budgets)
    return max((mark.downgrades for budget in budgets for mark in budget.further), default=1) or 1


def _first_on_route(usable: list[str], wanted: str, tenant: TenantPolicy) -> str:
    """Where a downgrade leads is no fallback unless the route says so, or nothing else is left."""
    return next((name for name in usable if name == wanted or name in tenant.route), usable[0])


def _names_down(model: str, tenant: TenantPolicy, depth: int) -> list[str]:
    """All that the rules lead to from `model` by so many downgrades at most, the nearest first."""
    names = reached = _downgrades_of(model, tenant)
    for _ in range(1, depth):
        reached = [down for name in reached for down in _downgrades_of(name, tenant)]
        names = list(dict.fromkeys([*names, *reached]))
        reached = list(dict.fromkeys(reached))
    return [name for name in names if name != model]


def _downgrades_of(model: str, tenant: TenantPolicy) -> list[str]:
    """Where the rules lead from `model`, its own rules before those for any model."""
    own = [to for source, to in tenant.downgrades if source == model]
    return list(dict.fromkeys(own + [to for source, to in tenant.downgrades if source == "*" and to != model]))


def _candidate(
    name: str,
    ask: Ask,
    tenant: TenantPolicy,
    policy: Policy,
    now: datetime,
    lengths: Lengths,
    last: LastServed | None,
) -> Candidate | StepCode:
    """The model priced for this call, or why it cannot serve."""
    model = policy.models.get(name)
    if model is None or not model.is_enabled:
        return StepCode.UNKNOWN_MODEL if model is None else StepCode.MODEL_DISABLED
    if is_shut_down(model.shutdown_on, now):
        return StepCode.SHUT_DOWN
    if (price := model.price_at(now)) is None:
        return StepCode.NO_PRICE
    if model.makes_embeddings and name != ask.model:  # on a route by mistake: who embeds, names it
        return StepCode.NO_CHAT
    if ask.images and model.image_allowance_tokens is None:
        return StepCode.IMAGES_NOT_PRICED
    worst = worst_case(
        price,
        input_tokens=_bound_input(ask, model),
        reasoning_tokens=model.reasoning_allowance_tokens,
        choices=ask.choices,
    )
    max_tokens = min(ask.max_tokens or tenant.default_max_tokens, model.max_output_tokens)
    # Priced as its provider will bill it, having so much of the input in its cache.
    cached_tokens = last.cached_tokens(now) if last and last.model == name else 0
    expected_ticks = cost_ticks(expected_usage(ask, model, max_tokens, cached_tokens), price)
    length = lengths.get((tenant.id, name))
    thinking_tokens = length.usual if length and _thinks_within_maximum(ask, model) else 0
    usual = length.usual // LEAST_OF_USUAL if length else 0
    shortest_tokens = max(tenant.floor_max_tokens, thinking_tokens)
    floor_tokens = max(shortest_tokens, usual)
    # What an answer without a maximum needs, by those that came before it.
    enough = length.enough if length else max_tokens // SHARE_WITHOUT_HISTORY
    fair_share_tokens = None if ask.max_tokens else min(max_tokens, max(enough, floor_tokens))
    return Candidate(
        model, price, worst, expected_ticks, max_tokens, floor_tokens, fair_share_tokens, thinking_tokens,
        shortest_tokens,
    )  # fmt: skip


def _thinks_within_maximum(ask: Ask, model: ModelPolicy) -> bool:
    """Whether reasoning eats up the maximum, so that in fewer tokens than usual it answers nothing, at full price."""
    known = model.capabilities
    effort = effort_for(ask.needs, ask.effort, known) or known.default_effort
    return known.thinks_within_maximum and effort != NO_REASONING


def expected_usage(ask: Ask, model: ModelPolicy, max_tokens: int, cached_tokens: int = 0) -> Usage:
    """What a call usually comes to, for comparing prices: its text's tokens, and all of its answers."""
    images = explained_input(ask, model) - ask.input_tokens
    input_tokens = ask.input_tokens // BYTES_PER_TOKEN + images
    return Usage(
        input_tokens=input_tokens,
        cached_input_tokens=min(cached_tokens, input_tokens),
        output_tokens=max_tokens * ask.choices,
    )


def explained_input(ask: Ask, model: ModelPolicy) -> int:
    """The most input tokens that the call's own text and images can explain, before what the model learned."""
    return ask.input_tokens + ask.images * (model.image_allowance_tokens or 0)


def _bound_input(ask: Ask, model: ModelPolicy) -> int:
    return bound_tokens(explained_input(ask, model), model.input_allowance_percent, model.input_surplus_tokens)


def exceeds_learned_bounds(usage: Usage, ask: Ask, model: ModelPolicy, max_tokens: int, now: datetime) -> bool:
    """Whether a bill shows more tokens than `model`'s bounds allow for such a call, or that they are needed still."""
    most_output_tokens = (max_tokens + model.reasoning_allowance_tokens) * ask.choices
    if usage.input_tokens > _bound_input(ask, model) or usage.output_tokens > most_output_tokens:
        return True
    is_needed = usage.input_tokens > explained_input(ask, model)
    return is_needed and model.input_raised_at is not None and now - model.input_raised_at > NOTED_EVERY


def _offer(candidate: Candidate, route: Route, *, most_downgrades: int | None = None) -> Offer:
    return Offer(
        model=candidate.model.id,
        provider=candidate.model.provider,
        price=candidate.price,
        route=route,
        fixed_ticks=candidate.worst.fixed_ticks,
        token_ticks=candidate.worst.token_ticks,
        max_tokens=candidate.max_tokens,
        floor_tokens=candidate.floor_tokens,
        most_downgrades=most_downgrades,
        fair_share_tokens=candidate.fair_share_tokens,
        shortest_tokens=candidate.shortest_tokens,
    )
