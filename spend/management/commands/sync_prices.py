"""`manage.py sync_prices`: fill the model catalogue and its prices."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from spend.pricing.catalogue import sync
from spend.pricing.price_list_sync import listed_models
from tenants.trail import changed_by


class Command(BaseCommand):
    help = "Bring the model catalogue and its prices up to date with the installed genai-prices package."

    def handle(self, *args: Any, **options: Any) -> None:
        models, refused = listed_models()
        with changed_by("sync_prices"):
            report = sync(models, timezone.now())
        self.stdout.write(
            f"{len(report.models)} models in the price list: {len(report.added)} new, {len(report.prices)} new prices."
        )
        for price in report.prices if int(options["verbosity"]) > 1 else ():
            self.stdout.write(f"  {price}")
        if refused:
            raise CommandError("\n".join(f"{model} was refused: it {reason}." for model, reason in refused.items()))
