"""Serializer fields that take a JSON value only if it has the right type, and never round it."""

import re
from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.exceptions import ValidationError

from spend.pricing.cost import DEAREST_PRICE_TICKS
from tenants.exact import MOST_INTEGER, exact_decimal, instant_string, read_instant
from tenants.money import TICKS_PER_TOKEN_AT_ONE_USD_PER_MILLION, TICKS_PER_USD, ticks_from_usd, usd_string


class Text(serializers.CharField):
    """A string as it was sent: nothing is trimmed off."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"trim_whitespace": False, **kwargs})

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        return super().to_internal_value(data)


class Choice(serializers.ChoiceField):
    def to_internal_value(self, data: Any) -> Any:
        if not isinstance(data, str):
            self.fail("invalid_choice", input=data)
        return super().to_internal_value(data)


class WholeNumber(serializers.IntegerField):
    def __init__(self, *, min_value: int = 0, max_value: int = MOST_INTEGER, **kwargs: Any) -> None:
        super().__init__(min_value=min_value, max_value=max_value, **kwargs)

    def to_internal_value(self, data: Any) -> int:
        if not isinstance(data, int) or isinstance(data, bool):
            self.fail("invalid")
        return data


class YesNo(serializers.BooleanField):
    def to_internal_value(self, data: Any) -> bool:
        if not isinstance(data, bool):
            self.fail("invalid", input=data)
        return data


def decimal_of(data: Any) -> Decimal:
    """As `exact_decimal`. Raises ValidationError."""
    try:
        return exact_decimal(data)
    except ValueError as error:
        raise ValidationError(f"{error}.") from error


@extend_schema_field({"type": "string", "format": "decimal", "example": "12.50"})
class Usd(serializers.Field[int, Any, str, Any]):
    """USD outside, as a decimal string; ticks inside."""

    ticks_per_unit = TICKS_PER_USD
    most_ticks: int | None = None

    def to_internal_value(self, data: Any) -> int:
        usd = decimal_of(data)
        if usd < 0:
            raise ValidationError("must not be negative.")
        try:
            ticks = ticks_from_usd(usd, self.ticks_per_unit)
        except ValueError as error:
            raise ValidationError(f"{error}.") from error
        if self.most_ticks is not None and ticks > self.most_ticks:
            raise ValidationError(f"must be at most {usd_string(self.most_ticks, self.ticks_per_unit)}.")
        return ticks

    def to_representation(self, value: int) -> str:
        return usd_string(value, self.ticks_per_unit)


@extend_schema_field({"type": "string", "format": "decimal", "example": "1.25"})
class UsdPerMillion(Usd):
    """USD per million tokens outside, with at most 4 decimals; ticks per token inside."""

    ticks_per_unit = TICKS_PER_TOKEN_AT_ONE_USD_PER_MILLION
    most_ticks = DEAREST_PRICE_TICKS


@extend_schema_field({"type": "string", "format": "decimal", "example": "0.8"})
class Share(serializers.Field[Decimal, Any, str, Any]):
    """A share of a limit: more than 0 (or `least`), at most 1, with at most 4 decimals."""

    def __init__(self, *, least: int | None = None, **kwargs: Any) -> None:
        self.least = least
        super().__init__(**kwargs)

    def to_internal_value(self, data: Any) -> Decimal:
        share = decimal_of(data)
        if not (0 < share <= 1 or share == self.least):
            raise ValidationError(f"must be {'greater than' if self.least is None else 'at least'} 0 and at most 1.")
        if share != round(share, 4):
            raise ValidationError("must have at most 4 decimals.")
        return share

    def to_representation(self, value: Decimal) -> str:
        return f"{value.normalize():f}"


class Instant(serializers.DateTimeField):
    """RFC 3339, with an offset: a time without one means a different instant to everyone."""

    def to_internal_value(self, data: Any) -> datetime:
        instant = read_instant(data)
        if instant is None:
            raise ValidationError(
                "must be a time as in RFC 3339, such as 2026-12-31T23:59:59Z (in a URL, write + as %2B)."
            )
        return instant

    def to_representation(self, value: datetime) -> str:
        return instant_string(value)


DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


def read_day(data: Any) -> date | None:
    try:
        return date.fromisoformat(data) if isinstance(data, str) and DAY.fullmatch(data) else None
    except ValueError:
        return None


class Day(serializers.DateField):
    def to_internal_value(self, data: Any) -> date:
        day = read_day(data)
        if day is None:
            raise ValidationError("must be a date such as 2026-12-31.")
        return day


@extend_schema_field(OpenApiTypes.STR)
class DayOrInstant(serializers.Field[date, Any, str, Any]):
    """A date, or a time as in RFC 3339."""

    def to_internal_value(self, data: Any) -> date | datetime:
        value = read_day(data) or read_instant(data)
        if value is None:
            raise ValidationError(
                "must be a date such as 2026-12-31, or a time such as 2026-12-31T23:59:59Z (write + as %2B)."
            )
        return value


def camel(name: str) -> str:
    """`limit_usd` as `limitUsd`; a trailing underscore, as in `from_`, keeps a name from being a keyword."""
    first, *rest = name.rstrip("_").split("_")
    return first + "".join(word.capitalize() for word in rest)


class StrictSerializer(serializers.Serializer[Any]):
    """Fields are named in Python's way here and in camelCase in JSON; a member without a field is an error."""

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        return {camel(name): _with_source(name, field) for name, field in super().get_fields().items()}

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, Mapping):
            writable = [name for name, field in self.fields.items() if not field.read_only]
            for name in data:
                if name not in writable:
                    raise ValidationError({name: [f"is not a field here; there are {', '.join(writable)}."]})
        return super().to_internal_value(data)


def _with_source(name: str, field: serializers.Field[Any, Any, Any, Any]) -> serializers.Field[Any, Any, Any, Any]:
    if field.source is None and camel(name) != name:
        field.source = name
    return field
