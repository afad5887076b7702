"""Weeks of business lived through in seconds: made-up customers, but the guard's own plan and the ledger's own rules.

Each call is planned, reserved, settled and recorded as a real one, only with a clock that stands in the
past; so downgrades and refusals are where they would have been, and the books balance.
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, time, timedelta
from itertools import islice

from guard.call import ChatCall
from guard.chat.billing import read_bill
from guard.chat.flow import note_offers
from guard.chat.types import CallProgress
from guard.policy.limits import limits_of
from guard.policy.loader import load
from guard.policy.routing import Ask, plan
from guard.policy.snapshot import KeyPolicy, Policy
from guard.telemetry.trace import Trace
from spend.codes import StepCode
from spend.ids import new_id
from spend.ledger.posting import Posting
from spend.ledger.rules import Caller, Command, DoesNotFit, Held, Limit, Reserve, Result, Settle
from spend.models import Outcome
from spend.summaries.daily import catch_up
from tenants.models import ApiKey, Tenant

HOURS = [1, 1, 1, 1, 1, 2, 3, 6, 9, 12, 13, 12, 11, 12, 12, 11, 10, 9, 8, 6, 5, 4, 3, 2]
"""How busy each hour of the tenant's day is."""
IN_FLIGHT = 6
BYTES_PER_TOKEN = 4
LEASE = timedelta(minutes=15)
OUTAGE = {"grok-4.3"}


@dataclass(frozen=True)
class Business:
    """How much a tenant's customers chat. `today` is how busy today is, against a usual whole day."""

    tenant_id: str
    chats_a_day: int
    prompt_tokens: int
    today: float = 1.0
    outage_on_day: int | None = None
    """So many days ago the route's first model was down for two hours."""


@dataclass(frozen=True)
class Turn:
    """One call that an agent makes."""

    at: datetime
    customer: str
    conversation: str
    prompt_tokens: int
    answer_tokens: int
    is_outage: bool


def live_through(businesses: Iterable[Business], days: int, now: datetime, seed: int = 4) -> None:
    policy, posting = load(), Posting()
    for business in businesses:
        dice = random.Random(f"{seed}-{business.tenant_id}")
        tenant = Tenant.objects.get(pk=business.tenant_id)
        key = key_of(tenant, policy)
        turns = iter(sorted(turns_of(business, tenant, days, now, dice), key=lambda turn: turn.at))
        while some := list(islice(turns, IN_FLIGHT)):
            converse(some, key, policy, posting, dice)
    catch_up(now)


def key_of(tenant: Tenant, policy: Policy) -> KeyPolicy:
    """Its own, or one that is issued for this."""
    key = tenant.keys.first() or ApiKey.objects.issue(tenant, "agent")[0]
    return KeyPolicy(key.id, policy.tenants[tenant.id], None, None)


def turns_of(business: Business, tenant: Tenant, days: int, now: datetime, dice: random.Random) -> Iterator[Turn]:
    today = now.astimezone(tenant.zone).date()
    for ago in range(days - 1, -1, -1):
        day = today - timedelta(days=ago)
        midnight = datetime.combine(day, time.min, tzinfo=tenant.zone).astimezone(now.tzinfo)
        ends_at = min(midnight + timedelta(days=1), now - timedelta(minutes=2))
        growth = 1 - 0.006 * ago
        weekend = 0.55 if day.weekday() >= 5 else 1.0
        busy = business.today if ago == 0 else growth * weekend * dice.uniform(0.85, 1.15)
        for _ in range(round(business.chats_a_day * busy)):
            yield from chat(business, midnight, ends_at, dice, is_outage_day=ago == business.outage_on_day)


def chat(
    business: Business, midnight: datetime, ends_at: datetime, dice: random.Random, *, is_outage_day: bool
) -> Iterator[Turn]:
    """A conversation of a few turns; each has all before it in its prompt."""
    hour = dice.choices(range(24), HOURS)[0]
    at = midnight + timedelta(hours=hour, seconds=dice.uniform(0, 3600))
    if at >= ends_at:
        at = midnight + (ends_at - midnight) * dice.random()
    customer = f"C-{int(dice.expovariate(1 / 60)) + 1001}"
    conversation, prompt = f"chat-{dice.getrandbits(32):08x}", business.prompt_tokens
    for _ in range(dice.randint(1, 6)):
        if at >= ends_at:
            return
        answer = dice.randint(60, 420)
        size = round(prompt * dice.uniform(0.9, 1.1))
        yield Turn(at, customer, conversation, size, answer, is_outage_day and 10 <= hour < 12)
        prompt += answer + dice.randint(20, 150)
        at += timedelta(seconds=dice.uniform(30, 180))


def converse(turns: Sequence[Turn], key: KeyPolicy, policy: Policy, posting: Posting, dice: random.Random) -> None:
    """Calls that are in flight together."""
    stories = [(turn, story_of(turn, key)) for turn in turns]
    reserves = [reserve_of(turn, progress, policy) for turn, progress in stories]
    endings: list[Command] = []
    for (turn, progress), reserve, result in zip(stories, reserves, posting.post(reserves), strict=True):
        endings += end_of(turn, progress, reserve, result, duration_ms=int(dice.gauss(1800, 500)))
    posting.post(endings)


def story_of(turn: Turn, key: KeyPolicy) -> CallProgress:
    call_id = new_id()
    caller = Caller(
        call_id, f"req_{call_id.hex}", key.tenant.id, key.id, turn.customer, turn.conversation, key.tenant.route[0]
    )
    ask = Ask("auto", turn.prompt_tokens * BYTES_PER_TOKEN)
    call = ChatCall(caller, key.tenant, ask, {})
    return CallProgress(call, Trace(call), started_at=turn.at)


def reserve_of(turn: Turn, progress: CallProgress, policy: Policy) -> Reserve:
    call, caller = progress.call, progress.call.caller
    down = dict.fromkeys(OUTAGE if turn.is_outage else (), StepCode.CIRCUIT_OPEN)
    planned = plan(call.ask, call.tenant, policy, turn.at, spared=down)
    progress.note_left_out(planned)
    limits: tuple[Limit, ...] = limits_of(
        policy, call.tenant, caller.key_id, caller.customer, caller.conversation, turn.at
    )
    return Reserve(new_id(), caller, limits, planned.offers, turn.at, turn.at + LEASE)


def end_of(turn: Turn, progress: CallProgress, reserve: Reserve, result: Result, duration_ms: int) -> list[Command]:
    duration_ms = max(400, duration_ms)
    assert isinstance(result, Held | DoesNotFit)
    note_offers(progress, reserve.offers, result.passed_over)
    if isinstance(result, DoesNotFit):
        return [replace(progress.record(Outcome.REFUSED, "budget_exceeded"), duration_ms=3)]
    reserved = result.reserved
    answer = min(turn.answer_tokens, reserved.max_tokens)
    usage = {"prompt_tokens": turn.prompt_tokens, "completion_tokens": answer}
    cached = {"prompt_tokens_details": {"cached_tokens": turn.prompt_tokens // 3}}
    bill = read_bill({**usage, **cached}, reserved, duration_ms)
    assert bill.cost_ticks is not None
    progress.note(reserved.offer.model, StepCode.HELD, hold_ticks=reserved.hold_ticks)
    progress.note(reserved.offer.model, StepCode.SERVED, cost_ticks=bill.cost_ticks)
    progress.cost_ticks = bill.cost_ticks
    record = replace(progress.record(Outcome.SERVED, offer=reserved.offer), duration_ms=duration_ms)
    return [Settle(reserved, bill, turn.at + timedelta(milliseconds=duration_ms)), record]
