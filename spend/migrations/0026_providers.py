from typing import Any

import django.core.validators
import django.db.models
from django.db import migrations


class WidenOnPostgres(migrations.AlterField):
    """SQLite keeps no length, and Django would copy all of the ledger to change one."""

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        if schema_editor.connection.vendor == "postgresql":
            super().database_forwards(app_label, schema_editor, from_state, to_state)

    def database_backwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        self.database_forwards(app_label, schema_editor, from_state, to_state)


class Migration(migrations.Migration):
    dependencies = [("spend", "0025_steps_of_ladders")]

    operations = [
        migrations.CreateModel(
            name="Provider",
            fields=[
                (
                    "name",
                    django.db.models.CharField(
                        help_text="What models, calls and the ledger call it. It stays.",
                        max_length=40,
                        primary_key=True,
                        serialize=False,
                        validators=[
                            django.core.validators.RegexValidator(
                                "^[a-z0-9][a-z0-9._-]*\\Z", "Small letters, digits and . _ - only."
                            )
                        ],
                    ),
                ),
                (
                    "kind",
                    django.db.models.CharField(
                        choices=[
                            ("compatible", "OpenAI-compatible"),
                            ("xai", "xAI"),
                            ("openai", "OpenAI"),
                            ("azure", "Azure OpenAI"),
                            ("openrouter", "OpenRouter"),
                        ],
                        default="compatible",
                        max_length=10,
                    ),
                ),
                (
                    "base_url",
                    django.db.models.CharField(
                        blank=True,
                        help_text="Mostly ends in /v1; Azure's, with an API version, is https://NAME.openai.azure.com. Empty: the setting beside the key's, XAI_BASE_URL beside XAI_API_KEY.",
                        max_length=300,
                        verbose_name="base URL",
                    ),
                ),
                (
                    "key_setting",
                    django.db.models.CharField(
                        blank=True,
                        help_text="The name of the setting, in the guard's environment, that has the key. A key that is kept wins.",
                        max_length=60,
                        validators=[
                            django.core.validators.RegexValidator(
                                "^[A-Z][A-Z0-9_]*_API_KEY\\Z", "A setting's name, which ends in _API_KEY."
                            )
                        ],
                        verbose_name="the key's setting",
                    ),
                ),
                ("sealed_key", django.db.models.TextField(blank=True, editable=False, verbose_name="key")),
                (
                    "dialect",
                    django.db.models.CharField(
                        blank=True,
                        choices=[("chat", "chat completions"), ("responses", "responses")],
                        help_text="How it is spoken to. Empty: as the settings say where the address comes from them, else chat.",
                        max_length=9,
                    ),
                ),
                (
                    "api_version",
                    django.db.models.CharField(
                        blank=True,
                        help_text="Azure's api-version, such as 2025-04-01-preview: models are then deployments in the path. Empty for Azure's own /openai/v1.",
                        max_length=40,
                        validators=[
                            django.core.validators.RegexValidator(
                                "^[A-Za-z0-9._-]+\\Z", "Letters, digits and . _ - only."
                            )
                        ],
                        verbose_name="API version",
                    ),
                ),
                (
                    "takes_max_tokens",
                    django.db.models.BooleanField(
                        default=False,
                        help_text="It knows a maximum by its old name only: without one that it heeds, an answer may cost more than is held.",
                        verbose_name="takes max_tokens",
                    ),
                ),
                (
                    "answer_timeout_s",
                    django.db.models.PositiveIntegerField(
                        blank=True,
                        help_text="Before a first token, or a whole answer, where the model has no limit of its own. Empty: PROVIDER_TIMEOUT_SECONDS.",
                        null=True,
                        validators=[
                            django.core.validators.MinValueValidator(1),
                            django.core.validators.MaxValueValidator(3600),
                        ],
                        verbose_name="answer timeout in seconds",
                    ),
                ),
                (
                    "stream_idle_s",
                    django.db.models.PositiveIntegerField(
                        blank=True,
                        help_text="The longest between two tokens. Empty: STREAM_IDLE_SECONDS.",
                        null=True,
                        validators=[
                            django.core.validators.MinValueValidator(1),
                            django.core.validators.MaxValueValidator(3600),
                        ],
                        verbose_name="stream's pause in seconds",
                    ),
                ),
                (
                    "headers",
                    django.db.models.JSONField(
                        blank=True,
                        default=dict,
                        help_text='Sent with every request, such as {"X-Title": "shop"}. No secrets: whoever may look here sees them.',
                    ),
                ),
                (
                    "is_enabled",
                    django.db.models.BooleanField(
                        default=True, help_text="Else its models are passed over.", verbose_name="is in use"
                    ),
                ),
            ],
            options={
                "ordering": ["name"],
            },
        ),
        WidenOnPostgres(
            model_name="cataloguemodel",
            name="provider",
            field=django.db.models.CharField(help_text="One of the providers, by its name.", max_length=40),
        ),
        migrations.AlterField(
            model_name="cataloguemodel",
            name="upstream_name",
            field=django.db.models.CharField(
                help_text="The provider's own name for the model; at Azure, the deployment's.", max_length=100
            ),
        ),
        WidenOnPostgres(
            model_name="ledgerentry",
            name="provider",
            field=django.db.models.CharField(max_length=40),
        ),
        WidenOnPostgres(
            model_name="reservation",
            name="provider",
            field=django.db.models.CharField(max_length=40),
        ),
        WidenOnPostgres(
            model_name="invoicedday",
            name="provider",
            field=django.db.models.CharField(max_length=40),
        ),
        WidenOnPostgres(
            model_name="ledgerday",
            name="provider",
            field=django.db.models.CharField(max_length=40),
        ),
    ]
