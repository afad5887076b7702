"""Bills: what a provider's usage says an attempt cost."""

from typing import Any

import pytest
from django.utils import timezone

from guard.chat.billing import read_bill
from spend.ids import new_id
from spend.ledger.rules import Reserved
from tests.support.commands import caller_of, offer_of

TOKENS = {"prompt_tokens": 20, "completion_tokens": 3}
NO_TOKENS = {"prompt_tokens": 0, "completion_tokens": 0}


@pytest.mark.parametrize(
    ("usage", "cost_ticks"),
    [
        ({**TOKENS, "cost_in_usd_ticks": 7}, 7),
        ({**TOKENS, "cost_in_usd_ticks": 0}, 0),
        (TOKENS, 20 * 10 + 3 * 100),
        ({"cost_in_usd_ticks": 7}, 7),
        ({"cost_in_usd_ticks": 0}, None),
        ({**NO_TOKENS, "cost_in_usd_ticks": 0}, None),
        (NO_TOKENS, None),
        (None, None),
    ],
)
def test_the_providers_figure_wins_and_nothing_for_unknown_tokens_is_unknown(
    usage: Any, cost_ticks: int | None
) -> None:
    now = timezone.now()
    bill = read_bill(usage, Reserved(new_id(), caller_of(), offer_of(9), 3, 9, (), now, now), 1)
    assert (bill.cost_ticks, bill.is_estimated) == (cost_ticks, cost_ticks is None)
    assert bill.provider_ticks in (None, cost_ticks)
