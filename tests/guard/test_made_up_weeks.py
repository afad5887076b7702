"""The demo's made-up weeks: through the real ledger, the same each time, labelled, and gone without a trace."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db.models import Sum
from django.test import Client
from django.utils import timezone

from guard.management.commands.load_demo import BUSINESSES
from guard.management.made_up_weeks import HOURS, Business, live_through, turns_of_day
from spend.models import Call, LedgerEntry, Reservation, Rollup, Window
from spend.summaries.daily import misfits
from tenants.models import ApiKey, Scope, Tenant
from tenants.money import TICKS_PER_USD
from tenants.periods import Period
from tests.factories import BudgetFactory, TenantFactory, UserFactory
from tests.support.books import assert_the_books_balance
from tests.support.history import hold_of

pytestmark = pytest.mark.django_db(transaction=True)

DAYS = 3


@pytest.fixture(autouse=True)
def _demo(settings: Any) -> None:
    settings.DEBUG = True
    settings.XAI_API_KEY = settings.OPENAI_API_KEY = ""
    call_command("sync_prices")


def load(days: int = DAYS) -> None:
    call_command("load_demo", f"--days={days}")


def facts() -> set[tuple[Any, ...]]:
    return set(Call.objects.values_list("id", "tenant", "at", "customer", "outcome", "route", "cost_ticks"))


def test_the_books_balance_and_every_page_has_something() -> None:
    load()
    assert_the_books_balance()
    assert misfits() == []
    assert set(Call.objects.values_list("tenant", flat=True)) == {business.tenant_id for business in BUSINESSES}
    assert {"primary", "downgrade"} <= set(Call.objects.values_list("route", flat=True))
    client = Client()
    client.force_login(UserFactory.create(is_staff=True, password=None))
    for address in ("/", "/tenants/acme-corp/", "/tenants/acme-corp/calls/", "/tenants/acme-corp/statement/"):
        assert "These figures are made up." in client.get(address).content.decode()


def test_a_second_time_makes_nothing_twice_and_a_longer_time_makes_the_same_days() -> None:
    load()
    before = facts()
    load()
    made_since = {fact for fact in facts() - before if fact[2] < timezone.now() - timedelta(minutes=3)}
    assert made_since == set()
    call_command("load_demo", "--remove")
    load()
    assert before <= facts()


def test_days_that_came_since_are_added() -> None:
    load(days=0)
    now = timezone.now()
    live_through(BUSINESSES, now - timedelta(days=1), DAYS)
    before = facts()
    live_through(BUSINESSES, now, DAYS)
    assert before < facts()
    assert_the_books_balance()
    assert misfits() == []


def test_a_budget_that_is_too_small_for_the_day_refuses() -> None:
    load(days=0)
    tenant = Tenant.objects.get(pk="corner-bakery")
    tenant.budgets.update(limit_ticks=TICKS_PER_USD // 20)
    live_through(BUSINESSES, timezone.now(), DAYS)
    refused = Call.objects.filter(tenant=tenant, outcome="refused")
    assert refused.exists()
    assert {step["decision"] for step in refused[0].steps} >= {"refused"}
    assert_the_books_balance()


def test_beside_a_tenant_of_ones_own_nothing_is_made_up() -> None:
    TenantFactory.create(id="real")
    load()
    assert not Call.objects.exists()


def test_removed_it_leaves_the_books_of_others_and_of_the_installation_right() -> None:
    for period in (Period.MONTH, Period.TOTAL):
        BudgetFactory.create(tenant=None, scope=Scope.INSTALLATION, period=period, limit_ticks=100 * TICKS_PER_USD)
    load()
    assert Window.objects.filter(tenant_id="", spent_ticks__gt=0).count() >= 2
    TenantFactory.create(id="real")
    live_through([Business("real", 20, 1_000)], timezone.now(), days=1)
    theirs = Call.objects.filter(tenant="real").aggregate(ticks=Sum("cost_ticks"))["ticks"]
    call_command("load_demo", "--remove")
    assert list(Tenant.objects.values_list("pk", flat=True)) == ["real"]
    for model in (Call, Reservation, LedgerEntry, Rollup):
        assert not model._default_manager.exclude(tenant="real").exists()
    assert theirs in Window.objects.filter(tenant_id="").values_list("spent_ticks", flat=True)
    assert_the_books_balance()


def test_what_is_in_flight_keeps_the_demo_from_being_removed() -> None:
    load(days=1)
    tenant = Tenant.objects.get(pk="acme-corp")
    key = ApiKey.objects.filter(tenant=tenant)[0]
    call = Call(tenant=tenant, key=key, at=timezone.now(), model="grok-4.3", requested_model="grok-4.3")
    call.id = Call.objects.filter(tenant=tenant).values_list("id", flat=True)[0]
    hold_of(call, "pending", 1)  # type: ignore[arg-type]
    with pytest.raises(CommandError, match="in flight"):
        call_command("load_demo", "--remove")
    assert Tenant.objects.filter(is_demo=True).count() == len(BUSINESSES)


def test_days_have_a_shape_and_are_the_same_whenever_they_are_made_up() -> None:
    business, tenant = BUSINESSES[0], Tenant(id="acme-corp", time_zone="America/Chicago")
    weekday = [turn for day in range(2, 7) for turn in turns_of_day(business, tenant, datetime(2026, 11, day).date())]  # noqa: DTZ001
    assert weekday == [
        turn
        for day in range(2, 7)
        for turn in turns_of_day(business, tenant, datetime(2026, 11, day).date())  # noqa: DTZ001
    ]
    weekend = [turn for day in (7, 8) for turn in turns_of_day(business, tenant, datetime(2026, 11, day).date())]  # noqa: DTZ001
    assert len(weekend) / 2 < 0.8 * len(weekday) / 5
    hours = [turn.at.astimezone(tenant.zone).hour for turn in weekday]
    assert sum(9 <= hour < 18 for hour in hours) > sum(hour < 6 for hour in hours) * 4
    assert len(HOURS) == 24
    assert all(turn.at.tzinfo is UTC for turn in weekday)
