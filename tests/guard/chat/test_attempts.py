"""Attempts that end in ways no provider plays: here a test is the one that sends them."""

from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from django.db import Error, connection
from django.utils import timezone

from guard.call import ChatCall
from guard.chat.flow import first_to_serve
from guard.http.errors import LedgerUnavailable
from guard.policy.routing import Ask
from guard.providers.client import Provider
from guard.providers.failures import Failed
from guard.worker.runtime import Runtime
from spend.codes import FailureCode
from spend.ids import new_id
from spend.ledger.audit import audit
from spend.ledger.rules import Caller, LedgerError
from spend.models import Breaker, Call, LedgerEntry, Reservation
from tests.factories import ApiKeyFactory, RouteStepFactory
from tests.support.agents import HELLO
from tests.support.runtime import with_runtime

if TYPE_CHECKING:
    from tests.factories import IssuedKey

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def key(provider: object) -> "IssuedKey":
    key = ApiKeyFactory.create()
    RouteStepFactory.create(tenant=key.tenant, model__id="m", position=0)
    RouteStepFactory.create(tenant=key.tenant, model__id="n", position=1)
    return key


def call_of(key: "IssuedKey", runtime: Runtime) -> ChatCall:
    caller = Caller(
        call_id=new_id(), request_id="r", tenant_id=key.tenant_id, key_id=key.id, customer="", conversation="",
        requested_model="m",
    )  # fmt: skip
    tenant = runtime.policy.tenants[key.tenant_id]
    return ChatCall(caller, tenant, Ask("m", 50, 16), {"messages": HELLO})


def holds() -> dict[str, str]:
    assert audit().discrepancies == []
    return dict(Reservation.objects.values_list("model", "state"))


async def break_down(
    provider: Provider, payload: Mapping[str, Any], headers: Mapping[str, str], wait_s: float | None
) -> None:
    raise RuntimeError("nobody expected that")


def test_an_attempt_that_breaks_down_unexpectedly_is_settled_at_its_hold(key: "IssuedKey") -> None:
    async def progress(runtime: Runtime) -> None:
        with pytest.raises(RuntimeError, match="nobody expected"):
            await first_to_serve(call_of(key, runtime), runtime, break_down)

    with_runtime(progress)
    assert holds() == {"m": "settled"}
    entry, call = LedgerEntry.objects.get(), Call.objects.get()
    assert (entry.cost_ticks, entry.is_estimated) == (entry.hold_ticks, True)
    assert (call.outcome, call.code, call.cost_ticks) == ("failed", "internal_error", entry.cost_ticks)


def test_an_attempt_that_breaks_down_before_it_is_sent_costs_nothing(key: "IssuedKey") -> None:
    """Here the breaker cannot be asked for a probe."""
    Breaker.objects.create(pk="m", failures=5, opened_at=timezone.now() - timedelta(hours=1))

    async def progress(runtime: Runtime) -> None:
        await runtime.query(rename, "spend_breaker", "elsewhere")
        try:
            with pytest.raises(Error):
                await first_to_serve(call_of(key, runtime), runtime, break_down)
        finally:
            await runtime.query(rename, "elsewhere", "spend_breaker")

    with_runtime(progress)
    assert holds() == {"m": "voided"}
    assert not LedgerEntry.objects.exists()


def rename(table: str, to: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {table} RENAME TO {to}")


@pytest.mark.parametrize("billed", [False, None])
def test_a_ledger_that_is_away_after_an_attempt_says_that_a_model_was_called(
    key: "IssuedKey", billed: bool | None
) -> None:
    """The attempt's end is late, or the next attempt cannot be held for; its client is told not to pay again."""

    async def progress(runtime: Runtime) -> None:
        async def fail(
            provider: Provider, payload: Mapping[str, Any], headers: Mapping[str, str], wait_s: float | None
        ) -> None:
            await runtime.query(rename, "spend_reservation", "elsewhere")
            raise Failed(FailureCode.SERVER_ERROR, billed=billed)

        with pytest.raises(LedgerUnavailable, match="A model was called") as raised:
            await first_to_serve(call_of(key, runtime), runtime, fail)
        assert raised.value.should_retry is False
        await runtime.query(rename, "elsewhere", "spend_reservation")

    with_runtime(progress)
    assert holds() == {"m": "settled" if billed is None else "voided"}


def test_a_ledger_that_is_away_before_any_attempt_leaves_its_own_error(key: "IssuedKey") -> None:
    async def progress(runtime: Runtime) -> None:
        await runtime.query(rename, "spend_reservation", "elsewhere")
        with pytest.raises(LedgerError):
            await first_to_serve(call_of(key, runtime), runtime, break_down)
        await runtime.query(rename, "elsewhere", "spend_reservation")

    with_runtime(progress)
    assert holds() == {}
