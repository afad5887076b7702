"""The rows of a tenant's page, saved as a set: what counts is which rows there are in the end, not how one got there.

Two rows that swap what makes them unique, or one that is deleted and added again, would break the database's
constraint if each row were saved by itself. So each row that is wanted is written to the stored row of the same key,
if there is one, whatever row of the page it was.
"""

from collections.abc import Hashable, Iterator
from typing import Any

from django.core.exceptions import ValidationError
from django.db.models import Model, UniqueConstraint
from django.forms import ModelForm
from unfold.forms import PaginationInlineFormSet

from tenants.admin.merging import MergedForm
from tenants.models import DowngradeRule
from tenants.routes import write_downgrades

Key = tuple[Hashable, ...]
GONE = "A row that you changed was deleted after this page was opened. It is the last one here: save to add it again."


class RowForm(MergedForm):
    """Leaves it to its set whether it is unique."""

    parent_name = ""
    last_wins = frozenset({"position"})

    def _get_validation_exclusions(self) -> set[str]:
        excluded: set[str] = super()._get_validation_exclusions()  # type: ignore[misc]
        return excluded | {self.parent_name}


MOST_DIGITS = 4


class RowSet(PaginationInlineFormSet):
    """Rows of a model with a unique constraint that its parent is part of."""

    has_lost_a_row = False

    def __init__(self, data: Any = None, files: Any = None, instance: Any = None, **kwargs: Any) -> None:
        if data is not None and instance is not None and instance.pk is not None:
            data = self._without_deleted_rows(data.copy(), instance, str(kwargs["prefix"]))
        super().__init__(data=data, files=files, instance=instance, **kwargs)

    def _without_deleted_rows(self, data: Any, parent: Any, prefix: str) -> Any:
        """Rows that somebody deleted since are left out, or are new ones at the end where the user changed them."""
        counts = [data.get(f"{prefix}-{name}_FORMS", "") for name in ("INITIAL", "TOTAL")]
        if not all(count.isdecimal() and len(count) <= MOST_DIGITS for count in counts):
            return data  # of which Django says that it is no form of its own
        initial, total = map(int, counts)
        stored = {
            str(pk) for pk in self.model._default_manager.filter(**{self.fk.name: parent}).values_list("pk", flat=True)
        }
        gone = [number for number in range(initial) if data.get(f"{prefix}-{number}-id") not in stored]
        if not gone:
            return data
        kept = [number for number in range(initial) if number not in gone]
        anew = [number for number in gone if self._is_changed(data, f"{prefix}-{number}")]
        self.has_lost_a_row = bool(anew)
        order = [*kept, *range(initial, total), *anew]
        rows = [_row_of(data, f"{prefix}-{number}-", is_new=number in anew) for number in order]
        for name in [name for name in data if name.startswith(f"{prefix}-")]:
            del data[name]
        data[f"{prefix}-TOTAL_FORMS"], data[f"{prefix}-INITIAL_FORMS"] = str(len(order)), str(len(kept))
        for number, row in enumerate(rows):
            for name, values in row.items():
                data.setlist(f"{prefix}-{number}-{name}", values)
        return data

    def _construct_form(self, i: int, **kwargs: Any) -> Any:
        form = super()._construct_form(i, **kwargs)
        form.parent_name = self.fk.name
        return form

    def _is_changed(self, data: Any, prefix: str) -> bool:
        return f"{prefix}-DELETE" not in data and bool(self.form(data, prefix=prefix).has_changed())

    def clean(self) -> None:
        super().clean()
        self._refuse_twice()
        if self.has_lost_a_row:
            raise ValidationError(GONE)

    def _refuse_twice(self) -> None:
        shown = {form.instance.pk for form in self.initial_forms}
        seen = {self._key(row) for row in self._stored() if row.pk not in shown}
        for form in self._wanted():
            if form.errors:
                continue
            key = self._key(form.instance)
            if key in seen:
                form.add_error(None, str(self._constraint().violation_error_message))
            seen.add(key)

    def _constraint(self) -> UniqueConstraint:
        unique = [each for each in self.model._meta.constraints if isinstance(each, UniqueConstraint)]
        return next(each for each in unique if self.fk.name in each.fields)

    def _key(self, row: Model) -> Key:
        names = [name for name in self._constraint().fields if name != self.fk.name]
        return tuple(getattr(row, row._meta.get_field(name).attname) for name in names)  # type: ignore[union-attr]

    def _stored(self) -> Iterator[Model]:
        rows = self.model._default_manager
        is_stored = self.instance.pk is not None
        return (rows.filter(**{self.fk.name: self.instance}) if is_stored else rows.none()).iterator()

    def _wanted(self) -> list[ModelForm[Any]]:
        """The rows that there are to be, as the page has them."""
        rows = [form for form in self.forms if not self._should_delete_form(form)]
        return [form for form in rows if form.instance.pk or form.has_changed()]

    def save(self, commit: bool = True) -> list[Model]:
        self.new_objects: list[Model] = []  # these three are what Django's admin reads
        self.changed_objects: list[tuple[Model, list[str]]] = []
        self.deleted_objects: list[Model] = []
        wanted = {self._key(form.instance): form for form in self._wanted()}
        shown = {form.instance.pk for form in self.initial_forms}
        stored = {self._key(row): row for row in self._stored()}
        free = {row.pk: row for key, row in stored.items() if key not in wanted and row.pk in shown}
        targets = [
            (form, stored.get(key) or free.pop(form.instance.pk, None) or self.model()) for key, form in wanted.items()
        ]
        for row in free.values():
            self.deleted_objects.append(row)
            row.delete()
        for form, row in targets:
            self._write(form, row)
        return [*self.new_objects, *(row for row, _ in self.changed_objects)]

    def _write(self, form: ModelForm[Any], row: Model) -> None:
        """What the page's row says, to the stored row, which may be another. One that is equal is not touched."""
        names = [field.attname for field in self.model._meta.concrete_fields if not field.primary_key]
        wanted = {name: getattr(form.instance, name) for name in names} | {self.fk.attname: self.instance.pk}
        changed = [name for name, value in wanted.items() if getattr(row, name) != value]
        if row.pk and not changed:
            return
        for name in changed:
            setattr(row, name, wanted[name])
        if row.pk:
            self.changed_objects.append((row, form.changed_data))
        else:
            self.new_objects.append(row)
        row.save()


def _row_of(data: Any, prefix: str, *, is_new: bool) -> dict[str, list[str]]:
    """A row's inputs, by their names without the prefix; of a new one without what makes it one that is stored."""
    row = {name.removeprefix(prefix): data.getlist(name) for name in data if name.startswith(prefix)}
    return {
        name: values for name, values in row.items() if not is_new or (name != "id" and not name.endswith("-as-shown"))
    }


class RouteSteps(RowSet):
    """A model that is added comes last, unless it was dragged elsewhere."""

    def _write(self, form: ModelForm[Any], row: Model) -> None:
        if row.pk is None and "position" not in form.changed_data:
            form.instance.position = 1 + max((step.position for step in self._stored()), default=-1)  # type: ignore[attr-defined]
        super()._write(form, row)


class DowngradeRules(RowSet):
    """Rules count in their order, which is that of their ids."""

    def save(self, commit: bool = True) -> list[Model]:
        before = {rule.pk: rule for rule in self._stored()}
        shown = {form.instance.pk for form in self.initial_forms}
        added = [rule.pair for pk, rule in before.items() if pk not in shown]  # type: ignore[attr-defined]
        write_downgrades(self.instance, [*(form.instance.pair for form in self._wanted()), *added])
        after = {rule.pk: rule for rule in DowngradeRule.objects.filter(tenant=self.instance)}
        self.new_objects = [rule for pk, rule in after.items() if pk not in before]
        self.deleted_objects = [rule for pk, rule in before.items() if pk not in after]
        self.changed_objects = []
        return self.new_objects
