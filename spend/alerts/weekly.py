"""The weekly summary: a mail to each who wants it, on Monday at eight in the person's own zone.

`owe` writes a row for each person whose Monday has come, inserted or, if it stands already, ignored; `dispatch`
claims what is due and queues a task for it, as `spend.alerts.deliveries` does for alerts. The task marks its row
delivered before the mail leaves and takes that back where the server refuses it. So whoever dies in the midst, a
mail may be lost, but none comes twice.
"""

from datetime import datetime, time, timedelta
from zoneinfo import ZoneInfo

from django.conf import settings
from django.contrib.auth.models import User
from django.core.mail import EmailMultiAlternatives
from django.db import transaction
from django.db.models import F, QuerySet
from django.template.loader import render_to_string
from django.utils import timezone
from django_tasks import task

from spend.alerts.deliveries import KEPT, LEASE, MOST_ATTEMPTS, QUEUE, wait_after
from spend.alerts.weekly_report import WeeklyReport, weekly_report
from spend.models import DeliveryState, WeeklySummary
from spend.schedule import enqueue
from tenants.models import Profile, zone_of

AT = time(8)
LATEST = timedelta(days=2)
"""After this the week is old: what nothing ran for is not told any more."""


def owe(now: datetime) -> int:
    """A row for each week that is over and is to be told now; how many are new."""
    wanting = Profile.objects.filter(weekly_since__lte=now, user__is_active=True).exclude(user__email="")
    rows = []
    for profile in wanting.select_related("user").iterator(500):
        zone = zone_of(profile.user)
        monday, due_at = monday_of(now, zone)
        if profile.weekly_since and profile.weekly_since <= due_at <= now < due_at + LATEST:
            rows.append(WeeklySummary(user=profile.user, week=monday - timedelta(days=7), due_at=now))
    before = WeeklySummary.objects.count()
    WeeklySummary.objects.bulk_create(rows, ignore_conflicts=True)
    return WeeklySummary.objects.count() - before


def monday_of(now: datetime, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """The midnight with which this week began in `zone`, and when the one before it is told."""
    today = now.astimezone(zone).date()
    monday = datetime.combine(today - timedelta(days=today.weekday()), time(), tzinfo=zone)
    return monday, datetime.combine(monday.date(), AT, tzinfo=zone)


def dispatch(now: datetime) -> int:
    """Queue a task for each summary that is due; how many."""
    return sum(_claim(pk, now) for pk in _due(now).values_list("pk", flat=True))


def _due(now: datetime) -> QuerySet[WeeklySummary]:
    return WeeklySummary.objects.filter(state=DeliveryState.PENDING, due_at__lte=now)


def _claim(pk: int, now: datetime) -> bool:
    lease = now + LEASE
    with transaction.atomic():
        if not _due(now).filter(pk=pk).update(due_at=lease):
            return False
        enqueue(send_summary.using(queue_name=QUEUE), pk, lease.isoformat())
    return True


@task
def send_summary(pk: int, lease: str) -> str:
    """Send the summary that was claimed by `lease`."""
    claimed = WeeklySummary.objects.filter(
        pk=pk, state=DeliveryState.PENDING, due_at=datetime.fromisoformat(lease)
    ).select_related("user")
    if not (summary := claimed.first()):
        return "another has it"
    if not (message := message_of(summary)):
        claimed.update(state=DeliveryState.FAILED, last_error="There is nobody to write to, or nothing to tell.")
        return "nothing to tell"
    if not claimed.update(state=DeliveryState.DELIVERED, attempts=F("attempts") + 1, delivered_at=timezone.now()):
        return "another has it"
    try:
        message.send()
    except OSError as error:  # every error of smtplib is one, and a broken connection too
        _put_off(summary, str(error) or type(error).__name__)
        return f"not delivered: {error}"
    return "delivered"


def _put_off(summary: WeeklySummary, why: str) -> None:
    attempts = summary.attempts + 1
    state = DeliveryState.PENDING if attempts < MOST_ATTEMPTS else DeliveryState.FAILED
    WeeklySummary.objects.filter(pk=summary.pk, attempts=attempts).update(
        state=state, due_at=timezone.now() + wait_after(attempts), delivered_at=None, last_error=why[:300]
    )


def message_of(summary: WeeklySummary) -> EmailMultiAlternatives | None:
    """The mail; None where the person has no address any more, or sees no tenant."""
    user: User = summary.user
    if not (user.is_active and user.email):
        return None
    report = weekly_report(user, summary.week, zone_of(user))
    if not report.tenants:
        return None
    context = {"report": report, "user": user, "url": settings.PUBLIC_URL}
    message = EmailMultiAlternatives(
        subject_of(report), render_to_string("spend/weekly_summary.txt", context), to=[user.email]
    )
    message.attach_alternative(render_to_string("spend/weekly_summary.html", context), "text/html")
    return message


def subject_of(report: WeeklyReport) -> str:
    return f"Your week from {report.first:%d.%m.} to {report.last:%d.%m.%Y}: {report.spent} spent"


def forget(now: datetime) -> int:
    """Delete what is older than KEPT; how many rows."""
    return WeeklySummary.objects.filter(week__lt=(now - KEPT).date()).delete()[0]
