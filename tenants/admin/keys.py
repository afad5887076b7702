"""Credentials: agents' keys and operators' tokens."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from django.contrib import admin
from django.contrib.messages import error, success
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.html import format_html
from unfold.dataclasses import UnfoldAction
from unfold.decorators import action, display
from unfold.enums import ActionVariant

from tenants.admin.addresses import back_to
from tenants.admin.declared_filters import ModelAdmin
from tenants.admin.forms import ConfirmForm, RotateKeyForm
from tenants.admin.mixins import ReadOnly
from tenants.models import ApiKey, OperatorToken, Tenant

KEY_COLOURS = {"valid": "success", "revoked": "danger", "expired": "warning"}


def state_of_key(key: ApiKey | OperatorToken, now: datetime) -> str:
    if key.revoked_at:
        return "revoked"
    return "valid" if key.is_valid_at(now) else "expired"


def show_secret(request: HttpRequest, secret: str) -> None:
    """Once, on the next page."""
    code = '<code class="font-semibold select-all to-copy">{}</code>'
    success(request, format_html(f"The new key, shown only now: {code}", secret))


@admin.register(ApiKey)
class ApiKeyAdmin(ModelAdmin):
    list_display = ("__str__", "tenant", "state", "created_at", "expires_at")
    list_select_related = ("tenant",)
    search_fields = ("name", "hint", "tenant__id")
    readonly_fields = ("tenant", "hint", "created_at", "revoked_at")
    actions = None
    actions_detail: Sequence[Any] = ["rotate", "revoke"]

    @display(description="State", label=KEY_COLOURS)
    def state(self, key: ApiKey) -> str:
        return state_of_key(key, timezone.now())

    def useful_actions(self, actions: list[UnfoldAction], object_id: str) -> list[UnfoldAction]:
        """A key that is over is neither rotated nor revoked."""
        key = ApiKey.objects.filter(pk=object_id).first()
        return actions if key and key.is_valid_at(timezone.now()) else self.without(actions, "rotate", "revoke")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    @action(
        description="Rotate",
        url_path="rotate",
        permissions=["change"],
        icon="autorenew",
        dialog={
            "title": "Put a new key in this one's place?",
            "description": "It has this one's name and limits, and is shown once, after this. Both work until the "
            "old one ends, so that its user can be given the new one without a gap.",
            "form_class": RotateKeyForm,
            "form_submit_text": "Issue the new key",
        },
    )
    def rotate(self, request: HttpRequest, form: RotateKeyForm, object_id: str) -> HttpResponse:
        key, now = ApiKey.objects.get(pk=object_id), timezone.now()
        if key.is_valid_at(now):
            _, secret = ApiKey.objects.rotate(key, now, timedelta(hours=form.cleaned_data["overlap_hours"]))
            show_secret(request, secret)
        else:
            error(request, f"{key} is over; issue a new one.")
        return back_to(Tenant, key.tenant_id)

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

    @display(description="State", label=KEY_COLOURS)
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
