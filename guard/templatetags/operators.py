"""Where one is, above each of the operators' pages."""

from collections.abc import Mapping, Sequence
from typing import Any

from django import template
from django.db.models import Model
from django.utils.text import capfirst

from guard.config.admin_site import UNFOLD

register = template.Library()


@register.filter
def as_in_the_sidebar(parts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """unfold's parts of a path, without the app, which is no place to go to; a list is called what the sidebar
    calls it, and a row as it is."""
    titles = {str(item["link"]): item["title"] for group in UNFOLD["SIDEBAR"]["navigation"] for item in group["items"]}
    return [
        {"link": link, "title": title if isinstance(title, Model) else titles.get(link, capfirst(title))}
        for link, title in ((str(part.get("link", "")), part["title"]) for part in parts[1:] or parts)
    ]
