"""What the operators' pages have in common: amounts in USD, and pages that only show."""

from typing import Any, ClassVar

from django.db.models import DecimalField, Model
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString

from tenants.admin.forms import LadderInput, ShareInput, UsdInput
from tenants.fields import ShareFormField, TicksField
from tenants.money import usd_string

NOTHING = "–"


class ShowsUsd:
    """Ticks as USD, in forms and where they are only shown."""

    model: type[Model]
    formfield_overrides: ClassVar = {
        TicksField: {"widget": UsdInput},
        DecimalField: {"form_class": ShareFormField, "widget": ShareInput},
    }

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        ticks = [field for field in self.model._meta.fields if isinstance(field, TicksField)]
        self.readonly_preprocess_fields = {field.name: _as_usd(field) for field in ticks}


def _as_usd(field: TicksField) -> Any:
    """From the whole number that Django's display makes of a field in ticks."""
    return lambda shown: usd_string(int(shown), field.ticks_per_unit) if shown.lstrip("-").isdigit() else shown


class ShowsLadder:
    """A budget's further steps as rows, of which there are none until one is added."""

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if db_field.name == "further_steps":
            kwargs["widget"] = LadderInput
        return super().formfield_for_dbfield(db_field, request, **kwargs)  # type: ignore[misc]


class ReadOnly:
    """Rows that no page adds, changes or deletes."""

    def has_add_permission(self, *args: Any) -> bool:
        return False

    def has_change_permission(self, *args: Any) -> bool:
        return False

    def has_delete_permission(self, *args: Any) -> bool:
        return False


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


def dialog_link(url: str, text: str) -> SafeString:
    """A link that opens one of unfold's action dialogs from anywhere on a page."""
    return format_html(
        '<button type="button" class="text-link font-medium cursor-pointer" hx-get="{}" hx-target="#modal-content" '
        'hx-select="#dialog" x-on:htmx:after-on-load="openModal = true">{}</button>',
        url,
        text,
    )
