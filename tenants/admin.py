"""The operators' pages for what is allowed: tenants with their budgets, keys and routes, people, the trail.

`TenantAdmin` is the tenant's page without money spent, which this room does not know; `spend.admin`
adds that and registers it. Whatever changes something is a dialog, and so a POST with a CSRF token.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, ClassVar

from auditlog.models import LogEntry
from axes.models import AccessAttempt
from django.conf import settings
from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group, User
from django.contrib.messages import error, success
from django.db.models import DecimalField, Model, QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.timesince import timeuntil
from django_otp.plugins.otp_static.models import StaticDevice
from django_otp.plugins.otp_totp.models import TOTPDevice
from unfold.admin import TabularInline
from unfold.decorators import action, display
from unfold.enums import ActionVariant
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm
from unfold.paginator import InfinitePaginator

from tenants.declared_filters import ModelAdmin
from tenants.fields import TicksField
from tenants.forms import ConfirmForm, IssueKeyForm, ShareInput, TopUpForm, UsdInput
from tenants.history import Edit, change_of, history_of
from tenants.models import ApiKey, Budget, DowngradeRule, OperatorToken, RouteStep, Scope, Tenant, TopUp
from tenants.money import usd_rounded, usd_string
from tenants.periods import Period, bounds
from tenants.sign_in.login import unlock, with_tries
from tenants.sign_in.second_factor import second_factor

NOTHING = "–"
LOCKED_OUT = "locked out"


class ShowsUsd:
    """Ticks as USD, in forms and where they are only shown."""

    model: type[Model]
    formfield_overrides: ClassVar = {TicksField: {"widget": UsdInput}, DecimalField: {"widget": ShareInput}}

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        ticks = [field for field in self.model._meta.fields if isinstance(field, TicksField)]
        self.readonly_preprocess_fields = {field.name: _as_usd(field) for field in ticks}


def _as_usd(field: TicksField) -> Any:
    """From the whole number that Django's display makes of a field in ticks."""
    return lambda shown: usd_string(int(shown), field.ticks_per_unit) if shown.lstrip("-").isdigit() else shown


class ReadOnly:
    """Rows that no page adds, changes or deletes."""

    def has_add_permission(self, *args: Any) -> bool:
        return False

    def has_change_permission(self, *args: Any) -> bool:
        return False

    def has_delete_permission(self, *args: Any) -> bool:
        return False


def back_to(model: type[Model], object_id: object) -> HttpResponse:
    """After a dialog: the page is loaded again."""
    return HttpResponse(headers={"HX-Redirect": change_url(model, object_id)})


def change_url(model: type[Model], object_id: object) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_change", args=[object_id])


class Row:
    """A row of a form: each field says its name, which stands only above the column.

    A choice of models has no buttons to edit and add them: that belongs on the model's own page.
    """

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        field = super().formfield_for_dbfield(db_field, request, **kwargs)  # type: ignore[misc]
        if field is not None:
            select = getattr(field.widget, "widget", field.widget)
            select.attrs["aria-label"] = field.label
            for may in ("can_add_related", "can_change_related", "can_delete_related", "can_view_related"):
                if hasattr(field.widget, may):
                    setattr(field.widget, may, False)
        return field


class BudgetInline(Row, ShowsUsd, TabularInline):
    model = Budget
    fields: ClassVar = ["scope", "period", "limit_ticks", "soft_cap", "hard_cap", "alert_percents"]
    extra = 0
    tab = hide_title = True

    def formfield_for_choice_field(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if db_field.name == "scope":
            kwargs["choices"] = [choice for choice in Scope.choices if choice[0] != Scope.INSTALLATION]
        return super().formfield_for_choice_field(db_field, request, **kwargs)


class TopUpInline(ShowsUsd, TabularInline):
    """The top-ups that still run; deleting one ends it now."""

    model = TopUp
    fields = readonly_fields = ["amount_ticks", "starts_at", "ends_at"]
    extra = 0
    tab = hide_title = True
    verbose_name_plural = "top-ups"

    def get_queryset(self, request: HttpRequest) -> QuerySet[TopUp]:
        return super().get_queryset(request).filter(ends_at__gt=timezone.now())

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class RouteStepInline(Row, TabularInline):
    """The route as an ordered list: drag to reorder."""

    model = RouteStep
    fields: ClassVar = ["model", "position"]
    ordering_field = "position"
    hide_ordering_field = True
    extra = 0
    tab = hide_title = True
    verbose_name_plural = "route"


class DowngradeRuleInline(Row, TabularInline):
    model = DowngradeRule
    fields: ClassVar = ["from_model", "to_model"]
    extra = 0
    tab = hide_title = True
    verbose_name_plural = "downgrades"


class ApiKeyInline(ReadOnly, TabularInline):
    """The tenant's keys; made by a dialog that shows the secret once, and revoked by another."""

    model = ApiKey
    fields = readonly_fields = ["name", "hint_shown", "state", "created_at", "expires_at", "revoke"]
    tab = hide_title = True
    verbose_name_plural = "API keys"

    @display(description="Starts with")
    def hint_shown(self, key: ApiKey) -> str:
        return f"{key.hint}…"

    @display(description="State")
    def state(self, key: ApiKey) -> str:
        return state_of_key(key, timezone.now())

    @display(description="")
    def revoke(self, key: ApiKey) -> str | SafeString:
        return "" if key.revoked_at else dialog_link(reverse("admin:tenants_apikey_revoke", args=[key.pk]), "Revoke")


def state_of_key(key: ApiKey | OperatorToken, now: datetime) -> str:
    if key.revoked_at:
        return "revoked"
    return "valid" if key.is_valid_at(now) else "expired"


def dialog_link(url: str, text: str) -> SafeString:
    """A link that opens one of unfold's action dialogs from anywhere on a page."""
    return format_html(
        '<button type="button" class="text-link font-medium cursor-pointer" hx-get="{}" hx-target="#modal-content" '
        'hx-select="#dialog" x-on:htmx:after-on-load="openModal = true">{}</button>',
        url,
        text,
    )


class TenantAdmin(ModelAdmin):
    """A tenant's page. `further_pages` is for what other rooms can say of a tenant: titles and URL names."""

    further_pages: ClassVar[list[tuple[str, str]]] = []

    list_display: Sequence[Any] = ["id", "name", "call_state", "time_zone"]
    list_display_links = ("id", "name")
    list_filter = ("is_active",)
    search_fields = ("id", "name")
    fieldsets: ClassVar = [
        (None, {"fields": [("id", "name"), ("time_zone", "is_active"), "members"]}),
        (
            "Calls",
            {
                "fields": [
                    ("default_max_tokens", "floor_max_tokens"),
                    ("requests_per_minute", "calls_in_flight"),
                    "hide_money",
                    "share_content",
                    "content_days",
                ]
            },
        ),
    ]
    autocomplete_fields = ("members",)
    inlines: Sequence[Any] = [BudgetInline, RouteStepInline, DowngradeRuleInline, ApiKeyInline, TopUpInline]
    actions_detail: Sequence[Any] = ["raise_today", "issue_key", "pause", "resume"]
    change_form_outer_after_template = "tenants/trail.html"
    warn_unsaved_form = True
    actions = None  # Django's own deletes many at once; see has_delete_permission.

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """A tenant's history outlives it; it is paused, not deleted."""
        return False

    @display(description="Calls", label={"open": "success", "paused": "danger"})
    def call_state(self, tenant: Tenant) -> str:
        return "open" if tenant.is_active else "paused"

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Sequence[str]:
        return ["id"] if obj else []

    def get_inlines(self, request: HttpRequest, obj: Any) -> Sequence[Any]:
        return self.inlines if obj else []

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[Any]:
        """Only one of pause and resume makes sense."""
        is_active = Tenant.objects.filter(pk=object_id, is_active=True).exists()
        useless = self.get_unfold_action("resume" if is_active else "pause").action_name
        return [each for each in super().get_actions_detail(request, object_id) if each.action_name != useless]

    def changeform_view(
        self, request: HttpRequest, object_id: str | None = None, form_url: str = "", extra_context: Any = None
    ) -> Any:
        tenant = self.get_object(request, object_id) if object_id else None
        context = self.page_context(tenant) if isinstance(tenant, Tenant) else {}
        return super().changeform_view(request, object_id, form_url, {**(extra_context or {}), **context})

    def page_context(self, tenant: Tenant) -> dict[str, Any]:
        pages = [(title, reverse(url_name, args=[tenant.pk])) for title, url_name in self.further_pages]
        return {"trail": history_of(tenant), "further_pages": pages}

    @action(
        description="Raise today's limit",
        url_path="raise-today",
        permissions=["change"],
        icon="trending_up",
        dialog={
            "title": "Raise today's limit",
            "description": "The amount comes on top of the daily limit until midnight in the tenant's time zone, "
            "and then ends by itself.",
            "form_class": TopUpForm,
            "form_submit_text": "Raise until midnight",
        },
    )
    def raise_today(self, request: HttpRequest, form: TopUpForm, object_id: str) -> HttpResponse:
        tenant, now = Tenant.objects.get(pk=object_id), timezone.now()
        if not has_daily_budget(tenant):
            error(request, "This tenant has no daily budget to raise; edit its other budgets instead.")
            return back_to(Tenant, object_id)
        ends_at = bounds(Period.DAY, tenant.zone, now).ends_at
        assert ends_at is not None  # noqa: S101  a day ends
        top_up = TopUp.objects.create(
            tenant=tenant, amount_ticks=form.cleaned_data["amount_ticks"], starts_at=now, ends_at=ends_at
        )
        until = f"{ends_at.astimezone(tenant.zone):%H:%M} in {tenant.time_zone}, {timeuntil(ends_at, now)} from now"
        success(request, f"Today's limit is {usd_rounded(top_up.amount_ticks)} USD higher until {until}.")
        return back_to(Tenant, object_id)

    @action(
        description="Issue API key",
        url_path="issue-key",
        permissions=["change"],
        icon="key",
        dialog={
            "title": "Issue an API key",
            "description": "The key is shown once, after this. Only its hash is kept.",
            "form_class": IssueKeyForm,
            "form_submit_text": "Issue key",
        },
    )
    def issue_key(self, request: HttpRequest, form: IssueKeyForm, object_id: str) -> HttpResponse:
        tenant = Tenant.objects.get(pk=object_id)
        _, secret = ApiKey.objects.issue(tenant, form.cleaned_data["name"], form.cleaned_data["expires_at"])
        success(
            request,
            format_html(
                'The new key, shown only now: <code class="font-semibold select-all break-all">{}</code>', secret
            ),
        )
        return back_to(Tenant, object_id)

    @action(
        description="Pause",
        url_path="pause",
        permissions=["change"],
        icon="pause_circle",
        variant=ActionVariant.DANGER,
        dialog={
            "title": "Pause this tenant?",
            "description": "Within a second every call of it is refused, until you resume it. "
            "Calls in flight finish, and what was spent stays.",
            "form_class": ConfirmForm,
            "form_submit_text": "Pause",
        },
    )
    def pause(self, request: HttpRequest, form: ConfirmForm, object_id: str) -> HttpResponse:
        return self._set_active(request, object_id, False)

    @action(
        description="Resume",
        url_path="resume",
        permissions=["change"],
        icon="play_circle",
        variant=ActionVariant.PRIMARY,
        dialog={
            "title": "Resume this tenant?",
            "description": "Within a second its calls are taken again, within its budgets.",
            "form_class": ConfirmForm,
            "form_submit_text": "Resume",
        },
    )
    def resume(self, request: HttpRequest, form: ConfirmForm, object_id: str) -> HttpResponse:
        return self._set_active(request, object_id, True)

    def _set_active(self, request: HttpRequest, object_id: str, is_active: bool) -> HttpResponse:
        tenant = Tenant.objects.get(pk=object_id)
        tenant.is_active = is_active
        tenant.save()
        success(request, f"{tenant} is {'open to calls again' if is_active else 'paused'}.")
        return back_to(Tenant, object_id)


def has_daily_budget(tenant: Tenant) -> bool:
    """Its own, or the default's, which binds a tenant that has none of its own."""
    own = {budget.period for budget in tenant.budgets.all() if budget.scope == Scope.TENANT}
    return not own or Period.DAY in own


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


@admin.register(Budget)
class InstallationBudgetAdmin(ShowsUsd, ModelAdmin):
    """Budgets of the whole installation; a tenant's are on its page."""

    list_display = ("period", "limit", "soft", "hard")
    fields = ("period", "limit_ticks", "soft_cap", "hard_cap", "alert_percents")

    @display(description="Limit (USD)", ordering="limit_ticks")
    def limit(self, budget: Budget) -> str:
        return usd_rounded(budget.limit_ticks, places=4)

    @display(description="Soft cap", ordering="soft_cap")
    def soft(self, budget: Budget) -> str:
        return f"{budget.soft_cap.normalize():f}"

    @display(description="Hard cap", ordering="hard_cap")
    def hard(self, budget: Budget) -> str:
        return f"{budget.hard_cap.normalize():f}"

    def get_queryset(self, request: HttpRequest) -> QuerySet[Budget]:
        return super().get_queryset(request).filter(tenant__isnull=True)

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        form = super().get_form(request, obj, change, **kwargs)

        class InstallationBudgetForm(form):  # type: ignore[misc, valid-type]
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs)
                self.instance.scope = Scope.INSTALLATION

            def clean(self) -> Any:
                """Django leaves out a constraint on a field that the form has not: the tenant."""
                others = Budget.objects.filter(tenant__isnull=True).exclude(pk=self.instance.pk)
                if others.filter(period=self.cleaned_data.get("period")).exists():
                    self.add_error("period", "The installation already has a budget of that period.")
                return super().clean()

        return InstallationBudgetForm


admin.site.login_template = "tenants/login.html"
admin.site.unregister([User, Group, LogEntry, TOTPDevice, StaticDevice])


@admin.register(User)
class UserAdmin(DjangoUserAdmin, ModelAdmin):  # type: ignore[type-arg,misc]
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
class GroupAdmin(DjangoGroupAdmin, ModelAdmin):  # type: ignore[misc]
    pass


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
        return dialog_link(reverse("admin:axes_accessattempt_unlock", args=[attempt.pk]), "Unlock")

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


@admin.register(LogEntry)
class TrailAdmin(ReadOnly, ModelAdmin):
    """The whole audit trail: who changed what, when, from what to what."""

    list_display = ("timestamp", "who", "action", "what", "edits")
    list_select_related = ("actor", "content_type")
    list_filter = ("action",)
    search_fields = ("object_repr", "actor__username")
    fields = ("timestamp", "who", "action", "what", "edits")
    paginator = InfinitePaginator
    show_full_result_count = False

    @display(description="Who")
    def who(self, entry: LogEntry) -> str:
        return change_of(entry).who

    @display(description="What")
    def what(self, entry: LogEntry) -> str:
        return change_of(entry).what

    @display(description="Change")
    def edits(self, entry: LogEntry) -> str:
        return "; ".join(map(_told, change_of(entry).edits))


def _told(edit: Edit) -> str:
    """As the tenant's own trail tells it: what was nothing before is not named."""
    return f"{edit.field}: {f'{edit.old} → ' if edit.old else ''}{edit.new or NOTHING}"
