"""A hand-off: the tenant's own words in place of an answer, where no model fits its budget any more.

It ends a call as a refusal does (nothing is remembered under its idempotency key, no provider is called, no entry is
written), and is told to the caller as an answer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from guard.call import ChatCall
from guard.chat.types import Answer, CallProgress
from guard.http.errors import BudgetExceeded
from guard.http.sse import encode
from guard.policy.budget_status import BudgetStatus
from guard.policy.snapshot import Handoff
from spend.ids import created_at_s
from spend.ledger.rules import Limit, WindowKey
from spend.pricing.cost import Usage
from tenants.models import Scope

HANDOFF_ROUTE = "handoff"
NO_USAGE = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


class HandedOff(BudgetExceeded):
    """The call is over, and this is its answer. `window` says who was handed off, and until when once is enough."""

    def __init__(self, answer: Answer, window: WindowKey, ends_at: datetime | None, **facts: Any) -> None:
        super().__init__(**facts)
        self.answer, self.window, self.ends_at = answer, window, ends_at


def handed_off(
    progress: CallProgress,
    handoff: Handoff,
    binding: Sequence[Limit],
    resets_at: datetime | None,
    status: BudgetStatus,
    **facts: Any,
) -> HandedOff:
    """`resets_at` is when all that bind the call start anew, None for never; `facts` are those of the error."""
    call = progress.call
    words = handoff.told(call.accept_language, resets_at, call.tenant.zone)
    answer = Answer(
        request_id=call.caller.request_id,
        completion=completion_of(words, call),
        usage=Usage(),
        model=call.caller.requested_model,
        route=HANDOFF_ROUTE,
        cost_ticks=progress.cost_ticks,
        budget=status,
        call_id=call.caller.call_id,
    )
    last = max(binding, key=lambda limit: (limit.ends_at is None, limit.ends_at or limit.key.starts_at))
    return HandedOff(answer, window_of(call, last), last.ends_at, **facts)


def window_of(call: ChatCall, limit: Limit) -> WindowKey:
    """Whose hand-off is told once in the period that `limit` counts: the conversation's, else the customer's."""
    caller, period, starts_at = call.caller, limit.key.period, limit.key.starts_at
    if caller.conversation:
        return WindowKey(caller.tenant_id, Scope.CONVERSATION.value, caller.conversation, period, starts_at)
    if caller.customer:
        return WindowKey(caller.tenant_id, Scope.CUSTOMER.value, caller.customer, period, starts_at)
    return WindowKey(caller.tenant_id, Scope.TENANT.value, "", period, starts_at)


def completion_of(words: str, call: ChatCall) -> dict[str, Any]:
    """A chat completion of these words."""
    message = {"role": "assistant", "content": words, "refusal": None}
    ends = {"logprobs": None, "finish_reason": "stop"}
    return {
        "id": f"chatcmpl-{call.caller.call_id.hex}",
        "object": "chat.completion",
        "created": created_at_s(call.caller.call_id),
        "model": call.caller.requested_model,
        "choices": [{"index": index, "message": message, **ends} for index in range(call.ask.choices)],
        "usage": NO_USAGE,
    }


def with_events(answer: Answer, *, show_usage: bool) -> Answer:
    """The answer with its completion as a provider streams one, without its [DONE]."""
    completion = answer.completion
    chunk = {**completion, "object": "chat.completion.chunk"}
    del chunk["usage"]
    opening = [_chunk_of(choice, choice["message"], None) for choice in completion["choices"]]
    closing = [_chunk_of(choice, {}, choice["finish_reason"]) for choice in completion["choices"]]
    chunks = [{**chunk, "choices": [choice]} for choice in (*opening, *closing)]
    chunks += [{**chunk, "choices": [], "usage": completion["usage"]}] if show_usage else []
    return replace(answer, completion={**completion, "events": b"".join(map(encode, chunks)).decode()})


def _chunk_of(choice: Mapping[str, Any], delta: Mapping[str, Any], finish_reason: str | None) -> dict[str, Any]:
    return {"index": choice["index"], "delta": delta, "logprobs": None, "finish_reason": finish_reason}
