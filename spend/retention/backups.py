"""Backups of a running guard: one consistent state of everything, in one file."""

import os
import sqlite3
import subprocess
from pathlib import Path
from tempfile import mkstemp

from django.db import connection


class BackupError(Exception):
    """There is no backup; the message says why."""


def back_up(path: Path) -> None:
    """Write the database to a new file: a SQLite file, or what pg_restore reads. Raises BackupError."""
    if path.exists():
        raise BackupError(f"{path} exists already.")
    try:
        partial = _private_file_beside(path)
    except OSError as error:
        raise BackupError(str(error)) from error
    try:
        (_dump_postgres if connection.vendor == "postgresql" else _copy_sqlite)(partial)
        partial.rename(path)
    except (OSError, sqlite3.Error) as error:
        raise BackupError(str(error)) from error
    finally:
        partial.unlink(missing_ok=True)


def _private_file_beside(path: Path) -> Path:
    """Empty, for our eyes only, and renamed once it is whole: so a backup that is there is whole, and is private."""
    handle, name = mkstemp(prefix=f"{path.name}.", suffix=".partial", dir=path.parent)
    os.close(handle)
    return Path(name)


def _copy_sqlite(path: Path) -> None:
    connection.ensure_connection()
    source: sqlite3.Connection = connection.connection
    source.execute("VACUUM INTO ?", [str(path)])


def _dump_postgres(path: Path) -> None:
    # pg_dump empties its session's search_path, which there is another client's, too: it would find no table any more.
    if connection.settings_dict["DISABLE_SERVER_SIDE_CURSORS"]:
        raise BackupError("DATABASE_URL leads to PgBouncer: for a backup it must lead to the Postgres behind it.")
    # In the environment, where no other user's `ps` shows the password.
    environment = {**os.environ, **_libpq_environment()}
    command = ["pg_dump", "--format=custom", "--no-owner", f"--file={path}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise BackupError(done.stderr.strip())


def _libpq_environment() -> dict[str, str]:
    """What DATABASE_URL says to libpq, `sslmode` and the like too, as the variables that libpq reads."""
    from psycopg.pq import Conninfo

    options = {option.keyword.decode(): option.envvar for option in Conninfo.get_defaults()}
    # The encoding is the connection's; a dump has the database's own.
    given = {name: value for name, value in connection.get_connection_params().items() if name != "client_encoding"}
    variables = {name: options.get(name) for name in given}
    return {variable.decode(): str(given[name]) for name, variable in variables.items() if variable}
