"""Sum finished days for the pages; run every few minutes. Pages are right without it, only slower."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from spend.summaries.daily import MarkMovedError, catch_up, misfits, rebuild


class Command(BaseCommand):
    help = "Sum the ledger's finished days, so that pages stay fast."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--check", action="store_true", help="Compare all daily sums with the rollups; make anew those that differ."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if options["check"]:
            self._check()
        try:
            until = catch_up(timezone.now())
        except MarkMovedError:
            raise CommandError("Another process is summing the same days.") from None
        self.stdout.write(f"Days are summed through {until:%Y-%m-%d %H:%M} UTC.")

    def _check(self) -> None:
        wrong = misfits()
        for tenant_id in wrong:
            self.stderr.write(f"{tenant_id}: the daily sums differed from the rollups and are made anew.")
        rebuild(wrong)
