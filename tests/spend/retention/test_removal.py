"""Retention: old calls go, what they cost stays to the tick, and nobody who counts or calls meanwhile notices."""

import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from functools import partial
from io import StringIO
from itertools import count, takewhile
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.core.management import CommandError, call_command
from django.db import Error, connection, transaction
from django.db.models import F, Sum
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from dashboard.date_spans import Span
from dashboard.page_reports import statement as statement_of
from spend.jobs import retain_entries
from spend.ledger.audit import audit
from spend.ledger.posting import Posting
from spend.ledger.rules import Held, NotPending, Settle, Void, WindowKey, scopes_of
from spend.ledger.window_opening import spent_in
from spend.models import (
    ArchivedSpend,
    Call,
    ConversationTotal,
    DailyCustomer,
    DailyDowngrade,
    DailyRollup,
    LedgerEntry,
    Reservation,
    ReservationState,
    Review,
    Rollup,
    RollupMark,
    Window,
)
from spend.privacy.customers import Customer, erase, export
from spend.retention import removal
from spend.retention.removal import cut_of, retain
from spend.sql import Sql
from spend.summaries.daily import MarkMovedError, catch_up, misfits, rebuild
from spend.summaries.removed import RemovedError, removed_before
from tenants.models import Scope, Tenant
from tenants.money import usd_string
from tenants.periods import BEGINNING, Period, bounds
from tests.factories import BudgetFactory, UserFactory
from tests.races.test_races import COST, EXACTLY, FIT, MAX_TOKENS, USAGE
from tests.support.agents import Agent, eventually, upstream
from tests.support.agents import audit as audit_of
from tests.support.api import operator
from tests.support.books import assert_the_books_balance, at_once
from tests.support.bursts import burst
from tests.support.commands import MIDNIGHT, bill_of, caller_of, limit_of, reserve_of, settle_of
from tests.support.environment import ROOT
from tests.support.history import NOW, hold_of, made_history, place_call
from tests.support.provider import Provider
from tests.support.server import GuardServer

KEPT = 93
DAYS = 130
PAUSE_S = 0.15

db = pytest.mark.django_db
many = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small steps, and no rest between them."""
    monkeypatch.setattr(removal, "PAUSE_S", 0)
    monkeypatch.setattr(removal, "STEP", 40)


def spent(**by: Any) -> int:
    ticks: int = LedgerEntry.objects.filter(**by).aggregate(ticks=Sum("cost_ticks", default=0))["ticks"]
    return ticks


# When


ZONES = [ZoneInfo(name) for name in ("UTC", "Europe/Berlin", "America/Havana", "Pacific/Apia", "Asia/Kathmandu")]
instants = st.datetimes(datetime(2000, 1, 1), datetime(2060, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001  they get UTC


@given(now=instants, through=instants, zone=st.sampled_from(ZONES), days=st.integers(KEPT, 4000))
def test_a_cut_is_a_midnight_that_no_open_period_and_nothing_unsummed_lies_before(
    now: datetime, through: datetime, zone: ZoneInfo, days: int
) -> None:
    cut = cut_of(now, through, zone, days)
    assert cut <= through
    assert now - cut >= timedelta(days=days)
    assert bounds(Period.DAY, zone, cut).starts_at == cut
    assert min(now - timedelta(days=days), through) - cut < timedelta(hours=26)
    assert cut.timestamp() % (15 * 60) == 0  # where rollups can be told apart
    for other in ZONES:
        for period in (Period.DAY, Period.WEEK, Period.MONTH):
            assert cut < bounds(period, other, now).starts_at


# What goes and what stays


@pytest.fixture
def tenants() -> list[Tenant]:
    """Shops in Berlin and New York, over 130 days."""
    return made_history(entries=600, tenants=2, days=DAYS)


@db
def test_old_calls_go_and_the_books_balance(tenants: list[Tenant]) -> None:
    assert_the_books_balance()
    cuts = {tenant.id: cut_of(NOW, NOW, tenant.zone, KEPT) for tenant in tenants}
    assert len(set(cuts.values())) == 2
    kept = {entry.pk for entry in LedgerEntry.objects.all() if entry.at >= cuts[entry.tenant_id]}
    kept_calls = {call.pk for call in Call.objects.all() if call.at >= cuts[call.tenant_id]}
    kept_windows = {
        window.pk for window in Window.objects.all() if window.ends_at and window.ends_at > cuts[window.tenant_id]
    }
    before, rollups, total = LedgerEntry.objects.count(), Rollup.objects.count(), spent()
    windows = dict(Window.objects.values_list("pk", "spent_ticks"))

    removed = retain(NOW, KEPT)

    assert 0 < removed["entries"] == removed["reservations"] == before - len(kept)
    assert set(LedgerEntry.objects.values_list("pk", flat=True)) == kept
    assert set(Reservation.objects.values_list("pk", flat=True)) == kept
    assert set(Call.objects.values_list("pk", flat=True)) == kept_calls
    assert set(Window.objects.values_list("pk", flat=True)) == kept_windows
    assert removed["windows"] == len(windows) - len(kept_windows) > 0
    assert all(windows[window.pk] == window.spent_ticks for window in Window.objects.all())
    assert Window.objects.filter(archived_ticks__gt=0).exists()  # the month that the cut goes through
    assert Rollup.objects.count() == rollups
    assert ArchivedSpend.objects.get(scope=Scope.INSTALLATION).cost_ticks + spent() == total
    assert {tenant.id: removed_before(tenant.id) for tenant in tenants} == cuts
    assert_the_books_balance()
    assert retain(NOW, KEPT) == {}
    assert retain(NOW, KEPT + 10) == {}  # what is to be kept longer now is gone
    assert retain(NOW + timedelta(days=20), KEPT)["entries"] > 0
    assert_the_books_balance()


@db
def test_where_nothing_is_old_enough_nothing_is_said_to_be_removed() -> None:
    tenant = made_history(entries=100, tenants=1, days=60)[0]
    assert retain(NOW, KEPT) == {}
    assert removed_before(tenant.id) is None


@db
def test_reviews_and_attempts_without_a_call_go_too(tenants: list[Tenant]) -> None:
    entry = LedgerEntry.objects.filter(tenant=tenants[0]).order_by("at").first()
    assert entry
    Review.objects.create(entry=entry)
    Call.objects.filter(pk=entry.call_id).delete()
    Rollup.objects.filter(tenant=tenants[0], served__gt=0, bucket__lte=entry.at).update(served=F("served") - 1)
    voided = hold_of(Call(tenant=tenants[0], key=entry.key, at=entry.at, id=entry.call_id), ReservationState.VOIDED, 5)
    retain(NOW, KEPT)
    assert not Review.objects.exists()
    assert not LedgerEntry.objects.filter(pk=entry.pk).exists()
    assert not Reservation.objects.filter(pk__in=[entry.pk, voided.pk]).exists()
    assert_the_books_balance()


@db
def test_a_pending_hold_keeps_all_that_came_after_it(tenants: list[Tenant]) -> None:
    """Its entry will be made in its own time, of which the days must not be summed yet."""
    call = Call.objects.filter(tenant=tenants[0]).order_by("at")[20]
    Reservation.objects.filter(call_id=call.pk).update(state=ReservationState.PENDING)
    retain(NOW, KEPT)
    for tenant in tenants:
        mark = removed_before(tenant.id)
        assert mark is None or mark < call.at
    assert Reservation.objects.filter(call_id=call.pk).exists()


# What counts the removed


def every_scope(tenant: Tenant) -> set[tuple[str, str, str]]:
    return {key for entry in LedgerEntry.objects.filter(tenant=tenant) for key in scopes_of(entry)}


def total_of(scope: tuple[str, str, str]) -> int:
    return spent_in(WindowKey(*scope, Period.TOTAL, BEGINNING), None)


@db
def test_a_budget_in_total_that_is_made_later_opens_with_all_that_was_spent(tenants: list[Tenant]) -> None:
    scopes = {scope for tenant in tenants for scope in every_scope(tenant)}
    before = {scope: total_of(scope) for scope in scopes}
    assert {scope for _, scope, _ in scopes} == set(Scope.values)
    retain(NOW, KEPT)
    assert {scope: total_of(scope) for scope in scopes} == before

    tenant, key = tenants[0], tenants[0].keys.get()
    limits = [
        limit_of(10**15, tenant.id, scope=scope, subject=subject, starts_at=BEGINNING, ends_at=None)
        for _, scope, subject in [("", "tenant", ""), ("", "key", str(key.pk)), ("", "customer", "customer-1")]
    ] + [limit_of(10**15, "", scope="installation", starts_at=BEGINNING, ends_at=None)]
    Posting().post([reserve_of(limits, 1, NOW, caller=caller_of(tenant.id, key_id=key.pk, customer="customer-1"))])
    made = Window.objects.filter(period=Period.TOTAL)
    assert {w.opening_ticks for w in made} == {before[w.tenant_id, w.scope, w.subject] for w in made}
    assert made.count() == 4
    assert_the_books_balance()

    ArchivedSpend.objects.all().delete()
    parts = made.filter(scope__in=[Scope.KEY, Scope.CUSTOMER])  # the others' rollups stay
    assert all(total_of((w.tenant_id, w.scope, w.subject)) < w.opening_ticks for w in parts)


@db
def test_periods_that_can_still_open_open_as_before(tenants: list[Tenant]) -> None:
    keys = [
        (WindowKey(tenant.id, Scope.TENANT, "", period, starts_at), ends_at)
        for tenant in tenants
        for period in (Period.DAY, Period.WEEK, Period.MONTH)
        for starts_at, ends_at in [bounds(period, zone, NOW) for zone in ZONES]
    ]
    before = [spent_in(*key) for key in keys]
    retain(NOW, KEPT)
    assert [spent_in(*key) for key in keys] == before
    assert any(before)


@db
def test_a_settlement_that_comes_after_its_windows_went_is_told_so() -> None:
    """Its lease ended long ago, and what it cost was settled at the hold."""
    posting, total = Posting(), limit_of(10**9, starts_at=BEGINNING, ends_at=None)
    of_the_day = posting.post([reserve_of([limit_of(10**9)], 100)])[0]
    of_both = posting.post([reserve_of([limit_of(10**9), total], 100)])[0]
    of_ever = posting.post([reserve_of([total], 100, MIDNIGHT)])[0]
    assert isinstance(of_the_day, Held)
    assert isinstance(of_both, Held)
    assert isinstance(of_ever, Held)
    Tenant.objects.create(id="acme")
    call_command("expire_reservations", stdout=StringIO())
    retain(timezone.now(), KEPT)
    assert list(Window.objects.values_list("period", "archived_ticks")) == [("total", 300)]
    late = [Settle(each.reserved, bill_of(30), timezone.now()) for each in (of_the_day, of_both, of_ever)]
    results = [*posting.post(late), *posting.post([Void(of_the_day.reserved, timezone.now())])]
    assert [len(result.standings) for result in results if isinstance(result, NotPending)] == [0, 0, 1, 0]
    assert_the_books_balance()


TAMPERINGS = {
    "UPDATE spend_window SET archived_ticks = archived_ticks + 1 WHERE archived_ticks > 0": "but its opening, archive",
    "UPDATE spend_archivedspend SET cost_ticks = cost_ticks - 1 WHERE scope = 'tenant'": "its rollups say",
    "UPDATE spend_archivedspend SET entries = entries + 1 WHERE scope = 'tenant'": "its rollups say",
    "UPDATE spend_archivedspend SET cost_ticks = cost_ticks + 1 WHERE scope = 'key'": "0 entries more than the whole",
    "UPDATE spend_archivedspend SET entries = entries + 1 WHERE scope = 'installation'": "-1 entries more than the",
    "DELETE FROM spend_archivedspend WHERE scope = 'installation'": "archive of the installation",
    "UPDATE spend_archivedspend SET cost_ticks = cost_ticks * 999 WHERE scope = 'customer'": "its customers are",
    "DELETE FROM spend_ledgerentry": "it is settled, but has no entry",
    "UPDATE spend_rollup SET cost_ticks = cost_ticks + 1 WHERE bucket < '2025-12-01'": "its rollups say",
    "UPDATE spend_rollup SET cost_ticks = cost_ticks + 1 WHERE bucket > '2026-03-01'": "make attempts 0, cost_ticks",
    "UPDATE spend_window SET opening_ticks = opening_ticks + 1, spent_ticks = spent_ticks + 1 WHERE period = 'total'": (
        "it is stale: spent is"
    ),
    "UPDATE spend_rollupmark SET archived_through = '2025-12-01 00:00:00'": "make attempts -",
    "DELETE FROM spend_rollupmark": "make attempts",
}


@db
def test_the_audit_still_names_what_was_tampered_with(tenants: list[Tenant]) -> None:
    total = [limit_of(10**15, tenants[0].id, starts_at=BEGINNING, ends_at=None)]
    held = Posting().post([reserve_of(total, 7, caller=caller_of(tenants[0].id, key_id=tenants[0].keys.get().pk))])[0]
    assert isinstance(held, Held)
    Posting().post([settle_of(held.reserved, 7)])
    retain(NOW, KEPT)
    assert_the_books_balance()
    for tampering, words in TAMPERINGS.items():
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(tampering)
            assert cursor.rowcount > 0
            assert any(words in line for line in audit().discrepancies), (tampering, audit().discrepancies)
            transaction.set_rollback(True)


# Days


def days_of(tenant: Tenant) -> dict[str, Counter[date]]:
    found = {}
    for model in (DailyRollup, DailyCustomer, DailyDowngrade):
        rows = model._default_manager.filter(tenant=tenant).values_list("day").annotate(Sum("cost_ticks"))
        found[model.__name__] = Counter(dict(rows.order_by()))
    return found


def conversations_of(tenant: Tenant) -> set[tuple[Any, ...]]:
    return set(ConversationTotal.objects.filter(tenant=tenant).values_list("conversation", "attempts", "cost_ticks"))


@db
@pytest.mark.parametrize(
    "later_zones", [["Pacific/Apia"], ["Pacific/Pago_Pago"], ["Pacific/Apia", "Pacific/Pago_Pago"]]
)
def test_another_time_zone_makes_only_later_days_anew(later_zones: list[str]) -> None:
    tenant = made_history(entries=600, tenants=1, days=DAYS)[0]
    place_call(
        tenant, tenant.keys.get(), NOW, conversation="long", cost_ticks=7, is_estimated=True, model="bench-small"
    )
    first = LedgerEntry.objects.order_by("at")[0].at
    place_call(tenant, tenant.keys.get(), first, conversation="long", cost_ticks=5, is_estimated=True)
    catch_up(NOW + timedelta(hours=3))
    retain(NOW, KEPT)
    days, conversations = days_of(tenant), conversations_of(tenant)
    first_live_day = RollupMark.objects.get().first_live_day
    assert first_live_day
    assert ("long", 2, 12) in conversations
    for zone in later_zones:
        tenant.time_zone = zone
        tenant.save()
        catch_up(NOW + timedelta(hours=3))
    for model, sums in days_of(tenant).items():
        before = days[model]
        assert sums.total() == before.total()
        assert {day: sums[day] for day in sums if day < first_live_day} == {
            day: before[day] for day in before if day < first_live_day
        }
        assert model == "DailyDowngrade" or sums != before
    assert conversations_of(tenant) == conversations
    assert misfits() == []
    retain(NOW + timedelta(days=5), KEPT)
    rebuild([tenant.id])
    catch_up(NOW + timedelta(hours=3))
    assert {model: sums.total() for model, sums in days_of(tenant).items()} == {
        model: sums.total() for model, sums in days.items()
    }
    assert conversations_of(tenant) == conversations
    assert_the_books_balance()


@db
def test_days_that_are_made_anew_in_the_middle_of_a_retention_count_what_is_still_to_go() -> None:
    tenant = made_history(entries=300, tenants=1, days=DAYS)[0]
    catch_up(NOW)
    days, conversations = days_of(tenant), conversations_of(tenant)
    retain(NOW, KEPT, within_s=0)
    mark = removed_before(tenant.id)
    assert mark
    assert LedgerEntry.objects.filter(at__lt=mark).exists()
    assert_the_books_balance()
    rebuild([tenant.id])
    catch_up(NOW)
    assert (days_of(tenant), conversations_of(tenant)) == (days, conversations)


# Pages, files and the API

MONTH = "2025-12"
"""The month that the cut goes through."""


@pytest.fixture
def staff() -> Client:
    client = Client()
    client.force_login(UserFactory.create(is_staff=True, password=None))
    return client


def get(client: Client, name: str, *args: Any, **parameters: str) -> tuple[int, str, str]:
    """Status, body, and the name of a file."""
    response = client.get(reverse(name, args=args), parameters)
    return response.status_code, " ".join(response.getvalue().decode().split()), response.get("Content-Disposition", "")


REMOVED = "Single calls before 27 Dec 2025 were removed; sums are kept."


@db
def test_pages_across_the_mark_say_the_same_sums(staff: Client, tenants: list[Tenant]) -> None:
    catch_up(NOW)

    def said() -> list[Any]:
        return [
            get(staff, name, tenant.id, *kind, month=MONTH)
            for tenant in tenants
            for name, *kind in [("days_csv",), ("subjects_csv", "customer"), ("subjects_csv", "conversation")]
        ] + [
            statement_of(tenant, Span("", "", date(2025, 12, 1), date(2026, 1, 15), tenant.zone), NOW)
            for tenant in tenants
        ]

    before = said()
    assert retain(NOW, KEPT)
    assert said() == before


@db
def test_pages_say_what_was_removed(staff: Client, tenants: list[Tenant]) -> None:
    shop = tenants[0].id
    gone = Call.objects.filter(tenant=shop).order_by("at")[0]
    for name in ("calls", "statement"):
        assert "were removed" not in get(staff, name, shop)[1]
    assert get(staff, "call", shop, gone.pk)[0] == 200
    retain(NOW, KEPT)
    assert REMOVED in get(staff, "calls", shop, last="2026-01-01")[1]
    assert "were removed" not in get(staff, "calls", shop, first="2026-01-01")[1]
    assert get(staff, "call", shop, gone.pk)[0] == 404
    assert REMOVED in get(staff, "call", shop, gone.pk)[1]
    assert REMOVED in get(staff, "find", request_id=gone.request_id)[1]
    assert REMOVED in get(staff, "statement", shop, month=MONTH)[1]
    assert "were removed" not in get(staff, "statement", shop, month="2026-01")[1]


@db
def test_files_of_single_calls_are_whole_or_refused(staff: Client, tenants: list[Tenant]) -> None:
    shop = tenants[0].id
    retain(NOW, KEPT)
    for name in ("entries_csv", "focus_csv"):
        status, body, _ = get(staff, name, shop, month=MONTH)
        assert (status, REMOVED in body) == (410, True)
        status, body, _ = get(staff, name, shop, month="2026-01")
        assert (status, "removed" in body) == (200, False)
    assert get(staff, "calls_csv", shop)[2].endswith('-calls-since-2025-12-27.csv"')
    assert get(staff, "calls_csv", shop, first="2026-01-01")[2].endswith('-calls.csv"')


@db
def test_a_file_breaks_off_where_its_calls_are_removed_meanwhile(staff: Client, tenants: list[Tenant]) -> None:
    response = staff.get(reverse("entries_csv", args=[tenants[0].id]), {"month": MONTH})
    retain(NOW, KEPT)
    with pytest.raises(RemovedError, match="were removed"):
        response.getvalue()


@db
def test_the_api_tells_sums_and_refuses_what_needs_single_calls(tenants: list[Tenant]) -> None:
    tenant, api, total = tenants[0], operator(), usd_string(spent(tenant=tenants[0]))
    retain(NOW, KEPT)
    for group_by in ("day", "model"):
        whole = api.get("/api/spend", {"tenantId": tenant.id, "groupBy": group_by})
        assert whole.json()["totalCost"] == total
    for asked in (
        {"groupBy": "customer"},
        {"from": "2025-12-26", "groupBy": "customer"},
        {"from": "2025-12-26T12:01:00Z"},
    ):
        answer = api.get("/api/spend", {"tenantId": tenant.id, **asked})
        assert answer.status_code == 400
        assert "single calls before 2025-12-27 were removed" in answer.json()["error"]["message"]
    kept = api.get("/api/spend", {"tenantId": tenant.id, "from": "2025-12-27", "groupBy": "customer"})
    assert kept.status_code == 200
    assert kept.json()["totalCost"] == usd_string(spent(tenant=tenant))


# Customers


@db
def test_a_customers_archive_is_exported_and_erased_with_it(tenants: list[Tenant]) -> None:
    customer = Customer(tenants[0].id, "customer-1")
    before = total_of((tenants[0].id, "customer", "customer-1"))
    retain(NOW, KEPT)
    (row,) = [row for table, row in export(customer) if table == "archived"]
    assert row["cost_ticks"] > 0
    assert erase(customer)["archived"] == 1
    assert not list(export(customer))
    (pseudonym,) = ArchivedSpend.objects.filter(subject__startswith="erased-").values_list("subject", flat=True)
    assert total_of((tenants[0].id, "customer", pseudonym)) == before
    assert total_of((tenants[0].id, "customer", "customer-1")) == 0
    assert_the_books_balance()


# Job and command


@db
def test_the_command_says_what_it_removed_and_wants_the_setting(settings: Any) -> None:
    made_history(entries=200, tenants=1, days=DAYS, now=timezone.now())
    settings.ENTRIES_KEPT_DAYS = None
    with pytest.raises(CommandError, match="ENTRIES_KEPT_DAYS is not set"):
        call_command("retain_entries")
    assert retain_entries.func() == "entries are kept for ever"
    settings.ENTRIES_KEPT_DAYS = KEPT
    out, before = StringIO(), LedgerEntry.objects.count()
    call_command("retain_entries", stdout=out)
    removed = before - LedgerEntry.objects.count()
    assert removed > 0
    assert f"{removed} reservations, {removed} entries, " in out.getvalue()
    assert retain_entries.func() == "0 calls and 0 entries removed"


# Many at once


@many
def test_an_opening_that_is_read_in_two_goes_forgets_what_moves_between_them(tenants: list[Tenant]) -> None:
    """Without the guard: the archive first, then the entries."""
    archived = ArchivedSpend.objects.filter(scope=Scope.INSTALLATION).aggregate(ticks=Sum("cost_ticks"))["ticks"] or 0
    retain(NOW, KEPT)
    assert archived + spent() < total_of(("", Scope.INSTALLATION, ""))


@many
def test_an_opening_is_the_same_at_every_moment(tenants: list[Tenant]) -> None:
    truth, is_done = total_of(("", Scope.INSTALLATION, "")), threading.Event()

    def remove() -> set[int]:
        try:
            retain(NOW, KEPT)
        finally:
            is_done.set()
        return {truth}

    def read() -> set[int]:
        seen = set()
        while not is_done.is_set():
            seen.add(total_of(("", Scope.INSTALLATION, "")))
        return seen

    assert at_once([remove, read]) == [{truth}, {truth}]


def remove_what_was_read(is_read: threading.Barrier) -> None:
    """Without the guard: read, then move and delete, as if nobody else did."""
    entries = {entry.pk: entry for entry in LedgerEntry.objects.filter(at__lt=NOW - timedelta(days=KEPT))}
    holds = list(Reservation.objects.filter(pk__in=entries))
    is_read.wait(20)
    with transaction.atomic():
        removal._archive(Sql.on(connection), sorted(holds, key=lambda hold: hold.pk), entries)
        removal._delete(Sql.on(connection), [entry.call_id for entry in entries.values()], list(entries))


@many
def test_without_the_guard_two_that_remove_archive_twice(tenants: list[Tenant]) -> None:
    total = spent()
    at_once([partial(remove_what_was_read, threading.Barrier(2))] * 2)
    assert ArchivedSpend.objects.get(scope=Scope.INSTALLATION).cost_ticks + spent() > total


@many
def test_with_it_once(tenants: list[Tenant]) -> None:
    total, before = spent(), LedgerEntry.objects.count()
    removed = sum(at_once([partial(retain, NOW, KEPT)] * 3), Counter[str]())
    assert ArchivedSpend.objects.get(scope=Scope.INSTALLATION).cost_ticks + spent() == total
    assert removed["entries"] == before - LedgerEntry.objects.count() > 0
    assert_the_books_balance()


@many
def test_calls_meanwhile_neither_lose_nor_overshoot(tenants: list[Tenant]) -> None:
    """All of them count against a window that the removed ones count against, too."""
    tenant, key = tenants[0], tenants[0].keys.get()
    old = Reservation.objects.filter(tenant=tenant).values_list("pk", flat=True)
    total, whole = (
        limit_of(spent(**by) + 50 * 100, by.get("tenant", ""), scope=scope, starts_at=BEGINNING, ends_at=None)
        for scope, by in (("tenant", {"tenant": tenant.id}), ("installation", {}))
    )
    Posting().post([reserve_of([total, whole], 0, NOW, caller=caller_of(tenant.id, key_id=key.pk))])
    ids = list(Window.objects.filter(period="total").values_list("pk", flat=True))
    for hold in Reservation.objects.filter(pk__in=list(old)):
        Reservation.objects.filter(pk=hold.pk).update(window_ids=[*hold.window_ids, *ids])
    counted = spent(tenant=tenant)
    Window.objects.filter(pk__in=ids).update(opening_ticks=F("opening_ticks") - counted)
    call_command("expire_reservations", stdout=StringIO())
    assert_the_books_balance()

    def call() -> int:
        posting, served = Posting(), 0
        for _ in range(40):
            caller = caller_of(tenant.id, key_id=key.pk)
            (result,) = posting.post([reserve_of([whole, total], 100, NOW, caller=caller)])
            if isinstance(result, Held):
                served += 1
                posting.post([settle_of(result.reserved, 100, NOW)])
        return served

    def remove() -> int:
        assert retain(NOW, KEPT)["entries"] > 0
        return 0

    assert sum(at_once([remove, call, call, call])) == 50
    window = Window.objects.get(tenant_id=tenant.id, period="total")
    assert (window.spent_ticks, window.held_ticks) == (total.hard_ticks, 0)
    assert window.archived_ticks > 0
    assert_the_books_balance()


@many
def test_days_made_anew_and_a_customer_erased_meanwhile_lose_nothing(tenants: list[Tenant]) -> None:
    catch_up(NOW)
    before = {tenant.id: ({name: days.total() for name, days in days_of(tenant).items()}) for tenant in tenants}
    conversations = {tenant.id: conversations_of(tenant) for tenant in tenants}
    of_customer, is_done = total_of((tenants[0].id, "customer", "customer-2")), threading.Event()

    def remove() -> None:
        try:
            retain(NOW, KEPT)
        finally:
            is_done.set()

    # SQLite hands its lock on to nobody: writers without a pause between them would keep the third out.
    def rounds() -> Iterator[int]:
        yield 1
        yield from takewhile(lambda _: not is_done.wait(PAUSE_S), count(2))

    def keep_rebuilding() -> None:
        for _ in rounds():
            rebuild([tenant.id for tenant in tenants])
            with suppress(MarkMovedError):
                catch_up(NOW)

    def keep_erasing() -> None:
        for number in rounds():
            erase(Customer(tenants[0].id, f"customer-{number + 1}"))

    at_once([remove, keep_rebuilding, keep_erasing])
    catch_up(NOW)
    for tenant in tenants:
        assert {name: days.total() for name, days in days_of(tenant).items()} == before[tenant.id]
        assert sums_of(conversations_of(tenant)) == sums_of(conversations[tenant.id])
    assert total_of((tenants[0].id, "customer", "customer-2")) == 0
    erased = {key for key in every_scope(tenants[0]) if key[2].startswith("erased-")}
    archived = ArchivedSpend.objects.filter(scope=Scope.CUSTOMER, subject__startswith="erased-")
    erased |= {(row.tenant_id, row.scope, row.subject) for row in archived}
    assert of_customer in {total_of(key) for key in erased}
    assert misfits() == []
    assert_the_books_balance()


def sums_of(conversations: set[tuple[Any, ...]]) -> list[list[int]]:
    """Without their ids, which an erasure replaces."""
    return sorted(sums for _, *sums in conversations)


# Ends in the middle

FAILS = {
    "sqlite": ["CREATE TRIGGER no BEFORE DELETE ON spend_call BEGIN SELECT RAISE(ABORT, 'the machine died'); END"],
    "postgresql": [
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'the machine died'; END $$",
        "CREATE TRIGGER no BEFORE DELETE ON spend_call EXECUTE FUNCTION no()",
    ],
}
MENDED = {"sqlite": ["DROP TRIGGER no"], "postgresql": ["DROP TRIGGER no ON spend_call", "DROP FUNCTION no"]}


@many
def test_a_step_that_fails_in_its_middle_was_not_made(tenants: list[Tenant]) -> None:
    """The calls are the last that a step deletes."""
    before = LedgerEntry.objects.count()
    with connection.cursor() as cursor:
        for statement in FAILS[connection.vendor]:
            cursor.execute(statement)
        try:
            with pytest.raises(Error, match="the machine died"):
                retain(NOW, KEPT)
        finally:
            for statement in MENDED[connection.vendor]:
                cursor.execute(statement)
    assert LedgerEntry.objects.count() == before
    assert not ArchivedSpend.objects.exists()
    assert_the_books_balance()
    assert retain(NOW, KEPT)["entries"] > 0
    assert_the_books_balance()


StartServer = Callable[..., GuardServer]


def test_one_that_is_killed_is_gone_on_with(guard_server: StartServer) -> None:
    server = guard_server(start=False, ENTRIES_KEPT_DAYS=str(KEPT))
    with server.database():
        made_history(entries=8000, tenants=2, days=DAYS, now=timezone.now())
        before = LedgerEntry.objects.count()
    command = [sys.executable, "manage.py", "retain_entries"]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **server.environment})
    with server.database():
        eventually(lambda: LedgerEntry.objects.count() < before, within_s=60)
        process.kill()
        process.wait()
        left = LedgerEntry.objects.filter(at__lt=timezone.now() - timedelta(days=KEPT + 2)).count()
    assert left > 0
    audit_of(server)
    assert "Removed: " in server.manage("retain_entries").stdout
    with server.database():
        assert not LedgerEntry.objects.filter(at__lt=timezone.now() - timedelta(days=KEPT + 2)).exists()
    audit_of(server)


# With everything real


def test_a_running_guard_serves_exactly_what_fits_while_its_old_calls_go(
    guard_server: StartServer, provider: Provider
) -> None:
    server = guard_server(start=False, ENTRIES_KEPT_DAYS=str(KEPT), HOLD_WAIT_SECONDS="30")
    now = timezone.now()
    with server.database(), transaction.atomic():
        made_history(entries=3000, tenants=2, days=DAYS, now=now)
        agent = Agent.create(server, floor_max_tokens=MAX_TOKENS)
        tenant = Tenant.objects.get(pk=agent.tenant_id)
        for number in range(300):
            at = now - timedelta(days=94, minutes=number)
            place_call(tenant, tenant.keys.get(), at, cost_ticks=1000, is_estimated=True)
        BudgetFactory.create(tenant=tenant, limit_ticks=300 * 1000 + EXACTLY, period=Period.TOTAL)
        provider.behave(upstream(agent.model), usage=USAGE, latency_s=0.05)
    server.start()
    removing = threading.Thread(target=server.manage, args=["retain_entries"])
    removing.start()
    outcomes = burst([agent], 3 * FIT, over_s=3, max_tokens=MAX_TOKENS)
    removing.join()
    assert outcomes == {"served": FIT, "budget_exceeded": 2 * FIT}
    with server.database():
        assert not Call.objects.filter(at__lt=now - timedelta(days=95)).exists()
        assert Window.objects.get(tenant_id=agent.tenant_id, period="total").spent_ticks == 300 * 1000 + FIT * COST
    audit_of(server)
