"""The breaker: failures in a row open it, and once half-open it hears of its probes only."""

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from dashboard.queries.status import services
from guard.worker.runtime import Runtime
from spend.breakers import (
    FAILURES_TO_OPEN,
    OPEN_S,
    PROBES,
    State,
    open_circuits,
    record_failure,
    record_success,
    state_of,
)
from spend.ids import new_id
from spend.ledger.rules import Reserved
from spend.models import Breaker
from tests.factories import CatalogueModelFactory
from tests.support.commands import caller_of, offer_of

pytestmark = pytest.mark.django_db


@pytest.fixture
def model() -> str:
    return CatalogueModelFactory.create().id


def fail(model: str, began_at: datetime | None = None, times: int = 1) -> Breaker:
    now = timezone.now()
    return [record_failure(model, "timeout", began_at or now, now) for _ in range(times)][-1]


def fail_as(model: str, tenant_id: str, times: int = 1, code: str = "server_error") -> Breaker:
    now = timezone.now()
    return [record_failure(model, code, now, now, tenant_id) for _ in range(times)][-1]


def states(breaker: Breaker) -> dict[str, State]:
    return {tenant_id: state_of(breaker, timezone.now(), tenant_id) for tenant_id in ("a", "b")}


def half_open(model: str) -> datetime:
    """Opens it; returns when it let probes through again."""
    fail(model, times=FAILURES_TO_OPEN)
    opened_at = timezone.now() - timedelta(seconds=OPEN_S + 1)
    Breaker.objects.filter(pk=model).update(opened_at=opened_at)
    assert state_of(Breaker.objects.get(pk=model), timezone.now()) is State.HALF_OPEN
    return opened_at + timedelta(seconds=OPEN_S)


def test_failures_in_a_row_open_it_and_a_success_between_them_does_not(model: str) -> None:
    for _ in range(FAILURES_TO_OPEN):
        assert fail(model, times=FAILURES_TO_OPEN - 1).opened_at is None
        succeeded = record_success(model, timezone.now())
        assert succeeded is not None
        assert succeeded.failures == 0
    assert fail(model, times=FAILURES_TO_OPEN).opened_at is not None


def test_a_probe_that_fails_opens_it_again(model: str) -> None:
    opened_at = fail(model, half_open(model)).opened_at
    assert opened_at is not None
    assert timezone.now() - opened_at < timedelta(seconds=OPEN_S)


def test_a_call_that_began_before_the_probes_neither_opens_it_again_nor_closes_it(model: str) -> None:
    since = half_open(model)
    earlier = since - timedelta(microseconds=1)
    failed = fail(model, earlier)
    assert state_of(failed, timezone.now()) is State.HALF_OPEN
    for _ in range(PROBES):
        succeeded = record_success(model, earlier)
    assert succeeded is not None
    assert (succeeded.successes, state_of(succeeded, timezone.now())) == (0, State.HALF_OPEN)


def test_probes_that_succeed_close_it(model: str) -> None:
    since = half_open(model)
    for _ in range(PROBES):
        succeeded = record_success(model, since)
    assert (succeeded and succeeded.opened_at, succeeded and succeeded.failures) == (None, 0)


@pytest.mark.django_db(transaction=True)
def test_a_worker_knows_at_once_what_it_has_written(model: str) -> None:
    """It reads the breakers four times a second only, here never; a success right after a failure counts."""
    runtime, now = Runtime(), timezone.now()
    offer = offer_of(1, model=model)
    reserved = Reserved(new_id(), caller_of(), offer, 1, 1, (), now, now)

    async def alternate() -> None:
        for _ in range(FAILURES_TO_OPEN):
            await runtime.record_failure(reserved, "timeout")
            await runtime.record_success(reserved)
        await runtime.providers.close()
        await runtime.end_queries()

    asyncio.run(alternate())
    breaker = Breaker.objects.get(pk=model)
    assert (breaker.failures, breaker.opened_at) == (0, None)


def test_failures_of_one_tenants_calls_open_it_to_that_tenant_only(model: str) -> None:
    failed = fail_as(model, "a", times=FAILURES_TO_OPEN)
    assert states(failed) == {"a": State.OPEN, "b": State.CLOSED}
    assert open_circuits({model: failed}, timezone.now(), "a") == {model: "circuit_open"}
    assert open_circuits({model: failed}, timezone.now(), "b") == {}


def test_a_failure_of_another_tenants_call_opens_it_to_all(model: str) -> None:
    fail_as(model, "a", times=FAILURES_TO_OPEN)
    assert states(fail_as(model, "b")) == {"a": State.OPEN, "b": State.OPEN}


def test_failures_of_several_tenants_in_a_row_open_it_to_all(model: str) -> None:
    fail_as(model, "a", times=FAILURES_TO_OPEN - 1)
    assert states(fail_as(model, "b")) == {"a": State.OPEN, "b": State.OPEN}


def test_a_success_of_another_tenants_call_closes_it(model: str) -> None:
    fail_as(model, "a", times=FAILURES_TO_OPEN)
    succeeded = record_success(model, timezone.now(), "b")
    assert succeeded is not None
    assert (states(succeeded), succeeded.failures) == ({"a": State.CLOSED, "b": State.CLOSED}, 0)
    assert states(fail_as(model, "b", times=FAILURES_TO_OPEN)) == {"a": State.CLOSED, "b": State.OPEN}


def test_another_tenants_call_that_began_before_it_opened_says_nothing(model: str) -> None:
    earlier = timezone.now()
    fail_as(model, "a", times=FAILURES_TO_OPEN)
    succeeded = record_success(model, earlier, "b")
    assert succeeded is not None
    assert states(succeeded) == {"a": State.OPEN, "b": State.CLOSED}


@pytest.mark.parametrize("code", ["connection_failed", "provider_out_of_money", "provider_refused_key"])
def test_failures_of_the_account_or_the_connection_are_nobodys_own(model: str, code: str) -> None:
    assert states(fail_as(model, "a", FAILURES_TO_OPEN, code)) == {"a": State.OPEN, "b": State.OPEN}


def test_half_open_is_half_open_wherever_it_is_shown(
    model: str, client: Client, admin_client: Client, settings: Any
) -> None:
    settings.METRICS_TOKEN = "metrics"
    fail(model, times=FAILURES_TO_OPEN)
    Breaker.objects.update(opened_at=timezone.now() - timedelta(seconds=OPEN_S + 1))
    catalogue = admin_client.get(reverse("admin:spend_cataloguemodel_changelist")).content.decode()
    circuits = admin_client.get(reverse("admin:spend_breaker_changelist")).content.decode()
    metrics = client.get("/metrics", headers={"Authorization": "Bearer metrics"}).content.decode()
    (_, provider) = services(timezone.now())
    assert "half-open" in catalogue
    assert "half-open" in circuits
    assert f'guard_breaker_open{{model="{model}"}} 0.0' in metrics
    assert f'guard_breaker_half_open{{model="{model}"}} 1.0' in metrics
    assert [(each.state, each.last_failure) for each in provider.troubled] == [("trying", "it did not answer in time")]
