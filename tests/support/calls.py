"""Calls made of parts, for tests that need none to have happened."""

from datetime import UTC, datetime
from typing import Any

from guard.call import ChatCall, EmbeddingCall
from guard.policy.routing import Ask
from guard.policy.snapshot import TenantPolicy
from guard.telemetry.attempt import Attempt
from spend.ids import new_id
from spend.ledger.rules import Bill, Caller, Offer, Record, Reserved
from spend.models import Outcome, Route
from spend.pricing.cost import PriceList, Usage
from tenants.models import Tenant
from tests.factories import TenantFactory

NOON = datetime(2026, 5, 20, 12, tzinfo=UTC)
OFFER = Offer("grok-4.3", "xai", PriceList(1, ()), Route.PRIMARY, 10, 1, max_tokens=100, floor_tokens=1)


def chat_call(**facts: Any) -> ChatCall:
    """A call of tenant acme; what the tenant says of content and fields of its Caller can be given."""
    tenant: Tenant = TenantFactory.build(id="acme")
    content = {name: facts.pop(name) for name in ("share_content", "content_days") if name in facts}
    policy = TenantPolicy("acme", True, tenant.zone, 100, 1, False, ("grok-4.3",), (), (), **content)
    given = {"key_id": 1, "customer": "", "conversation": "", "requested_model": "grok-4.3", **facts}
    context = given.pop("context", {})
    caller = Caller(call_id=new_id(), request_id="req_1", tenant_id="acme", **given)
    return ChatCall(caller, policy, Ask("grok-4.3", 10), {}, context=context)


def embedding_call(**facts: Any) -> EmbeddingCall:
    call = chat_call(**facts)
    return EmbeddingCall(call.caller, call.tenant, call.ask, {"input": ["x"]}, context=call.context)


def attempt_of(call: ChatCall, **facts: Any) -> Attempt:
    reserved = Reserved(new_id(), call.caller, OFFER, 100, 110, (), NOON, NOON)
    return Attempt(
        **{
            "reserved": reserved,
            "payload": {"model": "grok-4.3", "messages": [{"role": "user", "content": "the secret question"}]},
            "started_at": 1_000_000.25,
            "answered_at": 1_000_000.75,
            "ended_at": 1_000_001.5,
            "cost_ticks": 12_345,
            "bill": Bill(12_345, Usage(input_tokens=7, output_tokens=3)),
            "completion": {
                "choices": [{"index": 0, "message": {"content": "the secret answer"}, "finish_reason": "stop"}]
            },
            **facts,
        }
    )


def record_of(call: ChatCall, **facts: Any) -> Record:
    given = {"model": "grok-4.3", "route": Route.PRIMARY, "cost_ticks": 12_345, "duration_ms": 250, **facts}
    return Record(**{"caller": call.caller, "outcome": Outcome.SERVED, "at": NOON, **given})
