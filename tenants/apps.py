from django.apps import AppConfig


class TenantsConfig(AppConfig):
    name = "tenants"
    verbose_name = "Tenants"

    def ready(self) -> None:
        from django.contrib.auth.models import Group, User

        from tenants import models, top_ups
        from tenants.access import token_ends
        from tenants.trail import watch, watch_people

        watch(
            models.Tenant,
            models.ApiKey,
            models.Budget,
            models.TopUp,
            models.RouteStep,
            models.DowngradeRule,
            models.HandoffTranslation,
            models.AlertChannel,
            m2m={models.Tenant: {"members"}},
        )
        watch_people(models.OperatorToken)
        watch_people(models.SsoIdentity)
        watch_people(Group, m2m={"permissions"})
        watch_people(User, m2m={"groups", "user_permissions"})
        token_ends.connect()
        top_ups.connect()
