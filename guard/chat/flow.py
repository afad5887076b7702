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

import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from math import ceil
from time import monotonic
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from django.conf import settings
from django.db import Error
from django.utils import timezone

from guard.call import ChatCall
from guard.chat import billing, idempotency
from guard.chat.billing import Sent, texts_in
from guard.chat.types import Answer
from guard.http.errors import (
    AllModelsFailed,
    BudgetExceeded,
    BudgetHeld,
    ContentFiltered,
    GuardError,
    InvalidRequest,
    LedgerUnavailable,
    RateLimited,
)
from guard.policy.adapt import Adapted, adapt, disproved, lessons_of
from guard.policy.budget_status import STATE_HEADER, BudgetStatus, refusing, seconds_until, tightest
from guard.policy.last_served import LastServed, last_in_ledger
from guard.policy.policy import ModelPolicy, TenantPolicy, limits_of
from guard.policy.rate_limits import take_turn
from guard.policy.routing import Plan, explained_input, plan, teaches
from guard.providers import affinity
from guard.providers.failures import ContentRefused, Failed, Rejected
from guard.telemetry.trace import Trace
from guard.worker.runtime import Runtime
from spend import breakers
from spend.capabilities import Capabilities, Lesson, LessonKind, with_lessons
from spend.codes import FailureCode, StepCode, Worded
from spend.ids import new_id
from spend.ledger.rules import (
    Bill,
    Command,
    DoesNotFit,
    Ended,
    Held,
    LedgerError,
    Limit,
    NotPending,
    Offer,
    Record,
    Remember,
    Reserve,
    Reserved,
    Settle,
    Standing,
    TooMany,
    Void,
)
from spend.models import AUTO, Outcome
from spend.pricing.cost import Most, Usage
from spend.pricing.learned_bounds import raise_allowances
from spend.pricing.learned_capabilities import learn as learn_lessons
from spend.pricing.learned_capabilities import unlearn as unlearn_lessons

if TYPE_CHECKING:
    from guard.providers.client import Provider, ProviderStream

logger = logging.getLogger(__name__)

POLL_OTHER_WORKERS_S = 0.1
MOST_TURNS = 4
"""How many times HOLD_WAIT_SECONDS a call waits in all, beside the first, while those before it are served."""
RETRY_AFTER_FAILURE_S = 5
RETRY_AFTER_MENDING_S = 60
LASTING = frozenset(
    {
        StepCode.UNKNOWN_MODEL,
        StepCode.MODEL_DISABLED,
        StepCode.SHUT_DOWN,
        StepCode.NO_PRICE,
        StepCode.IMAGES_NOT_PRICED,
        StepCode.NO_PROVIDER_KEY,
    }
)
"""Why a model cannot serve that no waiting changes: an operator has to, or the caller asks for something else."""

MONEY = re.compile(r"\$|\busd\b|\bdollars?\b", re.IGNORECASE)
LATE_LEDGER = "A model was called, but the ledger is late. What it cost will be settled."
CHARGED = "No model on the route could answer. What one of them may have billed was charged."

Served = TypeVar("Served")
Send = Callable[["Provider", dict[str, Any], Mapping[str, str], float | None], Awaitable[Served]]
"""A provider, the request, its tracing headers, and the model's own limit of seconds to begin in, if it has one."""


@dataclass(slots=True)
class Story:
    """What has happened to a call so far: for its record, and for planning its next attempt."""

    call: ChatCall
    trace: Trace
    started: float = field(default_factory=monotonic)
    started_at: datetime = field(default_factory=timezone.now)
    steps: list[dict[str, Any]] = field(default_factory=list)
    failed: dict[str, FailureCode] = field(default_factory=dict)
    refused: dict[str, InvalidRequest] = field(default_factory=dict)
    """What each model that refused the request said of it."""
    learned: dict[str, tuple[Lesson, ...]] = field(default_factory=dict)
    """What those refusals taught, and the next attempt of the model will heed."""
    adapted: Adapted | None = None
    """The request as it was sent last."""
    last: LastServed | None = None
    """The latest answer in its conversation."""
    cost_ticks: int = 0
    charged: Offer | None = None
    """The last that did not serve and yet may have been billed."""
    retry_after_s: float = 0
    """The longest that a provider of this call wants to be left alone."""
    sent: "Hold | None" = None
    """The last hold under which a provider was called."""

    def note(self, model: str, decision: StepCode, **facts: Any) -> None:
        self.steps.append({"model": model, "decision": decision, **facts})

    def note_left_out(self, planned: Plan) -> None:
        """Once each, though every plan of the call leaves them out: it says why another model served."""
        for model, why in planned.left_out:
            if {"model": model, "decision": why} not in self.steps:
                self.note(model, why)

    @property
    def duration_ms(self) -> int:
        return int((monotonic() - self.started) * 1000)

    def record(self, outcome: Outcome, code: str = "", offer: Offer | None = None) -> Record:
        return Record(
            caller=self.call.caller,
            outcome=outcome,
            at=self.started_at,
            model=offer.model if offer else "",
            route=offer.route if offer else "",
            code=code,
            cost_ticks=self.cost_ticks,
            duration_ms=self.duration_ms,
            steps=tuple(self.steps),
        )


@dataclass(frozen=True, slots=True)
class Hold:
    """A hold that stands, with the limits it was made under and how they stood then."""

    reserved: Reserved
    limits: tuple[Limit, ...]
    standings: tuple[Standing, ...]

    def status(self, tenant: TenantPolicy, standings: tuple[Standing, ...] | None = None) -> BudgetStatus:
        """`standings` may go on with those of windows that counted the call and did not bind it."""
        own = (standings or self.standings)[: len(self.limits)]
        return tightest(self.limits, own, can_downgrade=bool(tenant.downgrades))

    def status_after(self, cost_ticks: int, tenant: TenantPolicy) -> BudgetStatus:
        """How the budget stands once this hold is settled, as far as this call can tell beforehand."""
        hold_ticks = self.reserved.hold_ticks
        standings = [Standing(spent + cost_ticks, held - hold_ticks) for spent, held in self.standings]
        return self.status(tenant, tuple(standings))


@dataclass(frozen=True, slots=True)
class Opened:
    """A stream whose first event has come: from here on its settlement is `guard.chat.streaming`' duty."""

    stream: "ProviderStream"
    hold: Hold
    story: Story
    sent: Sent


class Patience:
    """How long a call waits for other calls' holds: as long as nothing moves, or the queue goes on, up to a limit."""

    def __init__(self) -> None:
        self.wait_s_at_rest: float = settings.HOLD_WAIT_SECONDS
        self.started = self.moved = monotonic()
        self.spent: tuple[int, ...] = ()
        self.is_over = not self.wait_s_at_rest

    def wait_s(self, standings: tuple[Standing, ...]) -> float:
        """Seconds until the next try; `is_over` if that is to be the last."""
        now, spent = monotonic(), tuple(standing.spent_ticks for standing in standings)
        if spent != self.spent:  # calls before this one were settled, so its turn may come
            self.moved, self.spent = now, spent
        left_s = min(self.moved, self.started + MOST_TURNS * self.wait_s_at_rest) + self.wait_s_at_rest - now
        self.is_over = left_s <= POLL_OTHER_WORKERS_S
        return max(0.0, min(POLL_OTHER_WORKERS_S, left_s))


async def converse(call: ChatCall, runtime: Runtime) -> Answer:
    """Serve `call` from the first model on its route that the budget and the providers allow.

    Raises a GuardError; then the call's record says why.
    """
    hold, completion, story = await first_to_serve(call, runtime, _complete)
    texts = list(texts_in([choice["message"] for choice in completion["choices"]]))
    bill = await bill_of(completion.get("usage"), texts, sent_under(hold, story, runtime), hold.reserved, story)
    try:
        return await settle(hold, bill, completion, story, runtime)
    except LedgerError:
        # Another try would be another bill.
        raise LedgerUnavailable(
            "The model answered, but the ledger is late. The call will be settled.", should_retry=False
        ) from None


async def open_stream(call: ChatCall, runtime: Runtime) -> Opened:
    """Like `converse`, up to the first event of the provider's stream. Raises a GuardError."""
    hold, stream, story = await first_to_serve(call, runtime, _stream)
    return Opened(stream, hold, story, sent_under(hold, story, runtime))


def sent_under(hold: Hold, story: Story, runtime: Runtime) -> Sent:
    """What was sent, and what its model can bill for it: its context, or the text's own bound where that is more."""
    call, model = story.call, runtime.policy.models.get(hold.reserved.offer.model)
    body = (story.adapted or call).body
    if model is None:
        return Sent(body)
    most = Most(max(model.context_tokens, explained_input(call.ask, model)), model.context_tokens * call.ask.choices)
    return Sent(body, call.ask.images * (model.image_allowance_tokens or 0), most)


async def bill_of(raw_usage: Any, texts: Sequence[str], sent: Sent, reserved: Reserved, story: Story) -> Bill:
    """Like `guard.chat.billing.bill_of`; operators are told what could not be believed."""
    bill, impossible = await billing.bill_of(raw_usage, texts, sent, reserved, story.duration_ms)
    if impossible:
        story.note(reserved.offer.model, StepCode.USAGE_NOT_BELIEVED, **impossible)
        logger.warning("%s: figures of its provider's usage are impossible: %s", reserved.offer.model, impossible)
    return bill


async def _complete(
    provider: "Provider", payload: dict[str, Any], headers: Mapping[str, str], wait_s: float | None
) -> dict[str, Any]:
    return await provider.complete(payload, headers, wait_s)


async def _stream(
    provider: "Provider", payload: dict[str, Any], headers: Mapping[str, str], wait_s: float | None
) -> "ProviderStream":
    return await provider.stream(payload, headers, wait_s)


async def first_to_serve(call: ChatCall, runtime: Runtime, send: Send[Served]) -> tuple[Hold, Served, Story]:
    """Attempt after attempt, until a provider serves, or nothing on the route is left or fits."""
    story, hold = Story(call, runtime.telemetry.trace(call)), None
    try:
        if call.pace.per_minute:
            await runtime.query(take_turn, call.pace.per_minute)
        story.last = await last_served(call, runtime)
        while True:
            with story.trace.step("hold"):
                hold = await reserve(story, runtime)
            try:
                return hold, await attempt(hold, story, runtime, send), story
            except Failed as failure:
                await give_up(hold, failure, story, runtime)
            except Rejected as rejection:
                await turn_to_another(hold, rejection, story, runtime)
            except (GuardError, LedgerError):  # its hold has ended, or will
                raise
            except Exception:
                await end_unserved(
                    hold, FailureCode.INTERNAL_ERROR, None if story.sent is hold else False, story, runtime
                )
                raise
    except Exception as error:
        record = story.record(*outcome_of(error), story.charged)
        story.trace.ended(record, state_after(error, hold, call.tenant))
        if not isinstance(error, LedgerError):
            runtime.writer.post_later(record)
        if call.claim:
            await runtime.note(idempotency.release, call.claim)
        if isinstance(error, GuardError) and story.cost_ticks:
            error.should_retry = False  # another try may be another bill
        if isinstance(error, LedgerError) and story.sent:
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


def outcome_of(error: Exception) -> tuple[Outcome, str]:
    if isinstance(error, GuardError):
        return Outcome.FAILED if isinstance(error, AllModelsFailed) else Outcome.REFUSED, error.code
    return Outcome.FAILED, "ledger_unavailable" if isinstance(error, LedgerError) else "internal_error"


def state_after(error: Exception, hold: Hold | None, tenant: TenantPolicy) -> str:
    """The budget's state when a call was refused or failed, where that was looked at."""
    if isinstance(error, GuardError) and (state := error.headers.get(STATE_HEADER)):
        return state
    return hold.status(tenant).state if hold else ""


async def reserve(story: Story, runtime: Runtime) -> Hold:
    """Hold the worst case of the best offer that fits, waiting a moment where only other holds are in the way."""
    patience = Patience()
    tenant, caller = story.call.tenant, story.call.caller
    while True:
        now = timezone.now()
        planned = plan_attempt(story, runtime, now)
        # A provider may have hung for minutes, and budgets changed meanwhile.
        tenant = runtime.policy.tenants.get(tenant.id, tenant)
        limits = limits_of(runtime.policy, tenant, caller.key_id, caller.customer, caller.conversation, now)
        lease_expires_at = now + timedelta(seconds=settings.RESERVATION_LEASE_SECONDS)
        (result,) = await runtime.writer.post(
            Reserve(
                new_id(), caller, limits, planned.offers, now, lease_expires_at, story.call.pace.in_flight,
                may_wait=not patience.is_over,
            )
        )  # fmt: skip
        if isinstance(result, Held):
            story.note_left_out(planned)
            note_offers(story, planned.offers, result.passed_over)
            story.note(result.reserved.offer.model, StepCode.HELD, hold_ticks=result.reserved.hold_ticks)
            return Hold(result.reserved, limits, result.standings)
        if isinstance(result, TooMany):
            raise RateLimited(f"{result.limit.most:,} calls are in flight, which is the limit.", retry_after_s=1)
        assert isinstance(result, DoesNotFit)  # noqa: S101
        if not result.by_holds or patience.is_over:
            story.note_left_out(planned)
            note_offers(story, planned.offers, result.passed_over)
            if story.refused and not result.by_holds and story.failed.keys() <= story.refused.keys():
                raise next(iter(story.refused.values()))  # all that the budget allows refuse it, which is to be mended
            refuse(story, result, limits, now)
        await runtime.releases.wait(tenant.id, patience.wait_s(result.standings))


def plan_attempt(story: Story, runtime: Runtime, now: datetime) -> Plan:
    call = story.call
    resting_s = runtime.rests.by_model()
    planned = plan(
        call.ask, call.tenant, runtime.policy, now, failed=story.failed, again=story.refused,
        spared={**runtime.open_circuits(call.tenant.id), **dict.fromkeys(resting_s, StepCode.RATE_LIMITED)},
        providers=runtime.providers.by_name, lengths=runtime.lengths.known, last=story.last,
    )  # fmt: skip
    if not planned.offers:
        story.note_left_out(planned)
        rest_s = max([story.retry_after_s, *(resting_s.get(model, 0) for model, _ in planned.left_out)])
        reasons = [*story.failed.items(), *planned.left_out]
        raise no_offer(reasons, story.refused, is_charged=bool(story.cost_ticks), rest_s=rest_s)
    return planned


UNFIT = {
    StepCode.NO_TOOLS: ("tools", "can call functions as this request wants it"),
    StepCode.NO_JSON_SCHEMA: ("response_format", "answers by a JSON schema"),
    StepCode.NO_IMAGES: ("messages", "takes pictures"),
    StepCode.NO_CHOICES: ("n", "gives several choices"),
}
"""What of the request no model can serve, where that is why: its field, and what none does."""


def no_offer(
    reasons: list[tuple[str, Worded]],
    refused: Mapping[str, InvalidRequest],
    *,
    is_charged: bool,
    rest_s: float = 0,
) -> GuardError:
    """Of the (model, code) of every model on the route: whose it is to mend, and whether to come again for it.

    `rest_s` is how long a provider wants to be left alone.
    """
    codes = {code for _, code in reasons}
    attempts = [{"model": model, "code": code} for model, code in reasons]
    if refused and codes <= LASTING | UNFIT.keys() | {FailureCode.REJECTED}:
        return next(iter(refused.values()))
    unfit = [UNFIT[code] for _, code in reasons if isinstance(code, StepCode) and code in UNFIT]
    if unfit and codes <= LASTING | UNFIT.keys():
        param, what = unfit[0]
        return InvalidRequest(f"{param}: no model on the route {what}.", param=param)
    if not codes <= LASTING:
        message = CHARGED if is_charged else None
        return AllModelsFailed(message, retry_after_s=ceil(rest_s) or RETRY_AFTER_FAILURE_S, attempts=attempts)
    if StepCode.IMAGES_NOT_PRICED in codes:
        return InvalidRequest("messages: no model on the route has a price for pictures.", param="messages")
    return AllModelsFailed(
        "No model on the route can be called until an operator changes that.",
        retry_after_s=RETRY_AFTER_MENDING_S,
        should_retry=False,
        attempts=attempts,
    )


def note_offers(story: Story, offers: tuple[Offer, ...], passed_over: tuple[StepCode, ...]) -> None:
    for offer, why in zip(offers, passed_over, strict=False):
        story.note(offer.model, why, hold_ticks=offer.hold_ticks(offer.max_tokens))


def refuse(story: Story, result: DoesNotFit, limits: tuple[Limit, ...], now: datetime) -> NoReturn:
    """Say which it is: spent, or only held; and when the window that binds turns over."""
    tenant = story.call.tenant
    if result.by_holds:
        status = tightest(limits, result.standings, can_downgrade=bool(tenant.downgrades))
        raise BudgetHeld(retry_after_s=1, headers=status.headers(tenant, now))
    binding = [limits[position] for position in result.binding]
    for limit in binding:  # which `spend.alerts.detection` reads: whose budget it was, and under which bounds
        scope, period, starts_at = limit.key.scope, limit.key.period, limit.key.starts_at.isoformat()
        bounds = {"limit_ticks": limit.limit_ticks, "hard_ticks": limit.hard_ticks}
        story.note("", StepCode.REFUSED, scope=scope, period=period, starts_at=starts_at, **bounds)
    status = refusing(limits, result.standings, result.binding, can_downgrade=bool(tenant.downgrades))
    # Several may bind, and all of them must turn over; a budget in total never does.
    ends = [limit.ends_at for limit in binding]
    retry_after_s = None if None in ends else max(1, seconds_until(max(filter(None, ends), default=now), now))
    raise BudgetExceeded(retry_after_s=retry_after_s, headers=status.headers(tenant, now))


async def attempt(hold: Hold, story: Story, runtime: Runtime, send: Send[Served]) -> Served:
    """Send the call, made fit, to the model that was held for. Raises Failed or Rejected."""
    offer = hold.reserved.offer
    breaker, now = runtime.keeper.breakers.get(offer.model), timezone.now()
    is_closed = breakers.state_of(breaker, now, story.call.tenant.id) is breakers.State.CLOSED
    if not is_closed and not await runtime.query(breakers.claim_probe, offer.model, now):
        raise Failed(FailureCode.CIRCUIT_OPEN)
    provider, model = runtime.providers.get(offer.provider), runtime.policy.models[offer.model]
    story.adapted = made_fit(story, model, chosen=story.call.ask.model != offer.model)
    payload = {
        **story.adapted.body,
        "model": model.upstream_name,
        "max_completion_tokens": hold.reserved.max_tokens,
    }
    if story.adapted.names:
        story.note(offer.model, StepCode.ADAPTED, parameters=", ".join(story.adapted.names))
    with story.trace.sending(hold.reserved, payload):
        story.sent = hold
        affine = affinity.headers_for(offer.provider, story.call.caller, story.call.body)
        return await send(provider, payload, {**story.trace.headers(), **affine}, model.answer_timeout_s)


def made_fit(story: Story, model: ModelPolicy, *, chosen: bool) -> Adapted:
    """The request as it goes to this model, by what is known of it and what it has just refused in this call."""
    call, known = story.call, capabilities_of(model, story)
    adapted = adapt(call.body, call.ask.needs, known, chosen=chosen)
    added = affinity.parameters_for(model.provider, call.caller, call.body)
    takes = {name: value for name, value in added.items() if not known.refuses(name, call.ask.effort)}
    return replace(adapted, body={**adapted.body, **takes}) if takes else adapted


def capabilities_of(model: ModelPolicy, story: Story) -> Capabilities:
    """What is known of the model, and what it has just refused in this call."""
    return with_lessons(model.capabilities, story.learned.get(model.id, ()))


async def turn_to_another(hold: Hold, rejection: Rejected, story: Story, runtime: Runtime) -> None:
    """End a refused attempt's hold, for nothing, and learn from it. Raises InvalidRequest where it is the caller's.

    It is where the caller asked for this model; by its name, or as the first of the route, unless what it
    refuses is something that not every model does.
    """
    story.trace.failed(rejection.code, 0)
    await void(hold, runtime)
    await runtime.record_success(hold.reserved)  # it refuses the request, and so is well
    if isinstance(rejection, ContentRefused):  # no other provider gets to see the same text
        raise ContentFiltered(words_of(rejection, story.call.tenant), param=rejection.param)
    model, call = runtime.policy.models[hold.reserved.offer.model], story.call
    assert story.adapted  # noqa: S101
    known = capabilities_of(model, story)
    lessons = lessons_of(story.adapted.body, call.ask.needs, known, rejection.param, rejection.refusal, str(rejection))
    if lessons:
        await runtime.note(learn_lessons, model.id, lessons, str(rejection), timezone.now())
    refusal = InvalidRequest(words_of(rejection, call.tenant), param=rejection.param)
    if is_callers(model.id, lessons, story):
        raise refusal
    story.refused[model.id] = refusal
    story.note(model.id, StepCode.REJECTED, parameter=rejection.param or "")
    story.learned[model.id] = (*story.learned.get(model.id, ()), *lessons)
    if made_fit(story, model, chosen=model.id != call.ask.model).body == story.adapted.body:
        story.failed[model.id] = FailureCode.REJECTED  # it would refuse it again


def is_callers(model_id: str, lessons: tuple[Lesson, ...], story: Story) -> bool:
    """Whether a refusal that teaches this goes to the caller: not where it is of something that the guard added."""
    call, sent = story.call, story.adapted
    assert sent  # noqa: S101
    if any(lesson.name in sent.body and lesson.name not in call.body for lesson in lessons):
        return False
    return model_id == call.ask.model or (
        call.ask.model == AUTO and model_id == call.caller.requested_model and not lessons
    )


def words_of(rejection: Rejected, tenant: TenantPolicy) -> str:
    """The provider's own, unless they speak of money to a caller who may not see any."""
    words = str(rejection)
    return "The provider rejected the request." if tenant.hide_money and MONEY.search(words) else words


async def give_up(hold: Hold, failure: Failed, story: Story, runtime: Runtime) -> None:
    """End a failed attempt's hold, and remember not to try its model again for this call."""
    model = hold.reserved.offer.model
    story.failed[model] = failure.code
    story.note(model, StepCode.FAILED, code=failure.code)
    if failure.is_throttled:
        runtime.rests.note(model, failure.retry_after_s)
        story.retry_after_s = max(story.retry_after_s, failure.retry_after_s or 0)
    elif failure.code != FailureCode.CIRCUIT_OPEN:
        await runtime.record_failure(hold.reserved, failure.code)
    await end_unserved(hold, failure.code, failure.billed, story, runtime)


async def end_unserved(hold: Hold, code: str, billed: bool | None, story: Story, runtime: Runtime) -> None:
    """Void the hold where the provider surely billed nothing; settle at the hold where nobody knows."""
    if billed is False:
        story.trace.failed(code, 0)
        await void(hold, runtime)
        return
    story.trace.failed(code, hold.reserved.hold_ticks)
    bill = Bill(cost_ticks=None, is_estimated=True, duration_ms=story.duration_ms)
    (result,) = await runtime.writer.post(Settle(hold.reserved, bill, timezone.now()))
    story.cost_ticks += result.cost_ticks if isinstance(result, Ended) else 0
    story.charged = hold.reserved.offer
    runtime.releases.announce(hold.reserved.caller.tenant_id)


async def void(hold: Hold, runtime: Runtime) -> None:
    await runtime.writer.post(Void(hold.reserved, timezone.now()))
    runtime.releases.announce(hold.reserved.caller.tenant_id)


async def settle(hold: Hold, bill: Bill, completion: Mapping[str, Any], story: Story, runtime: Runtime) -> Answer:
    """Settle at what the provider billed, record the call (and its answer, if it may be replayed), and answer."""
    reserved, tenant = hold.reserved, story.call.tenant
    known_cost_ticks = reserved.hold_ticks if bill.cost_ticks is None else bill.cost_ticks
    story.cost_ticks += known_cost_ticks
    story.note(reserved.offer.model, StepCode.SERVED, cost_ticks=known_cost_ticks)
    budget = hold.status_after(known_cost_ticks, tenant)
    served, request_id = reserved.offer, story.call.caller.request_id
    answer = Answer(
        request_id, completion, bill.usage, served.model, served.route, story.cost_ticks, budget,
        adapted=story.adapted.names if story.adapted else (), lowered_max_tokens=lowered_max_tokens(hold, story.call),
    )  # fmt: skip
    broke_off = story.failed.get(served.model, "")
    record = story.record(Outcome.SERVED, broke_off, served)
    story.trace.served(completion, bill, known_cost_ticks, broke_off)
    commands: list[Command] = [Settle(reserved, bill, timezone.now()), record]
    claim = story.call.claim
    if kept := claim and idempotency.pack(answer):
        commands.append(Remember(claim.id, kept))
    try:
        with story.trace.step("settle"):
            ended, *_ = await runtime.writer.post(*commands)
    except LedgerError as error:
        story.trace.ended(story.record(*outcome_of(error), reserved.offer), budget.state)
        raise
    runtime.releases.announce(tenant.id)
    if claim and not kept:
        await runtime.note(idempotency.release, claim)
    await learn(hold, bill, completion, story, runtime)
    assert isinstance(ended, Ended | NotPending)  # noqa: S101
    answer = replace(answer, budget=hold.status(tenant, ended.standings))
    runtime.contents.keep(story.call, completion)
    story.trace.ended(record, answer.budget.state)
    return answer


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


async def learn(hold: Hold, bill: Bill, completion: Mapping[str, Any], story: Story, runtime: Runtime) -> None:
    """What a served call teaches: that the model is well, and what its bill says of its bounds."""
    model, ask, max_tokens = hold.reserved.offer.model, story.call.ask, hold.reserved.max_tokens
    policy = runtime.policy.models.get(model)
    offer = hold.reserved.offer
    last = LastServed(offer.model, offer.route, bill.usage.input_tokens, timezone.now())
    runtime.conversations.note(story.call.caller, last)
    if policy and story.adapted and (wrong := disproved(story.adapted.body, ask.needs, policy.capabilities)):
        await runtime.note(unlearn_lessons, model, wrong)
    was_cut = lowered_max_tokens(hold, story.call) is not None and bill.usage.output_tokens >= max_tokens * ask.choices
    if not bill.is_estimated and not was_cut:  # else each answer that was cut would let the next be cut shorter
        runtime.lengths.note((story.call.tenant.id, model), bill.usage.output_tokens // ask.choices)
    thinks_within = policy and policy.capabilities.thinks_within_maximum
    if not thinks_within and thought_in_vain(bill, completion, max_tokens * ask.choices):
        within = (Lesson(LessonKind.THINKS_WITHIN),)
        await runtime.note(learn_lessons, model, within, "an answer that was cut while thinking", timezone.now())
    if policy and teaches(bill.usage, ask, policy, max_tokens, timezone.now()):
        explained = explained_input(ask, policy)
        await runtime.note(raise_allowances, model, explained, max_tokens, ask.choices, bill.usage)
    if model not in story.failed:
        await runtime.record_success(hold.reserved)
