"""What a file would change: planned first, so that it can be shown, and then made as planned."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Any

from django.db.models import Model

from spend.configuration.columns import Columns
from spend.configuration.places import Place, Problems

MOST_NAMED = 5


@dataclass(frozen=True)
class Change:
    """One change: what people read of it, and how it is made."""

    line: str
    make: Callable[[], Any]


@dataclass
class Plan:
    """Changes in the order in which they are made, and what a reader may wonder about: what stays, and why."""

    now: datetime
    changes: list[Change] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: Problems = field(default_factory=Problems)

    @property
    def lines(self) -> list[str]:
        return [change.line for change in self.changes]

    @property
    def digest(self) -> str:
        """Equal where the changes are the same to a reader: what was shown is what is made."""
        return sha256("\n".join(self.lines).encode()).hexdigest()

    def change(self, line: str, make: Callable[[], Any]) -> None:
        self.changes.append(Change(line, make))

    def set_row(self, place: Place, row: Model, what: str, columns: Columns, values: Mapping[str, Any]) -> None:
        """Bring `row`, which may be new, to `values`, by the model's own rules. Raises Refused."""
        edits = columns.edits(row, values)
        if not edits and not row._state.adding:
            return
        for name, value in values.items():
            setattr(row, name, value)
        columns.check(place, row)
        if row._state.adding:
            self.change(f"{what}: new{f', with {_listed(edits)}' if edits else ''}", row.save)
        else:
            # Not the whole row: what somebody else changes meanwhile stays.
            attributes = [columns.by_name[name].field.name for name, _, _ in edits]
            self.change(f"{what}: {_edited(edits)}", lambda: row.save(update_fields=attributes))

    def leave(self, what: str, names: Iterable[str]) -> None:
        """Say that these are not in the file, and stay."""
        if left := list(names):
            shown = ", ".join(left[:MOST_NAMED])
            more = f" and {len(left) - MOST_NAMED} more" if len(left) > MOST_NAMED else ""
            self.notes.append(f"{what}: not in the file, and left as {'it is' if len(left) == 1 else 'they are'}: "
                              f"{shown}{more}")  # fmt: skip


def _listed(edits: Iterable[tuple[str, Any, Any]]) -> str:
    return ", ".join(f"{name} {_told(new)}" for name, _, new in edits)


def _edited(edits: Iterable[tuple[str, Any, Any]]) -> str:
    return ", ".join(f"{name} {_told(old)} → {_told(new)}" for name, old, new in edits)


def _told(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{name}: {text}" for name, text in value.items()) or "none"
    return "none" if value in (None, "") else str(value)
