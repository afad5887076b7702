"""Why a call is not served: whose it is to mend, in which words, and when to come again."""

import re
from collections.abc import Mapping
from datetime import datetime
from math import ceil
from typing import Any, NoReturn

from guard.chat.handoff import HandedOff, handed_off
from guard.chat.types import CallProgress, Hold
from guard.http.errors import AllModelsFailed, BudgetExceeded, BudgetHeld, GuardError, InvalidRequest
from guard.policy.budget_status import STATE_HEADER, refusing, seconds_until, tightest
from guard.policy.limits import all_reset_at
from guard.policy.snapshot import TenantPolicy
from guard.providers.failures import Rejected
from spend.codes import FailureCode, StepCode, Worded
from spend.ledger.rules import DoesNotFit, LedgerError, Limit
from spend.models import Outcome

RETRY_AFTER_FAILURE_S = 5
RETRY_AFTER_MENDING_S = 60
LASTING = frozenset(
    {
        StepCode.UNKNOWN_MODEL,
        StepCode.MODEL_DISABLED,
        StepCode.SHUT_DOWN,
        StepCode.NO_PRICE,
        StepCode.NO_CHAT,
        StepCode.IMAGES_NOT_PRICED,
        StepCode.NO_PROVIDER_KEY,
        StepCode.PROVIDER_OFF,
    }
)
"""Why a model cannot serve that no waiting changes: an operator has to, or the caller asks for something else."""

MONEY = re.compile(r"\$|\busd\b|\bdollars?\b", re.IGNORECASE)
CHARGED = "No model on the route could answer. What one of them may have billed was charged."


def outcome_of(error: Exception) -> tuple[Outcome, str]:
    if isinstance(error, HandedOff):
        return Outcome.HANDED_OFF, error.code
    if isinstance(error, GuardError):
        return Outcome.FAILED if isinstance(error, AllModelsFailed) else Outcome.REFUSED, error.code
    return Outcome.FAILED, "ledger_unavailable" if isinstance(error, LedgerError) else "internal_error"


def state_after(error: Exception, hold: Hold | None, tenant: TenantPolicy) -> str:
    """The budget's state when a call was refused or failed, where that was looked at."""
    if isinstance(error, GuardError) and (state := error.headers.get(STATE_HEADER)):
        return state
    return hold.status(tenant).state if hold else ""


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


def refuse(progress: CallProgress, result: DoesNotFit, limits: tuple[Limit, ...], now: datetime) -> NoReturn:
    """Say which it is: spent, or only held; and when the window that binds turns over."""
    tenant = progress.call.tenant
    if result.by_holds:
        status = tightest(limits, result.standings, can_downgrade=bool(tenant.downgrades))
        raise BudgetHeld(retry_after_s=1, headers=status.headers(tenant, now))
    binding = [limits[position] for position in result.binding]
    handoff = tenant.handoff if progress.call.wants_words else None
    decision = StepCode.HANDED_OFF if handoff else StepCode.REFUSED
    for limit in binding:  # which `spend.alerts.detection` reads: whose budget it was, and under which bounds
        scope, period, starts_at = limit.key.scope, limit.key.period, limit.key.starts_at.isoformat()
        bounds = {"limit_ticks": limit.limit_ticks, "hard_ticks": limit.hard_ticks}
        progress.note("", decision, scope=scope, period=period, starts_at=starts_at, **bounds)
    status = refusing(limits, result.standings, result.binding, can_downgrade=bool(tenant.downgrades))
    resets_at = all_reset_at(binding) if binding else now
    retry_after_s = None if resets_at is None else max(1, seconds_until(resets_at, now))
    facts: dict[str, Any] = {"retry_after_s": retry_after_s, "headers": status.headers(tenant, now)}
    if handoff:
        raise handed_off(progress, handoff, binding or limits, resets_at, status, **facts)
    raise BudgetExceeded(**facts)


def words_of(rejection: Rejected, tenant: TenantPolicy) -> str:
    """The provider's own, unless they speak of money to a caller who may not see any."""
    words = str(rejection)
    return "The provider rejected the request." if tenant.hide_money and MONEY.search(words) else words
