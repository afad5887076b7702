"""What is allowed: tenants, their members, API keys, budgets and routes."""

import secrets
from datetime import datetime, timedelta
from decimal import Decimal
from hashlib import sha256
from typing import Self
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, available_timezones

from django.conf import settings
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator, URLValidator, validate_email
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from tenants.configured import LONGEST_TENANT_ID, TENANT_ID
from tenants.fields import TicksField
from tenants.money import usd_rounded
from tenants.periods import Period

KEY_PREFIX = "grd_"
TOKEN_PREFIX = "gop_"  # noqa: S105
USE_NOTED_EVERY = timedelta(minutes=5)

ANY_MODEL = "*"

SMALLEST_CAP = Decimal("0.0001")
MOST_PERCENT = 100
MOST_CONTENT_DAYS = 365

# Each call's time is kept for a minute: past this a limit costs more than what it is to prevent.
MOST_REQUESTS_PER_MINUTE = 10_000


def validate_time_zone(name: str) -> None:
    if name not in available_timezones():
        raise ValidationError(f"{name!r} is not an IANA time zone, such as Europe/Berlin.")


def percents_of(text: str) -> tuple[int, ...]:
    """The whole numbers in "50, 80, 100", in order. Raises ValueError."""
    return tuple(sorted({int(part) for part in text.split(",")})) if text.strip() else ()


def validate_percents(text: str) -> None:
    try:
        is_valid = all(1 <= percent <= MOST_PERCENT for percent in percents_of(text))
    except ValueError:
        is_valid = False
    if not is_valid:
        raise ValidationError(f"{text!r} is no list of whole percents from 1 to {MOST_PERCENT}, such as 50, 80, 100.")


class Limited(models.Model):
    """How fast calls may come, beside what they may cost; empty fields limit nothing."""

    requests_per_minute = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(MOST_REQUESTS_PER_MINUTE)],
        help_text="More calls than this within a minute are refused. Empty: as many as come.",
    )
    calls_in_flight = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="More calls than this at once are refused. Empty: as many as come.",
    )

    class Meta:
        abstract = True


class Tenant(Limited):
    """A business account. Its id is the `tenantId` that agents send."""

    id = models.CharField(
        primary_key=True,
        max_length=LONGEST_TENANT_ID,
        validators=[RegexValidator(TENANT_ID, "Letters, digits, dots, hyphens and underscores only.")],
    )
    name = models.CharField(max_length=200, blank=True)
    is_active = models.BooleanField(default=True, help_text="Calls of an inactive tenant are refused.")
    time_zone = models.CharField(
        max_length=64,
        default="UTC",
        validators=[validate_time_zone],
        help_text="IANA name; budgets start at midnight there.",
    )
    default_max_tokens = models.PositiveIntegerField(
        default=1024,
        validators=[MinValueValidator(1)],
        help_text="Output tokens of a call that names no maximum.",
    )
    floor_max_tokens = models.PositiveIntegerField(
        default=16,
        validators=[MinValueValidator(1)],
        help_text="When little budget is left, answers are shortened, but not below this many tokens.",
    )
    share_content = models.BooleanField(
        default=False, help_text="Prompts and answers may be sent to Helicone, not only tokens, costs and times."
    )
    content_days = models.PositiveSmallIntegerField(
        "prompts and answers kept, days",
        default=0,
        validators=[MaxValueValidator(MOST_CONTENT_DAYS)],
        help_text="How long prompts and answers are kept, encrypted. 0: they are not stored. "
        "While CONTENT_KEYS has no key, nothing is stored whatever stands here.",
    )
    hide_money = models.BooleanField(default=False, help_text="No dollar figure appears in the agent API.")
    members = models.ManyToManyField(settings.AUTH_USER_MODEL, blank=True, related_name="tenants")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return self.name or self.id

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.time_zone)

    def effective_route(self) -> list[str]:
        """The models its calls may use, primary first: its own route, or the installation's default."""
        return [step.model_id for step in self.route_steps.all()] or list(settings.DEFAULT_ROUTE)

    def effective_downgrades(self) -> list[tuple[str, str]]:
        """(from, to) with "*" for any model: its own rules, or the default's where the default route applies too."""
        if rules := [rule.pair for rule in self.downgrade_rules.all()]:
            return rules
        return [] if self.route_steps.all() else list(settings.DEFAULT_DOWNGRADES)

    def callable_models(self) -> list[str]:
        """Every model that a call may name: the route, then where downgrades lead."""
        return list(
            dict.fromkeys([*self.effective_route(), *(to_model for _, to_model in self.effective_downgrades())])
        )


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


class Scope(models.TextChoices):
    INSTALLATION = "installation", "whole installation"
    TENANT = "tenant", "tenant"
    KEY = "key", "each API key"
    CUSTOMER = "customer", "each customer"
    CONVERSATION = "conversation", "each conversation"


class Budget(models.Model):
    """A limit on the spend of one scope in one period.

    A budget of scope key, customer or conversation is a template: it binds each of them by itself,
    and needs no row per customer. What was spent is not here but in spend's windows, which no form
    touches.
    """

    tenant = models.ForeignKey(
        Tenant,
        on_delete=models.CASCADE,
        null=True,
        blank=True,
        related_name="budgets",
        help_text="Empty for a budget of the whole installation.",
    )
    scope = models.CharField(max_length=12, choices=Scope, default=Scope.TENANT)
    period = models.CharField(max_length=5, choices=Period, default=Period.DAY)
    limit_ticks = TicksField("limit (USD)", validators=[MinValueValidator(0)])
    soft_cap = models.DecimalField(
        max_digits=5,
        decimal_places=4,
        default=Decimal("0.8"),
        validators=[MinValueValidator(SMALLEST_CAP), MaxValueValidator(1)],
        help_text="Share of the limit from which calls are downgraded, such as 0.8.",
    )
    hard_cap = models.DecimalField(
        max_digits=5,
        decimal_places=4,
        default=Decimal("1"),
        validators=[MinValueValidator(SMALLEST_CAP), MaxValueValidator(1)],
        help_text="Share of the limit at which calls are refused, such as 1.",
    )
    alert_percents = models.CharField(
        max_length=100,
        blank=True,
        default="50, 80, 100",
        validators=[validate_percents],
        help_text="Percent of the limit at which channels are told, such as 50, 80, 100. Empty for none.",
    )

    class Meta:
        ordering = ["tenant_id", "scope", "period"]
        constraints = [
            models.UniqueConstraint(
                fields=["tenant", "scope", "period"],
                condition=Q(tenant__isnull=False),
                name="one_budget_a_tenant_scope_and_period",
                violation_error_message="This tenant already has a budget of that scope and period.",
            ),
            models.UniqueConstraint(
                fields=["period"],
                condition=Q(tenant__isnull=True),
                name="one_installation_budget_a_period",
                violation_error_message="The installation already has a budget of that period.",
            ),
            models.CheckConstraint(
                condition=Q(tenant__isnull=True, scope="installation")
                | (Q(tenant__isnull=False) & ~Q(scope="installation")),
                name="only_installation_budgets_lack_a_tenant",
                violation_error_message="A budget of the whole installation has no tenant; every other has one.",
            ),
            models.CheckConstraint(
                condition=Q(soft_cap__gt=0) & Q(soft_cap__lte=F("hard_cap")) & Q(hard_cap__lte=1),
                name="soft_cap_within_hard_cap_within_one",
                violation_error_message="The caps must satisfy 0 < soft cap ≤ hard cap ≤ 1.",
            ),
            models.CheckConstraint(condition=Q(limit_ticks__gte=0), name="limit_not_negative"),
        ]

    def __str__(self) -> str:
        return f"{self.get_scope_display()} a {self.get_period_display()}"


class TopUpQuerySet(models.QuerySet["TopUp"]):
    def running_at(self, now: datetime) -> Self:
        return self.filter(starts_at__lte=now, ends_at__gt=now)


class TopUp(models.Model):
    """An amount on top of a tenant's daily limit until an instant, usually midnight; it ends by itself.

    It belongs to the tenant, not to a budget's row: it raises the default budget too, and stays when
    the budgets are replaced.
    """

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="top_ups")
    amount_ticks = TicksField("amount (USD)", validators=[MinValueValidator(1)])
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField()

    objects = TopUpQuerySet.as_manager()

    class Meta:
        ordering = ["tenant_id", "-ends_at"]
        verbose_name = "top-up"
        constraints = [
            models.CheckConstraint(condition=Q(amount_ticks__gt=0), name="top_up_positive"),
            models.CheckConstraint(condition=Q(ends_at__gt=F("starts_at")), name="top_up_ends_after_it_starts"),
        ]

    def __str__(self) -> str:
        return f"{usd_rounded(self.amount_ticks)} USD until {self.ends_at:%Y-%m-%d %H:%M} UTC"


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


class Revision(models.Model):
    """One row that counts changes of the configuration; see `tenants.trail`."""

    number = models.BigIntegerField(default=1)
    changed_at = models.DateTimeField(db_default=Now())

    def __str__(self) -> str:
        return str(self.number)

    @classmethod
    def current(cls) -> int:
        return cls.objects.filter(pk=1).values_list("number", flat=True).first() or 0
