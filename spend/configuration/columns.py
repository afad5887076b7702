"""Columns of our models as a file has them: how each kind is read, and how it is shown.

Money is a decimal string of USD, a price one of USD per million tokens, an instant RFC 3339.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.db import models

from spend.configuration.places import Place, Problems, Refused
from spend.pricing.cost import DEAREST_PRICE_TICKS
from tenants.exact import exact_decimal
from tenants.fields import TicksField, TokenPriceField
from tenants.ladder import FurtherStep, steps_of, text_of
from tenants.models import percents_of
from tenants.money import ticks_from_usd, usd_string


class Column:
    """A column of text; the other kinds are below."""

    def __init__(self, field: Any) -> None:
        self.field = field

    def read(self, place: Place) -> Any:
        """The column's value. Raises Refused."""
        return None if self.field.null and place.value is None else self.read_value(place)

    def read_value(self, place: Place) -> Any:
        return place.text()

    def show(self, value: Any) -> Any:
        """The value as the file has it."""
        return None if value is None else self.show_value(value)

    def show_value(self, value: Any) -> Any:
        return value


class ChoiceColumn(Column):
    def read_value(self, place: Place) -> str:
        if self.field.blank and place.value == "":
            return ""
        return place.choice([value for value, _ in self.field.choices])

    def show_value(self, value: Any) -> str:
        return str(value)


class YesNoColumn(Column):
    def read_value(self, place: Place) -> bool:
        return place.yes_or_no()


class WholeNumberColumn(Column):
    def read_value(self, place: Place) -> int:
        return place.whole_number()


class ShareColumn(Column):
    def read_value(self, place: Place) -> Decimal:
        return _decimal(place)

    def show_value(self, value: Decimal) -> str:
        return f"{value.normalize():f}"


class TextsColumn(Column):
    """Texts by their names."""

    def read_value(self, place: Place) -> dict[str, str]:
        if not isinstance(place.value, dict):
            raise place.refused("must be names with texts")
        return {name: Place(place.under(str(name)), text).text() for name, text in place.value.items()}

    def show_value(self, value: dict[str, str]) -> dict[str, str]:
        return dict(sorted(value.items()))


class MoneyColumn(Column):
    def read_value(self, place: Place) -> int:
        try:
            ticks = ticks_from_usd(_decimal(place), self.field.ticks_per_unit)
        except ValueError as error:
            raise place.refused(str(error)) from None
        if ticks < 0:
            raise place.refused("must not be negative")
        if isinstance(self.field, TokenPriceField) and ticks > DEAREST_PRICE_TICKS:
            raise place.refused(f"must be at most {self.show(DEAREST_PRICE_TICKS)}")
        return ticks

    def show_value(self, value: int) -> str:
        return usd_string(value, self.field.ticks_per_unit)


class PercentsColumn(Column):
    """Text such as "50, 80, 100" in the database, a list of numbers in the file."""

    def read_value(self, place: Place) -> str:
        return ", ".join(str(each.whole_number()) for each in place.elements())

    def show_value(self, value: str) -> list[int]:
        return list(percents_of(value))


class StepsColumn(Column):
    """Text in the database, in the file a list such as `{from: "0.85", downgrades: 2}`."""

    def read_value(self, place: Place) -> str:
        try:
            return text_of(self._step_of(each) for each in place.elements())
        except ValueError as error:
            raise Refused([f"{place.path}: {error}"]) from None

    def _step_of(self, place: Place) -> FurtherStep:
        given = place.fields(("from", "downgrades", "max_tokens"), ("from",))
        counts = {name: each.whole_number() for name, each in given.items() if name != "from"}
        return FurtherStep(_decimal(given["from"]), **counts)

    def show_value(self, value: str) -> list[dict[str, Any]]:
        return [
            {"from": f"{step.share.normalize():f}"}
            | {name: count for name in ("downgrades", "max_tokens") if (count := getattr(step, name))}
            for step in steps_of(value)
        ]


def _decimal(place: Place) -> Decimal:
    try:
        return exact_decimal(place.value)
    except ValueError as error:
        raise place.refused(str(error)) from None


KINDS: list[tuple[type[models.Field[Any, Any]], type[Column]]] = [
    (TicksField, MoneyColumn),
    (models.BooleanField, YesNoColumn),
    (models.DecimalField, ShareColumn),
    (models.IntegerField, WholeNumberColumn),
    (models.JSONField, TextsColumn),
    (models.CharField, Column),
    (models.TextField, Column),
]


def _column_of(field: Any) -> Column:
    if field.name == "alert_percents":
        return PercentsColumn(field)
    if field.name == "further_steps":
        return StepsColumn(field)
    if field.choices:
        return ChoiceColumn(field)
    return next(column for kind, column in KINDS if isinstance(field, kind))(field)


@dataclass(frozen=True)
class Columns:
    """Columns of one model by their names in the file."""

    by_name: Mapping[str, Column]

    @classmethod
    def of(cls, model: type[models.Model], *names: str, **renamed: str) -> "Columns":
        attributes = {name: name for name in names} | renamed
        return cls({name: _column_of(model._meta.get_field(each)) for name, each in attributes.items()})

    def shown(self, row: models.Model) -> dict[str, Any]:
        return {name: column.show(getattr(row, column.field.attname)) for name, column in self.by_name.items()}

    def read(self, given: Mapping[str, Place]) -> dict[str, Any]:
        """What is given of these columns, by the names of the model's fields. Raises Refused, for all at once."""
        values, problems = {}, Problems()
        for name, column in self.by_name.items():
            if name in given:
                with problems.gathered():
                    values[column.field.attname] = column.read(given[name])
        problems.tell()
        return values

    def edits(self, row: models.Model, values: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
        """(name, from, to) as the file has them, of each value that is another than the row's."""
        found = []
        for name, column in self.by_name.items():
            if column.field.attname in values:
                old, new = column.show(getattr(row, column.field.attname)), column.show(values[column.field.attname])
                if old != new or row._state.adding:
                    found.append((name, old, new))
        return found

    def check(self, place: Place, row: models.Model) -> None:
        """By the model's own rules. Raises Refused that names the field in the file."""
        names = {column.field.name: name for name, column in self.by_name.items()}
        others = {field.name for field in row._meta.fields} - names.keys()
        problems = Problems()
        for check in (lambda: row.clean_fields(exclude=others), row.clean, row.validate_constraints):
            with problems.gathered():
                self._check(place, check, names)
        problems.tell()

    def _check(self, place: Place, check: Callable[[], None], names: Mapping[str, str]) -> None:
        try:
            check()
        except ValidationError as error:
            raise Refused(
                [
                    f"{place.under(names[field]) if field in names else place.path}: {message}"
                    for field, messages in _messages(error).items()
                    for message in messages
                ]
            ) from None


def _messages(error: ValidationError) -> dict[str, list[str]]:
    return error.message_dict if hasattr(error, "error_dict") else {NON_FIELD_ERRORS: error.messages}
