"""A tenant: a customer of the installation, whose calls are counted together."""

from collections.abc import Iterable
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator, URLValidator
from django.db import models

from tenants.configured import LONGEST_TENANT_ID, TENANT_ID
from tenants.handoff import LANGUAGE, MOST_WORDS, validate_words

MOST_CONTENT_DAYS = 365
# Each call's time is kept for a minute: past this a limit costs more than what it is to prevent.
MOST_REQUESTS_PER_MINUTE = 10_000


# Files beside the list's places: whatever this machine's clock is set to, and a clock that was never set.
NO_PLACES = frozenset({"Factory", "localtime", "posixrules"})


@cache
def time_zones() -> frozenset[str]:
    """The names that mean the same on every machine. They are read from hundreds of files, and so once."""
    return frozenset(available_timezones() - NO_PLACES)


def validate_time_zone(name: str) -> None:
    if name not in time_zones():
        raise ValidationError(f"{name!r} is not an IANA time zone, such as Europe/Berlin.")


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


class HardStop(models.TextChoices):
    """What a call gets that no model fits any more."""

    REFUSE = "refuse", "refuse the call (429)"
    HAND_OFF = "handoff", "answer with the words below"


LANGUAGE_VALIDATOR = RegexValidator(LANGUAGE, "A language's code, such as de or pt-BR.")


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
    hard_stop = models.CharField(
        "when a budget is spent",
        max_length=7,
        choices=HardStop,
        default=HardStop.REFUSE,
        db_default=HardStop.REFUSE,
        help_text="Words reach the customer as the assistant's answer, at no cost, and channels are told "
        "conversation.handed_off.",
    )
    handoff_words = models.TextField(
        "words to the customer",
        max_length=MOST_WORDS,
        blank=True,
        default="",
        db_default="",
        validators=[validate_words],
        help_text="Such as: I cannot help any further. A colleague answers at {link}. I am back on {resets_at}.",
    )
    handoff_language = models.CharField(
        "their language",
        max_length=20,
        default="en",
        db_default="en",
        validators=[LANGUAGE_VALIDATOR],
        help_text="Its code, such as en. Who asks for no language that there are words in gets these.",
    )
    handoff_link = models.CharField(
        "link to a person",
        max_length=500,
        blank=True,
        default="",
        db_default="",
        validators=[URLValidator(["http", "https"])],
        help_text="What {link} stands for.",
    )
    archived_at = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="Lists leave it out from then on; its calls are refused."
    )
    is_demo = models.BooleanField(
        default=False, db_default=False, editable=False, help_text="Made up for trying things out; pages say so."
    )
    members = models.ManyToManyField(settings.AUTH_USER_MODEL, blank=True, related_name="tenants")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return self.name or self.id

    def save(self, *args: Any, update_fields: Iterable[str] | None = None, **kwargs: Any) -> None:
        """One that takes calls is not archived, whoever says so."""
        if self.is_active and self.archived_at:
            self.archived_at = None
            update_fields = update_fields if update_fields is None else {*update_fields, "archived_at"}
        super().save(*args, update_fields=update_fields, **kwargs)

    def clean(self) -> None:
        problems = {}
        if self.hard_stop == HardStop.HAND_OFF and not self.handoff_words.strip():
            problems["handoff_words"] = "Calls can only be answered with words."
        if "{link}" in self.handoff_words and not self.handoff_link:
            problems["handoff_link"] = "The words name a {link}."
        if problems:
            raise ValidationError(problems)

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.time_zone)

    @property
    def hands_off(self) -> bool:
        """Whether its customers get words in place of a refusal."""
        return self.hard_stop == HardStop.HAND_OFF and bool(self.handoff_words)

    def translations(self) -> dict[str, str]:
        """Its words to customers in further languages."""
        return {each.language: each.words for each in self.handoff_translations.all()}

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


class HandoffTranslation(models.Model):
    """A tenant's words to its customers in one more language."""

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="handoff_translations")
    language = models.CharField(
        max_length=20, validators=[LANGUAGE_VALIDATOR], help_text="Its code, such as de or pt-BR."
    )
    words = models.TextField(max_length=MOST_WORDS, validators=[validate_words])

    class Meta:
        ordering = ["tenant_id", "language"]
        constraints = [
            models.UniqueConstraint(
                fields=["tenant", "language"],
                name="each_language_once",
                violation_error_message="There are words in this language already.",
            )
        ]

    def __str__(self) -> str:
        return self.language
