"""What a rehearsal found, in words for the operator. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

from django.conf import settings
from django.utils.timezone import localtime

from guard.http.errors import GuardError
from guard.policy.limits import all_reset_at
from guard.simulation.simulate import Rehearsal, Verdict
from spend.budgets.usage import remaining_ticks, state_of
from spend.codes import StepCode
from spend.ledger.rules import DoesNotFit, Held, Limit, Offer, TooMany, WindowKey
from spend.models import AUTO, Route
from tenants.ladder import words_of
from tenants.models import Scope
from tenants.money import TICKS_PER_TOKEN_AT_ONE_USD_PER_MILLION as PER_MILLION
from tenants.money import TICKS_PER_USD, usd_rounded, usd_string
from tenants.periods import Period

PERIOD_BUDGETS = {
    Period.DAY: "today's budget",
    Period.WEEK: "this week's budget",
    Period.MONTH: "this month's budget",
    Period.TOTAL: "the budget in total",
}
LEFT_OUT = {
    StepCode.UNKNOWN_MODEL: "{} is not in the catalogue",
    StepCode.MODEL_DISABLED: "{} is switched off",
    StepCode.SHUT_DOWN: "{} was shut down by its provider",
    StepCode.NO_PRICE: "{} has no price",
    StepCode.NO_CHAT: "{} makes embeddings, and no chat",
    StepCode.NO_TOOLS: "{} does not call functions as this request wants it",
    StepCode.NO_JSON_SCHEMA: "{} does not answer by a JSON schema",
    StepCode.NO_IMAGES: "{} takes no images",
    StepCode.NO_CHOICES: "{} does not give several choices",
    StepCode.NO_LOGPROBS: "{} gives no log probabilities",
    StepCode.CONVERSATION_KEPT: "another model than {} served this conversation before",
    StepCode.THINKS_LONGER: "{} usually thinks for longer than the maximum that is asked for",
    StepCode.TOO_LONG: "the prompt is longer than {}'s context",
    StepCode.IMAGES_NOT_PRICED: "{} has no price for images",
    StepCode.CIRCUIT_OPEN: "{} failed several times in a row and is being spared for a minute",
    StepCode.RATE_LIMITED: "{}'s provider asked to be left alone for a moment",
    StepCode.NO_PROVIDER_KEY: "there is no key for {}'s provider",
    StepCode.PROVIDER_OFF: "{}'s provider is switched off",
}
LABELS = {
    StepCode.PAST_SOFT_CAP: "past the soft cap",
    StepCode.PAST_FURTHER_STEP: "past a further step",
    StepCode.DOES_NOT_FIT: "does not fit",
    StepCode.HELD_BY_OTHER_CALLS: "held by others",
}


@dataclass(frozen=True)
class Outcome:
    """One plain sentence, and its colour as unfold names them."""

    sentence: str
    colour: str


def usd(ticks: int) -> str:
    """Short, but never so short that something looks like nothing."""
    if ticks == 0 or abs(ticks) >= TICKS_PER_USD // 10:
        return usd_rounded(ticks)
    return usd_rounded(ticks, 4 if abs(ticks) >= TICKS_PER_USD // 1000 else 6)


def budget_name(key: WindowKey) -> str:
    """ "today's budget", "this month's budget of customer c-17"."""
    name = PERIOD_BUDGETS[Period(key.period)]
    if key.scope == Scope.INSTALLATION:
        return f"{name} of the whole installation"
    if key.scope == Scope.KEY:
        return f"{name} of this key"
    return name if key.scope == Scope.TENANT else f"{name} of {key.scope} {key.subject}"


def outcome_of_error(error: GuardError) -> Outcome:
    return Outcome(f"It would be refused ({error.status} {error.code}): {error}", "danger")


def outcome_of(found: Rehearsal, zone: ZoneInfo) -> Outcome:
    match found.result:
        case None:
            reasons = ", and ".join(_left_out(found))
            return Outcome(f"It would fail (503 all_models_failed), because {reasons}.", "danger")
        case TooMany(limit):
            calls = "1 call is" if limit.most == 1 else f"{limit.most:,} calls are"
            why = f"{calls} in flight, which is the limit"
            return Outcome(f"It would be refused (429 rate_limited): {why}.", "danger")
        case DoesNotFit() as result:
            return Outcome(_refusal(found, result, zone), "danger")
        case Held() as result:
            return _answer(found, result)


def _refusal(found: Rehearsal, result: DoesNotFit, zone: ZoneInfo) -> str:
    binding = [found.limits[number] for number in result.binding]
    names = " and of ".join(budget_name(limit.key) for limit in binding)
    if result.by_holds:
        return (
            f"It would wait up to {settings.HOLD_WAIT_SECONDS:g} seconds for calls in flight to settle, and then be "
            f"refused (429 budget_held), because they hold what is left of {names}."
        )
    why = " and of ".join(
        f"{budget_name(found.limits[each].key)} ({_left(found, each)} USD)" for each in result.binding
    )
    resets_at = all_reset_at(binding)
    until = f"It starts anew on {localtime(resets_at, zone):%a %-d %b, %H:%M} {zone.key}." if resets_at else ""
    because = f"because no model fits what is left of {why}. {until}".strip()
    if found.handoff_words:
        return f"It would be handed off, {because} The customer would read: “{found.handoff_words}”"
    return f"It would be refused (429 budget_exceeded), {because}"


def _left(found: Rehearsal, number: int) -> str:
    limit, standing = found.limits[number], found.standings[number]
    return f"{usd(remaining_ticks(limit.hard_ticks, *standing))} of {usd(limit.limit_ticks)}"


def _answer(found: Rehearsal, result: Held) -> Outcome:
    offer, max_tokens = result.reserved.offer, result.reserved.max_tokens
    reasons = list(dict.fromkeys([*_left_out(found), *_passed_over(found, len(result.passed_over))]))
    if offer.model == found.wanted:
        sentence = f"It would be answered by {offer.model}, as it was asked for"
    else:
        sentence = f"It would be answered by {offer.model}, because {', and '.join(reasons)}"
    if max_tokens < offer.max_tokens:
        why = (
            "as the step that a budget has reached wants"
            if max_tokens == result.step_tokens
            else "which is what the budget leaves"
        )
        sentence += f"; cut to at most {max_tokens:,} of {offer.max_tokens:,} tokens, {why}"
    is_as_asked = offer.model == found.wanted and max_tokens == offer.max_tokens
    return Outcome(f"{sentence}.", "success" if is_as_asked else "warning")


def _left_out(found: Rehearsal) -> Iterator[str]:
    for model, why in found.left_out:
        yield LEFT_OUT[why].format(model)


def _passed_over(found: Rehearsal, count: int) -> Iterator[str]:
    """Why the first `count` offers were not taken; of each model, what was in its way first."""
    told = set[str]()
    for verdict in found.verdicts[:count]:
        if verdict.offer.model not in told:
            told.add(verdict.offer.model)
            yield _why_not(verdict, found)


def _why_not(verdict: Verdict, found: Rehearsal) -> str:
    model, hold = verdict.offer.model, usd(verdict.hold_ticks)
    number = verdict.in_the_way[0]
    limit, standing = found.limits[number], found.standings[number]
    name, use = budget_name(limit.key), sum(standing)
    if verdict.why_not == StepCode.HELD_BY_OTHER_CALLS:
        return f"calls in flight hold what {model} needs of {name}"
    if verdict.why_not == StepCode.DOES_NOT_FIT:
        return f"{model} does not fit what is left of {name} ({_left(found, number)} USD)"
    figures = f"{usd(use)} of {usd(limit.limit_ticks)} USD"
    if verdict.why_not == StepCode.PAST_FURTHER_STEP:
        steps = f"step {limit.step_at(use + verdict.hold_ticks)} of {1 + len(limit.further)}"
        return f"{name} is on {steps} with {model}'s hold of {hold} USD ({figures} used)"
    if use >= limit.soft_ticks:
        return f"{name} is past its soft cap ({figures})"
    return f"{model}'s hold of {hold} USD would take {name} past its soft cap ({figures} used)"


def offer_rows(found: Rehearsal) -> list[dict[str, Any]]:
    """The offers in order, as the page shows them."""
    served = len(found.result.passed_over) if isinstance(found.result, Held) else None
    return [_offer_row(number, verdict, found, served) for number, verdict in enumerate(found.verdicts)]


def _offer_row(number: int, verdict: Verdict, found: Rehearsal, served: int | None) -> dict[str, Any]:
    offer = verdict.offer
    tier = offer.price.tier_of(found.asked.ask.input_tokens)
    label, colour = (LABELS[verdict.why_not], "warning") if verdict.why_not else ("fits", "")
    return {
        "model": offer.model,
        "place": place_of(number, found),
        "input_usd": usd_string(tier.input_ticks, PER_MILLION),
        "output_usd": usd_string(tier.output_ticks, PER_MILLION),
        "hold_usd": usd_rounded(verdict.hold_ticks, 6),
        "max_tokens": offer.max_tokens if verdict.max_tokens is None else verdict.max_tokens,
        "label": "would answer" if number == served else label,
        "colour": "success" if number == served else colour,
        "in_the_way": [budget_name(found.limits[each].key) for each in verdict.in_the_way],
    }


def place_of(number: int, found: Rehearsal) -> str:
    """Why an offer stands where it stands in the plan (`guard.policy.routing`)."""
    offer, rest = found.verdicts[number].offer, [verdict.offer for verdict in found.verdicts[number:]]
    is_kept = any(why is StepCode.CONVERSATION_KEPT for _, why in found.left_out)
    if is_kept and offer.model == found.verdicts[0].offer.model:
        return _up_to("served this conversation before", offer)
    if offer.route is Route.DOWNGRADE:
        # The rules' offers come before the first choice's second one, which is bound by the hard cap only.
        is_by_rule = any(each.route is not Route.DOWNGRADE for each in rest)
        by_rule = "downgrade past the soft cap"
        if offer.most_downgrades is not None:
            return f"{by_rule}, below a further step"
        return by_rule if is_by_rule else "cheaper, where others do not fit"
    first = "first on the route" if found.asked.ask.model == AUTO else "asked for"
    name = "next on the route" if offer.route is Route.FALLBACK else first
    return _up_to(name, offer)


def _up_to(name: str, offer: Offer) -> str:
    if offer.most_downgrades is None:
        return f"{name}, up to the hard cap"
    return f"{name}, below a further step" if offer.most_downgrades else f"{name}, below the soft cap"


def limit_rows(found: Rehearsal, *, can_downgrade: bool) -> list[dict[str, Any]]:
    """The windows that bind the call, before it and with its hold."""
    hold_ticks = found.result.reserved.hold_ticks if isinstance(found.result, Held) else 0
    return [
        {
            "name": budget_name(limit.key),
            "limit_usd": usd_rounded(limit.limit_ticks),
            "soft_usd": usd_rounded(limit.soft_ticks),
            "hard_usd": usd_rounded(limit.hard_ticks),
            "spent_usd": usd_rounded(spent, 4),
            "held_usd": usd_rounded(held, 4),
            "with_hold_usd": usd_rounded(spent + held + hold_ticks, 4),
            "state": _state(limit, spent, held, can_downgrade),
            "step": _step(limit, spent + held + hold_ticks, can_downgrade),
        }
        for limit, (spent, held) in zip(found.limits, found.standings, strict=True)
    ]


def _step(limit: Limit, use_ticks: int, can_downgrade: bool) -> str:
    """Where a ladder's step is reached, with the call's hold."""
    step = limit.step_at(use_ticks) if limit.further else 0
    words = words_of(limit.further, step, can_downgrade)
    return f"with this call on step {step} of {1 + len(limit.further)}: {words}" if step else ""


def _state(limit: Limit, spent: int, held: int, can_downgrade: bool) -> str:
    return state_of(limit.limit_ticks, limit.soft_ticks, limit.hard_ticks, spent, held, can_downgrade)
