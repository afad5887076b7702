"""What workers share beside the ledger: breakers, schedules, the cache."""

from django.db import models

from spend.codes import words_of
from spend.models.catalogue import CatalogueModel


class CacheEntry(models.Model):
    """A row of Django's database cache, which counts requests; a model, so that `migrate` makes its table."""

    cache_key = models.CharField(primary_key=True, max_length=255)
    value = models.TextField()
    expires = models.DateTimeField(db_index=True)

    class Meta:
        db_table = "guard_cache"

    def __str__(self) -> str:
        return self.cache_key


class Breaker(models.Model):
    """A model's circuit breaker, shared by all workers; `spend.breakers` has its rules."""

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
