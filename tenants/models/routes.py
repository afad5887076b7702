"""Which models a tenant's calls go to, and which it moves to past its soft cap."""

from django.core.exceptions import ValidationError
from django.db import models

from tenants.models.tenant import Tenant

ANY_MODEL = "*"


class RouteStep(models.Model):
    """One model on a tenant's route: position 0 is the primary, the rest are fallbacks in order."""

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="route_steps")
    position = models.PositiveSmallIntegerField(default=0)
    model = models.ForeignKey("spend.CatalogueModel", on_delete=models.PROTECT, related_name="+")

    class Meta:
        ordering = ["tenant_id", "position", "id"]
        constraints = [
            models.UniqueConstraint(
                fields=["tenant", "model"],
                name="each_model_once_on_a_route",
                violation_error_message="This model is already on the route.",
            )
        ]

    def __str__(self) -> str:
        return f"{self.position}: {self.model_id}"


class DowngradeRule(models.Model):
    """Past a soft cap, calls of one model (or of any) move to a cheaper one."""

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="downgrade_rules")
    from_model = models.ForeignKey(
        "spend.CatalogueModel",
        on_delete=models.PROTECT,
        related_name="+",
        null=True,
        blank=True,
        help_text="Empty for any model.",
    )
    to_model = models.ForeignKey("spend.CatalogueModel", on_delete=models.PROTECT, related_name="+")

    class Meta:
        ordering = ["tenant_id", "id"]
        constraints = [
            models.UniqueConstraint(
                fields=["tenant", "from_model", "to_model"],
                name="each_downgrade_once",
                violation_error_message="This downgrade exists already.",
            )
        ]

    def __str__(self) -> str:
        return f"{self.from_model_id or 'any model'} → {self.to_model_id}"

    @property
    def pair(self) -> tuple[str, str]:
        return self.from_model_id or ANY_MODEL, self.to_model_id

    def clean(self) -> None:
        if self.from_model_id == self.to_model_id:
            raise ValidationError({"to_model": "A downgrade leads to another model."})
