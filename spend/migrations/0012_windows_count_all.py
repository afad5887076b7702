"""A window counts whatever falls in it. What those of before had missed, because their budget was away, is added."""

from typing import Any

from django.db import migrations, models

END = "coalesce(w.ends_at, '9999-12-31')"
ENTRIES = f"""SELECT coalesce(sum(e.cost_ticks), 0) FROM spend_ledgerentry e
    WHERE e.tenant_id = w.tenant_id AND e.at >= w.starts_at AND e.at < {END}"""
ROLLUPS = f"SELECT coalesce(sum(l.cost_ticks), 0) FROM spend_rollup l WHERE l.bucket >= w.starts_at AND l.bucket < {END}"
ARCHIVED = """CASE WHEN w.ends_at IS NULL THEN coalesce((SELECT a.cost_ticks FROM spend_archivedspend a
    WHERE a.tenant_id = w.tenant_id AND a.scope = w.scope AND a.subject = w.subject), 0) ELSE 0 END"""

# Not of windows of keys, customers and conversations that began before single calls were removed: those are over.
SUM_ANEW = f"""
    UPDATE spend_window SET opening_ticks = opening_ticks + fell.ticks - spent_ticks, spent_ticks = fell.ticks
    FROM (
        SELECT w.id, CAST(CASE w.scope
            WHEN 'installation' THEN ({ROLLUPS})
            WHEN 'tenant' THEN ({ROLLUPS} AND l.tenant_id = w.tenant_id)
            WHEN 'key' THEN ({ENTRIES} AND CAST(e.key_id AS text) = w.subject) + {ARCHIVED}
            WHEN 'customer' THEN ({ENTRIES} AND e.customer = w.subject AND e.customer <> '') + {ARCHIVED}
            ELSE ({ENTRIES} AND e.conversation = w.subject AND e.conversation <> '') + {ARCHIVED}
        END AS bigint) AS ticks
        FROM spend_window w
        WHERE w.scope IN ('installation', 'tenant') OR w.ends_at IS NULL OR NOT EXISTS (
            SELECT 1 FROM spend_rollupmark m WHERE m.tenant_id = w.tenant_id AND m.archived_through > w.starts_at)
    ) fell WHERE fell.id = spend_window.id AND fell.ticks <> spend_window.spent_ticks
"""


def join_what_is_in_flight(apps: Any, schema_editor: Any) -> None:
    window_model = apps.get_model("spend", "Window")
    for hold in apps.get_model("spend", "Reservation").objects.filter(state="pending"):
        at = models.Q(starts_at__lte=hold.created_at) & (models.Q(ends_at=None) | models.Q(ends_at__gt=hold.created_at))
        scopes = models.Q(tenant_id="", scope="installation")
        for scope, subject in (("tenant", ""), ("key", f"{hold.key_id}"), ("customer", hold.customer),
                               ("conversation", hold.conversation)):  # fmt: skip
            if subject or scope == "tenant":
                scopes |= models.Q(tenant_id=hold.tenant_id, scope=scope, subject=subject)
        missed = window_model.objects.filter(at, scopes).exclude(pk__in=hold.window_ids)
        joined = list(missed.values_list("pk", flat=True))
        window_model.objects.filter(pk__in=joined).update(held_ticks=models.F("held_ticks") + hold.hold_ticks)
        hold.window_ids = [*hold.window_ids, *joined]
        hold.save(update_fields=["window_ids"])


class Migration(migrations.Migration):
    dependencies = [("spend", "0011_capabilities")]

    operations = [
        migrations.AddIndex(
            model_name="window",
            index=models.Index(fields=["tenant_id", "scope", "subject", "ends_at"], name="window_by_end"),
        ),
        migrations.RemoveConstraint(model_name="window", name="spent_covers_opening"),
        migrations.RunSQL(SUM_ANEW, migrations.RunSQL.noop),
        migrations.RunPython(join_what_is_in_flight, migrations.RunPython.noop),
        migrations.AddConstraint(
            model_name="window",
            constraint=models.CheckConstraint(condition=models.Q(spent_ticks__gte=0), name="spent_not_negative"),
        ),
    ]
