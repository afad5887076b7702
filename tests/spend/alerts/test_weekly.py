"""The weekly summary: on Monday at eight where the person is, to who asked for it, once, whatever runs at once."""

import re
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core import mail
from django.test import Client
from django.utils import timezone

from spend.alerts import weekly
from spend.alerts.weekly import dispatch, forget, owe, send_summary
from spend.models import DeliveryState, Outcome, Route, WeeklySummary
from tenants.models import Profile, Tenant
from tenants.money import TICKS_PER_USD
from tests.factories import ApiKeyFactory, TenantFactory, UserFactory
from tests.support.history import place_call

pytestmark = pytest.mark.django_db

MONDAY = datetime(2026, 5, 18, tzinfo=UTC)
"""In New York it is eight at noon in UTC."""
EIGHT = MONDAY.replace(hour=12)
USD = TICKS_PER_USD


@pytest.fixture
def shop() -> Tenant:
    tenant = TenantFactory.create(id="shop", name="Shop & Sons", time_zone="Europe/Oslo")
    key = ApiKeyFactory.create(tenant=tenant)
    week = MONDAY + timedelta(hours=4)  # midnight in New York
    for days_ago, usd, customer in ((1, 3, "<ann>"), (7, 1, "ben"), (8, 2, "ben"), (0, 50, "late")):
        place_call(tenant, key, week - timedelta(days=days_ago), cost_ticks=usd * USD, customer=customer)
    place_call(tenant, key, week - timedelta(days=2), outcome=Outcome.REFUSED, model="")
    return tenant


@pytest.fixture
def maria(shop: Tenant) -> User:
    user: User = UserFactory.create(username="maria", email="maria@example.com", password=None)
    shop.members.add(user)
    Profile.objects.create(user=user, time_zone="America/New_York", weekly_since=MONDAY - timedelta(days=30))
    return user


def work(now: datetime) -> None:
    """What the background does, until nothing is queued."""
    owe(now)
    dispatch(now)
    _send_all()


def _send_all() -> None:
    for row in WeeklySummary.objects.filter(state=DeliveryState.PENDING):
        send_summary.func(row.pk, row.due_at.isoformat())


def test_it_comes_on_monday_at_eight_where_the_person_is(maria: User) -> None:
    work(EIGHT - timedelta(minutes=1))
    assert mail.outbox == []
    work(EIGHT)
    (message,) = mail.outbox
    assert message.to == ["maria@example.com"]
    assert WeeklySummary.objects.get().week == date(2026, 5, 11)


def test_it_compares_the_week_with_the_one_before_and_says_what_to_do(maria: User, settings: Any) -> None:
    settings.PUBLIC_URL = "https://guard.example"
    work(EIGHT)
    (message,) = mail.outbox
    assert message.subject == "Your week from 11.05. to 17.05.2026: $4.00 spent"
    text = str(message.body)
    assert "Shop & Sons: $4.00, $2.00 (100 %) more than the week before" in text
    assert "3 calls, 1 refused" in text
    assert "Customers: <ann> $3.00, ben $1.00" in text
    assert "Calls were turned away." in text
    assert "Spend rose by more than a quarter." in text
    assert "https://guard.example/tenants/shop/" in text
    assert "https://guard.example/profile/" in text
    ((page, kind),) = message.alternatives  # type: ignore[attr-defined]
    assert kind == "text/html"
    assert "&lt;ann&gt;" in page
    assert "Shop &amp; Sons" in page


def test_it_never_comes_twice(maria: User) -> None:
    for minutes in (0, 5, 600, 1440):
        work(EIGHT + timedelta(minutes=minutes))
    row = WeeklySummary.objects.get()
    send_summary.func(row.pk, row.due_at.isoformat())
    assert len(mail.outbox) == 1


def test_the_next_week_is_another(maria: User) -> None:
    work(EIGHT)
    work(EIGHT + timedelta(days=7))
    assert len(mail.outbox) == 2


def test_two_who_claim_it_at_once_queue_it_once(maria: User) -> None:
    owe(EIGHT)
    assert [dispatch(EIGHT), dispatch(EIGHT)] == [1, 0]


def test_a_worker_that_dies_while_it_sends_does_not_make_it_come_twice(
    maria: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    owe(EIGHT)
    row = WeeklySummary.objects.get()

    class Dead(Exception):
        pass

    class Message:
        def send(self) -> None:
            mail.outbox.append(None)  # type: ignore[arg-type]
            raise Dead

    monkeypatch.setattr(weekly, "message_of", lambda _: Message())
    with pytest.raises(Dead):
        send_summary.func(row.pk, row.due_at.isoformat())
    dispatch(EIGHT + timedelta(hours=1))
    _send_all()
    assert len(mail.outbox) == 1


def test_a_server_that_refuses_is_asked_again(maria: User, settings: Any) -> None:
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", 1
    work(EIGHT)
    row = WeeklySummary.objects.get()
    assert (row.state, row.attempts, row.delivered_at) == (DeliveryState.PENDING, 1, None)
    assert row.last_error
    settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
    _send_all()
    assert len(mail.outbox) == 1
    row.refresh_from_db()
    assert (row.state, row.attempts) == (DeliveryState.DELIVERED, 2)


@pytest.mark.parametrize(
    "change",
    [
        {"email": ""},
        {"is_active": False},
    ],
)
def test_who_cannot_be_written_to_is_not(maria: User, change: dict[str, Any]) -> None:
    User.objects.filter(pk=maria.pk).update(**change)
    work(EIGHT)
    assert mail.outbox == []


def test_who_did_not_ask_or_asked_after_eight_gets_none_this_week(maria: User) -> None:
    for since in (None, EIGHT + timedelta(seconds=1)):
        Profile.objects.update(weekly_since=since)
        work(EIGHT + timedelta(minutes=1))
    assert mail.outbox == []


def test_a_week_that_nothing_ran_for_is_not_told_days_later(maria: User) -> None:
    work(EIGHT + timedelta(days=2))
    assert mail.outbox == []


def test_a_member_of_no_tenant_gets_nothing_and_staff_get_all(maria: User, shop: Tenant) -> None:
    shop.members.clear()
    work(EIGHT)
    assert mail.outbox == []
    WeeklySummary.objects.all().delete()
    User.objects.update(is_staff=True)
    work(EIGHT)
    assert len(mail.outbox) == 1


def test_downgraded_answers_say_what_they_saved(maria: User, shop: Tenant) -> None:
    place_call(shop, shop.keys.get(), MONDAY - timedelta(days=1), route=Route.DOWNGRADE, cost_ticks=USD)
    work(EIGHT)
    assert "1 answered by a cheaper model" in str(mail.outbox[0].body)


def test_old_ones_are_forgotten(maria: User) -> None:
    work(EIGHT)
    assert forget(EIGHT + timedelta(days=80)) == 0
    assert forget(EIGHT + timedelta(days=120)) == 1


# The profile page


def test_a_profile_is_saved_and_its_hour_of_asking_kept(maria: User) -> None:
    Profile.objects.all().delete()
    client = Client()
    client.force_login(maria)
    assert "Europe/Oslo" in client.get("/profile/").content.decode()  # of the first tenant
    saved = client.post("/profile/", {"time_zone": "Asia/Tokyo", "weekly": "on"}, follow=True).content.decode()
    assert "Saved." in saved
    assert re.search(r"Now it is\s+Asia/Tokyo", saved)
    first = Profile.objects.get()
    assert first.weekly_since is not None
    assert timezone.now() - first.weekly_since < timedelta(minutes=1)
    client.post("/profile/", {"time_zone": "Asia/Tokyo", "weekly": "on"})
    assert Profile.objects.get().weekly_since == first.weekly_since
    client.post("/profile/", {"time_zone": ""})
    assert (Profile.objects.get().time_zone, Profile.objects.get().weekly_since) == ("", None)


def test_a_zone_that_is_none_changes_nothing(maria: User) -> None:
    client = Client()
    client.force_login(maria)
    said = client.post("/profile/", {"time_zone": "Moon/Base"}).content.decode()
    assert "Nothing was changed." in said
    assert Profile.objects.get().time_zone == "America/New_York"
