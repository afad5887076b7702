"""Budgets, of a tenant or of the whole installation, each named by its scope and period."""

from collections.abc import Iterable
from typing import Any

from spend.configuration.changes import Plan
from spend.configuration.columns import Columns
from spend.configuration.places import Place, Refused
from tenants.models import Budget, Scope, Tenant

TERMS = {
    "limit": "limit_ticks",
    **{name: name for name in ("soft_cap", "hard_cap", "reserve", "further_steps", "alert_percents")},
}
OF_TENANT = Columns.of(Budget, "scope", "period", **TERMS)
OF_INSTALLATION = Columns.of(Budget, "period", **TERMS)


def shown(rows: Iterable[Budget], columns: Columns) -> list[dict[str, Any]]:
    return [columns.shown(row) for row in sorted(rows, key=lambda row: (row.scope, row.period))]


def plan_of_tenant(plan: Plan, place: Place, tenant: Tenant, rows: Iterable[Budget]) -> None:
    _plan(plan, place, f"tenant {tenant.pk}", rows, OF_TENANT, tenant=tenant)


def plan_of_installation(plan: Plan, place: Place) -> None:
    rows = Budget.objects.filter(tenant=None)
    _plan(plan, place, "installation", rows, OF_INSTALLATION, scope=Scope.INSTALLATION)


def _plan(plan: Plan, place: Place, whose: str, rows: Iterable[Budget], columns: Columns, **fixed: Any) -> None:
    standing = {(row.scope, row.period): row for row in rows}
    named = set()
    for each in place.elements():
        with plan.problems.gathered():
            needed = [name for name in ("scope", "period") if name in columns.by_name]
            values = columns.read(each.fields(columns.by_name, needed))
            name = (values.get("scope", Scope.INSTALLATION), values["period"])
            if name in named:
                raise each.refused("has the scope and period of another before it")
            named.add(name)
            row = standing.pop(name, None) or Budget(**fixed)
            if row._state.adding and "limit_ticks" not in values:
                raise Refused([f"{each.under('limit')} is missing."])
            row_name = str(Budget(scope=name[0], period=name[1]))
            plan.set_row(each, row, f"{whose}, budget {row_name}", columns, values)
    plan.leave(f"{whose}, budgets", map(str, standing.values()))
