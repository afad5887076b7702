from typing import Any

from django.db import migrations, models


def add_column(apps: Any, schema_editor: Any) -> None:
    """In place, on SQLite too, where Django would copy all of the ledger."""
    kind = "bool NOT NULL DEFAULT 0" if schema_editor.connection.vendor == "sqlite" else "boolean NOT NULL DEFAULT false"
    schema_editor.execute(f"ALTER TABLE spend_ledgerentry ADD COLUMN is_usage_impossible {kind}")


def drop_column(apps: Any, schema_editor: Any) -> None:
    schema_editor.execute("ALTER TABLE spend_ledgerentry DROP COLUMN is_usage_impossible")


class Migration(migrations.Migration):
    dependencies = [("spend", "0016_queued_deliveries")]

    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunPython(add_column, drop_column)],
            state_operations=[
                migrations.AddField(
                    model_name="ledgerentry",
                    name="is_usage_impossible",
                    field=models.BooleanField(
                        db_default=False,
                        default=False,
                        help_text="The provider gave figures that no call can have. They were counted instead.",
                        verbose_name="impossible usage",
                    ),
                )
            ],
        ),
        migrations.AddIndex(
            model_name="ledgerentry",
            index=models.Index(condition=models.Q(("is_usage_impossible", True)), fields=["at"], name="entry_impossible"),
        ),
    ]
