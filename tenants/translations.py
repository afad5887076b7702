"""A tenant's words in other languages, and how they are set."""

from collections.abc import Mapping

from django.db import transaction

from tenants.models import HandoffTranslation, Tenant


@transaction.atomic
def set_translations(tenant: Tenant, wanted: Mapping[str, str]) -> None:
    """Make `wanted`, words by language, the tenant's. Row by row, so that each change is in the audit trail."""
    standing = {row.language: row for row in tenant.handoff_translations.all()}
    for language, words in wanted.items():
        row = standing.pop(language, None) or HandoffTranslation(tenant=tenant, language=language)
        if row.pk is None or row.words != words:
            row.words = words
            row.save()
    for row in standing.values():
        row.delete()
