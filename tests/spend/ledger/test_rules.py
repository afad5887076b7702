"""The ledger's rules, by themselves: any sequence of commands keeps the books."""

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from spend.codes import StepCode
from spend.ledger.rules import (
    CALLS_AT_ONCE,
    Balance,
    Book,
    Command,
    DoesNotFit,
    Ended,
    Expire,
    Held,
    Limit,
    NotPending,
    Offer,
    Record,
    Reserved,
    Result,
    Settle,
    Standing,
    Void,
    WindowKey,
    apply,
)
from spend.models import Outcome, ReservationState, Route
from tenants.ladder import StepMark
from tests.support.commands import NOON, bill_of, caller_of, limit_of, offer_of, reserve_of, settle_of

DAY, CUSTOMER, ALL = (
    limit_of(1_000, soft_ticks=800),
    limit_of(600, scope="customer", subject="ada", soft_ticks=500),
    limit_of(1_500, "", scope="installation", soft_ticks=1_500),
)


def book_of(*limits: Limit, spent: int = 0, held: int = 0) -> Book:
    """A book with one window for each limit, all with the same balance."""
    ids = {limit.key: number for number, limit in enumerate(limits, 1)}
    return Book({number: Balance(number, spent, held) for number in ids.values()}, ids, {})


def held(result: Result) -> Reserved:
    assert isinstance(result, Held), result
    return result.reserved


def refused(result: Result) -> DoesNotFit:
    assert isinstance(result, DoesNotFit), result
    return result


# What becomes of one reservation


def test_a_hold_counts_in_every_window_until_its_bill_takes_its_place() -> None:
    book = book_of(DAY, CUSTOMER)
    (result,) = apply([reserve_of([DAY, CUSTOMER], 100)], book)
    reserved = held(result)
    assert (reserved.hold_ticks, reserved.window_ids, reserved.created_at) == (100, (1, 2), NOON)
    assert [balance.standing() for balance in book.windows.values()] == [Standing(0, 100)] * 2
    (ended,) = apply([settle_of(reserved, 30)], book)
    assert ended == Ended((Standing(30, 0), Standing(30, 0)), 30)


def test_use_up_to_and_including_the_hard_cap_is_admitted_and_one_tick_more_is_not() -> None:
    book = book_of(DAY)
    first, second, third = apply([reserve_of([DAY], 999), reserve_of([DAY], 2), reserve_of([DAY], 1)], book)
    held(first)
    refused(second)
    held(third)
    assert book.windows[1].standing() == Standing(0, 1_000)


def test_a_bill_above_the_hold_is_recorded_in_full_and_flagged() -> None:
    book = book_of(DAY)
    reserved = held(apply([reserve_of([DAY], 900)], book)[0])
    assert apply([settle_of(reserved, 1_200)], book) == [Ended((Standing(1_200, 0),), 1_200)]
    assert (book.entries[0].cost_ticks, book.entries[0].is_overrun) == (1_200, True)
    assert refused(apply([reserve_of([DAY], 1)], book)[0]).by_holds is False


def test_a_bill_of_the_hold_is_no_overrun() -> None:
    book = book_of(DAY)
    apply([settle_of(held(apply([reserve_of([DAY], 900)], book)[0]), 900)], book)
    assert not book.entries[0].is_overrun


def test_an_unknown_bill_is_settled_at_the_hold() -> None:
    book = book_of(DAY)
    reserved = held(apply([reserve_of([DAY], 70)], book)[0])
    assert apply([settle_of(reserved, None)], book) == [Ended((Standing(70, 0),), 70)]
    assert (book.entries[0].cost_ticks, book.entries[0].is_expired) == (70, False)


def test_a_voided_hold_leaves_nothing_behind() -> None:
    book = book_of(DAY)
    reserved = held(apply([reserve_of([DAY], 70)], book)[0])
    assert apply([Void(reserved, NOON)], book) == [Ended((Standing(0, 0),), 0)]
    assert book.entries == []
    assert book.ended == [(reserved.id, ReservationState.VOIDED, NOON)]


def test_an_expired_hold_is_settled_at_the_hold_and_flagged() -> None:
    book = book_of(DAY)
    reserved = held(apply([reserve_of([DAY], 70)], book)[0])
    assert apply([Expire(reserved, NOON)], book) == [Ended((Standing(70, 0),), 70)]
    entry = book.entries[0]
    assert (entry.cost_ticks, entry.is_expired, entry.is_overrun, entry.bill.is_estimated) == (70, True, False, True)


@pytest.mark.parametrize("first", ["settle", "void", "expire"])
@pytest.mark.parametrize("second", ["settle", "void", "expire"])
def test_a_reservation_ends_once(first: str, second: str) -> None:
    book = book_of(DAY)
    reserved = held(apply([reserve_of([DAY], 70)], book)[0])
    endings: dict[str, Command] = {
        "settle": settle_of(reserved, 30),
        "void": Void(reserved, NOON),
        "expire": Expire(reserved, NOON),
    }
    once, twice = apply([endings[first], endings[second]], book)
    assert isinstance(once, Ended)
    assert twice == NotPending((book.windows[1].standing(),))
    assert len(book.ended) == 1
    assert len(book.entries) == (0 if first == "void" else 1)


def test_a_record_touches_no_balance() -> None:
    book = book_of(DAY)
    record = Record(caller_of(), Outcome.REFUSED, NOON)
    assert apply([record], book) == [None]
    assert (book.records, book.windows[1].standing()) == ([record], Standing(0, 0))


# Which offer, and how much of it


def by_the_token(max_tokens: int, floor_tokens: int, **changes: Any) -> Offer:
    """10 ticks, and 10 for each token."""
    return offer_of(10, token_ticks=10, max_tokens=max_tokens, floor_tokens=floor_tokens, **changes)


def test_the_first_offer_that_fits_is_taken_and_the_others_are_explained() -> None:
    offers = [offer_of(2_000, model="dear"), offer_of(900, model="fits"), offer_of(1, model="cheap")]
    (result,) = apply([reserve_of([DAY], offers)], book_of(DAY))
    assert held(result).offer.model == "fits"
    assert isinstance(result, Held)
    assert result.passed_over == ("does_not_fit",)


def test_past_the_soft_cap_starts_at_it() -> None:
    below, past = offer_of(799, most_downgrades=0, model="dear"), offer_of(1, model="cheap")
    assert held(apply([reserve_of([DAY], [below, past])], book_of(DAY))[0]).offer.model == "dear"
    at_it = replace(below, fixed_ticks=800)
    (result,) = apply([reserve_of([DAY], [at_it, past])], book_of(DAY))
    assert held(result).offer.model == "cheap"
    assert isinstance(result, Held)
    assert result.passed_over == ("past_soft_cap",)


def test_any_one_soft_cap_is_enough_to_be_past_it() -> None:
    offers = [offer_of(550, most_downgrades=0, model="dear"), offer_of(1, model="cheap")]
    assert held(apply([reserve_of([DAY], offers)], book_of(DAY))[0]).offer.model == "dear"
    assert held(apply([reserve_of([DAY, CUSTOMER], offers)], book_of(DAY, CUSTOMER))[0]).offer.model == "cheap"


def test_an_answer_is_shortened_to_what_is_left() -> None:
    reserved = held(apply([reserve_of([DAY], [by_the_token(200, floor_tokens=50)])], book_of(DAY, spent=245))[0])
    assert (reserved.max_tokens, reserved.hold_ticks) == (74, 750)


def test_an_answer_is_not_shortened_below_the_floor() -> None:
    offers = [by_the_token(200, floor_tokens=50)]
    assert held(apply([reserve_of([DAY], offers)], book_of(DAY, spent=490))[0]).max_tokens == 50
    refused(apply([reserve_of([DAY], offers)], book_of(DAY, spent=491))[0])


def test_who_asks_for_less_than_the_floor_gets_what_was_asked_for_or_nothing() -> None:
    offers = [by_the_token(20, floor_tokens=50)]
    assert held(apply([reserve_of([DAY], offers)], book_of(DAY, spent=790))[0]).max_tokens == 20
    refused(apply([reserve_of([DAY], offers)], book_of(DAY, spent=791))[0])


def test_free_output_cannot_be_shortened_to_fit() -> None:
    refused(apply([reserve_of([DAY], [offer_of(1_001, floor_tokens=0)])], book_of(DAY))[0])


def test_the_tightest_of_several_windows_decides_how_far() -> None:
    (result,) = apply([reserve_of([DAY, CUSTOMER], [by_the_token(200, floor_tokens=1)])], book_of(DAY, CUSTOMER))
    assert held(result).max_tokens == 59


# Without a maximum, among other calls

MODEST = by_the_token(90, floor_tokens=5, fair_share_tokens=20)


def test_a_call_without_a_maximum_leaves_others_what_they_need_where_it_is_tight() -> None:
    alone, among_others = book_of(DAY), book_of(DAY, held=1)
    assert held(apply([reserve_of([DAY], [MODEST])], alone)[0]).max_tokens == 90
    assert held(apply([reserve_of([DAY], [MODEST])], among_others)[0]).max_tokens == 20


def test_where_there_is_plenty_it_gets_its_maximum_among_others_too() -> None:
    plenty = limit_of(CALLS_AT_ONCE * MODEST.hold_ticks(90) + 1)
    assert held(apply([reserve_of([plenty], [MODEST])], book_of(plenty, held=1))[0]).max_tokens == 90
    assert held(apply([reserve_of([plenty], [MODEST])], book_of(plenty, held=2))[0]).max_tokens == 20


def test_it_waits_for_the_holds_of_others_and_makes_do_with_the_rest_in_the_end() -> None:
    comes_again = replace(reserve_of([DAY], [MODEST]), may_wait=True)
    refusal = refused(apply([comes_again], book_of(DAY, held=900))[0])
    assert (refusal.by_holds, refusal.passed_over) == (True, (StepCode.HELD_BY_OTHER_CALLS,))
    assert held(apply([replace(comes_again, may_wait=False)], book_of(DAY, held=900))[0]).max_tokens == 9


def test_it_does_not_wait_for_what_no_hold_will_give_back() -> None:
    comes_again = replace(reserve_of([DAY], [MODEST]), may_wait=True)
    assert held(apply([comes_again], book_of(DAY, spent=899, held=1))[0]).max_tokens == 9


def test_a_call_that_named_its_maximum_takes_what_there_is() -> None:
    named = replace(reserve_of([DAY], [replace(MODEST, fair_share_tokens=None)]), may_wait=True)
    assert held(apply([named], book_of(DAY, held=900))[0]).max_tokens == 9


# Why not


def test_what_only_holds_keep_away_is_said_to_be_held_and_not_spent() -> None:
    book = book_of(DAY, CUSTOMER, spent=100, held=450)
    refusal = refused(apply([reserve_of([DAY, CUSTOMER], 200)], book)[0])
    assert refusal == DoesNotFit(True, (1,), (Standing(100, 450), Standing(100, 450)), (StepCode.HELD_BY_OTHER_CALLS,))


def test_what_is_spent_is_said_to_be_spent_whatever_is_held() -> None:
    book = book_of(DAY, CUSTOMER, spent=550, held=10)
    refusal = refused(apply([reserve_of([DAY, CUSTOMER], 100)], book)[0])
    assert (refusal.by_holds, refusal.binding, refusal.passed_over) == (False, (1,), ("does_not_fit",))


def test_all_windows_that_stand_in_the_cheapest_offers_way_bind() -> None:
    book = book_of(DAY, CUSTOMER, ALL, spent=950)
    offers = [offer_of(900), offer_of(600, most_downgrades=0), by_the_token(200, floor_tokens=5)]
    assert refused(apply([reserve_of([DAY, CUSTOMER, ALL], offers)], book)[0]).binding == (0, 1)


def test_a_refusal_changes_nothing() -> None:
    book = book_of(DAY, spent=990)
    apply([reserve_of([DAY], 100)], book)
    assert book == book_of(DAY, spent=990)


# Any sequence whatever

LIMITS = st.lists(st.sampled_from([DAY, CUSTOMER, ALL]), unique=True, min_size=1, max_size=3)
OFFERS = st.lists(
    st.builds(
        offer_of,
        st.integers(0, 700),
        token_ticks=st.integers(0, 20),
        max_tokens=st.integers(1, 60),
        floor_tokens=st.integers(1, 60),
        fair_share_tokens=st.none() | st.integers(1, 60),
        most_downgrades=st.sampled_from([None, 0]),
    ).map(
        lambda offer: replace(
            offer, fair_share_tokens=offer.fair_share_tokens and max(offer.fair_share_tokens, offer.floor_tokens)
        )
    ),
    max_size=4,
)
BILLS = st.none() | st.integers(0, 900)


def use_of(limit: Limit, book: Book) -> int:
    balance = book.windows[book.window_ids[limit.key]]
    return balance.spent_ticks + balance.held_ticks


def fits_somehow(offer: Offer, limits: list[Limit], uses: list[int]) -> bool:
    """By trying every length of the answer, from the longest to the floor."""
    floor = min(offer.floor_tokens, offer.max_tokens)
    lengths = range(floor, offer.max_tokens + 1)
    below_soft = offer.most_downgrades is None or all(
        use + offer.hold_ticks(offer.max_tokens) < limit.soft_ticks for limit, use in zip(limits, uses, strict=True)
    )
    return below_soft and any(
        not offer.hold_ticks(length)
        or all(use + offer.hold_ticks(length) <= limit.hard_ticks for limit, use in zip(limits, uses, strict=True))
        for length in lengths
    )


@dataclass
class Kept:
    """What a test remembers of the windows by itself, to hold it against the book."""

    pending: dict[Any, tuple[Reserved, list[WindowKey]]] = field(default_factory=dict)
    spent: dict[WindowKey, int] = field(default_factory=lambda: dict.fromkeys([DAY.key, CUSTOMER.key, ALL.key], 0))


class AnySequence(RuleBasedStateMachine):
    """Reserves, settles, voids and expires in any order, and each of them again and again."""

    reservations: Bundle[Reserved] = Bundle("reservations")
    gone: Bundle[Reserved] = Bundle("gone")

    def __init__(self) -> None:
        super().__init__()
        self.book, self.kept = book_of(DAY, CUSTOMER, ALL), Kept()

    @rule(target=reservations, limits=LIMITS, offers=OFFERS)
    def reserve(self, limits: list[Limit], offers: list[Offer]) -> Any:
        before = [use_of(limit, self.book) for limit in limits]
        only_spent = [self.kept.spent[limit.key] for limit in limits]
        (result,) = apply([reserve_of(limits, offers)], self.book)
        if isinstance(result, DoesNotFit):
            assert not any(fits_somehow(offer, limits, before) for offer in offers)
            lasting = [offer for offer in offers if offer.most_downgrades is None]
            assert result.by_holds == any(fits_somehow(offer, limits, only_spent) for offer in lasting)
            return multiple()
        reserved = held(result)
        taken = offers.index(reserved.offer)
        assert not any(fits_somehow(offer, limits, before) for offer in offers[:taken])
        assert min(reserved.offer.floor_tokens, reserved.offer.max_tokens) <= reserved.max_tokens
        assert reserved.max_tokens <= reserved.offer.max_tokens
        assert reserved.hold_ticks == reserved.offer.hold_ticks(reserved.max_tokens)
        longer = [use + reserved.offer.hold_ticks(reserved.max_tokens + 1) for use in before]
        enough = reserved.offer.fair_share_tokens or reserved.offer.max_tokens
        is_shortened = reserved.max_tokens < min(enough, reserved.offer.max_tokens)
        assert not is_shortened or any(use > limit.hard_ticks for use, limit in zip(longer, limits, strict=True))
        assert not reserved.hold_ticks or all(use_of(limit, self.book) <= limit.hard_ticks for limit in limits)
        self.kept.pending[reserved.id] = (reserved, [limit.key for limit in limits])
        return reserved

    @rule(target=gone, reserved=consumes(reservations), ticks=BILLS)
    def settle(self, reserved: Reserved, ticks: int | None) -> Reserved:
        self._end(Settle(reserved, bill_of(ticks), NOON), reserved, reserved.hold_ticks if ticks is None else ticks)
        return reserved

    @rule(target=gone, reserved=consumes(reservations))
    def void(self, reserved: Reserved) -> Reserved:
        self._end(Void(reserved, NOON), reserved, 0)
        return reserved

    @rule(target=gone, reserved=consumes(reservations))
    def expire(self, reserved: Reserved) -> Reserved:
        self._end(Expire(reserved, NOON), reserved, reserved.hold_ticks)
        return reserved

    @rule(reserved=gone, ticks=BILLS, kind=st.sampled_from([Settle, Void, Expire]))
    def end_again(self, reserved: Reserved, ticks: int | None, kind: type) -> None:
        command = Settle(reserved, bill_of(ticks), NOON) if kind is Settle else kind(reserved, NOON)
        (result,) = apply([command], self.book)
        assert isinstance(result, NotPending)

    def _end(self, command: Settle | Void | Expire, reserved: Reserved, cost: int) -> None:
        (result,) = apply([command], self.book)
        assert isinstance(result, Ended)
        assert result.cost_ticks == cost
        _, keys = self.kept.pending.pop(reserved.id)
        for key in keys:
            self.kept.spent[key] += cost

    @invariant()
    def balances_are_the_sums(self) -> None:
        for key, window_id in self.book.window_ids.items():
            held_ticks = sum(reserved.hold_ticks for reserved, keys in self.kept.pending.values() if key in keys)
            assert self.book.windows[window_id].standing() == Standing(self.kept.spent[key], held_ticks)

    @invariant()
    def each_reservation_ends_at_most_once_with_at_most_one_entry(self) -> None:
        ended = [reservation_id for reservation_id, _, _ in self.book.ended]
        entered = [entry.reserved.id for entry in self.book.entries]
        assert len(set(ended)) == len(ended)
        assert len(set(entered)) == len(entered)
        assert set(ended) == {reserved.id for reserved in self.book.reserved} - self.kept.pending.keys()
        assert self.book.pending.keys() == self.kept.pending.keys()


TestAnySequence = AnySequence.TestCase


@given(st.lists(st.tuples(LIMITS, OFFERS), max_size=12), st.integers(0, 12))
def test_a_batch_ends_as_its_commands_one_by_one(asks: list[tuple[list[Limit], list[Offer]]], cut: int) -> None:
    commands = [reserve_of(limits, offers) for limits, offers in asks]
    together, apart = book_of(DAY, CUSTOMER, ALL), book_of(DAY, CUSTOMER, ALL)
    results = apply(commands, together)
    assert results == apply(commands[:cut], apart) + apply(commands[cut:], apart)
    assert together == apart


def test_the_route_of_the_offer_is_the_reservations() -> None:
    (result,) = apply([reserve_of([DAY], [offer_of(1, route=Route.FALLBACK)])], book_of(DAY))
    assert held(result).offer.route is Route.FALLBACK


# Ladders

LADDER = replace(DAY, soft_ticks=700, further=(StepMark(850, 2, 0), StepMark(950, 0, 5)))
CHAIN = [
    offer_of(100, most_downgrades=0, model="dear"),
    offer_of(50, most_downgrades=1, model="cheaper"),
    *(offer_of(ticks, model=model) for ticks, model in [(10, "cheapest"), (50, "cheaper"), (100, "dear")]),
]


@pytest.mark.parametrize(
    ("spent", "model", "step"),
    [
        (599, "dear", 0), (600, "cheaper", 1), (799, "cheaper", 1), (800, "cheapest", 2), (940, "cheapest", 3),
        (990, "cheapest", 3),
    ],
)  # fmt: skip
def test_each_step_of_a_ladder_leads_further_down(spent: int, model: str, step: int) -> None:
    reserved = held(apply([reserve_of([LADDER], CHAIN)], book_of(LADDER, spent=spent))[0])
    assert (reserved.offer.model, reserved.step) == (model, step)


def test_it_says_which_step_passed_an_offer_over() -> None:
    (result,) = apply([reserve_of([LADDER], CHAIN)], book_of(LADDER, spent=800))
    assert isinstance(result, Held)
    assert result.passed_over == (StepCode.PAST_SOFT_CAP, StepCode.PAST_FURTHER_STEP)


def test_a_step_shortens_answers_but_not_below_the_shortest() -> None:
    offer = by_the_token(10, floor_tokens=8)
    (result,) = apply([reserve_of([LADDER], [offer])], book_of(LADDER, spent=840))
    assert isinstance(result, Held)
    assert (result.reserved.max_tokens, result.step_tokens, result.reserved.step) == (5, 5, 3)
    (kept,) = apply([reserve_of([LADDER], [replace(offer, shortest_tokens=7)])], book_of(LADDER, spent=840))
    assert held(kept).max_tokens == 7
    (short,) = apply([reserve_of([LADDER], [by_the_token(3, floor_tokens=3)])], book_of(LADDER, spent=920))
    assert isinstance(short, Held)
    assert (short.reserved.max_tokens, short.step_tokens) == (3, None)


def test_the_ladders_of_several_budgets_join() -> None:
    other = replace(CUSTOMER, soft_ticks=550, further=(StepMark(580, 0, 3),))
    (result,) = apply(
        [reserve_of([LADDER, other], [by_the_token(10, floor_tokens=1)])], book_of(LADDER, other, spent=480)
    )
    assert (held(result).max_tokens, held(result).step) == (3, 2)


MARKS = st.lists(st.tuples(st.integers(1, 1_200), st.integers(0, 3), st.integers(0, 40)), max_size=4).map(
    lambda marks: tuple(StepMark(*mark) for mark in sorted(marks))
)


@given(MARKS, st.integers(1, 1_000), st.integers(0, 60), st.lists(st.integers(0, 1_000), min_size=2, max_size=2))
def test_more_spend_never_gives_a_lower_step_and_the_cap_never_breaks(
    marks: tuple[StepMark, ...], soft_ticks: int, tokens: int, spends: list[int]
) -> None:
    limit = replace(DAY, soft_ticks=soft_ticks, further=marks)
    shapes = [(100, 4, "dear"), (50, 2, "cheaper"), (10, 1, "cheapest")]
    chain = [
        offer_of(fixed, token_ticks=ticks, max_tokens=max(1, tokens), floor_tokens=1, model=model, most_downgrades=most)
        for (fixed, ticks, model), most in [
            *zip(shapes, [0, 1], strict=False),
            *((each, None) for each in shapes[::-1]),
        ]
    ]
    found = []
    for spent in sorted(spends):
        book = book_of(limit, spent=spent)
        (result,) = apply([reserve_of([limit], chain)], book)
        assert use_of(limit, book) <= max(spent, limit.hard_ticks)
        if isinstance(result, Held):
            rank = [model for _, _, model in shapes].index(result.reserved.offer.model)
            found.append((result.reserved.step, rank, -result.reserved.max_tokens))
    for less, more in pairwise(found):
        assert less[0] <= more[0]
        assert less[1] <= more[1]
        assert less[1] < more[1] or less[2] <= more[2]


@given(LIMITS, OFFERS, st.integers(0, 1_500), st.integers(0, 300))
def test_steps_that_are_not_reached_change_nothing(
    limits: list[Limit], offers: list[Offer], spent: int, others: int
) -> None:
    """So a budget with a soft cap alone is as it was before there were ladders."""
    high = tuple(StepMark(10**9, 3, 1) for _ in range(2))
    plain, laddered = book_of(*limits, spent=spent, held=others), book_of(*limits, spent=spent, held=others)
    command = reserve_of(limits, offers)
    (before,) = apply([command], plain)
    (after,) = apply([replace(command, limits=tuple(replace(each, further=high) for each in limits))], laddered)
    assert (before, plain.windows) == (after, laddered.windows)
