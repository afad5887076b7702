"""What the operators' dialogs ask for."""

from datetime import datetime
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator
from django.template.loader import render_to_string
from django.utils import timezone
from unfold.forms import BaseDialogForm
from unfold.widgets import (
    UnfoldAdminSelect2Widget,
    UnfoldAdminSelectWidget,
    UnfoldAdminSplitDateTimeWidget,
    UnfoldAdminTextInputWidget,
)

from tenants.fields import UsdFormField
from tenants.models import Tenant, time_zones


class UsdInput(UnfoldAdminTextInputWidget):
    """An amount in USD. Text, not `type=number`: that loses "5.00" for "5" and changes under a mouse wheel."""

    def __init__(self, attrs: dict[str, Any] | None = None) -> None:
        super().__init__({"inputmode": "decimal", "autocomplete": "off", "class": "max-w-32", **(attrs or {})})


class ShareInput(UnfoldAdminTextInputWidget):
    """A share such as 0.8."""

    def __init__(self, attrs: dict[str, Any] | None = None) -> None:
        super().__init__({"inputmode": "decimal", "autocomplete": "off", "class": "max-w-24", **(attrs or {})})

    def format_value(self, value: Any) -> str | None:
        """0.8 as it was entered, not 0.8000 as it is stored."""
        shown: str | None = super().format_value(value)
        return shown.rstrip("0").rstrip(".") if shown and "." in shown else shown


class LadderInput(UnfoldAdminTextInputWidget):
    """A ladder's further steps. Text, of which the script makes a row a step, and a button to add one."""

    def __init__(self, attrs: dict[str, Any] | None = None) -> None:
        super().__init__({"autocomplete": "off", "data-ladder": "", "class": "min-w-72", **(attrs or {})})


class TenantForm(forms.ModelForm[Tenant]):
    """A time zone that was taken once is no error of who changes something else."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        zone = self.fields.get("time_zone")
        if isinstance(zone, ZoneField):
            zone.stored = self.instance.time_zone

    def _get_validation_exclusions(self) -> set[str]:
        excluded: set[str] = super()._get_validation_exclusions()  # type: ignore[misc]  # Django's, not in its types
        is_kept = not self.instance._state.adding and "time_zone" not in self.changed_data
        return excluded | {"time_zone"} if is_kept else excluded


ELSEWHERE = ("Etc/", "SystemV/", "US/", "posix/", "right/")


def places() -> list[str]:
    """The zones that are named after a place, and UTC."""
    named = (name for name in time_zones() if "/" in name and not name.startswith(ELSEWHERE))
    return ["UTC", *sorted(named)]


class ZoneSelect(UnfoldAdminSelect2Widget):
    """With the zone that is stored, though it may not be on the list."""

    def optgroups(self, name: str, value: list[str], attrs: dict[str, Any] | None = None) -> Any:
        known = dict[str, str](self.choices)  # type: ignore[has-type]
        self.choices = [*known.items(), *((each, each) for each in value if each and each not in known)]
        return super().optgroups(name, value, attrs)


class ZoneField(forms.ChoiceField):
    """A time zone, picked from a list that can be searched. One that is `stored` can be kept whatever it is."""

    widget = ZoneSelect
    stored = ""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(choices=lambda: [(name, name.replace("_", " ")) for name in places()], **kwargs)
        self.error_messages["invalid_choice"] = "%(value)s is no time zone of a place: pick one from the list."

    def valid_value(self, value: Any) -> bool:
        return super().valid_value(value) or value == self.stored or value in time_zones()


class DialogForm(BaseDialogForm):
    """unfold's, which shows no error but a field's own."""

    def render_before_template(self) -> str:
        errors = {"errors": self.non_field_errors()} if self.is_bound else {}
        return super().render_before_template() + render_to_string("unfold/helpers/messages/error.html", errors)


class ConfirmForm(DialogForm):
    """Nothing to fill in: the dialog's text says it all. Being a form, it changes by POST only."""


class IssueKeyForm(DialogForm):
    name = forms.CharField(
        max_length=100, widget=UnfoldAdminTextInputWidget, help_text="Which agent or system will use it."
    )
    expires_at = forms.SplitDateTimeField(
        required=False,
        widget=UnfoldAdminSplitDateTimeWidget,
        label="Expires at (UTC)",
        help_text="Empty: it is valid until it is revoked.",
    )

    def clean_expires_at(self) -> datetime | None:
        expires_at: datetime | None = self.cleaned_data["expires_at"]
        if expires_at and expires_at <= timezone.now():
            raise ValidationError("This is in the past.")
        return expires_at


class RotateKeyForm(DialogForm):
    overlap_hours = forms.TypedChoiceField(
        label="The old key works on for",
        coerce=int,
        choices=[(0, "no time: it ends at once"), (1, "an hour"), (24, "a day"), (168, "a week")],
        initial=24,
        widget=UnfoldAdminSelectWidget,
    )


class TopUpForm(DialogForm):
    amount_ticks = UsdFormField(
        label="Amount (USD)", widget=UsdInput, validators=[MinValueValidator(1, "This must be more than nothing.")]
    )
