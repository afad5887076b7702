"""Forms of pages that may have been open for long: what their user did not touch is not written.

Hidden beside each field of a row that exists stands what the page showed of it. A field that still says so was not
touched, and keeps what is stored now. One that was touched, and that somebody else changed meanwhile to something
else, is an error that says who changed it; what was typed stays, and saved again it wins.
"""

from typing import Any, ClassVar

from django import forms
from django.core.exceptions import ValidationError
from django.forms.boundfield import BoundField
from django.utils.timezone import localtime

from tenants.trail.history import latest_edit


class ListHiddenInput(forms.HiddenInput):
    """Several values in one input, which stands there when there are none, too."""

    def format_value(self, value: Any) -> str:
        return ",".join(map(str, value or []))

    def value_from_datadict(self, data: Any, files: Any, name: str) -> list[str] | None:
        shown = data.get(name)
        return None if shown is None else [each for each in shown.split(",") if each]


class MergedForm(forms.ModelForm):  # type: ignore[type-arg]
    """See the module. Sent without what its page showed, it writes all that it says, as Django's forms do.

    Of fields in `last_wins`, which a user does not see, whoever saves last is right.
    """

    last_wins: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.stored_anew: dict[str, Any] = {}
        for name, field in self.fields.items():
            if isinstance(field, forms.ModelMultipleChoiceField):
                field.hidden_widget = ListHiddenInput
            field.show_hidden_initial = self._remembers(name, field)

    def add_initial_prefix(self, field_name: str) -> str:
        """It does not end in the field's name, by which unfold's script finds the fields that it numbers."""
        return f"{self.add_prefix(field_name)}-as-shown"

    def _remembers(self, name: str, field: forms.Field) -> bool:
        if self.is_bound:
            return self.add_initial_prefix(name) in self.data
        # Django loses what was shown of a field of several parts when the form comes back with an error.
        return not (self.instance._state.adding or field.disabled or isinstance(field, forms.MultiValueField))

    def _widget_data_value(self, widget: forms.Widget, html_name: str) -> Any:
        """Once a user was told what is stored now, that is what the page has shown."""
        if html_name in self.stored_anew:
            return self.stored_anew[html_name]
        return super()._widget_data_value(widget, html_name)  # type: ignore[misc]

    def clean(self) -> dict[str, Any]:
        super().clean()
        for name, field in self.fields.items():
            if field.show_hidden_initial and not self.instance._state.adding and not self.has_error(name):
                self._merge(name, self[name])
        return self.cleaned_data

    def _merge(self, name: str, bound: BoundField) -> None:
        field, stored = bound.field, bound.field.prepare_value(bound.initial)
        if name not in self.changed_data:
            self._keep(name, field, stored)
            return
        if name in self.last_wins:
            return
        shown = self._widget_data_value(field.hidden_widget(), bound.html_initial_name)
        if field.has_changed(bound.initial, shown) and field.has_changed(bound.initial, bound.data):
            self.add_error(name, self._who_changed(name))
            self.stored_anew[bound.html_initial_name] = stored

    def _keep(self, name: str, field: forms.Field, stored: Any) -> None:
        try:
            self.cleaned_data[name] = field.clean(stored)
        except ValidationError:  # what is stored would not be taken today: it stays, unwritten
            self.cleaned_data.pop(name, None)

    def _who_changed(self, name: str) -> str:
        what = "Somebody changed this"
        if found := latest_edit(self.instance, name):
            change, edit = found
            values = f"from {edit.old or 'nothing'} to {edit.new or 'nothing'}"
            what = f"{change.who} changed this {values} at {localtime(change.at):%H:%M}"
        return f"{what}, after this page was opened. What you typed is kept: save again to set it."
