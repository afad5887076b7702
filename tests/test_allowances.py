"""Allowances: what a bill beyond its bounds teaches, and that no worker forgets what another learned."""

from functools import partial

import pytest
from auditlog.models import LogEntry

from spend.allowances import raise_allowances
from spend.models import CatalogueModel
from spend.pricing import Usage
from tests.factories import CatalogueModelFactory
from tests.support.books import at_once

pytestmark = pytest.mark.django_db


def learned(model: CatalogueModel, usage: Usage, *, max_tokens: int = 50, choices: int = 1) -> tuple[int, int]:
    """Input percent and reasoning tokens after a bill for a call of 100 bound tokens."""
    raise_allowances(model.id, 100, max_tokens, choices, usage)
    model.refresh_from_db()
    return model.input_allowance_percent, model.reasoning_allowance_tokens


def test_the_highest_ratio_seen_stays() -> None:
    model = CatalogueModelFactory.create()
    assert learned(model, Usage(251, 0, 0, 50)) == (251, 0)
    assert learned(model, Usage(250, 0, 0, 50)) == (251, 0)
    assert learned(model, Usage(100, 0, 0, 90, 40)) == (251, 40)
    assert learned(model, Usage(100, 0, 0, 300, 160), choices=4) == (251, 40)


def test_reasoning_within_the_maximum_and_text_beyond_it_teach_nothing_of_reasoning() -> None:
    model = CatalogueModelFactory.create()
    assert learned(model, Usage(100, 0, 0, 50, 40)) == (100, 0)
    assert learned(model, Usage(100, 0, 0, 500, 0)) == (100, 0)


def test_what_was_learned_is_in_the_audit_trail() -> None:
    model = CatalogueModelFactory.create()
    learned(model, Usage(200))
    entry = LogEntry.objects.get_for_object(model).latest()
    assert entry.changes == {"input_allowance_percent": ["100", "200"]}
    assert entry.additional_data == {"by": "a bill above its hold"}


def test_a_model_that_is_gone_teaches_nothing() -> None:
    raise_allowances("gone", 1, 1, 1, Usage(5))


@pytest.mark.django_db(transaction=True)
def test_workers_that_learn_at_once_keep_the_highest() -> None:
    for _ in range(5):
        model = CatalogueModelFactory.create()
        bills = [Usage(tokens) for tokens in (900, 300, 200, 150)]
        at_once([partial(raise_allowances, model.id, 100, 1, 1, bill) for bill in bills])
        model.refresh_from_db()
        assert model.input_allowance_percent == 900
