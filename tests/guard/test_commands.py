"""load_tenants, create_operator_token and load_demo, and the roles they give."""

import re
from typing import Any

import pytest
from auditlog.models import LogEntry
from django.contrib.auth import authenticate
from django.contrib.auth.models import Group, User
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone

from spend.models import CatalogueModel
from tenants.access.roles import role
from tenants.configured import read_tenant_budgets
from tenants.models import ApiKey, Budget, OperatorToken, Tenant, digest_of
from tenants.money import TICKS_PER_USD
from tests.support.api import caller

pytestmark = pytest.mark.django_db

TWO = '{"acme-corp": {"dailyLimit": 10.00, "softCap": 0.5, "hardCap": 0.9}, "corner-bakery": {}}'


@pytest.fixture(autouse=True)
def _configured(settings: Any) -> None:
    settings.TENANT_BUDGETS = read_tenant_budgets(TWO)
    settings.DEFAULT_DAILY_BUDGET_TICKS = 3 * TICKS_PER_USD


def run(capsys: pytest.CaptureFixture[str], name: str, *args: str) -> str:
    capsys.readouterr()
    call_command(name, *args)
    return capsys.readouterr().out


# load_tenants


def test_tenants_and_budgets_come_from_the_environment() -> None:
    call_command("load_tenants")
    rows = Budget.objects.values_list("tenant_id", "scope", "period", "limit_ticks", "soft_cap", "hard_cap")
    assert [tuple(map(str, row)) for row in rows] == [
        ("acme-corp", "tenant", "day", str(10 * TICKS_PER_USD), "0.5000", "0.9000"),
        ("corner-bakery", "tenant", "day", str(3 * TICKS_PER_USD), "0.8000", "1.0000"),
    ]


def test_done_twice_it_changes_nothing() -> None:
    call_command("load_tenants")
    trail = LogEntry.objects.count()
    call_command("load_tenants")
    assert LogEntry.objects.count() == trail


def test_a_changed_limit_is_set_and_in_the_trail(settings: Any) -> None:
    call_command("load_tenants")
    settings.TENANT_BUDGETS = read_tenant_budgets('{"acme-corp": {"dailyLimit": 12}}')
    call_command("load_tenants")
    assert Budget.objects.get(tenant="acme-corp").limit_ticks == 12 * TICKS_PER_USD
    entry = LogEntry.objects.get_for_model(Budget).order_by("id").last()
    assert entry is not None
    assert entry.changes_dict["limit_ticks"] == [str(10 * TICKS_PER_USD), str(12 * TICKS_PER_USD)]
    assert entry.additional_data == {"by": "load_tenants"}


def test_other_settings_of_a_tenant_stay() -> None:
    Tenant.objects.create(id="acme-corp", name="Acme", time_zone="Asia/Tokyo", is_active=False)
    call_command("load_tenants")
    tenant = Tenant.objects.get(id="acme-corp")
    assert (tenant.name, tenant.time_zone, tenant.is_active) == ("Acme", "Asia/Tokyo", False)


def test_keys_are_issued_once_and_nothing_else_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    lines = run(capsys, "load_tenants", "--issue-keys").splitlines()
    issued = dict(line.split("\t") for line in lines)
    assert set(issued) == {"acme-corp", "corner-bakery"}
    for tenant_id, secret in issued.items():
        assert ApiKey.objects.get(tenant=tenant_id).digest == digest_of(secret)
    assert run(capsys, "load_tenants", "--issue-keys") == ""


def test_a_tenant_whose_keys_ended_gets_a_new_one(capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "load_tenants", "--issue-keys")
    ApiKey.objects.get(tenant="acme-corp").revoke(timezone.now())
    assert run(capsys, "load_tenants", "--issue-keys").startswith("acme-corp\tgrd_")


def test_without_the_flag_no_key_is_made(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "load_tenants") == ""
    assert not ApiKey.objects.exists()


def test_a_name_that_is_no_tenant_id_stops_it(settings: Any) -> None:
    fine = read_tenant_budgets('{"fine": {}}')
    settings.TENANT_BUDGETS = {**fine, "no spaces": fine["fine"]}
    with pytest.raises(CommandError, match="'no spaces' is no tenant id"):
        call_command("load_tenants")
    assert not Tenant.objects.exists()


# create_operator_token


def test_the_token_is_alone_on_standard_output_and_opens_the_api(capsys: pytest.CaptureFixture[str]) -> None:
    token = run(capsys, "create_operator_token", "olga").strip()
    assert re.fullmatch(r"gop_[\w-]{43}", token)
    assert caller(f"Token {token}").get("/api/tenants").status_code == 200
    second = run(capsys, "create_operator_token", "olga").strip()
    assert second != token
    assert caller(f"Token {token}").get("/api/tenants").status_code == 200


def test_tokens_are_named_listed_and_revoked(capsys: pytest.CaptureFixture[str]) -> None:
    token = run(capsys, "create_operator_token", "olga", "--name", "nightly export", "--days", "7").strip()
    row = OperatorToken.objects.get()
    assert row.expires_at is not None
    assert (row.expires_at - row.created_at).days in {6, 7}
    line = run(capsys, "create_operator_token", "olga", "--list")
    assert line.startswith(f"{row.pk}\tnightly export {token[:8]}…\tuntil ")
    assert "never used" in line
    caller(f"Token {token}").get("/api/tenants")
    assert "\tused " in run(capsys, "create_operator_token", "olga", "--list")
    run(capsys, "create_operator_token", "olga", "--revoke", str(row.pk))
    assert caller(f"Token {token}").get("/api/tenants").status_code == 401
    assert "revoked: revoked by hand" in run(capsys, "create_operator_token", "olga", "--list")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--revoke", "999"], "has no token 999"), (["--days", "0"], "--days"), (["--days", "3651"], "--days")],
)
def test_what_cannot_be_is_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(CommandError, match=message):
        call_command("create_operator_token", "olga", *arguments)


def test_a_new_user_has_no_password_and_is_an_operator() -> None:
    call_command("create_operator_token", "olga")
    user = User.objects.get(username="olga")
    assert not user.has_usable_password()
    assert user.has_perms(["tenants.change_tenant", "tenants.add_apikey", "spend.change_price", "spend.view_call"])


def test_a_user_who_exists_keeps_the_password_and_flags() -> None:
    before = User.objects.create_user("olga", password="a password of hers", is_staff=True)
    call_command("create_operator_token", "olga")
    after = User.objects.get(username="olga")
    assert (after.password, after.is_staff) == (before.password, True)
    assert after.groups.filter(name="operator").exists()


def test_a_user_who_is_not_active_gets_none() -> None:
    User.objects.create_user("olga", is_active=False)
    with pytest.raises(CommandError, match="not active"):
        call_command("create_operator_token", "olga")


# Roles


def test_the_roles_stand_after_the_migrations() -> None:
    assert set(Group.objects.values_list("name", flat=True)) >= {"operator", "manager", "auditor"}


def test_an_auditor_reads_all_and_changes_nothing() -> None:
    granted = set(role("auditor").permissions.values_list("codename", flat=True))
    assert {"view_tenant", "view_ledgerentry", "view_logentry", "view_price"} <= granted
    assert all(codename.startswith("view_") for codename in granted)


def test_nobody_may_change_what_happened() -> None:
    granted = set(role("operator").permissions.values_list("codename", flat=True))
    history = ("window", "reservation", "ledgerentry", "call", "rollup", "logentry", "breaker")
    assert not granted & {f"{verb}_{model}" for verb in ("add", "change", "delete") for model in history}


def test_what_an_installation_grants_on_top_stays() -> None:
    from django.contrib.auth.models import Permission

    extra = Permission.objects.get(codename="view_user")
    role("operator").permissions.add(extra)
    assert extra in role("operator").permissions.all()


# load_demo


@pytest.fixture
def _demo(settings: Any) -> None:
    settings.DEBUG = True
    settings.XAI_API_KEY = settings.OPENAI_API_KEY = ""
    call_command("sync_prices")


@pytest.mark.usefixtures("_demo")
def test_what_it_prints_works(capsys: pytest.CaptureFixture[str], rf: Any, settings: Any) -> None:
    said = run(capsys, "load_demo", "--days=0")
    for name in ("admin", "maria"):
        found = re.search(rf"{name} / (\S+)", said)
        assert found is not None
        assert authenticate(rf.post("/"), username=name, password=found[1]) is not None
    key = re.search(r"Bearer (grd_\S+)'", said)
    assert key is not None
    assert ApiKey.objects.get(digest=digest_of(key[1])).tenant_id == "acme-corp"
    assert f"curl http://localhost:{settings.PORT}/api/chat" in said
    assert "the demo provider answers" in said


@pytest.mark.usefixtures("_demo")
def test_done_twice_only_passwords_and_the_key_are_new(capsys: pytest.CaptureFixture[str]) -> None:
    first = run(capsys, "load_demo", "--days=0")
    counts = (Tenant.objects.count(), Budget.objects.count(), User.objects.count(), CatalogueModel.objects.count())
    second = run(capsys, "load_demo", "--days=0")
    assert first != second
    assert counts == (
        Tenant.objects.count(), Budget.objects.count(), User.objects.count(), CatalogueModel.objects.count()
    )  # fmt: skip


@pytest.mark.usefixtures("_demo")
def test_an_edited_demo_tenant_stays_edited() -> None:
    call_command("load_demo", "--days=0")
    Budget.objects.filter(tenant="corner-bakery").update(limit_ticks=7)
    call_command("load_demo", "--days=0")
    assert Budget.objects.get(tenant="corner-bakery").limit_ticks == 7


@pytest.mark.usefixtures("_demo")
@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"XAI_API_KEY": "x", "OPENAI_API_KEY": "y"}, "Answers come from OpenAI and xAI."),
        ({"XAI_API_KEY": "x"}, "Answers come from xAI. OpenAI has no key, and is not asked."),
    ],
)
def test_it_says_who_answers(
    capsys: pytest.CaptureFixture[str], settings: Any, keys: dict[str, str], said: str
) -> None:
    for name, value in keys.items():
        setattr(settings, name, value)
    assert said in run(capsys, "load_demo", "--days=0")


def test_it_is_for_development_only(settings: Any) -> None:
    settings.DEBUG = False
    with pytest.raises(CommandError, match="DEBUG"):
        call_command("load_demo")
    assert not User.objects.exists()


@pytest.mark.usefixtures("_demo")
def test_the_manager_enters_no_admin(client: Client) -> None:
    call_command("load_demo", "--days=0")
    client.force_login(User.objects.get(username="maria"))
    assert client.get("/admin/").status_code == 302
