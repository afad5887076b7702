"""`manage.py retain_entries`: remove what is older than ENTRIES_KEPT_DAYS. The background does so once a day."""

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from spend.retention.removal import retain


class Command(BaseCommand):
    help = "Remove single calls and their ledger entries that are older than ENTRIES_KEPT_DAYS. Sums stay."

    def handle(self, *args: Any, **options: Any) -> None:
        if settings.ENTRIES_KEPT_DAYS is None:
            raise CommandError("ENTRIES_KEPT_DAYS is not set: entries are kept for ever.")
        removed = retain(timezone.now(), settings.ENTRIES_KEPT_DAYS)
        counts = ", ".join(f"{removed[kind]:,} {kind}" for kind in ("calls", "reservations", "entries", "windows"))
        self.stdout.write(f"Removed: {counts}.")
