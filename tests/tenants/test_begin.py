"""Tenants begun on one page, copied, archived, and many changed at once."""

import html
import re
import shlex
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.contrib.messages import get_messages
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from spend.budgets.attention import attention
from tenants.models import ApiKey, Budget, Scope, Tenant, digest_of
from tenants.money import TICKS_PER_USD as USD
from tenants.periods import Period
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

BEGIN = "/admin/tenants/tenant/add/"
LIST = "/admin/tenants/tenant/"


@pytest.fixture
def operator() -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("olga"))
    return client


def begun(client: Client, path: str = BEGIN, **typed: Any) -> Any:
    form = form_in(client.get(path).content.decode(), "begin_form")
    return client.post(
        path, form | {name: value if isinstance(value, list) else [value] for name, value in typed.items()}
    )


def text_of(answer: Any) -> str:
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", answer.content.decode())))


def test_one_page_begins_a_tenant(operator: Client) -> None:
    for name in ("also", "cheap", "dear"):
        CatalogueModelFactory.create(id=name)
    member = UserFactory.create()
    answer = begun(
        operator, id="acme_shop", name="Acme", time_zone="Europe/Oslo", day_ticks="5", month_ticks="99.50",
        soft_cap="75 %", model_1="dear", model_3="also", downgrade_to="cheap", members=[str(member.pk)],
    )  # fmt: skip
    tenant = Tenant.objects.get(pk="acme_shop")
    assert (tenant.name, tenant.time_zone, tenant.members.get()) == ("Acme", "Europe/Oslo", member)
    limits = tenant.budgets.values_list("scope", "period", "limit_ticks", "soft_cap")
    assert {(*row[:3], f"{row[3]:.2f}") for row in limits} == {
        ("tenant", "day", 5 * USD, "0.75"), ("tenant", "month", 199 * USD // 2, "0.75")
    }  # fmt: skip
    assert tenant.effective_route() == ["dear", "also"]
    assert tenant.effective_downgrades() == [("*", "cheap")]
    curl = re.search(r"curl http://testserver/api/chat .*?}'", text_of(answer))
    assert curl is not None
    secret = next(word.partition("Bearer ")[2] for word in shlex.split(curl[0]) if "Bearer" in word)
    assert ApiKey.objects.get().digest == digest_of(secret)
    assert reverse("admin:tenants_tenant_change", args=["acme_5Fshop"]) in answer.content.decode()


def test_only_an_id_is_needed(operator: Client) -> None:
    form = form_in(operator.get(BEGIN).content.decode(), "begin_form")
    assert form.pop("issues_key")
    answer = operator.post(BEGIN, form | {"id": ["plain"]})
    assert "It has no key yet" in text_of(answer)
    tenant = Tenant.objects.get()
    assert (tenant.budgets.count(), tenant.route_steps.count(), tenant.keys.count()) == (0, 0, 0)


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ({"id": "a b"}, "Letters, digits, dots"),
        ({"id": "there"}, "There is a tenant with this id already."),
        ({"id": "new", "day_ticks": "0,50"}, "no commas: 0.50."),
        ({"id": "new", "soft_cap": "80"}, "for 80 % write 0.8"),
        ({"id": "new", "soft_cap": "0.12345"}, "no more than 4 decimal places"),
        ({"id": "new", "model_1": "only", "downgrade_to": "only"}, "a downgrade leads to another"),
    ],
)
def test_an_error_keeps_what_was_typed_and_begins_nothing(operator: Client, typed: dict[str, Any], words: str) -> None:
    TenantFactory.create(id="there")
    CatalogueModelFactory.create(id="only")
    answer = begun(operator, **typed, name="Typed")
    assert words in text_of(answer)
    again = form_in(answer.content.decode(), "begin_form")
    assert again["name"] == ["Typed"]
    assert all(again[name] == (value if isinstance(value, list) else [value]) for name, value in typed.items())
    assert Tenant.objects.count() == 1


def test_a_copy_has_all_but_what_is_the_others_alone(operator: Client) -> None:
    source = TenantFactory.create(id="first_one", time_zone="Europe/Oslo", requests_per_minute=7, content_days=30)
    BudgetFactory.create(tenant=source, limit_ticks=5 * USD, alert_percents="90")
    BudgetFactory.create(tenant=source, scope=Scope.CUSTOMER, limit_ticks=USD // 2)
    steps = [RouteStepFactory.create(tenant=source, model=CatalogueModelFactory.create(id=name)) for name in "dbca"]
    rule = DowngradeRuleFactory.create(tenant=source)
    source.members.add(UserFactory.create())
    path = reverse("admin:tenants_tenant_copy", args=["first_5Fone"])
    answer = operator.get(path)
    assert answer.status_code == 302
    assert Tenant.objects.count() == 1
    begun(operator, answer["Location"], id="second", day_ticks="8")
    copy = Tenant.objects.get(pk="second")
    assert (copy.time_zone, copy.requests_per_minute, copy.content_days) == ("Europe/Oslo", 7, 0)
    assert set(copy.budgets.values_list("scope", "limit_ticks", "alert_percents")) == {
        ("tenant", 8 * USD, "90"), ("customer", USD // 2, "50, 80, 100")
    }  # fmt: skip
    assert copy.effective_route() == [step.model_id for step in steps]
    assert copy.effective_downgrades() == [("*", rule.to_model_id)]
    assert list(copy.members.all()) == list(source.members.all())


@pytest.mark.parametrize(
    ("stored", "told"),
    [
        ({"time_zone": "localtime"}, "localtime is no time zone of a place: pick one from the list."),
        ({"handoff_words": "x" * 2001}, "most 2000 characters"),
        ({"floor_max_tokens": 0}, "Floor max tokens: Ensure this value is greater than or equal to 1."),
    ],
    ids=["zone", "words", "floor"],
)
def test_what_was_stored_before_a_rule_was_is_an_error_of_the_copy(
    operator: Client, stored: dict[str, Any], told: str
) -> None:
    TenantFactory.create(id="source")
    Tenant.objects.update(**stored)
    answer = begun(operator, f"{BEGIN}?copy=source", id="copy")
    assert answer.status_code == 200
    assert told in text_of(answer)
    assert form_in(answer.content.decode(), "begin_form")["id"] == ["copy"]
    assert Tenant.objects.count() == 1


def test_only_those_who_may_add_tenants_begin_one(client: Client) -> None:
    client.force_login(UserFactory.create(is_staff=True))
    assert client.get(BEGIN).status_code == 403


def act(client: Client, name: str, tenant_id: str) -> Any:
    return client.post(reverse(f"admin:tenants_tenant_{name}", args=[tenant_id]), {"_form_submitted": "True"})


def test_an_archived_tenant_is_out_of_the_way_until_it_is_resumed(operator: Client) -> None:
    tenant = TenantFactory.create(id="gone", name="Gone Ltd")
    act(operator, "archive", "gone")
    tenant.refresh_from_db()
    assert tenant.archived_at is not None
    assert not tenant.is_active
    assert "Gone Ltd is archived." in operator.get("/admin/").content.decode()
    assert "Gone Ltd" not in operator.get(LIST).content.decode()
    assert "Gone Ltd" in operator.get(f"{LIST}?archived=yes").content.decode()
    assert "Gone Ltd" not in operator.get("/").content.decode()
    assert "Gone Ltd" in operator.get("/?q=gone").content.decode()
    assert not attention(timezone.now()).paused
    assert "This tenant is archived" in text_of(operator.get(f"{LIST}gone/change/"))
    act(operator, "resume", "gone")
    tenant.refresh_from_db()
    assert [tenant.archived_at, tenant.is_active] == [None, True]


def selected(*tenants: str) -> Fields:
    return {"action": ["change_several"], "index": ["0"], "select_across": ["0"], "_selected_action": list(tenants)}


def previewed(client: Client, *tenants: str, **typed: str) -> tuple[str, Fields]:
    answer = client.post(LIST, selected(*tenants) | {name: [value] for name, value in typed.items()})
    return text_of(answer), form_in(answer.content.decode(), "bulk_form")


def test_many_are_changed_as_was_shown_before(operator: Client) -> None:
    for name in "abc":
        TenantFactory.create(id=name)
    BudgetFactory.create(tenant_id="a", limit_ticks=10 * USD, alert_percents="90")
    BudgetFactory.create(tenant_id="c", period=Period.MONTH)
    shown, form = previewed(operator, "a", "b", kind="percent", percent="10")
    assert "10.00 USD a day, soft cap 0.8 11.00 USD a day, soft cap 0.8" in shown
    assert "5.00 USD a day, soft cap 0.8 (by default) 5.50 USD a day, soft cap 0.8" in shown
    assert Budget.objects.filter(period=Period.DAY).count() == 1
    done = operator.post(LIST, form | {"apply": [""]})
    assert [str(each) for each in get_messages(done.wsgi_request)] == ["2 tenants changed."]
    assert dict(Budget.objects.filter(period=Period.DAY).values_list("tenant", "limit_ticks")) == {
        "a": 11 * USD, "b": 11 * USD // 2
    }  # fmt: skip
    assert Budget.objects.get(tenant="a").alert_percents == "90"


@pytest.mark.parametrize("typed", [{"kind": "limit", "limit_ticks": "2"}, {"kind": "soft_cap", "soft_cap": "0.5"}])
def test_a_change_of_many_leaves_what_it_is_not_of(operator: Client, typed: dict[str, str]) -> None:
    kept = {"hard_cap": Decimal("0.9"), "reserve": Decimal("0.1"), "further_steps": "85 %: 2 downgrades"}
    BudgetFactory.create(tenant=TenantFactory.create(id="a"), **kept)
    _, form = previewed(operator, "a", **typed)
    operator.post(LIST, form | {"apply": [""]})
    assert Budget.objects.values(*kept).get() == kept


def test_a_soft_cap_of_many_drops_the_steps_that_it_passes_and_says_so(operator: Client) -> None:
    steps = {"further_steps": "85 %: 2 downgrades, 95 %: 256 tokens"}
    BudgetFactory.create(tenant=TenantFactory.create(id="a"), **steps)
    shown, form = previewed(operator, "a", kind="soft_cap", soft_cap="0.9")
    assert "soft cap 0.8, further steps 85 %: 2 downgrades, 95 %: 256 tokens" in shown
    assert "soft cap 0.9, further steps 95 %: 256 tokens" in shown
    operator.post(LIST, form | {"apply": [""]})
    assert Budget.objects.get().further_steps == "95 %: 256 tokens"


def test_what_a_colleague_changed_meanwhile_is_shown_again(operator: Client) -> None:
    budget = BudgetFactory.create(tenant=TenantFactory.create(id="a"), limit_ticks=10 * USD)
    _, form = previewed(operator, "a", kind="percent", percent="-50")
    Budget.objects.update(limit_ticks=20 * USD)
    answer = operator.post(LIST, form | {"apply": [""]})
    assert "Somebody changed one of these meanwhile: nothing was done." in text_of(answer)
    budget.refresh_from_db()
    assert budget.limit_ticks == 20 * USD
    operator.post(LIST, form_in(answer.content.decode(), "bulk_form") | {"apply": [""]})
    budget.refresh_from_db()
    assert budget.limit_ticks == 10 * USD


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ({"kind": "limit", "limit_ticks": "0.5"}, "0.50 USD a day, soft cap 0.8"),
        ({"kind": "soft_cap", "soft_cap": "70 %"}, "1.00 USD a day, soft cap 0.7"),
        ({"kind": "pause"}, "open to calls paused"),
        ({"kind": "resume"}, "open to calls stays"),
        ({"kind": "limit"}, "This change needs it."),
        ({"kind": "percent", "percent": "-100"}, "greater than or equal to -99"),
    ],
)
def test_each_kind_of_change_is_shown(operator: Client, typed: dict[str, str], told: str) -> None:
    BudgetFactory.create(tenant=TenantFactory.create(id="a"))
    shown, form = previewed(operator, "a", **typed)
    assert told in shown
    if "needs" not in told and "equal" not in told:
        operator.post(LIST, form | {"apply": [""]})
        assert Tenant.objects.get().is_active == (typed["kind"] != "pause")


def test_only_operators_change_many(client: Client) -> None:
    TenantFactory.create(id="a")
    client.force_login(UserFactory.create(is_staff=True))
    client.post(LIST, selected("a") | {"kind": ["pause"], "apply": [""]})
    assert Tenant.objects.get().is_active
