from django.apps import AppConfig
from django.db.models.signals import post_migrate


class SpendConfig(AppConfig):
    name = "spend"
    verbose_name = "Spend"

    def ready(self) -> None:
        from spend import models
        from spend.models.providers import create_providers
        from spend.retention.sqlite_space import make_small
        from tenants.access.roles import create_roles
        from tenants.trail import watch

        watch(models.Provider, models.CatalogueModel, models.LearnedCapability, models.Price, models.PriceTier)
        # Django makes the permissions app by app; these are the last that the roles name.
        post_migrate.connect(create_roles, sender=self)
        post_migrate.connect(create_providers, sender=self)
        post_migrate.connect(make_small, sender=self)
