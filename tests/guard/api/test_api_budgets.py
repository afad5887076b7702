"""GET/PUT/PATCH/DELETE /api/budgets/{tenant}, GET /api/budget."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from auditlog.models import LogEntry
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from spend.budgets.usage import MOST_TEMPLATE_WINDOWS, remaining_ticks, state_of
from spend.ledger.posting import Posting
from spend.ledger.rules import Held
from spend.models import Window
from tenants.budgets import EffectiveBudget
from tenants.models import Budget, Scope, Tenant, TopUp
from tenants.money import TICKS_PER_USD
from tenants.periods import Period, bounds
from tests.factories import BudgetFactory, DowngradeRuleFactory, TenantFactory
from tests.support.api import Api, agent, operator
from tests.support.commands import caller_of, reserve_of, settle_of

pytestmark = pytest.mark.django_db

DAILY: dict[str, Any] = {
    "scope": "tenant",
    "period": "day",
    "limitUsd": "10.00",
    "softCap": "0.8",
    "hardCap": "1",
    "reserve": "0",
}
DAILY |= {"furtherSteps": [{"from": "0.85", "downgrades": 2}, {"from": "0.95", "maxTokens": 256}]}
PER_CUSTOMER = {
    "scope": "customer",
    "period": "day",
    "limitUsd": "0.50",
    "softCap": "0.5",
    "hardCap": "0.9",
    "reserve": "0.25",
    "furtherSteps": [],
}


@pytest.fixture
def tenant() -> Tenant:
    return TenantFactory.create(id="acme")


@pytest.fixture
def api() -> Api:
    return operator()


def test_what_was_put_is_what_is_got(api: Api, tenant: Tenant) -> None:
    put = api.put("/api/budgets/acme", {"budgets": [PER_CUSTOMER, DAILY]})
    assert put.status_code == 200
    assert put.json() == {"budgets": [PER_CUSTOMER, DAILY]}
    assert api.get("/api/budgets/acme").json() == put.json()
    assert api.put("/api/budgets/acme", put.json()).json() == put.json()


def test_caps_have_defaults_and_limits_may_be_numbers(api: Api, tenant: Tenant) -> None:
    body = """{"budgets": [
        {"scope": "tenant", "period": "day", "limitUsd": 0.1},
        {"scope": "key", "period": "week", "limitUsd": 3, "hardCap": 0.5}
    ]}"""
    answer = api.put("/api/budgets/acme", body)
    assert [(each["limitUsd"], each["softCap"], each["hardCap"]) for each in answer.json()["budgets"]] == [
        ("3.00", "0.5", "0.5"),
        ("0.10", "0.8", "1"),
    ]
    assert set(Budget.objects.values_list("limit_ticks", flat=True)) == {TICKS_PER_USD // 10, 3 * TICKS_PER_USD}


def test_put_replaces_all_and_patch_changes_one(api: Api, tenant: Tenant) -> None:
    api.put("/api/budgets/acme", {"budgets": [DAILY, PER_CUSTOMER]})
    changed = api.patch("/api/budgets/acme", {"scope": "customer", "period": "day", "hardCap": "1"})
    assert changed.json() == {"budgets": [{**PER_CUSTOMER, "hardCap": "1"}, DAILY]}
    added = api.patch("/api/budgets/acme", {"scope": "tenant", "period": "month", "limitUsd": "100"})
    assert len(added.json()["budgets"]) == 3
    assert api.put("/api/budgets/acme", {"budgets": [DAILY]}).json() == {"budgets": [DAILY]}


def test_delete_removes_them_and_the_default_binds(api: Api, tenant: Tenant) -> None:
    BudgetFactory.create(tenant=tenant, limit_ticks=1)
    assert api.delete("/api/budgets/acme").status_code == 204
    assert api.get("/api/budgets/acme").json() == {"budgets": []}
    (window,) = agent(tenant).get("/api/budget").json()["windows"]
    assert (window["scope"], window["period"], window["limitUsd"]) == ("tenant", "day", "5.00")


@pytest.mark.parametrize("method", ["delete", "put", "patch"])
def test_a_query_narrows_no_change_and_so_is_refused(api: Api, tenant: Tenant, method: str) -> None:
    standing = {"budgets": [PER_CUSTOMER, DAILY]}
    api.put("/api/budgets/acme", standing)
    body: Any = {"delete": None, "put": {"budgets": []}, "patch": {**DAILY, "limitUsd": "1.00"}}[method]
    answer = getattr(api, method)("/api/budgets/acme?scope=tenant", body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "scope")
    assert api.get("/api/budgets/acme").json() == standing


def test_other_tenants_and_the_installation_are_left_alone(api: Api, tenant: Tenant) -> None:
    other, installation = BudgetFactory.create(), BudgetFactory.create(tenant=None, scope="installation")
    BudgetFactory.create(tenant=tenant)
    api.delete("/api/budgets/acme")
    assert set(Budget.objects.values_list("pk", flat=True)) == {other.pk, installation.pk}


def test_what_was_spent_stays_spent(api: Api, tenant: Tenant) -> None:
    window = make_window(tenant, spent_ticks=4 * TICKS_PER_USD)
    api.put("/api/budgets/acme", {"budgets": [DAILY]})
    api.delete("/api/budgets/acme")
    api.put("/api/budgets/acme", {"budgets": [{**DAILY, "limitUsd": "3"}]})
    assert Window.objects.get() == window
    (shown,) = agent(tenant).get("/api/budget").json()["windows"]
    assert (shown["spentUsd"], shown["remainingUsd"], shown["state"]) == ("4.00", "0.00", "stopped")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"limitUsd": "-1"}, "limitUsd"),
        ({"limitUsd": "NaN"}, "limitUsd"),
        ({"limitUsd": "Infinity"}, "limitUsd"),
        ({"limitUsd": "1e3"}, "limitUsd"),
        ({"limitUsd": " 1"}, "limitUsd"),
        ({"limitUsd": "1_000"}, "limitUsd"),
        ({"limitUsd": "١"}, "limitUsd"),
        ({"limitUsd": "0.00000000001"}, "limitUsd"),
        ({"limitUsd": "1000000000"}, "limitUsd"),
        ({"limitUsd": "9" * 500}, "limitUsd"),
        ({"limitUsd": 10**300}, "limitUsd"),
        ({"limitUsd": True}, "limitUsd"),
        ({"limitUsd": None}, "limitUsd"),
        ({"limitUsd": []}, "limitUsd"),
        ({"limitUsd": {}}, "limitUsd"),
        ({"reserve": "1"}, "reserve"),
        ({"reserve": "-0.1"}, "reserve"),
        ({"reserve": "0.5", "hardCap": "0.5", "softCap": "0.5"}, "reserve"),
        ({"furtherSteps": [{"from": "0.8", "downgrades": 2}]}, "furtherSteps"),
        ({"furtherSteps": [{"from": "0.9", "downgrades": 2, "maxTokens": 5}]}, "furtherSteps"),
        ({"furtherSteps": [{"from": "0.9"}]}, "furtherSteps"),
        ({"furtherSteps": [{"from": "0.9", "downgrades": 1}]}, "furtherSteps.0.downgrades"),
        ({"furtherSteps": [{"downgrades": 2}]}, "furtherSteps.0.from"),
        ({"furtherSteps": "85 %: 2 downgrades"}, "furtherSteps"),
        ({"furtherSteps": None}, "furtherSteps"),
        ({"softCap": "0"}, "softCap"),
        ({"softCap": "0.12345"}, "softCap"),
        ({"softCap": True}, "softCap"),
        ({"softCap": "0.9", "hardCap": "0.8"}, "softCap"),
        ({"hardCap": "1.0001"}, "hardCap"),
        ({"hardCap": None}, "hardCap"),
        ({"scope": "installation"}, "scope"),
        ({"scope": 1}, "scope"),
        ({"scope": None}, "scope"),
        ({"period": "year"}, "period"),
        ({"period": ["day"]}, "period"),
        ({"limit_usd": "1"}, "limit_usd"),
        ({"tenantId": "other"}, "tenantId"),
    ],
)
def test_a_bad_budget_changes_nothing_and_is_named(
    api: Api, tenant: Tenant, change: dict[str, Any], param: str
) -> None:
    api.put("/api/budgets/acme", {"budgets": [PER_CUSTOMER, DAILY]})
    put = api.put("/api/budgets/acme", {"budgets": [PER_CUSTOMER, {**DAILY, **change}]})
    assert_refused(put, f"budgets.1.{param}")
    assert_refused(api.patch("/api/budgets/acme", {**DAILY, **change}), param)
    assert api.get("/api/budgets/acme").json() == {"budgets": [PER_CUSTOMER, DAILY]}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"budgets": [DAILY, {**DAILY, "limitUsd": "1"}]}, "budgets"),
        ({"budgets": {}}, "budgets"),
        ({"budgets": "all"}, "budgets"),
        ({"budgets": None}, "budgets"),
        ({}, "budgets"),
        ({"budgets": [], "more": 1}, "more"),
        ({"budgets": [{"scope": "tenant", "limitUsd": "1"}]}, "budgets.0.period"),
        ({"budgets": ["daily"]}, "budgets.0"),
        ([DAILY], None),
        ("DAILY", None),
        (None, None),
    ],
)
def test_a_bad_body_is_refused(api: Api, tenant: Tenant, body: Any, param: str | None) -> None:
    assert_refused(api.put("/api/budgets/acme", body), param)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"scope": "tenant", "period": "day"}, "limitUsd"),
        ({"period": "day", "limitUsd": "1"}, "scope"),
        ({"scope": "tenant", "limitUsd": "1"}, "period"),
        ([DAILY], None),
    ],
)
def test_a_bad_change_is_refused(api: Api, tenant: Tenant, body: Any, param: str | None) -> None:
    assert_refused(api.patch("/api/budgets/acme", body), param)


def test_a_lower_hard_cap_must_not_pass_under_the_soft_cap(api: Api, tenant: Tenant) -> None:
    BudgetFactory.create(tenant=tenant)
    assert_refused(api.patch("/api/budgets/acme", {"scope": "tenant", "period": "day", "hardCap": "0.5"}), "softCap")


def test_there_are_no_budgets_of_an_unknown_tenant(api: Api) -> None:
    for method in (api.get, api.put, api.patch, api.delete):
        assert method("/api/budgets/nobody").status_code == 404


def test_every_change_is_in_the_trail_with_who_and_what(api: Api, tenant: Tenant) -> None:
    api.put("/api/budgets/acme", {"budgets": [DAILY]})
    api.patch("/api/budgets/acme", {**DAILY, "limitUsd": "12"})
    api.put("/api/budgets/acme", {"budgets": [{**DAILY, "limitUsd": "12"}]})
    api.delete("/api/budgets/acme")
    entries = list(LogEntry.objects.filter(content_type__model="budget").order_by("timestamp", "id"))
    assert [entry.get_action_display() for entry in entries] == ["create", "update", "delete"]
    assert {entry.actor for entry in entries} == {api.user}
    assert entries[1].changes == {"limit_ticks": [str(10 * TICKS_PER_USD), str(12 * TICKS_PER_USD)]}
    assert entries[2].changes["limit_ticks"][0] == str(12 * TICKS_PER_USD)


# GET /api/budget


def make_window(tenant: Tenant, scope: str = "tenant", subject: str = "", **figures: Any) -> Window:
    starts_at, ends_at = bounds(figures.pop("period", Period.DAY), tenant.zone, timezone.now())
    return Window.objects.create(
        tenant_id=tenant.id, scope=scope, subject=subject, period="day", starts_at=starts_at, ends_at=ends_at, **figures
    )


def test_the_own_windows(tenant: Tenant) -> None:
    BudgetFactory.create(tenant=tenant, limit_ticks=10 * TICKS_PER_USD)
    BudgetFactory.create(tenant=tenant, scope="customer", limit_ticks=TICKS_PER_USD, soft_cap=Decimal("0.5"))
    make_window(tenant, spent_ticks=3 * TICKS_PER_USD, held_ticks=TICKS_PER_USD)
    make_window(tenant, "customer", "jo", spent_ticks=TICKS_PER_USD // 2)
    make_window(tenant, "conversation", "c1", spent_ticks=TICKS_PER_USD)  # of no budget
    make_window(TenantFactory.create(), "customer", "theirs", spent_ticks=TICKS_PER_USD)
    day = bounds(Period.DAY, tenant.zone, timezone.now())
    assert day.ends_at
    times = {"startsAt": rfc3339(day.starts_at), "resetsAt": rfc3339(day.ends_at)}
    assert agent(tenant).get("/api/budget").json() == {
        "tenantId": "acme",
        "windows": [
            {
                "scope": "tenant", "scopeId": "acme", "period": "day", **times, "limitUsd": "10.00", "spentUsd": "3.00",
                "heldUsd": "1.00", "remainingUsd": "6.00", "state": "active",
            },
            {
                "scope": "customer", "scopeId": "jo", "period": "day", **times, "limitUsd": "1.00", "spentUsd": "0.50",
                "heldUsd": "0.00", "remainingUsd": "0.50", "state": "degraded",
            },
        ],
        "windowsOmitted": 0,
    }  # fmt: skip


def test_on_which_step_of_its_ladder_a_window_is(tenant: Tenant) -> None:
    BudgetFactory.create(
        tenant=tenant, limit_ticks=10 * TICKS_PER_USD, further_steps="85 %: 2 downgrades, 95 %: 256 tokens"
    )
    make_window(tenant, spent_ticks=8 * TICKS_PER_USD, held_ticks=TICKS_PER_USD)
    (window,) = agent(tenant).get("/api/budget").json()["windows"]
    assert (window["step"], window["steps"]) == (2, 3)


def test_a_ladder_is_changed_by_itself(api: Api, tenant: Tenant) -> None:
    BudgetFactory.create(tenant=tenant)
    steps = [{"from": "0.95", "maxTokens": 256}, {"from": "0.9", "downgrades": 2}]
    change = {"scope": "tenant", "period": "day", "furtherSteps": steps}
    (budget,) = api.patch("/api/budgets/acme", change).json()["budgets"]
    assert budget["furtherSteps"] == steps[::-1]
    assert api.patch("/api/budgets/acme", {"scope": "tenant", "period": "day", "softCap": "0.92"}).status_code == 400


def rfc3339(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")


def test_without_a_downgrade_a_budget_past_its_soft_cap_warns(tenant: Tenant) -> None:
    tenant.route_steps.create(model=DowngradeRuleFactory.create().to_model)
    make_window(tenant, spent_ticks=4 * TICKS_PER_USD)
    (window,) = agent(tenant).get("/api/budget").json()["windows"]
    assert window["state"] == "warned"


def test_a_budget_in_total_never_resets(tenant: Tenant) -> None:
    BudgetFactory.create(tenant=tenant, period="total")
    (window,) = agent(tenant).get("/api/budget").json()["windows"]
    assert (window["period"], window["resetsAt"]) == ("total", None)


def test_a_new_budget_counts_what_was_spent_before_it(tenant: Tenant) -> None:
    reserve = reserve_of([], TICKS_PER_USD, timezone.now(), caller=caller_of(tenant.id))
    (held,) = Posting().post([reserve])
    assert isinstance(held, Held)
    Posting().post([settle_of(held.reserved, TICKS_PER_USD // 4)])
    BudgetFactory.create(tenant=tenant, period="month")
    windows = agent(tenant).get("/api/budget").json()["windows"]
    assert [(window["period"], window["spentUsd"]) for window in windows] == [("month", "0.25")]


def test_a_running_top_up_raises_the_daily_limit(tenant: Tenant) -> None:
    now = timezone.now()
    for starts_at in (now - timedelta(hours=1), now + timedelta(hours=1)):
        TopUp.objects.create(
            tenant=tenant, amount_ticks=TICKS_PER_USD, starts_at=starts_at, ends_at=now + timedelta(hours=2)
        )
    BudgetFactory.create(tenant=tenant, period="month")
    BudgetFactory.create(tenant=tenant)
    windows = agent(tenant).get("/api/budget").json()["windows"]
    assert {window["period"]: window["limitUsd"] for window in windows} == {"day": "2.00", "month": "1.00"}


def test_the_installation_is_not_shown(tenant: Tenant) -> None:
    BudgetFactory.create(tenant=None, scope="installation")
    Window.objects.create(scope="installation", period="day", starts_at=timezone.now(), spent_ticks=77)
    assert [window["scope"] for window in agent(tenant).get("/api/budget").json()["windows"]] == ["tenant"]


def test_the_most_used_windows_come_first_and_the_rest_are_counted(tenant: Tenant) -> None:
    BudgetFactory.create(tenant=tenant, scope="customer")
    starts_at, ends_at = bounds(Period.DAY, tenant.zone, timezone.now())
    Window.objects.bulk_create(
        Window(
            tenant_id="acme", scope="customer", subject=f"c{number}", period="day", starts_at=starts_at,
            ends_at=ends_at, spent_ticks=number,
        )
        for number in range(MOST_TEMPLATE_WINDOWS + 7)
    )  # fmt: skip
    body = agent(tenant).get("/api/budget").json()
    assert [window["scopeId"] for window in body["windows"]][:3] == ["acme", "c206", "c205"]
    assert (len(body["windows"]), body["windowsOmitted"]) == (MOST_TEMPLATE_WINDOWS + 1, 7)


def test_a_tenant_that_hides_money_shows_states_only(tenant: Tenant) -> None:
    tenant.hide_money = True
    tenant.save()
    make_window(tenant, spent_ticks=4 * TICKS_PER_USD)
    answer = agent(tenant).get("/api/budget")
    assert "Usd" not in answer.text
    assert answer.json()["windows"][0]["state"] == "degraded"


def test_only_an_agent_has_a_budget_of_its_own(api: Api) -> None:
    assert api.get("/api/budget").status_code == 403


def assert_refused(answer: Any, param: str | None) -> None:
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("invalid_request", param)


# States, pure

TICKS = st.integers(0, 10**19)


@given(
    limit=TICKS,
    soft=st.integers(1, 10_000),
    hard=st.integers(1, 10_000),
    spent=TICKS,
    held=TICKS,
    downgrade=st.booleans(),
)
def test_the_state_follows_from_exact_shares_of_the_limit(
    limit: int, soft: int, hard: int, spent: int, held: int, downgrade: bool
) -> None:
    soft, hard = min(soft, hard), max(soft, hard)
    budget = EffectiveBudget(Scope.TENANT, Period.DAY, limit, Decimal(soft) / 10_000, Decimal(hard) / 10_000)
    state = state_of(limit, budget.soft_ticks, budget.hard_ticks, spent, held, downgrade)
    if (spent + 1) * 10_000 > limit * hard:  # not one tick more fits
        assert state == "stopped"
    elif (spent + held) * 10_000 >= limit * soft:
        assert state == ("degraded" if downgrade else "warned")
    else:
        assert state == "active"
    left = remaining_ticks(budget.hard_ticks, spent, held)
    assert left >= 0
    assert left == 0 or (spent + held + left) * 10_000 <= limit * hard < (spent + held + left + 1) * 10_000
