"""The operators' pages: who may do what, the actions, what is shown, and signing in."""

import html
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from auditlog.models import LogEntry
from axes.models import AccessAttempt
from django.contrib.admin import site
from django.contrib.admin.utils import quote
from django.contrib.auth.models import User
from django.contrib.messages import get_messages
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import resolve, reverse
from django.utils import timezone
from django_otp.oath import TOTP
from django_otp.plugins.otp_static.models import StaticDevice, StaticToken
from django_otp.plugins.otp_totp.models import TOTPDevice

from spend.budgets.attention import attention, to_review
from spend.capabilities import Lesson, LessonKind
from spend.ids import new_id
from spend.models import (
    Alert,
    Breaker,
    Call,
    CatalogueModel,
    Delivery,
    LedgerEntry,
    Price,
    PriceSource,
    Reservation,
    Window,
)
from spend.pricing.learned_capabilities import learn
from spend.pricing.rates import price_in_force
from tenants.access.roles import role
from tenants.models import AlertChannel, ApiKey, Budget, Revision, Scope, Tenant, TopUp, digest_of
from tenants.money import TICKS_PER_USD as USD
from tenants.periods import BEGINNING, Period, bounds
from tenants.trail.history import Edit, history_of
from tests.factories import (
    PASSWORD,
    ApiKeyFactory,
    BudgetFactory,
    CatalogueModelFactory,
    DowngradeRuleFactory,
    PriceFactory,
    RouteStepFactory,
    TenantFactory,
    UserFactory,
)

pytestmark = pytest.mark.django_db

TENANT_PAGE = "/admin/tenants/tenant/acme/change/"


def staff(role_name: str) -> Client:
    user = UserFactory.create(is_staff=True)
    user.groups.add(role(role_name))
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def operator() -> Client:
    return staff("operator")


@pytest.fixture
def auditor() -> Client:
    return staff("auditor")


@pytest.fixture
def tenant(settings: Any) -> Tenant:
    settings.DEFAULT_ROUTE, settings.DEFAULT_DOWNGRADES = ["only"], []
    CatalogueModelFactory.create(id="only")
    return TenantFactory.create(id="acme", name="Acme", time_zone="Europe/Oslo")


def spent(
    tenant: Tenant, usd: float, held: float = 0, period: str = "day", scope: str = "tenant", subject: str = ""
) -> Window:
    starts_at, ends_at = bounds(period, tenant.zone, timezone.now())
    return Window.objects.create(
        tenant_id=tenant.id, scope=scope, subject=subject, period=period, starts_at=starts_at, ends_at=ends_at,
        spent_ticks=int(usd * USD), held_ticks=int(held * USD),
    )  # fmt: skip


def entries(tenant: Tenant, count: int, **flags: bool) -> list[LedgerEntry]:
    key, price, now = ApiKeyFactory.create(tenant=tenant), Price.objects.get(model="only"), timezone.now()
    rows = []
    for number in range(count):
        call, hold = new_id(), new_id()
        common = {
            "call_id": call, "request_id": f"req_{number}", "tenant": tenant, "key": key, "provider": "xai",
            "model": "only", "requested_model": "only", "route": "primary", "price": price,
        }  # fmt: skip
        Reservation.objects.create(
            id=hold, hold_ticks=USD, max_tokens=1, created_at=now, lease_expires_at=now, state="settled", **common
        )
        rows.append(LedgerEntry(reservation_id=hold, at=now, cost_ticks=USD // 2, hold_ticks=USD, **common, **flags))
        Call.objects.bulk_create(
            [
                Call(
                    id=call,
                    request_id=f"req_{number}",
                    tenant=tenant,
                    key=key,
                    at=now,
                    requested_model="only",
                    outcome="served",
                )
            ]
        )
    return LedgerEntry.objects.bulk_create(rows)


def alert_of(tenant: Tenant) -> Alert:
    now = timezone.now()
    return Alert.objects.create(
        tenant_id=tenant.id, scope="tenant", period="day", starts_at=now, ends_at=now, kind="threshold", percent=50,
        limit_ticks=USD, spent_ticks=USD, at=now,
    )  # fmt: skip


def page(client: Client, path: str) -> str:
    answer = client.get(path)
    assert answer.status_code == 200, (path, answer.status_code)
    return answer.content.decode()


def act(client: Client, url_name: str, object_id: object, **data: str) -> Any:
    """Submit one of unfold's dialogs, as the browser does."""
    return client.post(reverse(f"admin:{url_name}", args=[quote(str(object_id))]), {"_form_submitted": "True", **data})


def said(answer: Any) -> str:
    return "\n".join(str(message) for message in get_messages(answer.wsgi_request))


def budgets_form(tenant: Tenant, *rows: dict[str, Any], initial: int = 0) -> dict[str, Any]:
    """The tenant's form as it stands, with these budget rows."""
    form: dict[str, Any] = {
        "name": tenant.name, "time_zone": tenant.time_zone, "is_active": "on",
        "default_max_tokens": "1024", "floor_max_tokens": "64", "content_days": "0",
        "hard_stop": "refuse", "handoff_language": "en",
    }  # fmt: skip
    for prefix in ("budgets", "route_steps", "downgrade_rules", "handoff_translations", "keys", "top_ups"):
        form |= {f"{prefix}-TOTAL_FORMS": "0", f"{prefix}-INITIAL_FORMS": "0"}
    form |= {"budgets-TOTAL_FORMS": str(len(rows)), "budgets-INITIAL_FORMS": str(initial)}
    for number, row in enumerate(rows):
        caps = {"soft_cap": "0.8", "hard_cap": "1", "reserve": "0", "alert_percents": "50, 80, 100"}
        whole = {"scope": "tenant", "period": "day", **caps, **row}
        form |= {f"budgets-{number}-{name}": str(value) for name, value in whole.items()}
    return form


# Pages


def test_every_page_answers_an_operator_and_an_auditor(operator: Client, auditor: Client, tenant: Tenant) -> None:
    BudgetFactory.create(tenant=tenant)
    BudgetFactory.create(tenant=tenant, scope=Scope.CUSTOMER)
    BudgetFactory.create(tenant=None, scope=Scope.INSTALLATION)
    RouteStepFactory.create(tenant=tenant)
    DowngradeRuleFactory.create(tenant=tenant)
    spent(tenant, 0.9, 0.05)
    spent(tenant, 0.5, scope="customer", subject="c-1")
    entries(tenant, 2, is_overrun=True)
    Breaker.objects.create(model_id="only", opened_at=timezone.now(), last_failure="timeout")
    for client in (operator, auditor):
        page(client, "/admin/")
        for model in ("tenants.tenant", "tenants.apikey", "tenants.budget", "spend.cataloguemodel", "spend.price",
                      "spend.window", "spend.reservation", "spend.ledgerentry", "spend.call", "spend.rollup",
                      "spend.breaker", "auditlog.logentry"):  # fmt: skip
            name = model.replace(".", "_")
            listed = page(client, reverse(f"admin:{name}_changelist"))
            for href in re.findall(rf'href="(/admin/{model.replace(".", "/")}/[^"?]+/change/)', listed)[:1]:
                page(client, href)
        page(client, TENANT_PAGE)


def test_a_path_names_pages_as_the_sidebar_does_and_rows_as_they_are(operator: Client, tenant: Tenant) -> None:
    def path(address: str) -> str:
        heading = page(operator, address).partition("<h1")[2].partition(">")[2].partition("</h1>")[0]
        return " ".join(re.sub(r"<[^>]+>", " ", heading).split()).replace("chevron_right", ">")

    assert path("/admin/") == "What needs you"
    assert path("/admin/tenants/tenant/") == "Tenants"
    assert path("/admin/spend/reservation/") == "Holds"
    assert path("/admin/spend/cataloguemodel/only/change/") == "Models > only"
    assert path("/admin/spend/breaker/") == "Breakers"
    assert path("/admin/tenants/tenant/acme/rehearsal/") == "Tenants > Acme > What would happen to a call now"


def test_no_page_has_an_inline_script_or_calls_another_host(operator: Client, tenant: Tenant) -> None:
    BudgetFactory.create(tenant=tenant)
    for path in ("/admin/", "/admin/login/", TENANT_PAGE, "/admin/tenants/tenant/", "/admin/spend/ledgerentry/"):
        html = page(operator if "login" not in path else Client(), path)
        assert not re.findall(r"<script(?![^>]*\bsrc=)[^>]*>", html), path
        assert not re.findall(r"""\son[a-z]+=["']""", html), path
        assert not re.findall(r"""(?:src|href|action)=["'](?:https?:)?//""", html), path


def test_the_content_security_policy(client: Client) -> None:
    policy = client.get("/admin/login/")["Content-Security-Policy"]
    allowed = {name: set(sources) for name, *sources in map(str.split, policy.split(";"))}
    assert allowed["default-src"] == allowed["frame-ancestors"] == {"'none'"}
    assert allowed["script-src"] == {"'self'", "'unsafe-eval'"}


def test_lists_take_the_same_few_queries_however_many_rows(operator: Client, tenant: Tenant) -> None:
    def queries(path: str) -> int:
        with CaptureQueriesContext(connection) as captured:
            page(operator, path)
        return len(captured)

    paths = ("/admin/", "/admin/tenants/tenant/", "/admin/spend/ledgerentry/", "/admin/spend/cataloguemodel/",
             "/admin/spend/alert/")  # fmt: skip
    entries(tenant, 1)
    alert_of(tenant)
    few = {path: queries(path) for path in paths}
    entries(tenant, 5)
    for _ in range(5):
        BudgetFactory.create(tenant=(another := TenantFactory.create()))
        spent(another, 0.9)
        RouteStepFactory.create(tenant=another)
        alert_of(another)
    assert {path: queries(path) for path in paths} == few
    assert max(few.values()) <= 25


@pytest.mark.parametrize("model", ["ledgerentry", "call", "reservation", "window", "rollup"])
def test_long_lists_are_never_counted(operator: Client, tenant: Tenant, model: str) -> None:
    entries(tenant, 2)
    with CaptureQueriesContext(connection) as captured:
        page(operator, f"/admin/spend/{model}/")
    assert not [
        query["sql"] for query in captured if "COUNT(" in query["sql"].upper() and f"spend_{model}" in query["sql"]
    ]


# What may be done by whom


@pytest.mark.parametrize("model", ["ledgerentry", "call", "reservation", "window", "rollup", "breaker"])
def test_what_happened_can_be_edited_by_nobody(model: str) -> None:
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    assert client.get(f"/admin/spend/{model}/add/").status_code == 403
    admin = next(each for each in site._registry.values() if each.model._meta.label_lower == f"spend.{model}")
    request: Any = client.get("/admin/").wsgi_request
    assert not any(
        (admin.has_add_permission(request), admin.has_change_permission(request), admin.has_delete_permission(request))
    )


def test_an_auditor_changes_nothing(auditor: Client, tenant: Tenant) -> None:
    key = ApiKeyFactory.create(tenant=tenant)
    assert auditor.post(TENANT_PAGE, budgets_form(tenant, {"limit_ticks": "1"})).status_code == 403
    for url_name, object_id in (
        ("tenants_tenant_pause", "acme"),
        ("tenants_tenant_raise_today", "acme"),
        ("tenants_tenant_issue_key", "acme"),
        ("tenants_apikey_revoke", key.pk),
        ("spend_cataloguemodel_set_price", "only"),
        ("spend_cataloguemodel_catalogue_price", "only"),
    ):
        assert act(auditor, url_name, object_id, amount_ticks="1", name="k").status_code == 403
    tenant.refresh_from_db()
    key.refresh_from_db()
    assert tenant.is_active
    assert key.revoked_at is None
    assert not TopUp.objects.exists()
    assert "Raise today" not in page(auditor, TENANT_PAGE)


def test_a_manager_and_a_stranger_enter_no_admin(tenant: Tenant) -> None:
    manager = Client()
    user = UserFactory.create()
    user.groups.add(role("manager"))
    manager.force_login(user)
    for client in (manager, Client()):
        assert client.get(TENANT_PAGE).status_code == 302


@pytest.mark.parametrize("action", ["pause", "raise_today", "issue_key"])
def test_an_action_is_no_link(operator: Client, tenant: Tenant, action: str) -> None:
    """What changes something must not be done by a GET, which another site could make the browser send."""
    assert operator.get(reverse(f"admin:tenants_tenant_{action}", args=["acme"])).status_code == 200
    tenant.refresh_from_db()
    assert tenant.is_active
    assert not ApiKey.objects.exists()
    assert (
        Client(enforce_csrf_checks=True).post(reverse(f"admin:tenants_tenant_{action}", args=["acme"])).status_code
        == 403
    )


def test_a_tenant_is_not_deleted(tenant: Tenant) -> None:
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    assert client.post("/admin/tenants/tenant/acme/delete/", {"post": "yes"}).status_code == 403
    assert Tenant.objects.filter(pk="acme").exists()


# The tenant's page


def test_pause_and_resume(operator: Client, tenant: Tenant) -> None:
    before = Revision.current()
    assert act(operator, "tenants_tenant_pause", "acme")["HX-Redirect"] == TENANT_PAGE
    tenant.refresh_from_db()
    assert not tenant.is_active
    assert Revision.current() > before
    paused = page(operator, TENANT_PAGE)
    assert "every call is refused" in paused
    assert reverse("admin:tenants_tenant_resume", args=["acme"]) in paused
    assert reverse("admin:tenants_tenant_pause", args=["acme"]) not in paused
    act(operator, "tenants_tenant_resume", "acme")
    tenant.refresh_from_db()
    assert tenant.is_active


def test_todays_limit_is_raised_until_midnight_of_the_tenant(operator: Client, tenant: Tenant) -> None:
    BudgetFactory.create(tenant=tenant, limit_ticks=5 * USD)
    answer = act(operator, "tenants_tenant_raise_today", "acme", amount_ticks="2.50")
    top_up = TopUp.objects.get()
    assert top_up.amount_ticks == 5 * USD // 2
    assert top_up.ends_at == bounds(Period.DAY, tenant.zone, timezone.now()).ends_at
    assert top_up.ends_at.astimezone(tenant.zone).hour == 0
    assert "2.50 USD higher until 00:00 in Europe/Oslo" in said(answer)
    assert "of 7.50 USD" in re.sub(r"\s+", " ", page(operator, TENANT_PAGE))


def test_todays_limit_is_raised_by_cents(operator: Client, tenant: Tenant) -> None:
    assert "0.05 USD higher" in said(act(operator, "tenants_tenant_raise_today", "acme", amount_ticks="0.05"))
    assert TopUp.objects.get().amount_ticks == USD // 20


def test_a_raise_ends_at_midnight_wherever_the_tenant_moves(operator: Client, tenant: Tenant) -> None:
    act(operator, "tenants_tenant_raise_today", "acme", amount_ticks="1")
    over = TopUp.objects.create(
        tenant=tenant, amount_ticks=USD, starts_at=BEGINNING, ends_at=timezone.now() - timedelta(minutes=1)
    )
    tenant.time_zone = "Pacific/Auckland"
    tenant.save()
    running = TopUp.objects.exclude(pk=over.pk).get()
    assert running.ends_at == bounds(Period.DAY, tenant.zone, timezone.now()).ends_at
    assert over.ends_at == TopUp.objects.get(pk=over.pk).ends_at
    edits = [edit.field for change in history_of(tenant) for edit in change.edits if change.action == "update"]
    assert "Ends at" in edits


def test_a_top_up_that_ended_raises_nothing(operator: Client, tenant: Tenant) -> None:
    now = timezone.now()
    TopUp.objects.create(tenant=tenant, amount_ticks=USD, starts_at=now - timedelta(days=1), ends_at=now)
    assert "of 5.00 USD" in re.sub(r"\s+", " ", page(operator, TENANT_PAGE))


@pytest.mark.parametrize("amount", ["0", "-1", "", "lots", "NaN", "0.00000000001"])
def test_a_raise_that_makes_no_sense_is_refused(operator: Client, tenant: Tenant, amount: str) -> None:
    answer = act(operator, "tenants_tenant_raise_today", "acme", amount_ticks=amount)
    assert (answer.status_code, "HX-Redirect" in answer) == (200, False)
    assert not TopUp.objects.exists()


def test_a_raise_without_a_daily_budget_is_refused(operator: Client, tenant: Tenant) -> None:
    assert "/raise-today/" in page(operator, TENANT_PAGE)
    BudgetFactory.create(tenant=tenant, period=Period.MONTH)
    assert "/raise-today/" not in page(operator, TENANT_PAGE)
    assert "no daily budget" in said(act(operator, "tenants_tenant_raise_today", "acme", amount_ticks="1"))
    assert not TopUp.objects.exists()


def test_a_key_is_shown_once(operator: Client, tenant: Tenant) -> None:
    act(operator, "tenants_tenant_issue_key", "acme", name="Zendesk bot")
    key = ApiKey.objects.get()
    first = page(operator, TENANT_PAGE)
    secret = re.search(r"grd_[\w-]{43}", first)
    assert secret is not None
    assert digest_of(secret[0]) == key.digest
    second = page(operator, TENANT_PAGE)
    assert not re.search(r"grd_[\w-]{43}", second)
    assert key.digest not in first + second
    assert "Zendesk bot" in second


def test_a_key_that_expired_already_is_not_issued(operator: Client, tenant: Tenant) -> None:
    answer = act(
        operator, "tenants_tenant_issue_key", "acme", name="k", expires_at_0="2020-01-01", expires_at_1="00:00"
    )
    assert b"in the past" in answer.content
    assert not ApiKey.objects.exists()


def test_a_key_is_revoked(operator: Client, tenant: Tenant) -> None:
    key = ApiKeyFactory.create(tenant=tenant)
    act(operator, "tenants_apikey_revoke", key.pk)
    key.refresh_from_db()
    assert key.revoked_at is not None
    first = key.revoked_at
    act(operator, "tenants_apikey_revoke", key.pk)
    key.refresh_from_db()
    assert key.revoked_at == first


@pytest.mark.parametrize(
    ("limit", "effect"),
    [
        ("4.00", "Today: 4.10 of 4.00 USD spent, 0.20 held. The tenant is stopped at once."),
        ("5.00", "Today: 4.10 of 5.00 USD spent, 0.20 held. That is past the soft cap: the tenant is warned."),
        ("20.00", "Today: 4.10 of 20.00 USD spent, 0.20 held. Calls go on."),
    ],
)
def test_an_edited_limit_says_what_it_does_and_keeps_what_was_spent(
    operator: Client, tenant: Tenant, limit: str, effect: str
) -> None:
    budget = BudgetFactory.create(tenant=tenant, limit_ticks=6 * USD)
    window = spent(tenant, 4.1, 0.2)
    answer = operator.post(TENANT_PAGE, budgets_form(tenant, {"id": budget.pk, "limit_ticks": limit}, initial=1))
    assert answer.status_code == 302, answer.context["errors"]
    assert effect in said(answer)
    window.refresh_from_db()
    assert window.spent_ticks == int(4.1 * USD)


def test_an_edit_of_another_field_says_nothing_of_budgets(operator: Client, tenant: Tenant) -> None:
    budget = BudgetFactory.create(tenant=tenant)
    form = budgets_form(tenant, {"id": budget.pk, "limit_ticks": "1.00"}, initial=1) | {"name": "New name"}
    assert "spent" not in said(operator.post(TENANT_PAGE, form))
    tenant.refresh_from_db()
    assert tenant.name == "New name"


@pytest.mark.parametrize(("kept", "chosen"), [("Factory", "Factory"), ("Factory", "Asia/Tokyo"), ("UTC", "Asia/Tokyo")])
def test_a_tenant_whose_zone_is_no_place_can_be_edited(
    operator: Client, tenant: Tenant, kept: str, chosen: str
) -> None:
    Tenant.objects.filter(pk=tenant.pk).update(time_zone=kept)
    answer = operator.post(TENANT_PAGE, budgets_form(tenant) | {"name": "New name", "time_zone": chosen})
    assert answer.status_code == 302, answer.context["errors"]
    tenant.refresh_from_db()
    assert (tenant.name, tenant.time_zone) == ("New name", chosen)


@pytest.mark.parametrize("chosen", ["localtime", "Factory", "posixrules", "Nowhere/Atall", ""])
def test_a_time_zone_that_is_no_place_is_not_chosen(operator: Client, tenant: Tenant, chosen: str) -> None:
    answer = operator.post(TENANT_PAGE, budgets_form(tenant) | {"time_zone": chosen})
    assert "time_zone" in answer.context["adminform"].form.errors
    tenant.refresh_from_db()
    assert tenant.time_zone == "Europe/Oslo"


def test_a_downgrading_tenant_is_degraded_not_warned(operator: Client, tenant: Tenant) -> None:
    DowngradeRuleFactory.create(tenant=tenant)
    spent(tenant, 0.9)
    form = budgets_form(tenant, {"limit_ticks": "1.00"})
    rule = tenant.downgrade_rules.get()
    form |= {
        "downgrade_rules-TOTAL_FORMS": "1", "downgrade_rules-INITIAL_FORMS": "1",
        "downgrade_rules-0-id": rule.pk, "downgrade_rules-0-to_model": rule.to_model_id,
    }  # fmt: skip
    assert "calls move to cheaper models at once" in said(operator.post(TENANT_PAGE, form))


def test_amounts_are_exact_from_the_form_to_the_database(operator: Client, tenant: Tenant) -> None:
    operator.post(TENANT_PAGE, budgets_form(tenant, {"limit_ticks": "0.1234567891"}))
    assert Budget.objects.get().limit_ticks == 1_234_567_891
    assert 'value="0.1234567891"' in page(operator, TENANT_PAGE)


def test_the_trail_tells_of_everything_that_belongs_to_the_tenant(operator: Client, tenant: Tenant) -> None:
    other = BudgetFactory.create(tenant=TenantFactory.create(id="other"), limit_ticks=3 * USD)
    budget = BudgetFactory.create(tenant=tenant, limit_ticks=2 * USD)
    operator.post(TENANT_PAGE, budgets_form(tenant, {"id": budget.pk, "limit_ticks": "4.00"}, initial=1))
    Budget.objects.get(tenant=tenant).delete()
    act(operator, "tenants_tenant_raise_today", "acme", amount_ticks="1")
    told = [
        (change.action, change.what.split()[0], [(e.field, e.old, e.new) for e in change.edits])
        for change in history_of(tenant)
    ]
    assert ("update", "budget", [("Limit", "2.00 USD", "4.00 USD")]) in told
    assert {(action, what) for action, what, _ in told} >= {
        ("create", "tenant"), ("create", "budget"), ("delete", "budget"), ("create", "top-up")
    }  # fmt: skip
    assert "3.00 USD" not in str(told)
    assert other.tenant_id == "other"
    author = next(change.who for change in history_of(tenant) if change.action == "update")
    assert author == str(User.objects.get(pk=operator.session["_auth_user_id"]))


def test_the_trail_tells_a_moment_to_the_minute_and_of_what_is_new_only_the_value(
    operator: Client, tenant: Tenant
) -> None:
    ApiKeyFactory.create(tenant=tenant, expires_at=datetime(2026, 12, 1, 13, 16, 51, 284642, tzinfo=UTC))
    budget = BudgetFactory.create(tenant=tenant, limit_ticks=USD)
    budget.limit_ticks = 2 * USD
    budget.save()
    edits = [edit for change in history_of(tenant) for edit in change.edits]
    assert Edit("Expires at", "", "2026-12-01 13:16 UTC") in edits
    listed = page(operator, "/admin/auditlog/logentry/")
    assert "Limit: 1.00 USD" in listed
    assert "Limit: 1.00 USD → 2.00 USD" in listed
    assert "– →" not in listed


def test_the_trail_has_no_secret(operator: Client, tenant: Tenant) -> None:
    act(operator, "tenants_tenant_issue_key", "acme", name="k")
    assert ApiKey.objects.get().digest not in str(list(LogEntry.objects.values()))


def test_the_list_shows_the_tightest_budget(operator: Client, tenant: Tenant) -> None:
    BudgetFactory.create(tenant=tenant, limit_ticks=10 * USD)
    BudgetFactory.create(tenant=tenant, period=Period.MONTH, limit_ticks=20 * USD)
    spent(tenant, 1)
    spent(tenant, 19.5, period="month")
    listed = re.sub(r"\s+", " ", page(operator, "/admin/tenants/tenant/"))
    assert "19.50</span> of 20.00 USD" in listed
    assert "of 10.00 USD" not in listed


def test_amounts_in_lists_have_thousands_separators(operator: Client, tenant: Tenant) -> None:
    spent(tenant, 1234567, 7654321)
    BudgetFactory.create(tenant=None, scope=Scope.INSTALLATION, limit_ticks=2_000_000 * USD)
    entries(tenant, 1)
    windows = page(operator, "/admin/spend/window/")
    assert "$1,234,567.00" in windows
    assert "$7,654,321.00" in windows
    assert "$0.50" in page(operator, "/admin/spend/ledgerentry/")
    assert "$2,000,000.00" in page(operator, "/admin/tenants/budget/")


def test_lists_say_what_one_looks_for(operator: Client, tenant: Tenant) -> None:
    key, now = ApiKeyFactory.create(tenant=tenant), timezone.now()
    facts = {"tenant": tenant, "key": key, "at": now, "requested_model": "auto", "outcome": "served"}
    Call.objects.bulk_create([Call(id=new_id(), request_id="r", model="only", **facts)])
    assert "auto → only" in page(operator, "/admin/spend/call/")
    Price.objects.update(starts_at=BEGINNING)
    assert "the beginning" in page(operator, "/admin/spend/price/")
    channel = AlertChannel.objects.create(tenant=tenant, kind="email", target="olga@example.com")
    Delivery.objects.create(alert=alert_of(tenant), channel=channel, due_at=now)
    assert "acme: 50 % of the daily budget is used" in page(operator, "/admin/spend/delivery/")
    UserFactory.create(username="max").groups.add(role("manager"))
    users = page(operator, "/admin/auth/user/")
    assert "manager" in users
    assert "the dashboards" in users


def test_an_empty_list_says_whether_there_is_nothing_or_nothing_matches(operator: Client, tenant: Tenant) -> None:
    assert "Nothing here yet" in (calls := page(operator, "/admin/spend/call/"))
    assert "Show all" not in calls
    assert "Nothing matches" in (found := page(operator, "/admin/tenants/tenant/?q=nobody"))
    assert 'href="?"' in found
    Tenant.objects.all().delete()
    assert "Add tenant" in page(operator, "/admin/tenants/tenant/")


# The home page


def test_home_is_calm_where_nothing_is_amiss(operator: Client, tenant: Tenant) -> None:
    assert "Nothing needs you" in page(operator, "/admin/")


def test_home_says_what_needs_the_operator(operator: Client, tenant: Tenant, settings: Any) -> None:
    spent(tenant, 5)
    spent(TenantFactory.create(id="warm", name="Warm"), 4.2)
    TenantFactory.create(id="off", name="Off", is_active=False)
    BudgetFactory.create(tenant=None, scope=Scope.INSTALLATION, limit_ticks=0)
    Breaker.objects.create(model_id="only", opened_at=timezone.now(), last_failure="timeout")
    settings.DEFAULT_ROUTE = ["only", "gone"]
    entries(tenant, 1, is_overrun=True)
    entries(tenant, 2, is_expired=True)
    entries(tenant, 3, is_usage_impossible=True)
    found = attention(timezone.now())
    assert [each.tenant.pk for each in found.stopped] == ["acme"]
    assert [each.tenant.pk for each in found.degraded] == ["warm"]
    assert [each.pk for each in found.paused] == ["off"]
    assert [use.state for use in found.installation] == ["stopped"]
    assert [fault.model_id for fault in found.faults] == ["gone"]
    assert (found.expired, found.overruns, found.impossible) == (2, 1, 3)
    shown = re.sub(r"\s+", " ", page(operator, "/admin/"))
    for words in (
        "Tenants stopped", "has been failing", "is not in the catalogue", "2 expired holds", "1 overrun<",
        "3 answers with impossible usage<",
    ):  # fmt: skip
        assert words in shown


def refuse(tenant: Tenant, calls: int) -> None:
    now, key = timezone.now(), ApiKeyFactory.create(tenant=tenant)
    facts = {"tenant": tenant, "key": key, "at": now, "requested_model": "only", "outcome": "refused"}
    Call.objects.bulk_create(Call(id=new_id(), request_id="r", code="budget_exceeded", **facts) for _ in range(calls))


def test_home_names_who_refuses_most_calls_though_not_used_up(operator: Client, tenant: Tenant) -> None:
    roomy, warm = TenantFactory.create(id="roomy"), TenantFactory.create(id="warm")
    for each, usd in ((tenant, 4.9), (roomy, 1), (warm, 4.9)):
        spent(each, usd)
    refuse(tenant, calls=3)
    refuse(roomy, calls=3)  # some single customer's budget is it that refuses
    found = attention(timezone.now())
    assert [each.tenant.pk for each in found.refusing] == ["acme"]
    assert [each.tenant.pk for each in found.degraded] == ["warm"]
    assert "Tenants that refuse most calls (1)" in re.sub(r"\s+", " ", page(operator, "/admin/"))
    assert "refusing" in page(operator, "/admin/tenants/tenant/?q=acme")
    body = page(operator, TENANT_PAGE)
    assert "Most calls are refused" in body
    assert "refusing" in body
    assert "degraded" not in body
    assert "Most calls are refused" not in page(operator, "/admin/tenants/tenant/roomy/change/")


def test_entries_are_looked_into(operator: Client, auditor: Client, tenant: Tenant) -> None:
    overrun, sound = entries(tenant, 1, is_overrun=True)[0], entries(tenant, 1)[0]
    assert "req" not in page(operator, "/admin/spend/ledgerentry/?review=expired").partition("<tbody")[2]
    data = {"action": "mark_reviewed", "_selected_action": [str(overrun.pk), str(sound.pk)]}
    auditor.post("/admin/spend/ledgerentry/", data)
    assert to_review(timezone.now()).count() == 1
    assert "1 marked." in said(operator.post("/admin/spend/ledgerentry/", data))
    assert to_review(timezone.now()).count() == 0


def test_impossible_usage_is_listed_until_it_was_looked_into(operator: Client, tenant: Tenant) -> None:
    (odd,), _ = entries(tenant, 1, is_usage_impossible=True), entries(tenant, 1)
    address = "/admin/spend/ledgerentry/?review=impossible"
    shown = page(operator, address)
    assert "impossible usage" in shown
    assert shown.count("/change/") == 1
    operator.post(address, {"action": "mark_reviewed", "_selected_action": [str(odd.pk)]})
    assert "/change/" not in page(operator, address)
    assert "impossible usage" not in page(operator, "/admin/")


def test_search_by_request_id(operator: Client, tenant: Tenant) -> None:
    entries(tenant, 3)
    call = Call.objects.get(request_id="req_1")
    assert "1 " in page(operator, "/admin/spend/call/?q=req_1")
    for path in ("ledgerentry", "reservation"):
        for term, count in (("req_1", 1), (str(call.pk), 1), ("req_", 0)):
            found = page(operator, f"/admin/spend/{path}/?q={term}")
            assert found.count(f"/admin/spend/{path}/") - found.count(f"/admin/spend/{path}/?") >= count
            assert len(re.findall(rf"/admin/spend/{path}/[0-9a-f-]{{36}}/change/", found)) == count


def test_calls_of_a_customer_and_of_a_conversation(operator: Client, tenant: Tenant) -> None:
    facts = {"key": ApiKeyFactory.create(tenant=tenant), "at": timezone.now(), "requested_model": "only"}
    other = TenantFactory.create(id="other")
    names = ((tenant, "ann", "c1"), (tenant, "ben", "c1"), (other, "ann", "c2"), (tenant, " ann", "of_before"))
    for tenant_, customer, conversation in names:
        named = {
            "request_id": f"of-{customer.strip()}-{conversation}",
            "customer": customer,
            "conversation": conversation,
        }
        Call.objects.bulk_create([Call(id=new_id(), tenant=tenant_, outcome="served", **named, **facts)])
    for query, requests in (
        ("q=ann", {"of-ann-c1", "of-ann-c2"}),
        ("q=ann&tenant=acme", {"of-ann-c1"}),
        ("q=c1", {"of-ann-c1", "of-ben-c1"}),
        ("q=+ann&tenant=acme", {"of-ann-of_before"}),
        ("q=ann+&tenant=acme", {"of-ann-c1"}),
        ("q=nobody", set()),
    ):
        found = page(operator, f"/admin/spend/call/?{query}")
        assert set(re.findall(r"of-\w+-\w+", found)) == requests, query
    assert "/admin/spend/call/?q=ann&amp;tenant=acme" in page(operator, "/admin/spend/call/")


# From page to page


def test_every_link_and_button_leads_somewhere(operator: Client, auditor: Client, tenant: Tenant) -> None:
    BudgetFactory.create(tenant=tenant)
    entries(tenant, 1, is_overrun=True)
    alert_of(tenant)
    AlertChannel.objects.create(tenant=tenant, target="olga@example.com")
    for client in (operator, auditor):
        assert dead_ends(client, "/admin/", "/", TENANT_PAGE) == []


def dead_ends(client: Client, *addresses: str) -> list[str]:
    """Addresses that some page has a link to and that do not answer; of each kind of page one is looked at."""
    to_visit, seen, found = [(address, "") for address in addresses], set[tuple[Any, ...]](), list[str]()
    while to_visit:
        address, origin = to_visit.pop()
        path, _, query = html.unescape(address).partition("?")
        kind = (resolve(path).view_name, tuple(sorted(re.findall(r"(\w+)=", query))), path == "/admin/")
        if kind in seen or "logout" in path:
            continue
        seen.add(kind)
        answer = client.get(html.unescape(address), follow=True)
        if answer.status_code != 200 or "login" in answer.request["PATH_INFO"]:
            found.append(f"{address} on {origin}: {answer.status_code}")
        elif "html" in answer["Content-Type"]:
            links = addresses_in(answer.content.decode())
            to_visit += [(link, address) for link in links if re.match(r"/(?!static/|metrics)", link)]
    return found


def test_from_the_dashboard_to_the_admin_and_back(operator: Client, tenant: Tenant) -> None:
    entries(tenant, 1)
    call = Call.objects.get()
    pages = {
        "/tenants/acme/": TENANT_PAGE,
        "/tenants/acme/calls/": "/admin/spend/call/?tenant=acme",
        f"/tenants/acme/calls/{call.pk}/": f"/admin/spend/call/{call.pk}/change/",
        "/tenants/acme/statement/": "/admin/spend/ledgerentry/?tenant=acme",
    }
    for path, there in pages.items():
        assert there in addresses_in(page(operator, path)), path
    assert "/tenants/acme/" in addresses_in(page(operator, TENANT_PAGE))
    for row in (call, LedgerEntry.objects.get(), Reservation.objects.get()):
        back = addresses_in(page(operator, f"/admin/spend/{row._meta.model_name}/{row.pk}/change/"))
        assert f"/tenants/acme/calls/{call.pk}/" in back
    member = UserFactory.create()
    tenant.members.add(member)
    manager = Client()
    manager.force_login(member)
    assert not [link for link in addresses_in(page(manager, "/tenants/acme/")) if "/admin/" in link]


def test_models_that_serve_no_call_say_so_wherever_one_chooses(operator: Client, tenant: Tenant) -> None:
    off = CatalogueModelFactory.create(id="off", is_enabled=False)
    ended = CatalogueModelFactory.create(id="ended", shutdown_on=date(2020, 1, 1))
    RouteStepFactory.create(tenant=tenant, model=off)
    RouteStepFactory.create(tenant=tenant, model=ended)
    DowngradeRuleFactory.create(tenant=tenant, to_model=CatalogueModelFactory.create(id="free", price=None))
    for path in (TENANT_PAGE, reverse("rehearsal", args=["acme"])):
        shown = page(operator, path)
        for name in ("off (is disabled)", "ended (was shut down on 2020-01-01)", "free (has no price)"):
            assert name in shown, (path, name)


# Models and prices


def test_a_price_is_set_from_now_on(operator: Client, tenant: Tenant) -> None:
    answer = act(operator, "spend_cataloguemodel_set_price", "only",
                 input_ticks="1.30", cached_input_ticks="0.2", cache_write_ticks="", output_ticks="2.5")  # fmt: skip
    assert "1.30 / 0.20 / 2.50" in said(answer)
    price = price_in_force(Price.objects.filter(model="only"), timezone.now())
    assert price is not None
    assert (price.source, price.tiers.get().input_ticks) == (PriceSource.OPERATOR, 13_000)
    same = act(operator, "spend_cataloguemodel_set_price", "only",
               input_ticks="1.3", cached_input_ticks="0.2", cache_write_ticks="", output_ticks="2.5")  # fmt: skip
    assert "nothing was changed" in said(same)


def test_back_to_the_catalogues_price(operator: Client, tenant: Tenant) -> None:
    """The way back is shown where there is one; what was billed by the operator's price stays readable."""
    path, back = "/admin/spend/cataloguemodel/only/change/", "Back to the catalogue's price"
    Price.objects.update(source=PriceSource.CATALOGUE)
    assert back not in html.unescape(page(operator, path))
    mine = PriceFactory.create(model_id="only", starts_at=timezone.now(), tier__input_ticks=70_000)
    assert back in html.unescape(page(operator, path))
    assert operator.get(reverse("admin:spend_cataloguemodel_catalogue_price", args=["only"])).status_code == 200
    mine.refresh_from_db()
    assert mine.ends_at is None, "a GET, which another site could make the browser send, ended it"
    assert "as the catalogue says" in said(act(operator, "spend_cataloguemodel_catalogue_price", "only"))
    mine.refresh_from_db()
    assert mine.ends_at is not None
    after = html.unescape(page(operator, path))
    assert back not in after
    assert f"{mine.ends_at:%Y-%m-%d %H:%M} UTC" in after
    assert "nothing was changed" in said(act(operator, "spend_cataloguemodel_catalogue_price", "only"))


def test_a_price_finer_than_a_tick_is_refused(operator: Client, tenant: Tenant) -> None:
    before = Price.objects.count()
    answer = act(operator, "spend_cataloguemodel_set_price", "only",
                 input_ticks="0.00001", cached_input_ticks="0", output_ticks="1")  # fmt: skip
    assert b"must be a multiple of 0.0001" in answer.content
    assert Price.objects.count() == before


def test_a_price_of_tiers_has_a_base(operator: Client, tenant: Tenant) -> None:
    before = Price.objects.count()
    tomorrow = timezone.localtime() + timedelta(days=1)
    rates = {"input_ticks": "1", "cached_input_ticks": "0.1", "output_ticks": "2"}
    form = {
        "model": "only", "starts_at_0": f"{tomorrow:%Y-%m-%d}", "starts_at_1": "12:00", "tiers-TOTAL_FORMS": "1",
        "tiers-INITIAL_FORMS": "0", "tiers-0-above_tokens": "200000",
        **{f"tiers-0-{name}": usd for name, usd in rates.items()},
    }  # fmt: skip
    answer = operator.post(reverse("admin:spend_price_add"), form)
    assert "Above tokens: one tier must be 0, the base price" in html.unescape(answer.content.decode())
    assert "Above tokens: one tier must be 0" in html.unescape(
        operator.post(reverse("admin:spend_price_add"), form | {"tiers-TOTAL_FORMS": "0"}).content.decode()
    )
    assert Price.objects.count() == before
    assert operator.post(reverse("admin:spend_price_add"), form | {"tiers-0-above_tokens": "0"}).status_code == 302
    assert Price.objects.count() == before + 1


def test_the_list_of_models_says_what_was_shut_down(operator: Client) -> None:
    CatalogueModelFactory.create(id="gone", shutdown_on=date(2026, 5, 1))
    listed = operator.get(reverse("admin:spend_cataloguemodel_changelist")).content.decode()
    assert "2026-05-01" in listed
    assert "shut down" in listed


def test_no_model_is_made_with_the_routes_name(operator: Client) -> None:
    fields = {
        "id": "auto", "provider": "xai", "upstream_name": "grok", "context_tokens": 1, "max_output_tokens": 1,
        "reasoning_allowance_tokens": 0, "input_allowance_percent": 100, "prices-TOTAL_FORMS": 0,
        "prices-INITIAL_FORMS": 0,
    }  # fmt: skip
    answer = operator.post(reverse("admin:spend_cataloguemodel_add"), fields)
    assert "id" in answer.context["adminform"].form.errors
    assert not CatalogueModel.objects.filter(pk="auto").exists()


def test_a_price_that_has_begun_cannot_be_edited(tenant: Tenant) -> None:
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    price = Price.objects.get(model="only")
    assert client.post(f"/admin/spend/price/{price.pk}/change/", {}).status_code == 403
    assert client.post(f"/admin/spend/price/{price.pk}/delete/", {"post": "yes"}).status_code == 403


def test_an_installation_budget(operator: Client) -> None:
    form = {"period": "month", "limit_ticks": "1000", "soft_cap": "0.9", "hard_cap": "1", "reserve": "0"}
    assert operator.post("/admin/tenants/budget/add/", form).status_code == 302
    budget = Budget.objects.get()
    assert (budget.tenant, budget.scope, budget.limit_ticks) == (None, Scope.INSTALLATION, 1000 * USD)
    assert b"already has a budget of that period" in operator.post("/admin/tenants/budget/add/", form).content


# Signing in


@pytest.fixture
def person() -> User:
    return UserFactory.create(username="olga", is_staff=True)


Try = Callable[..., Any]


@pytest.fixture
def sign_in(person: User) -> Try:
    def attempt(path: str = "/admin/login/", password: str = PASSWORD, headers: Any = None, **more: str) -> Any:
        return Client().post(path, {"username": "olga", "password": password, **more}, headers=headers)

    return attempt


def test_guessing_is_locked_out_for_that_name_only(sign_in: Try) -> None:
    UserFactory.create(username="piet", is_staff=True)
    for _ in range(5):
        wrong = sign_in(password="guess")
    assert wrong.status_code == 429
    assert sign_in().status_code == 429
    assert sign_in("/login/").status_code == 429
    assert Client().post("/admin/login/", {"username": "piet", "password": PASSWORD}).status_code == 302


def test_an_operator_lets_in_who_was_locked_out(sign_in: Try, operator: Client, auditor: Client) -> None:
    for agent in ("Firefox", "Safari"):
        for _ in range(3):
            sign_in(password="guess", headers={"user-agent": agent})
    assert sign_in().status_code == 429
    attempt = AccessAttempt.objects.first()
    assert attempt.failures_since_start < 5
    assert "locked out" in page(operator, f"/admin/axes/accessattempt/{attempt.pk}/change/")
    assert auditor.get("/admin/axes/accessattempt/").status_code == 403
    assert act(auditor, "axes_accessattempt_unlock", attempt.pk).status_code == 403
    assert sign_in().status_code == 429
    act(operator, "axes_accessattempt_unlock", attempt.pk)
    assert "may sign in again" in said(act(operator, "axes_accessattempt_unlock", attempt.pk)), "a second press"
    assert sign_in().status_code == 302
    assert "of olga from 127.0.0.1" in page(operator, "/admin/auditlog/logentry/")


def test_a_few_wrong_tries_lock_nobody_out(sign_in: Try, operator: Client) -> None:
    for _ in range(4):
        assert sign_in(password="guess").status_code == 200
    assert "4 of 5 wrong tries" in page(operator, "/admin/axes/accessattempt/")
    assert sign_in().status_code == 302
    assert sign_in(password="guess").status_code == 200


def code_of(device: TOTPDevice, steps: int = 0) -> str:
    totp = TOTP(device.bin_key, device.step, device.t0, device.digits, device.drift + steps)
    totp.time = datetime.now(UTC).timestamp()
    return f"{totp.token():06d}"


@pytest.fixture
def device(person: User) -> TOTPDevice:
    return TOTPDevice.objects.create(user=person, name="app", confirmed=True)


@pytest.mark.parametrize("path", ["/admin/login/", "/login/"])
def test_two_factor_asks_for_a_code_at_every_door(sign_in: Try, device: TOTPDevice, path: str) -> None:
    without = sign_in(path)
    assert without.status_code == 200
    assert "two-factor" in without.content.decode()
    assert "_auth_user_id" not in without.client.session
    assert sign_in(path, code=code_of(device)).status_code == 302


def test_a_wrong_code_does_not_do(sign_in: Try, device: TOTPDevice) -> None:
    wrong = f"{(int(code_of(device)) + 1) % 10**6:06d}"
    assert sign_in(code=wrong).status_code == 200


def test_a_device_that_was_never_confirmed_asks_nothing(sign_in: Try, person: User) -> None:
    TOTPDevice.objects.create(user=person, name="app", confirmed=False)
    assert sign_in().status_code == 302


def test_a_sign_in_without_a_code_is_no_wrong_try_of_one(person: User, sign_in: Try, device: TOTPDevice) -> None:
    """A code that is typed at once when it is asked for must work, however fast, and however often it was asked for."""
    recovery = StaticDevice.objects.create(user=person, name="recovery codes")
    recovery.token_set.create(token="abcdefgh")
    for _ in range(3):
        assert sign_in().status_code == 200
        assert sign_in(code=" ").status_code == 200
    assert sign_in(code="abcdefgh").status_code == 302


def test_two_factor_is_set_up_and_turned_off_again(person: User, sign_in: Try) -> None:
    client, url = Client(), reverse("admin:second_factor")
    client.force_login(person)
    assert "<svg" in page(client, url)
    device = TOTPDevice.objects.get(user=person)
    assert b"not the code" in client.post(url, {"code": "000000" if code_of(device) != "000000" else "1"}).content
    TOTPDevice.objects.update(throttling_failure_timestamp=None, throttling_failure_count=0)
    done = client.post(url, {"code": code_of(device)}).content.decode()
    codes = set(StaticToken.objects.values_list("token", flat=True))
    assert len(codes) == 8
    assert all(code in done for code in codes)
    recovery = codes.pop()
    assert sign_in(code=recovery).status_code == 302
    assert sign_in(code=recovery).status_code == 200
    StaticDevice.objects.update(throttling_failure_timestamp=None, throttling_failure_count=0)
    assert client.post(url, {"code": codes.pop()}).status_code == 302
    assert not TOTPDevice.objects.exists()
    assert sign_in().status_code == 302


def test_a_stranger_sets_nothing_up(client: Client) -> None:
    assert client.get(reverse("admin:second_factor")).status_code == 302


def test_what_a_model_learned_is_shown_with_its_date_and_unlearned_by_a_button(
    operator: Client, auditor: Client, tenant: Tenant
) -> None:
    model = CatalogueModel.objects.get(pk="only")
    learn("only", [Lesson(LessonKind.PARAMETER, "stop")], "stop is no argument", datetime(2026, 5, 1, 9, tzinfo=UTC))
    path, learned = "/admin/spend/cataloguemodel/only/change/", model.learned.get()
    for who in (operator, auditor):
        page = who.get(path).content.decode()
        assert "parameter stop" in page
        assert "stop is no argument" in page
        assert "May 1, 2026" in page or "2026-05-01" in page
    fields = {
        "provider": "xai", "upstream_name": "only", "is_enabled": "on", "context_tokens": 1, "max_output_tokens": 1,
        "input_allowance_percent": 100, "input_surplus_tokens": 0, "reasoning_allowance_tokens": 0,
        "refused_parameters": "seed, stop, seed,", "reasoning_efforts": "", "refused_while_reasoning": "tools",
        "message_fields": "", "id_characters": '{"user": 64}',
        "learned-TOTAL_FORMS": 1, "learned-INITIAL_FORMS": 1, "learned-0-id": learned.pk, "learned-0-model": "only",
        "learned-0-DELETE": "on", "prices-TOTAL_FORMS": 0, "prices-INITIAL_FORMS": 0,
    }  # fmt: skip
    for characters in ('{"user": 0}', "[]", '{"user": "64"}'):
        assert "whole numbers above 0" in operator.post(path, {**fields, "id_characters": characters}).content.decode()
    assert operator.post(path, fields).status_code == 302
    model.refresh_from_db()
    assert (model.refused_parameters, model.refused_while_reasoning) == (["seed", "stop"], ["tools"])
    assert (model.reasoning_efforts, model.message_fields, model.id_characters) == ([], None, {"user": 64})
    assert not model.learned.exists()


# Ids as they come: Django's admin writes `_5F` for an underscore in its addresses

ODD_IDS = ["acme_shop", "a_5Fb", "shop.de_2"]


@pytest.mark.parametrize("tenant_id", ODD_IDS)
def test_a_tenants_page_and_all_its_actions_take_any_id(operator: Client, tenant: Tenant, tenant_id: str) -> None:
    odd = TenantFactory.create(id=tenant_id)
    path = change_path("tenants_tenant", tenant_id)
    body = page(operator, path)
    assert "Where the budgets stand" in body
    assert "Audit trail" in body
    page(operator, reverse("rehearsal", args=[tenant_id]))
    for name in ("pause", "resume", "raise_today", "issue_key"):
        shown = [each for each in addresses_in(page(operator, path)) if each.endswith(f"/{name.replace('_', '-')}/")]
        assert len(shown) == 1, name
        answer = operator.post(shown[0], {"_form_submitted": "True", "amount_ticks": "1", "name": "k"})
        assert answer["HX-Redirect"] == path
    assert Revision.current()
    assert TopUp.objects.get().tenant == ApiKey.objects.get().tenant == odd
    act(operator, "tenants_apikey_revoke", ApiKey.objects.get().pk)
    answer = operator.post(path, budgets_form(odd, {"limit_ticks": "1.00"}) | {"name": "Odd"})
    assert answer.status_code == 302
    odd.refresh_from_db()
    assert odd.name == "Odd"


def change_path(name: str, pk: str) -> str:
    return reverse(f"admin:{name}_change", args=[quote(pk)])


def addresses_in(body: str) -> list[str]:
    return list(dict.fromkeys(re.findall(r'(?:href|hx-get)="([^"]+)"', body)))


def test_home_links_to_tenants_and_models_with_odd_ids(operator: Client, tenant: Tenant) -> None:
    TenantFactory.create(id="off_1", is_active=False)
    spent(TenantFactory.create(id="full_5Fx"), 5)
    model = CatalogueModelFactory.create(id="xai/grok_5F")
    Breaker.objects.create(model=model, opened_at=timezone.now(), last_failure="timeout")
    body = page(operator, "/admin/")
    for name, pk in (("tenants_tenant", "off_1"), ("tenants_tenant", "full_5Fx"), ("spend_cataloguemodel", model.pk)):
        path = change_path(name, pk)
        assert path in addresses_in(body)
        page(operator, path)


def test_a_models_page_and_its_actions_take_any_id(operator: Client, tenant: Tenant) -> None:
    model = CatalogueModelFactory.create(id="xai/grok_5F")
    path = change_path("spend_cataloguemodel", model.pk)
    (shown,) = [each for each in addresses_in(page(operator, path)) if each.endswith("/set-price/")]
    assert 'value="1.25"' in page(operator, shown)
    answer = operator.post(
        shown, {"_form_submitted": "True", "input_ticks": "3", "cached_input_ticks": "1", "output_ticks": "4"}
    )
    assert answer["HX-Redirect"] == path
    assert Price.objects.filter(model=model).count() == 2
