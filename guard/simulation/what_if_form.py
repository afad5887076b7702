"""The form of a question "what if": today's settings, to be changed and asked about."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from hashlib import sha256
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.forms.boundfield import BoundField

from guard.simulation.what_if import DAYS, Settings, binding
from spend.models import CatalogueModel
from tenants.budgets import TERMS
from tenants.configured import DEFAULT_HARD_CAP, DEFAULT_SOFT_CAP
from tenants.fields import UsdFormField, refuse_commas
from tenants.models import ANY_MODEL, SMALLEST_CAP, Budget, Scope, Tenant
from tenants.money import usd_string
from tenants.periods import Period

Name = tuple[str, str]
USUAL: tuple[Name, ...] = (
    (Scope.TENANT, Period.DAY),
    (Scope.CUSTOMER, Period.DAY),
    (Scope.CONVERSATION, Period.TOTAL),
)
"""Budgets that can be asked about whether there are such or not."""
WHOSE = {
    Scope.TENANT: "All calls",
    Scope.KEY: "Each API key",
    Scope.CUSTOMER: "Each customer",
    Scope.CONVERSATION: "Each conversation",
}
PERIODS = {Period.DAY: "a day", Period.WEEK: "a week", Period.MONTH: "a month", Period.TOTAL: "in total"}
AS_TODAY, NONE = "", "-"
KEPT = ("reserve", "further_steps")
"""Terms of a budget that are not asked about, and stay."""


class PercentField(forms.DecimalField):
    """A percentage of a limit, such as 80; its value is the share."""

    def __init__(self, **kwargs: Any) -> None:
        bounds = [MinValueValidator(SMALLEST_CAP, "More than nothing."), MaxValueValidator(1, "At most 100 percent.")]
        super().__init__(required=False, validators=bounds, **kwargs)

    def prepare_value(self, value: Any) -> Any:
        return f"{(value * 100).normalize():f}" if isinstance(value, Decimal) else value

    def to_python(self, value: Any) -> Decimal | None:  # type: ignore[override]
        refuse_commas(value)
        percent = super().to_python(str(value or "").strip().removesuffix("%").strip())
        if percent is None:
            return None
        if not percent.is_finite() or abs(percent.adjusted()) > 4 or percent != round(percent, 2):
            raise ValidationError("A number such as 80, with at most two decimals.")
        return percent / 100


@dataclass(frozen=True)
class Row:
    """A budget's fields, and what it is today, where the form says something else."""

    title: str
    key: str
    limit: BoundField
    soft: BoundField
    hard: BoundField
    today: str

    @property
    def fields(self) -> list[BoundField]:
        return [self.limit, self.soft, self.hard]


class WhatIfForm(forms.Form):
    """Sent by GET: it asks and changes nothing, and its address can be kept."""

    days = forms.TypedChoiceField(
        label="Over the last", choices=[(days, f"{days} days") for days in DAYS], coerce=int, initial=30
    )
    primary = forms.ChoiceField(label="Calls go to")
    cheaper = forms.ChoiceField(label="Near the limit, they move to", required=False)

    def __init__(self, tenant: Tenant, today: Settings, data: Mapping[str, Any] | None) -> None:
        super().__init__(data, label_suffix="")
        self.tenant, self.today = tenant, today
        self.standing: dict[Name, Budget] = {(row.scope, row.period): row for row in today.budgets}
        for name in dict.fromkeys([*USUAL, *self.standing]):
            self._add_budget(name, self.standing.get(name))
        self._add_models()

    def _add_budget(self, name: Name, row: Budget | None) -> None:
        title, key = _title(name), _key(name)
        limit = UsdFormField(
            label=f"{title}: limit in USD",
            required=False,
            initial=row.limit_ticks if row else None,
            validators=[MinValueValidator(0, "Not below nothing.")],
        )
        soft, hard = (row.soft_cap, row.hard_cap) if row else (DEFAULT_SOFT_CAP, DEFAULT_HARD_CAP)
        self.fields[f"limit-{key}"] = limit
        self.fields[f"soft-{key}"] = PercentField(label=f"{title}: cheaper models from, percent", initial=soft)
        self.fields[f"hard-{key}"] = PercentField(label=f"{title}: calls refused at, percent", initial=hard)
        for part in ("limit", "soft", "hard"):
            self.fields[f"{part}-{key}"].widget = forms.TextInput({"inputmode": "decimal", "autocomplete": "off"})

    def _add_models(self) -> None:
        enabled = list(
            CatalogueModel.objects.filter(is_enabled=True, makes_embeddings=False).values_list("pk", flat=True)
        )
        names = [(name, name) for name in dict.fromkeys([*self.today.route, *sorted(enabled)])]
        self.fields["primary"].choices = names  # type: ignore[attr-defined]
        self.fields["primary"].initial = self.today.route[0]
        rules = ", ".join(to for _, to in self.today.downgrades) or "no other model"
        self.fields["cheaper"].choices = [(AS_TODAY, f"as today: {rules}"), (NONE, "no other model"), *names]  # type: ignore[attr-defined]

    def rows(self) -> Iterator[Row]:
        for name in dict.fromkeys([*USUAL, *self.standing]):
            key = _key(name)
            limit, soft, hard = (self[f"{part}-{key}"] for part in ("limit", "soft", "hard"))
            is_other = self.is_bound and any(map(_is_other, (limit, soft, hard)))
            yield Row(_title(name), key, limit, soft, hard, _terms(self.standing.get(name)) if is_other else "")

    def clean(self) -> dict[str, Any]:
        found = super().clean() or {}
        for name in dict.fromkeys([*USUAL, *self.standing]):
            key, row = _key(name), self.standing.get(name)
            soft = found.get(f"soft-{key}") or (row and row.soft_cap)
            hard = found.get(f"hard-{key}") or (row and row.hard_cap)
            if soft and hard and soft > hard:
                self.add_error(f"soft-{key}", "Not above where calls are refused.")
            if hard and row and row.reserve >= hard:
                self.add_error(f"hard-{key}", f"More than the reserve, which is {_percent(row.reserve)}.")
            if soft and hard and row and (why := _why_no_ladder(row, soft, hard)):
                self.add_error(f"soft-{key}", why)
        return found

    def settings(self) -> Settings:
        """Of a valid form."""
        found, today = self.cleaned_data, self.today
        route = tuple(dict.fromkeys([found["primary"], *today.route]))
        cheaper = found["cheaper"]
        downgrades = today.downgrades if cheaper == AS_TODAY else () if cheaper == NONE else ((ANY_MODEL, cheaper),)
        return Settings(tuple(self._budgets()), today.route if route == today.route else route, downgrades)

    def _budgets(self) -> Iterator[Budget]:
        for name in dict.fromkeys([*USUAL, *self.standing]):
            key, row, found = _key(name), self.standing.get(name), self.cleaned_data
            if (limit_ticks := found.get(f"limit-{key}")) is None:
                continue
            hard = found.get(f"hard-{key}") or (row.hard_cap if row else DEFAULT_HARD_CAP)
            soft = found.get(f"soft-{key}") or min(row.soft_cap if row else DEFAULT_SOFT_CAP, hard)
            kept = {each: getattr(row, each) for each in KEPT} if row else {}
            yield Budget(scope=name[0], period=name[1], limit_ticks=limit_ticks, soft_cap=soft, hard_cap=hard, **kept)

    def changes(self) -> list[str]:
        """What saving would change, in words."""
        wanted = self.settings()
        now = {(row.scope, row.period): row for row in binding(wanted.budgets, self.tenant)}
        found = [
            f"{_title(name)}: {_terms(self.standing.get(name))} → {_terms(now.get(name))}"
            for name in dict.fromkeys([*self.standing, *now])
            if _terms(self.standing.get(name)) != _terms(now.get(name))
        ]
        if wanted.route != self.today.route:
            found.append(f"Route: {', '.join(self.today.route)} → {', '.join(wanted.route)}")
        if wanted.downgrades != self.today.downgrades:
            found.append(f"Near the limit: {_rules(self.today)} → {_rules(wanted)}")
        return found


def _why_no_ladder(row: Budget, soft: Decimal, hard: Decimal) -> str:
    """Why its further steps do not go with these caps; nothing where they do."""
    asked = Budget(soft_cap=soft, hard_cap=hard, further_steps=row.further_steps)
    try:
        asked.clean()
    except ValidationError as error:
        return " ".join(error.messages)
    return ""


def _is_other(part: BoundField) -> bool:
    return part.field.has_changed(part.initial, part.value())


def digest_of(settings: Settings) -> str:
    """Of what somebody was shown, to see whether it still stands when they save."""
    rows = sorted((row.scope, row.period, *(str(getattr(row, name)) for name in TERMS)) for row in settings.budgets)
    return sha256(repr((rows, settings.route, settings.downgrades)).encode()).hexdigest()


def _key(name: Name) -> str:
    return f"{name[0]}-{name[1]}"


def _title(name: Name) -> str:
    return f"{WHOSE[Scope(name[0])]}, {PERIODS[Period(name[1])]}"


def _percent(share: Decimal) -> str:
    return f"{(share * 100).normalize():f} %"


def _terms(row: Budget | None) -> str:
    if row is None:
        return "no limit"
    refused = "" if row.hard_cap == 1 else f", refused at {_percent(row.hard_cap)}"
    return f"${usd_string(row.limit_ticks)}, cheaper from {_percent(row.soft_cap)}{refused}"


def _rules(settings: Settings) -> str:
    return ", ".join(
        f"{'any model' if source == ANY_MODEL else source} to {to}" for source, to in settings.downgrades
    ) or ("no other model")
