"""Alerts and their deliveries."""

from django.conf import settings
from django.db import models
from django.db.models import Q

from spend.ids import new_id
from spend.models.ledger import WINDOW_KEY
from spend.models.vocabulary import AlertKind, DeliveryState
from tenants.fields import TicksField
from tenants.models import AlertChannel, Scope
from tenants.periods import BEGINNING, Period


class Alert(models.Model):
    """Something channels were told: once for each window, arming, kind and percent, which the constraint sees to.

    Keyed like a window, so a new period arms everything again; and by when the window was armed last, which
    a changed limit or hard cap does.
    """

    id = models.UUIDField(primary_key=True, default=new_id)
    tenant_id = models.CharField(max_length=64, blank=True, help_text="Empty for the whole installation.")
    scope = models.CharField(max_length=12, choices=Scope)
    subject = models.CharField(max_length=255, blank=True)
    period = models.CharField(max_length=5, choices=Period)
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField(null=True)
    kind = models.CharField(max_length=32, choices=AlertKind)
    percent = models.PositiveSmallIntegerField(default=0)
    limit_ticks = TicksField("limit", default=0)
    armed_at = models.DateTimeField(default=BEGINNING, db_default=BEGINNING)
    spent_ticks = TicksField("spent")
    at = models.DateTimeField()

    class Meta:
        ordering = ["-at"]
        constraints = [
            models.UniqueConstraint(
                fields=[*WINDOW_KEY, "kind", "percent", "limit_ticks", "armed_at"],
                name="told_once",
            )
        ]
        indexes = [models.Index(fields=["at"], name="alert_by_time")]

    def __str__(self) -> str:
        of = " ".join(filter(None, [self.tenant_id or "installation", self.subject]))
        return f"{self.get_kind_display()} {of} {self.at:%Y-%m-%d %H:%M}"


class WeeklySummary(models.Model):
    """A mail that tells somebody of a week; one a person and week, which the constraint sees to.

    `spend.alerts.weekly` sends it. It is marked delivered before it leaves, so that it never leaves twice.
    """

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="weekly_summaries")
    week = models.DateField(help_text="The Monday on which it began, in the person's own zone.")
    state = models.CharField(max_length=9, choices=DeliveryState, default=DeliveryState.PENDING)
    attempts = models.PositiveSmallIntegerField(default=0)
    due_at = models.DateTimeField(help_text="When it is tried next; while it is being tried, when that is given up.")
    delivered_at = models.DateTimeField(null=True)
    last_error = models.CharField(max_length=300, blank=True)

    class Meta:
        ordering = ["-week", "user_id"]
        verbose_name_plural = "weekly summaries"
        constraints = [models.UniqueConstraint(fields=["user", "week"], name="each_week_once")]
        indexes = [models.Index(fields=["due_at"], condition=Q(state="pending"), name="summary_by_due")]

    def __str__(self) -> str:
        return f"week of {self.week} for {self.user}"


class Delivery(models.Model):
    """An alert on its way to a channel; `spend.alerts.deliveries` sends it, again and again until it arrives."""

    alert = models.ForeignKey(Alert, on_delete=models.CASCADE, related_name="deliveries")
    channel = models.ForeignKey(AlertChannel, on_delete=models.CASCADE, related_name="deliveries")
    state = models.CharField(max_length=9, choices=DeliveryState, default=DeliveryState.PENDING)
    attempts = models.PositiveSmallIntegerField(default=0)
    due_at = models.DateTimeField(help_text="When it is tried next; while it is being tried, when that is given up.")
    delivered_at = models.DateTimeField(null=True)
    last_error = models.CharField(max_length=300, blank=True)

    class Meta:
        ordering = ["-id"]
        verbose_name_plural = "deliveries"
        constraints = [models.UniqueConstraint(fields=["alert", "channel"], name="each_channel_told_once")]
        indexes = [models.Index(fields=["due_at"], condition=Q(state="pending"), name="pending_by_due")]

    def __str__(self) -> str:
        return f"{self.alert} to {self.channel}"
