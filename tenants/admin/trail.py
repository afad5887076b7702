"""The audit trail."""

from auditlog.models import LogEntry
from django.contrib import admin
from unfold.decorators import display
from unfold.paginator import InfinitePaginator

from tenants.admin.declared_filters import ModelAdmin
from tenants.admin.mixins import NOTHING, ReadOnly
from tenants.history import Edit, change_of


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
