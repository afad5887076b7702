"""Windows, reservations and what became of calls, to the tick.

Windows, reservations, entries, calls and rollups are written by `spend.ledger.posting` only, in set-based
SQL; the classes here give them their schema and the pages something to query.  Their references to
tenants carry no database constraint: a check on every insert would lock the tenant's row.
"""

from typing import Any, NoReturn

from django.conf import settings
from django.db import models
from django.db.models import F, Q

from spend.models.catalogue import Price
from spend.models.providers import PROVIDER_NAME_LENGTH
from spend.models.vocabulary import Outcome, ReservationState, Route
from spend.names import TAGS_LENGTH
from tenants.fields import TicksField
from tenants.models import ApiKey, Scope, Tenant
from tenants.periods import BEGINNING, Period


def tags_field() -> "models.CharField[str, str]":
    """A call's tags, in order, separated by commas. By an older guard, which may run on meanwhile, it is left out."""
    return models.CharField(max_length=TAGS_LENGTH, blank=True, default="", db_default="")


WINDOW_KEY = ("tenant_id", "scope", "subject", "period", "starts_at")


class Window(models.Model):
    """One budget in one period: spent and held. A new period is a new row.

    Keyed by what it counts, not by the budget's row: it counts every call that falls in it from when it is
    made until it ends, also while it has no budget. So a budget that is edited, replaced or deleted and made
    again finds what was spent. `opening_ticks` is what the scope had already spent in the period when the
    window was first needed, `archived_ticks` what removed entries had counted against it; `spent_ticks`
    includes both. It may be less than the opening, where a late bill is less than an expired hold in it.
    """

    tenant_id = models.CharField(max_length=64, blank=True, help_text="Empty for the whole installation.")
    scope = models.CharField(max_length=12, choices=Scope)
    subject = models.CharField(max_length=255, blank=True, help_text="The key, customer or conversation.")
    period = models.CharField(max_length=5, choices=Period)
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField(null=True)
    opening_ticks = TicksField("opening", default=0)
    spent_ticks = TicksField("spent", default=0)
    held_ticks = TicksField("held", default=0)
    looked_ticks = TicksField("spent when alerts last looked", default=0, db_default=0)
    looked_limit_ticks = TicksField("limit when alerts last looked", default=0, db_default=0)
    looked_hard_ticks = TicksField("hard cap when alerts last looked", default=0, db_default=0)
    armed_at = models.DateTimeField(
        default=BEGINNING, db_default=BEGINNING, help_text="When alerts last saw another limit or hard cap."
    )
    archived_ticks = TicksField("spent by entries since removed", default=0, db_default=0)

    class Meta:
        ordering = ["-starts_at", "tenant_id"]
        indexes = [
            models.Index(fields=["id"], condition=Q(spent_ticks__gt=F("looked_ticks")), name="window_to_look_at"),
            models.Index(fields=["tenant_id", "scope", "subject", "ends_at"], name="window_by_end"),
        ]
        constraints = [
            models.UniqueConstraint(fields=WINDOW_KEY, name="one_window_a_period"),
            models.CheckConstraint(condition=Q(held_ticks__gte=0), name="held_not_negative"),
            models.CheckConstraint(condition=Q(spent_ticks__gte=0), name="spent_not_negative"),
        ]

    def __str__(self) -> str:
        return " ".join(filter(None, [self.tenant_id or "installation", self.scope, self.subject, self.period]))


class Attempted(models.Model):
    """Who called which model, the same in a reservation and in the entry that ends it."""

    call_id = models.UUIDField()
    request_id = models.CharField(max_length=128)
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, db_constraint=False, db_index=False)
    key = models.ForeignKey(ApiKey, on_delete=models.PROTECT, db_constraint=False, db_index=False)
    customer = models.CharField(max_length=255, blank=True)
    conversation = models.CharField(max_length=255, blank=True)
    tags = tags_field()
    provider = models.CharField(max_length=PROVIDER_NAME_LENGTH)
    model = models.CharField(max_length=100)
    requested_model = models.CharField(max_length=100)
    route = models.CharField(max_length=9, choices=Route)
    price = models.ForeignKey(Price, on_delete=models.PROTECT, db_constraint=False, db_index=False)
    step = models.PositiveSmallIntegerField(
        default=0, db_default=0,
        help_text="The highest step of a budget that had a say: 1 is a soft cap, 0 is none.",
    )  # fmt: skip

    class Meta:
        abstract = True


class Reservation(Attempted):
    """The worst-case cost of one attempt, counted against every window in `window_ids`."""

    id = models.UUIDField(primary_key=True)
    state = models.CharField(max_length=8, choices=ReservationState, default=ReservationState.PENDING)
    hold_ticks = TicksField("hold")
    max_tokens = models.PositiveIntegerField(help_text="Output tokens that the hold pays for.")
    window_ids = models.JSONField(default=list)
    created_at = models.DateTimeField()
    lease_expires_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-created_at"]
        indexes = [
            models.Index(fields=["lease_expires_at"], condition=Q(state="pending"), name="pending_by_lease"),
            models.Index(fields=["call_id"], name="reservation_by_call"),
            models.Index(fields=["tenant", "created_at"], condition=Q(state="voided"), name="voided_by_tenant"),
        ]

    def __str__(self) -> str:
        return f"{self.model} {self.state}"


class AppendOnly(models.Model):
    """Rows that are written once. Corrections are further rows."""

    class Meta:
        abstract = True

    def save(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(f"{type(self).__name__} is append-only and written by spend.ledger.posting.")

    def delete(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(f"{type(self).__name__} is append-only.")


class LedgerEntry(AppendOnly, Attempted):
    """What one attempt cost. `at` is when its hold was made, so entry and window agree on the period."""

    reservation = models.OneToOneField(
        Reservation, primary_key=True, on_delete=models.PROTECT, db_constraint=False, related_name="entry"
    )
    at = models.DateTimeField()
    cost_ticks = TicksField("cost")
    hold_ticks = TicksField("hold")
    computed_ticks = TicksField("cost by our own figures", null=True, help_text="Empty where usage is unknown.")
    provider_ticks = TicksField("cost by the provider's figure", null=True)
    input_tokens = models.PositiveIntegerField(default=0)
    cached_input_tokens = models.PositiveIntegerField(default=0)
    cache_write_tokens = models.PositiveIntegerField(default=0)
    output_tokens = models.PositiveIntegerField(default=0)
    reasoning_tokens = models.PositiveIntegerField(default=0)
    is_estimated = models.BooleanField(default=False, help_text="The provider's bill is unknown.")
    is_overrun = models.BooleanField(default=False, help_text="The provider billed more than was held.")
    is_expired = models.BooleanField(default=False, help_text="Settled at the hold when its lease ended.")
    is_usage_impossible = models.BooleanField(
        "impossible usage",
        default=False,
        db_default=False,
        help_text="The provider gave figures that no call can have. They were counted instead.",
    )
    duration_ms = models.PositiveIntegerField(default=0)
    corrects_id = models.UUIDField(
        null=True, help_text="The expired entry that this one's cost brings to the bill, which came late."
    )

    class Meta:
        ordering = ["-at"]
        verbose_name_plural = "ledger entries"
        indexes = [
            models.Index(fields=["tenant", "at"], name="entry_by_tenant"),
            models.Index(fields=["tenant", "customer", "at"], condition=~Q(customer=""), name="entry_by_customer"),
            models.Index(
                fields=["tenant", "conversation", "at"], condition=~Q(conversation=""), name="entry_by_conversation"
            ),
            models.Index(fields=["call_id"], name="entry_by_call"),
            models.Index(fields=["at"], condition=Q(is_overrun=True) | Q(is_expired=True), name="entry_to_review"),
            models.Index(fields=["at"], condition=Q(is_usage_impossible=True), name="entry_impossible"),
            models.Index(fields=["at"], condition=Q(is_estimated=True), name="entry_estimated"),
        ]

    def __str__(self) -> str:
        return f"{self.model} {self.at:%Y-%m-%d %H:%M:%S}"


class Review(models.Model):
    """An operator's word that an entry whose bill is unknown, or above its hold, was looked into."""

    entry = models.OneToOneField(
        LedgerEntry, primary_key=True, on_delete=models.PROTECT, db_constraint=False, related_name="review"
    )
    by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")
    at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"review of {self.entry_id}"


class Call(AppendOnly):
    """One guarded call, served or not: the story that its reservations and entries belong to."""

    id = models.UUIDField(primary_key=True)
    request_id = models.CharField(max_length=128, db_index=True)
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, db_constraint=False, db_index=False)
    key = models.ForeignKey(ApiKey, on_delete=models.PROTECT, db_constraint=False, db_index=False)
    customer = models.CharField(max_length=255, blank=True)
    conversation = models.CharField(max_length=255, blank=True)
    tags = tags_field()
    at = models.DateTimeField()
    requested_model = models.CharField(max_length=100)
    model = models.CharField(max_length=100, blank=True, help_text="The model that served, or that was charged for.")
    route = models.CharField(max_length=9, choices=Route, blank=True)
    outcome = models.CharField(max_length=7, choices=Outcome)
    code = models.CharField(max_length=32, blank=True, help_text="The error's code.")
    cost_ticks = TicksField("cost", default=0)
    duration_ms = models.PositiveIntegerField(default=0)
    steps = models.JSONField(default=list, help_text="Why the route went as it did, in order.")
    asked = models.JSONField(
        null=True, help_text="How much was asked for, so that the call can be planned again under other settings."
    )

    class Meta:
        ordering = ["-at"]
        # The pages list calls newest first within one of these, and page by (at, id); or dearest first.
        indexes = [
            models.Index(fields=["tenant", "at", "id"], name="call_by_tenant"),
            models.Index(fields=["tenant", "model", "at", "id"], name="call_by_model"),
            models.Index(fields=["tenant", "key", "at", "id"], name="call_by_key"),
            models.Index(fields=["tenant", "cost_ticks", "id"], condition=Q(cost_ticks__gt=0), name="call_by_cost"),
            models.Index(fields=["tenant", "customer", "at", "id"], condition=~Q(customer=""), name="call_by_customer"),
            models.Index(
                fields=["tenant", "conversation", "at", "id"],
                condition=~Q(conversation=""),
                name="call_by_conversation",
            ),
            models.Index(
                fields=["tenant", "outcome", "at", "id"], condition=~Q(outcome="served"), name="call_not_served"
            ),
            models.Index(
                fields=["tenant", "route", "at", "id"],
                condition=Q(route__in=["downgrade", "fallback"]),
                name="call_rerouted",
            ),
        ]

    def __str__(self) -> str:
        return self.request_id
