"""Where a tenant's alerts go."""

import secrets
from urllib.parse import urlsplit

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import URLValidator, validate_email
from django.db import models

from tenants.models.tenant import Tenant
from tenants.targets import WHERE_TO_ALLOW, literal_address, refusal_of


class ChannelKind(models.TextChoices):
    EMAIL = "email", "email"
    SLACK = "slack", "Slack webhook"
    WEBHOOK = "webhook", "signed webhook"


def new_secret() -> str:
    return secrets.token_urlsafe(32)


class AlertChannel(models.Model):
    """Where alerts of a tenant, or of everything, are told."""

    tenant = models.ForeignKey(
        Tenant,
        on_delete=models.CASCADE,
        null=True,
        blank=True,
        related_name="alert_channels",
        help_text="Empty to be told of every tenant, and of the whole installation.",
    )
    kind = models.CharField(max_length=7, choices=ChannelKind, default=ChannelKind.EMAIL)
    target = models.CharField(
        max_length=500, help_text="Email addresses separated by commas, or the webhook's https address."
    )
    secret = models.CharField(
        max_length=64, default=new_secret, editable=False, help_text="Signs what is sent to a signed webhook."
    )
    is_active = models.BooleanField(default=True)

    class Meta:
        ordering = ["tenant_id", "id"]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} to {self.shown_target}"

    @property
    def shown_target(self) -> str:
        """A webhook's address may be its password: the host says enough."""
        return self.target if self.kind == ChannelKind.EMAIL else str(urlsplit(self.target).hostname)

    @property
    def addresses(self) -> list[str]:
        return [address.strip() for address in self.target.split(",") if address.strip()]

    def clean(self) -> None:
        check = validate_email if self.kind == ChannelKind.EMAIL else URLValidator(["http", "https"])
        try:
            for target in self.addresses if self.kind == ChannelKind.EMAIL else [self.target]:
                check(target)
        except ValidationError as error:
            raise ValidationError({"target": error.messages}) from error
        if self.kind != ChannelKind.EMAIL and self.is_active:
            self._check_literal()

    def _check_literal(self) -> None:
        """An address that is no name is known already; where a name leads is looked up each time that it is sent to."""
        host = urlsplit(self.target).hostname or ""
        address = literal_address(host)
        if address and (kind := refusal_of(host, address, settings.ALLOW_PRIVATE_TARGETS)):
            raise ValidationError({"target": f"{host} is {kind}: {WHERE_TO_ALLOW}"})
