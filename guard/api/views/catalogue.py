"""The model catalogue: for operators whole, for agents in the OpenAI shape."""

from datetime import datetime
from typing import Any

from django.db import transaction
from django.shortcuts import get_object_or_404
from django.utils import timezone
from rest_framework.request import Request
from rest_framework.response import Response

from guard.api.base import ApiView, OperatorView
from guard.api.permissions import READING_MODELS, IsAgent
from guard.api.schema import describe
from guard.api.serializers import (
    CapabilitiesSerializer,
    ModelSerializer,
    ModelsSerializer,
    OpenAIErrorSerializer,
    OpenAIModelSerializer,
    OpenAIModelsSerializer,
)
from guard.http.authentication import agent_of
from guard.http.errors import NotFound
from spend.models import AUTO, CatalogueModel, LearnedCapability
from spend.pricing.operator_prices import PricedModel, callable_models, put_model
from tenants.models import Tenant

CHANGING_A_MODEL = {
    **READING_MODELS,
    "PUT": ["spend.add_cataloguemodel", "spend.change_cataloguemodel", "spend.add_price"],
    "PATCH": ["spend.change_cataloguemodel"],
    "DELETE": ["spend.delete_learnedcapability"],
}


class ModelsView(OperatorView):
    operator_permissions = READING_MODELS

    @describe("listModels", "The catalogue", ModelsSerializer, tag="models")
    def get(self, request: Request) -> Response:
        now = timezone.now()
        models = CatalogueModel.objects.prefetch_related("prices__tiers")
        return Response(ModelsSerializer({"models": [PricedModel.of(model, now) for model in models]}).data)


class ModelView(OperatorView):
    operator_permissions = CHANGING_A_MODEL

    @describe("getModel", "A model", ModelSerializer, 404, tag="models")
    def get(self, request: Request, model_id: str) -> Response:
        return self.model_body(model_id, timezone.now())

    @describe(
        "putModel",
        "Create a model, or change what is given of it",
        ModelSerializer,
        400,
        404,
        413,
        415,
        request=ModelSerializer,
        creates=True,
        tag="models",
    )
    @transaction.atomic
    def put(self, request: Request, model_id: str) -> Response:
        now = timezone.now()
        model = CatalogueModel.objects.select_for_update().filter(pk=model_id).first()
        standing = PricedModel.of(model, now) if model else None
        serializer = ModelSerializer(
            standing, data=request.data, partial=standing is not None, context={"model_id": model_id}
        )
        serializer.is_valid(raise_exception=True)
        put_model(model_id, serializer.validated_data.get("model", {}), serializer.validated_data["rates"], now)
        return self.model_body(model_id, now, status=200 if standing else 201)

    def model_body(self, model_id: str, now: datetime, status: int = 200) -> Response:
        model = get_object_or_404(CatalogueModel, pk=model_id)
        return Response(ModelSerializer(PricedModel.of(model, now)).data, status=status)


class CapabilitiesView(OperatorView):
    operator_permissions = CHANGING_A_MODEL

    @describe("getCapabilities", "What a model takes and refuses", CapabilitiesSerializer, 404, tag="models")
    def get(self, request: Request, model_id: str) -> Response:
        return Response(CapabilitiesSerializer(get_object_or_404(CatalogueModel, pk=model_id)).data)

    @describe(
        "patchCapabilities",
        "Change what is given of it; what was learned stays beside it",
        CapabilitiesSerializer,
        400,
        404,
        413,
        415,
        request=CapabilitiesSerializer,
        tag="models",
    )
    @transaction.atomic
    def patch(self, request: Request, model_id: str) -> Response:
        model = get_object_or_404(CatalogueModel.objects.select_for_update(), pk=model_id)
        serializer = CapabilitiesSerializer(model, data=request.data, partial=True)
        serializer.is_valid(raise_exception=True)
        put_model(model_id, serializer.validated_data, None, timezone.now())
        return self.get(request, model_id)


class LearnedCapabilityView(OperatorView):
    operator_permissions = CHANGING_A_MODEL

    @describe("unlearnCapability", "Unlearn what a refusal taught", None, 400, 404, status=204, tag="models")
    def delete(self, request: Request, learned_id: int) -> Response:
        get_object_or_404(LearnedCapability, pk=learned_id).delete()
        return Response(status=204)


class OpenAIModelsView(ApiView):
    """`GET /v1/models`, as OpenAI clients ask for it."""

    permission_classes = [IsAgent]

    @describe(
        "listCallableModels",
        "The models that the caller's tenant may name",
        OpenAIModelsSerializer,
        error=OpenAIErrorSerializer,
        tag="OpenAI",
    )
    def get(self, request: Request) -> Response:
        return Response({"object": "list", "data": entries_for(agent_of(request).tenant)})


class OpenAIModelView(ApiView):
    """`GET /v1/models/{id}`, OpenAI's `models.retrieve`."""

    permission_classes = [IsAgent]

    @describe(
        "getCallableModel",
        "One of them",
        OpenAIModelSerializer,
        404,
        error=OpenAIErrorSerializer,
        tag="OpenAI",
    )
    def get(self, request: Request, model_id: str) -> Response:
        for known in entries_for(agent_of(request).tenant):
            if known["id"] == model_id:
                return Response(known)
        raise NotFound(f"There is no model {model_id!r} on this tenant's route.")


def entries_for(tenant: Tenant) -> list[dict[str, Any]]:
    """What the tenant's calls may name, `auto` first, and last what may be named for embeddings."""
    embedding = CatalogueModel.objects.filter(makes_embeddings=True, is_enabled=True).values_list("id", flat=True)
    models = callable_models(dict.fromkeys([*tenant.callable_models(), *embedding]), timezone.now())
    entries = [entry(each.model.id, each.model.provider, each.price.starts_at) for each in models if each.price]
    return [entry(AUTO, "guard", tenant.created_at), *entries]


def entry(model_id: str, owner: str, created_at: datetime) -> dict[str, Any]:
    return {"id": model_id, "object": "model", "created": int(created_at.timestamp()), "owned_by": owner}
