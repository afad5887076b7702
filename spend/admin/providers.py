"""The operators' page for providers: where they are, how they are spoken to, and whether they work."""

from collections.abc import Sequence
from typing import Any, ClassVar

from django import forms
from django.contrib import admin
from django.contrib.messages import success, warning
from django.core.exceptions import ValidationError
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminPasswordWidget

from spend.models import Provider, provider_label
from spend.providers.accounts import account_of, models_of, set_key, why_not_deleted
from tenants.admin import back_to
from tenants.admin.declared_filters import ModelAdmin
from tenants.admin.forms import ConfirmForm, DialogForm

KEY_GONE = "The key that was kept is gone, since the address has another host now: set it again."


class TestForm(ConfirmForm):
    """Nothing to fill in. What goes wrong is said where the user asked for it."""

    words = ""

    def clean(self) -> dict[str, Any]:
        """Its list of models may be missing, where a model answers."""
        from spend.providers.check import cheapest_model, check_provider, try_model  # it is heavy

        row = Provider.objects.get(pk=self.object_id)
        account, model = account_of(row), cheapest_model(row.name)
        listed = check_provider(account)
        answered = try_model(account, model) if model and account.is_usable else None
        if answered is None and not listed.is_well:
            raise ValidationError(f"{row.name} {listed.words}.")
        if answered and not answered.is_well:
            raise ValidationError(f"{row.name} {answered.words}.")
        self.words = f"{listed.words}; {answered.words}" if answered else f"{listed.words}; it has no priced model here"
        return self.cleaned_data


class KeyForm(DialogForm):
    api_key = forms.CharField(
        label="Key",
        max_length=500,
        required=False,
        widget=UnfoldAdminPasswordWidget(attrs={"autocomplete": "off"}),
        help_text="Empty: the key that is kept is forgotten.",
    )

    def clean_api_key(self) -> str:
        api_key: str = self.cleaned_data["api_key"]
        row = Provider.objects.get(pk=self.object_id)
        try:
            set_key(row, api_key, row.base_url)  # tried on a row that nobody saves
        except ValueError as error:
            raise ValidationError(f"It {error}") from None
        return api_key


@admin.register(Provider)
class ProviderAdmin(ModelAdmin):
    list_display = ("name", "kind", "address", "key", "models", "state")
    list_filter: ClassVar = ["kind", "is_enabled"]
    search_fields = ("name",)
    actions = None
    fieldsets: ClassVar = [
        (None, {"fields": [("name", "kind"), "base_url", ("key_setting", "key"), "is_enabled"]}),
        ("How it is spoken to", {"fields": [("dialect", "api_version"), "takes_max_tokens", "headers"]}),
        ("How long it may take", {"fields": [("answer_timeout_s", "stream_idle_s")]}),
    ]
    actions_detail: Sequence[Any] = ["set_key", "test"]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Sequence[str]:
        return ["name", "key"] if obj else ["key"]

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_delete_permission(request, obj) and not (obj and why_not_deleted(obj))

    def save_model(self, request: HttpRequest, obj: Provider, form: Any, change: bool) -> None:
        had_key = obj.sealed_key
        if change:
            set_key(obj, None, Provider.objects.get(pk=obj.pk).base_url)
        if had_key and not obj.sealed_key:
            warning(request, KEY_GONE)
        super().save_model(request, obj, form, change)

    @display(description="Address")
    def address(self, row: Provider) -> str:
        return account_of(row).base_url or "none"

    @display(description="Key")
    def key(self, row: Provider) -> str:
        if row.sealed_key:
            return "kept, encrypted"
        return f"from {row.key_setting}" if row.key_setting else "none yet: save, then set it above"

    @display(description="Models")
    def models(self, row: Provider) -> str:
        named = models_of(row)
        return f"{len(named)}" if named else "none"

    @display(description="State", label={"in use": "success", "off": "warning"})
    def state(self, row: Provider) -> str:
        if not row.is_enabled:
            return "off"
        return account_of(row).fault or "in use"

    @transaction.atomic
    def _keep_key(self, object_id: str, api_key: str) -> Provider:
        row = Provider.objects.select_for_update().get(pk=object_id)
        set_key(row, api_key, row.base_url)
        row.save(update_fields=["sealed_key"])
        return row

    @action(
        description="Set key",
        url_path="set-key",
        permissions=["change"],
        icon="key",
        dialog={
            "title": "Set the provider's key",
            "description": "It is kept encrypted, wins over a setting's, and is never shown again.",
            "form_class": KeyForm,
            "form_submit_text": "Set key",
        },
    )
    def set_key(self, request: HttpRequest, form: KeyForm, object_id: str) -> HttpResponse:
        row = self._keep_key(object_id, form.cleaned_data["api_key"])
        success(request, f"{row}: the key is {'kept' if row.sealed_key else 'forgotten'}.")
        return back_to(Provider, object_id)

    @action(
        description="Test",
        url_path="test",
        permissions=["change"],
        icon="network_check",
        dialog={
            "title": "Test this provider?",
            "description": "As it is saved, it is asked for its list of models, which is free, and its cheapest model "
            "for a word, which the provider bills and no budget counts: a few millionths of a dollar, mostly.",
            "form_class": TestForm,
            "form_submit_text": "Test",
        },
    )
    def test(self, request: HttpRequest, form: TestForm, object_id: str) -> HttpResponse:
        success(request, f"{provider_label(object_id)} {form.words}.")
        return back_to(Provider, object_id)
