"""Say of each provider whether its address and key work, and which models of the catalogue it does not list."""

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from spend.models import CatalogueModel
from spend.models.vocabulary import Provider


class Command(BaseCommand):
    help = "Check each provider's address and key. Costs nothing: only the list of models is asked for."

    def handle(self, *args: Any, **options: Any) -> None:
        """Raises CommandError where a provider with a key does not work, or none has a key."""
        from guard.providers.check import check_provider

        addresses = {
            Provider.XAI: ("XAI", settings.XAI_BASE_URL, settings.XAI_API_KEY),
            Provider.OPENAI: ("OPENAI", settings.OPENAI_BASE_URL, settings.OPENAI_API_KEY),
        }
        if not any(api_key for _, _, api_key in addresses.values()):
            raise CommandError("No provider has a key: set XAI_API_KEY or OPENAI_API_KEY.")
        failed = []
        for provider, (prefix, base_url, api_key) in addresses.items():
            if not api_key:
                self.stdout.write(f"{provider.label}: {prefix}_API_KEY is not set, so its models are passed over.")
                continue
            finding = check_provider(base_url, api_key)
            self.stdout.write(f"{provider.label} at {base_url} ({prefix}_BASE_URL, {prefix}_API_KEY): {finding.words}.")
            failed += [] if finding.is_well else [provider.label]
            for model in CatalogueModel.objects.filter(provider=provider, is_enabled=True).order_by("id"):
                if finding.is_well and model.upstream_name not in finding.models:
                    self.stdout.write(f"  {model.id} is enabled here, and {model.upstream_name} is not in its list.")
        if failed:
            raise CommandError(f"Not working: {', '.join(failed)}.")
