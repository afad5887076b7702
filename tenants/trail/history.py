"""A tenant's audit trail, to read: every change of it and of what belongs to it, newest first."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from auditlog.models import LogEntry
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import FieldDoesNotExist
from django.db.models import BooleanField, DateTimeField, DecimalField, Model, Q
from django.utils.text import capfirst

from tenants.fields import TicksField
from tenants.models import ApiKey, Budget, DowngradeRule, HandoffTranslation, RouteStep, Tenant, TopUp
from tenants.money import usd_string
from tenants.trail.undo import is_undoable

DONE = {"create": "Added", "update": "Changed", "delete": "Removed", "access": "Looked at"}
LABELS = {"is_active": "in use", "alert_percents": "told at percent"}
"""Of fields whose names do not tell a reader what they mean."""
BELONGINGS = (ApiKey, Budget, TopUp, RouteStep, DowngradeRule, HandoffTranslation)
UNTOLD = {"id", "tenant", "created_at", "digest", "hint"}
MOST_NAMED = 10
NOTHING = {"None", "", None}


@dataclass(frozen=True)
class Edit:
    """One field's old and new value, as people read them; empty where there was or is none."""

    field: str
    old: str
    new: str


@dataclass(frozen=True)
class Change:
    at: datetime
    who: str
    action: str
    what: str
    edits: Sequence[Edit]
    entry_id: int = 0
    is_undoable: bool = False

    @property
    def sentence(self) -> str:
        """ "Changed the budget tenant a day"."""
        return f"{DONE.get(self.action, self.action)} {self.what}"


def history_of(tenant: Tenant, limit: int = 50) -> list[Change]:
    entries = LogEntry.objects.filter(_about(tenant)).select_related("actor", "content_type")
    return [change_of(entry) for entry in entries.order_by("-timestamp", "-id")[:limit]]


def _about(tenant: Tenant) -> Q:
    """The tenant's own entries, and those of rows that belong to it now or did before they were deleted."""
    about = Q(content_type=ContentType.objects.get_for_model(Tenant), object_pk=tenant.pk)
    for model in BELONGINGS:
        content_type = ContentType.objects.get_for_model(model)
        # A row's first and last entry name its tenant; those between have only what changed.
        named = LogEntry.objects.filter(
            Q(changes__tenant__0=tenant.pk) | Q(changes__tenant__1=tenant.pk), content_type=content_type
        )
        about |= Q(content_type=content_type, object_pk__in=named.values("object_pk"))
    return about


def latest_edit(row: Model, field_name: str) -> tuple[Change, Edit] | None:
    """The last change of one field of `row`; None where the trail has none."""
    entry = LogEntry.objects.get_for_object(row).filter(changes__has_key=field_name).select_related("actor").first()
    edits = list(_edits(type(row), {field_name: entry.changes[field_name]})) if entry else []
    return (change_of(entry), edits[0]) if entry and edits else None


def change_of(entry: LogEntry) -> Change:
    model = entry.content_type.model_class()
    return Change(
        at=entry.timestamp,
        who=str(entry.actor or (entry.additional_data or {}).get("by") or "system"),
        action=entry.get_action_display(),
        what=f"{entry.content_type.name} {entry.object_repr}",
        edits=list(_edits(model, entry.changes or {})),
        entry_id=entry.pk,
        is_undoable=is_undoable(entry),
    )


def _edits(model: type[Model] | None, changes: Mapping[str, Any]) -> Iterator[Edit]:
    for name, change in changes.items():
        if name in UNTOLD:
            continue
        if isinstance(change, Mapping):
            yield Edit(capfirst(name), "", f"{change['operation']} {_some(change['objects'])}")
        elif name == "password":
            yield Edit("Password", "", "changed")
        elif not _equal(*change):
            field = _field(model, name)
            label = LABELS.get(name) or getattr(field, "verbose_name", name).removesuffix(" (USD)")
            yield Edit(capfirst(label), _text(field, change[0]), _text(field, change[1]))


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def _equal(old: str | None, new: str | None) -> bool:
    """Equal to a reader: nothing and nothing, 0.8 and 0.8000."""
    if old in NOTHING and new in NOTHING:
        return True
    try:
        return Decimal(str(old)) == Decimal(str(new))
    except InvalidOperation:
        return old == new


def _field(model: type[Model] | None, name: str) -> Any:
    try:
        return model._meta.get_field(name) if model else None
    except FieldDoesNotExist:
        return None


def _text(field: Any, value: str | None) -> str:
    if value in NOTHING or value is None:
        return ""
    if isinstance(field, TicksField):
        return f"{usd_string(int(value), field.ticks_per_unit)} USD"
    if isinstance(field, DateTimeField):
        return _moment(value)
    if isinstance(field, BooleanField):
        return "yes" if value == "True" else "no"
    if isinstance(field, DecimalField):
        return f"{Decimal(value).normalize():f}"
    return str(dict(getattr(field, "flatchoices", ())).get(value, value))


def _moment(value: str) -> str:
    """To the minute. What changed, auditlog keeps in UTC without saying so."""
    try:
        at = datetime.fromisoformat(value)
    except ValueError:
        return value
    return f"{at.astimezone(UTC) if at.tzinfo else at:%Y-%m-%d %H:%M} UTC"
