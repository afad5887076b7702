"""The filter of the list of calls, as its address has it."""

from datetime import UTC, date, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from django import forms
from django.core.validators import MaxValueValidator, MinValueValidator
from django.utils.dateparse import parse_datetime

from dashboard.queries.calls import CallFilter, Cursor
from dashboard.spans import midnight
from spend.models import Outcome, Route

IN_OUR_TIME = [MinValueValidator(date(2000, 1, 1)), MaxValueValidator(date(2999, 12, 31))]


class CallFilterForm(forms.Form):
    """Days are the tenant's own. What is not valid is shown as such and filters nothing."""

    first = forms.DateField(
        label="From day", required=False, widget=forms.DateInput(attrs={"type": "date"}), validators=IN_OUR_TIME
    )
    last = forms.DateField(
        label="To day", required=False, widget=forms.DateInput(attrs={"type": "date"}), validators=IN_OUR_TIME
    )
    outcome = forms.ChoiceField(required=False, choices=[("", "Any outcome"), *Outcome.choices])
    route = forms.ChoiceField(required=False, choices=[("", "Any route"), *Route.choices])
    model = forms.ChoiceField(label="Served by", required=False)
    customer = forms.CharField(required=False, max_length=255)
    conversation = forms.CharField(required=False, max_length=255)

    def __init__(self, *args: Any, models: list[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        chosen = self.data.get("model", "")
        names = [*models, *([chosen] if chosen and chosen not in models else [])]
        self.fields["model"].choices = [("", "Any model"), *((name, name) for name in names)]  # type: ignore[attr-defined]
        self.fields["first"].widget.attrs["min"] = "2000-01-01"

    def call_filter(self, zone: ZoneInfo) -> CallFilter | None:
        """None where something is not valid."""
        if not self.is_valid():
            return None
        found = dict(self.cleaned_data)
        first, last = found.pop("first"), found.pop("last")
        return CallFilter(
            starts_at=midnight(first, zone) if first else None,
            ends_at=midnight(last + timedelta(days=1), zone) if last else None,
            **found,
        )


def cursor_text(cursor: Cursor | None) -> str:
    return f"{cursor[0].isoformat()}_{cursor[1]}" if cursor else ""


def read_cursor(text: str) -> Cursor | None:
    """The call that a page begins next to; None where the text is not one of ours."""
    at_text, _, id_text = text.partition("_")
    try:
        at, pk = parse_datetime(at_text), UUID(id_text)
        return (at.astimezone(UTC), pk) if at is not None and at.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None
