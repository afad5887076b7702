"""The model catalogue: what can be called, what is known of it, and what it costs."""

from datetime import UTC, date, datetime
from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models

from spend.capabilities import Capabilities, Lesson, LessonKind, is_embedding_family, of_family
from spend.models.providers import PROVIDER_NAME_LENGTH, provider_names
from spend.models.vocabulary import PriceSource
from tenants.fields import NamesField, TokenPriceField

AUTO = "auto"
"""What a call names for its tenant's route, instead of a model."""
AUTO_IS_TAKEN = f"{AUTO!r} is what calls name for the route; no model can have it."


def is_shut_down(shutdown_on: date | None, now: datetime) -> bool:
    """Whether a model's last day is over in UTC. On that day it may still answer: nobody says at what hour it ends."""
    return shutdown_on is not None and shutdown_on < now.astimezone(UTC).date()


def validate_id_characters(value: Any) -> None:
    limits = value.items() if isinstance(value, dict) else [("", None)]
    if not all(type(most) is int and most > 0 for _, most in limits):
        raise ValidationError('Must be like {"tool_call_id": 40}, with whole numbers above 0.')


class CatalogueModel(models.Model):
    """A model that calls can name, and what bounds a call's worst case on it."""

    id = models.CharField(
        primary_key=True,
        max_length=100,
        validators=[RegexValidator(r"^[A-Za-z0-9][A-Za-z0-9._:/-]*\Z", "Letters, digits and . _ : / - only.")],
    )
    provider = models.CharField(max_length=PROVIDER_NAME_LENGTH, help_text="One of the providers, by its name.")
    upstream_name = models.CharField(
        max_length=100, help_text="The provider's own name for the model; at Azure, the deployment's."
    )
    context_tokens = models.PositiveIntegerField(default=128_000, validators=[MinValueValidator(1)])
    max_output_tokens = models.PositiveIntegerField(default=16_384, validators=[MinValueValidator(1)])
    reasoning_allowance_tokens = models.PositiveIntegerField(
        default=0,
        help_text="Output tokens held on top of a call's maximum, where the provider bills reasoning beyond it. "
        "Raised by itself when a bill shows more.",
    )
    input_allowance_percent = models.PositiveIntegerField(
        default=100,
        help_text="Input held, in percent of the text's own bound. Raised by itself when the bill of a long text shows "
        "more, and once no bill needed it for 30 days again what an operator set, or 100.",
    )
    input_surplus_tokens = models.PositiveIntegerField(
        default=0,
        db_default=0,
        help_text="Input held on top of that, for a provider's own prompt. Raised by itself when a bill shows more, "
        "and once no bill needed it for 30 days again what an operator set, or 0.",
    )
    input_raised_at = models.DateTimeField(
        null=True, editable=False, help_text="When a bill last raised or needed these two; empty where none did."
    )
    image_allowance_tokens = models.PositiveIntegerField(
        null=True, blank=True, help_text="Most input tokens one image can cost. Empty: images are refused."
    )
    answer_timeout_s = models.PositiveIntegerField(
        "answer timeout in seconds",
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(3600)],
        help_text="How long it may think before its first token, or before a whole answer. "
        "Empty: PROVIDER_TIMEOUT_SECONDS.",
    )
    makes_embeddings = models.BooleanField(
        default=False,
        db_default=False,
        help_text="It answers texts with vectors, at /v1/embeddings, and no chat. Any tenant may name it there.",
    )
    is_enabled = models.BooleanField(default=True)
    shutdown_on = models.DateField(null=True, blank=True, help_text="The day on which the provider ends the model.")
    refused_parameters = NamesField(
        help_text="What it refuses: parameters by their names, json_schema, images. Where the guard chose the model, "
        "those that don't change a request's meaning are left out, and a request that needs another goes elsewhere."
    )
    refused_while_reasoning = NamesField(help_text="The same, unless reasoning_effort is none.")
    reasoning_efforts = NamesField(help_text="The values of reasoning_effort that it takes. Empty: nobody knows.")
    default_reasoning_effort = models.CharField(
        max_length=20, blank=True, help_text="What it does without one. Empty: nobody knows."
    )
    message_fields = NamesField(
        null=True,
        default=None,
        help_text="Fields of messages that it takes beyond the standard ones; others are left out. Empty: any.",
    )
    id_characters = models.JSONField(
        default=dict,
        blank=True,
        help_text="The most characters of ids, by their names (and tool_call_id); longer ones are sent as a digest.",
    )
    thinks_within_maximum = models.BooleanField(
        default=False, help_text="Its reasoning counts against the maximum of output tokens."
    )

    class Meta:
        ordering = ["id"]
        verbose_name = "model"

    def __str__(self) -> str:
        return self.id

    def save(self, *args: Any, **kwargs: Any) -> None:
        if self._state.adding and self.capabilities == Capabilities():
            self.capabilities = of_family(self.upstream_name)
        if self._state.adding:
            self.makes_embeddings = self.makes_embeddings or is_embedding_family(self.upstream_name)
        super().save(*args, **kwargs)

    def clean(self) -> None:
        if self.id == AUTO and self._state.adding:
            raise ValidationError({"id": AUTO_IS_TAKEN})
        if self.provider and self.provider not in (names := provider_names()):
            raise ValidationError({"provider": f"There is no such provider; there are {', '.join(names)}."})
        validate_id_characters(self.id_characters)  # a field's validators pass over what is empty, a list, too

    @property
    def capabilities(self) -> Capabilities:
        """Those of its family, or as an operator changed them; without what was learned."""
        return Capabilities(
            refused=frozenset(self.refused_parameters),
            refused_while_reasoning=frozenset(self.refused_while_reasoning),
            efforts=tuple(self.reasoning_efforts),
            default_effort=self.default_reasoning_effort,
            message_fields=None if self.message_fields is None else frozenset(self.message_fields),
            id_characters=tuple(sorted(self.id_characters.items())),
            thinks_within_maximum=self.thinks_within_maximum,
        )

    @capabilities.setter
    def capabilities(self, known: Capabilities) -> None:
        self.refused_parameters = sorted(known.refused)
        self.refused_while_reasoning = sorted(known.refused_while_reasoning)
        self.reasoning_efforts = list(known.efforts)
        self.default_reasoning_effort = known.default_effort
        self.message_fields = None if known.message_fields is None else sorted(known.message_fields)
        self.id_characters = dict(known.id_characters)
        self.thinks_within_maximum = known.thinks_within_maximum


class LearnedCapability(models.Model):
    """What an answer of a model taught of it. Deleted, it is unlearned; a later call may teach it again."""

    model = models.ForeignKey(CatalogueModel, on_delete=models.CASCADE, related_name="learned")
    kind = models.CharField(max_length=24, choices=[(kind.value, kind.value.replace("_", " ")) for kind in LessonKind])
    name = models.CharField(max_length=100, blank=True)
    figure = models.PositiveIntegerField(default=0, help_text="Of a limit: how many.")
    learned_at = models.DateTimeField()
    words = models.CharField(max_length=300, blank=True, help_text="How the provider put it.")

    class Meta:
        ordering = ["model_id", "-learned_at"]
        verbose_name = "learned capability"
        verbose_name_plural = "learned capabilities"
        constraints = [models.UniqueConstraint(fields=["model", "kind", "name"], name="each_lesson_once")]

    def __str__(self) -> str:
        return " ".join(filter(None, [self.get_kind_display(), self.name, f"{self.figure:,}" if self.figure else ""]))

    @property
    def lesson(self) -> Lesson:
        return Lesson(LessonKind(self.kind), self.name, self.figure)


class Price(models.Model):
    """A model's price from an instant on. Its figures are in its tiers.

    An operator's price wins over the catalogue's, whichever started later, until it is ended.
    """

    model = models.ForeignKey(CatalogueModel, on_delete=models.PROTECT, related_name="prices")
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField(
        null=True, blank=True, help_text="When an operator went back to the catalogue's price. Empty: never."
    )
    source = models.CharField(max_length=10, choices=PriceSource, default=PriceSource.OPERATOR)

    class Meta:
        ordering = ["model_id", "-starts_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["model", "source", "starts_at"],
                name="one_price_a_start",
                violation_error_message="This model already has a price from that instant.",
            )
        ]

    def __str__(self) -> str:
        return f"{self.model_id} from {self.starts_at:%Y-%m-%d %H:%M} UTC"


class PriceTier(models.Model):
    """Prices of a request whose input has more than `above_tokens` tokens; they price all of it."""

    price = models.ForeignKey(Price, on_delete=models.CASCADE, related_name="tiers")
    above_tokens = models.PositiveIntegerField(default=0, help_text="0 for the base price.")
    input_ticks = TokenPriceField("input (USD per million)", validators=[MinValueValidator(0)])
    cached_input_ticks = TokenPriceField("cached input (USD per million)", validators=[MinValueValidator(0)])
    cache_write_ticks = TokenPriceField(
        "cache write (USD per million)",
        null=True,
        blank=True,
        validators=[MinValueValidator(0)],
        help_text="For providers that bill writing to their cache. Empty: as input.",
    )
    output_ticks = TokenPriceField("output (USD per million)", validators=[MinValueValidator(0)])

    class Meta:
        ordering = ["price_id", "above_tokens"]
        constraints = [models.UniqueConstraint(fields=["price", "above_tokens"], name="each_tier_once")]

    def __str__(self) -> str:
        return f"above {self.above_tokens:,} tokens" if self.above_tokens else "base"
