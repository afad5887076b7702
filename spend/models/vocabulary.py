"""The words that rows use for their kinds and states."""

from django.db import models


class Provider(models.TextChoices):
    XAI = "xai", "xAI"
    OPENAI = "openai", "OpenAI"
    DEMO = "demo", "demo"


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
