"""The REST API's addresses."""

from typing import Any

from django.urls import path, re_path, register_converter
from django.urls.converters import StringConverter
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView

from guard.api import chat_schema, embeddings_schema, responses_schema  # noqa: F401  their views are the chat endpoints' in the document
from guard.api.views.budgets import BudgetsView, OwnBudgetView
from guard.api.views.catalogue import (
    CapabilitiesView,
    LearnedCapabilityView,
    ModelsView,
    ModelView,
    OpenAIModelsView,
    OpenAIModelView,
)
from guard.api.views.health import HEALTH_VIEWS
from guard.api.views.providers import ProvidersView, ProviderView
from guard.api.views.responses import CancelView, InputItemsView, KeptResponseView
from guard.api.views.spend import SpendView
from guard.api.views.tenants import KeysView, KeyView, TenantsView, TenantView
from guard.api.views.what_if import WhatIfView


class TenantIdConverter(StringConverter):
    regex = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"


class ModelIdConverter(StringConverter):
    regex = r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,99}"


class ProviderNameConverter(StringConverter):
    regex = r"[a-z0-9][a-z0-9._-]{0,39}"


register_converter(ProviderNameConverter, "provider_name")
register_converter(TenantIdConverter, "tenant_id")
register_converter(ModelIdConverter, "model_id")

# A bad key must not close what needs none.
PUBLIC: dict[str, Any] = {"authentication_classes": [], "permission_classes": []}

urlpatterns = [
    *(path(address.lstrip("/"), view) for address, view in HEALTH_VIEWS.items()),
    path("api/budget", OwnBudgetView.as_view()),
    path("api/spend", SpendView.as_view()),
    path("api/budgets/<tenant_id:tenant_id>", BudgetsView.as_view()),
    path("api/tenants", TenantsView.as_view()),
    path("api/tenants/<tenant_id:tenant_id>", TenantView.as_view()),
    path("api/tenants/<tenant_id:tenant_id>/keys", KeysView.as_view()),
    path("api/tenants/<tenant_id:tenant_id>/keys/<int:key_id>", KeyView.as_view()),
    path("api/tenants/<tenant_id:tenant_id>/what-if", WhatIfView.as_view()),
    path("api/providers", ProvidersView.as_view()),
    path("api/providers/<provider_name:provider_name>", ProviderView.as_view()),
    path("api/models", ModelsView.as_view()),
    path("api/models/<model_id:model_id>", ModelView.as_view()),
    path("api/capabilities/<model_id:model_id>", CapabilitiesView.as_view()),
    path("api/learned-capabilities/<int:learned_id>", LearnedCapabilityView.as_view()),
    path("v1/responses/<str:response_id>", KeptResponseView.as_view()),
    path("v1/responses/<str:response_id>/input_items", InputItemsView.as_view()),
    path("v1/responses/<str:response_id>/cancel", CancelView.as_view()),
    path("v1/models", OpenAIModelsView.as_view()),
    path("v1/models/<model_id:model_id>", OpenAIModelView.as_view()),
    re_path(r"^api/schema/?$", SpectacularAPIView.as_view(**PUBLIC), name="schema"),
    re_path(r"^api/docs/?$", SpectacularSwaggerSplitView.as_view(url_name="schema", **PUBLIC), name="docs"),
]
