"""`manage.py backup FILE`: the whole database in one file, while the guard runs."""

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from spend.retention.backups import BackupError, back_up


class Command(BaseCommand):
    help = "Back the database up to a new file: SQLite as a database file, Postgres by pg_dump for pg_restore."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path)

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            back_up(options["file"])
        except BackupError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(f"{options['file']}: {options['file'].stat().st_size:,} bytes")
