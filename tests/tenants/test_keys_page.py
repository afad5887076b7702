"""A tenant's keys on its page: issued, seen in use, rotated and revoked there."""

import re
from datetime import datetime, timedelta
from importlib import import_module
from typing import Any

import pytest
from django.apps import apps
from django.contrib.auth.models import User
from django.contrib.messages import get_messages
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from spend.ids import new_id
from spend.models import Call, DailyKey, Rollup
from spend.summaries.buckets import bucket_of
from spend.summaries.daily import catch_up
from spend.summaries.keys import KeyUse, uses_of_keys
from tenants.access.roles import role
from tenants.models import ApiKey, Tenant, digest_of
from tenants.money import TICKS_PER_USD as USD
from tests.factories import ApiKeyFactory, TenantFactory, UserFactory

pytestmark = pytest.mark.django_db

PATH = "/admin/tenants/tenant/acme_5Fshop/change/"


@pytest.fixture
def tenant() -> Tenant:
    return TenantFactory.create(id="acme_shop", time_zone="Europe/Oslo")


@pytest.fixture
def operator() -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("olga"))
    return client


def call(key: ApiKey, at: datetime, cost_ticks: int = USD) -> None:
    facts: dict[str, Any] = {"requested_model": "auto", "outcome": "served", "cost_ticks": cost_ticks}
    Rollup.objects.get_or_create(tenant=key.tenant, bucket=bucket_of(at), model="auto")
    Call.objects.bulk_create([Call(id=new_id(), request_id="r", tenant=key.tenant, key=key, at=at, **facts)])


def since(key: ApiKey, created_at: datetime) -> ApiKey:
    ApiKey.objects.filter(pk=key.pk).update(created_at=created_at)
    return key


def row_of(client: Client, name: str) -> str:
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", client.get(PATH).content.decode()))
    return text[text.index(f" {name} ", text.index("Starts with")) :][:300]


def test_each_keys_last_use_and_spend(operator: Client, tenant: Tenant) -> None:
    now = timezone.now()
    busy, idle, new, old = (ApiKeyFactory.create(tenant=tenant, name=name) for name in ("busy", "idle", "new", "old"))
    for key in (busy, idle, old):
        since(key, now - timedelta(days=90))
    call(busy, now)
    call(busy, now - timedelta(days=3), 2 * USD)
    call(busy, now - timedelta(days=60), 5 * USD)
    call(old, now - timedelta(days=40))
    for _ in range(2):
        uses = uses_of_keys(tenant, now)
        assert uses[busy.pk] == KeyUse(3 * USD, now.astimezone(tenant.zone).date())
        assert uses[old.pk] == KeyUse(0, (now - timedelta(days=40)).astimezone(tenant.zone).date())
        assert set(uses) == {busy.pk, old.pk}
        catch_up(now)
    assert DailyKey.objects.count() == 3
    assert re.match(r" busy grd_\S+ valid today \$3\.00 ", row_of(operator, "busy"))
    assert re.match(r" idle grd_\S+ unused for 30 days never \$0\.00 ", row_of(operator, "idle"))
    assert re.match(r" old grd_\S+ unused for 30 days 20\d\d-\d\d-\d\d \$0\.00 ", row_of(operator, "old"))
    assert re.match(r" new grd_\S+ valid never \$0\.00 ", row_of(operator, "new"))
    assert new.is_valid_at(now)


def test_the_days_that_were_summed_before_have_their_keys_too(tenant: Tenant) -> None:
    now = timezone.now()
    call(ApiKeyFactory.create(tenant=tenant), now - timedelta(days=3))
    catch_up(now)
    summed = list(DailyKey.objects.values_list("tenant_id", "day", "key_id", "calls", "cost_ticks"))
    assert len(summed) == 1
    DailyKey.objects.all().delete()
    import_module("spend.migrations.0020_daily_keys").sum_what_is_summed(apps, None)
    assert list(DailyKey.objects.values_list("tenant_id", "day", "key_id", "calls", "cost_ticks")) == summed


def act(client: Client, url_name: str, object_id: object, **data: str) -> Any:
    return client.post(reverse(f"admin:{url_name}", args=[object_id]), {"_form_submitted": "True", **data})


def test_a_key_is_rotated_with_an_overlap(operator: Client, tenant: Tenant) -> None:
    old = ApiKeyFactory.create(tenant=tenant, name="Zendesk", requests_per_minute=7)
    answer = act(operator, "tenants_apikey_rotate", old.pk, overlap_hours="24")
    assert answer["HX-Redirect"] == PATH
    (said,) = map(str, get_messages(answer.wsgi_request))
    secret = re.search(r"grd_[\w-]{43}", said)
    assert secret is not None
    new = ApiKey.objects.get(digest=digest_of(secret[0]))
    assert (new.name, new.requests_per_minute, new.expires_at, new.tenant) == ("Zendesk", 7, None, tenant)
    old.refresh_from_db()
    assert old.expires_at is not None
    assert timedelta(hours=23) < old.expires_at - timezone.now() <= timedelta(hours=24)
    assert old.is_valid_at(timezone.now())


def test_a_rotated_key_lives_as_long_as_the_old_one_and_that_no_longer_than_it_was_to(tenant: Tenant) -> None:
    now = timezone.now()
    old = since(ApiKeyFactory.create(tenant=tenant, expires_at=now + timedelta(hours=2)), now - timedelta(hours=22))
    old.refresh_from_db()
    new, _ = ApiKey.objects.rotate(old, now, timedelta(days=7))
    assert new.expires_at == now + timedelta(hours=24)
    assert old.expires_at == now + timedelta(hours=2)


def test_a_key_that_is_over_is_not_rotated(operator: Client, tenant: Tenant) -> None:
    old = ApiKeyFactory.create(tenant=tenant, revoked_at=timezone.now())
    act(operator, "tenants_apikey_rotate", old.pk, overlap_hours="1")
    assert ApiKey.objects.count() == 1


def test_keys_are_issued_where_they_are_listed_by_those_who_may(operator: Client, tenant: Tenant) -> None:
    ApiKeyFactory.create(tenant=tenant)
    auditor = Client()
    user = UserFactory.create(is_staff=True)
    user.groups.add(role("auditor"))
    auditor.force_login(user)
    above = '"{}"'.format(reverse("admin:tenants_tenant_issue_key", args=["acme_5Fshop"]))
    shown = operator.get(PATH).content.decode().partition('id="keys-group"')[2]
    assert above in shown
    assert "/rotate/" in shown
    hidden = auditor.get(PATH).content.decode().partition('id="keys-group"')[2]
    assert above not in hidden
    assert "/rotate/" not in hidden
    assert "/revoke/" not in hidden
