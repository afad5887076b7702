"""Nobody sees a tenant who is no member of it and no staff: by any address, filter, export or fragment."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import URLPattern, reverse

from dashboard.urls import urlpatterns
from spend.models import Call
from tenants.access.roles import role
from tenants.models import ApiKey, Tenant
from tests.factories import PASSWORD, ApiKeyFactory, TenantFactory, UserFactory
from tests.support.history import NOW, place_call

pytestmark = pytest.mark.django_db

OF_NO_TENANT = {"login", "logout", "password", "sso", "sso_callback", "sso_sign_out"}
ADDRESSES = [pattern for pattern in urlpatterns if pattern.name not in OF_NO_TENANT]
READ_ONLY = [pattern for pattern in ADDRESSES if pattern.name != "profile"]
OF_A_TENANT = [pattern for pattern in ADDRESSES if "tenant_id" in str(pattern.pattern)]

SECRET = "zz-secret"
"""In everything of the other tenant: its id, name, customer, conversation, request id and model."""


@pytest.fixture
def mine() -> Tenant:
    return TenantFactory.create(id="mine", name="My shop")


@pytest.fixture
def other() -> Tenant:
    return TenantFactory.create(id=f"{SECRET}-tenant", name=f"{SECRET} shop")


@pytest.fixture
def my_call(mine: Tenant) -> Call:
    return place_call(mine, ApiKeyFactory.create(tenant=mine), NOW, customer="anna", cost_ticks=7)


@pytest.fixture
def other_call(other: Tenant) -> Call:
    key: ApiKey = ApiKeyFactory.create(tenant=other, name=f"{SECRET} key")
    return place_call(
        other, key, NOW, request_id=f"{SECRET}-request", customer=f"{SECRET}-customer",
        conversation=f"{SECRET}-conversation", model=f"{SECRET}-model", cost_ticks=9_990_000_000_000,
    )  # fmt: skip


@pytest.fixture
def member(mine: Tenant) -> User:
    user = UserFactory.create(password=None)  # hashing one takes longer than a page
    user.tenants.add(mine)
    return user


def address_of(pattern: URLPattern, tenant: Tenant, call_id: UUID) -> str:
    given: dict[str, Any] = {"tenant_id": tenant.id, "call_id": call_id, "kind": "customer"}
    names = pattern.pattern.converters
    return reverse(str(pattern.name), kwargs={name: given[name] for name in names})


def text_of(response: Any) -> str:
    return bytes(response.getvalue()).decode()


def signed_in(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


@pytest.mark.parametrize("pattern", ADDRESSES, ids=lambda pattern: pattern.name)
def test_who_has_not_signed_in_is_sent_to_do_so(pattern: URLPattern, mine: Tenant, my_call: Call) -> None:
    for tenant in (mine, Tenant(id="nobody-has-this-id")):
        response = Client().get(address_of(pattern, tenant, my_call.id))
        assert response.status_code == 302
        assert response["Location"].startswith(reverse("login"))


@pytest.mark.parametrize("pattern", OF_A_TENANT, ids=lambda pattern: pattern.name)
def test_another_tenant_is_as_one_that_does_not_exist(
    pattern: URLPattern, member: User, other: Tenant, other_call: Call
) -> None:
    client = signed_in(member)
    theirs = client.get(address_of(pattern, other, other_call.id))
    nobodys = client.get(address_of(pattern, Tenant(id="nobody-has-this-id"), uuid4()))
    assert theirs.status_code == nobodys.status_code == 404
    assert text_of(theirs) == text_of(nobodys)


@pytest.mark.parametrize("pattern", ADDRESSES, ids=lambda pattern: pattern.name)
def test_a_member_sees_their_own(pattern: URLPattern, member: User, mine: Tenant, my_call: Call) -> None:
    response = signed_in(member).get(address_of(pattern, mine, my_call.id))
    assert response.status_code == 200
    assert "no-store" in response["Cache-Control"]


def filters_naming(other: Tenant, call: Call) -> Iterator[dict[str, str]]:
    """Every filter there is, set to what is the other tenant's."""
    yield {"q": other.id}
    yield {"q": SECRET}
    yield {"id": call.customer}
    yield {"key": str(call.key_id)}
    yield {"request_id": call.request_id}
    for name in ("customer", "conversation", "model"):
        yield {name: str(getattr(call, name))}
    yield {"tenant": other.id, "tenant_id": other.id}
    yield {"before": f"{NOW.isoformat()}_{call.id}"}
    yield {"after": f"{NOW.isoformat()}_{call.id}"}
    yield {"month": f"{NOW:%Y-%m}"}
    yield {"span": "90"}


@pytest.mark.parametrize("pattern", ADDRESSES, ids=lambda pattern: pattern.name)
def test_no_filter_shows_another_tenant(
    pattern: URLPattern, member: User, mine: Tenant, other: Tenant, my_call: Call, other_call: Call
) -> None:
    client, address = signed_in(member), address_of(pattern, mine, my_call.id)
    for parameters in filters_naming(other, other_call):
        response = client.get(address, parameters)
        body = text_of(response)
        for asked in parameters.values():  # a page may say what it was asked for
            body = body.replace(asked, "")
        assert SECRET not in body, (address, parameters)
        assert "$999" not in body, (address, parameters)


def test_another_tenants_call_is_not_one_of_mine(member: User, mine: Tenant, other_call: Call) -> None:
    assert signed_in(member).get(reverse("call", args=[mine.id, other_call.id])).status_code == 404


def test_a_request_id_finds_only_ones_own(member: User, my_call: Call, other_call: Call) -> None:
    client, find = signed_in(member), reverse("find")
    assert client.get(find, {"request_id": my_call.request_id})["Location"].endswith(f"/{my_call.id}/")
    theirs = client.get(find, {"request_id": other_call.request_id})
    assert theirs.status_code == 200
    assert "Nothing has the id" in text_of(theirs)


@pytest.mark.parametrize("name", ["request_id", "customer", "conversation", "tenant_id"])
def test_the_box_finds_only_ones_own(member: User, my_call: Call, other_call: Call, name: str) -> None:
    theirs = signed_in(member).get(reverse("find"), {"q": getattr(other_call, name)})
    assert theirs.status_code == 200
    assert "Nothing has the id" in text_of(theirs)
    assert "Nothing has the id" in text_of(signed_in(member).get(reverse("find"), {"q": SECRET}))


@pytest.mark.parametrize("page", ["subject", "subject_content", "subject_csv"])
def test_what_another_tenant_has_is_not_shown_under_mine(
    member: User, mine: Tenant, my_call: Call, other: Tenant, other_call: Call, page: str
) -> None:
    names = {"customer": other_call.customer, "conversation": other_call.conversation, "key": str(other_call.key_id)}
    for kind, name in names.items():
        client = signed_in(member)
        assert client.get(reverse(page, args=[other.id, kind]), {"id": name}).status_code == 404
        answer = client.get(reverse(page, args=[mine.id, kind]), {"id": name})
        assert answer.status_code == (200 if page == "subject_csv" else 404)
        assert SECRET not in text_of(answer).replace(name, "")


def test_two_calls_with_one_request_id_are_both_offered(member: User, mine: Tenant, my_call: Call) -> None:
    twin = place_call(mine, my_call.key, NOW, request_id=my_call.request_id)
    body = text_of(signed_in(member).get(reverse("find"), {"request_id": my_call.request_id}))
    assert str(twin.id) in body
    assert str(my_call.id) in body


@pytest.mark.parametrize("pattern", ADDRESSES, ids=lambda pattern: pattern.name)
def test_staff_see_every_tenant(pattern: URLPattern, other: Tenant, other_call: Call) -> None:
    user = UserFactory.create(is_staff=True, password=None)
    user.groups.add(role("operator"))
    assert signed_in(user).get(address_of(pattern, other, other_call.id)).status_code == 200


def test_who_left_a_tenant_sees_it_no_more(member: User, mine: Tenant) -> None:
    client, address = signed_in(member), reverse("tenant", args=[mine.id])
    assert client.get(address).status_code == 200
    member.tenants.remove(mine)
    assert client.get(address).status_code == 404


def test_who_was_switched_off_is_signed_out(member: User, mine: Tenant) -> None:
    client = signed_in(member)
    User.objects.filter(pk=member.pk).update(is_active=False)
    assert client.get(reverse("tenant", args=[mine.id])).status_code == 302


@pytest.mark.parametrize("pattern", READ_ONLY, ids=lambda pattern: pattern.name)
def test_pages_only_answer_to_reading(pattern: URLPattern, member: User, mine: Tenant, my_call: Call) -> None:
    address = address_of(pattern, mine, my_call.id)
    assert signed_in(member).post(address).status_code == 405


@pytest.mark.parametrize("pattern", ADDRESSES, ids=lambda pattern: pattern.name)
def test_pages_run_no_inline_script_and_no_inline_style(
    pattern: URLPattern, member: User, mine: Tenant, my_call: Call
) -> None:
    response = signed_in(member).get(address_of(pattern, mine, my_call.id))
    policy = dict(part.strip().split(" ", 1) for part in response["Content-Security-Policy"].split(";"))
    assert policy["script-src"] == policy["style-src"] == "'self'"
    if response["Content-Type"].startswith("text/html"):
        body = text_of(response)
        assert "style=" not in body
        assert "<style" not in body
        assert "onclick" not in body


def test_who_belongs_nowhere_is_told_so(other_call: Call) -> None:
    user = UserFactory.create(password=None)
    response = signed_in(user).get(reverse("overview"))
    assert "You are not a member of any tenant yet." in text_of(response)
    assert SECRET not in text_of(response)


def test_a_member_signs_in_and_out_without_the_admin(member: User, mine: Tenant) -> None:
    member.set_password(PASSWORD)
    member.save()
    client = Client()
    answer = client.post(
        reverse("login"), {"username": member.username, "password": PASSWORD, "next": f"/tenants/{mine.id}/"}
    )
    assert answer["Location"] == f"/tenants/{mine.id}/"
    assert client.get(answer["Location"]).status_code == 200
    assert client.post(reverse("logout"))["Location"] == reverse("login")
    assert client.get(f"/tenants/{mine.id}/").status_code == 302


# A manager's own password


def change_password(client: Client, old: str, new: str) -> Any:
    return client.post(reverse("password"), {"old_password": old, "new_password1": new, "new_password2": new})


@pytest.fixture
def with_password(member: User) -> User:
    member.set_password(PASSWORD)
    member.save()
    return member


def test_a_manager_changes_their_password(with_password: User) -> None:
    client, elsewhere = signed_in(with_password), signed_in(with_password)
    assert f'href="{reverse("profile")}"' in text_of(client.get(reverse("overview")))
    assert f'href="{reverse("password")}"' in text_of(client.get(reverse("profile")))
    answer = change_password(client, PASSWORD, "quiet-otter-lamp")
    assert "Your password is changed." in text_of(client.get(answer["Location"]))
    assert elsewhere.get(reverse("overview")).status_code == 302, "who knew the old one is still in"
    with_password.refresh_from_db()
    assert with_password.check_password("quiet-otter-lamp")


@pytest.mark.parametrize(("old", "new"), [("not-it", "quiet-otter-lamp"), (PASSWORD, "12345678"), (PASSWORD, "x7-q")])
def test_a_password_is_not_changed_without_the_old_one_or_to_a_weak_one(
    with_password: User, old: str, new: str
) -> None:
    body = text_of(change_password(signed_in(with_password), old, new))
    assert "Nothing was changed." in body
    assert old not in body
    assert new not in body
    with_password.refresh_from_db()
    assert with_password.check_password(PASSWORD)


def test_only_who_is_signed_in_has_a_password_to_change(member: User) -> None:
    assert Client().get(reverse("password"))["Location"].startswith(reverse("login"))
    page = signed_in(member).get(reverse("password"))
    assert page["X-Frame-Options"] == "DENY"
    assert "no-store" in page["Cache-Control"]
    assert "style-src 'self'" in page["Content-Security-Policy"]
    assert Client(enforce_csrf_checks=True).post(reverse("password")).status_code == 403


def test_a_form_without_its_token_is_answered_with_a_page_of_ours(member: User) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(member)
    answer = client.post("/logout/")
    assert answer.status_code == 403
    assert "<h1>The page was open too long</h1>" in text_of(answer)
