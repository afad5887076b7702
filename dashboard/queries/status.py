"""Whether the service works: the database, and each provider's models by their circuit breakers.

What a breaker's row means is `spend.breakers`' to say.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from django.db import InterfaceError, OperationalError

from spend.breakers import State, needs_success, state_of
from spend.models import Breaker, CatalogueModel, provider_label

TROUBLES = {State.OPEN: "paused", State.HALF_OPEN: "trying", State.CLOSED: "failing"}


@dataclass(frozen=True)
class ModelStatus:
    model: str
    state: str
    last_failure: str = ""
    last_failure_at: datetime | None = None


@dataclass(frozen=True)
class ServiceStatus:
    """`state` is ok, trouble, down or unknown; `troubled` are the models that are not ok."""

    name: str
    state: str
    troubled: tuple[ModelStatus, ...] = ()


def services(now: datetime) -> list[ServiceStatus]:
    """The database first. Never raises: what cannot be read is shown as unavailable."""
    try:
        breakers = {breaker.model_id: breaker for breaker in Breaker.objects.all()}
        models = list(CatalogueModel.objects.filter(is_enabled=True).order_by("provider", "id"))
    except (OperationalError, InterfaceError):
        return [ServiceStatus("Database", "down"), ServiceStatus("Model providers", "unknown")]
    return [ServiceStatus("Database", "ok"), *_providers(models, breakers, now)]


def _providers(models: Iterable[CatalogueModel], breakers: dict[str, Breaker], now: datetime) -> list[ServiceStatus]:
    by_provider: dict[str, list[ModelStatus]] = defaultdict(list)
    for model in models:
        by_provider[model.provider].append(_model_status(model.id, breakers.get(model.id), now))
    return [_provider_status(provider, statuses) for provider, statuses in by_provider.items()]


def _model_status(model: str, breaker: Breaker | None, now: datetime) -> ModelStatus:
    if breaker is None or not needs_success(breaker):
        return ModelStatus(model, "ok")
    return ModelStatus(model, TROUBLES[state_of(breaker, now)], breaker.failure_words, breaker.last_failure_at)


def _provider_status(provider: str, statuses: list[ModelStatus]) -> ServiceStatus:
    troubled = tuple(status for status in statuses if status.state != "ok")
    down = all(status.state == "paused" for status in statuses)
    return ServiceStatus(provider_label(provider), "down" if down else "trouble" if troubled else "ok", troubled)
