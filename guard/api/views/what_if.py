"""What if: a tenant's past calls under other settings. It asks, and changes nothing."""

from dataclasses import replace
from typing import Any

from django.shortcuts import get_object_or_404
from django.utils import timezone
from rest_framework import serializers
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from guard.api.base import OperatorView
from guard.api.fields import Instant, StrictSerializer, Text, Usd, UsdPerMillion, WholeNumber
from guard.api.permissions import permissions_on
from guard.api.schema import describe
from guard.api.serializers import (
    MOST_DOWNGRADES,
    MOST_ROUTE_STEPS,
    BudgetSerializer,
    BudgetsSerializer,
    DowngradeSerializer,
    ModelId,
)
from guard.simulation.what_if import ASSUMPTIONS, DAYS, Answer, Settings, todays_settings, what_if
from spend.pricing.cost import TierPrice
from tenants.models import Budget, Tenant

DEFAULT_DAYS = 30


class PriceSerializer(StrictSerializer):
    """A price that a model would have had throughout, whatever it really had."""

    model = ModelId()
    input_usd_per_million = UsdPerMillion(source="input_ticks")
    cached_input_usd_per_million = UsdPerMillion(
        source="cached_input_ticks", required=False, help_text="Left out: the input's price."
    )
    output_usd_per_million = UsdPerMillion(source="output_ticks")


class WhatIfSerializer(BudgetsSerializer):
    """What to replay under; what is left out is as it is today."""

    days = WholeNumber(required=False, help_text="7, 30 or 90: the last so many, today included. Default 30.")
    budgets = BudgetSerializer(many=True, required=False)
    route = serializers.ListField(child=ModelId(), required=False, min_length=1, max_length=MOST_ROUTE_STEPS)
    downgrades = DowngradeSerializer(many=True, required=False, max_length=MOST_DOWNGRADES)  # type: ignore[call-arg]
    prices = PriceSerializer(many=True, required=False, max_length=MOST_ROUTE_STEPS)  # type: ignore[call-arg]

    def validate_days(self, days: int) -> int:
        if days not in DAYS:
            raise ValidationError(f"must be one of {', '.join(map(str, DAYS))}.")
        return days

    def settings(self, tenant: Tenant) -> Settings:
        """What is asked for, beside today's."""
        asked, today = self.validated_data, todays_settings(tenant)
        given: dict[str, Any] = {}
        if "budgets" in asked:
            given["budgets"] = tuple(Budget(**terms) for terms in asked["budgets"])
        if "route" in asked:
            given["route"] = tuple(dict.fromkeys(asked["route"]))
        if "downgrades" in asked:
            given["downgrades"] = tuple((rule["from_"], rule["to"]) for rule in asked["downgrades"])
        return replace(today, **given, prices={each["model"]: _price(each) for each in asked.get("prices", ())})


def _price(asked: dict[str, Any]) -> TierPrice:
    input_ticks, output_ticks = asked["input_ticks"], asked["output_ticks"]
    return TierPrice(0, input_ticks, asked.get("cached_input_ticks", input_ticks), input_ticks, output_ticks)


class TallySerializer(StrictSerializer):
    """Calls by what became of them; `shortened` ones are among the served."""

    as_asked = WholeNumber()
    downgraded = WholeNumber()
    fallback = WholeNumber()
    shortened = WholeNumber(help_text="Answers that were cut because little was left.")
    refused = WholeNumber(help_text="Or handed off, for want of budget.")
    failed = WholeNumber(help_text="Or refused for another reason than the budget.")
    cost_usd = Usd(source="cost_ticks")


class DifferenceSerializer(StrictSerializer):
    """What would have been spent less, and why; below zero where it is more. The reasons sum to `totalUsd`."""

    by_model_usd = Usd(source="by_model", help_text="Another model answered.")
    by_length_usd = Usd(source="by_length", help_text="The same model's answers were cut shorter, or less.")
    by_price_usd = Usd(source="by_price", help_text="The same model had another price.")
    by_refusing_usd = Usd(source="by_refusing", help_text="What was answered would have been refused.")
    by_serving_usd = Usd(source="by_serving", help_text="What was refused would have been answered: an estimate.")
    total_usd = Usd(source="ticks")


class ModelCostSerializer(StrictSerializer):
    model = Text()
    before_usd = Usd(source="before_ticks")
    after_usd = Usd(source="after_ticks")


class WhatIfAnswerSerializer(StrictSerializer):
    tenant_id = Text()
    starts_at = Instant()
    ends_at = Instant()
    calls = WholeNumber()
    estimated_calls = WholeNumber(help_text="Of which is not known how much they asked for.")
    before = TallySerializer()
    after = TallySerializer()
    saved = DifferenceSerializer()
    models = ModelCostSerializer(many=True)
    assumptions = serializers.ListField(child=Text())


class WhatIfView(OperatorView):
    operator_permissions = permissions_on("tenant", POST="view")

    @describe(
        "whatIf",
        "What a tenant's calls of the last days would have come to under other settings",
        WhatIfAnswerSerializer,
        400,
        404,
        413,
        415,
        request=WhatIfSerializer,
        tag="tenants",
    )
    def post(self, request: Request, tenant_id: str) -> Response:
        tenant = get_object_or_404(Tenant, pk=tenant_id)
        serializer = WhatIfSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        days = serializer.validated_data.get("days", DEFAULT_DAYS)
        return Response(_body(tenant, what_if(tenant, serializer.settings(tenant), days, timezone.now())))


def _body(tenant: Tenant, answer: Answer) -> Any:
    replay = answer.replay
    return WhatIfAnswerSerializer(
        {
            "tenant_id": tenant.id,
            "starts_at": answer.starts_at,
            "ends_at": answer.ends_at,
            "calls": replay.calls,
            "estimated_calls": replay.estimated,
            "before": replay.before,
            "after": replay.after,
            "saved": replay.saved,
            "models": answer.models,
            "assumptions": ASSUMPTIONS,
        }
    ).data
