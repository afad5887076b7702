"""The page "what if": asked by whoever sees the tenant, saved by operators, and nobody's change is undone by it."""

from datetime import timedelta
from urllib.parse import urlencode

import pytest
from auditlog.models import LogEntry
from django.test import Client
from django.utils import timezone

from tenants.access.roles import role
from tenants.models import Budget, Scope, Tenant
from tenants.money import TICKS_PER_USD as USD
from tests.factories import (
    ApiKeyFactory,
    BudgetFactory,
    CatalogueModelFactory,
    RouteStepFactory,
    TenantFactory,
    UserFactory,
)
from tests.support.history import place_call

pytestmark = pytest.mark.django_db

PAGE = "/tenants/acme/what-if/"
ASKED = {"days": "30", "primary": "large", "cheaper": "", "limit-tenant-day": "8", "soft-tenant-day": "70"}


@pytest.fixture
def tenant() -> Tenant:
    """Ten calls a day of a cent each in the last twenty days, by two customers; $5 a day."""
    tenant = TenantFactory.create(id="acme", time_zone="America/New_York")
    model = CatalogueModelFactory.create(id="large")
    RouteStepFactory.create(tenant=tenant, model=model)
    CatalogueModelFactory.create(id="small")
    BudgetFactory.create(tenant=tenant, limit_ticks=5 * USD)
    key = ApiKeyFactory.create(tenant=tenant)
    for day in range(20):
        for number in range(10):
            at = timezone.now() - timedelta(days=day, minutes=5 + number)
            tokens = {"input_tokens": 4000, "output_tokens": 2000, "computed_ticks": USD // 100}
            place_call(tenant, key, at, model="large", customer=f"c{number % 2}", cost_ticks=USD // 100, **tokens)
    return tenant


def client_of(group: str = "", tenant: Tenant | None = None) -> Client:
    user = UserFactory.create(is_staff=bool(group))
    if group:
        user.groups.add(role(group))
    if tenant:
        tenant.members.add(user)
    client = Client()
    client.force_login(user)
    return client


def asked(client: Client, **changes: str) -> str:
    answer = client.get(f"{PAGE}?{urlencode(ASKED | changes)}")
    assert answer.status_code == 200
    return answer.content.decode()


def seen_in(html: str) -> str:
    return html.split('name="seen" value="')[1].split('"', maxsplit=1)[0]


def test_the_form_opens_with_todays_settings(tenant: Tenant) -> None:
    html = client_of(tenant=tenant).get(PAGE).content.decode()
    assert 'value="5.00"' in html
    assert "The answer" not in html


def test_a_manager_reads_one_sentence_and_cannot_save(tenant: Tenant) -> None:
    html = asked(client_of(tenant=tenant), **{"limit-tenant-day": "0.05", "hard-tenant-day": "100"})
    assert "of 200 calls in the last 30 days" in html
    assert "$2.00" in html
    assert "All calls, a day: $5.00, cheaper from 80 % → $0.05, cheaper from 70 %" in html
    assert "Save as" not in html


def test_a_limit_is_recommended_with_why_and_filled_in(tenant: Tenant) -> None:
    client = client_of(tenant=tenant)
    html = client.get(PAGE).content.decode()
    assert "The dearest day of the last 20 cost $0.10; $0.12 leaves room" not in html  # the hold counts as well
    assert "The dearest day of the last" in html
    assert "A customer&#x27;s dearest day" in html
    assert "The dearest conversation" not in html  # nobody named one
    assert 'value="0.10"' in asked(client, fill="tenant-day")


def test_too_short_a_history_recommends_nothing() -> None:
    tenant = TenantFactory.create(id="acme")
    html = client_of(tenant=tenant).get(PAGE).content.decode()
    assert "dearest" not in html


@pytest.mark.parametrize(
    ("typed", "told"), [("0,50", "no commas"), ("-1", "Not below nothing"), ("abc", "Enter a number")]
)
def test_what_is_not_valid_is_kept_and_said(tenant: Tenant, typed: str, told: str) -> None:
    html = asked(client_of(tenant=tenant), **{"limit-tenant-day": typed})
    assert f'value="{typed}"' in html
    assert told in html


@pytest.mark.parametrize("typed", ["inf", "NaN", "1e999", "80.001", "0", "101", "eighty"])
def test_a_percentage_that_is_none_is_said(tenant: Tenant, typed: str) -> None:
    html = asked(client_of(tenant=tenant), **{"soft-tenant-day": typed})
    assert f'value="{typed}"' in html
    assert 'class="bad" role="alert"' in html
    assert "The answer" not in html


def test_without_a_limit_of_its_own_the_default_binds(tenant: Tenant) -> None:
    BudgetFactory.create(tenant=tenant, scope=Scope.CUSTOMER, limit_ticks=USD)
    Budget.objects.filter(tenant=tenant, scope=Scope.TENANT).update(limit_ticks=9 * USD)
    html = asked(client_of(tenant=tenant), **{"limit-tenant-day": ""})
    assert "All calls, a day: $9.00, cheaper from 80 % → $5.00, cheaper from 80 %" in html


def test_an_operator_saves_in_one_click_and_the_trail_has_it(tenant: Tenant) -> None:
    client = client_of("operator")
    seen = seen_in(asked(client))
    answer = client.post(f"{PAGE}save/", ASKED | {"seen": seen, "cheaper": "small"})
    assert answer.status_code == 302
    row = Budget.objects.get(tenant=tenant)
    assert (row.limit_ticks, str(row.soft_cap.normalize())) == (8 * USD, "0.7")
    assert tenant.effective_downgrades() == [("*", "small")]
    assert LogEntry.objects.get_for_object(row).filter(action=LogEntry.Action.UPDATE).count() == 1
    assert "Saved." in client.get(answer["Location"]).content.decode()


def test_a_change_made_meanwhile_is_not_undone(tenant: Tenant) -> None:
    client = client_of("operator")
    seen = seen_in(asked(client))
    Budget.objects.filter(tenant=tenant).update(limit_ticks=20 * USD)
    html = client.post(f"{PAGE}save/", ASKED | {"seen": seen}).content.decode()
    assert "Somebody changed these settings" in html
    assert "Today: $20.00" in html
    assert 'value="8"' in html
    assert Budget.objects.get(tenant=tenant).limit_ticks == 20 * USD
    assert client.post(f"{PAGE}save/", ASKED | {"seen": seen_in(html)}).status_code == 302  # who was told, may
    assert Budget.objects.get(tenant=tenant).limit_ticks == 8 * USD


def test_what_is_saved_unchanged_changes_nothing(tenant: Tenant) -> None:
    Budget.objects.all().delete()
    client = client_of("operator")
    same = {"days": "30", "primary": "large", "cheaper": "", "limit-tenant-day": "5.00"}
    client.post(f"{PAGE}save/", same | {"seen": seen_in(asked(client))})
    assert not Budget.objects.exists()  # the default stays the default


def test_what_is_not_asked_about_stays(tenant: Tenant) -> None:
    Budget.objects.update(further_steps="90 %: 256 tokens", reserve="0.1")
    client = client_of("operator")
    html = asked(client, **{"soft-tenant-day": "95"})
    assert 'class="bad" role="alert"' in html  # above the step that comes after it
    client.post(f"{PAGE}save/", ASKED | {"seen": seen_in(html)})
    row = Budget.objects.get(tenant=tenant)
    assert (row.limit_ticks, row.further_steps, str(row.reserve.normalize())) == (8 * USD, "90 %: 256 tokens", "0.1")


def test_an_emptied_limit_is_removed(tenant: Tenant) -> None:
    BudgetFactory.create(tenant=tenant, scope=Scope.CUSTOMER, limit_ticks=USD)
    client = client_of("operator")
    seen = seen_in(asked(client))
    client.post(f"{PAGE}save/", ASKED | {"seen": seen, "limit-customer-day": ""})
    assert list(Budget.objects.values_list("scope", flat=True)) == ["tenant"]


def test_auditors_and_managers_may_not_save(tenant: Tenant) -> None:
    for client in (client_of("auditor"), client_of(tenant=tenant)):
        assert client.post(f"{PAGE}save/", ASKED).status_code == 403
