"""Databases for the servers that tests start: each a copy of a migrated template, made once."""

import shutil
import sqlite3
from itertools import count
from pathlib import Path
from typing import Protocol

from tests.support.postgres import create_database, drop_database, with_database


class Databases(Protocol):
    """Where templates and copies are made; `template_url` has to be migrated by the caller."""

    template_url: str

    def copy(self) -> str:
        """The URL of a new copy of the template."""

    def drop(self) -> None:
        """Drop the template and all copies."""


class SqliteDatabases:
    def __init__(self, directory: Path) -> None:
        self.directory, self.numbers = directory, count(1)
        directory.mkdir()
        self.template = directory / "template.sqlite3"
        self.template_url = f"sqlite:///{self.template}"

    def copy(self) -> str:
        # Through SQLite, not as a file: what stands in the write-ahead log belongs to it.
        path = self.directory / f"server-{next(self.numbers)}.sqlite3"
        source, target = sqlite3.connect(self.template), sqlite3.connect(path)
        source.backup(target)
        target.close()
        source.close()
        return f"sqlite:///{path}"

    def drop(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)


class PostgresDatabases:
    def __init__(self, server_url: str, prefix: str) -> None:
        self.server_url, self.prefix, self.numbers = server_url, prefix, count(1)
        self.names = [f"{prefix}_template"]
        self.template_url = create_database(server_url, self.names[0])

    def copy(self) -> str:
        self.names.append(f"{self.prefix}_{next(self.numbers)}")
        return create_database(self.server_url, self.names[-1], template=self.names[0])

    def drop(self) -> None:
        for name in self.names:
            drop_database(self.server_url, name)


def databases_beside(database_url: str, prefix: str, directory: Path) -> Databases:
    """Databases of the same kind, on Postgres of the same server, as the tests' own."""
    if database_url.startswith("sqlite"):
        return SqliteDatabases(directory)
    return PostgresDatabases(with_database(database_url, "postgres"), prefix)
