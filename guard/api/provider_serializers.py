"""The bodies of `/api/providers`."""

from typing import Any

from django.core.exceptions import ValidationError as DjangoValidationError
from rest_framework import serializers
from rest_framework.exceptions import ValidationError

from guard.api.fields import Choice, StrictSerializer, Text, WholeNumber, YesNo, camel
from spend.models import Dialect, Provider, ProviderKind
from spend.models.providers import is_base_url
from spend.providers.accounts import set_key

MOST_S = 3600
NOT_COLUMNS = {"api_key"}


class Headers(serializers.DictField):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(child=Text(max_length=500, allow_blank=True), **kwargs)


class ProviderSerializer(StrictSerializer):
    """A provider. Its key is taken and never shown. What is left out stays as it is, or is the default's."""

    name = Text(required=False, help_text="As in the address.")
    kind = Choice(choices=ProviderKind.choices, required=False)
    base_url = Text(required=False, allow_blank=True, max_length=300, help_text="Empty: the setting beside the key's.")
    key_setting = Text(required=False, allow_blank=True, max_length=60, help_text="Such as GROQ_API_KEY.")
    api_key = Text(
        required=False,
        allow_blank=True,
        max_length=500,
        write_only=True,
        help_text="Kept encrypted; empty forgets it. It is forgotten, too, where the address gets another host.",
    )
    has_own_key = YesNo(read_only=True, help_text="Whether a key is kept.")
    dialect = Choice(choices=[("", "as the settings say, or chat"), *Dialect.choices], required=False)
    api_version = Text(required=False, allow_blank=True, max_length=40, help_text="Azure's.")
    takes_max_tokens = YesNo(required=False)
    answer_timeout_s = WholeNumber(min_value=1, max_value=MOST_S, required=False, allow_null=True)
    stream_idle_s = WholeNumber(min_value=1, max_value=MOST_S, required=False, allow_null=True)
    headers = Headers(required=False)
    is_enabled = YesNo(required=False)

    def validate_name(self, name: str) -> str:
        if name != self.context["name"]:
            raise ValidationError("must be the name in the address.")
        return name

    def validate_base_url(self, base_url: str) -> str:
        if base_url and not is_base_url(base_url):
            raise ValidationError("must be an http or https URL with a host, such as https://api.example.com/v1.")
        return base_url

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """By the model's own rules, on a copy: what is written is written by `save`."""
        row = self._changed(Provider.objects.filter(pk=self.context["name"]).first(), attrs)
        try:
            row.full_clean(validate_unique=False)
        except DjangoValidationError as error:
            raise ValidationError({camel(name): why for name, why in error.message_dict.items()}) from error
        return attrs

    def save(self, **_: Any) -> Provider:
        row = self._changed(self.instance, self.validated_data)
        row.save()
        return row

    def _changed(self, standing: Provider | None, attrs: dict[str, Any]) -> Provider:
        row = standing or Provider(name=self.context["name"])
        address_before = row.base_url
        for name in attrs.keys() - NOT_COLUMNS:
            setattr(row, name, attrs[name])
        try:
            set_key(row, attrs.get("api_key"), address_before)
        except ValueError as error:
            raise ValidationError({"apiKey": [str(error)]}) from error
        return row


class ProvidersSerializer(StrictSerializer):
    providers = ProviderSerializer(many=True)
