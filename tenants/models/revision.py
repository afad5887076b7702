"""The number that every change raises, by which workers notice it."""

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
