"""Credentials: agents' keys and operators' tokens."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.contrib import admin
from django.contrib.messages import success
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from unfold.decorators import action, display
from unfold.enums import ActionVariant

from tenants.admin.addresses import back_to
from tenants.admin.declared_filters import ModelAdmin
from tenants.admin.forms import ConfirmForm
from tenants.admin.mixins import ReadOnly
from tenants.models import ApiKey, OperatorToken, Tenant


def state_of_key(key: ApiKey | OperatorToken, now: datetime) -> str:
    if key.revoked_at:
        return "revoked"
    return "valid" if key.is_valid_at(now) else "expired"


@admin.register(ApiKey)
class ApiKeyAdmin(ModelAdmin):
    list_display = ("__str__", "tenant", "state", "created_at", "expires_at")
    list_select_related = ("tenant",)
    search_fields = ("name", "hint", "tenant__id")
    readonly_fields = ("tenant", "hint", "created_at", "revoked_at")
    actions = None
    actions_detail: Sequence[Any] = ["revoke"]

    @display(description="State", label={"valid": "success", "revoked": "danger", "expired": "warning"})
    def state(self, key: ApiKey) -> str:
        return state_of_key(key, timezone.now())

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    @action(
        description="Revoke",
        url_path="revoke",
        permissions=["change"],
        icon="key_off",
        variant=ActionVariant.DANGER,
        dialog={
            "title": "Revoke this key?",
            "description": "Within a second calls with it are refused, for good.",
            "form_class": ConfirmForm,
            "form_submit_text": "Revoke",
        },
    )
    def revoke(self, request: HttpRequest, form: ConfirmForm, object_id: str) -> HttpResponse:
        key = ApiKey.objects.get(pk=object_id)
        key.revoke(timezone.now())
        success(request, f"{key} is revoked.")
        return back_to(Tenant, key.tenant_id)


@admin.register(OperatorToken)
class OperatorTokenAdmin(ReadOnly, ModelAdmin):
    """Who may use the operators' API by a token; `manage.py create_operator_token` issues one."""

    list_display = ("__str__", "user", "state", "created_at", "expires_at", "last_used_at")
    list_select_related = ("user",)
    search_fields = ("name", "hint", "user__username")
    fields = ("user", "name", "hint", "state", "created_at", "expires_at", "last_used_at", "revoked_at",
              "revoked_because")  # fmt: skip
    actions = None
    actions_detail: Sequence[Any] = ["revoke_token"]

    @display(description="State", label={"valid": "success", "revoked": "danger", "expired": "warning"})
    def state(self, token: OperatorToken) -> str:
        return state_of_key(token, timezone.now())

    def has_revoke_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return request.user.has_perm("tenants.change_operatortoken")

    @action(
        description="Revoke",
        url_path="revoke",
        permissions=["revoke"],
        icon="key_off",
        variant=ActionVariant.DANGER,
        dialog={
            "title": "Revoke this token?",
            "description": "Requests with it are refused from now on, for good.",
            "form_class": ConfirmForm,
            "form_submit_text": "Revoke",
        },
    )
    def revoke_token(self, request: HttpRequest, form: ConfirmForm, object_id: str) -> HttpResponse:
        token = OperatorToken.objects.get(pk=object_id)
        token.revoke(timezone.now(), "revoked by hand")
        success(request, f"{token} is revoked.")
        return back_to(OperatorToken, object_id)
