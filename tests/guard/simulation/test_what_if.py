"""What if: a replay of the past is what really running the same calls under those settings comes to, to the tick."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

from django.db.models import Sum
from django.utils import timezone

from guard.simulation.what_if import Settings, what_if
from spend.models import Call, CatalogueModel, LedgerEntry, Outcome, Route
from tenants.models import Budget, Scope, Tenant
from tenants.money import TICKS_PER_USD as USD
from tenants.periods import Period
from tests.factories import (
    ApiKeyFactory,
    BudgetFactory,
    CatalogueModelFactory,
    DowngradeRuleFactory,
    RouteStepFactory,
    TenantFactory,
)
from tests.support.provider import Provider
from tests.support.server import GuardServer

M = 1_000_000
TIGHT = (
    Budget(scope=Scope.TENANT, period=Period.DAY, limit_ticks=19 * M, soft_cap=Decimal("0.6"), reserve=Decimal("0.05")),
    Budget(scope=Scope.CUSTOMER, period=Period.MONTH, limit_ticks=6 * M),
    Budget(scope=Scope.CONVERSATION, period=Period.TOTAL, limit_ticks=4 * M, hard_cap=Decimal("0.9")),
)


def tenant_on_large(name: str, budgets: tuple[Budget, ...]) -> Tenant:
    tenant = TenantFactory.create(id=name, time_zone="Europe/Oslo", floor_max_tokens=8)
    RouteStepFactory.create(tenant=tenant, model=CatalogueModel.objects.get(pk="large"))
    DowngradeRuleFactory.create(tenant=tenant, to_model=CatalogueModel.objects.get(pk="small"))
    for row in budgets:
        terms = {
            name: getattr(row, name) for name in ("scope", "period", "limit_ticks", "soft_cap", "hard_cap", "reserve")
        }
        BudgetFactory.create(tenant=tenant, **terms)
    return tenant


def conversation_of(number: int) -> dict[str, Any]:
    """The call of that number: of three customers and ten conversations, with and without a maximum."""
    said = f"Where is my order number {number}? " * (1 + number % 4)
    messages = [{"role": "user", "content": said}]
    if number >= 10:
        messages = [*messages, {"role": "assistant", "content": "On its way."}, {"role": "user", "content": said}]
    asked = {"messages": messages, "customerId": f"c{number % 3}", "conversationId": f"t{number % 10}"}
    limits: list[dict[str, Any]] = [{"maxTokens": 90}, {"maxTokens": 60}, {"maxTokens": 120, "model": "small"}, {}]
    return {**asked, **limits[number % 4]}


def run(server: GuardServer, tenant: Tenant, secret: str, calls: int) -> None:
    client = server.client_of(secret)
    for number in range(calls):
        answer = client.post("/api/chat", json={"tenantId": tenant.id, **conversation_of(number)})
        assert answer.status_code in (200, 429), answer.text


def test_a_replay_is_what_really_happens_under_those_settings(
    guard_server: Callable[..., GuardServer], provider: Provider
) -> None:
    server = guard_server(HOLD_WAIT_SECONDS="0.1")
    with server.database():
        CatalogueModelFactory.create(id="large")
        tier = {
            "price__tier__input_ticks": 1_000,
            "price__tier__output_ticks": 4_000,
            "price__tier__cached_input_ticks": 0,
        }
        CatalogueModelFactory.create(id="small", **tier)
        generous = Budget(scope=Scope.TENANT, period=Period.DAY, limit_ticks=5 * USD)
        wide, tight = tenant_on_large("wide", (generous,)), tenant_on_large("tight", TIGHT)
        keys = [ApiKeyFactory.create(tenant=tenant) for tenant in (wide, tight)]
    for tenant, key in zip((wide, tight), keys, strict=True):
        run(server, tenant, key.secret, calls=60)
    with server.database(wait=False):
        found = what_if(wide, Settings(TIGHT, ("large",), (("*", "small"),)), 7, timezone.now()).replay
        real = Call.objects.filter(tenant=tight)
        by_route = {route: real.filter(outcome=Outcome.SERVED, route=route).count() for route in Route.values}
        print(found.before, found.after, found.saved, by_route)
        assert (found.after.as_asked, found.after.downgraded) == (by_route["primary"], by_route["downgrade"])
        assert found.after.refused == real.filter(outcome=Outcome.REFUSED).count()
        assert min(found.after.as_asked, found.after.downgraded, found.after.refused, found.after.shortened) > 0
        assert (
            found.after.cost_ticks
            == LedgerEntry.objects.filter(tenant=tight).aggregate(ticks=Sum("cost_ticks"))["ticks"]
        )
        assert (
            found.before.cost_ticks
            == LedgerEntry.objects.filter(tenant=wide).aggregate(ticks=Sum("cost_ticks"))["ticks"]
        )
        assert found.saved.ticks == found.before.cost_ticks - found.after.cost_ticks
        assert found.estimated == 0
