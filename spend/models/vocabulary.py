"""The words that rows use for their kinds and states."""

from django.db import models

XAI, OPENAI, DEMO = "xai", "openai", "demo"
"""Providers by their names: the two that settings fill, and the one that stands in where no key is set."""
PROVIDER_LABELS = {XAI: "xAI", OPENAI: "OpenAI"}


def provider_label(name: str) -> str:
    """What people read for a provider: of those that operators named themselves, the name."""
    return PROVIDER_LABELS.get(name, name)


class ProviderKind(models.TextChoices):
    """How a provider differs from what all of them do alike."""

    COMPATIBLE = "compatible", "OpenAI-compatible"
    XAI = "xai", "xAI"
    OPENAI = "openai", "OpenAI"
    AZURE = "azure", "Azure OpenAI"
    OPENROUTER = "openrouter", "OpenRouter"


class Dialect(models.TextChoices):
    CHAT = "chat", "chat completions"
    RESPONSES = "responses", "responses"


class PriceSource(models.TextChoices):
    CATALOGUE = "catalogue", "price catalogue"
    OPERATOR = "operator", "operator"


class Route(models.TextChoices):
    """Why this model served: it was asked for, policy chose a cheaper one, or a provider failed."""

    PRIMARY = "primary", "primary"
    DOWNGRADE = "downgrade", "downgrade"
    FALLBACK = "fallback", "fallback"


class ReservationState(models.TextChoices):
    PENDING = "pending", "pending"
    SETTLED = "settled", "settled"
    VOIDED = "voided", "voided"
    EXPIRED = "expired", "expired"


class Outcome(models.TextChoices):
    """What became of a call: each is the name of its count in the rollups, too."""

    SERVED = "served", "served"
    REFUSED = "refused", "refused"
    FAILED = "failed", "failed"
    HANDED_OFF = "handoff", "handed off"


class AlertKind(models.TextChoices):
    THRESHOLD = "threshold", "threshold"
    FORECAST = "forecast", "forecast"
    SPIKE = "spike", "spike"
    HANDED_OFF = "conversation.handed_off", "handed off"
    INVOICE = "invoice.differs", "invoice differs"


class DeliveryState(models.TextChoices):
    PENDING = "pending", "pending"
    DELIVERED = "delivered", "delivered"
    FAILED = "failed", "failed"
