"""Where the pages are that an alert is about."""

from django.conf import settings

from spend.models import Alert, AlertKind


def link_of(alert: Alert) -> str:
    """The managers' page of the alert's tenant, or of all; empty while PUBLIC_URL is not set.

    Written out: the background, which sends alerts, serves no address and does without what does.
    """
    if not settings.PUBLIC_URL:
        return ""
    if alert.kind == AlertKind.INVOICE:
        return f"{settings.PUBLIC_URL}/admin/invoices/"
    return f"{settings.PUBLIC_URL}/tenants/{alert.tenant_id}/" if alert.tenant_id else f"{settings.PUBLIC_URL}/"
