"""The operators' page for the configuration as a file: who may, the preview, and what is then made."""

from typing import Any

import pytest
from auditlog.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from spend.configuration.access import IN_THE_FILE, NEEDED
from spend.configuration.yaml_text import read_yaml
from tenants.access.roles import role
from tenants.models import Tenant
from tests.factories import TenantFactory, UserFactory

pytestmark = pytest.mark.django_db

PAGE, EXPORT = "/admin/configuration/", "/admin/configuration/export/"
FILE = "version: 1\ntenants: [{id: acme, name: Acme}]\n"


def client_of(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def owner() -> Client:
    return client_of(UserFactory.create(username="olga", is_staff=True, is_superuser=True))


def compare(client: Client, text: str | bytes) -> Any:
    content = text if isinstance(text, bytes) else text.encode()
    return client.post(PAGE, {"file": SimpleUploadedFile("guard.yaml", content)})


def take_in(client: Client, shown: Any) -> Any:
    return client.post(PAGE, {"text": shown["text"].value(), "digest": shown["digest"].value()})


def test_operators_auditors_and_managers_may_not() -> None:
    for name in ("operator", "auditor", "manager"):
        user = UserFactory.create(is_staff=True)
        user.groups.add(role(name))
        client = client_of(user)
        assert [client.get(address).status_code for address in (PAGE, EXPORT)] == [403, 403]
        assert compare(client, FILE).status_code == 403
        assert PAGE not in client.get("/admin/").content.decode()


def test_who_may_change_all_that_is_in_it_may() -> None:
    user = UserFactory.create(is_staff=True)
    *others, last = [
        Permission.objects.get(content_type__app_label=app_label, codename=codename)
        for app_label, codename in (name.split(".") for name in NEEDED)
    ]
    user.user_permissions.set(others)
    assert client_of(user).get(PAGE).status_code == 403
    user.user_permissions.add(last)
    assert client_of(user).get(PAGE).status_code == 200
    assert PAGE in client_of(user).get("/admin/").content.decode()


def test_each_kind_of_row_that_a_file_changes_needs_its_permissions() -> None:
    """Of the tenant's belongings, whatever they are: what is in no file is left out on purpose."""
    in_the_file = {model for models in IN_THE_FILE.values() for model in models}
    belongings = {relation.related_model for relation in Tenant._meta.related_objects}
    named = {model._meta.model_name for model in belongings if model._meta.app_label == "tenants"}
    assert named - in_the_file == {"apikey", "topup"}


def test_export_is_a_file(owner: Client) -> None:
    TenantFactory.create(id="acme")
    answer = owner.get(EXPORT)
    assert "attachment; filename=" in answer.headers["Content-Disposition"]
    assert [tenant["id"] for tenant in read_yaml(answer.content)["tenants"]] == ["acme"]


def test_a_file_is_compared_and_then_taken_in(owner: Client) -> None:
    TenantFactory.create(id="acme")
    answer = compare(owner, FILE.replace("\n", "\r\n"))
    assert "tenant acme: name none → Acme" in answer.content.decode()
    assert Tenant.objects.get().name == ""

    answer = take_in(owner, answer.context["shown"])

    assert answer.headers["Location"] == PAGE
    assert Tenant.objects.get().name == "Acme"
    entry = LogEntry.objects.latest("id")
    assert (str(entry.actor), entry.changes) == ("olga", {"name": ["", "Acme"]})
    assert "would change nothing" in compare(owner, FILE).content.decode()


def test_what_was_changed_meanwhile_is_shown_again(owner: Client) -> None:
    tenant = TenantFactory.create(id="acme")
    shown = compare(owner, FILE).context["shown"]
    tenant.name = "Acme & Sons"
    tenant.save()

    answer = take_in(owner, shown)

    assert "tenant acme: name Acme &amp; Sons → Acme" in answer.content.decode()
    assert Tenant.objects.get().name == "Acme & Sons"
    take_in(owner, answer.context["shown"])
    assert Tenant.objects.get().name == "Acme"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("version: 1\ntenants: [{id: acme, name: <b>, budgets: [{}]}]", "tenants[0].budgets[0].scope is missing."),
        (b"\xff\xfe\x00", "This is no text in UTF-8."),
        ("", "The submitted file is empty."),
    ],
)
def test_what_is_wrong_is_told(owner: Client, text: str | bytes, problem: str) -> None:
    answer = compare(owner, text)
    assert problem in answer.content.decode()
    assert not Tenant.objects.exists()


def test_what_was_shown_cannot_be_replaced_by_nothing(owner: Client) -> None:
    assert owner.post(PAGE, {"digest": "x"}).status_code == 200
    assert "must be fields with values" in owner.post(PAGE, {"digest": "x", "text": "- a"}).content.decode()
