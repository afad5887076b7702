"""What was said in calls, and answers that are kept to be given again."""

from django.db import models
from django.db.models import Q

from tenants.models import Tenant


class CallContent(models.Model):
    """What was said in a served call, encrypted; kept for the tenant's `content_days`.

    `body` is sealed JSON: `{"messages": …, "answer": [choice, …]}`, each cut where it is very long. `response` is of a
    call that can be gone on with by its response's id, uncut: see `spend.privacy.responses`. Either may be empty, as
    each is written by itself.
    """

    call_id = models.UUIDField(primary_key=True)
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, db_constraint=False, db_index=False)
    customer = models.CharField(max_length=255, blank=True)
    conversation = models.CharField(max_length=255, blank=True)
    at = models.DateTimeField()
    body = models.TextField()
    # By an older guard, which may run on while this column is added, it is left out.
    response = models.TextField(blank=True, default="", db_default="")

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
