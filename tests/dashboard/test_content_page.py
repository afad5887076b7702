"""The page of a call's prompt and answer: who may look, and that each look is in the audit trail."""

from datetime import timedelta
from typing import Any

import pytest
from auditlog.models import LogEntry
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from guard.telemetry.content_capture import Said, store
from spend.models import Call, CallContent
from tenants.access.roles import role
from tenants.models import Tenant
from tenants.trail.history import history_of
from tests.factories import ApiKeyFactory, TenantFactory, UserFactory
from tests.guard.telemetry.test_content_capture import new_key
from tests.support.history import place_call

pytestmark = pytest.mark.django_db

QUESTION, ANSWER = "Where is <my> parcel?", "It arrives tomorrow."
LOOKED = "Acme: prompt and answer of call req-7"


@pytest.fixture
def tenant() -> Tenant:
    return TenantFactory.create(id="acme", name="Acme", content_days=30)


@pytest.fixture
def call(tenant: Tenant, settings: Any) -> Call:
    settings.CONTENT_KEYS = (new_key(),)
    key, at = ApiKeyFactory.create(tenant=tenant), timezone.now() - timedelta(days=2)
    call = place_call(tenant, key, at, request_id="req-7", customer="ann", cost_ticks=7)
    choice = {"index": 0, "message": {"role": "assistant", "content": ANSWER}, "finish_reason": "stop"}
    store([Said(call.id, "ann", "", [{"role": "user", "content": QUESTION}], {"choices": [choice]})])
    return call


def signed_in(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def someone(tenant: Tenant, who: str) -> Client:
    is_staff = who not in {"manager", "stranger"}
    user: User = UserFactory.create(username=who, password=None, is_staff=is_staff, is_superuser=who == "superuser")
    if who in {"operator", "auditor"}:
        user.groups.add(role(who))
    if who in {"manager", "auditor"}:  # whom membership gives no more than the role takes away
        tenant.members.add(user)
    return signed_in(user)


def look(client: Client, call: Call) -> Any:
    return client.get(reverse("content", args=[call.tenant_id, call.id]))


def looks() -> list[LogEntry]:
    return list(LogEntry.objects.filter(action=LogEntry.Action.ACCESS))


@pytest.mark.parametrize("who", ["operator", "superuser", "manager"])
def test_who_may_look_finds_it_behind_one_click_and_is_in_the_trail(tenant: Tenant, call: Call, who: str) -> None:
    client = someone(tenant, who)
    story = client.get(reverse("call", args=[tenant.id, call.id])).content.decode()
    assert reverse("content", args=[tenant.id, call.id]) in story
    assert ANSWER not in story
    assert looks() == []
    page = look(client, call).content.decode()
    assert "Where is &lt;my&gt; parcel?" in page
    assert ANSWER in page
    (entry,) = looks()
    assert entry.actor
    assert (entry.actor.username, entry.object_repr) == (who, LOOKED)
    (latest, *_) = history_of(tenant)
    assert (latest.who, latest.action, latest.what) == (who, "access", f"tenant {LOOKED}")


@pytest.mark.parametrize("who", ["auditor", "staff", "stranger"])
def test_who_may_not_look_sees_neither_it_nor_the_way_to_it(tenant: Tenant, call: Call, who: str) -> None:
    client = someone(tenant, who)
    assert "content/" not in client.get(reverse("call", args=[tenant.id, call.id])).content.decode()
    answer = look(client, call)
    assert answer.status_code == 404
    assert ANSWER not in answer.content.decode()
    assert looks() == []


def test_another_tenants_manager_finds_nothing(tenant: Tenant, call: Call) -> None:
    other = TenantFactory.create(id="other")
    client = someone(other, "manager")
    assert look(client, call).status_code == 404
    assert client.get(reverse("content", args=["other", call.id])).status_code == 404
    assert looks() == []


def test_what_is_too_old_is_not_shown_though_it_is_not_deleted_yet(tenant: Tenant, call: Call) -> None:
    tenant.content_days = 1
    tenant.save()
    client = someone(tenant, "manager")
    assert "What was said is not kept." in look(client, call).content.decode()
    assert "content/" not in client.get(reverse("call", args=[tenant.id, call.id])).content.decode()
    assert CallContent.objects.exists()
    assert looks() == []


def test_without_its_key_the_page_says_so(tenant: Tenant, call: Call, settings: Any) -> None:
    settings.CONTENT_KEYS = (new_key(),)
    assert "This cannot be read any more." in look(someone(tenant, "manager"), call).content.decode()


# Of all latest calls of one customer, conversation or key


def look_at_customer(client: Client, call: Call) -> Any:
    return client.get(reverse("subject_content", args=[call.tenant_id, "customer"]), {"id": call.customer})


@pytest.mark.parametrize("who", ["operator", "superuser", "manager"])
def test_what_a_customer_said_is_read_by_who_may_and_noted(tenant: Tenant, call: Call, who: str) -> None:
    client = someone(tenant, who)
    page = client.get(reverse("subject", args=[tenant.id, "customer"]), {"id": "ann"}).content.decode()
    assert reverse("subject_content", args=[tenant.id, "customer"]) in page
    assert ANSWER not in page
    assert looks() == []
    body = look_at_customer(client, call).content.decode()
    assert "Where is &lt;my&gt; parcel?" in body
    assert ANSWER in body
    assert [look.object_repr for look in looks()] == ["Acme: prompts and answers of customer ann"]


@pytest.mark.parametrize("who", ["auditor", "stranger"])
def test_what_a_customer_said_is_not_there_for_others(tenant: Tenant, call: Call, who: str) -> None:
    client = someone(tenant, who)
    assert look_at_customer(client, call).status_code == 404
    page = client.get(reverse("subject", args=[tenant.id, "customer"]), {"id": "ann"})
    assert "What was said" not in page.content.decode()
    assert looks() == []


def test_of_a_customer_of_whom_nothing_is_kept_nothing_is_noted(tenant: Tenant, call: Call) -> None:
    CallContent.objects.all().delete()
    assert "What was said is not kept." in look_at_customer(someone(tenant, "manager"), call).content.decode()
    assert looks() == []
