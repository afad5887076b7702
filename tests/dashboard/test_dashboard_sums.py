"""What the pages sum is what the ledger holds, wherever the daily sums happen to end."""

import threading
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from django.db import connection
from django.db.models import Sum
from django.test import Client
from django.urls import reverse
from hypothesis import given
from hypothesis import strategies as st

from dashboard.date_spans import Span, spans_at
from dashboard.queries.cached import CachedSaving, cached_saving
from dashboard.queries.savings import savings_of
from dashboard.queries.subjects import every_conversation, every_customer, top_conversations, top_customers
from dashboard.queries.sums import Figures, at_mark, daily_rows, mark_of, sums_of_tenants, total_of
from spend.ids import new_id
from spend.jobs import roll_up
from spend.models import (
    Call,
    ConversationTotal,
    DailyCustomer,
    DailyDowngrade,
    DailyRollup,
    LedgerEntry,
    Reservation,
    ReservationState,
    Rollup,
    RollupMark,
    Route,
    Window,
)
from spend.summaries.daily import (
    STEP,
    STEP_CALLS,
    MarkMovedError,
    catch_up,
    misfits,
    rebuild,
    settled_until,
    steps,
)
from tenants.models import Tenant
from tenants.money import TICKS_PER_USD
from tests.factories import (
    ApiKeyFactory,
    CatalogueModelFactory,
    PriceFactory,
    PriceTierFactory,
    TenantFactory,
    UserFactory,
)
from tests.support.history import NOW, hold_of, made_history, place_call

pytestmark = pytest.mark.django_db

FIRST = NOW - timedelta(days=40)


@given(
    starts_at=st.integers(0, 500),
    quarters=st.integers(0, 500),
    calls=st.dictionaries(st.integers(0, 1000), st.integers(1, 2 * STEP_CALLS)),
)
def test_steps_take_up_all_the_time_and_are_short_where_much_was_called(
    starts_at: int, quarters: int, calls: dict[int, int]
) -> None:
    def at(quarter: int) -> datetime:
        return FIRST + quarter * timedelta(minutes=15)

    until = starts_at + quarters
    buckets = sorted((at(quarter), count) for quarter, count in calls.items() if starts_at <= quarter < until)
    parts = list(steps(at(starts_at), at(until), buckets))
    edges = [at(starts_at), *(ends_at for _, ends_at in parts)]
    assert parts == list(pairwise(edges))
    assert edges[-1] == at(until)
    assert all(ends_at - begins_at >= STEP for begins_at, ends_at in parts[:-1])
    for begins_at, ends_at in parts:
        counts = [count for bucket, count in buckets if begins_at <= bucket < ends_at]
        late = [count for bucket, count in buckets if begins_at + STEP <= bucket < ends_at]
        assert not late or sum(counts) <= STEP_CALLS


def entries_in(tenant: Tenant, span: Span) -> list[LedgerEntry]:
    """Row by row and in Python: the slow way, to check the fast one by."""
    found = LedgerEntry.objects.filter(tenant=tenant)
    return [entry for entry in found if span.first <= entry.at.astimezone(span.zone).date() <= span.last]


def check_all_sums(now: datetime) -> None:
    tenants = list(Tenant.objects.all())
    of_tenants = sums_of_tenants(tenants, now)
    for tenant in tenants:
        for span in spans_at(now, tenant.zone).values():
            entries = entries_in(tenant, span)
            check_days(tenant, span, entries)
            check_customers(tenant, span, entries)
            check_conversations(tenant, span)
            check_savings(tenant, span, entries)
            if span.key in {"today", "month"}:
                cost = sum(entry.cost_ticks for entry in entries)
                assert getattr(of_tenants[tenant.id], span.key).cost_ticks == cost


def check_days(tenant: Tenant, span: Span, entries: list[LedgerEntry]) -> None:
    expected, found = Counter[date](), Counter[date]()
    for entry in entries:
        expected[entry.at.astimezone(tenant.zone).date()] += entry.cost_ticks
    rows = at_mark(tenant, lambda mark: daily_rows(tenant, span, mark))
    for row in rows:
        found[row.day] += row.figures.cost_ticks
    assert +found == expected
    assert total_of(rows).attempts == len(entries)


def check_customers(tenant: Tenant, span: Span, entries: list[LedgerEntry]) -> None:
    costs = Counter[str]()
    for entry in entries:
        costs[entry.customer] += entry.cost_ticks
    found = at_mark(tenant, lambda mark: top_customers(tenant, span, mark, limit=5))
    assert [(each.name, each.cost_ticks) for each in found.top] == dearest(costs)[:5]
    assert (found.count, found.cost_ticks) == (len(costs), costs.total())
    assert {each.name: each.cost_ticks for each in every_customer(tenant, span)} == dict(costs)


def dearest(costs: Counter[str]) -> list[tuple[str, int]]:
    return sorted(costs.items(), key=lambda each: (-each[1], each[0]))


def check_conversations(tenant: Tenant, span: Span) -> None:
    """Whole conversations, of those that began in the span."""
    entries = LedgerEntry.objects.filter(tenant=tenant).exclude(conversation="").order_by("at")
    began_on, costs = dict[str, date](), Counter[str]()
    for entry in entries:
        began_on.setdefault(entry.conversation, entry.at.astimezone(span.zone).date())
        if span.first <= began_on[entry.conversation] <= span.last:
            costs[entry.conversation] += entry.cost_ticks
    found = at_mark(tenant, lambda mark: top_conversations(tenant, span, mark, limit=5))
    assert [(each.name, each.cost_ticks) for each in found.top] == dearest(costs)[:5]
    assert (found.count, found.cost_ticks) == (len(costs), costs.total())
    assert {each.name: each.cost_ticks for each in every_conversation(tenant, span)} == dict(costs)


def check_savings(tenant: Tenant, span: Span, entries: list[LedgerEntry]) -> None:
    """The bench's prices are 12,500/2,000/25,000 and 4,000/1,000/12,000 ticks a token."""
    prices = {"bench-large": (12_500, 2_000, 25_000), "bench-medium": (4_000, 1_000, 12_000)}
    saved = 0
    for entry in entries:
        if entry.route == Route.DOWNGRADE:
            plain, cached, output = prices[entry.requested_model]
            asked = (entry.input_tokens - entry.cached_input_tokens) * plain + entry.cached_input_tokens * cached
            saved += asked + entry.output_tokens * output - entry.cost_ticks
    found = at_mark(tenant, lambda mark: savings_of(tenant, span, mark))
    assert found.saved_ticks == saved
    assert found.unpriced == 0


def test_sums_are_right_wherever_the_daily_sums_end() -> None:
    made_history()
    check_all_sums(NOW)  # nothing is summed yet
    for summed_at in (FIRST, NOW - timedelta(days=20, hours=5), NOW - timedelta(hours=3), NOW, NOW):
        catch_up(summed_at)
        assert misfits() == []
        check_all_sums(NOW)
    assert DailyRollup.objects.exists()
    assert DailyCustomer.objects.exists()
    assert ConversationTotal.objects.exists()
    assert DailyDowngrade.objects.exists()


def test_a_conversation_that_goes_on_for_days_counts_whole_where_it_began() -> None:
    tenant = made_history(tenants=1, entries=60)[0]
    key = tenant.keys.get()
    for days_ago in (35, 20, 3, 0):
        at = NOW - timedelta(days=days_ago, hours=3)
        place_call(tenant, key, at, customer="c", conversation="long", cost_ticks=10**10, model="bench-large")
    for summed_at in (FIRST, NOW - timedelta(days=25), NOW - timedelta(days=2), NOW):
        catch_up(summed_at)
        check_all_sums(NOW)


def test_a_new_time_zone_makes_the_days_anew() -> None:
    tenant = made_history(tenants=1)[0]
    catch_up(NOW)
    days_before = set(DailyRollup.objects.values_list("day", "attempts"))
    tenant.time_zone = "Pacific/Auckland"
    tenant.save()
    check_all_sums(NOW)
    catch_up(NOW)
    check_all_sums(NOW)
    assert set(DailyRollup.objects.values_list("day", "attempts")) != days_before


def test_what_may_still_change_is_not_summed() -> None:
    """A hold from yesterday that settles today: its cost is entered yesterday, and counted once."""
    tenant = made_history(tenants=1, entries=50)[0]
    key = tenant.keys.get()
    yesterday = NOW - timedelta(hours=20)
    call = Call(id=new_id(), tenant=tenant, key=key, at=yesterday, model="bench-large")
    hold = hold_of(call, ReservationState.PENDING, hold_ticks=500)
    assert settled_until(NOW) <= yesterday - timedelta(hours=1)
    catch_up(NOW)
    Reservation.objects.filter(pk=hold.pk).update(state=ReservationState.SETTLED)
    assert settled_until(NOW) > yesterday
    place_call(tenant, key, yesterday, customer="late", cost_ticks=500, model="bench-large")
    check_all_sums(NOW)
    catch_up(NOW)
    assert misfits() == []
    check_all_sums(NOW)


def test_a_late_entry_would_be_lost_if_pending_holds_were_not_heeded() -> None:
    tenant = made_history(tenants=1, entries=50)[0]
    catch_up(NOW)  # no hold is pending, so this sums all of yesterday
    yesterday = NOW - timedelta(hours=20)
    place_call(tenant, tenant.keys.get(), yesterday, customer="late", cost_ticks=500, model="bench-large")
    assert misfits() == [tenant.id]
    rebuild(misfits())
    catch_up(NOW)
    assert misfits() == []
    check_all_sums(NOW)


def test_a_mark_that_moves_under_a_reader_makes_it_read_again() -> None:
    tenant = made_history(tenants=1, entries=50)[0]
    catch_up(NOW - timedelta(days=3))
    marks: list[datetime] = []

    def read(mark: datetime) -> int:
        marks.append(mark)
        if len(marks) == 1:
            catch_up(NOW)
        rows = daily_rows(tenant, spans_at(NOW, tenant.zone)["90"], mark)
        return total_of(rows).cost_ticks

    expected = LedgerEntry.objects.aggregate(ticks=Sum("cost_ticks"))["ticks"]
    assert at_mark(tenant, read) == expected
    assert len(marks) == 2
    marks[:] = [mark_of(tenant)]  # and without reading again it would have been wrong
    stale = NOW - timedelta(days=4)
    assert total_of(daily_rows(tenant, spans_at(NOW, tenant.zone)["90"], stale)).cost_ticks > expected


@pytest.mark.django_db(transaction=True)
def test_two_that_sum_at_once_sum_once() -> None:
    made_history()
    barrier, failures = threading.Barrier(2), []

    def run() -> None:
        barrier.wait()
        try:
            catch_up(NOW)
        except MarkMovedError as error:  # which the job leaves at that
            failures.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    catch_up(NOW)
    assert len(failures) < 2
    assert misfits() == []
    check_all_sums(NOW)


def test_the_books_of_a_made_history_balance() -> None:
    tenants = made_history()
    assert LedgerEntry.objects.count() == 600
    for window in Window.objects.all():
        entries = LedgerEntry.objects.filter(tenant=window.tenant_id, at__gte=window.starts_at, at__lt=window.ends_at)
        assert window.spent_ticks == entries.aggregate(ticks=Sum("cost_ticks"))["ticks"]
        budget = next(tenant for tenant in tenants if tenant.id == window.tenant_id).budgets.get(period=window.period)
        assert window.spent_ticks <= budget.limit_ticks
    for hold in Reservation.objects.select_related("entry"):
        assert hold.state == ReservationState.SETTLED
        assert hold.entry.cost_ticks <= hold.hold_ticks
        windows = Window.objects.filter(pk__in=hold.window_ids)
        assert {window.period for window in windows} == {"day", "month"}
        assert all(window.ends_at and window.starts_at <= hold.created_at < window.ends_at for window in windows)
    rolled = Rollup.objects.aggregate(Sum("cost_ticks"), Sum("attempts"), Sum("refused"))
    assert rolled["cost_ticks__sum"] == LedgerEntry.objects.aggregate(ticks=Sum("cost_ticks"))["ticks"]
    assert rolled["attempts__sum"] == 600
    assert rolled["refused__sum"] == Call.objects.filter(outcome="refused").count() > 0


def test_the_mark_of_a_tenant_who_never_called_moves_too() -> None:
    TenantFactory.create(id="silent")
    made_history(tenants=1)
    assert RollupMark.objects.count() == 0
    until = catch_up(NOW)
    assert set(RollupMark.objects.values_list("through", flat=True)) == {until}


# What downgrading saved


@pytest.fixture
def shop() -> dict[str, Any]:
    tenant = TenantFactory.create(id="shop")
    dear = CatalogueModelFactory.create(id="dear")  # 12,500 / 2,000 / 25,000 ticks a token since 2020
    CatalogueModelFactory.create(id="cheap", price__tier__input_ticks=1_000, price__tier__output_ticks=2_000)
    return {"tenant": tenant, "key": ApiKeyFactory.create(tenant=tenant), "dear": dear}


def downgraded(shop: dict[str, Any], at: datetime, asked: str = "dear", **facts: Any) -> None:
    given = {"input_tokens": 1000, "cached_input_tokens": 100, "output_tokens": 10, "cost_ticks": 999} | facts
    place_call(shop["tenant"], shop["key"], at, requested_model=asked, model="cheap", route=Route.DOWNGRADE, **given)


def found_savings(tenant: Tenant) -> Any:
    span = spans_at(NOW, tenant.zone)["30"]
    before = savings_of(tenant, span, mark_of(tenant))
    catch_up(NOW)
    assert savings_of(tenant, span, mark_of(tenant)) == before
    return before


def test_a_saving_is_the_asked_models_price_of_that_moment(shop: dict[str, Any]) -> None:
    changes_at = NOW - timedelta(days=5)
    later = PriceFactory.create(model=shop["dear"], starts_at=changes_at, tier=None)
    PriceTierFactory.create(price=later, input_ticks=20_000, cached_input_ticks=20_000, output_ticks=20_000)
    downgraded(shop, changes_at - timedelta(seconds=1))
    downgraded(shop, changes_at)
    (row,) = found_savings(shop["tenant"]).rows
    assert (row.requested_model, row.model, row.attempts, row.cost_ticks) == ("dear", "cheap", 2, 1998)
    assert row.asked_ticks == (900 * 12_500 + 100 * 2_000 + 10 * 25_000) + 1010 * 20_000
    assert row.saved_ticks == row.asked_ticks - 1998


def test_a_saving_heeds_the_tier_of_the_calls_own_input(shop: dict[str, Any]) -> None:
    price = shop["dear"].prices.get()
    rates = dict.fromkeys(["input_ticks", "cached_input_ticks", "output_ticks"], 50_000)
    PriceTierFactory.create(price=price, above_tokens=1000, **rates)
    downgraded(shop, NOW - timedelta(days=1), input_tokens=1001, cached_input_tokens=0)
    downgraded(shop, NOW - timedelta(days=1), input_tokens=1000, cached_input_tokens=0)
    assert found_savings(shop["tenant"]).rows[0].asked_ticks == 1011 * 50_000 + 1000 * 12_500 + 10 * 25_000


def test_a_downgrade_that_cost_more_is_a_loss_and_shown_as_one(shop: dict[str, Any]) -> None:
    downgraded(shop, datetime.now(UTC) - timedelta(days=1), cost_ticks=TICKS_PER_USD)
    client = Client()
    client.force_login(UserFactory.create(is_staff=True, password=None))
    assert "−$1.00" in client.get(reverse("tenant", args=["shop"])).content.decode()


def test_what_has_no_price_or_no_usage_is_left_out_and_counted(shop: dict[str, Any]) -> None:
    downgraded(shop, NOW - timedelta(days=1), asked="never-priced")
    downgraded(shop, NOW - timedelta(days=1), is_estimated=True)
    savings = found_savings(shop["tenant"])
    assert (savings.rows, savings.unpriced) == ([], 1)


def test_only_downgrades_save(shop: dict[str, Any]) -> None:
    place_call(
        shop["tenant"], shop["key"], NOW, requested_model="dear", model="cheap", route=Route.FALLBACK, cost_ticks=5
    )
    assert found_savings(shop["tenant"]).rows == []


def test_the_job_keeps_up() -> None:
    made_history(now=datetime.now(UTC), entries=100)
    roll_up.func()
    assert misfits() == []
    assert DailyRollup.objects.exists()


def test_the_command_sums_and_mends() -> None:
    from django.core.management import call_command

    made_history(now=datetime.now(UTC), entries=100)
    call_command("roll_up")
    assert misfits() == []
    DailyRollup.objects.filter(attempts__gt=0).first().delete()  # type: ignore[union-attr]
    assert misfits()
    call_command("roll_up", check=True)
    assert misfits() == []


def test_cached_input_saved_what_it_would_have_cost_more_uncached_on_its_day(shop: dict[str, Any]) -> None:
    tenant, key = shop["tenant"], shop["key"]
    model = CatalogueModelFactory.create(id="cacher")
    rise = NOW - timedelta(days=1)
    PriceFactory.create(model=model, starts_at=rise, tier__input_ticks=22_500, tier__cached_input_ticks=2_500)
    place_call(tenant, key, NOW - timedelta(days=3), model="cacher", input_tokens=900, cached_input_tokens=100)
    place_call(tenant, key, NOW - timedelta(hours=1), model="cacher", input_tokens=100, cached_input_tokens=50)
    place_call(tenant, key, NOW - timedelta(hours=1), model="gone", input_tokens=0, cached_input_tokens=7)
    span = spans_at(NOW, tenant.zone)["30"]
    saving = cached_saving(daily_rows(tenant, span, mark_of(tenant)), span)
    assert saving == CachedSaving(157, 1_000, 100 * (12_500 - 2_000) + 50 * (22_500 - 2_500))


def test_what_was_refused_is_told_apart_from_what_was_saved() -> None:
    figures = Figures(cost_ticks=1000, served=3, refused=2, handoff=1, failed=5)
    assert (figures.unserved, figures.unserved_ticks) == (3, 1000)
    assert Figures(refused=2).unserved_ticks == 0
