"""`manage.py import_config FILE [--dry-run]`: take in what export_config wrote, or a person."""

import sys
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from spend.configuration.document import import_text, plan_text
from spend.configuration.places import Refused
from tenants.trail import changed_by


class Command(BaseCommand):
    help = (
        "Take in a configuration file, all of it or, where anything is wrong, nothing; done twice, it changes nothing. "
        "What the file does not name stays as it is. Each change is a line on standard output, and in the audit trail."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", help="the file, or - for standard input")
        parser.add_argument("--dry-run", action="store_true", help="only say what would change")

    def handle(self, *args: Any, **options: Any) -> None:
        content = read(options["file"])
        try:
            with changed_by("import_config"):
                plan = (plan_text if options["dry_run"] else import_text)(content, timezone.now())
        except Refused as error:
            raise CommandError(f"{options['file']}: nothing was changed.\n{error}") from None
        self.stderr.writelines(f"{note}\n" for note in plan.notes)
        self.stdout.writelines(f"{line}\n" for line in plan.lines or ["Nothing to change."])


def read(name: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise CommandError(str(error)) from error
