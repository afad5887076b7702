"""Backups of a running guard: one consistent state of everything, in one file."""

import os
import sqlite3
import subprocess
from pathlib import Path

from django.db import connection


class BackupError(Exception):
    """There is no backup; the message says why."""


def back_up(path: Path) -> None:
    """Write the database to a new file: a SQLite file, or what pg_restore reads. Raises BackupError."""
    if path.exists():
        raise BackupError(f"{path} exists already.")
    # Beside it first: a backup that is there is whole.
    partial = path.with_name(f"{path.name}.partial")
    try:
        (_dump_postgres if connection.vendor == "postgresql" else _copy_sqlite)(partial)
        partial.rename(path)
    except (OSError, sqlite3.Error) as error:
        raise BackupError(str(error)) from error
    finally:
        partial.unlink(missing_ok=True)


def _copy_sqlite(path: Path) -> None:
    connection.ensure_connection()
    source: sqlite3.Connection = connection.connection
    source.execute("VACUUM INTO ?", [str(path)])


def _dump_postgres(path: Path) -> None:
    database = connection.settings_dict
    given = {"PGHOST": "HOST", "PGPORT": "PORT", "PGUSER": "USER", "PGPASSWORD": "PASSWORD", "PGDATABASE": "NAME"}
    # In the environment, where no other user's `ps` shows the password.
    environment = {**os.environ, **{name: str(database[key]) for name, key in given.items() if database[key]}}
    command = ["pg_dump", "--format=custom", "--no-owner", f"--file={path}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise BackupError(done.stderr.strip())
