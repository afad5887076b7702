"""What the operators' dialogs ask for."""

from datetime import datetime
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator
from django.utils import timezone
from unfold.forms import BaseDialogForm
from unfold.widgets import UnfoldAdminSplitDateTimeWidget, UnfoldAdminTextInputWidget

from tenants.fields import UsdFormField
from tenants.models import Tenant


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


class TenantForm(forms.ModelForm[Tenant]):
    """A time zone that was taken once is no error of who changes something else."""

    def _get_validation_exclusions(self) -> set[str]:
        excluded: set[str] = super()._get_validation_exclusions()  # type: ignore[misc]  # Django's, not in its types
        is_kept = not self.instance._state.adding and "time_zone" not in self.changed_data
        return excluded | {"time_zone"} if is_kept else excluded


class ConfirmForm(BaseDialogForm):
    """Nothing to fill in: the dialog's text says it all. Being a form, it changes by POST only."""


class IssueKeyForm(BaseDialogForm):
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


class TopUpForm(BaseDialogForm):
    amount_ticks = UsdFormField(
        label="Amount (USD)", widget=UsdInput, validators=[MinValueValidator(1, "This must be more than nothing.")]
    )
