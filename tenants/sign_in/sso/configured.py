"""The settings of single sign-on. Read at the start, so nothing here knows a model."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from django.conf import settings

from tenants.configured import JsonObject

SUPERUSER, STAFF = "superuser", "staff"
FLAGS = frozenset({SUPERUSER, STAFF})
"""What a group can be mapped to that is no group of the guard's, but a mark on the login itself."""
EXAMPLE = '{"guard-operators": "operator", "guard-admins": "superuser"}'

Roles = Mapping[str, frozenset[str]]
"""By the provider's group: the guard's groups and flags that it gives."""


@dataclass(frozen=True)
class Configuration:
    issuer: str
    client_id: str
    client_secret: str
    scopes: str


def read_roles(text: str) -> dict[str, frozenset[str]]:
    """SSO_ROLES: a JSON object from the provider's group to a role, or to a list of roles. Raises ValueError."""
    try:
        groups = json.loads(text.strip() or "{}", object_pairs_hook=JsonObject)
    except (json.JSONDecodeError, RecursionError):
        groups = None
    if not isinstance(groups, JsonObject):
        raise ValueError(f"must be a JSON object such as {EXAMPLE}")
    if groups.twice is not None:
        raise ValueError(f"{groups.twice} appears twice")
    return {group: _read_names(group, names) for group, names in groups.items()}


def _read_names(group: str, names: object) -> frozenset[str]:
    listed = names if isinstance(names, list) else [names]
    if not listed or not all(isinstance(name, str) and name.strip() for name in listed):
        raise ValueError(f"{group} must be a role, or a list of roles")
    return frozenset(listed)


def configuration() -> Configuration:
    return Configuration(settings.SSO_ISSUER, settings.SSO_CLIENT_ID, settings.SSO_CLIENT_SECRET, settings.SSO_SCOPES)


def needed() -> dict[str, object]:
    """The settings without which nobody can sign in so; what is empty is missing."""
    names = ("SSO_ISSUER", "SSO_CLIENT_ID", "SSO_CLIENT_SECRET", "SSO_ROLES", "PUBLIC_URL")
    return {name: getattr(settings, name) for name in names}


def is_on() -> bool:
    return all(needed().values())


def missing() -> list[str]:
    """What is missing where something is set up; PUBLIC_URL alone says nothing of single sign-on."""
    settings_of_it = needed()
    is_begun = any(value for name, value in settings_of_it.items() if name != "PUBLIC_URL")
    return [name for name, value in settings_of_it.items() if not value] if is_begun else []
