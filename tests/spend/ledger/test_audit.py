"""`manage.py audit_ledger`: sound books balance, and a tampered row of any kind is named."""

from dataclasses import replace
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.utils import timezone

from spend.ledger.audit import MOST_SHOWN
from spend.ledger.leases import expire_reservations
from spend.ledger.posting import Posting
from spend.ledger.rules import Bill, Command, Held, Record, Reserved, Void
from spend.models import LedgerEntry, Outcome, Reservation, Window
from spend.pricing.cost import Usage
from tests.factories import CatalogueModelFactory, PriceFactory, PriceTierFactory
from tests.support.commands import (
    LEASE,
    NOON,
    PRICE,
    bill_for,
    caller_of,
    limit_of,
    offer_of,
    record_of,
    reserve_of,
    settle_of,
)

pytestmark = pytest.mark.django_db

DAY, CUSTOMER = limit_of(10**6), limit_of(10**6, scope="customer", subject="ada")


def post(*commands: Command) -> None:
    Posting().post(commands)


def hold(ticks: int, **caller: str) -> Reserved:
    offer = offer_of(ticks, model=caller.pop("model", "model"))
    (result,) = Posting().post([reserve_of([DAY, CUSTOMER], [offer], caller=caller_of(customer="ada", **caller))])
    assert isinstance(result, Held)
    return result.reserved


@pytest.fixture
def books() -> None:
    """One of everything, each told apart by its hold: see the names of what is tampered with."""
    price = PriceFactory.create(
        id=PRICE.id, model=CatalogueModelFactory.create(price=None), tier__input_ticks=10,
        tier__cached_input_ticks=1, tier__cache_write_ticks=None, tier__output_ticks=100,
    )  # fmt: skip
    PriceTierFactory.create(price=price, above_tokens=1_000, input_ticks=20, cached_input_ticks=2, output_ticks=200)
    before = Posting().post([reserve_of([], 100_000, caller=caller_of(customer="ada"))])[0]
    assert isinstance(before, Held)
    post(settle_of(before.reserved, 90_000), record_of(before.reserved, 90_000))

    computed = hold(10_001)
    bill = bill_for(Usage(100, 40, 10, 5, 2), replace(PRICE, tiers=(replace(PRICE.tiers[0], cache_write_ticks=10),)))
    post(replace(settle_of(computed, 0), bill=bill), record_of(computed, bill.cost_ticks or 0))
    overrun, unknown = hold(10_002), hold(10_003)
    post(settle_of(overrun, 20_000), record_of(overrun, 20_000), settle_of(unknown, None), record_of(unknown, 10_003))
    post(Void(hold(10_004), NOON), Record(caller_of(), Outcome.REFUSED, NOON, code="budget_exceeded"))
    hold(10_005)
    expire_reservations()
    hold(10_006)


def audit() -> str:
    """What the command says where it is content; what it says otherwise is in the error's notes."""
    out, complaints = StringIO(), StringIO()
    try:
        call_command("audit_ledger", stdout=out, stderr=complaints)
    except CommandError as error:
        error.add_note(complaints.getvalue())
        raise
    return out.getvalue()


def complaints() -> str:
    with pytest.raises(CommandError, match="THE BOOKS DO NOT BALANCE") as raised:
        audit()
    return raised.value.__notes__[0]


@pytest.mark.usefixtures("books")
def test_sound_books_balance_and_the_audit_says_how_many_rows_it_saw() -> None:
    assert audit() == "The books balance: 2 windows, 7 reservations, 5 entries, 6 calls, 2 rollups.\n"


def test_empty_books_balance() -> None:
    assert audit().startswith("The books balance: 0 windows")


RESERVATION = "UPDATE spend_reservation SET {} WHERE hold_ticks = {}"
ENTRY = "UPDATE spend_ledgerentry SET {} WHERE hold_ticks = {}"
WINDOW = "UPDATE spend_window SET {} WHERE scope = 'tenant'"
CALL = "UPDATE spend_call SET {} WHERE cost_ticks = {}"
ROLLUP = "UPDATE spend_rollup SET {} WHERE cost_ticks > 100000"


@pytest.mark.usefixtures("books")
@pytest.mark.parametrize(
    ("tampering", "words"),
    [
        (WINDOW.format("spent_ticks = spent_ticks + 1"), "window {window} (tenant 'acme', tenant '', day): spent is"),
        (WINDOW.format("spent_ticks = spent_ticks - 1"), "but its opening, archive and entries are"),
        (WINDOW.format("held_ticks = 0"), "held is 0, but its pending holds are 10006"),
        (WINDOW.format("opening_ticks = 0"), "spent is"),
        (WINDOW.format("opening_ticks = 90009, spent_ticks = spent_ticks + 9"), "it is stale: spent is"),
        ("DELETE FROM spend_window WHERE scope = 'tenant'", "which there is not"),
        (RESERVATION.format("hold_ticks = 9999", 10_006), "its pending holds are 9999"),
        (RESERVATION.format("hold_ticks = 9999", 10_001), "is not what its reservation says"),
        (RESERVATION.format("state = 'voided', ended_at = created_at", 10_006), "its pending holds are 0"),
        (RESERVATION.format("state = 'pending', ended_at = NULL", 10_001), "it is pending, but has an entry"),
        (RESERVATION.format("state = 'voided'", 10_001), "it is voided, but has an entry of"),
        (RESERVATION.format("state = 'settled'", 10_004), "it is settled, but has no entry"),
        (RESERVATION.format("state = 'expired'", 10_001), "whether it is marked expired"),
        (RESERVATION.format("ended_at = NULL", 10_001), "it is settled, but its end is None"),
        (RESERVATION.format("ended_at = created_at", 10_006), "it is pending, but its end is 2025"),
        (RESERVATION.format("window_ids = '[]'", 10_001), "but its opening, archive and entries are"),
        (RESERVATION.format("customer = 'bob'", 10_001), "is not what its reservation says"),
        ("DELETE FROM spend_reservation WHERE hold_ticks = 10001", "it has no reservation"),
        (ENTRY.format("cost_ticks = cost_ticks - 1", 10_001), "but the provider's figure, else ours, else the hold is"),
        (ENTRY.format("cost_ticks = 1, computed_ticks = 1", 10_001), "but its tokens and its price make 1140"),
        (ENTRY.format("cost_ticks = 1, provider_ticks = 1", 10_002), "but its opening, archive and entries are"),
        (ENTRY.format("cost_ticks = 1", 10_003), "else the hold is 10003"),
        (ENTRY.format("output_tokens = output_tokens + 1", 10_001), "but its tokens and its price make 1240"),
        (ENTRY.format("cached_input_tokens = 0", 10_001), "but its tokens and its price make 1500"),
        (ENTRY.format("input_tokens = 1001", 10_001), "but its tokens and its price make 20"),
        (ENTRY.format("reasoning_tokens = 6", 10_001), "more reasoning than output tokens"),
        (ENTRY.format("price_id = 77", 10_001), "but its tokens and its price make None"),
        (ENTRY.format("is_overrun = NOT is_overrun", 10_002), "marked an overrun does not agree with its cost 20000"),
        (ENTRY.format("is_estimated = NOT is_estimated", 10_003), "nobody knows its bill, but it is not marked"),
        (ENTRY.format("is_expired = NOT is_expired", 10_005), "whether it is marked expired"),
        (ENTRY.format("tenant_id = 'other'", 10_001), "is not what its reservation says"),
        (ENTRY.format("at = '2025-06-15 12:00:01'", 10_001), "is not what its reservation says"),
        ("DELETE FROM spend_ledgerentry WHERE hold_ticks = 10001", "it is settled, but has no entry"),
        (CALL.format("cost_ticks = 1", 20_000), "its cost is 1, but its entries are 20000"),
        (CALL.format("model = 'other'", 20_000), "it was served by 'other' (primary), of which it has no entry"),
        (CALL.format("outcome = 'failed'", 20_000), "served -1, refused 0, failed 1"),
        ("DELETE FROM spend_call WHERE cost_ticks = 20000", "served -1, refused 0, failed 0"),
        ("UPDATE spend_pricetier SET output_ticks = 101 WHERE above_tokens = 0", "its tokens and its price make 1145"),
        (ROLLUP.format("cost_ticks = cost_ticks - 5"), "make attempts 0, cost_ticks 5"),
        (ROLLUP.format("attempts = 0"), "make attempts 5, cost_ticks 0"),
        (ROLLUP.format("bucket = '2025-06-15 12:15:00'"), "rollup of acme, 2025-06-15 12:15:00"),
        ("DELETE FROM spend_rollup WHERE cost_ticks > 100000", "make attempts 5"),
    ],
)  # fmt: skip
def test_a_tampered_row_is_named(tampering: str, words: str) -> None:
    window_id = Window.objects.get(scope="tenant").pk
    with connection.cursor() as cursor:
        cursor.execute(tampering)
        assert cursor.rowcount == 1
    assert words.replace("{window}", f"{window_id}") in complaints()


@pytest.mark.usefixtures("books")
def test_an_estimate_takes_no_more_than_was_held() -> None:
    post(replace(settle_of(cut_off := hold(300), 0), bill=Bill(300, Usage(0, 0, 0, 5), 500, is_estimated=True)))
    assert audit()
    LedgerEntry.objects.filter(pk=cut_off.id).update(is_estimated=False)
    assert "its cost is 300, but the provider's figure, else ours, else the hold is 500" in complaints()


@pytest.mark.usefixtures("books")
def test_every_discrepancy_is_told_but_of_one_kind_not_more_than_can_be_read() -> None:
    post(*[reserve_of([DAY], 1) for _ in range(MOST_SHOWN + 5)])
    Reservation.objects.filter(hold_ticks=1).update(state="settled", ended_at=NOON)
    LedgerEntry.objects.filter(hold_ticks=10_002).update(is_overrun=False)
    said = complaints().splitlines()
    assert sum("it is settled, but has no entry" in line for line in said) == MOST_SHOWN
    assert f"… and more like the last {MOST_SHOWN}" in said
    assert any("marked an overrun" in line for line in said)


@pytest.mark.usefixtures("books")
def test_a_bill_that_came_after_the_lease_is_no_discrepancy() -> None:
    late = hold(500)
    expire_reservations()
    post(settle_of(late, 30), record_of(late, 30))
    assert audit()


def test_the_command_expires_what_is_due() -> None:
    running = replace(reserve_of([DAY], 40), lease_expires_at=timezone.now() + LEASE)
    post(reserve_of([DAY], 10), reserve_of([DAY], 20), running)
    out = StringIO()
    call_command("expire_reservations", stdout=out)
    assert out.getvalue() == "2 reservations expired.\n"
    assert Window.objects.get().spent_ticks == 30
    assert audit()
