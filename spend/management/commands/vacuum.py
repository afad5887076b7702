"""`manage.py vacuum`: give the room of deleted rows back to the disk. For SQLite; Postgres does it by itself."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import connection


class Command(BaseCommand):
    help = "Rebuild the SQLite file without its empty pages. Calls wait meanwhile: choose a quiet hour."

    def handle(self, *args: Any, **options: Any) -> None:
        if connection.vendor != "sqlite":
            raise CommandError("Only SQLite needs it: Postgres vacuums by itself.")
        with connection.cursor() as cursor:
            before = _bytes(cursor)
            cursor.execute("VACUUM")
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            cursor.execute("PRAGMA optimize")
            self.stdout.write(f"{before:,} bytes before, {_bytes(cursor):,} after")


def _bytes(cursor: Any) -> int:
    pages, size = (cursor.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
    return int(pages * size)
