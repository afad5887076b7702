"""Tenants and their API keys."""

from django.db import transaction
from django.shortcuts import get_object_or_404
from django.utils import timezone
from rest_framework.request import Request
from rest_framework.response import Response

from guard.api.base import OperatorView
from guard.api.permissions import permissions_on
from guard.api.schema import describe
from guard.api.serializers import (
    IssuedKeySerializer,
    KeySerializer,
    KeysSerializer,
    TenantSerializer,
    TenantsSerializer,
)
from tenants.models import ApiKey, Tenant


class TenantsView(OperatorView):
    operator_permissions = permissions_on("tenant")

    @describe("listTenants", "All tenants", TenantsSerializer, tag="tenants")
    def get(self, request: Request) -> Response:
        tenants = Tenant.objects.prefetch_related("route_steps", "downgrade_rules", "handoff_translations")
        return Response(TenantsSerializer({"tenants": tenants}).data)

    @describe(
        "createTenant",
        "Create a tenant",
        TenantSerializer,
        400,
        413,
        415,
        request=TenantSerializer,
        status=201,
        tag="tenants",
    )
    def post(self, request: Request) -> Response:
        serializer = TenantSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        return Response(TenantSerializer(serializer.save()).data, status=201)


class TenantView(OperatorView):
    operator_permissions = permissions_on("tenant")

    @describe("getTenant", "A tenant", TenantSerializer, 404, tag="tenants")
    def get(self, request: Request, tenant_id: str) -> Response:
        return Response(TenantSerializer(get_object_or_404(Tenant, pk=tenant_id)).data)

    @describe(
        "changeTenant",
        "Change what is given of a tenant",
        TenantSerializer,
        400,
        404,
        413,
        415,
        request=TenantSerializer,
        tag="tenants",
    )
    @transaction.atomic
    def patch(self, request: Request, tenant_id: str) -> Response:
        tenant = get_object_or_404(Tenant.objects.select_for_update(), pk=tenant_id)
        serializer = TenantSerializer(tenant, data=request.data, partial=True)
        serializer.is_valid(raise_exception=True)
        return Response(TenantSerializer(serializer.save()).data)


class KeysView(OperatorView):
    operator_permissions = permissions_on("apikey")

    @describe("listKeys", "A tenant's API keys, without their secrets", KeysSerializer, 404, tag="tenants")
    def get(self, request: Request, tenant_id: str) -> Response:
        return Response(KeysSerializer({"keys": get_object_or_404(Tenant, pk=tenant_id).keys.all()}).data)

    @describe(
        "issueKey", "Issue an API key; its secret is in this answer only", IssuedKeySerializer, 400, 404, 413, 415,
        request=KeySerializer, status=201, tag="tenants",
    )  # fmt: skip
    def post(self, request: Request, tenant_id: str) -> Response:
        tenant = get_object_or_404(Tenant, pk=tenant_id)
        serializer = KeySerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        key, secret = ApiKey.objects.issue(tenant, **serializer.validated_data)
        return Response({**KeySerializer(key).data, "key": secret}, status=201)


class KeyView(OperatorView):
    operator_permissions = permissions_on("apikey")

    @describe("revokeKey", "Revoke an API key", None, 400, 404, status=204, tag="tenants")
    @transaction.atomic
    def delete(self, request: Request, tenant_id: str, key_id: int) -> Response:
        key = get_object_or_404(ApiKey.objects.select_for_update(), pk=key_id, tenant_id=tenant_id)
        if key.revoked_at is None:
            key.revoked_at = timezone.now()
            key.save()
        return Response(status=204)
