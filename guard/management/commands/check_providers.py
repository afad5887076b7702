"""Say of each provider whether its address and key work, and which models of the catalogue it does not list."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from spend.models import CatalogueModel, Provider, provider_label
from spend.providers.accounts import Account, account_of


class Command(BaseCommand):
    help = "Check each provider's address and key. Costs nothing, unless --call is given."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("provider", nargs="*", help="Only these, by their names.")
        parser.add_argument(
            "--call", action="store_true", help="Ask the cheapest model of each for a word, too, which is billed."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Raises CommandError where a provider with a key does not work, or none has a key."""
        rows = Provider.objects.all()
        if named := options["provider"]:
            rows = rows.filter(name__in=named)
        if unknown := set(named) - {row.name for row in rows}:
            raise CommandError(f"There is no provider {', '.join(sorted(unknown))}.")
        accounts = {row: account_of(row) for row in rows}
        if not any(account.is_usable for account in accounts.values()):
            raise CommandError(
                "No provider has a key: set XAI_API_KEY or OPENAI_API_KEY, or give one a key in the admin."
            )
        failing = [row.name for row, account in accounts.items() if not self.is_well(row, account, options)]
        if failing:
            raise CommandError(f"Not working: {', '.join(map(provider_label, failing))}.")

    def is_well(self, row: Provider, account: Account, options: dict[str, Any]) -> bool:
        """Whether it works, or is not in use."""
        from spend.providers.check import cheapest_model, check_provider, try_model

        label = provider_label(row.name)
        if not account.is_usable:
            self.stdout.write(f"{label}: {account.fault}, so its models are passed over.")
            return True
        finding = check_provider(account)
        self.stdout.write(f"{label} at {account.base_url} ({_source(row)}): {finding.words}.")
        for model in CatalogueModel.objects.filter(provider=row.name, is_enabled=True).order_by("id"):
            if finding.is_well and model.upstream_name not in finding.models:
                self.stdout.write(f"  {model.id} is enabled here, and {model.upstream_name} is not in its list.")
        if not options["call"] or not (cheapest := cheapest_model(row.name)):
            return finding.is_well
        answered = try_model(account, cheapest)
        self.stdout.write(f"  Asked for a word: {answered.words}.")
        return answered.is_well


def _source(row: Provider) -> str:
    address = "its own address" if row.base_url else row.url_setting
    return f"{address}, {'a key that is kept' if row.sealed_key else row.key_setting}"
