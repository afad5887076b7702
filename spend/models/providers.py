"""Providers: accounts behind a base URL, each with how it is spoken to and where its key comes from.

Models and the ledger have a provider's name and no reference to its row: what was billed outlives it.
"""

import re
from typing import Any
from urllib.parse import urlsplit

from django.apps import apps
from django.apps.registry import Apps
from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models

from spend.models.vocabulary import DEMO, OPENAI, XAI, Dialect, ProviderKind
from tenants.targets import WHERE_TO_ALLOW, literal_address, refusal_of

PROVIDER_NAME_LENGTH = 40
KEY_SUFFIX, URL_SUFFIX = "_API_KEY", "_BASE_URL"
NOT_PROVIDERS = {"HELICONE_API_KEY"}
MOST_HEADERS = 20
HEADER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$%&'*+.^_`|~-]{0,99}")
HEADERS_OF_OURS = frozenset(
    [
        "accept-encoding", "api-key", "authorization", "connection", "content-encoding", "content-length",
        "content-type", "cookie", "expect", "host", "keep-alive", "proxy-authorization", "te", "trailer",
        "transfer-encoding", "upgrade", "x-api-key",
    ]
)  # fmt: skip
"""What the guard sends itself, what belongs to a connection, and what would be a key that anybody could read."""


NO_BASE_URL = "Must be an http or https URL with a host, such as https://api.example.com/v1."


def is_base_url(text: str) -> bool:
    """As `guard.config.environment.http_url`, and without a login, which everybody would see."""
    try:
        url = urlsplit(text)
        is_whole = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0 and "@" not in url.netloc
    except ValueError:
        return False
    return is_whole and not url.query and not url.fragment and text.isascii() and text.isprintable() and " " not in text


def validate_headers(value: Any) -> None:
    if not isinstance(value, dict) or len(value) > MOST_HEADERS:
        raise ValidationError(f'Must be like {{"X-Title": "shop"}}, {MOST_HEADERS} headers at most.')
    for name, text in value.items():
        if not HEADER_NAME.fullmatch(name) or name.lower() in HEADERS_OF_OURS:
            raise ValidationError(f"{name!r} is no header that can be set here.")
        if not isinstance(text, str) or not text.isascii() or not text.isprintable() or len(text) > 500:
            raise ValidationError(f"{name}: must be printable ASCII, 500 characters at most.")


class Provider(models.Model):
    """An account behind a base URL. The two that settings fill have their address and key from there."""

    name = models.CharField(
        primary_key=True,
        max_length=PROVIDER_NAME_LENGTH,
        validators=[RegexValidator(r"^[a-z0-9][a-z0-9._-]*\Z", "Small letters, digits and . _ - only.")],
        help_text="What models, calls and the ledger call it. It stays.",
    )
    kind = models.CharField(max_length=10, choices=ProviderKind, default=ProviderKind.COMPATIBLE)
    base_url = models.CharField(
        "base URL",
        max_length=300,
        blank=True,
        help_text="Mostly ends in /v1; Azure's, with an API version, is https://NAME.openai.azure.com. "
        "Empty: the setting beside the key's, XAI_BASE_URL beside XAI_API_KEY.",
    )
    key_setting = models.CharField(
        "the key's setting",
        max_length=60,
        blank=True,
        validators=[RegexValidator(r"^[A-Z][A-Z0-9_]*_API_KEY\Z", "A setting's name, which ends in _API_KEY.")],
        help_text="The name of the setting, in the guard's environment, that has the key. A key that is kept wins.",
    )
    sealed_key = models.TextField("key", blank=True, editable=False)
    dialect = models.CharField(
        max_length=9,
        blank=True,
        choices=Dialect,
        help_text="How it is spoken to. Empty: as the settings say where the address comes from them, else chat.",
    )
    api_version = models.CharField(
        "API version",
        max_length=40,
        blank=True,
        validators=[RegexValidator(r"^[A-Za-z0-9._-]+\Z", "Letters, digits and . _ - only.")],
        help_text="Azure's api-version, such as 2025-04-01-preview: models are then deployments in the path. "
        "Empty for Azure's own /openai/v1.",
    )
    takes_max_tokens = models.BooleanField(
        "takes max_tokens",
        default=False,
        help_text="It knows a maximum by its old name only: without one that it heeds, an answer may cost more "
        "than is held.",
    )
    answer_timeout_s = models.PositiveIntegerField(
        "answer timeout in seconds",
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(3600)],
        help_text="Before a first token, or a whole answer, where the model has no limit of its own. "
        "Empty: PROVIDER_TIMEOUT_SECONDS.",
    )
    stream_idle_s = models.PositiveIntegerField(
        "stream's pause in seconds",
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(3600)],
        help_text="The longest between two tokens. Empty: STREAM_IDLE_SECONDS.",
    )
    headers = models.JSONField(
        default=dict,
        blank=True,
        help_text='Sent with every request, such as {"X-Title": "shop"}. No secrets: whoever may look here sees them.',
    )
    is_enabled = models.BooleanField("is in use", default=True, help_text="Else its models are passed over.")

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        try:
            validate_headers(self.headers)  # here: a field's validators pass over what is empty, a list, too
        except ValidationError as error:
            raise ValidationError({"headers": error.messages}) from error
        if self.name == DEMO:
            raise ValidationError({"name": f"{DEMO} is what stands in where no key is set."})
        if self.key_setting in NOT_PROVIDERS:
            raise ValidationError({"key_setting": f"{self.key_setting} is no model provider's."})
        if not self.base_url and not self.key_setting:
            raise ValidationError({"base_url": "Is needed, where no setting has it."})
        if self.api_version and self.kind != ProviderKind.AZURE:
            raise ValidationError({"api_version": "Only Azure has one."})
        if self.base_url:
            self._check_address()

    def _check_address(self) -> None:
        """As an alert channel's: where a name leads is looked up at each connection."""
        if not is_base_url(self.base_url):
            raise ValidationError({"base_url": NO_BASE_URL})
        if refusal := self.refused_literal():
            raise ValidationError({"base_url": refusal})

    def refused_literal(self) -> str:
        """Why an address that was entered as a number may not be connected to; else empty."""
        host = urlsplit(self.base_url).hostname or ""
        address = literal_address(host)
        kind = address and refusal_of(host, address, settings.ALLOW_PRIVATE_TARGETS)
        return f"{host} is {kind}: {WHERE_TO_ALLOW}" if kind else ""

    @property
    def url_setting(self) -> str:
        """The setting that has the address, or says where the key of `key_setting` may be sent."""
        return self.key_setting.removesuffix(KEY_SUFFIX) + URL_SUFFIX if self.key_setting else ""

    @property
    def has_own_key(self) -> bool:
        """Whether one is kept."""
        return bool(self.sealed_key)

    @property
    def is_of_settings(self) -> bool:
        """Whether it is one of the two that are always there."""
        return self.name in SETTINGS_PROVIDERS


SETTINGS_PROVIDERS = {
    XAI: {"kind": ProviderKind.XAI, "key_setting": "XAI_API_KEY"},
    OPENAI: {"kind": ProviderKind.OPENAI, "key_setting": "OPENAI_API_KEY"},
}


def provider_names() -> list[str]:
    """What a model can name."""
    return [*Provider.objects.values_list("name", flat=True), DEMO]


def create_providers(apps: Apps = apps, **_signal: Any) -> None:
    """The two that settings fill: after every migration, and after a flush, as the roles are made.

    `apps` are those of the schema that there is: one that was migrated back to may have no providers yet.
    """
    if "provider" in apps.all_models["spend"]:
        model = apps.get_model("spend", "Provider")
        rows = [model(name=name, **fields) for name, fields in SETTINGS_PROVIDERS.items()]
        model._default_manager.bulk_create(rows, ignore_conflicts=True)
