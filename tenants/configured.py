"""Budgets given in the environment: TENANT_BUDGETS and DEFAULT_DAILY_BUDGET, read strictly."""

import json
import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from tenants.json_names import name_given_twice
from tenants.money import ticks_from_usd

TENANT_ID = r"^[A-Za-z0-9][A-Za-z0-9._-]*\Z"
LONGEST_TENANT_ID = 64
DEFAULT_SOFT_CAP = Decimal("0.8")
DEFAULT_HARD_CAP = Decimal("1")


@dataclass(frozen=True)
class ConfiguredBudget:
    """A tenant's daily budget as the environment gives it; `limit_ticks` None is the default's."""

    limit_ticks: int | None
    soft_cap: Decimal
    hard_cap: Decimal


def read_daily_budget(text: str) -> int:
    """DEFAULT_DAILY_BUDGET, USD, in ticks. Raises ValueError."""
    try:
        usd = Decimal(text)
    except InvalidOperation:
        raise ValueError(f"must be a number of USD, not {text!r}") from None
    return _positive_ticks(usd)


def read_tenant_budgets(text: str) -> dict[str, ConfiguredBudget]:
    """TENANT_BUDGETS, a JSON object from tenant to budget. Raises ValueError naming the tenant."""
    try:
        tenants = json.loads(
            text, parse_float=_number, parse_int=_number, parse_constant=_number, object_pairs_hook=JsonObject
        )
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    if not isinstance(tenants, JsonObject):
        raise ValueError('must be a JSON object such as {"acme-corp": {"dailyLimit": 10.00}}')
    if tenants.twice is not None:
        raise ValueError(f"{tenants.twice} appears twice")
    return {tenant: _read_tenant(tenant, budget) for tenant, budget in tenants.items()}


class JsonObject(dict[str, Any]):
    """A JSON object that remembers a name which it gave twice."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.twice = name_given_twice(pairs)


def _number(text: str) -> Decimal:
    """NaN and infinities too, and infinity for what no Decimal holds: all are refused where their tenant is known."""
    try:
        return Decimal(text)
    except InvalidOperation:
        return Decimal("Infinity")


def _read_tenant(tenant: str, budget: Any) -> ConfiguredBudget:
    if len(tenant) > LONGEST_TENANT_ID or not re.match(TENANT_ID, tenant):
        raise ValueError(
            f"{tenant!r} is no tenant id, which is at most {LONGEST_TENANT_ID} letters, digits, dots, hyphens and "
            "underscores, the first a letter or digit"
        )
    try:
        return _read_budget(budget)
    except (ValueError, ArithmeticError) as error:
        raise ValueError(f"{tenant}: {error}") from None


def _read_budget(budget: Any) -> ConfiguredBudget:
    if not isinstance(budget, JsonObject):
        raise ValueError("must be an object with dailyLimit, softCap and hardCap")
    if budget.twice is not None:
        raise ValueError(f"{budget.twice} appears twice")
    if unknown := budget.keys() - {"dailyLimit", "softCap", "hardCap"}:
        raise ValueError(f"{min(unknown)} is not a setting of a budget")
    for field, value in budget.items():
        if not isinstance(value, Decimal):
            raise ValueError(f"{field} must be a number, not {json.dumps(value, default=str)}")
        if not value.is_finite():
            raise ValueError(f"{field} must be a finite number")
    hard_cap = budget.get("hardCap", DEFAULT_HARD_CAP)
    soft_cap = budget.get("softCap", min(DEFAULT_SOFT_CAP, hard_cap))
    _check_caps(soft_cap, hard_cap)
    return ConfiguredBudget(_limit_ticks(budget.get("dailyLimit")), soft_cap, hard_cap)


def _check_caps(soft_cap: Decimal, hard_cap: Decimal) -> None:
    if not 0 < soft_cap <= hard_cap <= 1:
        raise ValueError(f"softCap {soft_cap} and hardCap {hard_cap} must satisfy 0 < softCap ≤ hardCap ≤ 1")
    for field, cap in (("softCap", soft_cap), ("hardCap", hard_cap)):
        if cap != round(cap, 4):
            raise ValueError(f"{field} has more than 4 decimals")


def _limit_ticks(usd: Decimal | None) -> int | None:
    try:
        return None if usd is None else _positive_ticks(usd)
    except ValueError as error:
        raise ValueError(f"dailyLimit {error}") from None


def _positive_ticks(usd: Decimal) -> int:
    ticks = ticks_from_usd(usd)
    if ticks <= 0:
        raise ValueError("must be greater than 0")
    return ticks
