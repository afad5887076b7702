"""The number that every change raises, by which workers notice it, and what changed each time."""

from django.db import models
from django.db.models.functions import Now


class Revision(models.Model):
    """One row that counts changes of the configuration; see `tenants.trail`."""

    number = models.BigIntegerField(default=1)
    changed_at = models.DateTimeField(db_default=Now())

    def __str__(self) -> str:
        return str(self.number)

    @classmethod
    def current(cls) -> int:
        return cls.objects.filter(pk=1).values_list("number", flat=True).first() or 0


class Change(models.Model):
    """What raised the revision to a number: so a worker reads what has changed, and not everything anew.

    Written in the change's own transaction, in which nobody else raises the revision: so each number has one. Those
    that every worker has long read are deleted on the way; a worker that finds one missing reads everything.
    """

    KEPT = 1000

    number = models.BigIntegerField(primary_key=True)
    table = models.CharField(max_length=100, blank=True)
    tenant_id = models.CharField(max_length=100, blank=True)

    def __str__(self) -> str:
        return f"{self.number}: {self.table} {self.tenant_id}"
