"""Who may sign in, with which second factor, and who is locked out."""

from collections.abc import Sequence
from typing import Any

from auditlog.models import LogEntry
from axes.models import AccessAttempt
from django.conf import settings
from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group, User
from django.contrib.messages import success
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path, reverse
from django.utils.safestring import SafeString
from django_otp.plugins.otp_static.models import StaticDevice
from django_otp.plugins.otp_totp.models import TOTPDevice
from unfold.decorators import action, display
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from tenants.admin.addresses import row_url
from tenants.admin.declared_filters import ModelAdmin
from tenants.admin.forms import ConfirmForm
from tenants.admin.mixins import NOTHING, ReadOnly, dialog_link
from tenants.models import SsoIdentity
from tenants.sign_in.login import unlock, with_tries
from tenants.sign_in.second_factor import second_factor

LOCKED_OUT = "locked out"
admin.site.login_template = "tenants/login.html"
admin.site.unregister([User, Group, LogEntry, TOTPDevice, StaticDevice])


@admin.register(User)
class UserAdmin(DjangoUserAdmin, ModelAdmin):  # type: ignore[misc, type-arg]
    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    list_display = ("username", "email", "roles", "enters", "last_login")
    list_filter = ("is_staff", "is_active", "groups")

    def get_queryset(self, request: HttpRequest) -> QuerySet[User]:
        return super().get_queryset(request).prefetch_related("groups")

    @display(description="Roles")
    def roles(self, user: User) -> str:
        return ", ".join(["superuser"] * user.is_superuser + [group.name for group in user.groups.all()]) or NOTHING

    @display(description="Enters", label={"nothing": "danger", "the admin": "info"})
    def enters(self, user: User) -> str:
        if not user.is_active:
            return "nothing"
        return "the admin" if user.is_staff else "the dashboards"

    def get_urls(self) -> list[URLPattern]:
        own = path("second-factor/", self.admin_site.admin_view(second_factor), name="second_factor")
        return [own, *super().get_urls()]


@admin.register(Group)
class GroupAdmin(DjangoGroupAdmin, ModelAdmin):
    pass


@admin.register(SsoIdentity)
class SsoIdentityAdmin(ModelAdmin):
    """Who a login is at the provider. Made at the first sign-in, or here for a login that was there before."""

    list_display = ("user", "subject", "issuer", "signed_in_at")
    fields = ("user", "issuer", "subject", "signed_in_at")
    readonly_fields = ("signed_in_at",)
    search_fields = ("user__username", "subject")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, str]:
        return {"issuer": settings.SSO_ISSUER}


@admin.register(TOTPDevice)
class SecondFactorAdmin(ReadOnly, ModelAdmin):
    """Who set up two-factor sign-in. Deleting a row lets somebody in who lost the app."""

    list_display = ("user", "name", "confirmed", "last_used_at")
    fields = ("user", "name", "confirmed", "created_at", "last_used_at")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return ModelAdmin.has_delete_permission(self, request, obj)

    def delete_model(self, request: HttpRequest, obj: TOTPDevice) -> None:
        StaticDevice.objects.filter(user=obj.user).delete()
        super().delete_model(request, obj)


@admin.register(AccessAttempt)
class LockOutAdmin(ReadOnly, ModelAdmin):
    """Who tried wrong passwords since the last that worked. To unlock lets the name in again from that address."""

    list_display = ("username", "ip_address", "state", "attempt_time", "unlock_link")
    fields = ("username", "ip_address", "state", "attempt_time", "user_agent")
    search_fields = ("username", "ip_address")
    actions = None
    actions_detail: Sequence[Any] = ["unlock"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[AccessAttempt]:
        return with_tries(super().get_queryset(request))

    @display(description="State", label={LOCKED_OUT: "danger"})
    def state(self, attempt: Any) -> str:
        most = settings.AXES_FAILURE_LIMIT
        return LOCKED_OUT if attempt.tries >= most else f"{attempt.tries} of {most} wrong tries"

    @display(description="")
    def unlock_link(self, attempt: AccessAttempt) -> SafeString:
        return dialog_link(row_url("axes_accessattempt_unlock", attempt.pk), "Unlock")

    def has_unlock_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return request.user.has_perm("axes.delete_accessattempt")

    @action(
        description="Unlock",
        url_path="unlock",
        permissions=["unlock"],
        icon="lock_open",
        dialog={
            "title": "Unlock this login?",
            "description": "Its name may sign in from its address again at once, with the right password.",
            "form_class": ConfirmForm,
            "form_submit_text": "Unlock",
        },
    )
    def unlock(self, request: HttpRequest, form: ConfirmForm, object_id: str) -> HttpResponse:
        # It may be gone: who gets in meanwhile is forgiven the wrong tries before.
        if attempt := AccessAttempt.objects.filter(pk=object_id).first():
            unlock(attempt)
        success(request, f"{attempt.username if attempt else 'This login'} may sign in again.")
        return HttpResponse(headers={"HX-Redirect": reverse("admin:axes_accessattempt_changelist")})
