"""Budgets: the caller's own windows, and a tenant's limits."""

from collections.abc import Mapping
from typing import Any

from django.db import transaction
from django.shortcuts import get_object_or_404
from rest_framework.request import Request
from rest_framework.response import Response

from guard.api.base import ApiView, OperatorView
from guard.api.permissions import IsAgent, permissions_on
from guard.api.schema import describe
from guard.api.serializers import BudgetNameSerializer, BudgetSerializer, BudgetsSerializer, OwnBudgetSerializer
from guard.http.authentication import agent_of
from spend.budgets.usage import current_uses
from tenants.budgets import locked_budgets, replace_budgets, set_budget
from tenants.models import Budget, Tenant


class OwnBudgetView(ApiView):
    permission_classes = [IsAgent]

    @describe("getOwnBudget", "The windows that bind the caller's tenant", OwnBudgetSerializer, tag="agents")
    def get(self, request: Request) -> Response:
        tenant = agent_of(request).tenant
        uses = current_uses(tenant)
        body = {"tenant_id": tenant.id, "windows": uses.windows, "windows_omitted": uses.omitted}
        return Response(OwnBudgetSerializer(body, context={"hide_money": tenant.hide_money}).data)


class BudgetsView(OperatorView):
    """What was spent stays spent, whatever becomes of a limit here."""

    operator_permissions = permissions_on("budget", PUT="add change delete", PATCH="add change")

    @describe("getBudgets", "A tenant's budgets", BudgetsSerializer, 404, tag="budgets")
    def get(self, request: Request, tenant_id: str) -> Response:
        return self.budgets_of(get_object_or_404(Tenant, pk=tenant_id))

    @describe(
        "replaceBudgets",
        "Replace a tenant's budgets",
        BudgetsSerializer,
        400,
        404,
        413,
        415,
        request=BudgetsSerializer,
        tag="budgets",
    )
    def put(self, request: Request, tenant_id: str) -> Response:
        tenant = get_object_or_404(Tenant, pk=tenant_id)
        serializer = BudgetsSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        replace_budgets(tenant, [Budget(**budget) for budget in serializer.validated_data["budgets"]])
        return self.budgets_of(tenant)

    @describe(
        "changeBudget", "Set or change one budget, named by scope and period", BudgetsSerializer, 400, 404, 413, 415,
        request=BudgetSerializer, tag="budgets",
    )  # fmt: skip
    @transaction.atomic
    def patch(self, request: Request, tenant_id: str) -> Response:
        tenant = get_object_or_404(Tenant, pk=tenant_id)
        row = locked_budgets(tenant).get(name_of(request.data))
        serializer = BudgetSerializer(row, data=request.data, partial=row is not None)
        serializer.is_valid(raise_exception=True)
        set_budget(tenant, Budget(**serializer.validated_data))
        return self.budgets_of(tenant)

    @describe(
        "deleteBudgets",
        "Remove a tenant's budgets; DEFAULT_DAILY_BUDGET binds it then",
        None,
        400,
        404,
        status=204,
        tag="budgets",
    )
    def delete(self, request: Request, tenant_id: str) -> Response:
        replace_budgets(get_object_or_404(Tenant, pk=tenant_id), [])
        return Response(status=204)

    def budgets_of(self, tenant: Tenant) -> Response:
        return Response(BudgetsSerializer({"budgets": tenant.budgets.all()}).data)


def name_of(data: Any) -> tuple[str, str]:
    """The scope and period that a body names."""
    if isinstance(data, Mapping):
        data = {name: value for name, value in data.items() if name in ("scope", "period")}
    serializer = BudgetNameSerializer(data=data)
    serializer.is_valid(raise_exception=True)
    return serializer.validated_data["scope"], serializer.validated_data["period"]
