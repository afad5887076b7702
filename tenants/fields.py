"""Model fields that keep ticks in the database and show USD to people."""

from decimal import Decimal
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.db import models
from django.utils.text import capfirst

from tenants.money import (
    TICKS_PER_TOKEN_AT_ONE_USD_PER_MILLION,
    TICKS_PER_USD,
    ticks_from_usd,
    usd_string,
)


class UsdFormField(forms.DecimalField):
    """A form field in USD whose cleaned value is an integer in ticks."""

    def __init__(self, *, ticks_per_unit: int = TICKS_PER_USD, **kwargs: Any) -> None:
        self.ticks_per_unit = ticks_per_unit
        super().__init__(**kwargs)

    def prepare_value(self, value: Any) -> Any:
        return usd_string(value, self.ticks_per_unit) if isinstance(value, int) else value

    def clean(self, value: Any) -> int | None:
        usd = super().clean(value)
        if usd is None:
            return None
        try:
            return ticks_from_usd(usd, self.ticks_per_unit)
        except ValueError as error:
            raise ValidationError(f"This amount {error}.") from error

    def has_changed(self, initial: Any, data: Any) -> bool:
        return super().has_changed(
            Decimal(usd_string(initial, self.ticks_per_unit)) if isinstance(initial, int) else initial, data
        )


class TicksField(models.BigIntegerField):  # type: ignore[type-arg]
    """An amount in ticks; forms show and take it in USD."""

    ticks_per_unit = TICKS_PER_USD

    def formfield(self, **kwargs: Any) -> forms.Field | None:
        # BigIntegerField's bounds are in ticks and would be held against USD.
        field = UsdFormField(
            ticks_per_unit=self.ticks_per_unit,
            required=not self.blank,
            label=kwargs.get("label", capfirst(self.verbose_name)),
            help_text=kwargs.get("help_text", self.help_text),
            initial=self.default if self.has_default() else None,
        )
        if widget := kwargs.get("widget"):
            field.widget = widget() if isinstance(widget, type) else widget
        return field


class TokenPriceField(TicksField):
    """Ticks per token; forms show and take it in USD per million tokens."""

    ticks_per_unit = TICKS_PER_TOKEN_AT_ONE_USD_PER_MILLION


class NamesFormField(forms.CharField):
    """Names between commas; their cleaned value is a list of them, each once."""

    def __init__(self, *, empty: list[str] | None, **kwargs: Any) -> None:
        self.empty = empty
        super().__init__(required=False, **kwargs)

    def prepare_value(self, value: Any) -> Any:
        return ", ".join(value) if isinstance(value, list) else value

    def clean(self, value: Any) -> Any:
        names = [name.strip() for name in super().clean(value).split(",")]
        return list(dict.fromkeys(filter(None, names))) or self.empty

    def has_changed(self, initial: Any, data: Any) -> bool:
        return super().has_changed(self.prepare_value(initial), data)


def validate_names(value: Any) -> None:
    if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
        raise ValidationError("Must be a list of names.")


class NamesField(models.JSONField):
    """A list of names; forms show them between commas. Where it may be null, an empty form means that."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"default": list, "blank": True, "validators": [validate_names], **kwargs})

    def formfield(self, **kwargs: Any) -> forms.Field | None:
        field = NamesFormField(
            empty=None if self.null else [],
            label=kwargs.get("label", capfirst(self.verbose_name)),
            help_text=kwargs.get("help_text", self.help_text),
        )
        if widget := kwargs.get("widget"):
            field.widget = widget() if isinstance(widget, type) else widget
        return field
