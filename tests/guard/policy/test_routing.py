"""Routing: which models may serve, in which order, under which name, and which are left out."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.policy.last_served import LastServed
from guard.policy.routing import Ask, Length, Plan, plan
from guard.policy.snapshot import BudgetPolicy, ModelPolicy, Policy, TenantPolicy
from spend.capabilities import Capabilities
from spend.codes import StepCode
from spend.ledger.rules import Offer
from spend.models import Route
from spend.pricing.cost import PriceList, TierPrice, Usage, cost_ticks
from spend.pricing.rates import PricePeriod
from tenants.ladder import StepMark
from tenants.models import Scope
from tenants.periods import Period

NOW = datetime(2026, 6, 15, 12, tzinfo=UTC)
ASK = Ask(model="auto", input_tokens=100)


def price_of(input_ticks: int, output_ticks: int) -> PriceList:
    return PriceList(1, (TierPrice(0, input_ticks, 0, input_ticks, output_ticks),))


def priced_from(starts_at: datetime, input_ticks: int, output_ticks: int) -> PricePeriod:
    return PricePeriod(starts_at, None, price_of(input_ticks, output_ticks))


def model_of(name: str, input_ticks: int, output_ticks: int, **changes: Any) -> ModelPolicy:
    model = ModelPolicy(
        id=name,
        provider="xai",
        upstream_name=name,
        context_tokens=1_000_000,
        max_output_tokens=10_000,
        reasoning_allowance_tokens=0,
        input_allowance_percent=100,
        input_surplus_tokens=0,
        input_raised_at=None,
        image_allowance_tokens=None,
        answer_timeout_s=None,
        is_enabled=True,
        shutdown_on=None,
        prices=(priced_from(NOW - timedelta(days=1), input_ticks, output_ticks),),
    )
    return replace(model, **changes)


LARGE, MIDDLE, SMALL = model_of("large", 100, 500), model_of("middle", 50, 200), model_of("small", 5, 20)


def tenant_of(route: Sequence[str], downgrades: Sequence[tuple[str, str]] = (), **changes: Any) -> TenantPolicy:
    tenant = TenantPolicy(
        id="acme",
        is_active=True,
        zone=ZoneInfo("UTC"),
        default_max_tokens=1_000,
        floor_max_tokens=64,
        hide_money=False,
        route=tuple(route),
        downgrades=tuple(downgrades),
        budgets=(),
    )
    return replace(tenant, **changes)


def planned(
    tenant: TenantPolicy,
    ask: Ask = ASK,
    *,
    models: Sequence[ModelPolicy] = (LARGE, MIDDLE, SMALL),
    failed: Collection[str] = (),
    open_circuits: Collection[str] = (),
    providers: Collection[str] | None = None,
) -> Plan:
    policy = Policy({}, {}, {model.id: model for model in models}, (), revision=1)
    spared = dict.fromkeys(open_circuits, StepCode.CIRCUIT_OPEN)
    return plan(ask, tenant, policy, NOW, failed=failed, spared=spared, providers=providers)


def told(result: Plan) -> list[tuple[str, str, bool]]:
    return [(offer.model, str(offer.route), offer.most_downgrades == 0) for offer in result.offers]


# Order


def test_without_rules_the_first_model_serves_and_cheaper_ones_on_the_route_come_after_it() -> None:
    assert told(planned(tenant_of(["middle", "large", "small"]))) == [
        ("middle", "primary", False),
        ("small", "downgrade", False),
    ]


def test_past_the_soft_cap_the_rule_comes_first_and_the_dearer_model_last() -> None:
    assert told(planned(tenant_of(["large", "middle"], [("large", "small")]))) == [
        ("large", "primary", True),
        ("small", "downgrade", False),
        ("large", "primary", False),
        ("middle", "downgrade", False),
    ]


def test_a_models_own_rules_come_before_those_for_any() -> None:
    rules = [("*", "small"), ("large", "middle"), ("middle", "small")]
    assert [offer.model for offer in planned(tenant_of(["large"], rules)).offers] == [
        "large",
        "middle",
        "small",
        "large",
    ]


def test_a_named_model_is_tried_before_the_route() -> None:
    ask = replace(ASK, model="middle")
    assert told(planned(tenant_of(["large", "small"], [("*", "middle")]), ask))[0] == ("middle", "primary", False)


def test_the_rule_for_any_leads_nowhere_from_its_own_model() -> None:
    assert told(planned(tenant_of(["small"], [("*", "small")]))) == [("small", "primary", False)]


# Really cheaper


def test_a_rule_that_would_cost_more_or_the_same_is_no_downgrade() -> None:
    twin = model_of("twin", 50, 200)
    tenant = tenant_of(["middle"], [("middle", "large"), ("middle", "twin")])
    assert told(planned(tenant, models=[LARGE, MIDDLE, twin])) == [("middle", "primary", False)]


def test_cheaper_is_decided_for_this_call_and_not_by_one_price() -> None:
    """Dear input and cheap output, against the other way round."""
    reader, writer = model_of("reader", 1, 1_000), model_of("writer", 100, 1)
    tenant = tenant_of(["reader"], [("*", "writer")])
    long_answer = Ask(model="auto", input_tokens=100, max_tokens=1_000)
    long_question = Ask(model="auto", input_tokens=100_000, max_tokens=10)
    assert "writer" in [offer.model for offer in planned(tenant, long_answer, models=[reader, writer]).offers]
    assert told(planned(tenant, long_question, models=[reader, writer])) == [("reader", "primary", False)]


def test_cheaper_is_decided_at_the_price_that_holds_now() -> None:
    was_cheap = (priced_from(NOW - timedelta(days=9), 1, 1), priced_from(NOW, 900, 900))
    will_be_cheap = (priced_from(NOW - timedelta(days=9), 900, 900), priced_from(NOW + timedelta(seconds=1), 1, 1))
    for prices in (was_cheap, will_be_cheap):
        small = replace(SMALL, prices=prices)
        tenant = tenant_of(["large"], [("*", "small")])
        assert told(planned(tenant, models=[LARGE, small])) == [("large", "primary", False)]


# Failures


def test_the_next_model_after_a_failure_is_a_fallback_even_if_it_is_cheaper() -> None:
    result = planned(tenant_of(["large", "small", "middle"]), failed={"large"})
    assert told(result) == [("small", "fallback", False)]


def test_a_fallback_may_cost_more_than_what_failed() -> None:
    assert told(planned(tenant_of(["small", "large"]), failed={"small"})) == [("large", "fallback", False)]


def test_past_the_soft_cap_a_fallback_is_downgraded_by_its_own_rules() -> None:
    result = planned(tenant_of(["large", "middle"], [("*", "small")]), failed={"large"})
    assert told(result) == [("middle", "fallback", True), ("small", "downgrade", False), ("middle", "fallback", False)]


def test_where_only_a_downgrade_is_left_it_stands_in_as_a_fallback() -> None:
    result = planned(tenant_of(["large"], [("*", "small")]), failed={"large"})
    assert told(result) == [("small", "fallback", False)]


def test_an_open_circuit_is_passed_over_and_said_so() -> None:
    result = planned(tenant_of(["large", "small"]), open_circuits={"large"})
    assert told(result) == [("small", "fallback", False)]
    assert result.left_out == (("large", "circuit_open"),)


def test_a_model_whose_provider_has_no_key_is_passed_over_and_said_so() -> None:
    result = planned(tenant_of(["large", "small"], [("*", "middle")]), providers={"openai"})
    assert result.offers == ()
    assert result.left_out == tuple((name, "no_provider_key") for name in ("large", "small", "middle"))


def test_with_everything_failed_there_is_no_offer() -> None:
    result = planned(tenant_of(["large", "small"]), failed={"large"}, open_circuits={"small"})
    assert result.offers == ()
    assert result.left_out == (("small", "circuit_open"),)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (replace(LARGE, id="other"), "unknown_model"),
        (replace(LARGE, is_enabled=False), "model_disabled"),
        (replace(LARGE, shutdown_on=date(2026, 6, 14)), "shut_down"),
        (replace(LARGE, prices=()), "no_price"),
        (replace(LARGE, prices=(priced_from(NOW + timedelta(seconds=1), 1, 1),)), "no_price"),
    ],
)
def test_a_model_that_cannot_be_called_is_left_out_and_said_so(model: ModelPolicy, why: str) -> None:
    result = planned(tenant_of(["large", "small"]), models=[model, SMALL])
    assert result.left_out == (("large", why),)
    assert [offer.model for offer in result.offers] == ["small"]


def test_on_its_last_day_a_model_is_still_called() -> None:
    ending = replace(LARGE, shutdown_on=NOW.date())
    assert told(planned(tenant_of(["large"]), models=[ending])) == [("large", "primary", False)]


# Really cheaper

GROK = model_of("grok", 0, 0, prices=(PricePeriod(NOW - timedelta(days=1), None, PriceList(1, (
    TierPrice(0, 12_500, 2_000, 12_500, 25_000), TierPrice(200_000, 25_000, 4_000, 25_000, 50_000),
))),))  # fmt: skip
GPT = model_of("gpt", 17_500, 140_000)


def test_a_model_that_is_cheaper_in_the_worst_case_only_is_no_downgrade() -> None:
    """250 kB are some 60,000 tokens: the bound alone reaches the first model's higher tier."""
    tenant, ask = tenant_of(["grok"], [("*", "gpt")]), replace(ASK, input_tokens=250_000)
    by_bound = [GROK.prices[0].price.tier_of(250_000), GPT.prices[0].price.tier_of(250_000)]
    assert by_bound[0].input_ticks > by_bound[1].input_ticks
    assert told(planned(tenant, ask, models=[GROK, GPT])) == [("grok", "primary", False)]
    assert told(planned(tenant, replace(ASK, input_tokens=10**6), models=[GROK, GPT]))[1][0] == "gpt"


def test_what_a_models_bounds_have_learned_does_not_make_it_dearer() -> None:
    learned = replace(MIDDLE, reasoning_allowance_tokens=8_000, input_allowance_percent=900)
    tenant = tenant_of(["middle"], [("*", "large")])
    assert told(planned(tenant, models=[learned, LARGE])) == [("middle", "primary", False)]
    assert told(planned(tenant_of(["large"], [("*", "middle")]), models=[learned, LARGE]))[1][0] == "middle"


TIERS = st.tuples(st.integers(1, 50), st.integers(1, 50), st.integers(0, 3_000), st.integers(1, 5))


@given(TIERS, TIERS, st.integers(16, 20_000), st.integers(1, 100))
def test_past_the_soft_cap_a_call_never_moves_to_a_model_that_costs_more(
    first: tuple[int, ...], second: tuple[int, ...], bound: int, max_tokens: int
) -> None:
    """Whatever the tiers: at the tokens of usual text, and an answer as long as it may be."""

    def tiered(name: str, input_ticks: int, output_ticks: int, above: int, factor: int) -> ModelPolicy:
        low = TierPrice(0, input_ticks, 0, input_ticks, output_ticks)
        high = TierPrice(above, input_ticks * factor, 0, input_ticks * factor, output_ticks * factor)
        price = PriceList(1, (low, high) if above else (low,))
        return model_of(name, 0, 0, prices=(PricePeriod(NOW - timedelta(days=1), None, price),))

    models = [tiered("a", *first), tiered("b", *second)]
    costs = [cost_ticks(Usage(bound // 4, output_tokens=max_tokens), model.prices[0].price) for model in models]
    offers = told(planned(tenant_of(["a"], [("*", "b")]), Ask("auto", bound, max_tokens), models=models))
    assert (("b", "downgrade", False) in offers[1:2]) == (costs[1] < costs[0])


# What an offer holds


def test_an_offer_bounds_the_call() -> None:
    model = replace(LARGE, input_allowance_percent=150, input_surplus_tokens=7, reasoning_allowance_tokens=30)
    (offer,) = planned(tenant_of(["large"]), Ask("auto", 101, max_tokens=20, choices=2), models=[model]).offers
    assert offer.fixed_ticks == (152 + 7) * 100 + 30 * 500 * 2
    assert (offer.token_ticks, offer.max_tokens, offer.floor_tokens) == (500 * 2, 20, 64)


def test_a_call_without_a_maximum_gets_the_tenants_and_none_gets_more_than_the_model_has() -> None:
    short = replace(LARGE, max_output_tokens=300)
    tenant = tenant_of(["large"], default_max_tokens=200)
    assert planned(tenant, models=[short]).offers[0].max_tokens == 200
    assert planned(tenant, replace(ASK, max_tokens=5_000), models=[short]).offers[0].max_tokens == 300


def test_images_are_held_where_they_have_a_bound_and_refused_where_not() -> None:
    seeing = replace(SMALL, image_allowance_tokens=1_000)
    result = planned(tenant_of(["large", "small"]), replace(ASK, images=3), models=[LARGE, seeing])
    assert result.left_out == (("large", "images_not_priced"),)
    assert result.offers[0].fixed_ticks == (100 + 3 * 1_000) * 5


# Whatever the route

NAMES = ["a", "b", "c", "d", "e"]
MODELS = st.fixed_dictionaries({name: st.tuples(st.integers(0, 50), st.integers(0, 50)) for name in NAMES})
RULES = st.lists(st.tuples(st.sampled_from([*NAMES, "*"]), st.sampled_from(NAMES)), max_size=5)
SOME = st.sets(st.sampled_from(NAMES), max_size=3)


@given(MODELS, st.permutations(NAMES), st.integers(1, 5), RULES, st.tuples(SOME, SOME))
def test_whatever_the_route(
    prices: dict[str, tuple[int, int]],
    names: list[str],
    length: int,
    rules: list[tuple[str, str]],
    down: tuple[set[str], set[str]],
) -> None:
    failed, open_circuits = down
    tenant = tenant_of(names[:length], [(source, to) for source, to in rules if source != to])
    models = [model_of(name, *ticks) for name, ticks in prices.items()]
    offers = planned(tenant, models=models, failed=failed, open_circuits=open_circuits).offers
    may_serve = set(tenant.models) - failed - open_circuits
    assert {offer.model for offer in offers} <= may_serve
    assert bool(offers) == bool(({*tenant.route, *downgrades_from(tenant)}) & may_serve)
    if not offers:
        return
    first = offers[0]
    assert (first.route == Route.PRIMARY) == (first.model == tenant.route[0])
    for offer in offers[1:]:
        is_first_again = offer.model == first.model
        assert is_first_again == (offer.route == first.route)
        assert is_first_again or usual_ticks(offer) < usual_ticks(first)
    assert [offer.most_downgrades for offer in offers] == [first.most_downgrades, *[None] * (len(offers) - 1)]
    if first.most_downgrades == 0:
        assert any(offer.model == first.model and offer.most_downgrades is None for offer in offers)


def usual_ticks(offer: Offer) -> int:
    return cost_ticks(Usage(ASK.input_tokens // 4, output_tokens=1_000), offer.price)


def downgrades_from(tenant: TenantPolicy) -> set[str]:
    return {to for source, to in tenant.downgrades if source in (tenant.route[0], "*")}


# What an answer without a maximum needs


def offer_by(lengths: dict[tuple[str, str], Length], ask: Ask = ASK, **tenant: Any) -> Offer:
    models = {"large": LARGE}
    (offer,) = plan(ask, tenant_of(["large"], **tenant), Policy({}, {}, models, (), 1), NOW, lengths=lengths).offers
    return offer


def modest_of(enough: int, ask: Ask = ASK) -> int | None:
    return offer_by({("acme", "large"): Length(enough // 3, enough)}, ask).fair_share_tokens


def test_without_history_a_quarter_of_the_default_is_enough() -> None:
    offer = offer_by({("other", "large"): Length(7, 7), ("acme", "small"): Length(7, 7)})
    assert (offer.fair_share_tokens, offer.floor_tokens) == (250, 64)


def test_with_history_it_is_what_answers_kept_within_between_floor_and_default() -> None:
    assert modest_of(300) == 300
    assert modest_of(3) == 64
    assert modest_of(3_000) == 1_000


def test_who_names_a_maximum_means_it() -> None:
    assert modest_of(300, replace(ASK, max_tokens=500)) is None


# How far an answer may be cut


def test_an_answer_is_cut_to_no_less_than_half_of_what_is_usual() -> None:
    assert offer_by({("acme", "large"): Length(500, 750)}).floor_tokens == 250
    assert offer_by({("acme", "large"): Length(80, 120)}).floor_tokens == 64


THINKER = model_of("small", 5, 20, capabilities=Capabilities(thinks_within_maximum=True, efforts=("none", "low")))


@pytest.mark.parametrize(
    ("ask", "floor_tokens"),
    [({}, 500), ({"effort": "none"}, 250), ({"needs": frozenset({"tools"})}, 500)],
)
def test_one_that_thinks_within_its_maximum_is_not_asked_for_less_than_is_usual(
    ask: dict[str, Any], floor_tokens: int
) -> None:
    policy = Policy({}, {}, {"small": THINKER}, (), 1)
    lengths = {("acme", "small"): Length(500, 750)}
    (offer,) = plan(replace(ASK, **ask), tenant_of(["small"]), policy, NOW, lengths=lengths).offers
    assert offer.floor_tokens == floor_tokens


def test_one_that_usually_thinks_for_longer_than_the_maximum_is_passed_over_unless_it_was_asked_for() -> None:
    policy = Policy({}, {}, {"large": LARGE, "small": THINKER}, (), 1)
    lengths = {("acme", "small"): Length(500, 750)}
    tenant = tenant_of(["large", "small"], [("large", "small")])
    brief = plan(replace(ASK, max_tokens=499), tenant, policy, NOW, lengths=lengths)
    assert (told(brief), brief.left_out) == ([("large", "primary", False)], (("small", "thinks_longer"),))
    longer = plan(replace(ASK, max_tokens=500), tenant, policy, NOW, lengths=lengths)
    assert "small" in [offer.model for offer in longer.offers]
    asked = plan(replace(ASK, model="small", max_tokens=100), tenant, policy, NOW, lengths=lengths)
    assert asked.offers[0].model == "small"


# Conversations that have begun

TALK = replace(ASK, input_tokens=40_000, max_tokens=100, has_begun=True)
"""Ten thousand tokens, by the usual count."""
CHEAP_INPUT = model_of("cheap", 80, 400)


def cached(model: ModelPolicy, cached_input_ticks: int) -> ModelPolicy:
    tier = model.prices[0].price.tiers[0]
    price = PriceList(1, (replace(tier, cached_input_ticks=cached_input_ticks),))
    return replace(model, prices=(model.prices[0]._replace(price=price),))


def last_of(model: str, *, age: timedelta = timedelta(minutes=1), tokens: int = 9_000) -> LastServed:
    return LastServed(model, Route.PRIMARY if model == "large" else Route.DOWNGRADE, tokens, NOW - age)


def planned_after(last: LastServed | None, ask: Ask = TALK, **tenant: Any) -> Plan:
    models = {"large": cached(LARGE, 10), "cheap": CHEAP_INPUT, "small": cached(SMALL, 1)}
    policy = Policy({}, {}, models, (), 1)
    return plan(ask, tenant_of(["large"], tenant.get("rules", [("*", "cheap")])), policy, NOW, last=last)


def test_past_the_soft_cap_a_conversation_moves_only_where_that_saves_more_than_its_cache() -> None:
    assert told(planned_after(None))[1] == ("cheap", "downgrade", False)
    assert told(planned_after(last_of("large")))[0] == ("large", "primary", False)
    forgotten = last_of("large", age=timedelta(minutes=11))
    assert told(planned_after(forgotten))[1] == ("cheap", "downgrade", False)
    too_short = last_of("large", tokens=1_023)
    assert told(planned_after(too_short))[1] == ("cheap", "downgrade", False)
    assert told(planned_after(last_of("large"), rules=[("*", "small")]))[1] == ("small", "downgrade", False)


def test_a_conversation_keeps_the_model_it_was_moved_to() -> None:
    rules = [("*", "small")]
    kept = planned_after(last_of("small"), rules=rules)
    assert told(kept)[0] == ("small", "downgrade", False)
    assert ("large", "conversation_kept") in kept.left_out
    assert told(planned_after(last_of("small"), replace(TALK, model="large"), rules=rules))[0][0] == "large"


def test_a_conversation_goes_back_from_a_dearer_model() -> None:
    policy = Policy({}, {}, {"large": LARGE, "small": SMALL}, (), 1)
    fell_back = LastServed("large", Route.FALLBACK, 9_000, NOW)
    assert plan(TALK, tenant_of(["small", "large"]), policy, NOW, last=fell_back).offers[0].model == "small"
    unknown = replace(fell_back, model="gone")
    assert plan(TALK, tenant_of(["small", "large"]), policy, NOW, last=unknown).offers[0].model == "small"


# Ladders


def on_a_ladder(tenant: TenantPolicy, downgrades: int = 2) -> TenantPolicy:
    budget = BudgetPolicy(Scope.TENANT, Period.DAY, 1_000, 700, 1_000, further=(StepMark(850, downgrades, 0),))
    return replace(tenant, budgets=(budget,))


def shown(result: Plan) -> list[tuple[str, int | None]]:
    return [(offer.model, offer.most_downgrades) for offer in result.offers]


CHAIN = [("large", "middle"), ("middle", "small")]
DOWN_AND_UP = [("large", 0), ("middle", 1), ("small", None), ("middle", None), ("large", None)]


def test_a_ladder_follows_the_rules_as_far_down_as_its_steps_ask() -> None:
    assert shown(planned(on_a_ladder(tenant_of(["large"], CHAIN)))) == DOWN_AND_UP
    assert shown(planned(on_a_ladder(tenant_of(["large"], CHAIN), 9))) == DOWN_AND_UP


def test_several_rules_of_a_model_are_a_chain_where_the_next_is_cheaper() -> None:
    rules = [("*", "middle"), ("*", "small")]
    assert shown(planned(on_a_ladder(tenant_of(["large"], rules)))) == [
        ("large", 0), ("middle", 1), ("small", 1), ("small", None), ("middle", None), ("large", None),
    ]  # fmt: skip


def test_a_step_leads_past_a_model_that_cannot_serve() -> None:
    assert shown(planned(on_a_ladder(tenant_of(["large"], CHAIN)), failed=["middle"])) == [
        ("large", 1), ("small", None), ("large", None),
    ]  # fmt: skip


def test_a_step_without_a_further_downgrade_stays_at_the_end_of_the_rules() -> None:
    assert shown(planned(on_a_ladder(tenant_of(["large"], CHAIN[:1])))) == [
        ("large", 0), ("middle", None), ("large", None),
    ]  # fmt: skip


def test_a_conversation_kept_by_a_downgrade_is_that_far_down_already() -> None:
    tenant = on_a_ladder(tenant_of(["large", "middle"], CHAIN))
    last = LastServed("middle", Route.DOWNGRADE, 100, NOW)
    policy = Policy({}, {}, {model.id: model for model in (LARGE, MIDDLE, SMALL)}, (), revision=1)
    assert shown(plan(ASK, tenant, policy, NOW, last=last))[:2] == [("middle", 1), ("small", None)]
    assert shown(plan(ASK, replace(tenant, budgets=()), policy, NOW, last=last)) == [("middle", None)]


@given(MODELS, st.permutations(NAMES), RULES, SOME, st.integers(2, 4))
def test_whatever_the_rules_each_step_down_is_cheaper_and_none_is_lost(
    prices: dict[str, tuple[int, int]], names: list[str], rules: list[tuple[str, str]], failed: set[str], depth: int
) -> None:
    tenant = tenant_of(names[:2], [(source, to) for source, to in rules if source != to])
    models = [model_of(name, *ticks) for name, ticks in prices.items()]
    simple = planned(tenant, models=models, failed=failed).offers
    offers = planned(on_a_ladder(tenant, depth), models=models, failed=failed).offers
    assert {offer.model for offer in simple} <= {offer.model for offer in offers}
    lasting = [offer.model for offer in offers if offer.most_downgrades is None]
    assert len(set(lasting)) == len(lasting)
    bound = [offer.most_downgrades for offer in offers if offer.most_downgrades is not None]
    assert bound == sorted(bound)
    assert {offer.model for offer in offers} == set(lasting)
    for offer in offers[1:]:
        assert offer.model == offers[0].model or usual_ticks(offer) < usual_ticks(offers[0])
    only_shorter = replace(tenant, budgets=(replace(on_a_ladder(tenant).budgets[0], further=(StepMark(1, 0, 9),)),))
    assert planned(only_shorter, models=models, failed=failed).offers == simple
