"""The audit trail."""

from collections.abc import Sequence
from typing import Any

from auditlog.models import LogEntry
from django.contrib import admin
from django.contrib.messages import success
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.dataclasses import UnfoldAction
from unfold.decorators import action, display
from unfold.paginator import InfinitePaginator

from tenants.admin.addresses import back_to
from tenants.admin.declared_filters import ModelAdmin
from tenants.admin.forms import ConfirmForm
from tenants.admin.mixins import NOTHING, ReadOnly
from tenants.models import Tenant
from tenants.trail.history import Edit, change_of
from tenants.trail.undo import is_undoable, undo


class UndoForm(ConfirmForm):
    """Nothing to fill in. Why it cannot be undone is said where the user asked for it."""

    tenant_id = ""

    def clean(self) -> dict[str, Any]:
        entry = LogEntry.objects.select_related("content_type").get(pk=self.object_id)
        try:
            self.tenant_id = undo(entry)
        except ValidationError as why_not:
            raise ValidationError(why_not.messages) from None
        return self.cleaned_data


@admin.register(LogEntry)
class TrailAdmin(ReadOnly, ModelAdmin):
    """The whole audit trail: who changed what, when, from what to what."""

    list_display = ("when", "who", "done", "edits")
    list_select_related = ("actor", "content_type")
    list_filter = ("action",)
    search_fields = ("object_repr", "actor__username")
    fields = ("when", "who", "done", "edits")
    actions_detail: Sequence[Any] = ["undo"]
    paginator = InfinitePaginator
    show_full_result_count = False

    @display(description="Who")
    def who(self, entry: LogEntry) -> str:
        return change_of(entry).who

    @display(description="When", ordering="timestamp")
    def when(self, entry: LogEntry) -> SafeString:
        """In the reader's time zone, which only their browser knows; without its help in UTC."""
        at = entry.timestamp
        return format_html('<time datetime="{}" data-reader>{} UTC</time>', at.isoformat(), f"{at:%Y-%m-%d %H:%M:%S}")

    @display(description="What")
    def done(self, entry: LogEntry) -> str:
        return change_of(entry).sentence

    def useful_actions(self, actions: list[UnfoldAction], object_id: str) -> list[UnfoldAction]:
        entry = LogEntry.objects.select_related("content_type").filter(pk=object_id).first()
        return actions if entry and is_undoable(entry) else self.without(actions, "undo")

    def has_undo_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return bool(request.user.has_perm("tenants.change_tenant"))

    @action(
        description="Undo",
        url_path="undo",
        permissions=["undo"],
        icon="undo",
        dialog={
            "title": "Undo this change?",
            "description": "What it changed is changed back, as a new change in the trail. Calls already made stay.",
            "form_class": UndoForm,
            "form_submit_text": "Change it back",
        },
    )
    def undo(self, request: HttpRequest, form: UndoForm, object_id: str) -> HttpResponse:
        success(request, "It is changed back.")
        return back_to(Tenant, form.tenant_id)

    @display(description="Change")
    def edits(self, entry: LogEntry) -> str:
        return "; ".join(map(_told, change_of(entry).edits))


def _told(edit: Edit) -> str:
    """As the tenant's own trail tells it: what was nothing before is not named."""
    return f"{edit.field}: {f'{edit.old} → ' if edit.old else ''}{edit.new or NOTHING}"
