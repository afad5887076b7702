"""The story of one call, and the only place with its control flow.

    plan ─> reserve ─> provider ─> settle ─> answer
      ^        │           │
      │        │           └── failed: void (or settle at the hold, where nobody knows the bill), plan
      │        │               again without that model
      │        └────────────── held by other calls: wait for them a moment; does not fit: refuse
      └─────────────────────── every attempt is planned, priced and reserved anew

A call is answered only after its settlement is committed, and a provider is called only after its
hold is.  Refusals and failures cost the tenant nothing that a provider did not bill.  A stream tells
the same story; its answer begins at the provider's first event, and `guard.chat.streaming` settles it.
"""

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db import Error
from django.utils import timezone

from guard.call import ChatCall
from guard.chat import idempotency
from guard.chat.billing import texts_in
from guard.chat.fitting import capabilities_of, is_callers, made_fit
from guard.chat.handoff import HandedOff
from guard.chat.refusals import no_offer, outcome_of, refuse, state_after, words_of
from guard.chat.settlement import bill_of, end_unserved, sent_under, settle, void
from guard.chat.types import Answer, CallProgress, Hold, Opened, Send, Served
from guard.chat.waiting import HoldWait
from guard.http.errors import ContentFiltered, GuardError, InvalidRequest, LedgerUnavailable, RateLimited
from guard.policy.adapt import lessons_of
from guard.policy.last_served import LastServed, last_in_ledger
from guard.policy.limits import limits_of
from guard.policy.rate_limits import take_turn
from guard.policy.routing import Plan, plan
from guard.providers import affinity
from guard.providers.failures import ContentRefused, Failed, Rejected
from guard.worker.runtime import Runtime
from spend import breakers
from spend.codes import FailureCode, StepCode
from spend.ids import new_id
from spend.ledger.rules import DoesNotFit, Held, LedgerError, Offer, Reserve, TooMany
from spend.pricing.learned_capabilities import learn as learn_lessons

if TYPE_CHECKING:
    from guard.providers.client import Provider, ProviderStream

LATE_LEDGER = "A model was called, but the ledger is late. What it cost will be settled."


async def complete(
    provider: "Provider", payload: dict[str, Any], headers: Mapping[str, str], wait_s: float | None
) -> dict[str, Any]:
    return await provider.complete(payload, headers, wait_s)


async def converse(call: ChatCall, runtime: Runtime, send: Send[dict[str, Any]] = complete) -> Answer:
    """Serve `call` from the first model on its route that the budget and the providers allow.

    Raises a GuardError; then the call's record says why.
    """
    hold, completion, progress = await first_to_serve(call, runtime, send)
    texts = list(texts_in([choice["message"] for choice in completion.get("choices", ())]))
    bill = await bill_of(completion.get("usage"), texts, sent_under(hold, progress, runtime), hold.reserved, progress)
    try:
        return await settle(hold, bill, completion, progress, runtime)
    except LedgerError:
        # Another try would be another bill.
        raise LedgerUnavailable(
            "The model answered, but the ledger is late. The call will be settled.", should_retry=False
        ) from None


async def open_stream(call: ChatCall, runtime: Runtime) -> Opened:
    """Like `converse`, up to the first event of the provider's stream. Raises a GuardError."""
    hold, stream, progress = await first_to_serve(call, runtime, _stream)
    return Opened(stream, hold, progress, sent_under(hold, progress, runtime))


async def _stream(
    provider: "Provider", payload: dict[str, Any], headers: Mapping[str, str], wait_s: float | None
) -> "ProviderStream":
    return await provider.stream(payload, headers, wait_s)


async def first_to_serve(call: ChatCall, runtime: Runtime, send: Send[Served]) -> tuple[Hold, Served, CallProgress]:
    """Attempt after attempt, until a provider serves, or nothing on the route is left or fits."""
    progress, hold = CallProgress(call, runtime.telemetry.trace(call)), None
    try:
        if call.pace.per_minute:
            await runtime.query(take_turn, call.pace.per_minute)
        progress.last = await last_served(call, runtime)
        while True:
            with progress.trace.step("hold"):
                hold = await reserve(progress, runtime)
            try:
                return hold, await attempt(hold, progress, runtime, send), progress
            except Failed as failure:
                await give_up(hold, failure, progress, runtime)
            except Rejected as rejection:
                await turn_to_another(hold, rejection, progress, runtime)
            except (GuardError, LedgerError):  # its hold has ended, or will
                raise
            except Exception:
                billed = None if progress.sent is hold else False
                await end_unserved(hold, FailureCode.INTERNAL_ERROR, billed, progress, runtime)
                raise
    except Exception as error:
        record = progress.record(*outcome_of(error), progress.charged)
        progress.trace.ended(record, state_after(error, hold, call.tenant))
        if not isinstance(error, LedgerError):
            runtime.writer.post_later(record)
        if isinstance(error, HandedOff):
            runtime.keep(runtime.tell_handed_off(error.window, error.ends_at))
        if call.claim:
            await runtime.note(idempotency.release, call.claim)
        if isinstance(error, GuardError) and progress.cost_ticks:
            error.should_retry = False  # another try may be another bill
        if isinstance(error, LedgerError) and progress.sent:
            raise LedgerUnavailable(LATE_LEDGER, should_retry=False) from error
        raise


async def last_served(call: ChatCall, runtime: Runtime) -> LastServed | None:
    """The latest answer in the call's conversation, where it has begun; from the ledger if not by this worker."""
    if not (call.caller.conversation and call.ask.has_begun):
        return None
    if (last := runtime.conversations.get(call.caller)) is None:
        with suppress(Error):  # then it is planned as if it began now
            last = await runtime.query(last_in_ledger, call.caller)
        if last:
            runtime.conversations.note(call.caller, last)
    return last


async def reserve(progress: CallProgress, runtime: Runtime) -> Hold:
    """Hold the worst case of the best offer that fits, waiting a moment where only other holds are in the way."""
    hold_wait = HoldWait()
    tenant, caller = progress.call.tenant, progress.call.caller
    while True:
        now = timezone.now()
        planned = plan_attempt(progress, runtime, now)
        # A provider may have hung for minutes, and budgets changed meanwhile.
        tenant = runtime.policy.tenants.get(tenant.id, tenant)
        limits = limits_of(
            runtime.policy, tenant, caller.key_id, caller.customer, caller.conversation, now,
            has_begun=progress.last is not None,
        )  # fmt: skip
        lease_expires_at = now + timedelta(seconds=settings.RESERVATION_LEASE_SECONDS)
        (result,) = await runtime.writer.post(
            Reserve(
                new_id(), caller, limits, planned.offers, now, lease_expires_at, progress.call.pace.in_flight,
                may_wait=not hold_wait.is_over,
            )
        )  # fmt: skip
        if isinstance(result, Held):
            progress.note_left_out(planned)
            note_offers(progress, planned.offers, result.passed_over)
            note_held(progress, result)
            return Hold(result.reserved, limits, result.standings)
        if isinstance(result, TooMany):
            raise RateLimited(f"{result.limit.most:,} calls are in flight, which is the limit.", retry_after_s=1)
        assert isinstance(result, DoesNotFit)  # noqa: S101
        if not result.by_holds or hold_wait.is_over:
            progress.note_left_out(planned)
            note_offers(progress, planned.offers, result.passed_over)
            if progress.refused and not result.by_holds and progress.failed.keys() <= progress.refused.keys():
                # All that the budget allows refuse it, which is to be mended.
                raise next(iter(progress.refused.values()))
            refuse(progress, result, limits, now)
        await runtime.releases.wait(tenant.id, hold_wait.wait_s(result.standings))


def plan_attempt(progress: CallProgress, runtime: Runtime, now: datetime) -> Plan:
    call = progress.call
    resting_s = runtime.rests.by_model()
    planned = plan(
        call.ask, call.tenant, runtime.policy, now, failed=progress.failed, again=progress.refused,
        spared={**runtime.open_circuits(call.tenant.id), **dict.fromkeys(resting_s, StepCode.RATE_LIMITED)},
        providers=runtime.providers.by_name, lengths=runtime.lengths.known, last=progress.last,
    )  # fmt: skip
    if not planned.offers:
        progress.note_left_out(planned)
        rest_s = max([progress.retry_after_s, *(resting_s.get(model, 0) for model, _ in planned.left_out)])
        reasons = [*progress.failed.items(), *planned.left_out]
        raise no_offer(reasons, progress.refused, is_charged=bool(progress.cost_ticks), rest_s=rest_s)
    return planned


def note_offers(progress: CallProgress, offers: tuple[Offer, ...], passed_over: tuple[StepCode, ...]) -> None:
    for offer, why in zip(offers, passed_over, strict=False):
        progress.note(offer.model, why, hold_ticks=offer.hold_ticks(offer.max_tokens))


def note_held(progress: CallProgress, held: Held) -> None:
    model, step = held.reserved.offer.model, {"step": held.reserved.step} if held.reserved.step else {}
    if held.step_tokens is not None:
        progress.note(model, StepCode.SHORTENED, max_tokens=held.step_tokens, **step)
    progress.note(model, StepCode.HELD, hold_ticks=held.reserved.hold_ticks)


async def attempt(hold: Hold, progress: CallProgress, runtime: Runtime, send: Send[Served]) -> Served:
    """Send the call, made fit, to the model that was held for. Raises Failed or Rejected."""
    offer = hold.reserved.offer
    breaker, now = runtime.keeper.breakers.get(offer.model), timezone.now()
    is_closed = breakers.state_of(breaker, now, progress.call.tenant.id) is breakers.State.CLOSED
    if not is_closed and not await runtime.query(breakers.claim_probe, offer.model, now):
        raise Failed(FailureCode.CIRCUIT_OPEN)
    provider, model = runtime.providers.get(offer.provider), runtime.policy.models[offer.model]
    progress.adapted = made_fit(progress, model, provider.account.kind, chosen=progress.call.ask.model != offer.model)
    payload = progress.call.payload(progress.adapted.body, model.upstream_name, hold.reserved.max_tokens)
    if progress.adapted.names:
        progress.note(offer.model, StepCode.ADAPTED, parameters=", ".join(progress.adapted.names))
    with progress.trace.sending(hold.reserved, payload, provider.account.base_url):
        progress.sent = hold
        affine = affinity.headers_for(provider.account.kind, progress.call.caller, progress.call.body)
        return await send(provider, payload, {**progress.trace.headers(), **affine}, model.answer_timeout_s)


async def turn_to_another(hold: Hold, rejection: Rejected, progress: CallProgress, runtime: Runtime) -> None:
    """End a refused attempt's hold, for nothing, and learn from it. Raises InvalidRequest where it is the caller's.

    It is where the caller asked for this model; by its name, or as the first of the route, unless what it
    refuses is something that not every model does.
    """
    progress.trace.failed(rejection.code, 0)
    await void(hold, runtime)
    await runtime.record_success(hold.reserved)  # it refuses the request, and so is well
    if isinstance(rejection, ContentRefused):  # no other provider gets to see the same text
        raise ContentFiltered(words_of(rejection, progress.call.tenant), param=rejection.param)
    model, call = runtime.policy.models[hold.reserved.offer.model], progress.call
    assert progress.adapted  # noqa: S101
    known = capabilities_of(model, progress)
    lessons = lessons_of(
        progress.adapted.body, call.ask.needs, known, rejection.param, rejection.refusal, str(rejection)
    )
    if lessons:
        await runtime.note(learn_lessons, model.id, lessons, str(rejection), timezone.now())
    refusal = InvalidRequest(words_of(rejection, call.tenant), param=rejection.param)
    if is_callers(model.id, lessons, progress):
        raise refusal
    progress.refused[model.id] = refusal
    progress.note(model.id, StepCode.REJECTED, parameter=rejection.param or "")
    progress.learned[model.id] = (*progress.learned.get(model.id, ()), *lessons)
    kind = runtime.policy.kind_of(model.provider)
    if made_fit(progress, model, kind, chosen=model.id != call.ask.model).body == progress.adapted.body:
        progress.failed[model.id] = FailureCode.REJECTED  # it would refuse it again


async def give_up(hold: Hold, failure: Failed, progress: CallProgress, runtime: Runtime) -> None:
    """End a failed attempt's hold, and remember not to try its model again for this call."""
    model = hold.reserved.offer.model
    progress.failed[model] = failure.code
    progress.note(model, StepCode.FAILED, code=failure.code)
    if failure.is_throttled:
        runtime.rests.note(model, failure.retry_after_s)
        progress.retry_after_s = max(progress.retry_after_s, failure.retry_after_s or 0)
    elif failure.code != FailureCode.CIRCUIT_OPEN:
        await runtime.record_failure(hold.reserved, failure.code)
    await end_unserved(hold, failure.code, failure.billed, progress, runtime)
