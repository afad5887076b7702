"""The admin's base: a list is filtered by what its page declares, and by nothing else.

Django takes any look-up on the model's own fields, and on those of its one-to-one relations, from a list's
address: `?password__startswith=a` answers, letter by letter, what no page shows.
"""

from collections.abc import Iterator
from typing import Any

from django.contrib.admin import FieldListFilter
from django.contrib.admin.utils import get_fields_from_path
from django.contrib.admin.widgets import url_params_from_lookup_dict
from django.db import connection
from django.http import HttpRequest
from unfold.admin import ModelAdmin as UnfoldModelAdmin

from tenants.admin.addresses import ActionsById
from tenants.admin.merging import MergedForm

DATE_PARTS = ("year", "month", "day")


class ModelAdmin(ActionsById, UnfoldModelAdmin):
    """unfold's, whose lists take the parameters of their own filters only; any other answers 400."""

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        """While a row is saved nobody else changes it, or what belongs to it."""
        if request.method == "POST" and connection.in_atomic_block:
            self.model._default_manager.select_for_update().filter(pk=object_id).first()
        return super().get_object(request, object_id, from_field)

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        form = super().get_form(request, obj, change, **kwargs)
        return type(form.__name__, (MergedForm, form), {})

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        return lookup in set(self._declared(request)) or self._is_limited_choice(lookup, value)

    def _declared(self, request: HttpRequest) -> Iterator[str]:
        if self.date_hierarchy:
            yield from (f"{self.date_hierarchy}__{part}" for part in DATE_PARTS)
        for declared in self.get_list_filter(request):
            yield from self._parameters_of(declared, request)

    def _parameters_of(self, declared: Any, request: HttpRequest) -> list[str]:
        """The parameters that a filter says that it reads, and the field's own name for an exact match."""
        if isinstance(declared, type):
            return [declared.parameter_name]  # type: ignore[attr-defined]
        path, create = declared if isinstance(declared, list | tuple) else (declared, FieldListFilter.create)
        field = get_fields_from_path(self.model, path)[-1]
        shown = create(field, request, {}, self.model, self, field_path=path)
        return [path, *filter(None, shown.expected_parameters())]

    def _is_limited_choice(self, lookup: str, value: Any) -> bool:
        """What the pop-up of a raw id asks for, as Django allows it: a foreign key's own limit_choices_to."""
        for limit in self.model._meta.related_fkey_lookups:
            limits = limit() if callable(limit) else limit
            if (lookup, value) in url_params_from_lookup_dict(limits).items():
                return True
        return False
