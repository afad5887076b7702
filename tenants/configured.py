"""Budgets given in the environment: TENANT_BUDGETS and DEFAULT_DAILY_BUDGET, read strictly."""

import json
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, NoReturn

from tenants.money import ticks_from_usd

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
    tenants = json.loads(
        text, parse_float=Decimal, parse_int=Decimal, parse_constant=_refuse_constant, object_pairs_hook=_unique
    )
    if not isinstance(tenants, dict):
        raise ValueError('must be a JSON object such as {"acme-corp": {"dailyLimit": 10.00}}')
    return {tenant: _read_budget(tenant, budget) for tenant, budget in tenants.items()}


def _read_budget(tenant: str, budget: Any) -> ConfiguredBudget:
    if not isinstance(budget, dict):
        raise ValueError(f"{tenant}: must be an object with dailyLimit, softCap and hardCap")
    if unknown := budget.keys() - {"dailyLimit", "softCap", "hardCap"}:
        raise ValueError(f"{tenant}: {sorted(unknown)[0]} is not a setting of a budget")
    for field, value in budget.items():
        if not isinstance(value, Decimal):
            raise ValueError(f"{tenant}: {field} must be a number, not {json.dumps(value, default=str)}")
    limit = budget.get("dailyLimit")
    soft_cap = budget.get("softCap", min(DEFAULT_SOFT_CAP, budget.get("hardCap", DEFAULT_HARD_CAP)))
    hard_cap = budget.get("hardCap", DEFAULT_HARD_CAP)
    if not 0 < soft_cap <= hard_cap <= 1:
        raise ValueError(f"{tenant}: softCap {soft_cap} and hardCap {hard_cap} must satisfy 0 < softCap ≤ hardCap ≤ 1")
    for field, cap in (("softCap", soft_cap), ("hardCap", hard_cap)):
        if cap != round(cap, 4):
            raise ValueError(f"{tenant}: {field} has more than 4 decimals")
    try:
        return ConfiguredBudget(None if limit is None else _positive_ticks(limit), soft_cap, hard_cap)
    except ValueError as error:
        raise ValueError(f"{tenant}: dailyLimit {error}") from None


def _positive_ticks(usd: Decimal) -> int:
    ticks = ticks_from_usd(usd)
    if ticks <= 0:
        raise ValueError("must be greater than 0")
    return ticks


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(names := [name for name, _ in pairs]) != len(set(names)):
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)} appears twice")
    return dict(pairs)
