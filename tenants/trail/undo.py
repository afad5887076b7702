"""A change in the audit trail is undone by another one, which stands in the trail, too.

Settings only: a tenant's own, budgets, words and top-ups. A key that was revoked stays so, and of who are members the
trail has names only. Steps of a route and downgrades mean something by their order, of which one row's entry has a part
at most: put back alone, a step would share its place with another, and a downgrade come last. They are set as a whole.
"""

from datetime import UTC, datetime
from typing import Any

from auditlog.models import LogEntry
from django.core.exceptions import ValidationError
from django.db import models, transaction

from tenants.models import Budget, HandoffTranslation, Tenant, TopUp

ROWS = (Budget, HandoffTranslation, TopUp)
CHANGED_AGAIN = "It was changed again since, so there is nothing to go back to: undo the later change first."


def is_undoable(entry: LogEntry) -> bool:
    model, changes = entry.content_type.model_class(), entry.changes or {}
    has_pairs = bool(changes) and all(isinstance(change, list) for change in changes.values())
    if entry.action == LogEntry.Action.UPDATE:
        return model in (Tenant, *ROWS) and has_pairs
    return entry.action in (LogEntry.Action.CREATE, LogEntry.Action.DELETE) and model in ROWS and has_pairs


@transaction.atomic
def undo(entry: LogEntry) -> str:
    """Change back what `entry` changed; the tenant's id. Raises ValidationError where that cannot be."""
    if not is_undoable(entry):
        raise ValidationError("This is no change that can be undone.")
    if entry.action == LogEntry.Action.DELETE:
        return _put_back(entry)
    model = _model_of(entry)
    row = model._default_manager.select_for_update().filter(pk=entry.object_pk).first()
    if row is None or not all(_is_still(row, name, new) for name, (_, new) in entry.changes.items()):
        raise ValidationError(CHANGED_AGAIN)
    tenant_id = str(row.pk if isinstance(row, Tenant) else row.tenant_id)  # type: ignore[attr-defined]
    if entry.action == LogEntry.Action.CREATE:
        row.delete()
        return tenant_id
    for name, (old, _) in entry.changes.items():
        _set(row, name, old)
    row.full_clean()
    row.save()
    return tenant_id


def _put_back(entry: LogEntry) -> str:
    row = _model_of(entry)()
    for name, (old, _) in entry.changes.items():
        if not _field(row, name).primary_key:
            _set(row, name, old)
    row.full_clean()
    row.save()
    return str(row.tenant_id)  # type: ignore[attr-defined]


def _model_of(entry: LogEntry) -> type[models.Model]:
    model: type[models.Model] | None = entry.content_type.model_class()
    assert model is not None  # noqa: S101  is_undoable asked
    return model


def _field(row: models.Model, name: str) -> Any:
    return row._meta.get_field(name)


def _is_still(row: models.Model, name: str, text: str | None) -> bool:
    field = _field(row, name)
    return bool(getattr(row, field.attname) == _value_of(field, text))


def _set(row: models.Model, name: str, text: str | None) -> None:
    setattr(row, _field(row, name).attname, _value_of(_field(row, name), text))


def _value_of(field: Any, text: str | None) -> Any:
    """A field's value from the trail's text of it."""
    if text is None or (text == "None" and field.null):
        return None
    if isinstance(field, models.DateTimeField):
        at = datetime.fromisoformat(text)
        return at if at.tzinfo else at.replace(tzinfo=UTC)
    return (field.target_field if field.is_relation else field).to_python(text)
