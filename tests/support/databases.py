"""Databases of tests and of the servers they start: each a copy of a template, migrated once in a run."""

import fcntl
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Protocol

from django.db import transaction

from tests.support.postgres import create_database, drop_database


class Databases(Protocol):
    """Copies of a template, which several processes may share."""

    def create_template(self) -> str:
        """Its URL; the caller migrates it, before anyone copies it."""

    def empty(self) -> str:
        """The URL of a new database without any table."""

    def copy(self, name: str | None = None) -> str:
        """The URL of a new copy of the template; `name` as in Django's settings."""

    def drop(self) -> None:
        """Drop all copies of this process."""


class SqliteDatabases:
    def __init__(self, directory: Path, template: Path | None = None) -> None:
        self.directory, self.numbers = directory, count(1)
        directory.mkdir()
        self.template = template or directory / "template.sqlite3"

    def create_template(self) -> str:
        return f"sqlite:///{self.template}"

    def empty(self) -> str:
        return f"sqlite:///{self.directory / f'empty-{next(self.numbers)}.sqlite3'}"

    def copy(self, name: str | None = None) -> str:
        # Through SQLite, not as a file: what stands in the write-ahead log belongs to it.
        path = Path(name or self.directory / f"server-{next(self.numbers)}.sqlite3")
        source, target = sqlite3.connect(self.template), sqlite3.connect(path)
        source.backup(target)
        target.close()
        source.close()
        return f"sqlite:///{path}"

    def drop(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)


class PostgresDatabases:
    def __init__(self, server_url: str, prefix: str, template: str | None = None) -> None:
        self.server_url, self.prefix, self.numbers = server_url, prefix, count(1)
        self.template, self.names = template or f"{prefix}_template", list[str]()

    def create_template(self) -> str:
        return create_database(self.server_url, self.template)

    def empty(self) -> str:
        self.names.append(f"{self.prefix}_empty_{next(self.numbers)}")
        return create_database(self.server_url, self.names[-1])

    def copy(self, name: str | None = None) -> str:
        self.names.append(name or f"{self.prefix}_{next(self.numbers)}")
        return create_database(self.server_url, self.names[-1], template=self.template)

    def drop(self) -> None:
        for name in self.names:
            drop_database(self.server_url, name)


class MadeByMigrating:
    """What Django and the product make after migrations and after a flush: permissions, roles and providers.

    Called after each flush in the place of Django's signal. It is made once; from then on the same rows are put back,
    in a twentieth of the time, and without the trail's word on each.
    """

    def __init__(self, make: Callable[..., None]) -> None:
        self.make, self.kept = make, list[tuple[Any, list[Any]]]()

    def __call__(self, *options: Any) -> None:
        if not self.kept:
            self.make(*options)
            self.kept = [(model, list(model._default_manager.all())) for model in self._models()]
            return
        with transaction.atomic():
            for model, rows in self.kept:
                model._default_manager.bulk_create(rows)

    @staticmethod
    def _models() -> list[Any]:
        from django.contrib.auth.models import Group, Permission
        from django.contrib.contenttypes.models import ContentType

        from spend.models import Provider

        return [ContentType, Permission, Group, Group.permissions.through, Provider]


@contextmanager
def first_of_the_run(done: Path) -> Iterator[bool]:
    """Whether this process is the first; the others wait until its block has ended. `done` marks that."""
    with done.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield not done.exists()
        done.touch()
