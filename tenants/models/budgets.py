"""Budgets, and what raises one for a while."""

from decimal import Decimal

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import F, Q

from tenants import ladder
from tenants.fields import TicksField
from tenants.models.tenant import Tenant
from tenants.money import usd_rounded
from tenants.periods import Period

SMALLEST_CAP = Decimal("0.0001")
MOST_PERCENT = 100


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


def validate_steps(text: str) -> None:
    try:
        ladder.steps_of(text)
    except ValueError as error:
        raise ValidationError(str(error)) from None


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
    reserve = models.DecimalField(
        max_digits=5,
        decimal_places=4,
        default=Decimal(0),
        db_default=Decimal(0),
        validators=[MinValueValidator(0), MaxValueValidator(1)],
        help_text="Share of the limit, below the hard cap, that is for conversations that have begun, such as 0.1.",
    )
    further_steps = models.CharField(
        max_length=200,
        blank=True,
        default="",
        db_default="",
        validators=[validate_steps],
        help_text="Above the soft cap: from which shares of the limit calls go further down the tenant's downgrades, "
        f"as far as those lead, or get shorter answers, such as {ladder.EXAMPLE}.",
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
            models.CheckConstraint(
                condition=Q(reserve__gte=0) & Q(reserve__lt=F("hard_cap")),
                name="reserve_below_hard_cap",
                violation_error_message="The reserve must be less than the hard cap.",
            ),
            models.CheckConstraint(condition=Q(limit_ticks__gte=0), name="limit_not_negative"),
        ]

    def __str__(self) -> str:
        return f"{self.get_scope_display()} a {self.get_period_display()}"

    def clean(self) -> None:
        try:
            steps = ladder.steps_of(self.further_steps)
            ladder.check(steps, self.soft_cap, self.hard_cap)
        except ValueError as error:
            raise ValidationError({"further_steps": str(error)}) from None
        self.further_steps = ladder.text_of(steps)


class TopUp(models.Model):
    """An amount on top of a tenant's daily limit until an instant, usually midnight; it ends by itself.

    It belongs to the tenant, not to a budget's row: it raises the default budget too, and stays when
    the budgets are replaced.
    """

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="top_ups")
    amount_ticks = TicksField("amount (USD)", validators=[MinValueValidator(1)])
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField()

    class Meta:
        ordering = ["tenant_id", "-ends_at"]
        verbose_name = "top-up"
        constraints = [
            models.CheckConstraint(condition=Q(amount_ticks__gt=0), name="top_up_positive"),
            models.CheckConstraint(condition=Q(ends_at__gt=F("starts_at")), name="top_up_ends_after_it_starts"),
        ]

    def __str__(self) -> str:
        return f"{usd_rounded(self.amount_ticks)} USD until {self.ends_at:%Y-%m-%d %H:%M} UTC"
