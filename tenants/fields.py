"""Model fields that keep ticks in the database and show USD to people."""

from collections.abc import Sequence
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


def refuse_commas(typed: Any) -> None:
    """Whether 0,50 is half or fifty and 1,000 one or a thousand, depends on who typed it. Raises ValidationError."""
    if isinstance(typed, str) and "," in typed:
        raise ValidationError(f"Write it with a point for decimals and no commas: {_without_commas(typed)}.")


def _without_commas(typed: str) -> str:
    """As it was most likely meant: 0,50 as 0.50, and 1,000.50 as 1000.50."""
    head, _, decimals = typed.strip().rpartition(",")
    has_decimals = "," not in head and "." not in typed and len(decimals) != 3
    return f"{head}.{decimals}" if has_decimals else typed.strip().replace(",", "")


class ShareFormField(forms.DecimalField):
    """A share of something, as a fraction such as 0.8; "80 %" is taken, too."""

    def to_python(self, value: Any) -> Decimal | None:  # type: ignore[override]
        typed = str(value).strip()
        if typed.endswith("%"):
            percent = super().to_python(typed.removesuffix("%").strip())
            return None if percent is None else percent / 100
        refuse_commas(value)
        share = super().to_python(value)
        if share is not None and share > 1:
            example = f": for {share:f} % write {share / 100:f}" if share <= 100 else ""
            raise ValidationError(f"This is a fraction of the limit, at most 1{example}.")
        return share


class UsdFormField(forms.DecimalField):
    """A form field in USD whose cleaned value, which its validators are given, is an integer in ticks."""

    def __init__(self, *, ticks_per_unit: int = TICKS_PER_USD, validators: Sequence[Any] = (), **kwargs: Any) -> None:
        self.ticks_per_unit, self.of_ticks = ticks_per_unit, validators
        super().__init__(**kwargs)

    def prepare_value(self, value: Any) -> Any:
        return usd_string(value, self.ticks_per_unit) if isinstance(value, int) else value

    def to_python(self, value: Any) -> Decimal | None:  # type: ignore[override]
        refuse_commas(value)
        return super().to_python(value)

    def clean(self, value: Any) -> int | None:
        usd = super().clean(value)
        if usd is None:
            return None
        try:
            ticks = ticks_from_usd(usd, self.ticks_per_unit)
        except ValueError as error:
            raise ValidationError(f"This amount {error}.") from error
        for validate in self.of_ticks:
            validate(ticks)
        return ticks

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
