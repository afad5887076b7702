"""What each page says, of real rows; and that no page asks the database more the more there is."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import OperationalError, connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from dashboard.date_spans import spans_at
from dashboard.page_reports import overview, statement, tenant_report
from dashboard.queries.calls import PAGE_SIZE, CallFilter, every_call, page_of_calls
from spend.budgets.refusing import MOST_COUNTED, mostly_over_budget
from spend.budgets.usage import current_uses
from spend.models import Breaker, Call, Outcome, ReservationState, Route, Window
from spend.summaries.daily import catch_up
from tenants.models import ApiKey, Budget, Scope, Tenant
from tenants.money import TICKS_PER_USD
from tenants.periods import Period, bounds
from tests.bench.made_up import LARGE, SMALL
from tests.factories import (
    ApiKeyFactory,
    BudgetFactory,
    CatalogueModelFactory,
    DowngradeRuleFactory,
    RouteStepFactory,
    TenantFactory,
    UserFactory,
)
from tests.support.history import hold_of, made_history, place_call

pytestmark = pytest.mark.django_db


@pytest.fixture
def staff() -> Client:
    client = Client()
    client.force_login(UserFactory.create(is_staff=True, password=None))
    return client


@pytest.fixture
def shop() -> Tenant:
    """On a route of its own, so that nothing is downgraded until a rule says so."""
    tenant = TenantFactory.create(id="shop", name="Acme")
    RouteStepFactory.create(tenant=tenant)
    return tenant


@pytest.fixture
def key(shop: Tenant) -> ApiKey:
    return ApiKeyFactory.create(tenant=shop, name="web chat")


def page(client: Client, name: str, *args: Any, **parameters: str) -> str:
    response = client.get(reverse(name, args=args), parameters)
    assert response.status_code == 200
    text = " ".join(response.content.decode().split())
    return re.sub(r"(?<=[>]) (?=<)|(<d[dt][^>]*>) | (?=</d[dt]>)", r"\1", text)


def window_of(tenant: Tenant, spent_ticks: int, held_ticks: int = 0, period: Period = Period.DAY, **key: str) -> Window:
    starts_at, ends_at = bounds(period, tenant.zone, timezone.now())
    facts = {"scope": Scope.TENANT, "period": period, **key}
    return Window.objects.create(
        tenant_id=tenant.id,
        starts_at=starts_at,
        ends_at=ends_at,
        spent_ticks=spent_ticks,
        held_ticks=held_ticks,
        **facts,
    )


# The overview


@pytest.mark.parametrize(
    ("spent", "held", "can_downgrade", "pill", "verdict"),
    [
        (10, 0, False, "Active", "Spending is within budget."),
        (80, 0, False, "Warned", "<strong>1</strong> close to the limit."),
        (50, 30, True, "Degraded", "<strong>1</strong> degraded: cheaper models answer."),
        (100, 0, True, "Stopped", "<strong>1</strong> stopped: calls are refused."),
    ],
)
def test_the_overview_says_how_the_tightest_budget_stands(
    staff: Client, shop: Tenant, spent: int, held: int, can_downgrade: bool, pill: str, verdict: str
) -> None:
    BudgetFactory.create(tenant=shop)
    BudgetFactory.create(tenant=shop, period=Period.MONTH, limit_ticks=1000 * TICKS_PER_USD)
    if can_downgrade:
        DowngradeRuleFactory.create(tenant=shop)
    window_of(shop, spent * TICKS_PER_USD // 100, held * TICKS_PER_USD // 100)
    for name in ("overview", "live"):
        body = page(staff, name)
        assert f">{pill}</span>" in body
        assert verdict in body
        assert "of $1.00 today" in body
        assert f"{spent + held} %" in body


def test_a_top_up_raises_the_limit_that_is_shown(staff: Client, shop: Tenant) -> None:
    BudgetFactory.create(tenant=shop)
    window_of(shop, TICKS_PER_USD)
    now = timezone.now()
    shop.top_ups.create(amount_ticks=TICKS_PER_USD, starts_at=now, ends_at=now + timedelta(hours=1))
    shop.top_ups.create(amount_ticks=TICKS_PER_USD, starts_at=now - timedelta(days=2), ends_at=now - timedelta(days=1))
    for body in (page(staff, "overview"), page(staff, "tenant", "shop")):
        assert "of $2.00 today" in body
        assert ">Active</span>" in body


def test_a_tenant_without_a_budget_is_shown_the_default_and_what_it_spent(
    staff: Client, shop: Tenant, key: ApiKey
) -> None:
    place_call(shop, key, timezone.now(), cost_ticks=TICKS_PER_USD)
    assert "<strong>$1.00</strong> of $5.00 today" in page(staff, "overview")


def test_a_tenant_that_is_switched_off_is_said_to_be(staff: Client, shop: Tenant) -> None:
    Tenant.objects.filter(pk=shop.pk).update(is_active=False)
    body = page(staff, "overview")
    assert ">Paused</span>" in body
    assert "<strong>1</strong> paused." in body
    assert "This tenant is paused: all its calls are refused." in page(staff, "tenant", "shop")


def test_the_overview_counts_today_and_this_month(staff: Client, shop: Tenant, key: ApiKey) -> None:
    now = timezone.now()
    place_call(shop, key, now, cost_ticks=TICKS_PER_USD, input_tokens=1200, output_tokens=34)
    place_call(shop, key, now, route=Route.DOWNGRADE, model="cheap")
    place_call(shop, key, now, outcome=Outcome.REFUSED, model="")
    earlier = bounds(Period.DAY, shop.zone, now).starts_at - timedelta(minutes=1)
    place_call(shop, key, earlier, cost_ticks=2 * TICKS_PER_USD)
    this_month = TICKS_PER_USD * (3 if earlier >= bounds(Period.MONTH, shop.zone, now).starts_at else 1)
    body = page(staff, "overview")
    for label, figure in (
        ("Spent today", "$1.00"), ("Spent this month", f"${this_month // TICKS_PER_USD}.00"), ("Calls today", "3"),
        ("Tokens today", "1,234"), ("Refused today", "1"), ("Downgraded today", "1"),
    ):  # fmt: skip
        assert f"<dt>{label}</dt><dd>{figure}</dd>" in body, label


def test_an_empty_installation_says_what_to_do(staff: Client) -> None:
    assert "There are no tenants yet." in page(staff, "overview")


def test_tenants_are_searched_and_paged_those_that_need_a_look_first(staff: Client, shop: Tenant) -> None:
    for number in range(55):
        TenantFactory.create(id=f"many-{number:02}")
    BudgetFactory.create(tenant=shop)
    window_of(shop, TICKS_PER_USD)
    first, second = page(staff, "overview"), page(staff, "overview", page="2")
    assert 'id="to-shop"' in first
    assert first.index('id="to-shop"') < first.index('id="to-many-00"')
    assert 'id="to-many-54"' in second
    assert 'id="to-shop"' not in second
    found = page(staff, "overview", q="acme")
    assert 'id="to-shop"' in found
    assert "many-" not in found
    assert "No tenant is called" in page(staff, "overview", q="nothing")
    for nonsense in ("0", "-3", "9999", "x", "²"):
        assert 'class="rows"' in page(staff, "overview", page=nonsense)


def test_times_are_those_of_the_tenant_and_its_zone_is_named(staff: Client, shop: Tenant, key: ApiKey) -> None:
    Tenant.objects.filter(pk=shop.pk).update(time_zone="Asia/Kathmandu")
    call = place_call(shop, key, datetime(2026, 3, 1, 20, 30, tzinfo=UTC))
    assert "2 Mar 2026, 02:15:00" in page(staff, "calls", "shop")
    assert "2 Mar 2026, 02:15:00 Asia/Kathmandu" in page(staff, "call", "shop", call.id)
    assert "Days and times are those of Asia/Kathmandu." in page(staff, "tenant", "shop")
    TenantFactory.create(id="elsewhere", time_zone="America/Lima")
    assert "Each tenant&#x27;s day" in page(staff, "overview") or "Each tenant's day" in page(staff, "overview")


def test_one_tenants_zone_is_not_left_behind_for_the_next_page(staff: Client, shop: Tenant) -> None:
    Tenant.objects.filter(pk=shop.pk).update(time_zone="Asia/Kathmandu")
    for name, args in (("overview", ()), ("tenant", ("shop",)), ("calls", ("shop",)), ("statement", ("shop",))):
        page(staff, name, *args)
        assert timezone.get_current_timezone_name() == "UTC"


def test_each_tenant_has_its_last_two_weeks_beside_it(staff: Client, shop: Tenant, key: ApiKey) -> None:
    now = timezone.now()
    for days, ticks in ((0, 9), (1, 3), (7, 1), (8, 2), (14, 6), (15, 50)):
        place_call(shop, key, now - timedelta(days=days), cost_ticks=ticks * TICKS_PER_USD)
    for shown in ("live", "summed"):
        (trend,) = overview(Tenant.objects.all(), "", 1, now).trends.values()
        assert (len(trend.days), trend.week, trend.week_before) == (14, 4 * TICKS_PER_USD, 8 * TICKS_PER_USD), shown
        assert trend.points.startswith("0,1 ")
        assert "down 50 % ($4.00)" in page(staff, "overview")
        catch_up(now)


# Service status


def test_each_provider_is_shown_by_its_models_breakers(staff: Client) -> None:
    now = timezone.now()
    for model, opened_at in (("grok-a", now), ("grok-b", None), ("grok-c", now - timedelta(seconds=61))):
        Breaker.objects.create(
            model=CatalogueModelFactory.create(id=model),
            failures=2,
            opened_at=opened_at,
            last_failure="timeout",
            last_failure_at=now,
        )
    CatalogueModelFactory.create(id="grok-d")
    Breaker.objects.create(model=CatalogueModelFactory.create(id="gpt", provider="openai"), opened_at=now)
    CatalogueModelFactory.create(id="off", provider="demo", is_enabled=False)
    body = page(staff, "overview")
    assert "Database: <strong>working</strong>" in body
    assert "xAI: <strong>partly working</strong>" in body
    assert "grok-a keeps failing and is spared for a minute (it did not answer in time" in body
    assert "grok-b failed lately" in body
    assert "grok-c is being tried again" in body
    assert "OpenAI: <strong>unavailable</strong>" in body
    assert "demo:" not in body


@contextmanager
def failing(part: str) -> Iterator[None]:
    """The database fails each statement that has `part` in it."""

    def fail(execute: Callable[..., Any], statement: str, *rest: Any) -> Any:
        if part in statement:
            raise OperationalError("the server closed the connection")
        return execute(statement, *rest)

    with connection.execute_wrapper(fail):
        yield


def test_what_cannot_be_read_of_the_service_is_unavailable_and_the_page_stands(staff: Client, shop: Tenant) -> None:
    with failing("spend_breaker"):
        body = page(staff, "overview")
    assert "Database: <strong>unavailable</strong>" in body
    assert "Model providers: <strong>unknown</strong>" in body
    assert "Acme" in body


@pytest.mark.parametrize("part", ["", "spend_rollup", "django_session"])
@pytest.mark.parametrize("name", ["overview", "live", "overview_csv"])
def test_where_the_database_is_away_the_pages_say_so(staff: Client, shop: Tenant, part: str, name: str) -> None:
    with failing(part):
        response = staff.get(reverse(name))
    assert response.status_code == 503
    assert "The figures are unavailable" in response.content.decode()


# A tenant


def test_a_tenants_page_forecasts_and_says_when_the_budget_runs_out(staff: Client, shop: Tenant, key: ApiKey) -> None:
    now = timezone.now()
    starts_at, ends_at = bounds(Period.DAY, shop.zone, now)
    assert ends_at
    spent = TICKS_PER_USD
    place_call(shop, key, now - timedelta(minutes=20), cost_ticks=spent)
    left_s = int((ends_at - now).total_seconds())
    # At this pace (a dollar in the hour that is the least to measure by) the rest of the day would cost left_s/3600.
    BudgetFactory.create(tenant=shop, limit_ticks=spent + spent * left_s // 7200 + 1)
    window_of(shop, spent)
    assert "At this rate the day's budget runs out at about" in page(staff, "tenant", "shop")
    Budget.objects.update(limit_ticks=spent + 2 * spent * left_s // 3600 + TICKS_PER_USD)
    assert "Within budget, and at this rate it stays so." in page(staff, "tenant", "shop")
    assert starts_at < now


def test_a_tenant_whose_calls_no_longer_fit_is_said_to_refuse_them(staff: Client, shop: Tenant, key: ApiKey) -> None:
    now = timezone.now()
    BudgetFactory.create(tenant=shop)
    DowngradeRuleFactory.create(tenant=shop)
    BudgetFactory.create(tenant=TenantFactory.create(id="cafe"))
    window = window_of(shop, TICKS_PER_USD * 99 // 100)
    refused = "budget is nearly used up: most calls are refused until"
    place_call(shop, key, now - timedelta(hours=1), outcome=Outcome.REFUSED, model="", code="budget_exceeded")
    place_call(shop, key, now)
    place_call(shop, key, now, outcome=Outcome.REFUSED, model="", code="budget_exceeded")
    assert refused not in page(staff, "tenant", "shop")
    assert "<strong>1</strong> degraded: cheaper models answer." in page(staff, "overview")
    place_call(shop, key, now, outcome=Outcome.REFUSED, model="", code="budget_exceeded")
    body = page(staff, "tenant", "shop")
    assert refused in body
    assert "At this rate" not in body
    for told in (body, page(staff, "overview")):
        assert ">Refusing</span>" in told
        assert "Most calls are refused: they no longer fit what is left." in told
        assert "cheaper models answer" not in told
    assert "<strong>1</strong> refusing most calls: nearly used up." in page(staff, "overview")
    Window.objects.filter(pk=window.pk).update(spent_ticks=1)
    assert refused not in page(staff, "tenant", "shop")
    assert "All 2 tenants are within budget." in page(staff, "overview")


def test_of_many_calls_the_latest_say_whether_most_are_refused(shop: Tenant, key: ApiKey) -> None:
    now = timezone.now()
    for ago in range(1, 1 + MOST_COUNTED):
        at = now - timedelta(seconds=ago)
        place_call(shop, key, at, outcome=Outcome.REFUSED, model="", code="budget_exceeded")
    assert mostly_over_budget(["shop", "other"], now) == {"shop"}
    for _ in range(MOST_COUNTED // 2):
        place_call(shop, key, now)
    assert mostly_over_budget(["shop", "other"], now) == set()
    assert mostly_over_budget(["other"], now) == set()


def test_a_tenants_page_shows_mix_customers_and_the_cost_of_a_conversation(
    staff: Client, shop: Tenant, key: ApiKey
) -> None:
    at = timezone.now() - timedelta(minutes=1)
    place_call(shop, key, at, model="big", customer="anna", conversation="c1", cost_ticks=3 * TICKS_PER_USD)
    place_call(shop, key, at, model="small", customer="ben", conversation="c2", cost_ticks=TICKS_PER_USD)
    body = page(staff, "tenant", "shop")
    assert '<dt>A conversation costs</dt><dd>$2.00</dd><dd class="hint">on average, of the 2 begun</dd>' in body
    assert body.index(">anna</a>") < body.index(">ben</a>")
    assert '<td class="num">75 %</td>' in body
    assert '"label": "big"' in body
    assert "Daily limit" in body


def test_single_budgets_are_listed_by_how_far_they_are_used(staff: Client, shop: Tenant, key: ApiKey) -> None:
    BudgetFactory.create(tenant=shop, scope=Scope.CUSTOMER)
    BudgetFactory.create(tenant=shop, scope=Scope.KEY)
    window_of(shop, TICKS_PER_USD // 2, scope=Scope.CUSTOMER, subject="anna")
    window_of(shop, TICKS_PER_USD, scope=Scope.CUSTOMER, subject="ben")
    window_of(shop, 1, scope=Scope.KEY, subject=str(key.pk))
    body = page(staff, "tenant", "shop")
    assert body.index(">ben</a>") < body.index(">anna</a>") < body.index(">web chat")


def test_names_are_escaped_everywhere(staff: Client, shop: Tenant, key: ApiKey) -> None:
    evil = '"><script>alert(1)</script>'
    Tenant.objects.filter(pk=shop.pk).update(name=evil)
    call = place_call(
        shop,
        key,
        timezone.now(),
        customer=evil,
        conversation=evil,
        model=evil[:100],
        cost_ticks=5,
        steps=[{"model": evil, "x": evil}],
    )
    for name, args in (
        ("overview", ()),
        ("tenant", ("shop",)),
        ("calls", ("shop",)),
        ("call", ("shop", call.id)),
        ("statement", ("shop",)),
    ):
        assert "<script>alert" not in page(staff, name, *args)


# Any days, and the time before


def test_any_days_and_hours_of_them_are_shown_and_compared_with_the_same_ones_of_a_week_before(
    staff: Client, shop: Tenant, key: ApiKey
) -> None:
    Tenant.objects.filter(pk=shop.pk).update(time_zone="America/New_York")
    at = datetime(2026, 6, 9, 18, 30, tzinfo=UTC)  # 14:30 on a Tuesday there
    place_call(shop, key, at, customer="anna", model="big", cost_ticks=3 * TICKS_PER_USD)
    place_call(shop, key, at + timedelta(minutes=30), customer="ben", cost_ticks=7 * TICKS_PER_USD)
    place_call(shop, key, at - timedelta(days=7), customer="anna", model="big", cost_ticks=2 * TICKS_PER_USD)
    day = {"first": "2026-06-09", "last": "2026-06-09"}
    for shown in ("live", "summed"):
        body = page(staff, "tenant", "shop", **day)
        assert "compared with Tue 2 Jun 2026" in body, shown
        assert '<dt>Spent</dt><dd>$10.00</dd><dd class="hint">' in body
        assert "up 400 % ($8.00)" in body
        hours = page(staff, "tenant", "shop", **day, first_time="14:30", last_time="15:00")
        assert "compared with Tue 2 Jun 2026 from 14:30 until 15:00" in hours
        assert "<dt>Spent</dt><dd>$3.00</dd>" in hours
        assert "up 50 % ($1.00)" in hours
        assert ">anna</a>" in hours
        assert ">ben</a>" not in hours
        catch_up(timezone.now())
    exported = staff.get(reverse("days_csv", args=["shop"]), day).getvalue().decode()
    assert exported.count("2026-06-09") == 2


def test_the_time_before_ends_at_the_same_time_of_its_day(shop: Tenant, key: ApiKey) -> None:
    now = datetime(2026, 6, 9, 12, 40, tzinfo=UTC)
    for days, minutes, ticks in ((0, -1, 1), (7, -1, 10), (7, 0, 100), (7, -30, 1000), (31, -1, 10_000), (31, 0, 1)):
        place_call(shop, key, now - timedelta(days=days, minutes=-minutes), cost_ticks=ticks, input_tokens=3)
    for shown in ("live", "summed"):
        report = tenant_report(shop, spans_at(now, shop.zone)["today"], now)
        assert (report.today.cost_ticks, report.before_today.cost_ticks) == (1, 1010), shown
        assert (report.before_today.calls, report.before_today.input_tokens) == (2, 6)
        assert report.before_month.cost_ticks == 10_000
        assert report.before.rows
        assert sum(report.chart.before[-1:]) == 1010
        catch_up(timezone.now())


@pytest.mark.parametrize(("asked", "told"), [
    ({"first": "2999-01-01"}, "This day is yet to come."),
    ({"last": "2026-01-01"}, "Choose the day on which it begins."),
    ({"first": "2020-01-01", "last": "2026-01-01"}, "Choose 366 days at most."),
    ({"first": "2026-01-02", "last": "2026-01-01"}, "This is before the beginning."),
    ({"first": "2026-01-01", "last": "2026-01-05", "first_time": "10:00"}, "Hours can be chosen of 2 days at most."),
    ({"first": "2026-01-01", "last": "2026-01-01", "last_time": "10:10"}, "Choose a whole quarter of an hour."),
    ({"first": "x"}, "Enter a valid date."),
])  # fmt: skip
def test_days_that_are_not_valid_say_so_and_no_file_is_made_of_them(
    staff: Client, shop: Tenant, asked: dict[str, str], told: str
) -> None:
    body = page(staff, "tenant", "shop", **asked)
    assert f'role="alert">{told}' in body
    assert "Last 30 days" in body
    for name in ("days_csv", "hours_csv", "savings_csv"):
        assert staff.get(reverse(name, args=["shop"]), asked).status_code == 404, name


def test_a_limit_far_above_what_is_spent_is_a_note_and_no_line(staff: Client, shop: Tenant, key: ApiKey) -> None:
    place_call(shop, key, timezone.now(), cost_ticks=TICKS_PER_USD)
    BudgetFactory.create(tenant=shop, limit_ticks=100 * TICKS_PER_USD)
    body = page(staff, "tenant", "shop")
    assert "Daily limit: $100.00, far above what is drawn here." in body
    assert '"lines": []' in body
    Budget.objects.update(limit_ticks=2 * TICKS_PER_USD)
    assert '"lines": [{"label": "Daily limit: $2.00"' in page(staff, "tenant", "shop")


# Calls


def test_one_calls_page_tells_its_story_and_its_money(staff: Client, shop: Tenant, key: ApiKey) -> None:
    price_id = CatalogueModelFactory.create(id="cheap").prices.get().pk
    steps = [
        {"model": "dear", "decision": "past_soft_cap", "hold_ticks": 300},
        {"model": "dear", "decision": "failed", "code": "timeout"},
        {"model": "cheap", "decision": "something_new", "some_fact": 7},
        "not even an object",
    ]
    call = place_call(
        shop, key, timezone.now(), request_id="req_story", requested_model="dear", model="cheap", route=Route.FALLBACK,
        cost_ticks=12_345, input_tokens=4321, price_id=price_id, is_overrun=True, steps=steps,
    )  # fmt: skip
    hold_of(call, ReservationState.VOIDED, hold_ticks=300)
    body = page(staff, "call", "shop", call.id)
    assert "cheap answered, because dear could not." in body
    assert "dear was passed over: the budget was past its soft cap" in body
    assert "dear failed. It did not answer in time." in body
    assert "cheap: something new" in body
    assert "some fact: 7" in body
    assert "not even an object" in body
    assert "exactly $0.0000012345" in body
    assert "4,321" in body
    assert "$1.25" in body
    assert "<strong>It cost nothing:</strong>" in body
    assert "The provider billed more than was set aside." in body


def test_a_refused_call_says_why(staff: Client, shop: Tenant, key: ApiKey) -> None:
    call = place_call(shop, key, timezone.now(), outcome=Outcome.REFUSED, code="budget_exceeded", model="", route="")
    body = page(staff, "call", "shop", call.id)
    assert "No model was called: No model on the route fitted what was left of the budget." in body
    assert "Nothing was set aside and nothing was spent." in body


def test_every_call_is_on_one_page_and_only_one(shop: Tenant, key: ApiKey) -> None:
    at = datetime(2026, 3, 1, 12, tzinfo=UTC)
    made = [place_call(shop, key, at + timedelta(seconds=second // 4)).id for second in range(23)]
    calls = CallFilter().calls_of(shop)
    expected = list(Call.objects.order_by("-at", "-id").values_list("id", flat=True))
    assert sorted(made) == sorted(expected)
    assert [call.id for call in every_call(calls)] == expected
    pages, older = [page_of_calls(calls, size=5)], None
    while older := pages[-1].older:
        pages.append(page_of_calls(calls, before=older, size=5))
    assert [call.id for each in pages for call in each.calls] == expected
    for later, earlier in zip(pages[1:], pages, strict=False):
        assert later.newer
        assert page_of_calls(calls, after=later.newer, size=5).calls == earlier.calls
    assert pages[0].newer is None


FILTERS: list[dict[str, Any]] = [
    {"outcome": "refused"}, {"outcome": "served"}, {"route": "downgrade"}, {"route": "fallback"}, {"route": "primary"},
    {"model": "bench-small"}, {"customer": "customer-3"}, {"conversation": "nobody"},
    {"customer": "customer-3", "route": "downgrade"}, {"outcome": "refused", "customer": "customer-3"},
]  # fmt: skip


@pytest.mark.parametrize("wanted", FILTERS, ids=str)
def test_a_filter_finds_what_it_names_and_all_of_it(wanted: dict[str, Any]) -> None:
    tenant = made_history(entries=400, tenants=1)[0]
    found = {call.id for call in every_call(CallFilter(**wanted).calls_of(tenant))}
    expected = {
        call.id for call in Call.objects.all() if all(getattr(call, name) == value for name, value in wanted.items())
    }
    assert found == expected


def test_days_of_the_filter_are_the_tenants_own(staff: Client, shop: Tenant, key: ApiKey) -> None:
    Tenant.objects.filter(pk=shop.pk).update(time_zone="America/New_York")
    for request_id, hour in (("before", 3), ("first", 4), ("last", 27), ("after", 28)):
        place_call(shop, key, datetime(2026, 6, 1, tzinfo=UTC) + timedelta(hours=hour), customer=request_id)
    body = page(staff, "calls", "shop", first="2026-06-01", last="2026-06-01")
    assert ">first<" in body
    assert ">last<" in body
    assert ">before<" not in body
    assert ">after<" not in body


def test_times_of_the_filter_are_the_tenants_own_and_the_last_is_not_in_it(
    staff: Client, shop: Tenant, key: ApiKey
) -> None:
    Tenant.objects.filter(pk=shop.pk).update(time_zone="America/New_York")
    for name, minute in (("before", 29), ("first", 30), ("last", 59), ("after", 60)):
        place_call(shop, key, datetime(2026, 6, 1, 18, tzinfo=UTC) + timedelta(minutes=minute), customer=name)
    asked = {"first": "2026-06-01", "first_time": "14:30", "last": "2026-06-01", "last_time": "15:00"}
    body = page(staff, "calls", "shop", **asked)
    assert [name for name in ("before", "first", "last", "after") if f">{name}<" in body] == ["first", "last"]


def test_of_calls_that_no_model_answered_the_filter_knows_the_one_asked_for(
    staff: Client, shop: Tenant, key: ApiKey
) -> None:
    for name, asked in (("anna", LARGE), ("ben", SMALL)):
        place_call(
            shop, key, timezone.now(), outcome=Outcome.REFUSED, model="", requested_model=asked, customer=name,
            code="budget_exceeded",
        )  # fmt: skip
    body = page(staff, "calls", "shop", outcome="refused", model=LARGE)
    assert ">anna<" in body
    assert ">ben<" not in body
    assert "Nothing matches this filter." in page(staff, "calls", "shop", model=LARGE)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (" alice", ["of-before"]), ("alice", ["plain"]), ("alice ", ["plain"]), (" ", ["blank"]),
        ("Rene\u0301e", ["composed"]), ("  ", ["of-before", "plain", "blank", "composed"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["customer", "conversation"])
def test_the_filter_takes_the_exact_id_and_else_as_the_api_would(
    staff: Client, shop: Tenant, key: ApiKey, name: str, asked: str, expected: list[str]
) -> None:
    ids = {"of-before": " alice", "plain": "alice", "blank": " ", "composed": "Ren\u00e9e"}
    for request_id, given in ids.items():
        place_call(shop, key, timezone.now(), request_id=request_id, **{name: given})
    exported = staff.get(reverse("calls_csv", args=["shop"]), {name: asked}).getvalue().decode()
    assert [request_id for request_id in ids if request_id in exported] == expected
    assert page(staff, "calls", "shop", **{name: asked}).count('<th scope="row">') == len(expected)


def test_a_filter_that_is_not_valid_says_so_and_shows_nothing(staff: Client, shop: Tenant, key: ApiKey) -> None:
    place_call(shop, key, timezone.now(), customer="anna")
    for wrong in (
        {"first": "yesterday"}, {"first": "9999-12-31"}, {"last": "9999-12-31"}, {"outcome": "perhaps"}, {"route": "x"},
        {"first": "2026-06-02", "last": "2026-06-01"}, {"first_time": "14:30"}, {"last_time": "14:30"},
        {"first": "2026-06-01", "first_time": "25:00"},
        {"first": "2026-06-01", "first_time": "14:30", "last": "2026-06-01", "last_time": "14:30"},
    ):  # fmt: skip
        body = page(staff, "calls", "shop", **wrong)
        assert 'role="alert"' in body
        assert ">anna<" not in body
        assert staff.get(reverse("calls_csv", args=["shop"]), wrong).status_code == 404
    for cursor in (
        "",
        "x",
        "0001-01-01T00:00:00+14:00_" + "0" * 32,
        "2026-01-01_x",
        "x_y",
        "2026-01-01T00:00:00_" + "0" * 32,
    ):
        assert ">anna<" in page(staff, "calls", "shop", before=cursor)


@pytest.mark.parametrize("address", [
    "/?q=%00", "/live/?q=%00", "/overview.csv?q=%00", "/find/?request_id=%00", "/tenants/a%00/",
    "/tenants/shop/calls/?model=%00",
])  # fmt: skip
def test_a_character_that_no_name_has_is_found_nowhere(staff: Client, shop: Tenant, address: str) -> None:
    assert staff.get(address).status_code == 404


# One customer, conversation or key


@pytest.mark.parametrize("kind", ["customer", "conversation", "key"])
def test_each_has_a_page_with_its_cost_budget_models_and_calls(
    staff: Client, shop: Tenant, key: ApiKey, kind: str
) -> None:
    odd = "a/../b c?&é"
    at, other = timezone.now() - timedelta(minutes=1), ApiKeyFactory.create(tenant=shop)
    facts: Any = {"customer": odd, "conversation": odd, "request_id": "req_odd"}
    place_call(shop, key, at, model="big", cost_ticks=3 * TICKS_PER_USD, input_tokens=1234, **facts)
    place_call(shop, other, at, customer="ben", conversation="c2", cost_ticks=50 * TICKS_PER_USD)
    place_call(shop, key, at - timedelta(days=36), customer=odd, conversation=odd, cost_ticks=TICKS_PER_USD)
    BudgetFactory.create(tenant=shop, scope=kind, limit_ticks=4 * TICKS_PER_USD)
    name = str(key.pk) if kind == "key" else odd
    window_of(shop, 3 * TICKS_PER_USD, scope=kind, subject=name)
    for shown in ("live", "summed"):
        body = page(staff, "subject", "shop", kind, id=name)
        assert "<dt>Spent</dt><dd>$3.00</dd>" in body, shown
        assert "up 200 % ($2.00)" in body
        assert "$1.00 left." in body
        assert ">big</th>" in body
        assert ">1,234</td>" in body
        assert "$50.00" not in body
        assert ("$4.00" in body.partition("All of it")[2][:60]) == (kind == "conversation")
        days = staff.get(reverse("subject_csv", args=["shop", kind]), {"id": name}).getvalue().decode()
        assert days.splitlines()[-1].endswith(",1,3")
        day = page(staff, "subject", "shop", kind, id=name, span="today")
        assert "Spent each" in day
        catch_up(timezone.now())
    assert page(staff, "calls", "shop", **{kind: name}).count('<th scope="row">') == 2
    linked = reverse("subject", args=["shop", kind]) + "?"
    for where in (page(staff, "calls", "shop"), page(staff, "call", "shop", Call.objects.get(request_id="req_odd").id)):
        assert kind == "key" or linked in where


@pytest.mark.parametrize(("kind", "name"), [
    ("customer", "nobody"), ("conversation", " "), ("key", "7777"), ("key", "x"), ("key", "²"), ("key", "9" * 40),
])  # fmt: skip
def test_what_no_call_names_has_no_page(staff: Client, shop: Tenant, key: ApiKey, kind: str, name: str) -> None:
    for page_name in ("subject", "subject_content"):
        answer = staff.get(reverse(page_name, args=["shop", kind]), {"id": name})
        assert answer.status_code in {403, 404}, page_name


# The box


def test_the_box_jumps_to_what_has_the_id_and_offers_several(staff: Client, shop: Tenant, key: ApiKey) -> None:
    call = place_call(shop, key, timezone.now(), request_id="req_1", customer="anna", conversation="chat-1")
    place_call(shop, key, timezone.now(), customer="both", conversation="both")
    find = reverse("find")
    for asked, address in (
        ("req_1", reverse("call", args=["shop", call.id])), (str(call.id), reverse("call", args=["shop", call.id])),
        (" anna ", reverse("subject", args=["shop", "customer"]) + "?id=anna"),
        ("chat-1", reverse("subject", args=["shop", "conversation"]) + "?id=chat-1"),
        ("chat", reverse("subject", args=["shop", "conversation"]) + "?id=chat-1"),
        ("shop", reverse("tenant", args=["shop"])),
    ):  # fmt: skip
        assert staff.get(find, {"q": asked})["Location"] == address, asked
    assert page(staff, "find", q="both").count('class="link"') == 2
    assert "Nothing has the id" in page(staff, "find", q="hat")


# Calls by cost


def test_calls_are_sorted_by_cost_page_by_page(staff: Client, shop: Tenant, key: ApiKey) -> None:
    at = timezone.now() - timedelta(days=1)
    for number in range(PAGE_SIZE + 3):
        place_call(shop, key, at + timedelta(seconds=number), cost_ticks=(number * 7) % 50 + 1)
    expected = sorted(Call.objects.values_list("cost_ticks", "id"), reverse=True)
    first = staff.get(reverse("calls", args=["shop"]), {"sort": "cost"})
    rest = staff.get(reverse("calls", args=["shop"]), {"sort": "cost", "before": first.context["older"]})
    shown = [(call.cost_ticks, call.id) for answer in (first, rest) for call in answer.context["calls"]]
    assert shown == expected
    back = staff.get(reverse("calls", args=["shop"]), {"sort": "cost", "after": rest.context["newer"]})
    assert back.context["calls"] == first.context["calls"]
    for cursor in ("x", "1_x", f"{'9' * 30}_{'0' * 32}", f"-1_{'0' * 32}", f"²_{'0' * 32}"):
        assert page(staff, "calls", "shop", sort="cost", before=cursor)


def test_an_attempts_table_multiplies_out_to_what_was_booked(staff: Client, shop: Tenant, key: ApiKey) -> None:
    model = CatalogueModelFactory.create(id="grok-4.3")  # a token 12,500 ticks, cached 2,000
    facts: Any = {
        "model": model.pk,
        "price_id": model.prices.get().pk,
        "input_tokens": 1000,
        "cached_input_tokens": 400,
    }
    call = place_call(shop, key, timezone.now(), cost_ticks=600 * 12_500 + 400 * 2_000 + 7, **facts)
    body = page(staff, "call", "shop", call.id)
    for kind, tokens, amount in (("Input, not cached", "600", "$0.00075"), ("Input, cached", "400", "$0.00008")):
        row = body.partition(f'<th scope="row">{kind}</th>')[2].partition("</tr>")[0]
        assert f">{tokens}</td>" in row
        assert f">{amount}</td>" in row
    assert "Difference to what was booked" in body
    assert ">$0.0000000007</td>" in body
    assert body.partition(">Booked<")[2].partition("</tr>")[0].endswith("$0.0008300007</td>")


# Statement


def test_a_statement_is_of_one_month_of_the_tenants_own(staff: Client, shop: Tenant, key: ApiKey) -> None:
    Tenant.objects.filter(pk=shop.pk).update(time_zone="Europe/Berlin")
    place_call(shop, key, datetime(2026, 1, 31, 22, 59, tzinfo=UTC), cost_ticks=TICKS_PER_USD, customer="anna")
    place_call(shop, key, datetime(2026, 1, 31, 23, 1, tzinfo=UTC), cost_ticks=5 * TICKS_PER_USD, customer="ben")
    january, february = (page(staff, "statement", "shop", month=month) for month in ("2026-01", "2026-02"))
    assert "<strong>$1.00</strong>" in january
    assert "Sat 31 Jan" in january
    assert ">anna<" in january
    assert ">ben<" not in january
    assert "<strong>$5.00</strong>" in february
    assert "Sun 1 Feb" in february


def test_a_statement_says_what_cached_input_saved(staff: Client, shop: Tenant, key: ApiKey) -> None:
    at, model = timezone.now(), CatalogueModelFactory.create(id="grok-4.3")  # a token 12,500 ticks, cached 2,000
    facts: Any = {"model": model.pk, "price_id": model.prices.get().pk, "input_tokens": 200_000_000, "cost_ticks": 1}
    place_call(shop, key, at, **facts)
    month = f"{at.astimezone(shop.zone):%Y-%m}"
    assert "which saved" not in page(staff, "statement", "shop", month=month)
    place_call(shop, key, at, **facts, cached_input_tokens=100_000_000)
    assert "100,000,000 of them cached, which saved $105.00" in page(staff, "statement", "shop", month=month)


@pytest.mark.parametrize("month", ["2999-01", "1999-12", "2026-13", "x", "2026-01-01"])
def test_a_month_that_is_none_or_is_to_come_has_no_statement(staff: Client, shop: Tenant, month: str) -> None:
    assert staff.get(reverse("statement", args=["shop"]), {"month": month}).status_code == 404


# The number of queries

MOST_QUERIES = {
    "overview": 22, "live": 22, "overview_csv": 16, "tenant": 55, "calls": 9, "call": 9, "statement": 28,
    "subject": 30, "days_csv": 8,
    "subjects_csv": 8, "budgets_csv": 14, "hours_csv": 6, "savings_csv": 10,
}  # fmt: skip


LIVE = "req_live"


def shops_of_all_kinds(prefix: str, entries: int, tenants: int, now: datetime) -> Tenant:
    """The first of them. Each has something of every kind that a page asks about, whatever the hour is: a window of
    each of its budgets, and a downgraded call of a conversation, in no daily sum yet."""
    shops = made_history(entries, tenants, days=3, now=now, prefix=prefix)
    for shop in shops:
        place_call(
            shop, shop.keys.get(), now, route=Route.DOWNGRADE, model=SMALL, requested_model=LARGE, customer="ada",
            conversation="live", request_id=LIVE,
        )  # fmt: skip
        for use in current_uses(shop, now).windows:
            use.window.save()
    return shops[0]


def check_that_more_data_asks_no_more(asked_of: Callable[[Tenant], int], now: datetime, sums_add: int) -> None:
    """Of few rows and of many, live and summed; `sums_add` queries may be asked only once there are daily sums."""
    # Few are more than a page of calls still: the last page asks whether older ones were removed, the others don't.
    few = shops_of_all_kinds("few", entries=2 * PAGE_SIZE, tenants=1, now=now)
    live = asked_of(few)
    many = shops_of_all_kinds("many", entries=500, tenants=12, now=now)
    assert (asked_of(few), asked_of(many)) == (live, live)
    catch_up(now)
    assert (asked_of(few), asked_of(many)) == (live + sums_add, live + sums_add)


SUMS_ADD = {"overview": 1, "live": 1, "overview_csv": 1, "tenant": 3, "statement": 1, "subject": 2}
"""The days of all tenants; what conversations cost before (of the span before, too), and the dearest of each day."""


@pytest.mark.parametrize("name", MOST_QUERIES)
def test_a_page_asks_no_more_of_more_data(staff: Client, name: str) -> None:
    def asked_of(shop: Tenant) -> int:
        given: dict[str, tuple[Any, ...]] = {
            "overview": (), "live": (), "overview_csv": (), "subjects_csv": (shop.id, "customer"),
            "subject": (shop.id, "customer"), "call": (shop.id, Call.objects.get(tenant=shop, request_id=LIVE).id),
        }  # fmt: skip
        with CaptureQueriesContext(connection) as asked:
            assert staff.get(reverse(name, args=given.get(name, (shop.id,))), {"id": "ada"}).getvalue()
        assert len(asked) <= MOST_QUERIES[name]
        return len(asked)

    check_that_more_data_asks_no_more(asked_of, timezone.now(), SUMS_ADD.get(name, 0))


def test_the_last_page_of_calls_asks_no_more_of_more_data(staff: Client) -> None:
    def asked_of(shop: Tenant) -> int:
        with CaptureQueriesContext(connection) as asked:
            answer = staff.get(reverse("calls", args=(shop.id,)), {"conversation": "live"})
        assert len(answer.context["calls"]) == 1
        return len(asked)

    check_that_more_data_asks_no_more(asked_of, timezone.now(), sums_add=0)


def read_overview(shop: Tenant, now: datetime) -> None:
    overview(Tenant.objects.all(), "", 1, now)


def read_tenant(shop: Tenant, now: datetime) -> None:
    tenant_report(shop, spans_at(now, shop.zone)["30"], now)


def read_statement(shop: Tenant, now: datetime) -> None:
    statement(shop, spans_at(now, shop.zone)["month"], now)


@pytest.mark.parametrize(
    "now",
    [
        datetime(2026, 11, 24, 12, tzinfo=UTC),
        datetime(2026, 11, 23, 23, 0, 20, tzinfo=UTC),  # midnight in Berlin just passed
        datetime(2026, 11, 24, 23, 59, 40, tzinfo=UTC),
        datetime(2026, 12, 1, 0, 0, 20, tzinfo=UTC),  # in New York it is still November
        datetime(2026, 12, 1, 5, 0, 20, tzinfo=UTC),
    ],
    ids=str,
)
@pytest.mark.parametrize(("read", "sums_add"), [(read_overview, 1), (read_tenant, 3), (read_statement, 1)])
def test_a_report_asks_no_more_of_more_data_at_any_hour(
    read: Callable[[Tenant, datetime], None], sums_add: int, now: datetime
) -> None:
    def asked_of(shop: Tenant) -> int:
        with CaptureQueriesContext(connection) as asked:
            read(shop, now)
        return len(asked)

    check_that_more_data_asks_no_more(asked_of, now, sums_add)
