"""Changes in the audit trail are undone by others, and told in words."""

from datetime import timedelta
from typing import Any

import pytest
from auditlog.models import LogEntry
from django.contrib.auth.models import User
from django.contrib.contenttypes.models import ContentType
from django.db import models
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from tenants.access.roles import role
from tenants.models import ApiKey, Budget, DowngradeRule, HandoffTranslation, RouteStep, Scope, Tenant, TopUp
from tenants.money import TICKS_PER_USD as USD
from tenants.trail.history import history_of
from tenants.trail.undo import is_undoable
from tests.factories import (
    ApiKeyFactory,
    BudgetFactory,
    DowngradeRuleFactory,
    RouteStepFactory,
    TenantFactory,
    UserFactory,
)

pytestmark = pytest.mark.django_db


@pytest.fixture
def tenant() -> Tenant:
    return TenantFactory.create(id="acme_shop", name="Acme")


@pytest.fixture
def operator() -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("olga"))
    return client


def latest(model: type[models.Model]) -> LogEntry:
    return LogEntry.objects.filter(content_type=content_type_of(model)).order_by("-id")[0]


def content_type_of(model: type[models.Model]) -> ContentType:
    return ContentType.objects.get_for_model(model)


def undo(client: Client, entry: LogEntry) -> Any:
    return client.post(reverse("admin:auditlog_logentry_undo", args=[entry.pk]), {"_form_submitted": "True"})


def test_a_change_is_undone_by_a_new_one(operator: Client, tenant: Tenant) -> None:
    budget = BudgetFactory.create(tenant=tenant, limit_ticks=2 * USD)
    budget.limit_ticks, budget.alert_percents = 5 * USD, ""
    budget.save()
    before = LogEntry.objects.count()
    assert undo(operator, latest(Budget))["HX-Redirect"] == "/admin/tenants/tenant/acme_5Fshop/change/"
    budget.refresh_from_db()
    assert (budget.limit_ticks, budget.alert_percents) == (2 * USD, "50, 80, 100")
    assert LogEntry.objects.count() == before + 1
    (change, *_) = history_of(tenant)
    assert (change.who, change.sentence) == ("olga", "Changed budget tenant a day")
    assert next((edit.field, edit.old, edit.new) for edit in change.edits) == ("Limit", "5.00 USD", "2.00 USD")


def test_a_pause_is_undone(operator: Client, tenant: Tenant) -> None:
    tenant.is_active = False
    tenant.save()
    assert [(edit.old, edit.new) for edit in history_of(tenant)[0].edits] == [("yes", "no")]
    undo(operator, latest(Tenant))
    tenant.refresh_from_db()
    assert tenant.is_active


def test_a_change_that_was_changed_again_is_not_undone(operator: Client, tenant: Tenant) -> None:
    tenant.name = "Acme Inc."
    tenant.save()
    first = latest(Tenant)
    tenant.name = "Acme Corp."
    tenant.save()
    assert b"It was changed again since" in undo(operator, first).content
    tenant.refresh_from_db()
    assert tenant.name == "Acme Corp."


def test_what_was_removed_is_put_back_and_what_was_added_removed(operator: Client, tenant: Tenant) -> None:
    now = timezone.now()
    made: list[models.Model] = [
        BudgetFactory.create(tenant=tenant, scope=Scope.CUSTOMER, limit_ticks=3 * USD),
        HandoffTranslation.objects.create(tenant=tenant, language="de", words="Bis morgen."),
        TopUp.objects.create(tenant=tenant, amount_ticks=USD, starts_at=now, ends_at=now + timedelta(hours=1)),
    ]
    for row in made:
        model = type(row)
        was = model._default_manager.values().get()
        undo(operator, latest(model))
        assert not model._default_manager.exists()
        undo(operator, latest(model))
        assert {**model._default_manager.values().get(), "id": was["id"]} == was


def test_what_would_break_a_rule_is_not_put_back(operator: Client, tenant: Tenant) -> None:
    BudgetFactory.create(tenant=tenant).delete()
    removed = latest(Budget)
    BudgetFactory.create(tenant=tenant, limit_ticks=9 * USD)
    assert b"already has a budget of that scope and period" in undo(operator, removed).content
    assert Budget.objects.get().limit_ticks == 9 * USD


def test_keys_and_members_are_not_undone(operator: Client, tenant: Tenant) -> None:
    ApiKeyFactory.create(tenant=tenant).revoke(timezone.now())
    assert not is_undoable(latest(ApiKey))
    tenant.members.add(UserFactory.create())
    assert not is_undoable(latest(Tenant))
    assert b"no change that can be undone" in undo(operator, latest(ApiKey)).content


def test_what_means_something_by_its_order_is_not_undone_row_by_row(operator: Client, tenant: Tenant) -> None:
    """The second of three steps, put back, shared a place with the third, and a downgrade came after the others."""
    steps = [RouteStepFactory.create(tenant=tenant) for _ in range(3)]
    rules = [DowngradeRuleFactory.create(tenant=tenant) for _ in range(2)]
    steps[1].delete()
    steps[2].position = 1
    steps[2].save()
    rules[0].delete()
    for entry in LogEntry.objects.filter(content_type__in=map(content_type_of, (RouteStep, DowngradeRule))):
        assert not is_undoable(entry)
        assert b"no change that can be undone" in undo(operator, entry).content
    assert tenant.effective_route() == [steps[0].model_id, steps[2].model_id]
    assert list(tenant.downgrade_rules.all()) == [rules[1]]


def test_only_operators_undo_and_only_by_a_form(operator: Client, tenant: Tenant) -> None:
    tenant.name = "Other"
    tenant.save()
    path = "/admin/tenants/tenant/acme_5Fshop/change/"
    address = reverse("admin:auditlog_logentry_undo", args=[latest(Tenant).pk])
    assert address in operator.get(path).content.decode()
    operator.get(address)
    auditor = Client()
    user = UserFactory.create(is_staff=True)
    user.groups.add(role("auditor"))
    auditor.force_login(user)
    assert address not in auditor.get(path).content.decode()
    assert undo(auditor, latest(Tenant)).status_code == 403
    tenant.refresh_from_db()
    assert tenant.name == "Other"


def test_times_of_the_trail_are_left_to_the_readers_zone(operator: Client, tenant: Tenant) -> None:
    for path in ("/admin/tenants/tenant/acme_5Fshop/change/", "/admin/auditlog/logentry/"):
        assert "data-reader>" in operator.get(path).content.decode()
