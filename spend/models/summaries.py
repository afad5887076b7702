"""Sums: of quarters of an hour, of days, and of what was removed."""

from django.db import models

from spend.models.vocabulary import Route
from spend.names import MOST_TAG_CHARACTERS
from tenants.fields import TicksField
from tenants.models import ApiKey, Scope, Tenant


class Rollup(models.Model):
    """Sums of entries and calls in a quarter of an hour, raised in the transaction that writes them.

    Every zone's midnight falls on a quarter of an hour UTC, so a tenant's days are sums of buckets.
    Tokens, cost and attempts come from entries; served, refused, failed and handed off from calls. Those that were not
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
    handoff = models.PositiveBigIntegerField("handed off", default=0, db_default=0)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["tenant", "bucket", "model", "route"], name="one_rollup_a_bucket")
        ]
        indexes = [models.Index(fields=["bucket"], name="rollup_by_bucket")]

    def __str__(self) -> str:
        return f"{self.tenant_id} {self.bucket:%Y-%m-%d %H:%M} {self.model}"


class TagRollup(models.Model):
    """What calls with a tag came to in a quarter of an hour, raised in the transaction that writes them.

    A call with several tags counts under each. Calls are those with a model, as the sums are theirs: see `Rollup`.
    """

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, db_constraint=False, db_index=False)
    bucket = models.DateTimeField()
    tag = models.CharField(max_length=MOST_TAG_CHARACTERS)
    attempts = models.PositiveBigIntegerField(default=0)
    cost_ticks = TicksField("cost", default=0)
    input_tokens = models.PositiveBigIntegerField(default=0)
    output_tokens = models.PositiveBigIntegerField(default=0)
    calls = models.PositiveBigIntegerField(default=0)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["tenant", "bucket", "tag"], name="one_tag_a_bucket")]
        indexes = [models.Index(fields=["bucket"], name="tag_by_bucket")]

    def __str__(self) -> str:
        return f"{self.tenant_id} {self.bucket:%Y-%m-%d %H:%M} {self.tag}"


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
    handoff = models.PositiveBigIntegerField("handed off", default=0, db_default=0)

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


class DailyKey(models.Model):
    """What was called with one API key in a day of the tenant's own zone, up to the tenant's mark."""

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, db_constraint=False, db_index=False)
    day = models.DateField()
    key = models.ForeignKey(ApiKey, on_delete=models.PROTECT, db_constraint=False, db_index=False, related_name="+")
    calls = models.PositiveBigIntegerField(default=0)
    cost_ticks = TicksField("cost", default=0)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["tenant", "day", "key"], name="one_key_a_day")]

    def __str__(self) -> str:
        return f"{self.tenant_id} {self.day} key {self.key_id}"


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
