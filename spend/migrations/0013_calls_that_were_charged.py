"""Calls that were charged and not served are counted by model; those that nobody recorded, as failed ones."""

from typing import Any
from zoneinfo import ZoneInfo

from django.db import migrations, models


def bucket_of(at: Any) -> Any:
    return at.replace(minute=at.minute // 15 * 15, second=0, microsecond=0)


class Counts:
    """The rollups and daily sums of calls, as far as days are summed."""

    def __init__(self, apps: Any) -> None:
        self.rollups = apps.get_model("spend", "Rollup").objects
        self.days = apps.get_model("spend", "DailyRollup").objects
        self.marks = {mark.tenant_id: mark for mark in apps.get_model("spend", "RollupMark").objects.all()}

    def add(self, call: Any, model: str, route: str, change: int) -> None:
        by = {"tenant_id": call.tenant_id, "model": model, "route": route}
        self._add(self.rollups, call.outcome, change, bucket=bucket_of(call.at), **by)
        mark = self.marks.get(call.tenant_id)
        if mark and call.at < mark.through:
            day = call.at.astimezone(ZoneInfo(mark.time_zone)).date()
            self._add(self.days, call.outcome, change, day=max(day, mark.first_live_day or day), **by)

    @staticmethod
    def _add(sums: Any, outcome: str, change: int, **key: Any) -> None:
        row, _ = sums.get_or_create(**key)
        sums.filter(pk=row.pk).update(**{outcome: models.F(outcome) + change})


def record_interrupted(apps: Any, counts: Counts) -> None:
    """Of a call with an expired entry there is a record, unless its worker died."""
    entries = apps.get_model("spend", "LedgerEntry").objects
    calls = apps.get_model("spend", "Call").objects
    expired = {entry.call_id: entry for entry in entries.filter(is_expired=True).order_by("at").iterator()}
    for call_id, entry in expired.items():
        if calls.filter(pk=call_id).exists():
            continue
        cost_ticks = entries.filter(call_id=call_id).aggregate(ticks=models.Sum("cost_ticks"))["ticks"]
        step = {"model": entry.model, "decision": "failed", "code": "interrupted", "hold_ticks": entry.hold_ticks}
        shared = ("request_id", "tenant_id", "key_id", "customer", "conversation", "at", "requested_model", "model", "route")
        call = calls.model(
            id=call_id, outcome="failed", code="interrupted", cost_ticks=cost_ticks, steps=[step],
            **{name: getattr(entry, name) for name in shared},
        )  # fmt: skip
        calls.bulk_create([call])
        counts.add(call, entry.model, entry.route, +1)


def name_what_was_charged(apps: Any, counts: Counts) -> None:
    entries = apps.get_model("spend", "LedgerEntry").objects
    calls = apps.get_model("spend", "Call").objects
    unnamed = calls.filter(outcome__in=["refused", "failed"], model="", cost_ticks__gt=0)
    for call in list(unnamed):
        if entry := entries.filter(call_id=call.pk).order_by("at").last():
            calls.filter(pk=call.pk).update(model=entry.model, route=entry.route)
            counts.add(call, "", "", -1)
            counts.add(call, entry.model, entry.route, +1)


def count_all(apps: Any, schema_editor: Any) -> None:
    counts = Counts(apps)
    record_interrupted(apps, counts)
    name_what_was_charged(apps, counts)


class Migration(migrations.Migration):
    dependencies = [("spend", "0012_windows_count_all")]

    operations = [
        migrations.AlterField(
            model_name="call",
            name="model",
            field=models.CharField(
                blank=True, help_text="The model that served, or that was charged for.", max_length=100
            ),
        ),
        migrations.RunPython(count_all, migrations.RunPython.noop),
    ]
