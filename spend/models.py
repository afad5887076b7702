"""What happened: the model catalogue and its prices, windows, reservations and the ledger.

Windows, reservations, entries, calls and rollups are written by `spend.ledger.posting` only, in set-based
SQL; the classes here give them their schema and the pages something to query.  Their references to
tenants carry no database constraint: a check on every insert would lock the tenant's row.
"""

from datetime import UTC, date, datetime
from typing import Any, NoReturn

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.db.models import F, Q

from spend.capabilities import Capabilities, Lesson, LessonKind, of_family
from spend.failure_words import words_of
from spend.ids import new_id
from tenants.fields import NamesField, TicksField, TokenPriceField
from tenants.models import AlertChannel, ApiKey, Scope, Tenant
from tenants.periods import BEGINNING, Period

AUTO = "auto"
"""What a call names for its tenant's route, instead of a model."""
AUTO_IS_TAKEN = f"{AUTO!r} is what calls name for the route; no model can have it."


def is_shut_down(shutdown_on: date | None, now: datetime) -> bool:
    """Whether a model's last day is over in UTC. On that day it may still answer: nobody says at what hour it ends."""
    return shutdown_on is not None and shutdown_on < now.astimezone(UTC).date()


def validate_id_characters(value: Any) -> None:
    limits = value.items() if isinstance(value, dict) else [("", None)]
    if not all(type(most) is int and most > 0 for _, most in limits):
        raise ValidationError('Must be like {"tool_call_id": 40}, with whole numbers above 0.')


class Provider(models.TextChoices):
    XAI = "xai", "xAI"
    OPENAI = "openai", "OpenAI"
    DEMO = "demo", "demo"


class CatalogueModel(models.Model):
    """A model that calls can name, and what bounds a call's worst case on it."""

    id = models.CharField(
        primary_key=True,
        max_length=100,
        validators=[RegexValidator(r"^[A-Za-z0-9][A-Za-z0-9._:/-]*\Z", "Letters, digits and . _ : / - only.")],
    )
    provider = models.CharField(max_length=10, choices=Provider)
    upstream_name = models.CharField(max_length=100, help_text="The provider's own name for the model.")
    context_tokens = models.PositiveIntegerField(default=128_000, validators=[MinValueValidator(1)])
    max_output_tokens = models.PositiveIntegerField(default=16_384, validators=[MinValueValidator(1)])
    reasoning_allowance_tokens = models.PositiveIntegerField(
        default=0,
        help_text="Output tokens held on top of a call's maximum, where the provider bills reasoning beyond it. "
        "Raised by itself when a bill shows more.",
    )
    input_allowance_percent = models.PositiveIntegerField(
        default=100,
        help_text="Input held, in percent of the text's own bound. Raised by itself when the bill of a long text shows "
        "more, and once no bill needed it for 30 days again what an operator set, or 100.",
    )
    input_surplus_tokens = models.PositiveIntegerField(
        default=0,
        db_default=0,
        help_text="Input held on top of that, for a provider's own prompt. Raised by itself when a bill shows more, "
        "and once no bill needed it for 30 days again what an operator set, or 0.",
    )
    input_raised_at = models.DateTimeField(
        null=True, editable=False, help_text="When a bill last raised or needed these two; empty where none did."
    )
    image_allowance_tokens = models.PositiveIntegerField(
        null=True, blank=True, help_text="Most input tokens one image can cost. Empty: images are refused."
    )
    answer_timeout_s = models.PositiveIntegerField(
        "answer timeout in seconds",
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(3600)],
        help_text="How long it may think before its first token, or before a whole answer. "
        "Empty: PROVIDER_TIMEOUT_SECONDS.",
    )
    is_enabled = models.BooleanField(default=True)
    shutdown_on = models.DateField(null=True, blank=True, help_text="The day on which the provider ends the model.")
    refused_parameters = NamesField(
        help_text="What it refuses: parameters by their names, json_schema, images. Where the guard chose the model, "
        "those that don't change a request's meaning are left out, and a request that needs another goes elsewhere."
    )
    refused_while_reasoning = NamesField(help_text="The same, unless reasoning_effort is none.")
    reasoning_efforts = NamesField(help_text="The values of reasoning_effort that it takes. Empty: nobody knows.")
    default_reasoning_effort = models.CharField(
        max_length=20, blank=True, help_text="What it does without one. Empty: nobody knows."
    )
    message_fields = NamesField(
        null=True,
        default=None,
        help_text="Fields of messages that it takes beyond the standard ones; others are left out. Empty: any.",
    )
    id_characters = models.JSONField(
        default=dict,
        blank=True,
        help_text="The most characters of ids, by their names (and tool_call_id); longer ones are sent as a digest.",
    )
    thinks_within_maximum = models.BooleanField(
        default=False, help_text="Its reasoning counts against the maximum of output tokens."
    )

    class Meta:
        ordering = ["id"]
        verbose_name = "model"

    def __str__(self) -> str:
        return self.id

    def save(self, *args: Any, **kwargs: Any) -> None:
        if self._state.adding and self.capabilities == Capabilities():
            self.capabilities = of_family(self.upstream_name)
        super().save(*args, **kwargs)

    def clean(self) -> None:
        if self.id == AUTO and self._state.adding:
            raise ValidationError({"id": AUTO_IS_TAKEN})
        validate_id_characters(self.id_characters)  # a field's validators pass over what is empty, a list, too

    @property
    def capabilities(self) -> Capabilities:
        """Those of its family, or as an operator changed them; without what was learned."""
        return Capabilities(
            refused=frozenset(self.refused_parameters),
            refused_while_reasoning=frozenset(self.refused_while_reasoning),
            efforts=tuple(self.reasoning_efforts),
            default_effort=self.default_reasoning_effort,
            message_fields=None if self.message_fields is None else frozenset(self.message_fields),
            id_characters=tuple(sorted(self.id_characters.items())),
            thinks_within_maximum=self.thinks_within_maximum,
        )

    @capabilities.setter
    def capabilities(self, known: Capabilities) -> None:
        self.refused_parameters = sorted(known.refused)
        self.refused_while_reasoning = sorted(known.refused_while_reasoning)
        self.reasoning_efforts = list(known.efforts)
        self.default_reasoning_effort = known.default_effort
        self.message_fields = None if known.message_fields is None else sorted(known.message_fields)
        self.id_characters = dict(known.id_characters)
        self.thinks_within_maximum = known.thinks_within_maximum


class LearnedCapability(models.Model):
    """What an answer of a model taught of it. Deleted, it is unlearned; a later call may teach it again."""

    model = models.ForeignKey(CatalogueModel, on_delete=models.CASCADE, related_name="learned")
    kind = models.CharField(max_length=24, choices=[(kind.value, kind.value.replace("_", " ")) for kind in LessonKind])
    name = models.CharField(max_length=100, blank=True)
    figure = models.PositiveIntegerField(default=0, help_text="Of a limit: how many.")
    learned_at = models.DateTimeField()
    words = models.CharField(max_length=300, blank=True, help_text="How the provider put it.")

    class Meta:
        ordering = ["model_id", "-learned_at"]
        verbose_name = "learned capability"
        verbose_name_plural = "learned capabilities"
        constraints = [models.UniqueConstraint(fields=["model", "kind", "name"], name="each_lesson_once")]

    def __str__(self) -> str:
        return " ".join(filter(None, [self.get_kind_display(), self.name, f"{self.figure:,}" if self.figure else ""]))

    @property
    def lesson(self) -> Lesson:
        return Lesson(LessonKind(self.kind), self.name, self.figure)


class PriceSource(models.TextChoices):
    CATALOGUE = "catalogue", "price catalogue"
    OPERATOR = "operator", "operator"


class Price(models.Model):
    """A model's price from an instant on. Its figures are in its tiers.

    An operator's price wins over the catalogue's, whichever started later, until it is ended.
    """

    model = models.ForeignKey(CatalogueModel, on_delete=models.PROTECT, related_name="prices")
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField(
        null=True, blank=True, help_text="When an operator went back to the catalogue's price. Empty: never."
    )
    source = models.CharField(max_length=10, choices=PriceSource, default=PriceSource.OPERATOR)

    class Meta:
        ordering = ["model_id", "-starts_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["model", "source", "starts_at"],
                name="one_price_a_start",
                violation_error_message="This model already has a price from that instant.",
            )
        ]

    def __str__(self) -> str:
        return f"{self.model_id} from {self.starts_at:%Y-%m-%d %H:%M} UTC"

    def may_hold_at(self, at: datetime) -> bool:
        """Whether it has started and was not ended; which of those wins is another question."""
        return self.starts_at <= at and (self.ends_at is None or at < self.ends_at)


class PriceTier(models.Model):
    """Prices of a request whose input has more than `above_tokens` tokens; they price all of it."""

    price = models.ForeignKey(Price, on_delete=models.CASCADE, related_name="tiers")
    above_tokens = models.PositiveIntegerField(default=0, help_text="0 for the base price.")
    input_ticks = TokenPriceField("input (USD per million)", validators=[MinValueValidator(0)])
    cached_input_ticks = TokenPriceField("cached input (USD per million)", validators=[MinValueValidator(0)])
    cache_write_ticks = TokenPriceField(
        "cache write (USD per million)",
        null=True,
        blank=True,
        validators=[MinValueValidator(0)],
        help_text="For providers that bill writing to their cache. Empty: as input.",
    )
    output_ticks = TokenPriceField("output (USD per million)", validators=[MinValueValidator(0)])

    class Meta:
        ordering = ["price_id", "above_tokens"]
        constraints = [models.UniqueConstraint(fields=["price", "above_tokens"], name="each_tier_once")]

    def __str__(self) -> str:
        return f"above {self.above_tokens:,} tokens" if self.above_tokens else "base"


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


class Route(models.TextChoices):
    """Why this model served: it was asked for, policy chose a cheaper one, or a provider failed."""

    PRIMARY = "primary", "primary"
    DOWNGRADE = "downgrade", "downgrade"
    FALLBACK = "fallback", "fallback"


class Attempted(models.Model):
    """Who called which model, the same in a reservation and in the entry that ends it."""

    call_id = models.UUIDField()
    request_id = models.CharField(max_length=128)
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, db_constraint=False, db_index=False)
    key = models.ForeignKey(ApiKey, on_delete=models.PROTECT, db_constraint=False, db_index=False)
    customer = models.CharField(max_length=255, blank=True)
    conversation = models.CharField(max_length=255, blank=True)
    provider = models.CharField(max_length=10, choices=Provider)
    model = models.CharField(max_length=100)
    requested_model = models.CharField(max_length=100)
    route = models.CharField(max_length=9, choices=Route)
    price = models.ForeignKey(Price, on_delete=models.PROTECT, db_constraint=False, db_index=False)

    class Meta:
        abstract = True


class ReservationState(models.TextChoices):
    PENDING = "pending", "pending"
    SETTLED = "settled", "settled"
    VOIDED = "voided", "voided"
    EXPIRED = "expired", "expired"


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


class Outcome(models.TextChoices):
    SERVED = "served", "served"
    REFUSED = "refused", "refused"
    FAILED = "failed", "failed"


class Call(AppendOnly):
    """One guarded call, served or not: the story that its reservations and entries belong to."""

    id = models.UUIDField(primary_key=True)
    request_id = models.CharField(max_length=128, db_index=True)
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, db_constraint=False, db_index=False)
    key = models.ForeignKey(ApiKey, on_delete=models.PROTECT, db_constraint=False, db_index=False)
    customer = models.CharField(max_length=255, blank=True)
    conversation = models.CharField(max_length=255, blank=True)
    at = models.DateTimeField()
    requested_model = models.CharField(max_length=100)
    model = models.CharField(max_length=100, blank=True, help_text="The model that served, or that was charged for.")
    route = models.CharField(max_length=9, choices=Route, blank=True)
    outcome = models.CharField(max_length=7, choices=Outcome)
    code = models.CharField(max_length=32, blank=True, help_text="The error's code.")
    cost_ticks = TicksField("cost", default=0)
    duration_ms = models.PositiveIntegerField(default=0)
    steps = models.JSONField(default=list, help_text="Why the route went as it did, in order.")

    class Meta:
        ordering = ["-at"]
        # The pages list calls newest first within one of these, and page by (at, id).
        indexes = [
            models.Index(fields=["tenant", "at", "id"], name="call_by_tenant"),
            models.Index(fields=["tenant", "model", "at", "id"], name="call_by_model"),
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


class CallContent(models.Model):
    """What was said in a served call, encrypted; kept for the tenant's `content_days`.

    `body` is sealed JSON: `{"messages": …, "answer": [choice, …]}`, each cut where it is very long.
    """

    call_id = models.UUIDField(primary_key=True)
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, db_constraint=False, db_index=False)
    customer = models.CharField(max_length=255, blank=True)
    conversation = models.CharField(max_length=255, blank=True)
    at = models.DateTimeField()
    body = models.TextField()

    class Meta:
        # Auditors may see whatever can be viewed, but not this.
        default_permissions = ()
        permissions = [("read_callcontent", "Can read prompts and answers")]
        indexes = [
            models.Index(fields=["tenant", "at"], name="content_by_age"),
            models.Index(fields=["tenant", "customer"], condition=~Q(customer=""), name="content_by_customer"),
        ]

    def __str__(self) -> str:
        return f"what was said in {self.call_id}"


class IdempotentCall(models.Model):
    """A call made under an `Idempotency-Key`: in flight while `answer` is empty, then replayed from it."""

    tenant_id = models.CharField(max_length=64)
    key = models.CharField(max_length=255)
    body_digest = models.CharField(max_length=64)
    call_id = models.UUIDField()
    claimed_at = models.DateTimeField()
    answer = models.TextField(blank=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["tenant_id", "key"], name="one_call_an_idempotency_key")]
        indexes = [models.Index(fields=["claimed_at"], name="idempotent_call_by_age")]

    def __str__(self) -> str:
        return self.key


class CacheEntry(models.Model):
    """A row of Django's database cache, which counts requests; a model, so that `migrate` makes its table."""

    cache_key = models.CharField(primary_key=True, max_length=255)
    value = models.TextField()
    expires = models.DateTimeField(db_index=True)

    class Meta:
        db_table = "guard_cache"

    def __str__(self) -> str:
        return self.cache_key


class Rollup(models.Model):
    """Sums of entries and calls in a quarter of an hour, raised in the transaction that writes them.

    Every zone's midnight falls on a quarter of an hour UTC, so a tenant's days are sums of buckets.
    Tokens, cost and attempts come from entries; served, refused and failed from calls. Those that were not
    served have a model only where they were charged all the same: so the calls with a model are those that the
    sums are of.
    """

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, db_constraint=False, db_index=False)
    bucket = models.DateTimeField()
    model = models.CharField(max_length=100, blank=True)
    route = models.CharField(max_length=9, choices=Route, blank=True)
    attempts = models.PositiveBigIntegerField(default=0)
    cost_ticks = TicksField("cost", default=0)
    input_tokens = models.PositiveBigIntegerField(default=0)
    cached_input_tokens = models.PositiveBigIntegerField(default=0)
    output_tokens = models.PositiveBigIntegerField(default=0)
    reasoning_tokens = models.PositiveBigIntegerField(default=0)
    served = models.PositiveBigIntegerField(default=0)
    refused = models.PositiveBigIntegerField(default=0)
    failed = models.PositiveBigIntegerField(default=0)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["tenant", "bucket", "model", "route"], name="one_rollup_a_bucket")
        ]
        indexes = [models.Index(fields=["bucket"], name="rollup_by_bucket")]

    def __str__(self) -> str:
        return f"{self.tenant_id} {self.bucket:%Y-%m-%d %H:%M} {self.model}"


class DailyRollup(models.Model):
    """Rollups summed over a day of the tenant's own zone, up to its mark; `spend.summaries.daily` keeps them."""

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, db_constraint=False, db_index=False)
    day = models.DateField()
    model = models.CharField(max_length=100, blank=True)
    route = models.CharField(max_length=9, choices=Route, blank=True)
    attempts = models.PositiveBigIntegerField(default=0)
    cost_ticks = TicksField("cost", default=0)
    input_tokens = models.PositiveBigIntegerField(default=0)
    cached_input_tokens = models.PositiveBigIntegerField(default=0)
    output_tokens = models.PositiveBigIntegerField(default=0)
    reasoning_tokens = models.PositiveBigIntegerField(default=0)
    served = models.PositiveBigIntegerField(default=0)
    refused = models.PositiveBigIntegerField(default=0)
    failed = models.PositiveBigIntegerField(default=0)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["tenant", "day", "model", "route"], name="one_rollup_a_day")]

    def __str__(self) -> str:
        return f"{self.tenant_id} {self.day} {self.model}"


class DailyCustomer(models.Model):
    """What one customer cost in a day of the tenant's own zone, up to the tenant's mark."""

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, db_constraint=False, db_index=False)
    day = models.DateField()
    customer = models.CharField(max_length=255)
    attempts = models.PositiveBigIntegerField(default=0)
    cost_ticks = TicksField("cost", default=0)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["tenant", "day", "customer"], name="one_customer_a_day")]

    def __str__(self) -> str:
        return f"{self.tenant_id} {self.day} {self.customer}"


class ConversationTotal(models.Model):
    """What one conversation cost from its beginning up to the tenant's mark.

    There are about as many conversations as days of customers, and few last longer than a day; so each is
    kept once, under the day on which it began, and the dearest of a day can be read off an index.
    """

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, db_constraint=False, db_index=False)
    conversation = models.CharField(max_length=255)
    began_on = models.DateField(help_text="In the tenant's own zone.")
    attempts = models.PositiveBigIntegerField(default=0)
    cost_ticks = TicksField("cost", default=0)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["tenant", "conversation"], name="each_conversation_once")]
        indexes = [models.Index(fields=["tenant", "began_on", "cost_ticks"], name="conversation_by_cost")]

    def __str__(self) -> str:
        return f"{self.tenant_id} {self.conversation}"


class DailyDowngrade(models.Model):
    """A day's downgraded attempts: what they cost, and what the model asked for would have cost.

    `asked_ticks` prices each attempt's own tokens at the price that the model asked for had then.
    Attempts whose asked model had no price are in `unpriced` and nowhere else.
    """

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, db_constraint=False, db_index=False)
    day = models.DateField()
    requested_model = models.CharField(max_length=100)
    model = models.CharField(max_length=100)
    attempts = models.PositiveBigIntegerField(default=0)
    cost_ticks = TicksField("cost", default=0)
    asked_ticks = TicksField("cost at the model asked for", default=0)
    unpriced = models.PositiveBigIntegerField(default=0)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["tenant", "day", "requested_model", "model"], name="one_downgrade_a_day"),
        ]

    def __str__(self) -> str:
        return f"{self.tenant_id} {self.day} {self.requested_model} → {self.model}"


class RollupMark(models.Model):
    """How far a tenant's days are summed: all that happened before `through` is in them, nothing after.

    Single calls before `archived_through` are removed, or are just being removed; none after it are. It is
    the midnight on which `first_live_day` begins, in the zone that the tenant had then: earlier days cannot
    be summed anew.
    """

    tenant = models.OneToOneField(
        Tenant, primary_key=True, on_delete=models.CASCADE, db_constraint=False, related_name="rollup_mark"
    )
    time_zone = models.CharField(max_length=64, help_text="The zone whose days were summed.")
    through = models.DateTimeField()
    archived_through = models.DateTimeField(null=True)
    first_live_day = models.DateField(null=True)

    def __str__(self) -> str:
        return f"{self.tenant_id} through {self.through:%Y-%m-%d %H:%M} UTC"


class ArchivedSpend(models.Model):
    """What the removed entries of one scope had cost, keyed as windows are: budgets in total begin with it."""

    tenant_id = models.CharField(max_length=64, blank=True, help_text="Empty for the whole installation.")
    scope = models.CharField(max_length=12, choices=Scope)
    subject = models.CharField(max_length=255, blank=True, help_text="The key, customer or conversation.")
    entries = models.PositiveBigIntegerField(default=0)
    cost_ticks = TicksField("cost", default=0)

    class Meta:
        verbose_name_plural = "archived spend"
        constraints = [models.UniqueConstraint(fields=["tenant_id", "scope", "subject"], name="one_archive_a_scope")]

    def __str__(self) -> str:
        return " ".join(filter(None, [self.tenant_id or "installation", self.scope, self.subject]))


class Breaker(models.Model):
    """A model's circuit breaker, shared by all workers; `guard.policy.breaker` has its rules."""

    model = models.OneToOneField(CatalogueModel, primary_key=True, on_delete=models.CASCADE)
    failures = models.PositiveIntegerField(default=0, help_text="In a row.")
    only_tenant_id = models.CharField(
        "only for tenant",
        max_length=64,
        blank=True,
        default="",
        db_default="",
        help_text="Whose calls alone have failed: it is open to them only.",
    )
    opened_at = models.DateTimeField(null=True)
    probes = models.PositiveIntegerField(default=0, help_text="Let through since it half-opened.")
    successes = models.PositiveIntegerField(default=0, help_text="Of those probes.")
    probed_at = models.DateTimeField(null=True)
    last_failure = models.CharField(max_length=64, blank=True)
    last_failure_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return self.model_id

    @property
    def failure_words(self) -> str:
        return words_of(self.last_failure, self.model.provider)


class Schedule(models.Model):
    """When a periodic job is due next; `spend.schedule` gives it to one process each time."""

    job = models.CharField(primary_key=True, max_length=40)
    due_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["job"]
        verbose_name = "scheduled job"

    def __str__(self) -> str:
        return self.job


class AlertKind(models.TextChoices):
    THRESHOLD = "threshold", "threshold"
    FORECAST = "forecast", "forecast"
    SPIKE = "spike", "spike"


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
    kind = models.CharField(max_length=9, choices=AlertKind)
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


class DeliveryState(models.TextChoices):
    PENDING = "pending", "pending"
    DELIVERED = "delivered", "delivered"
    FAILED = "failed", "failed"


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
