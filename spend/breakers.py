"""The circuit breaker of each model: it spares callers a provider that is down.

Opens after FAILURES_TO_OPEN failures in a row, for OPEN_S; then lets PROBES calls through. So many
successes close it, one failure opens it again.  The state is one row per model, shared by all
workers, each step one conditional update; while all is well a call touches no row.

Where one tenant's calls alone have failed, it may be what they say that fails them: the breaker opens to that
tenant only.  Another's success then closes it, another's failure opens it to all.  What fails for the account or
the connection is nobody's own.

A half-open breaker hears of its probes only: a call that began earlier, and failed or succeeded since,
says nothing of how the provider is now.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum

from django.db.models import F, Q

from spend.codes import FailureCode, StepCode
from spend.models import Breaker

FAILURES_TO_OPEN = 5
OPEN_S = 60
PROBES = 3
TENANTS_OWN = frozenset(
    {FailureCode.BAD_ANSWER, FailureCode.ERROR_WITHIN_ANSWER, FailureCode.SERVER_ERROR, FailureCode.TIMEOUT}
)
"""Failures that a single prompt can cause."""


class State(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


def state_of(breaker: Breaker | None, now: datetime, tenant_id: str | None = None) -> State:
    """As this tenant's calls meet it, or without one as whoever meets it at all."""
    if breaker is None or breaker.opened_at is None or _is_of_another(breaker, tenant_id):
        return State.CLOSED
    return State.OPEN if now < breaker.opened_at + timedelta(seconds=OPEN_S) else State.HALF_OPEN


def _is_of_another(breaker: Breaker, tenant_id: str | None) -> bool:
    return tenant_id is not None and breaker.only_tenant_id not in ("", tenant_id)


def open_circuits(breakers: Mapping[str, Breaker], now: datetime, tenant_id: str) -> dict[str, StepCode]:
    """The models that are spared for this tenant, each with the code for why."""
    is_open = (model for model, breaker in breakers.items() if state_of(breaker, now, tenant_id) is State.OPEN)
    return dict.fromkeys(is_open, StepCode.CIRCUIT_OPEN)


def needs_success(breaker: Breaker | None) -> bool:
    """Whether a success changes anything: it does after failures."""
    return breaker is not None and (breaker.failures > 0 or breaker.opened_at is not None)


def claim_probe(model: str, now: datetime) -> bool:
    """Take one of a half-open breaker's probes. A prober that died frees its place after OPEN_S."""
    breaker = Breaker.objects.filter(pk=model, opened_at__lte=now - timedelta(seconds=OPEN_S))
    stale = Q(probed_at__isnull=True) | Q(probed_at__lte=now - timedelta(seconds=OPEN_S))
    return bool(
        breaker.filter(probes__lt=PROBES).update(probes=F("probes") + 1, probed_at=now)
        or breaker.filter(stale).update(probes=1, probed_at=now)
        or not Breaker.objects.filter(pk=model, opened_at__isnull=False).exists()
    )


def _half_open_at(began_at: datetime) -> Q:
    """A call that began then was let through as a probe."""
    return Q(opened_at__lte=began_at - timedelta(seconds=OPEN_S))


def record_failure(model: str, code: str, began_at: datetime, now: datetime, tenant_id: str = "") -> Breaker:
    """Of a call of this tenant that began at `began_at`. Returns the breaker as it stands then."""
    Breaker.objects.get_or_create(pk=model)
    breaker = Breaker.objects.filter(pk=model)
    whose = tenant_id if code in TENANTS_OWN else ""
    breaker.filter(failures=0, opened_at__isnull=True).update(only_tenant_id=whose)
    breaker.exclude(only_tenant_id=whose).update(only_tenant_id="")
    breaker.update(failures=F("failures") + 1, last_failure=code, last_failure_at=now)
    closed_too_often = Q(opened_at__isnull=True, failures__gte=FAILURES_TO_OPEN)
    failed = breaker.filter(_half_open_at(began_at) | closed_too_often)
    failed.update(opened_at=now, probes=0, successes=0, probed_at=None)
    return breaker.get()


def record_success(model: str, began_at: datetime, tenant_id: str = "") -> Breaker | None:
    """Of a call of this tenant that began at `began_at`. Returns the breaker as it stands then."""
    breaker = Breaker.objects.filter(pk=model)
    of_another = breaker.exclude(only_tenant_id__in=["", tenant_id]).filter(opened_at__lte=began_at)
    if tenant_id and of_another.update(
        opened_at=None, failures=0, probes=0, successes=0, probed_at=None, only_tenant_id=""
    ):
        return breaker.first()
    breaker.filter(opened_at__isnull=True, failures__gt=0).update(failures=0)
    half_open = breaker.filter(_half_open_at(began_at))
    if half_open.update(successes=F("successes") + 1):
        half_open.filter(successes__gte=PROBES).update(
            opened_at=None, failures=0, probes=0, successes=0, probed_at=None
        )
    return breaker.first()
