"""What providers say that they bill, beside what the ledger has of the same days."""

from django.db import models

from spend.models.providers import PROVIDER_NAME_LENGTH
from tenants.fields import TicksField


class InvoiceSource(models.TextChoices):
    REPORT = "report", "the provider's report"
    FILE = "file", "a file"


class DayOfModel(models.Model):
    """A model, by the provider's own name, on a day of UTC, in which providers report."""

    provider = models.CharField(max_length=PROVIDER_NAME_LENGTH)
    day = models.DateField()
    model = models.CharField(max_length=200)
    cost_ticks = TicksField("cost")

    class Meta:
        abstract = True

    def __str__(self) -> str:
        return f"{self.provider} {self.day} {self.model}"


class InvoicedDay(DayOfModel):
    """What the provider bills for it. Below zero: a credit."""

    source = models.CharField(max_length=6, choices=InvoiceSource)
    taken_at = models.DateTimeField()

    class Meta(DayOfModel.Meta):
        ordering = ["-day", "provider", "model"]
        constraints = [models.UniqueConstraint(fields=["provider", "day", "model"], name="invoiced_once")]


class LedgerDay(DayOfModel):
    """What the ledger has of it, of all tenants; made anew whenever the two are compared."""

    attempts = models.PositiveBigIntegerField()
    uncertain = models.PositiveBigIntegerField(help_text="Attempts whose bill is unknown: estimated, or held in full.")
    uncertain_ticks = TicksField("what was counted for those")

    class Meta(DayOfModel.Meta):
        constraints = [models.UniqueConstraint(fields=["provider", "day", "model"], name="summed_once")]
