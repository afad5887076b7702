"""Credentials: of agents for their tenant, and of operators for the API. Secrets are kept as hashes."""

import secrets
from datetime import datetime, timedelta
from hashlib import sha256

from django.conf import settings
from django.contrib.auth.models import User
from django.db import models, transaction

from tenants.models.tenant import Limited, Tenant

KEY_PREFIX = "grd_"
TOKEN_PREFIX = "gop_"  # noqa: S105
USE_NOTED_EVERY = timedelta(minutes=5)


class ApiKeyManager(models.Manager["ApiKey"]):
    def issue(
        self, tenant: Tenant, name: str = "", expires_at: datetime | None = None, **limits: int | None
    ) -> tuple["ApiKey", str]:
        """A new key and its secret, which is returned here once and stored only as a hash; `limits` as in Limited."""
        secret = KEY_PREFIX + secrets.token_urlsafe(32)
        key = self.create(
            tenant=tenant,
            name=name,
            expires_at=expires_at,
            digest=digest_of(secret),
            hint=secret[: len(KEY_PREFIX) + 4],
            **limits,
        )
        return key, secret

    def rotate(self, key: "ApiKey", now: datetime, overlap: timedelta) -> tuple["ApiKey", str]:
        """A key in the place of `key`, which goes on for `overlap` at most; and the new one's secret, shown once.

        It has the old one's name and limits, and lives as long as that was to live.
        """
        lifetime = key.expires_at - key.created_at if key.expires_at else None
        limits = {"requests_per_minute": key.requests_per_minute, "calls_in_flight": key.calls_in_flight}
        with transaction.atomic():
            issued = self.issue(key.tenant, key.name, now + lifetime if lifetime else None, **limits)
            key.expires_at = min(filter(None, [key.expires_at, now + overlap]))
            key.save(update_fields=["expires_at"])
        return issued


def digest_of(secret: str) -> str:
    """The stored form of a key. A plain hash suffices: the secret has 256 random bits."""
    return sha256(secret.encode()).hexdigest()


class ApiKey(Limited):
    """An agent's credential; it belongs to one tenant."""

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="keys")
    name = models.CharField(max_length=100, blank=True)
    hint = models.CharField(max_length=16, editable=False, help_text="The key's first characters.")
    digest = models.CharField(max_length=64, unique=True, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    objects = ApiKeyManager()

    class Meta:
        ordering = ["tenant_id", "id"]
        verbose_name = "API key"
        verbose_name_plural = "API keys"

    def __str__(self) -> str:
        return f"{self.name or 'key'} {self.hint}…"

    def revoke(self, now: datetime) -> None:
        """Stop the key, within a second on every worker. A second time changes nothing."""
        if self.revoked_at is None:
            self.revoked_at = now
            self.save()

    def is_valid_at(self, now: datetime) -> bool:
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


class OperatorTokenManager(models.Manager["OperatorToken"]):
    def issue(self, user: User, name: str, expires_at: datetime | None) -> tuple["OperatorToken", str]:
        """A new token and its secret, which is returned here once and stored only as a hash."""
        secret = TOKEN_PREFIX + secrets.token_urlsafe(32)
        hint = secret[: len(TOKEN_PREFIX) + 4]
        token = self.create(user=user, name=name, expires_at=expires_at, digest=digest_of(secret), hint=hint)
        return token, secret


class OperatorToken(models.Model):
    """A login's credential for the operators' API. It may what the login may, until it ends."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="operator_tokens")
    name = models.CharField(max_length=100, help_text="What uses it.")
    hint = models.CharField(max_length=16, editable=False, help_text="The token's first characters.")
    digest = models.CharField(max_length=64, unique=True, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)
    revoked_at = models.DateTimeField(null=True, blank=True)
    revoked_because = models.CharField(max_length=50, blank=True)

    objects = OperatorTokenManager()

    class Meta:
        ordering = ["user_id", "id"]

    def __str__(self) -> str:
        return f"{self.name} {self.hint}…"

    def revoke(self, now: datetime, because: str) -> None:
        """Stop the token for good. A second time changes nothing."""
        if self.revoked_at is None:
            self.revoked_at, self.revoked_because = now, because
            self.save(update_fields=["revoked_at", "revoked_because"])

    def is_valid_at(self, now: datetime) -> bool:
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)

    def note_use(self, now: datetime) -> None:
        """To some minutes, so that a busy token writes no row a call; an update, which leaves no trail."""
        if self.last_used_at is None or self.last_used_at <= now - USE_NOTED_EVERY:
            OperatorToken.objects.filter(pk=self.pk).update(last_used_at=now)
