"""Alerts: each crossing told once to each channel, whatever runs at once, and delivered even if not at once."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest
from auditlog.models import LogEntry
from django.apps import apps
from django.contrib.auth.models import User
from django.contrib.contenttypes.models import ContentType
from django.core import mail
from django.core.exceptions import ValidationError
from django.db import connection
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from django_tasks_db.models import DBTaskResult

from guard.worker.background import new_worker
from spend.alerts.channels import UndeliveredError, post, signature_of, text_of
from spend.alerts.deliveries import LEASE, MOST_ATTEMPTS, begin, deliver, dispatch, forget, resend, wait_after
from spend.alerts.detection import look_at_all, look_at_changed, tell
from spend.alerts.links import link_of
from spend.ids import new_id
from spend.models import Alert, AlertKind, Call, Delivery, DeliveryState, Rollup, Window
from spend.summaries.buckets import bucket_of
from tenants.access.roles import role
from tenants.models import AlertChannel, Budget, ChannelKind, Scope, Tenant, TopUp, percents_of
from tenants.money import TICKS_PER_USD
from tenants.periods import Period, bounds
from tenants.trail import without_address
from tests.factories import (
    ApiKeyFactory,
    BudgetFactory,
    CatalogueModelFactory,
    RouteStepFactory,
    TenantFactory,
    UserFactory,
)
from tests.support.agents import eventually
from tests.support.provider import Provider
from tests.support.race import at_once, on_postgres
from tests.support.server import GuardServer
from tests.support.sink import Sink, dripping_server, http_sink

NOON = datetime(2026, 5, 20, 12, tzinfo=UTC)
USD = TICKS_PER_USD


def window_of(tenant: Tenant, spent_usd: float, **fields: Any) -> Window:
    """The tenant's window of today, with so much spent."""
    day = bounds(Period.DAY, tenant.zone, NOON)
    given = {"tenant_id": tenant.id, "scope": Scope.TENANT, "period": Period.DAY, **fields}
    return Window.objects.create(
        **{"starts_at": day.starts_at, "ends_at": day.ends_at, **given}, spent_ticks=round(spent_usd * USD)
    )


def spend(window: Window, usd: float) -> None:
    Window.objects.filter(pk=window.pk).update(spent_ticks=round(usd * USD))


def told(**filters: Any) -> list[int]:
    return sorted(Alert.objects.filter(**filters).values_list("percent", flat=True))


@pytest.fixture
def tenant(db: None) -> Tenant:
    """With a budget of 10 USD a day."""
    tenant = TenantFactory.create(id="acme")
    BudgetFactory.create(tenant=tenant, limit_ticks=10 * USD)
    return tenant


@pytest.fixture
def sink() -> Iterator[Sink]:
    with http_sink() as sink:
        yield sink


def webhook(tenant: Tenant | None, url: str) -> AlertChannel:
    return AlertChannel.objects.create(tenant=tenant, kind=ChannelKind.WEBHOOK, target=url)


def deliver_all(now: datetime | None = None) -> None:
    """Dispatch what is due, and run the tasks that makes."""
    dispatch(now or timezone.now())
    worker = new_worker("deliveries")
    worker.batch = True
    worker.run()


def test_each_percent_is_told_once_in_a_window(tenant: Tenant) -> None:
    window = window_of(tenant, 4.99)
    look_at_changed(NOON)
    assert told() == []
    for usd in (5, 5.5, 7.99):
        spend(window, usd)
        look_at_changed(NOON)
        assert told() == [50]
    spend(window, 10)
    look_at_changed(NOON)
    look_at_all(NOON)
    assert told(kind=AlertKind.THRESHOLD) == [50, 80, 100]
    assert not Window.objects.filter(looked_ticks=0).exists()


def test_a_new_period_tells_again(tenant: Tenant) -> None:
    window_of(tenant, 5)
    yesterday = bounds(Period.DAY, tenant.zone, NOON - timedelta(days=1))
    window_of(tenant, 6, starts_at=yesterday.starts_at, ends_at=yesterday.ends_at)
    look_at_changed(NOON)
    assert told() == [50, 50]


def test_a_raised_limit_arms_it_again(tenant: Tenant) -> None:
    window = window_of(tenant, 6)
    look_at_changed(NOON)
    tenant.budgets.update(limit_ticks=20 * USD)
    look_at_all(NOON)
    assert told(kind=AlertKind.THRESHOLD) == [50]
    spend(window, 10)
    look_at_changed(NOON)
    assert sorted(Alert.objects.filter(percent=50).values_list("limit_ticks", flat=True)) == [10 * USD, 20 * USD]


def limit(tenant: Tenant, usd: int, now: datetime) -> None:
    tenant.budgets.update(limit_ticks=usd * USD)
    look_at_all(now)


def test_a_limit_that_comes_back_arms_it_again(tenant: Tenant) -> None:
    tenant.budgets.update(alert_percents="50")
    window_of(tenant, 6)
    for minute, usd in enumerate((10, 5, 10, 10)):
        limit(tenant, usd, NOON + timedelta(minutes=minute))
    alerts = Alert.objects.filter(kind=AlertKind.THRESHOLD).order_by("at")
    assert [alert.limit_ticks // USD for alert in alerts] == [10, 5, 10]


def test_a_raised_hard_cap_arms_it_again(tenant: Tenant) -> None:
    tenant.budgets.update(alert_percents="100", hard_cap="0.9")
    window = window_of(tenant, 9)
    look_at_changed(NOON)
    tenant.budgets.update(hard_cap="1")
    look_at_all(NOON + timedelta(minutes=1))
    spend(window, 10)
    look_at_changed(NOON + timedelta(minutes=2))
    assert told(kind=AlertKind.THRESHOLD) == [100, 100]


def test_a_second_top_up_to_the_same_limit_arms_it_again(tenant: Tenant) -> None:
    tenant.budgets.update(alert_percents="50")
    window_of(tenant, 8)
    for hours in (0, 2):
        starts_at = NOON + timedelta(hours=hours)
        ends_at = starts_at + timedelta(hours=1)
        TopUp.objects.create(tenant=tenant, amount_ticks=5 * USD, starts_at=starts_at, ends_at=ends_at)
    for hours in range(4):
        look_at_all(NOON + timedelta(hours=hours))
    alerts = Alert.objects.filter(kind=AlertKind.THRESHOLD).order_by("at")
    assert [alert.limit_ticks // USD for alert in alerts] == [15, 10, 15, 10]


def test_a_pass_that_is_late_arms_nothing(tenant: Tenant) -> None:
    """Its clock still says that the top-up runs, when another has told how the budget stands without it."""
    tenant.budgets.update(alert_percents="50")
    TopUp.objects.create(tenant=tenant, amount_ticks=5 * USD, starts_at=NOON, ends_at=NOON + timedelta(minutes=1))
    window_of(tenant, 8)
    for seconds in (1, 61, 59, 62):
        look_at_all(NOON + timedelta(seconds=seconds))
    alerts = Alert.objects.filter(kind=AlertKind.THRESHOLD).order_by("at")
    assert [alert.limit_ticks // USD for alert in alerts] == [15, 10]


@on_postgres
@pytest.mark.django_db(transaction=True)
def test_many_passes_at_once_arm_a_changed_limit_once() -> None:
    tenant = TenantFactory.create(id="acme")
    BudgetFactory.create(tenant=tenant, limit_ticks=10 * USD, alert_percents="50")
    window_of(tenant, 6)
    look_at_changed(NOON)
    for minute, usd in enumerate((9, 10, 9), start=1):
        tenant.budgets.update(limit_ticks=usd * USD)
        passes = at_once(6, look_at_all, NOON + timedelta(minutes=minute))
        assert [alert.kind for new in passes for alert in new].count(AlertKind.THRESHOLD) == 1


def test_a_lowered_limit_and_an_ended_top_up_are_noticed_without_a_spend(tenant: Tenant) -> None:
    TopUp.objects.create(tenant=tenant, amount_ticks=90 * USD, starts_at=NOON, ends_at=NOON + timedelta(minutes=1))
    window_of(tenant, 8.5)
    look_at_changed(NOON)
    look_at_all(NOON)
    assert told() == []
    look_at_all(NOON + timedelta(minutes=2))
    assert told(kind=AlertKind.THRESHOLD) == [50, 80]


def test_percents_are_the_budgets_own_and_the_default_budget_has_some(tenant: Tenant) -> None:
    tenant.budgets.update(alert_percents="75")
    window_of(tenant, 9)
    window_of(TenantFactory.create(id="without-a-budget"), 4.5)
    look_at_changed(NOON)
    assert told(tenant_id="acme") == [75]
    assert told(tenant_id="without-a-budget") == [50, 80]


def test_customers_and_the_installation_have_windows_of_their_own(tenant: Tenant) -> None:
    BudgetFactory.create(tenant=tenant, scope=Scope.CUSTOMER, limit_ticks=1 * USD)
    BudgetFactory.create(tenant=None, scope=Scope.INSTALLATION, limit_ticks=100 * USD, alert_percents="50")
    for customer in ("ann", "bob"):
        window_of(tenant, 0.6, scope=Scope.CUSTOMER, subject=customer)
    window_of(tenant, 60, tenant_id="", scope=Scope.INSTALLATION)
    look_at_changed(NOON)
    assert sorted(Alert.objects.values_list("tenant_id", "subject")) == [("", ""), ("acme", "ann"), ("acme", "bob")]


def test_a_hard_cap_below_the_limit_is_the_end_of_it(tenant: Tenant) -> None:
    tenant.budgets.update(hard_cap="0.9", soft_cap="0.5")
    window_of(tenant, 9)
    look_at_changed(NOON)
    assert told() == [50, 80, 100]


def refuse(tenant: Tenant, at: datetime = NOON, **bound: Any) -> None:
    """As the guard notes a call that the tenant's daily budget of 10 USD refused."""
    day = bounds(Period.DAY, tenant.zone, at)
    facts = {"scope": "tenant", "period": "day", "limit_ticks": 10 * USD, "hard_ticks": 10 * USD, **bound}
    step = {"model": "", "decision": "refused", "starts_at": day.starts_at.isoformat(), **facts}
    key = ApiKeyFactory.create(tenant=tenant)
    steps = [{"model": "grok", "decision": "does_not_fit", "hold_ticks": 5}, step]
    call = Call(id=new_id(), request_id="r", tenant=tenant, key=key, at=at, outcome="refused", code="budget_exceeded")
    call.steps = steps
    Call.objects.bulk_create([call])
    Rollup.objects.create(tenant=tenant, bucket=bucket_of(at), refused=1)


def test_a_budget_that_refuses_is_used_up_though_its_last_tick_is_not_spent(tenant: Tenant) -> None:
    window_of(tenant, 9.95)
    look_at_all(NOON)
    assert told(kind=AlertKind.THRESHOLD) == [50, 80]
    refuse(tenant)
    look_at_all(NOON + timedelta(seconds=30))
    assert told(kind=AlertKind.THRESHOLD) == [50, 80, 100]
    text = text_of(Alert.objects.get(percent=100))
    assert "9.9500 USD of 10.0000 USD are spent. Calls that need more than what is left are refused." in text


def try_out(channel: AlertChannel) -> Any:
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    address = reverse("admin:tenants_alertchannel_send_test", args=[channel.pk])
    return client.post(address, {"_form_submitted": "True"})


def test_a_channel_is_tried_out(tenant: Tenant, sink: Sink) -> None:
    answer = try_out(webhook(tenant, sink.url))
    assert answer["HX-Redirect"]
    (received,) = sink.received
    assert "A test of the guard's alerts of acme: 50 % of the daily budget" in received.json["message"]
    assert not Alert.objects.exists()


def test_a_channel_that_fails_says_why(tenant: Tenant, sink: Sink) -> None:
    sink.status = 500
    assert b"It did not arrive: answered 500" in try_out(webhook(None, sink.url)).content


def moved(tenant: Tenant, zone: str, spent_usd: float) -> Window:
    """The tenant's window of today once it is in another zone."""
    tenant.time_zone = zone
    tenant.save()
    return window_of(tenant, spent_usd)


def test_the_same_money_is_not_told_twice_when_the_tenant_moves(tenant: Tenant) -> None:
    Rollup.objects.create(tenant=tenant, bucket=NOON - timedelta(hours=1), cost_ticks=9 * USD)
    window_of(tenant, 9)
    look_at_changed(NOON)
    assert told() == [50, 80]
    look_at_all(NOON)
    there = moved(tenant, "Europe/Oslo", 9)
    later = NOON + timedelta(minutes=5)
    assert look_at_changed(later) == []
    assert look_at_all(later) == []
    spend(there, 10)
    assert [alert.percent for alert in look_at_changed(later)] == [100]


def test_other_money_is_told_after_a_move(tenant: Tenant) -> None:
    """What was told of was spent before the day began where the tenant is now."""
    Rollup.objects.create(tenant=tenant, bucket=NOON - timedelta(hours=11), cost_ticks=9 * USD)
    window_of(tenant, 9)
    look_at_changed(NOON)
    assert told() == [50, 80]
    moved(tenant, "America/New_York", 5)
    assert [alert.percent for alert in look_at_changed(NOON + timedelta(hours=1))] == [50]


def test_a_limit_that_is_changed_after_a_move_is_told_of(tenant: Tenant) -> None:
    Rollup.objects.create(tenant=tenant, bucket=NOON - timedelta(hours=1), cost_ticks=9 * USD)
    window_of(tenant, 9)
    look_at_changed(NOON)
    moved(tenant, "Europe/Oslo", 9)
    assert look_at_changed(NOON + timedelta(minutes=5)) == []
    Budget.objects.update(limit_ticks=11 * USD)
    look_at_all(NOON + timedelta(minutes=6))
    Budget.objects.update(limit_ticks=10 * USD)
    assert 50 in [alert.percent for alert in look_at_all(NOON + timedelta(minutes=7))]


@pytest.mark.django_db
def test_an_alert_is_told_in_one_zone() -> None:
    tenant = TenantFactory.create(id="york", time_zone="America/New_York")
    BudgetFactory.create(tenant=tenant, limit_ticks=10 * USD)
    window_of(tenant, 5)
    look_at_all(NOON)
    text = text_of(Alert.objects.get(percent=50))
    assert "As of 2026-05-20 08:00 America/New_York. A new period starts on 2026-05-21 00:00." in text


def test_a_refusal_under_another_limit_or_hard_cap_tells_nothing(tenant: Tenant) -> None:
    window_of(tenant, 9)
    refuse(tenant, hard_ticks=9 * USD)
    look_at_all(NOON)
    assert told(kind=AlertKind.THRESHOLD) == [50, 80]
    tenant.budgets.update(limit_ticks=1000 * USD, soft_cap="0.001")
    look_at_all(NOON + timedelta(seconds=30))
    assert told(limit_ticks=1000 * USD) == []


def test_a_refusal_in_another_period_or_of_another_budget_tells_nothing(tenant: Tenant) -> None:
    window_of(tenant, 9)
    refuse(tenant, NOON, starts_at=bounds(Period.DAY, tenant.zone, NOON - timedelta(days=1)).starts_at.isoformat())
    refuse(TenantFactory.create(id="other"))
    look_at_all(NOON)
    assert told(tenant_id="acme", kind=AlertKind.THRESHOLD) == [50, 80]


def test_a_customers_refusal_is_not_its_tenants(tenant: Tenant) -> None:
    window_of(tenant, 9)
    refuse(tenant, scope="customer")
    look_at_all(NOON)
    assert told(kind=AlertKind.THRESHOLD) == [50, 80]


def test_a_call_too_large_for_an_open_budget_tells_nothing(tenant: Tenant) -> None:
    window_of(tenant, 7.9)
    refuse(tenant)
    look_at_all(NOON)
    assert told(kind=AlertKind.THRESHOLD) == [50]


def test_an_installation_that_refuses_is_used_up(tenant: Tenant) -> None:
    BudgetFactory.create(tenant=None, scope=Scope.INSTALLATION, limit_ticks=10 * USD)
    window_of(tenant, 9, tenant_id="", scope=Scope.INSTALLATION)
    refuse(tenant, scope="installation")
    look_at_all(NOON)
    assert told(tenant_id="", kind=AlertKind.THRESHOLD) == [50, 80, 100]


def test_a_refusal_of_the_running_guard_is_told(guard_server: Callable[..., GuardServer], provider: Provider) -> None:
    server = guard_server(start=False)
    with server.database():
        key = ApiKeyFactory.create(tenant__id="acme")
        RouteStepFactory.create(tenant=key.tenant, model=CatalogueModelFactory.create(id="any-model"))
        BudgetFactory.create(tenant=key.tenant, limit_ticks=1000)
        day = bounds(Period.DAY, key.tenant.zone, timezone.now())
        window_of(key.tenant, 0.9 * 1000 / USD, starts_at=day.starts_at, ends_at=day.ends_at)
    server.start()
    body = {"model": "auto", "messages": [{"role": "user", "content": "Hello"}]}
    assert server.client_of(key.secret).post("/v1/chat/completions", json=body).status_code == 429
    with server.database():
        eventually(Call.objects.exists)
        look_at_all(timezone.now())
        assert told(kind=AlertKind.THRESHOLD) == [50, 80, 100]


def test_a_forecast_is_told_once_when_the_rate_is_too_high(tenant: Tenant) -> None:
    tenant.budgets.update(alert_percents="")
    window = window_of(tenant, 4.9)
    look_at_all(NOON)
    assert told() == []
    look_at_all(NOON - timedelta(hours=10))  # too early to say
    assert told() == []
    spend(window, 5.1)
    look_at_all(NOON)
    look_at_all(NOON + timedelta(minutes=1))
    assert [alert.kind for alert in Alert.objects.all()] == ["forecast"]


def test_a_spike_is_an_hour_of_over_three_times_the_usual(tenant: Tenant) -> None:
    for hours in range(1, 49):
        Rollup.objects.create(tenant=tenant, bucket=NOON - timedelta(hours=hours), cost_ticks=USD // 10)
    now = NOON + timedelta(minutes=20)
    rollup = Rollup.objects.create(tenant=tenant, bucket=NOON, cost_ticks=3 * USD // 10)
    assert look_at_all(now) == []
    Rollup.objects.filter(pk=rollup.pk).update(cost_ticks=3 * USD // 10 + 1)
    assert [alert.kind for alert in look_at_all(now)] == ["spike"]
    assert look_at_all(now + timedelta(minutes=1)) == []


def test_a_tenant_that_slept_for_days_has_a_usual_hour_of_nothing(tenant: Tenant) -> None:
    Rollup.objects.create(tenant=tenant, bucket=NOON - timedelta(days=10), cost_ticks=USD)
    Rollup.objects.create(tenant=tenant, bucket=NOON - timedelta(hours=2), cost_ticks=USD // 100)
    Rollup.objects.create(tenant=tenant, bucket=NOON, cost_ticks=500 * USD)
    assert [alert.kind for alert in look_at_all(NOON + timedelta(minutes=20))] == ["spike"]


def test_a_new_tenant_has_no_usual_hour(tenant: Tenant) -> None:
    Rollup.objects.create(tenant=tenant, bucket=NOON - timedelta(hours=1), cost_ticks=USD)
    Rollup.objects.create(tenant=tenant, bucket=NOON, cost_ticks=50 * USD)
    assert look_at_all(NOON + timedelta(minutes=20)) == []


@pytest.mark.parametrize("text", ["0", "101", "half", "50;80", "50,"])
def test_percents_that_make_no_sense_are_refused(text: str, tenant: Tenant) -> None:
    budget = tenant.budgets.get()
    budget.alert_percents = text
    with pytest.raises(ValidationError) as error:
        budget.full_clean()
    assert "alert_percents" in error.value.message_dict


def test_percents_are_read_in_order() -> None:
    assert percents_of(" 100,50 , 80,50") == (50, 80, 100)
    assert percents_of("  ") == ()


def test_channels_of_the_tenant_and_of_the_installation_are_told(tenant: Tenant) -> None:
    webhook(tenant, "https://one.example/")
    webhook(None, "https://all.example/")
    webhook(TenantFactory.create(id="other"), "https://other.example/")
    AlertChannel.objects.create(tenant=tenant, target="off@example.com", is_active=False)
    window_of(tenant, 6)
    look_at_changed(NOON)
    assert sorted(Delivery.objects.values_list("channel__target", flat=True)) == [
        "https://all.example/",
        "https://one.example/",
    ]


@on_postgres
@pytest.mark.django_db(transaction=True)
def test_many_passes_at_once_tell_each_channel_once() -> None:
    """With the constraint taken out the same passes tell several times: the race is real."""
    tenant = TenantFactory.create(id="acme")
    webhook(tenant, "https://one.example/")

    def alert() -> Alert:
        return Alert(
            tenant_id="acme", scope="tenant", period="day", starts_at=NOON, kind="threshold", percent=50,
            limit_ticks=USD, spent_ticks=USD, at=NOON,
        )  # fmt: skip

    constraint = Alert._meta.constraints[0]
    with connection.schema_editor() as editor:
        editor.remove_constraint(Alert, constraint)
    try:
        counts = [
            sum(at_once(8, lambda: len(tell([alert()])))) for _ in range(5) if not Alert.objects.all().delete()[0]
        ]
        assert max(counts) > 1
    finally:
        Alert.objects.all().delete()
        with connection.schema_editor() as editor:
            editor.add_constraint(Alert, constraint)
    for _ in range(5):
        assert sum(at_once(8, lambda: len(tell([alert()])))) == 1
        assert Delivery.objects.count() == 1
        Alert.objects.all().delete()


@on_postgres
@pytest.mark.django_db(transaction=True)
def test_many_dispatchers_and_workers_send_once(sink: Sink) -> None:
    tenant = TenantFactory.create(id="acme")
    BudgetFactory.create(tenant=tenant, limit_ticks=10 * USD)
    webhook(tenant, sink.url)
    window_of(tenant, 10)
    look_at_changed(NOON)
    at_once(6, dispatch, timezone.now())
    at_once(4, deliver_all)
    assert sorted(received.json["percent"] for received in sink.received) == [50, 80, 100]


@pytest.mark.django_db(transaction=True)
class TestDeliveries:
    def test_a_webhook_is_signed_and_says_it_all(self, tenant: Tenant, sink: Sink) -> None:
        channel = webhook(tenant, sink.url)
        window_of(tenant, 5)
        look_at_changed(NOON)
        deliver_all()
        (received,) = sink.received
        timestamp = received.headers["X-Guard-Timestamp"]
        assert (
            received.headers["X-Guard-Signature"] == f"sha256={signature_of(channel.secret, timestamp, received.body)}"
        )
        assert received.json.items() >= {
            "kind": "threshold", "tenantId": "acme", "scope": "tenant", "scopeId": "acme", "period": "day",
            "percent": 50, "limitUsd": "10.00", "spentUsd": "5.00", "resetsAt": "2026-05-21T00:00:00+00:00",
        }.items()  # fmt: skip
        assert Delivery.objects.get().state == DeliveryState.DELIVERED
        deliver_all()
        assert len(sink.received) == 1
        assert received.json["url"] is None

    def test_an_email_is_sent(self, tenant: Tenant) -> None:
        AlertChannel.objects.create(tenant=tenant, target="ann@example.com, bob@example.com")
        window_of(tenant, 5)
        look_at_changed(NOON)
        deliver_all()
        (message,) = mail.outbox
        assert message.to == ["ann@example.com", "bob@example.com"]
        assert message.subject == "acme: 50 % of the daily budget is used"
        assert "5.0000 USD of 10.0000 USD are spent. As of 2026-05-20 12:00 UTC." in message.body
        assert "http" not in message.body

    def test_each_leads_to_the_tenants_page(self, tenant: Tenant, sink: Sink, settings: Any) -> None:
        settings.PUBLIC_URL = "https://guard.example:8443"
        page = settings.PUBLIC_URL + reverse("tenant", args=[tenant.id])
        AlertChannel.objects.create(tenant=tenant, target="ann@example.com")
        AlertChannel.objects.create(tenant=tenant, kind=ChannelKind.SLACK, target=sink.url)
        webhook(tenant, sink.url)
        window_of(tenant, 5)
        look_at_changed(NOON)
        deliver_all()
        assert mail.outbox[0].body.endswith(f"\n\n{page}")
        slack, signed = sorted((received.json for received in sink.received), key=len)
        assert slack["text"].endswith(f"\n{page}")
        assert signed["url"] == page
        assert link_of(Alert()) == settings.PUBLIC_URL + reverse("overview")

    def test_slack_is_sent_text(self, tenant: Tenant, sink: Sink) -> None:
        AlertChannel.objects.create(tenant=tenant, kind=ChannelKind.SLACK, target=sink.url)
        window_of(tenant, 5)
        look_at_changed(NOON)
        deliver_all()
        assert sink.received[0].json["text"].startswith("*acme: 50 % of the daily budget is used*")

    def test_slack_is_sent_no_markup_of_a_customers_making(self, tenant: Tenant, sink: Sink) -> None:
        BudgetFactory.create(tenant=tenant, scope=Scope.CUSTOMER, limit_ticks=USD)
        AlertChannel.objects.create(tenant=tenant, kind=ChannelKind.SLACK, target=sink.url)
        window_of(tenant, 0.6, scope=Scope.CUSTOMER, subject="<!channel> R&D")
        look_at_changed(NOON)
        deliver_all()
        assert "customer &lt;!channel&gt; R&amp;D" in sink.received[0].json["text"]

    def test_a_mail_server_that_is_down_fails_the_attempt_and_nothing_else(self, tenant: Tenant, settings: Any) -> None:
        settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
        settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", 9
        AlertChannel.objects.create(tenant=tenant, target="ann@example.com")
        window_of(tenant, 5)
        look_at_changed(NOON)
        deliver_all()
        delivery = Delivery.objects.get()
        assert (delivery.state, delivery.attempts) == (DeliveryState.PENDING, 1)
        assert "refused" in delivery.last_error
        assert DBTaskResult.objects.get().status == "SUCCESSFUL"

    def test_a_channel_that_is_down_loses_nothing(self, tenant: Tenant, sink: Sink) -> None:
        webhook(tenant, sink.url)
        window_of(tenant, 10)
        look_at_changed(NOON)
        sink.status = 503
        deliver_all()
        assert len(sink.received) == 1  # the other two are put off with it
        assert Delivery.objects.filter(state=DeliveryState.PENDING).count() == 3
        deliver_all()
        assert len(sink.received) == 1
        sink.status = 204
        deliver_all(timezone.now() + timedelta(seconds=6))
        assert sorted(each.json["percent"] for each in sink.received[1:]) == [50, 80, 100]
        assert Delivery.objects.filter(state=DeliveryState.DELIVERED).count() == 3

    def test_a_channel_that_is_down_keeps_no_other_waiting(self, tenant: Tenant, sink: Sink) -> None:
        webhook(tenant, "http://127.0.0.1:9/")
        webhook(tenant, sink.url)
        window_of(tenant, 10)
        look_at_changed(NOON)
        deliver_all()
        assert len(sink.received) == 3

    def test_a_redirect_is_not_followed(self, tenant: Tenant, sink: Sink) -> None:
        webhook(tenant, sink.url)
        window_of(tenant, 5)
        look_at_changed(NOON)
        sink.status, sink.headers = 302, {"Location": f"{sink.url}/internal"}
        deliver_all()
        assert [received.path for received in sink.received] == ["/"]
        assert Delivery.objects.get().last_error == "answered 302, which sends elsewhere, and that is not followed"

    def test_an_answer_that_never_ends_is_not_read(self, tenant: Tenant) -> None:
        """Without its status the delivery would be tried again and again; with its body never come to an end."""
        with dripping_server(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n") as url:
            webhook(tenant, url)
            window_of(tenant, 10)
            look_at_changed(NOON)
            deliver_all()
        assert Delivery.objects.filter(state=DeliveryState.DELIVERED).count() == 3

    @pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nX-Drip: "], ids=["status", "headers"])
    def test_a_status_that_drips_in_is_given_up_at_the_deadline(self, answer: bytes) -> None:
        with dripping_server(answer) as url, pytest.raises(UndeliveredError, match="Timeout"):
            post(url, b"{}", {}, within_s=0.5)

    def test_a_channel_gives_way_to_others_when_its_turn_is_over(self, tenant: Tenant, sink: Sink) -> None:
        webhook(tenant, sink.url)
        window_of(tenant, 10)
        look_at_changed(NOON)
        lease = timezone.now() + LEASE
        Delivery.objects.update(due_at=lease)
        assert deliver.func(AlertChannel.objects.get().pk, lease.isoformat(), turn_s=-1) == "0 delivered"
        deliver_all()
        assert len(sink.received) == 3

    @pytest.mark.parametrize("target", ["http://[", "http://no.such.host.invalid/"])
    def test_an_address_that_leads_nowhere_fails_the_attempt(self, target: str) -> None:
        with pytest.raises(UndeliveredError):
            post(target, b"{}", {})

    def test_waits_double_up_to_an_hour_and_end(self, tenant: Tenant, sink: Sink) -> None:
        assert [wait_after(attempt).total_seconds() for attempt in (1, 2, 3, 11, 12, 30)] == [
            5,
            10,
            20,
            3600,
            3600,
            3600,
        ]
        webhook(tenant, sink.url)
        window_of(tenant, 5)
        look_at_changed(NOON)
        Delivery.objects.update(attempts=MOST_ATTEMPTS - 1)
        sink.status = 500
        deliver_all()
        assert Delivery.objects.get().state == DeliveryState.FAILED

    def test_a_worker_that_dies_leaves_the_delivery_to_the_next(self, tenant: Tenant, sink: Sink) -> None:
        webhook(tenant, sink.url)
        window_of(tenant, 5)
        look_at_changed(NOON)
        dispatch(timezone.now())
        DBTaskResult.objects.all().delete()  # taken, and never heard of again
        deliver_all()
        assert sink.received == []
        deliver_all(timezone.now() + LEASE + timedelta(seconds=1))
        assert len(sink.received) == 1

    def test_an_attempt_belongs_to_one_worker(self, tenant: Tenant) -> None:
        webhook(tenant, "https://hook.example/")
        window_of(tenant, 5)
        look_at_changed(NOON)
        delivery = Delivery.objects.get()
        claimed = Delivery.objects.filter(due_at=delivery.due_at)
        assert begin(delivery, claimed)
        assert not begin(delivery, claimed)

    def test_a_channel_turned_off_meanwhile_is_left_alone(self, tenant: Tenant, sink: Sink) -> None:
        channel = webhook(tenant, sink.url)
        window_of(tenant, 5)
        look_at_changed(NOON)
        AlertChannel.objects.filter(pk=channel.pk).update(is_active=False)
        deliver_all()
        assert sink.received == []
        assert Delivery.objects.get().state == DeliveryState.FAILED

    def test_sent_again_on_request(self, tenant: Tenant, sink: Sink) -> None:
        webhook(tenant, sink.url)
        window_of(tenant, 5)
        look_at_changed(NOON)
        deliver_all()
        assert resend(Delivery.objects.all(), timezone.now()) == 1
        deliver_all()
        assert len(sink.received) == 2


def test_what_is_told_and_over_is_forgotten_after_three_months(tenant: Tenant) -> None:
    channel = webhook(tenant, "https://hook.example/")
    long_ago = NOON - timedelta(days=94)
    told = {"tenant_id": "acme", "scope": "tenant", "kind": "threshold", "spent_ticks": 1, "starts_at": long_ago}
    for percent, (period, at, ends_at, state) in enumerate(
        [
            ("day", long_ago, long_ago + timedelta(hours=1), "delivered"),
            ("day", long_ago, long_ago + timedelta(hours=1), "pending"),
            ("week", long_ago, NOON, "failed"),
            ("total", long_ago, None, "delivered"),
            ("day", NOON, NOON, "delivered"),
        ]
    ):
        alert = Alert.objects.create(**told, percent=percent, period=period, at=at, ends_at=ends_at)
        Delivery.objects.create(alert=alert, channel=channel, state=state, due_at=at)
    assert forget(NOON) == 4
    assert sorted(Alert.objects.values_list("percent", flat=True)) == [1, 2, 3, 4]
    assert sorted(Delivery.objects.values_list("alert__percent", flat=True)) == [1, 4]


def test_operators_set_channels_see_alerts_and_send_again(client: Client, tenant: Tenant) -> None:
    client.force_login(UserFactory.create(is_staff=True, is_superuser=True))
    form = {"tenant": "acme", "kind": "webhook", "target": "https://hook.example/secret-path", "is_active": "on"}
    assert client.post("/admin/tenants/alertchannel/add/", form).status_code == 302
    channel = AlertChannel.objects.get()
    assert channel.secret in client.get(f"/admin/tenants/alertchannel/{channel.pk}/change/").content.decode()
    assert client.post("/admin/tenants/alertchannel/add/", {**form, "target": "no address"}).status_code == 200
    auditor = UserFactory.create(is_staff=True)
    auditor.groups.add(role("auditor"))
    reader = Client()
    reader.force_login(auditor)
    seen = reader.get(f"/admin/tenants/alertchannel/{channel.pk}/change/").content.decode()
    assert "hook.example" in seen
    assert channel.secret not in seen
    assert "secret-path" not in seen
    window_of(tenant, 5)
    look_at_changed(NOON)
    assert "50 % of the daily budget is used" in client.get("/admin/spend/alert/").content.decode()
    Delivery.objects.update(state=DeliveryState.FAILED, last_error="answered 500")
    page = client.get("/admin/spend/delivery/").content.decode()
    assert "answered 500" in page
    assert "secret-path" not in page
    delivery = Delivery.objects.get()
    client.post("/admin/spend/delivery/", {"action": "send_again", "_selected_action": [delivery.pk]})
    assert Delivery.objects.get().state == DeliveryState.PENDING


SLACK = "https://hooks.slack.example/services/T0/B0/secret-path"


def test_no_address_of_a_channel_is_in_the_trail(client: Client, tenant: Tenant) -> None:
    client.force_login(UserFactory.create(is_staff=True, is_superuser=True))
    form = {"tenant": "acme", "kind": "slack", "target": SLACK, "is_active": "on"}
    client.post("/admin/tenants/alertchannel/add/", form)
    channel = AlertChannel.objects.get()
    client.post(f"/admin/tenants/alertchannel/{channel.pk}/change/", {**form, "target": f"{SLACK}2"})
    client.post(f"/admin/tenants/alertchannel/{channel.pk}/delete/", {"post": "yes"})
    entries = LogEntry.objects.get_for_model(AlertChannel)
    assert sorted(entries.values_list("action", flat=True)) == [0, 1, 2]
    assert all(entry.changes["target"] for entry in entries)
    assert "secret-path" not in str(list(LogEntry.objects.values()))
    assert "https://hooks.slack.example/…" in str(list(entries.values()))


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        ("ann@example.com, bob@example.com", "ann@example.com, bob@example.com"),
        ("http://ann:secret@hook.example:81?key=secret", "http://hook.example:81/…"),
        ("https://hook.example#secret", "https://hook.example/…"),
        ("None", "None"),
    ],
)
def test_of_an_address_the_trail_shows_the_host(target: str, shown: str) -> None:
    assert without_address(target) == shown


@pytest.mark.django_db
def test_addresses_that_the_trail_had_before_are_masked() -> None:
    of = ContentType.objects.get_for_model(AlertChannel)
    entry = LogEntry.objects.create(
        content_type=of,
        object_pk="1",
        object_repr="x",
        action=1,
        changes={"target": ["None", SLACK], "kind": ["a", "b"]},
    )
    migration = import_module("tenants.migrations.0003_no_addresses_in_the_trail")
    migration.mask(apps, SimpleNamespace(connection=connection))
    entry.refresh_from_db()
    assert entry.changes == {"target": ["None", "https://hooks.slack.example/…"], "kind": ["a", "b"]}


def test_calls_that_cross_thresholds_are_told_while_the_server_runs(
    guard_server: Callable[..., GuardServer], provider: Provider, sink: Sink
) -> None:
    server = guard_server(start=False, BACKGROUND="true")
    with server.database():
        key = ApiKeyFactory.create()
        RouteStepFactory.create(tenant=key.tenant, model=CatalogueModelFactory.create(id="any-model"))
        BudgetFactory.create(tenant=key.tenant, limit_ticks=USD // 100)
        webhook(key.tenant, sink.url)
    server.start()
    provider.behave(usage={"prompt_tokens": 10, "completion_tokens": 100, "total_tokens": 110})
    agent = server.client_of(key.secret)
    body = {"model": "auto", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 100}
    statuses = {agent.post("/v1/chat/completions", json=body).status_code for _ in range(60)}
    assert statuses == {200, 429}
    # The limit is never reached to the tick; a refusal tells that it is used up, within the minute.
    eventually(lambda: {50, 80} <= {each.json["percent"] for each in list(sink.received)})
    percents = [each.json["percent"] for each in sink.received]
    assert len(percents) == len(set(percents))
