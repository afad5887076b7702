"""Histories for pages to show: a whole one that balances, and single calls placed by hand."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import F, Q
from django_tasks_db.models import DBTaskResult

from spend.ids import new_id
from spend.models import (
    Alert,
    AlertKind,
    Call,
    Delivery,
    DeliveryState,
    LedgerEntry,
    Outcome,
    Reservation,
    ReservationState,
    Rollup,
    Route,
    Schedule,
    Window,
)
from spend.summaries.buckets import bucket_of
from tenants.models import AlertChannel, ApiKey, ChannelKind, Scope, Tenant
from tenants.money import TICKS_PER_USD
from tenants.periods import Period, bounds
from tests.bench.made_up import make

ALERT_ID = UUID(int=1)
NOW = datetime(2026, 3, 30, 9, 40, tzinfo=UTC)
"""A day after Berlin's clocks went forward."""


def made_history(
    entries: int = 600, tenants: int = 3, days: int = 40, now: datetime = NOW, prefix: str = "shop"
) -> list[Tenant]:
    """Tenants `shop-0001` and on, with balanced books of `days` until `now`."""
    make(entries, tenants, now, prefix=prefix, days=days)
    return list(Tenant.objects.filter(id__startswith=f"{prefix}-"))


def place_call(tenant: Tenant, key: ApiKey, at: datetime, **facts: Any) -> Call:
    """One call with its hold, its entry (unless it was not served) and its part of the rollup."""
    model = facts.pop("model", "grok-4.3")
    entry = {name: facts.pop(name) for name in ENTRY_FIELDS if name in facts}
    price_id = facts.pop("price_id", 0)
    call = Call(
        **{
            "id": new_id(), "request_id": f"req_{new_id().hex}", "tenant": tenant, "key": key, "at": at,
            "requested_model": model, "model": model, "route": Route.PRIMARY, "outcome": Outcome.SERVED,
            "cost_ticks": 0, "duration_ms": 900, **facts,
        }
    )  # fmt: skip
    Call.objects.bulk_create([call])
    if call.outcome == Outcome.SERVED:
        _place_attempt(call, price_id, entry)
        _raise_windows(call)
    _raise_rollup(call, entry)
    return call


ENTRY_FIELDS = [
    "input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens", "is_estimated",
    "is_overrun", "is_expired", "is_usage_impossible", "hold_ticks", "computed_ticks",
]  # fmt: skip


def attempted(call: Call, price_id: int = 0) -> dict[str, Any]:
    """What a hold and an entry have from their call."""
    return {
        "call_id": call.id, "request_id": call.request_id, "tenant": call.tenant, "key": call.key,
        "customer": call.customer, "conversation": call.conversation, "provider": "xai", "model": call.model,
        "requested_model": call.requested_model, "route": call.route, "price_id": price_id,
    }  # fmt: skip


def hold_of(call: Call, state: ReservationState, hold_ticks: int, price_id: int = 0) -> Reservation:
    return Reservation.objects.create(
        id=new_id(), **attempted(call, price_id), state=state, hold_ticks=hold_ticks, max_tokens=1024,
        created_at=call.at, lease_expires_at=call.at + timedelta(minutes=15),
        ended_at=None if state == ReservationState.PENDING else call.at,
    )  # fmt: skip


def _place_attempt(call: Call, price_id: int, entry: dict[str, Any]) -> None:
    facts = {"hold_ticks": call.cost_ticks, **entry}
    hold = hold_of(call, ReservationState.SETTLED, facts["hold_ticks"], price_id)
    row = LedgerEntry(reservation=hold, **attempted(call, price_id), at=call.at, cost_ticks=call.cost_ticks, **facts)
    LedgerEntry.objects.bulk_create([row])


def _raise_windows(call: Call) -> None:
    """Of the tenant's own windows, as if it had been spent before they were made."""
    begun = Window.objects.filter(tenant_id=call.tenant_id, scope=Scope.TENANT, starts_at__lte=call.at)
    raised = {name: F(name) + call.cost_ticks for name in ("opening_ticks", "spent_ticks")}
    begun.filter(Q(ends_at=None) | Q(ends_at__gt=call.at)).update(**raised)


def _raise_rollup(call: Call, entry: dict[str, Any]) -> None:
    rollup, _ = Rollup.objects.get_or_create(
        tenant=call.tenant, bucket=bucket_of(call.at), model=call.model, route=call.route
    )
    setattr(rollup, call.outcome, getattr(rollup, call.outcome) + 1)
    if call.outcome == Outcome.SERVED:
        rollup.attempts += 1
        rollup.cost_ticks += call.cost_ticks
        for name in ("input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens"):
            setattr(rollup, name, getattr(rollup, name) + entry.get(name, 0))
    rollup.save()


def place_background(tenant: Tenant, now: datetime) -> None:
    """An alert on its way to channels, arrived at one and failed at another; jobs and their tasks, well and ill."""
    starts_at, ends_at = bounds(Period.DAY, tenant.zone, now)
    alert = Alert.objects.create(
        id=ALERT_ID, tenant_id=tenant.id, scope=Scope.TENANT, period=Period.DAY, starts_at=starts_at, ends_at=ends_at,
        kind=AlertKind.THRESHOLD, percent=80, limit_ticks=5 * TICKS_PER_USD, spent_ticks=4 * TICKS_PER_USD, at=now,
    )  # fmt: skip
    for kind, target, state, error in (
        (ChannelKind.EMAIL, "olga@example.com", DeliveryState.DELIVERED, ""),
        (ChannelKind.SLACK, "https://hooks.slack.example/T1/B2", DeliveryState.PENDING, ""),
        (ChannelKind.WEBHOOK, "https://erp.example/guard", DeliveryState.FAILED, "the webhook answered 500"),
    ):
        channel = AlertChannel.objects.create(tenant=tenant, kind=kind, target=target)
        Delivery.objects.create(alert=alert, channel=channel, state=state, due_at=now, attempts=3, last_error=error)
    for status, traceback in (("SUCCESSFUL", ""), ("FAILED", "Traceback: …\nOperationalError: the database is away")):
        DBTaskResult.objects.create(
            task_path="spend.jobs.roll_up", queue_name="default", backend_name="default", status=status,
            args_kwargs={"args": [], "kwargs": {}}, run_after=now, started_at=now, finished_at=now,
            exception_class_path="django.db.OperationalError" if traceback else "", traceback=traceback,
        )  # fmt: skip
    Schedule.objects.create(job="roll_up", started_at=now, due_at=now + timedelta(minutes=5))
