"""How a hold ends: settled at what the provider billed, voided, or charged where nobody knows; and what is learned."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from django.utils import timezone

from guard.call import ChatCall
from guard.chat import billing, idempotency
from guard.chat.billing import Sent
from guard.chat.refusals import outcome_of
from guard.chat.types import Answer, CallProgress, Hold
from guard.policy.adapt import disproved
from guard.policy.budget_status import BudgetStatus
from guard.policy.last_served import LastServed
from guard.policy.routing import exceeds_learned_bounds, explained_input
from guard.worker.runtime import Runtime
from spend.capabilities import Lesson, LessonKind
from spend.codes import StepCode
from spend.ledger.rules import Bill, Command, Ended, LedgerError, NotPending, Remember, Reserved, Settle, Void
from spend.models import Outcome
from spend.pricing.cost import Most, Usage
from spend.pricing.learned_bounds import raise_allowances
from spend.pricing.learned_capabilities import learn as learn_lessons
from spend.pricing.learned_capabilities import unlearn as unlearn_lessons

logger = logging.getLogger(__name__)


def sent_under(hold: Hold, progress: CallProgress, runtime: Runtime) -> Sent:
    """What was sent, and what its model can bill for it: its context, or the text's own bound where that is more."""
    call, model = progress.call, runtime.policy.models.get(hold.reserved.offer.model)
    body, kind = (progress.adapted or call).body, runtime.policy.kind_of(hold.reserved.offer.provider)
    if model is None:
        return Sent(body, kind=kind)
    most = Most(max(model.context_tokens, explained_input(call.ask, model)), model.context_tokens * call.ask.choices)
    return Sent(body, call.ask.images * (model.image_allowance_tokens or 0), most, kind)


async def bill_of(raw_usage: Any, texts: Sequence[str], sent: Sent, reserved: Reserved, progress: CallProgress) -> Bill:
    """Like `guard.chat.billing.bill_of`; operators are told what could not be believed."""
    bill, impossible = await billing.bill_of(raw_usage, texts, sent, reserved, progress.duration_ms)
    if impossible:
        progress.note(reserved.offer.model, StepCode.USAGE_NOT_BELIEVED, **impossible)
        logger.warning("%s: figures of its provider's usage are impossible: %s", reserved.offer.model, impossible)
    return bill


async def end_unserved(hold: Hold, code: str, billed: bool | None, progress: CallProgress, runtime: Runtime) -> None:
    """Void the hold where the provider surely billed nothing; settle at the hold where nobody knows."""
    if billed is False:
        progress.trace.failed(code, 0)
        await void(hold, runtime)
        return
    progress.trace.failed(code, hold.reserved.hold_ticks)
    bill = Bill(cost_ticks=None, is_estimated=True, duration_ms=progress.duration_ms)
    (result,) = await runtime.writer.post(Settle(hold.reserved, bill, timezone.now()))
    progress.cost_ticks += result.cost_ticks if isinstance(result, Ended) else 0
    progress.charged = hold.reserved.offer
    runtime.releases.announce(hold.reserved.caller.tenant_id)


async def void(hold: Hold, runtime: Runtime) -> None:
    await runtime.writer.post(Void(hold.reserved, timezone.now()))
    runtime.releases.announce(hold.reserved.caller.tenant_id)


async def settle(
    hold: Hold, bill: Bill, completion: Mapping[str, Any], progress: CallProgress, runtime: Runtime
) -> Answer:
    """Settle at what the provider billed, record the call (and its answer, if it may be replayed), and answer."""
    reserved, tenant = hold.reserved, progress.call.tenant
    known_cost_ticks = reserved.hold_ticks if bill.cost_ticks is None else bill.cost_ticks
    progress.cost_ticks += known_cost_ticks
    progress.note(reserved.offer.model, StepCode.SERVED, cost_ticks=known_cost_ticks)
    budget = hold.status_after(known_cost_ticks, tenant)
    served, answer = reserved.offer, answer_to(hold, bill, completion, budget, progress)
    broke_off = progress.failed.get(served.model, "")
    record = progress.record(Outcome.SERVED, broke_off, served)
    progress.trace.served(completion, bill, known_cost_ticks, broke_off)
    commands: list[Command] = [Settle(reserved, bill, timezone.now()), record]
    claim = progress.call.claim
    if kept := claim and idempotency.pack(answer):
        commands.append(Remember(claim.id, kept))
    try:
        with progress.trace.step("settle"):
            ended, *_ = await runtime.writer.post(*commands)
    except LedgerError as error:
        progress.trace.ended(progress.record(*outcome_of(error), reserved.offer), budget.state)
        raise
    runtime.releases.announce(tenant.id)
    if claim and not kept:
        await runtime.note(idempotency.release, claim)
    await learn(hold, bill, completion, progress, runtime)
    assert isinstance(ended, Ended | NotPending)  # noqa: S101
    answer = replace(answer, budget=hold.status(tenant, ended.standings))
    runtime.contents.keep(progress.call, completion)
    progress.trace.ended(record, answer.budget.state)
    return answer


def answer_to(
    hold: Hold, bill: Bill, completion: Mapping[str, Any], budget: BudgetStatus, progress: CallProgress
) -> Answer:
    """The answer as it can be told before its settlement is written."""
    caller, served = progress.call.caller, hold.reserved.offer
    return Answer(
        request_id=caller.request_id,
        completion=completion,
        usage=bill.usage,
        model=served.model,
        route=served.route,
        cost_ticks=progress.cost_ticks,
        budget=budget,
        adapted=progress.adapted.names if progress.adapted else (),
        lowered_max_tokens=lowered_max_tokens(hold, progress.call),
        call_id=caller.call_id,
    )


def lowered_max_tokens(hold: Hold, call: ChatCall) -> int | None:
    """The maximum that the hold pays for, where it is below the caller's, or without one below the tenant's default."""
    allowed = hold.reserved.max_tokens
    return allowed if allowed < (call.ask.max_tokens or call.tenant.default_max_tokens) else None


def thought_in_vain(bill: Bill, completion: Mapping[str, Any], max_tokens: int) -> bool:
    """Whether the answer was cut at its maximum while it was thinking still, before a word of it was said."""
    usage: Usage = bill.usage
    choice: Mapping[str, Any] = next(iter(completion.get("choices") or ()), {})
    is_all_thinking = 0 < usage.output_tokens <= min(max_tokens, usage.reasoning_tokens)
    return is_all_thinking and choice.get("finish_reason") == "length"


async def learn(
    hold: Hold, bill: Bill, completion: Mapping[str, Any], progress: CallProgress, runtime: Runtime
) -> None:
    """What a served call teaches: that the model is well, and what its bill says of its bounds."""
    model, ask, max_tokens = hold.reserved.offer.model, progress.call.ask, hold.reserved.max_tokens
    policy = runtime.policy.models.get(model)
    offer = hold.reserved.offer
    last = LastServed(offer.model, offer.route, bill.usage.input_tokens, timezone.now())
    runtime.conversations.note(progress.call.caller, last)
    if policy and progress.adapted and (wrong := disproved(progress.adapted.body, ask.needs, policy.capabilities)):
        await runtime.note(unlearn_lessons, model, wrong)
    was_cut = (
        lowered_max_tokens(hold, progress.call) is not None and bill.usage.output_tokens >= max_tokens * ask.choices
    )
    if not bill.is_estimated and not was_cut:  # else each answer that was cut would let the next be cut shorter
        runtime.lengths.note((progress.call.tenant.id, model), bill.usage.output_tokens // ask.choices)
    thinks_within = policy and policy.capabilities.thinks_within_maximum
    if not thinks_within and thought_in_vain(bill, completion, max_tokens * ask.choices):
        within = (Lesson(LessonKind.THINKS_WITHIN),)
        await runtime.note(learn_lessons, model, within, "an answer that was cut while thinking", timezone.now())
    if policy and exceeds_learned_bounds(bill.usage, ask, policy, max_tokens, timezone.now()):
        explained = explained_input(ask, policy)
        await runtime.note(raise_allowances, model, explained, max_tokens, ask.choices, bill.usage)
    if model not in progress.failed:
        await runtime.record_success(hold.reserved)
