from typing import Any

from django.db import migrations, models

TABLES = ("spend_reservation", "spend_ledgerentry")


def add_columns(apps: Any, schema_editor: Any) -> None:
    """In place, on SQLite too, where Django would copy all of the ledger."""
    for table in TABLES:
        check = f'CONSTRAINT {table}_step_check CHECK ("step" >= 0)'
        if schema_editor.connection.vendor == "sqlite":
            check = 'CHECK ("step" >= 0)'
        schema_editor.execute(f'ALTER TABLE {table} ADD COLUMN "step" smallint NOT NULL DEFAULT 0 {check}')


def drop_columns(apps: Any, schema_editor: Any) -> None:
    for table in TABLES:
        schema_editor.execute(f"ALTER TABLE {table} DROP COLUMN step")


def step() -> models.PositiveSmallIntegerField:
    return models.PositiveSmallIntegerField(
        db_default=0,
        default=0,
        help_text="The highest step of a budget that had a say: 1 is a soft cap, 0 is none.",
    )


class Migration(migrations.Migration):
    dependencies = [("spend", "0024_calls_by_key_and_by_cost")]

    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunPython(add_columns, drop_columns)],
            state_operations=[
                migrations.AddField(model_name=name, name="step", field=step())
                for name in ("reservation", "ledgerentry")
            ],
        ),
    ]
