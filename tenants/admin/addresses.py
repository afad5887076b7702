"""Addresses of rows in the admin, where Django quotes ids (`acme_shop` is `acme_5Fshop`), and what reads them."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.contrib.admin.utils import quote, unquote
from django.db.models import Model
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from unfold.dataclasses import UnfoldAction


def change_url(model: type[Model], object_id: object) -> str:
    return row_url(f"{model._meta.app_label}_{model._meta.model_name}_change", object_id)


def row_url(name: str, object_id: object) -> str:
    """The address of one of the admin's pages or dialogs about a row, by the row's own id."""
    return reverse(f"admin:{name}", args=[quote(str(object_id))])


def back_to(model: type[Model], object_id: object) -> HttpResponse:
    """After a dialog: the page is loaded again."""
    return HttpResponse(headers={"HX-Redirect": change_url(model, object_id)})


class ActionsById:
    """unfold's actions of a row, given the row's id. unfold itself passes on what stands in the address."""

    def get_unfold_action(self, action: str) -> UnfoldAction:
        found: UnfoldAction = super().get_unfold_action(action)  # type: ignore[misc]
        found.method = _with_plain_id(found.method)
        return found

    def get_actions_detail(self, request: HttpRequest, object_id: str) -> list[UnfoldAction]:
        found = super().get_actions_detail(request, object_id)  # type: ignore[misc]
        return self.useful_actions(found, unquote(str(object_id)))

    def useful_actions(self, actions: list[UnfoldAction], object_id: str) -> list[UnfoldAction]:
        """Of the actions that the user may take, those that make sense for this row."""
        return actions

    def without(self, actions: list[UnfoldAction], *names: str) -> list[UnfoldAction]:
        useless = {self.get_unfold_action(name).action_name for name in names}
        return [each for each in actions if each.action_name not in useless]


def _with_plain_id(method: Any) -> Any:
    @wraps(method)
    def with_plain_id(*args: Any, **kwargs: Any) -> Any:
        if isinstance(kwargs.get("object_id"), str):
            kwargs["object_id"] = unquote(kwargs["object_id"])
        return method(*args, **kwargs)

    unquoted: Callable[..., Any] = with_plain_id
    return unquoted
