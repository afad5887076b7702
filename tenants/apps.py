from django.apps import AppConfig


class TenantsConfig(AppConfig):
    name = "tenants"
    verbose_name = "Tenants"

    def ready(self) -> None:
        from tenants import models
        from tenants.trail import watch

        watch(
            models.Tenant,
            models.ApiKey,
            models.Budget,
            models.TopUp,
            models.RouteStep,
            models.DowngradeRule,
            models.AlertChannel,
            m2m={models.Tenant: {"members"}},
        )
