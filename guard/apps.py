from typing import Any

from django.apps import AppConfig
from django.contrib.admin.apps import SimpleAdminConfig
from django.contrib.admin.checks import check_admin_app, check_dependencies
from django.core.checks import CheckMessage, Tags, register


class GuardConfig(AppConfig):
    name = "guard"
    verbose_name = "Guard"
    default = True

    def ready(self) -> None:
        from guard.config import deploy_checks  # noqa: F401  registers the system checks


class AdminConfig(SimpleAdminConfig):
    """Loads the apps' admin modules only where they are served (`guard.urls`) or checked.

    With what they import they are a fifth of a process's memory, and the background shows no page.
    """

    def ready(self) -> None:
        register(check_dependencies, Tags.admin)
        register(check_admin, Tags.admin)


def check_admin(app_configs: Any, **options: Any) -> list[CheckMessage]:
    """Django's own check of what is registered, once it is."""
    from django.contrib import admin

    admin.autodiscover()
    return check_admin_app(app_configs, **options)
