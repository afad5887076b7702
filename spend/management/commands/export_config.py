"""`manage.py export_config [--output FILE]`: the configuration as YAML, for a shop to keep."""

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from spend.configuration.document import export_text


class Command(BaseCommand):
    help = (
        "Print tenants, budgets, routes, downgrades, alert channels, operators' own prices and roles as YAML, without "
        "keys, secrets or people; import_config takes it in again."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--output", type=Path, metavar="FILE", help="write it there instead")

    def handle(self, *args: Any, **options: Any) -> None:
        text, path = export_text(timezone.now()), options["output"]
        if path is None:
            self.stdout.write(text, ending="")
            return
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise CommandError(f"--output: {error}") from error
