"""A page of the operators that was left open undoes nothing that others did meanwhile, and loses nothing typed."""

import html
import re
from typing import Any

import pytest
from auditlog.context import set_actor
from auditlog.models import LogEntry
from django.contrib.auth.models import User
from django.test import Client

from tenants.models import AlertChannel, Budget, Scope, Tenant
from tenants.money import TICKS_PER_USD as USD
from tenants.periods import Period
from tenants.trail.undo import undo
from tests.factories import (
    BudgetFactory,
    CatalogueModelFactory,
    DowngradeRuleFactory,
    RouteStepFactory,
    TenantFactory,
    UserFactory,
)
from tests.support.forms import Fields, form_in

pytestmark = pytest.mark.django_db

PAGE = "/admin/tenants/tenant/acme/change/"


@pytest.fixture
def operator() -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("olga"))
    return client


@pytest.fixture
def tenant() -> Tenant:
    return TenantFactory.create(id="acme", name="Acme", time_zone="Europe/Oslo")


def opened(client: Client, path: str = PAGE, form_id: str = "tenant_form") -> Fields:
    return form_in(client.get(path).content.decode(), form_id)


def saved(client: Client, form: Fields, path: str = PAGE, **typed: str) -> Any:
    answer = client.post(path, form | {name: [value] for name, value in typed.items()})
    assert answer.status_code == 302, (answer.context["errors"], errors_in(answer))
    return answer


def errors_in(answer: Any) -> str:
    page = answer.content.decode().partition('id="content-main"')[2]
    shown = re.sub(r"<[^>]+>", " ", re.sub(r"<option.*?</option>", "", page, flags=re.DOTALL))
    return "\n".join(line.strip() for line in html.unescape(shown).splitlines() if line.strip())


def by_a_colleague(row: Any, **values: Any) -> None:
    colleague = User.objects.filter(username="carla").first() or UserFactory.create(username="carla")
    with set_actor(colleague):
        for name, value in values.items():
            setattr(row, name, value)
        row.save()


def added(form: Fields, prefix: str, **values: str) -> Fields:
    """With one more row, as the page's script adds it."""
    number = form[f"{prefix}-TOTAL_FORMS"][0]
    row = {f"{prefix}-{number}-{name}": [value] for name, value in values.items()}
    return form | {f"{prefix}-TOTAL_FORMS": [str(int(number) + 1)]} | row


CAPS = {"soft_cap": "0.8", "hard_cap": "1", "reserve": "0", "alert_percents": ""}


def test_a_colleagues_pause_is_not_undone_by_an_old_page(operator: Client, tenant: Tenant) -> None:
    form = opened(operator)
    by_a_colleague(tenant, is_active=False, name="Acme Inc.")
    saved(operator, form, default_max_tokens="2000")
    tenant.refresh_from_db()
    assert (tenant.is_active, tenant.name, tenant.default_max_tokens) == (False, "Acme Inc.", 2000)


def test_an_old_page_that_touched_nothing_leaves_no_trail(operator: Client, tenant: Tenant) -> None:
    BudgetFactory.create(tenant=tenant)
    RouteStepFactory.create(tenant=tenant)
    form = opened(operator)
    before = LogEntry.objects.count()
    saved(operator, form)
    assert LogEntry.objects.count() == before


def test_members_that_a_colleague_added_stay(operator: Client, tenant: Tenant) -> None:
    form = opened(operator)
    tenant.members.add(UserFactory.create(username="max"))
    saved(operator, form, name="New")
    assert tenant.members.get().username == "max"


def test_a_field_that_both_changed_says_who_and_keeps_what_was_typed(operator: Client, tenant: Tenant) -> None:
    form = opened(operator)
    by_a_colleague(tenant, name="Acme Inc.")
    answer = operator.post(PAGE, form | {"name": ["Acme Corp."]})
    assert "carla changed this from Acme to Acme Inc." in errors_in(answer)
    again = form_in(answer.content.decode(), "tenant_form")
    assert again["name"] == ["Acme Corp."]
    saved(operator, again)
    tenant.refresh_from_db()
    assert tenant.name == "Acme Corp."


def test_a_ladder_is_merged_and_undone_as_any_field(operator: Client, tenant: Tenant) -> None:
    budget = BudgetFactory.create(tenant=tenant)
    form = opened(operator)
    by_a_colleague(budget, limit_ticks=9 * USD)
    saved(operator, form, **{"budgets-0-further_steps": "0.95: 256 tokens, 85 %: 2 downgrades"})
    budget.refresh_from_db()
    assert (budget.limit_ticks, budget.further_steps) == (9 * USD, "85 %: 2 downgrades, 95 %: 256 tokens")
    undo(LogEntry.objects.filter(changes__has_key="further_steps").latest("pk"))
    budget.refresh_from_db()
    assert (budget.limit_ticks, budget.further_steps) == (9 * USD, "")


def test_both_changed_a_field_to_the_same(operator: Client, tenant: Tenant) -> None:
    form = opened(operator)
    by_a_colleague(tenant, name="Acme Inc.")
    saved(operator, form, name="Acme Inc.")


def test_a_budgets_row_is_merged_field_by_field(operator: Client, tenant: Tenant) -> None:
    budget = BudgetFactory.create(tenant=tenant, limit_ticks=5 * USD)
    form = opened(operator)
    by_a_colleague(budget, limit_ticks=9 * USD)
    saved(operator, form, **{"budgets-0-alert_percents": "90"})
    budget.refresh_from_db()
    assert (budget.limit_ticks, budget.alert_percents) == (9 * USD, "90")
    by_a_colleague(budget, limit_ticks=7 * USD)
    old = form_in(operator.get(PAGE).content.decode(), "tenant_form")
    by_a_colleague(budget, limit_ticks=8 * USD)
    answer = operator.post(PAGE, old | {"budgets-0-limit_ticks": ["6"]})
    assert "carla changed this from 7.00 USD to 8.00 USD" in errors_in(answer)
    saved(operator, form_in(answer.content.decode(), "tenant_form"))
    budget.refresh_from_db()
    assert budget.limit_ticks == 6 * USD


def test_rows_that_a_colleague_added_or_deleted(operator: Client, tenant: Tenant) -> None:
    daily = BudgetFactory.create(tenant=tenant)
    monthly = BudgetFactory.create(tenant=tenant, period=Period.MONTH)
    form = opened(operator)
    daily.delete()
    BudgetFactory.create(tenant=tenant, scope=Scope.CUSTOMER)
    saved(operator, form, **{"budgets-1-limit_ticks": "20"})
    assert {(each.scope, each.period) for each in tenant.budgets.all()} == {("tenant", "month"), ("customer", "day")}
    monthly.refresh_from_db()
    assert monthly.limit_ticks == 20 * USD


def test_a_row_that_was_changed_here_and_deleted_there(operator: Client, tenant: Tenant) -> None:
    BudgetFactory.create(tenant=tenant)
    BudgetFactory.create(tenant=tenant, period=Period.MONTH)
    form = opened(operator)
    tenant.budgets.get(period=Period.DAY).delete()
    answer = operator.post(PAGE, form | {"budgets-0-limit_ticks": ["20"]})
    assert "was deleted after this page was opened" in errors_in(answer)
    assert tenant.budgets.count() == 1
    saved(operator, form_in(answer.content.decode(), "tenant_form"))
    assert tenant.budgets.get(period=Period.DAY).limit_ticks == 20 * USD


def test_swapped_budgets_save(operator: Client, tenant: Tenant) -> None:
    BudgetFactory.create(tenant=tenant, limit_ticks=USD)
    BudgetFactory.create(tenant=tenant, period=Period.MONTH, limit_ticks=30 * USD)
    saved(operator, opened(operator), **{"budgets-0-period": "month", "budgets-1-period": "day"})
    assert dict(tenant.budgets.values_list("period", "limit_ticks")) == {"month": USD, "day": 30 * USD}


def test_a_budget_that_is_deleted_and_added_again_saves(operator: Client, tenant: Tenant) -> None:
    BudgetFactory.create(tenant=tenant)
    form = added(opened(operator), "budgets", scope="tenant", period="day", limit_ticks="3", **CAPS)
    saved(operator, form, **{"budgets-0-DELETE": "on"})
    assert tenant.budgets.get().limit_ticks == 3 * USD


def test_a_budget_that_moves_on_to_where_another_was(operator: Client, tenant: Tenant) -> None:
    BudgetFactory.create(tenant=tenant, limit_ticks=USD)
    BudgetFactory.create(tenant=tenant, period=Period.MONTH, limit_ticks=30 * USD)
    saved(operator, opened(operator), **{"budgets-0-period": "month", "budgets-1-period": "total"})
    assert dict(tenant.budgets.values_list("period", "limit_ticks")) == {"month": USD, "total": 30 * USD}


def test_two_budgets_of_one_period_are_refused_in_words(operator: Client, tenant: Tenant) -> None:
    BudgetFactory.create(tenant=tenant)
    form = added(opened(operator), "budgets", scope="tenant", period="day", limit_ticks="3", **CAPS)
    answer = operator.post(PAGE, form)
    assert "already has a budget of that scope and period" in errors_in(answer)
    assert form_in(answer.content.decode(), "tenant_form")["budgets-1-limit_ticks"] == ["3"]
    assert Budget.objects.count() == 1


def test_models_on_a_route_swap_and_one_added_comes_last(operator: Client, tenant: Tenant) -> None:
    for position, name in enumerate("abc"):
        RouteStepFactory.create(tenant=tenant, position=position, model=CatalogueModelFactory.create(id=name))
    CatalogueModelFactory.create(id="d")
    form = added(opened(operator), "route_steps", model="d", position="0")
    saved(operator, form, **{"route_steps-0-model": "b", "route_steps-1-model": "a"})
    assert [step.model_id for step in tenant.route_steps.all()] == ["b", "a", "c", "d"]


def test_downgrades_swap_in_their_order(operator: Client, tenant: Tenant) -> None:
    first, second = (DowngradeRuleFactory.create(tenant=tenant).to_model_id for _ in range(2))
    form = opened(operator)
    saved(operator, form, **{"downgrade_rules-0-to_model": second, "downgrade_rules-1-to_model": first})
    assert [rule.to_model_id for rule in tenant.downgrade_rules.all()] == [second, first]


@pytest.mark.parametrize(
    ("field", "typed", "words"),
    [
        ("budgets-0-soft_cap", "80", "for 80 % write 0.8"),
        ("budgets-0-further_steps", "85 % cheaper", "write them as in 85 %: 2 downgrades"),
        ("budgets-0-further_steps", "80 %: 2 downgrades", "a further step is above the soft cap"),
        ("budgets-0-soft_cap", "0,8", "no commas: 0.8."),
        ("budgets-0-limit_ticks", "0,50", "no commas: 0.50."),
        ("budgets-0-limit_ticks", "1,000.50", "no commas: 1000.50."),
        ("budgets-0-limit_ticks", "1,000", "no commas: 1000."),
        ("time_zone", "Oslo", "Oslo is no time zone of a place: pick one from the list."),
    ],
)
def test_an_error_says_it_in_plain_words_and_keeps_what_was_typed(
    operator: Client, tenant: Tenant, field: str, typed: str, words: str
) -> None:
    BudgetFactory.create(tenant=tenant)
    answer = operator.post(PAGE, opened(operator) | {field: [typed], "name": ["Typed"]})
    assert words in errors_in(answer)
    again = form_in(answer.content.decode(), "tenant_form")
    assert (again[field], again["name"]) == ([typed], ["Typed"])


def test_a_share_in_percent_is_taken(operator: Client, tenant: Tenant) -> None:
    BudgetFactory.create(tenant=tenant)
    saved(operator, opened(operator), **{"budgets-0-soft_cap": "75 %"})
    assert f"{tenant.budgets.get().soft_cap:f}" == "0.7500"


def test_a_stored_zone_that_is_on_no_list_stays(operator: Client) -> None:
    odd = TenantFactory.create(id="acme", time_zone="EST5EDT")
    saved(operator, opened(operator), name="New")
    odd.refresh_from_db()
    assert (odd.time_zone, odd.name) == ("EST5EDT", "New")


def test_other_pages_merge_too(operator: Client, tenant: Tenant) -> None:
    channel = AlertChannel.objects.create(tenant=tenant, target="olga@example.com")
    path = f"/admin/tenants/alertchannel/{channel.pk}/change/"
    form = opened(operator, path, "alertchannel_form")
    by_a_colleague(channel, is_active=False)
    saved(operator, form, path, target="olga@example.org")
    channel.refresh_from_db()
    assert (channel.is_active, channel.target) == (False, "olga@example.org")
