"""Weeks of business lived through in seconds: made-up customers, but the guard's own plan and the ledger's own rules.

Each call is planned, reserved, settled and recorded as a real one, only with a clock that stands in the
past; so downgrades and refusals are where they would have been, and the books balance. A day of a tenant is the
same whenever it is made up, so what is there already is left, and what came since is added.
"""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from itertools import islice

from django.db.models import Max

from guard.call import ChatCall
from guard.chat.billing import read_bill
from guard.chat.flow import note_offers
from guard.chat.refusals import outcome_of, refuse
from guard.chat.types import CallProgress
from guard.http.errors import GuardError
from guard.policy.limits import limits_of
from guard.policy.loader import load
from guard.policy.routing import Ask, plan
from guard.policy.snapshot import KeyPolicy, Policy
from guard.telemetry.trace import Trace
from spend.codes import StepCode
from spend.ids import id_of
from spend.ledger.posting import Posting
from spend.ledger.rules import Caller, Command, DoesNotFit, Held, Reserve, Result, Settle
from spend.models import Call, Outcome
from spend.summaries.daily import MarkMovedError, catch_up, rebuild
from tenants.models import ApiKey, Tenant

DAYS = 28
HOURS = [1, 1, 1, 1, 1, 2, 3, 6, 9, 12, 13, 12, 11, 12, 12, 11, 10, 9, 8, 6, 5, 4, 3, 2]
"""How busy each hour of the tenant's day is."""
AT_ONCE = 60
"""Calls that are held, and then settled, in one transaction."""
BYTES_PER_TOKEN = 4
LEASE = timedelta(minutes=15)
JUST_NOW = timedelta(minutes=2)
OUTAGE = {"grok-4.3"}
OUTAGE_EVERY_DAYS = 14
OUTAGE_HOURS = range(10, 12)
TOPICS = {"orders": 5, "returns": 3, "billing": 2, "gift ideas": 1}
"""What chats are about, as their tags, and how often."""
MARK = "demo_"
"""How the request ids of made-up calls begin."""


@dataclass(frozen=True)
class Business:
    """How much a tenant's customers chat: on a usual weekday, and on a day of the weekend in share of that."""

    tenant_id: str
    chats_a_day: int
    prompt_tokens: int
    weekend: float = 0.55
    keys: tuple[str, ...] = ("web shop",)


@dataclass(frozen=True)
class Turn:
    """One call that an agent makes."""

    at: datetime
    key: str
    customer: str
    conversation: str
    prompt_tokens: int
    answer_tokens: int
    duration_ms: int
    noise: int
    tags: str
    is_outage: bool


@dataclass(frozen=True)
class Story:
    """A call that is made up, with what the ledger is asked to hold for it."""

    turn: Turn
    progress: CallProgress
    reserve: Reserve


def live_through(businesses: Iterable[Business], now: datetime, days: int = DAYS) -> int:
    """Live through the days until now, but for what was lived through before. Returns how many calls that made."""
    stories, policy = list[Story](), load()
    for business in businesses:
        stories += _stories(business, now, days, policy)
    _converse(sorted(stories, key=lambda story: story.turn.at), Posting())
    # Their days may have been summed without what came now.
    rebuild({story.reserve.caller.tenant_id for story in stories})
    with suppress(MarkMovedError):  # a server runs, and its own job sums them
        catch_up(now)
    return len(stories)


def _stories(business: Business, now: datetime, days: int, policy: Policy) -> Iterator[Story]:
    tenant = Tenant.objects.get(pk=business.tenant_id)
    since = Call.objects.filter(tenant=tenant, request_id__startswith=MARK).aggregate(at=Max("at"))["at"]
    keys = {name: _key_of(tenant, name, policy) for name in business.keys}
    today = now.astimezone(tenant.zone).date()
    for ago in range(days):
        for turn in turns_of_day(business, tenant, today - timedelta(days=ago)):
            if turn.at < now - JUST_NOW and (since is None or turn.at > since):
                yield story_of(turn, keys[turn.key], policy)


def _key_of(tenant: Tenant, name: str, policy: Policy) -> KeyPolicy:
    """Nobody has its secret."""
    key = tenant.keys.filter(name=name).first() or ApiKey.objects.issue(tenant, name)[0]
    return KeyPolicy(key.id, policy.tenants[tenant.id], None, None)


def turns_of_day(business: Business, tenant: Tenant, day: date) -> Iterator[Turn]:
    """What that day's chats ask, some of them after its midnight; the same each time."""
    week = random.Random(f"{business.tenant_id} {day.isocalendar()[:2]}").uniform(0.8, 1.2)  # noqa: S311
    dice = random.Random(f"{business.tenant_id} {day}")  # noqa: S311
    busy = week * (business.weekend if day.isoweekday() > 5 else 1.0) * dice.uniform(0.85, 1.15)
    for _ in range(round(business.chats_a_day * busy)):
        hour = dice.choices(range(24), HOURS)[0]
        at = datetime.combine(day, time(hour), tzinfo=tenant.zone).timestamp() + dice.uniform(0, 3600)
        is_outage = day.toordinal() % OUTAGE_EVERY_DAYS == 0 and hour in OUTAGE_HOURS
        yield from _chat(business, datetime.fromtimestamp(at, tenant.zone), dice, is_outage=is_outage)


def _chat(business: Business, at: datetime, dice: random.Random, *, is_outage: bool) -> Iterator[Turn]:
    """A conversation of a few turns; each has all before it in its prompt."""
    customer = f"C-{int(dice.expovariate(1 / 40)) + 1001}"
    conversation, prompt = f"chat-{dice.getrandbits(32):08x}", business.prompt_tokens
    key = dice.choices(business.keys, range(len(business.keys), 0, -1))[0]
    tags = ",".join(sorted({*dice.choices(list(TOPICS), list(TOPICS.values()), k=dice.choice([1, 1, 2]))}))
    for _ in range(dice.randint(1, 5)):
        answer, size = dice.randint(60, 420), round(prompt * dice.uniform(0.9, 1.1))
        took_ms = max(400, int(dice.gauss(1800, 500)))
        noise = dice.getrandbits(74)
        utc = datetime.fromtimestamp(int(at.timestamp() * 1000) / 1000, tz=UTC)
        yield Turn(utc, key, customer, conversation, size, answer, took_ms, noise, tags, is_outage)
        prompt += answer + dice.randint(20, 150)
        at += timedelta(seconds=dice.uniform(30, 180))


def _converse(stories: Iterable[Story], posting: Posting) -> None:
    """Post the calls in their order; who finds all held for others comes again with the next."""
    coming, again, endings = iter(stories), list[Story](), list[Command]()
    while some := [*again, *islice(coming, AT_ONCE - len(again))]:
        results = posting.post([*endings, *(story.reserve for story in some)])[len(endings) :]
        again = [story for story, result in zip(some, results, strict=True) if _is_to_wait(result)]
        endings = [
            command
            for story, result in zip(some, results, strict=True)
            if not _is_to_wait(result)
            for command in endings_of(story, result)
        ]
    posting.post(endings)


def _is_to_wait(result: Result) -> bool:
    return isinstance(result, DoesNotFit) and result.by_holds


def story_of(turn: Turn, key: KeyPolicy, policy: Policy) -> Story:
    milliseconds = int(turn.at.timestamp() * 1000)
    call_id, hold_id = id_of(milliseconds, turn.noise), id_of(milliseconds, turn.noise ^ 1)
    caller = Caller(
        call_id, f"{MARK}{call_id.hex}", key.tenant.id, key.id, turn.customer, turn.conversation, key.tenant.route[0],
        turn.tags,
    )  # fmt: skip
    call = ChatCall(caller, key.tenant, Ask("auto", turn.prompt_tokens * BYTES_PER_TOKEN), {})
    progress = CallProgress(call, Trace(call), started_at=turn.at)
    down: Mapping[str, StepCode] = dict.fromkeys(OUTAGE if turn.is_outage else (), StepCode.CIRCUIT_OPEN)
    planned = plan(call.ask, call.tenant, policy, turn.at, spared=down)
    progress.note_left_out(planned)
    limits = limits_of(policy, call.tenant, key.id, turn.customer, turn.conversation, turn.at)
    return Story(turn, progress, Reserve(hold_id, caller, limits, planned.offers, turn.at, turn.at + LEASE))


def endings_of(story: Story, result: Result) -> Sequence[Command]:
    """What ends the call, as the ledger answered."""
    progress, reserve, turn = story.progress, story.reserve, story.turn
    assert isinstance(result, Held | DoesNotFit)  # noqa: S101
    note_offers(progress, reserve.offers, result.passed_over)
    if isinstance(result, DoesNotFit):
        return [_refused(story, result)]
    reserved = result.reserved
    answer = min(turn.answer_tokens, reserved.max_tokens)
    usage = {"prompt_tokens": turn.prompt_tokens, "completion_tokens": answer}
    cached = {"prompt_tokens_details": {"cached_tokens": turn.prompt_tokens // 3}}
    bill = read_bill({**usage, **cached}, reserved, turn.duration_ms)
    assert bill.cost_ticks is not None  # noqa: S101
    progress.note(reserved.offer.model, StepCode.HELD, hold_ticks=reserved.hold_ticks)
    progress.note(reserved.offer.model, StepCode.SERVED, cost_ticks=bill.cost_ticks)
    progress.cost_ticks = bill.cost_ticks
    record = replace(progress.record(Outcome.SERVED, offer=reserved.offer), duration_ms=turn.duration_ms)
    return [Settle(reserved, bill, turn.at + timedelta(milliseconds=turn.duration_ms)), record]


def _refused(story: Story, result: DoesNotFit) -> Command:
    try:
        refuse(story.progress, result, story.reserve.limits, story.turn.at)
    except GuardError as error:
        return replace(story.progress.record(*outcome_of(error)), duration_ms=3)
