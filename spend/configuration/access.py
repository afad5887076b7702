"""Who may take the configuration out and in by the admin: superusers, and who may change all that is in it."""

from django.http import HttpRequest

IN_THE_FILE = {
    "tenants": ["tenant", "budget", "routestep", "downgraderule", "handofftranslation", "alertchannel"],
    "spend": ["price", "pricetier"],
    "auth": ["group"],
}
NEEDED = [
    f"{app_label}.{action}_{model}"
    for app_label, models in IN_THE_FILE.items()
    for model in models
    for action in ("view", "add", "change", "delete")
]


def may_take_files(request: HttpRequest) -> bool:
    return request.user.has_perms(NEEDED)
