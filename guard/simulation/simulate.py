"""A rehearsal: what would happen to a call now, found out without making it.

It goes the way of `guard.chat.flow` as far as one can without spending: the same parser, checks, plan and
limits, and then the ledger's own `apply`, on copies of the windows that are thrown away.  Nothing is
written, and no provider is called.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from time import time
from typing import Any

from guard.chat.endpoints import check_model
from guard.chat.request.reader import CallRequest, read_chat
from guard.http.authentication import refuse_disabled
from guard.http.errors import RateLimited
from guard.policy.last_served import last_in_ledger
from guard.policy.limits import all_reset_at, limits_of
from guard.policy.loader import load
from guard.policy.rate_limits import NO_REQUEST, PerMinute
from guard.policy.routing import plan
from guard.policy.snapshot import KeyPolicy, Pace, Policy, TenantPolicy
from spend import breakers
from spend.codes import StepCode
from spend.ids import new_id
from spend.ledger.rules import (
    Balance,
    Book,
    Caller,
    CallGroup,
    DoesNotFit,
    Held,
    Limit,
    Offer,
    Reserve,
    Standing,
    TooMany,
    apply,
)
from spend.ledger.window_opening import spent_in
from spend.models import AUTO, Breaker, Reservation, ReservationState, Window
from spend.providers.accounts import names_with_key
from tenants.models import ApiKey, Tenant

Reservable = Held | DoesNotFit | TooMany


@dataclass(frozen=True, slots=True)
class Verdict:
    """One offer by itself against the windows as they are.

    `max_tokens` is the output it would be held for, None where it does not fit; `why_not` is the ledger's
    code for that, and `in_the_way` are the limits that it does not fit even one by one.
    """

    offer: Offer
    max_tokens: int | None
    why_not: StepCode | None
    in_the_way: tuple[int, ...]

    @property
    def hold_ticks(self) -> int:
        return self.offer.hold_ticks(self.offer.max_tokens if self.max_tokens is None else self.max_tokens)


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What was found. `result` is None where no model on the route can be called at all.

    `standings` are those of `limits` before the call; `left_out` names models with why they are not offered.
    """

    at: datetime
    asked: CallRequest
    wanted: str
    limits: tuple[Limit, ...]
    standings: tuple[Standing, ...]
    verdicts: tuple[Verdict, ...]
    left_out: tuple[tuple[str, StepCode], ...]
    result: Reservable | None
    handoff_words: str = ""
    """What the customer would read, where the call does not fit and its tenant has words for that."""


def rehearse(
    tenant: Tenant, key: ApiKey, request: Mapping[str, Any], now: datetime, *, goes_on: bool = False
) -> Rehearsal:
    """Of a `request` in the shape of `POST /api/chat`, with one of `tenant`'s keys (an unsaved one is a new one).

    Its conversation has begun where its messages say so, or it `goes_on` though they leave that out.
    Raises the GuardError that would refuse the call before anything was planned for it.
    """
    policy = load()
    caller_key = KeyPolicy(key.id or 0, policy.tenants[tenant.id], key.expires_at, key.revoked_at, Pace.of(key, tenant))
    refuse_disabled(is_active=tenant.is_active)
    asked = read_chat({"tenantId": tenant.id, **request})
    asked = replace(asked, ask=replace(asked.ask, has_begun=asked.ask.has_begun or goes_on))
    check_model(asked.ask.model, caller_key, policy)
    refuse_too_many_a_minute(caller_key.pace)
    return _plan_and_reserve(asked, caller_key, policy, now)


def refuse_too_many_a_minute(pace: Pace) -> None:
    """As `guard.policy.rate_limits.take_turn`, but the call is not counted."""
    for limit in pace.per_minute:
        if not PerMinute(limit, time).allow_request(NO_REQUEST, NO_REQUEST):
            raise RateLimited(f"There were {limit.most:,} calls in the last minute, which is the limit.")


def _plan_and_reserve(asked: CallRequest, key: KeyPolicy, policy: Policy, now: datetime) -> Rehearsal:
    tenant = key.tenant
    circuits = breakers.open_circuits({row.model_id: row for row in Breaker.objects.all()}, now, tenant.id)
    wanted = tenant.route[0] if asked.ask.model == AUTO else asked.ask.model
    caller = _caller(asked, key, wanted)
    last = last_in_ledger(caller) if asked.ask.has_begun and asked.conversation else None
    has_begun = last is not None
    limits = limits_of(policy, tenant, key.id, asked.customer, asked.conversation, now, has_begun=has_begun)
    standings = tuple(_standing_of(limit) for limit in limits)
    planned = plan(
        asked.ask, tenant, policy, now, spared=circuits, providers=names_with_key(policy.providers), last=last
    )
    reserve = Reserve(new_id(), caller, limits, planned.offers, now, now, in_flight_limits=key.pace.in_flight)
    result = _try(reserve, standings) if planned.offers else None
    verdicts = tuple(_verdict(replace(reserve, offers=(offer,)), standings) for offer in planned.offers)
    words = _handoff_words(tenant, limits, result) if isinstance(result, DoesNotFit) and not result.by_holds else ""
    return Rehearsal(now, asked, wanted, limits, standings, verdicts, planned.left_out, result, words)


def _handoff_words(tenant: TenantPolicy, limits: tuple[Limit, ...], result: DoesNotFit) -> str:
    """In the language that a call gets which asks for none."""
    resets_at = all_reset_at([limits[number] for number in result.binding])
    return tenant.handoff.told("", resets_at, tenant.zone) if tenant.handoff else ""


def _caller(asked: CallRequest, key: KeyPolicy, wanted: str) -> Caller:
    return Caller(new_id(), "", key.tenant.id, key.id, asked.customer, asked.conversation, wanted)


def _standing_of(limit: Limit) -> Standing:
    """A window's balance, or what one would open with that no call has needed yet."""
    window = Window.objects.filter(**limit.key._asdict()).values_list("spent_ticks", "held_ticks").first()
    return Standing(*window) if window else Standing(spent_in(limit.key, limit.ends_at), 0)


def _try(reserve: Reserve, standings: tuple[Standing, ...]) -> Reservable:
    """What the ledger would answer now. The book it answers from is made for this, and forgotten."""
    book = Book(
        windows={number: Balance(number, *standing) for number, standing in enumerate(standings)},
        window_ids={limit.key: number for number, limit in enumerate(reserve.limits)},
        pending={},
        in_flight={limit.group: _in_flight(limit.group) for limit in reserve.in_flight_limits},
    )
    (result,) = apply([reserve], book)
    assert isinstance(result, Held | DoesNotFit | TooMany)  # noqa: S101
    return result


def _in_flight(group: CallGroup) -> int:
    pending = Reservation.objects.filter(tenant_id=group.tenant_id, state=ReservationState.PENDING)
    return (pending if group.key_id is None else pending.filter(key_id=group.key_id)).count()


def _verdict(reserve: Reserve, standings: tuple[Standing, ...]) -> Verdict:
    """Of a reserve with one offer: whether it fits all limits, and if not, which of them it does not fit."""
    alone = replace(reserve, in_flight_limits=())
    result, offer = _try(alone, standings), reserve.offers[0]
    if isinstance(result, Held):
        return Verdict(offer, result.reserved.max_tokens, None, ())
    assert isinstance(result, DoesNotFit)  # noqa: S101
    each = enumerate(zip(alone.limits, standings, strict=True))
    in_the_way = [
        number
        for number, (limit, standing) in each
        if not isinstance(_try(replace(alone, limits=(limit,)), (standing,)), Held)
    ]
    return Verdict(offer, None, result.passed_over[0], tuple(in_the_way))
