"""A tenant's page: its limits, routes, keys and state."""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.contrib.messages import error, success
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html_join
from django.utils.safestring import SafeString
from django.utils.timesince import timeuntil
from unfold.admin import TabularInline
from unfold.dataclasses import UnfoldAction
from unfold.decorators import action, display
from unfold.enums import ActionVariant

from tenants.admin.addresses import back_to, row_url
from tenants.admin.begin import begin_page
from tenants.admin.bulk import bulk_page
from tenants.admin.declared_filters import ModelAdmin
from tenants.admin.forms import ConfirmForm, IssueKeyForm, TenantForm, TopUpForm, ZoneField
from tenants.admin.keys import show_secret, state_of_key
from tenants.admin.mixins import ReadOnly, Row, ShowsLadder, ShowsUsd, dialog_link
from tenants.admin.rows import DowngradeRules, RouteSteps, RowForm, RowSet
from tenants.models import ApiKey, Budget, DowngradeRule, HandoffTranslation, RouteStep, Scope, Tenant, TopUp
from tenants.money import usd_rounded
from tenants.periods import Period, bounds
from tenants.trail.history import history_of


class BudgetInline(Row, ShowsLadder, ShowsUsd, TabularInline):
    model = Budget
    form, formset = RowForm, RowSet
    fields: ClassVar = [
        "scope",
        "period",
        "limit_ticks",
        "soft_cap",
        "further_steps",
        "hard_cap",
        "reserve",
        "alert_percents",
    ]
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
    form, formset = RowForm, RouteSteps
    fields: ClassVar = ["model", "position"]
    ordering_field = "position"
    hide_ordering_field = True
    extra = 0
    tab = hide_title = True
    verbose_name_plural = "route"


class DowngradeRuleInline(Row, TabularInline):
    model = DowngradeRule
    form, formset = RowForm, DowngradeRules
    fields: ClassVar = ["from_model", "to_model"]
    extra = 0
    tab = hide_title = True
    verbose_name_plural = "downgrades"


class HandoffTranslationInline(Row, TabularInline):
    model = HandoffTranslation
    form, formset = RowForm, RowSet
    fields: ClassVar = ["language", "words"]
    extra = 0
    tab = hide_title = True
    verbose_name = "language"
    verbose_name_plural = "words in other languages"


class ApiKeyInline(ReadOnly, TabularInline):
    """The tenant's keys; made by a dialog that shows the secret once, and rotated and revoked by others."""

    model = ApiKey
    fields: ClassVar = ["name", "hint_shown", "state", "created_at", "expires_at", "change"]
    readonly_fields: Sequence[str] = fields
    template_before = "tenants/issue_key.html"
    tab = hide_title = True
    verbose_name_plural = "API keys"

    @display(description="Starts with")
    def hint_shown(self, key: ApiKey) -> str:
        return f"{key.hint}…"

    @display(description="State")
    def state(self, key: ApiKey) -> str:
        return state_of_key(key, timezone.now())

    def get_formset(self, request: HttpRequest, obj: Any = None, **kwargs: Any) -> Any:
        """An inline is made anew for each request, so what its user may do can be kept on it."""
        self.may_change = request.user.has_perm("tenants.change_apikey")
        return super().get_formset(request, obj, **kwargs)

    @display(description="")
    def change(self, key: ApiKey) -> str | SafeString:
        if not self.may_change or not key.is_valid_at(timezone.now()):
            return ""
        dialogs = [("Rotate", "tenants_apikey_rotate"), ("Revoke", "tenants_apikey_revoke")]
        links = ((dialog_link(row_url(name, key.pk), title),) for title, name in dialogs)
        return format_html_join(" · ", "{}", links)


class ArchivedFilter(admin.SimpleListFilter):
    """Archived ones are left out unless one asks for them."""

    title = "archive"
    parameter_name = "archived"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("yes", "Archived"), ("all", "All")]

    def choices(self, changelist: Any) -> Iterator[Any]:
        everything, *others = super().choices(changelist)
        yield {**everything, "display": "Not archived"}
        yield from others

    def queryset(self, request: HttpRequest, queryset: QuerySet[Tenant]) -> QuerySet[Tenant]:
        return queryset if self.value() == "all" else queryset.filter(archived_at__isnull=self.value() != "yes")


class TenantAdmin(ModelAdmin):
    """A tenant's page. `further_pages` is for what other rooms can say of a tenant: titles and URL names."""

    further_pages: ClassVar[list[tuple[str, str]]] = []

    form = TenantForm
    list_display: Sequence[Any] = ["id", "name", "call_state", "time_zone"]
    list_display_links = ("id", "name")
    list_filter: Sequence[Any] = ("is_active", ArchivedFilter)
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
        (
            "When a budget is spent",
            {
                "fields": ["hard_stop", "handoff_words", ("handoff_language", "handoff_link")],
                "description": "In the words, {resets_at} is when the budget starts anew, in the tenant's time "
                "zone, and {link} is the link below. Words in other languages are on a tab of their own.",
            },
        ),
    ]
    autocomplete_fields = ("members",)
    inlines: Sequence[Any] = [
        BudgetInline,
        RouteStepInline,
        DowngradeRuleInline,
        HandoffTranslationInline,
        ApiKeyInline,
        TopUpInline,
    ]
    actions_detail: Sequence[Any] = ["raise_today", "issue_key", "copy", "pause", "resume", "archive"]
    change_form_outer_after_template = "tenants/trail.html"
    warn_unsaved_form = True
    actions: Sequence[Any] = ["change_several"]

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """A tenant's history outlives it; it is paused, not deleted."""
        return False

    @admin.action(description="Change several …", permissions=["change"])
    def change_several(self, request: HttpRequest, queryset: QuerySet[Tenant]) -> HttpResponse | None:
        context = {**self.admin_site.each_context(request), "title": "Change several tenants"}
        done = bulk_page(request, queryset, context)
        if isinstance(done, HttpResponse):
            return done
        success(request, f"{done} tenant{'' if done == 1 else 's'} changed.")
        return None

    @display(description="Calls", label={"open": "success", "paused": "danger", "archived": "info"})
    def call_state(self, tenant: Tenant) -> str:
        if tenant.archived_at:
            return "archived"
        return "open" if tenant.is_active else "paused"

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Sequence[str]:
        return ["id"] if obj else []

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if db_field.name == "time_zone":
            return ZoneField(initial=db_field.default, label="Time zone", help_text=db_field.help_text)
        return super().formfield_for_dbfield(db_field, request, **kwargs)

    def get_inlines(self, request: HttpRequest, obj: Any) -> Sequence[Any]:
        return self.inlines if obj else []

    def useful_actions(self, actions: list[UnfoldAction], object_id: str) -> list[UnfoldAction]:
        """Only one of pause and resume makes sense, and a raise only where there is something to raise."""
        tenant = Tenant.objects.filter(pk=object_id).first()
        useless = ["resume" if tenant and tenant.is_active else "pause"]
        if tenant and tenant.archived_at:
            useless.append("archive")
        if tenant and not has_daily_budget(tenant):
            useless.append("raise_today")
        return self.without(actions, *useless)

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        return begin_page(request, self.admin_site.each_context(request), self.model_names())

    def model_names(self) -> dict[str, str]:
        """What the models that a route can have are called, by id."""
        models = RouteStep._meta.get_field("model").related_model._default_manager.all()
        return {str(model.pk): str(model) for model in models}

    def changeform_view(
        self, request: HttpRequest, object_id: str | None = None, form_url: str = "", extra_context: Any = None
    ) -> Any:
        tenant = self.get_object(request, unquote(object_id)) if object_id else None
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
        show_secret(request, secret)
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

    def has_copy_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return self.has_add_permission(request)

    @action(description="Copy", url_path="copy", permissions=["copy"], icon="content_copy")
    def copy(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """A link to the page that begins one; it changes nothing by itself."""
        return HttpResponseRedirect(reverse("admin:tenants_tenant_add", query={"copy": object_id}))

    @action(
        description="Archive",
        url_path="archive",
        permissions=["change"],
        icon="archive",
        dialog={
            "title": "Archive this tenant?",
            "description": "Within a second every call of it is refused, and lists leave it out. Its history "
            "stays, and to resume it brings it back as it was.",
            "form_class": ConfirmForm,
            "form_submit_text": "Archive",
        },
    )
    def archive(self, request: HttpRequest, form: ConfirmForm, object_id: str) -> HttpResponse:
        tenant = Tenant.objects.get(pk=object_id)
        tenant.is_active, tenant.archived_at = False, timezone.now()
        tenant.save(update_fields=["is_active", "archived_at"])
        success(request, f"{tenant} is archived.")
        return back_to(Tenant, object_id)

    def _set_active(self, request: HttpRequest, object_id: str, is_active: bool) -> HttpResponse:
        tenant = Tenant.objects.get(pk=object_id)
        tenant.is_active = is_active
        tenant.save(update_fields=["is_active"])
        success(request, f"{tenant} is {'open to calls again' if is_active else 'paused'}.")
        return back_to(Tenant, object_id)


def has_daily_budget(tenant: Tenant) -> bool:
    """Its own, or the default's, which binds a tenant that has none of its own."""
    own = {budget.period for budget in tenant.budgets.all() if budget.scope == Scope.TENANT}
    return not own or Period.DAY in own
