"""The limits of a call: the reserve of a budget is for conversations that have begun, and no cap ever breaks."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.policy.limits import limits_of
from guard.policy.snapshot import BudgetPolicy, Policy
from spend.ledger.rules import Balance, Book, DoesNotFit, Held, apply
from tenants.models import Scope
from tenants.periods import Period
from tests.support.calls import chat_call
from tests.support.commands import NOON, caller_of, offer_of, reserve_of, settle_of

pytestmark = pytest.mark.pure

LIMIT = 1_000
CALLS = st.lists(st.tuples(st.booleans(), st.integers(1, 400), st.none() | st.integers(0, 400)), max_size=20)


@given(CALLS, st.integers(1, LIMIT), st.integers(0, LIMIT), st.integers(1, LIMIT))
def test_a_reserve_is_for_conversations_that_have_begun_and_the_cap_never_breaks(
    calls: list[tuple[bool, int, int | None]], hard_ticks: int, reserve_ticks: int, soft_ticks: int
) -> None:
    budget = BudgetPolicy(Scope.TENANT, Period.DAY, LIMIT, min(soft_ticks, hard_ticks), hard_ticks, reserve_ticks)
    tenant = replace(chat_call().tenant, budgets=(budget,))
    policy, balance = Policy({}, {}, {}, (), 1), Balance(1, 0, 0)
    for has_begun, ticks, bill_ticks in calls:
        limits = limits_of(policy, tenant, 1, "", "", NOON, has_begun=has_begun)
        book = Book({1: balance}, {limits[0].key: 1}, {})
        cap_ticks = hard_ticks if has_begun else hard_ticks - reserve_ticks
        fits = balance.spent_ticks + balance.held_ticks + ticks <= cap_ticks
        (result,) = apply([reserve_of(limits, [offer_of(ticks)], caller=caller_of())], book)
        assert isinstance(result, Held if fits else DoesNotFit)
        assert balance.spent_ticks + balance.held_ticks <= hard_ticks
        if isinstance(result, Held) and bill_ticks is not None:
            apply([settle_of(result.reserved, min(bill_ticks, ticks))], book)


def test_without_a_reserve_all_conversations_are_alike() -> None:
    budget = BudgetPolicy(Scope.TENANT, Period.DAY, LIMIT, 800, 900)
    assert budget.cap_ticks(has_begun=False) == budget.cap_ticks(has_begun=True) == 900
