"""Allowances: what a bill beyond its bounds teaches, what is forgotten, and that workers keep what others learned."""

from datetime import timedelta
from functools import partial

import pytest
from auditlog.models import LogEntry
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from spend.models import CatalogueModel
from spend.pricing.cost import Usage
from spend.pricing.learned_bounds import (
    FORGOTTEN_AFTER,
    LONG_TEXT_TOKENS,
    MOST_SURPLUS_TOKENS,
    bound_tokens,
    forget,
    learned,
    raise_allowances,
)
from tests.factories import CatalogueModelFactory
from tests.support.books import at_once

pytestmark = pytest.mark.django_db

TOKENS, PERCENT = st.integers(0, 300_000), st.integers(100, 1_000)


def taught(
    model: CatalogueModel, usage: Usage, *, explained_tokens: int = 100, max_tokens: int = 50, choices: int = 1
) -> tuple[int, int, int]:
    """Input percent, surplus and reasoning tokens after a bill for a call of 100 explained tokens."""
    raise_allowances(model.id, explained_tokens, max_tokens, choices, usage)
    model.refresh_from_db()
    return model.input_allowance_percent, model.input_surplus_tokens, model.reasoning_allowance_tokens


# Pure


@given(TOKENS, TOKENS, PERCENT, TOKENS)
def test_what_was_learned_covers_the_bill_and_all_that_was_covered_before(
    explained: int, billed: int, percent: int, surplus: int
) -> None:
    after = learned(explained, billed, percent, surplus)
    assert bound_tokens(explained, *after) >= billed
    assert after[0] >= percent
    assert after[1] >= surplus
    assert (after == (percent, surplus)) == (bound_tokens(explained, percent, surplus) >= billed)


@given(st.integers(0, LONG_TEXT_TOKENS - 1), TOKENS, st.integers(LONG_TEXT_TOKENS, 300_000))
def test_a_short_text_never_multiplies_a_long_one(explained: int, billed: int, long: int) -> None:
    assert bound_tokens(long, *learned(explained, billed, 100, 0)) <= long + billed


@pytest.mark.parametrize(
    ("explained", "billed", "after"),
    [
        (26, 1_200, (100, 1_174)),
        (LONG_TEXT_TOKENS, LONG_TEXT_TOKENS + MOST_SURPLUS_TOKENS, (100, MOST_SURPLUS_TOKENS)),
        (LONG_TEXT_TOKENS, LONG_TEXT_TOKENS + MOST_SURPLUS_TOKENS + 1, (201, 0)),
        (100_000, 150_000, (150, 0)),
    ],
)
def test_a_surplus_is_learned_where_it_can_explain_the_bill_else_a_ratio(
    explained: int, billed: int, after: tuple[int, int]
) -> None:
    assert learned(explained, billed, 100, 0) == after


# In the catalogue


def test_the_most_seen_stays() -> None:
    model = CatalogueModelFactory.create()
    assert taught(model, Usage(251, 0, 0, 50)) == (100, 151, 0)
    assert taught(model, Usage(250, 0, 0, 50)) == (100, 151, 0)
    assert taught(model, Usage(100, 0, 0, 90, 40)) == (100, 151, 40)
    assert taught(model, Usage(100, 0, 0, 300, 160), choices=4) == (100, 151, 40)
    assert taught(model, Usage(20_151), explained_tokens=10_000) == (200, 151, 40)


def test_reasoning_within_the_maximum_and_text_beyond_it_teach_nothing_of_reasoning() -> None:
    model = CatalogueModelFactory.create()
    assert taught(model, Usage(100, 0, 0, 50, 40)) == (100, 0, 0)
    assert taught(model, Usage(100, 0, 0, 500, 0)) == (100, 0, 0)


def test_what_was_learned_is_in_the_audit_trail() -> None:
    model = CatalogueModelFactory.create()
    taught(model, Usage(200))
    entry = LogEntry.objects.get_for_object(model).latest()
    assert entry.changes == {"input_surplus_tokens": ["0", "100"]}
    assert entry.additional_data == {"by": "a bill above its hold"}


def test_a_model_that_is_gone_teaches_nothing() -> None:
    raise_allowances("gone", 1, 1, 1, Usage(5))


def test_what_no_bill_needed_for_long_is_forgotten_and_what_one_did_is_not() -> None:
    unneeded, needed, set_by_an_operator = CatalogueModelFactory.create_batch(3)
    taught(unneeded, Usage(200, 0, 0, 60, 10))
    taught(needed, Usage(200))
    CatalogueModel.objects.filter(pk=set_by_an_operator.pk).update(input_allowance_percent=150)
    long_ago = timezone.now() - FORGOTTEN_AFTER
    CatalogueModel.objects.filter(input_raised_at__isnull=False).update(input_raised_at=long_ago)
    taught(needed, Usage(150))
    assert forget(timezone.now()) == [unneeded.pk]
    bounds = CatalogueModel.objects.in_bulk()
    assert (bounds[unneeded.pk].input_surplus_tokens, bounds[unneeded.pk].input_raised_at) == (0, None)
    assert bounds[unneeded.pk].reasoning_allowance_tokens == 10
    assert bounds[needed.pk].input_surplus_tokens == 100
    assert bounds[set_by_an_operator.pk].input_allowance_percent == 150
    entry = LogEntry.objects.get_for_object(unneeded).latest()
    assert entry.additional_data == {"by": "no bill needed it for 30 days"}
    assert forget(timezone.now() + timedelta(hours=1)) == []


def test_what_an_operator_set_is_never_forgotten() -> None:
    before = CatalogueModelFactory.create(id="before", input_allowance_percent=150)
    after = CatalogueModelFactory.create(id="after")
    taught(after, Usage(200))
    after.input_allowance_percent, after.input_surplus_tokens = 120, 40
    after.save()
    for _ in range(2):
        assert taught(before, Usage(30_000), explained_tokens=10_000) == (300, 0, 0)
        assert taught(after, Usage(200)) == (120, 80, 0)
        CatalogueModel.objects.update(input_raised_at=timezone.now() - FORGOTTEN_AFTER)
        assert forget(timezone.now()) == ["after", "before"]
        bounds = CatalogueModel.objects.values_list("id", "input_allowance_percent", "input_surplus_tokens")
        assert set(bounds) == {("before", 150, 0), ("after", 120, 40)}


@pytest.mark.django_db(transaction=True)
def test_workers_that_learn_at_once_keep_the_most() -> None:
    for _ in range(5):
        model = CatalogueModelFactory.create()
        bills = [Usage(tokens) for tokens in (900, 300, 200, 150)]
        at_once([partial(raise_allowances, model.id, 100, 1, 1, bill) for bill in bills])
        model.refresh_from_db()
        assert model.input_surplus_tokens == 800
