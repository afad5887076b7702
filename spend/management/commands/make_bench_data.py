"""Fill a database with made-up history for the bench. Never into one that is used for real."""

from time import monotonic
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from spend.bench_data import DAYS, make
from spend.summaries.daily import catch_up
from tenants.models import Tenant


class Command(BaseCommand):
    help = "Make N ledger entries over M new tenants, with all that belongs to them."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--entries", type=int, required=True)
        parser.add_argument("--tenants", type=int, required=True)
        parser.add_argument("--days", type=int, default=DAYS, help="How far back the history goes.")
        parser.add_argument("--prefix", default="bench", help="The tenants' ids begin with it.")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["entries"] < 1 or options["tenants"] < 1 or options["days"] < 1:
            raise CommandError("--entries, --tenants and --days must be at least 1.")
        if Tenant.objects.filter(id__startswith=f"{options['prefix']}-").exists():
            raise CommandError(f"There are tenants named {options['prefix']}-… already; choose another --prefix.")
        started, now = monotonic(), timezone.now()
        make(options["entries"], options["tenants"], now, options["prefix"], options["days"])
        catch_up(now)
        self.stdout.write(
            f"{options['entries']:,} entries over {options['tenants']} tenants in {monotonic() - started:.0f} s."
        )
