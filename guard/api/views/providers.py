"""Providers: where models are, and whether their keys are there."""

from django.db import transaction
from django.shortcuts import get_object_or_404
from rest_framework.request import Request
from rest_framework.response import Response

from guard.api.base import OperatorView
from guard.api.provider_serializers import ProviderSerializer, ProvidersSerializer
from guard.api.schema import describe
from guard.http.errors import InvalidRequest
from spend.models import Provider
from spend.providers.accounts import why_not_deleted

OF_PROVIDERS = {
    "GET": ["spend.view_provider", "spend.change_provider"],
    "PUT": ["spend.add_provider", "spend.change_provider"],
    "DELETE": ["spend.delete_provider"],
}


class ProvidersView(OperatorView):
    operator_permissions = OF_PROVIDERS

    @describe("listProviders", "All providers, without their keys", ProvidersSerializer, tag="providers")
    def get(self, request: Request) -> Response:
        return Response(ProvidersSerializer({"providers": Provider.objects.all()}).data)


class ProviderView(OperatorView):
    operator_permissions = OF_PROVIDERS

    @describe("getProvider", "A provider", ProviderSerializer, 404, tag="providers")
    def get(self, request: Request, provider_name: str) -> Response:
        return Response(ProviderSerializer(get_object_or_404(Provider, pk=provider_name)).data)

    @describe(
        "putProvider",
        "Create a provider, or change what is given of it",
        ProviderSerializer,
        400,
        404,
        413,
        415,
        request=ProviderSerializer,
        creates=True,
        tag="providers",
    )
    @transaction.atomic
    def put(self, request: Request, provider_name: str) -> Response:
        standing = Provider.objects.select_for_update().filter(pk=provider_name).first()
        serializer = ProviderSerializer(standing, data=request.data, partial=True, context={"name": provider_name})
        serializer.is_valid(raise_exception=True)
        row = serializer.save()
        return Response(ProviderSerializer(row).data, status=200 if standing else 201)

    @describe("deleteProvider", "Delete a provider that no model names", None, 400, 404, status=204, tag="providers")
    @transaction.atomic
    def delete(self, request: Request, provider_name: str) -> Response:
        row = get_object_or_404(Provider.objects.select_for_update(), pk=provider_name)
        if why := why_not_deleted(row):
            raise InvalidRequest(why)
        row.delete()
        return Response(status=204)
