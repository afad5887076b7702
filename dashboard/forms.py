"""What a page is to show, as its address has it: a span of days and hours, a filter of calls."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from django import forms
from django.core.validators import MaxValueValidator, MinValueValidator
from django.utils.dateparse import parse_datetime

from dashboard.date_spans import RANGE, Span, midnight
from dashboard.queries.calls import BY_COST, BY_TIME, CallFilter, Cursor
from spend.models import Outcome, Route
from spend.summaries.buckets import BUCKET_MINUTES
from tenants.models import ApiKey
from tenants.money import MAX_TICKS

FIRST_DAY = date(2000, 1, 1)
MOST_DAYS = 366
MOST_DAYS_WITH_HOURS = 2
IN_OUR_TIME = [MinValueValidator(FIRST_DAY), MaxValueValidator(date(2999, 12, 31))]


def _day(label: str) -> forms.DateField:
    widget = forms.DateInput(attrs={"type": "date", "min": f"{FIRST_DAY}"})
    return forms.DateField(label=label, required=False, widget=widget, validators=IN_OUR_TIME)


def _time(label: str) -> forms.TimeField:
    return forms.TimeField(label=label, required=False, widget=forms.TimeInput(attrs={"type": "time"}))


class DaysForm(forms.Form):
    """Days and times are the tenant's own. What is not valid is shown as such."""

    first, first_time = _day("From day"), _time("From time")
    last, last_time = _day("To day"), _time("To time")

    def clean(self) -> dict[str, Any]:
        found: dict[str, Any] = super().clean() or {}
        for day, at in (("first", "first_time"), ("last", "last_time")):
            if found.get(at) and not found.get(day) and day not in self.errors:
                self.add_error(day, "Choose the day of that time.")
        if found.get("first") and found.get("last") and _from(found) >= _until(found):
            self.add_error("last", "This is before the beginning.")
        return found


class RangeForm(DaysForm):
    """Any days so far, a year of them at most, or hours, where it is of a day or two: single calls tell those."""

    def __init__(self, *args: Any, today: date, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.today = today
        for name in ("first", "last"):
            self.fields[name].widget.attrs["max"] = f"{today}"
        for name in ("first_time", "last_time"):
            self.fields[name].widget.attrs["step"] = f"{BUCKET_MINUTES * 60}"

    def clean(self) -> dict[str, Any]:
        found = super().clean()
        if not found.get("first") and "first" not in self.errors:
            self.add_error("first", "Choose the day on which it begins.")
        if found.get("first") and found["first"] > self.today:
            self.add_error("first", "This day is yet to come.")
        if not self.errors:
            found["last"] = min(found.get("last") or self.today, self.today)
            self._check_length(found)
        return found

    def _check_length(self, found: dict[str, Any]) -> None:
        days = (found["last"] - found["first"]).days + 1
        if days > MOST_DAYS:
            self.add_error("last", f"Choose {MOST_DAYS} days at most.")
        for name in ("first_time", "last_time"):
            if found.get(name) and days > MOST_DAYS_WITH_HOURS:
                self.add_error(name, f"Hours can be chosen of {MOST_DAYS_WITH_HOURS} days at most.")
            elif found.get(name) and (found[name].minute % BUCKET_MINUTES or found[name].second):
                self.add_error(name, "Choose a whole quarter of an hour.")

    def span(self, zone: ZoneInfo) -> Span | None:
        """None where something is not valid."""
        if not self.is_valid():
            return None
        found = self.cleaned_data
        span = Span(RANGE, "", found["first"], found["last"], zone)
        span = replace(
            span,
            since=_instant(_from(found), zone) if found["first_time"] else None,
            until=_instant(_until(found), zone) if found["last_time"] else None,
        )
        return replace(span, label=span.named)


class CallFilterForm(DaysForm):
    """What is not valid filters nothing."""

    outcome = forms.ChoiceField(required=False, choices=[("", "Any outcome"), *Outcome.choices])
    route = forms.ChoiceField(required=False, choices=[("", "Any route"), *Route.choices])
    model = forms.ChoiceField(required=False)
    # As it was counted: ids of before they were trimmed at the door may begin or end with a blank.
    customer = forms.CharField(required=False, max_length=255, strip=False)
    conversation = forms.CharField(required=False, max_length=255, strip=False)

    key = forms.ChoiceField(label="API key", required=False)
    sort = forms.ChoiceField(required=False, choices=[("", "Newest first"), ("cost", "Dearest first")])

    def __init__(self, *args: Any, models: list[str], keys: Iterable[ApiKey], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["key"].choices = [("", "Any key"), *((str(key.pk), str(key)) for key in keys)]  # type: ignore[attr-defined]
        chosen = self.data.get("model", "")
        names = [*models, *([chosen] if chosen and chosen not in models else [])]
        self.fields["model"].choices = [("", "Any model"), *((name, name) for name in names)]  # type: ignore[attr-defined]

    def call_filter(self, zone: ZoneInfo) -> CallFilter | None:
        """None where something is not valid."""
        if not self.is_valid():
            return None
        found = self.cleaned_data
        named = {name: found[name] for name in ("outcome", "route", "model", "customer", "conversation", "key")}
        return CallFilter(
            starts_at=_instant(_from(found), zone) if found["first"] else None,
            ends_at=_instant(_until(found), zone) if found["last"] else None,
            **named,
        )


def _from(found: Mapping[str, Any]) -> datetime:
    return datetime.combine(found["first"], found.get("first_time") or time())


def _until(found: Mapping[str, Any]) -> datetime:
    """Up to that time and without it, or to the end of the day."""
    day, at = found["last"], found.get("last_time")
    return datetime.combine(day, at) if at else datetime.combine(day + timedelta(days=1), time())


def _instant(local: datetime, zone: ZoneInfo) -> datetime:
    """Of a day's beginning its first instant, whichever time the clocks show then."""
    return local.replace(tzinfo=zone).astimezone(UTC) if local.time() else midnight(local.date(), zone)


def cursor_text(cursor: Cursor | None) -> str:
    if cursor is None:
        return ""
    value, pk = cursor
    return f"{value.isoformat() if isinstance(value, datetime) else value}_{pk}"


def read_cursor(text: str, by: str = BY_TIME) -> Cursor | None:
    """The call that a page begins next to; None where the text is not one of ours, or of another order."""
    value, _, id_text = text.partition("_")
    try:
        pk = UUID(id_text)
        if by == BY_COST:
            return (int(value), pk) if value.isascii() and value.isdigit() and int(value) <= MAX_TICKS else None
        at = parse_datetime(value)
        return (at.astimezone(UTC), pk) if at is not None and at.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None
