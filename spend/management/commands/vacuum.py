"""`manage.py vacuum`: give the room of deleted rows back to the disk. For SQLite; Postgres does it by itself."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import connection

from spend.retention.sqlite_space import file_bytes, rebuild


class Command(BaseCommand):
    help = "Rebuild the SQLite file without its empty pages. Calls wait meanwhile: choose a quiet hour."

    def handle(self, *args: Any, **options: Any) -> None:
        if connection.vendor != "sqlite":
            raise CommandError("Only SQLite needs it: Postgres vacuums by itself.")
        with connection.cursor() as cursor:
            before = file_bytes()
            rebuild()
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            cursor.execute("PRAGMA optimize")
            self.stdout.write(f"{before:,} bytes before, {file_bytes():,} after")
