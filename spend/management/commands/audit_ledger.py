"""`manage.py audit_ledger`: do the books balance, to the tick? Fails, loudly, where they do not."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from spend.ledger.audit import audit


class Command(BaseCommand):
    help = "Check that windows, reservations, entries, calls and rollups agree. The guard may run meanwhile."

    def handle(self, *args: Any, **options: Any) -> None:
        found = audit()
        for discrepancy in found.discrepancies:
            self.stderr.write(discrepancy)
        if found.discrepancies:
            raise CommandError(f"THE BOOKS DO NOT BALANCE: {len(found.discrepancies)} discrepancies.")
        counts = ", ".join(f"{count:,} {name}" for name, count in found.counts.items())
        self.stdout.write(f"The books balance: {counts}.")
