"""Lists of the admin are filtered by what their pages declare: no look-up and no search reaches a secret."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.admin import ModelAdmin as AnyModelAdmin
from django.contrib.admin import RelatedOnlyFieldListFilter, site
from django.contrib.admin.utils import get_fields_from_path
from django.contrib.auth.models import User
from django.db.models import CharField, Model
from django.test import Client, RequestFactory

import guard.urls  # noqa: F401  loads the admin, as the server does
from tenants.admin.declared_filters import ModelAdmin
from tenants.models import AlertChannel, ApiKey, Budget
from tests.factories import UserFactory

pytestmark = pytest.mark.django_db

PAGES = [pytest.param(admin, id=model._meta.label) for model, admin in site._registry.items()]
SECRETS = {"password", "secret", "digest", "key", "token", "target", "session_data", "args_kwargs"}
AS_FAR_AS = 3


def secrets_from(model: type[Model], hops: int = AS_FAR_AS) -> Iterator[str]:
    """Every path from the model, through relations either way, to a text that no list may tell of."""
    for field in model._meta.get_fields():
        if field.is_relation:
            if hops > 1 and field.related_model is not None:
                yield from (f"{field.name}__{rest}" for rest in secrets_from(field.related_model, hops - 1))
        elif field.name in SECRETS:
            yield field.name


@pytest.fixture
def request_of_a_superuser(rf: RequestFactory) -> Any:
    request = rf.get("/")
    request.user = UserFactory.create(is_staff=True, is_superuser=True, password=None)
    return request


@pytest.mark.parametrize("page", PAGES)
def test_every_page_takes_declared_filters_only(page: AnyModelAdmin[Any], request_of_a_superuser: Any) -> None:
    assert isinstance(page, ModelAdmin), "use tenants.admin.declared_filters.ModelAdmin"
    assert type(page).lookup_allowed in {ModelAdmin.lookup_allowed, _django_users_lookup()}
    for path in secrets_from(page.model):
        for lookup in (path, f"{path}__startswith", f"{path}__regex", f"{path}__isnull"):
            assert not page.lookup_allowed(lookup, "a", request_of_a_superuser), lookup
    for field in page.model._meta.fields:
        assert not page.lookup_allowed(f"{field.name}__gt", "a", request_of_a_superuser)


def _django_users_lookup() -> Any:
    """Django's page of users asks ours, passwords apart."""
    from django.contrib.auth.admin import UserAdmin

    return UserAdmin.lookup_allowed


@pytest.mark.parametrize("page", PAGES)
def test_no_search_reaches_a_secret(page: AnyModelAdmin[Any], request_of_a_superuser: Any) -> None:
    for path in page.get_search_fields(request_of_a_superuser):
        fields = get_fields_from_path(page.model, path.lstrip("^=@"))
        assert fields[-1].name not in SECRETS, path


@pytest.mark.parametrize(
    "address",
    [
        "/admin/auth/user/?operator_tokens__digest__startswith=a",
        "/admin/auth/user/?password__startswith=a",
        "/admin/auth/user/?username__startswith=a",
        "/admin/auth/user/?groups__user__password__startswith=a",
        "/admin/tenants/alertchannel/?secret__startswith=a",
        "/admin/tenants/alertchannel/?target__contains=hooks",
        "/admin/spend/delivery/?channel__secret__startswith=a",
        "/admin/tenants/apikey/?digest__startswith=a",
        "/admin/otp_totp/totpdevice/?key__startswith=a",
        "/admin/auditlog/logentry/?actor__password__startswith=a",
    ],
)
def test_a_lookup_that_no_page_declares_is_refused(admin_client: Client, address: str) -> None:
    assert admin_client.get(address).status_code == 400


@pytest.mark.parametrize(
    "address",
    [
        "/admin/auth/user/?is_staff__exact=1",
        "/admin/auth/user/?is_staff=1",
        "/admin/auth/user/?groups__id__exact=1&o=1&q=a&_facets=True",
        "/admin/auth/user/?_popup=1&_to_field=id",
        "/admin/tenants/alertchannel/?kind__exact=email&is_active__exact=1",
        "/admin/spend/ledgerentry/?review=expired&tenant=acme",
        "/admin/spend/call/?tenant=acme&q=req_1&all=",
        "/admin/auditlog/logentry/?action__exact=1&p=1",
        "/admin/autocomplete/?app_label=tenants&model_name=tenant&field_name=members&term=o",
    ],
)
def test_what_pages_declare_and_django_needs_is_taken(admin_client: Client, address: str) -> None:
    assert admin_client.get(address).status_code == 200


class WithDates(ModelAdmin):
    date_hierarchy = "created_at"
    list_filter = (("tenant", RelatedOnlyFieldListFilter),)


def test_a_date_hierarchy_is_by_year_month_and_day() -> None:
    page, request = WithDates(ApiKey, site), RequestFactory().get("/")
    request.user = User(is_superuser=True, is_active=True)
    for lookup in ("created_at__year", "created_at__month", "created_at__day", "tenant__id__exact", "tenant"):
        assert page.lookup_allowed(lookup, "2026", request), lookup
    for lookup in ("created_at__gte", "created_at", "tenant__id__startswith", "tenant__name"):
        assert not page.lookup_allowed(lookup, "2026", request), lookup


class Anything(ModelAdmin):
    pass


@pytest.mark.parametrize("limit", [{"kind": "email"}, lambda: {"kind": "email"}])
def test_a_pop_up_is_limited_as_its_foreign_key_says(limit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    page, request = Anything(AlertChannel, site), RequestFactory().get("/")
    assert not page.lookup_allowed("kind", "email", request)
    monkeypatch.setattr(AlertChannel._meta, "related_fkey_lookups", [limit])
    assert page.lookup_allowed("kind", "email", request)
    assert not page.lookup_allowed("kind", "slack", request)
    assert not page.lookup_allowed("secret", "email", request)


def test_the_walk_finds_what_leaked() -> None:
    assert "secret" in set(secrets_from(AlertChannel))
    assert "tenant__alert_channels__secret" in set(secrets_from(Budget))
    assert isinstance(AlertChannel._meta.get_field("secret"), CharField)
