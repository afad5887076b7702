"""Which migrations the database lacks."""

import pkgutil
from functools import cache
from importlib import import_module

from django.apps import apps
from django.db import connection
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder


def missing_migrations() -> list[str]:
    """Names such as `spend.0001_initial`, in order, by one short query. Raises django.db.Error."""
    applied = MigrationRecorder(connection).applied_migrations()
    return [f"{app}.{name}" for app, name in known_migrations() if (app, name) not in applied]


@cache
def known_migrations() -> tuple[tuple[str, str], ...]:
    """Every migration there is, by its file: to import them all, as `migrate` does, takes memory and time."""
    return tuple((app.label, name) for app in apps.get_app_configs() for name in _names_of(app.label))


def _names_of(app_label: str) -> list[str]:
    module_name, _ = MigrationLoader.migrations_module(app_label)
    try:
        module = import_module(module_name or "")
    except (ModuleNotFoundError, ValueError):
        return []  # an app without migrations
    files = pkgutil.iter_modules(module.__path__)
    return sorted(name for _, name, is_package in files if not is_package and name[0] not in "_~")
