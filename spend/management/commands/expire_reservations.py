"""`manage.py expire_reservations`: settle what a dead worker left. The server does the same by itself."""

from typing import Any

from django.core.management.base import BaseCommand

from spend.ledger.leases import expire_reservations


class Command(BaseCommand):
    help = "Settle at their hold, and flag, the reservations whose lease is over."

    def handle(self, *args: Any, **options: Any) -> None:
        expired = expire_reservations()
        self.stdout.write(f"{expired} reservations expired.")
