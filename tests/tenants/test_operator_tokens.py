"""Operators' tokens: stored as hashes, they expire, end with what they were issued for, and leave a trail."""

import importlib
from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from auditlog.models import LogEntry
from django.apps import apps
from django.contrib.auth.models import Group, User
from django.db import connection
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from tenants.access.roles import role
from tenants.models import OperatorToken, digest_of
from tenants.trail.history import change_of
from tests.factories import UserFactory
from tests.support.api import caller

pytestmark = pytest.mark.django_db


@pytest.fixture
def user() -> User:
    user = UserFactory.create(is_superuser=True)
    user.groups.add(role("auditor"))
    return user


@pytest.fixture
def secret(user: User) -> str:
    return OperatorToken.objects.issue(user, "export", timezone.now() + timedelta(days=1))[1]


def status(secret: str) -> int:
    return int(caller(f"Token {secret}").get("/api/tenants").status_code)


def test_only_a_hash_is_stored(secret: str) -> None:
    token = OperatorToken.objects.get()
    assert (token.digest, token.hint) == (digest_of(secret), secret[:8])
    assert secret not in str(OperatorToken.objects.values())
    assert status(secret) == 200
    assert status(token.digest) == 401


def test_it_expires(secret: str) -> None:
    OperatorToken.objects.update(expires_at=timezone.now())
    assert status(secret) == 401


def test_its_use_is_noted_to_some_minutes(secret: str) -> None:
    status(secret)
    first = OperatorToken.objects.get().last_used_at
    assert first is not None
    status(secret)
    assert OperatorToken.objects.get().last_used_at == first
    OperatorToken.objects.update(last_used_at=first - timedelta(minutes=6))
    status(secret)
    again = OperatorToken.objects.get().last_used_at
    assert again is not None
    assert again >= first


def _save(**fields: Any) -> Callable[[User], None]:
    def change(user: User) -> None:
        for name, value in fields.items():
            setattr(user, name, value)
        user.save()

    return change


def new_password(user: User) -> None:
    user.set_password("another one, quite long")
    user.save()


def new_password_alone(user: User) -> None:
    user.set_password("another one, quite long")
    user.save(update_fields=["password"])


def no_password(user: User) -> None:
    user.set_unusable_password()
    user.save(update_fields=["password"])


def _out_of_the_group(user: User) -> None:
    role("auditor").user_set.remove(user)


ENDS: dict[str, tuple[Callable[[User], Any], str]] = {
    "deactivated": (_save(is_active=False), "deactivated"),
    "new password": (new_password, "password changed"),
    "new password alone": (new_password_alone, "password changed"),
    "no password": (no_password, "password changed"),
    "superuser no more": (_save(is_superuser=False), "role changed"),
    "staff": (_save(is_staff=True), "role changed"),
    "a group more": (lambda user: user.groups.add(role("operator")), "role changed"),
    "a group less": (lambda user: user.groups.remove(role("auditor")), "role changed"),
    "no groups": (lambda user: user.groups.clear(), "role changed"),
    "from the group": (_out_of_the_group, "role changed"),
    "the group emptied": (lambda user: role("auditor").user_set.clear(), "role changed"),
    "the group deleted": (lambda user: Group.objects.get(name="auditor").delete(), "role changed"),
}


@pytest.mark.parametrize("name", ENDS)
def test_it_ends_with_what_it_was_issued_for(user: User, secret: str, name: str) -> None:
    change, because = ENDS[name]
    other = OperatorToken.objects.issue(UserFactory.create(is_superuser=True, password=None), "other", None)[1]
    change(user)
    assert status(secret) == 401
    assert OperatorToken.objects.get(user=user).revoked_because == because
    assert status(other) == 200
    _save(is_active=True)(user)
    assert status(secret) == 401


def test_a_sign_in_that_hashes_anew_ends_no_token(user: User, secret: str, settings: Any) -> None:
    """By Django's own hand, which a private name of its tells from a new password (docs/adr/0031)."""
    user.set_password("quite long")
    user.save()
    kept = OperatorToken.objects.issue(user, "after the new password", None)[1]
    before = user.password
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher", *settings.PASSWORD_HASHERS]
    assert user.check_password("quite long")  # as whoever signs in has it checked
    user.refresh_from_db()
    assert user.password != before
    assert (status(secret), status(kept)) == (401, 200)


def test_other_changes_end_nothing(user: User, secret: str) -> None:
    _save(email="a@example.com", last_login=timezone.now())(user)
    user.groups.add(role("auditor"))
    user.set_password("the same, hashed anew")
    user._password = None  # type: ignore[attr-defined]  # as Django does when somebody signs in
    user.save(update_fields=["password"])
    assert status(secret) == 200


# The audit trail


def trail_of(row: Any) -> list[str]:
    entries = LogEntry.objects.get_for_object(row).order_by("id")
    edits = [edit for entry in entries for edit in change_of(entry).edits]
    return [f"{edit.field}: {edit.old} → {edit.new}" for edit in edits]


def test_people_and_roles_are_in_the_trail(user: User) -> None:
    before = user.password
    new_password(user)
    _save(is_active=False, is_superuser=False)(user)
    user.groups.add(role("operator"))
    told = trail_of(user)
    assert told.count("Password:  → changed") == 2
    assert {"In use: yes → no", "Superuser status: yes → no", "Groups:  → add operator"} <= set(told)
    stored = str(list(LogEntry.objects.values()))
    assert before not in stored
    assert user.password not in stored
    group = Group.objects.create(name="night shift")
    group.permissions.add(role("auditor").permissions.all()[0])
    assert any(line.startswith("Permissions") for line in trail_of(group))
    pk = user.pk
    user.delete()
    gone = LogEntry.objects.filter(content_type__model="user", object_pk=str(pk), action=LogEntry.Action.DELETE)
    assert gone.count() == 1


def test_tokens_are_in_the_trail_without_their_hash(user: User, secret: str) -> None:
    token = OperatorToken.objects.get()
    token.revoke(timezone.now(), "revoked by hand")
    token.revoke(timezone.now(), "again")
    told = trail_of(token)
    assert "Name:  → export" in told
    assert "Revoked because:  → revoked by hand" in told
    assert digest_of(secret) not in str(list(LogEntry.objects.values()))


# The admin


def staff(role_name: str) -> Client:
    user = UserFactory.create(is_staff=True, password=None)
    user.groups.add(role(role_name))
    client = Client()
    client.force_login(user)
    return client


def test_operators_see_and_revoke_tokens_and_auditors_see_them(secret: str) -> None:
    token = OperatorToken.objects.get()
    revoke = reverse("admin:tenants_operatortoken_revoke_token", args=[token.pk])
    for client in (staff("auditor"), staff("operator")):
        for name, args in (("changelist", []), ("change", [token.pk])):
            answer = client.get(reverse(f"admin:tenants_operatortoken_{name}", args=args))
            assert answer.status_code == 200
            assert "valid" in answer.content.decode()
            assert token.digest not in answer.content.decode()
    staff("auditor").post(revoke, {"_form_submitted": "True"})
    assert status(secret) == 200
    staff("operator").post(revoke, {"_form_submitted": "True"})
    assert status(secret) == 401


# What was there before


def test_plain_tokens_become_hashes_and_go_on_working(user: User) -> None:
    migration = importlib.import_module("tenants.migrations.0005_hash_plain_tokens")
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE authtoken_token (key varchar(40) PRIMARY KEY, user_id integer, created timestamp)")
        cursor.execute(
            "INSERT INTO authtoken_token VALUES (%s, %s, %s)", ["ab" * 20, user.pk, "2026-01-02 03:04:05.678"]
        )
    editor = SimpleNamespace(connection=connection)  # SQLite opens none of its own within a transaction
    migration.hash_tokens(apps, editor)
    migration.hash_tokens(apps, editor)
    token = OperatorToken.objects.get()
    assert (token.digest, token.expires_at, token.created_at.year) == (digest_of("ab" * 20), None, 2026)
    assert "authtoken_token" not in connection.introspection.table_names()
    assert status("ab" * 20) == 200
