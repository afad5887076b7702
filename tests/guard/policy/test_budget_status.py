"""What a refusal says of the budget: of its own windows the one that binds, and never that others are spent."""

from guard.policy.budget_status import refusing
from spend.ledger.rules import Standing
from tests.support.commands import limit_of

ALL, DAY, ADA = limit_of(100, "", scope="installation"), limit_of(900), limit_of(50, scope="customer", subject="ada")
STANDINGS = [Standing(100, 0), Standing(300, 0), Standing(45, 0)]


def test_the_window_that_does_not_fit_is_stopped() -> None:
    status = refusing([ALL, DAY, ADA], STANDINGS, [0, 1], can_downgrade=False)
    assert (status.state, status.limit_ticks, status.remaining_ticks) == ("stopped", 900, 600)


def test_a_tenant_that_the_installation_stops_is_told_how_its_own_windows_stand() -> None:
    status = refusing([ALL, DAY], STANDINGS[:2], [0], can_downgrade=False)
    assert (status.state, status.limit_ticks, status.remaining_ticks) == ("active", 900, 600)
