"""Removal of whole tenants with all that happened to them: for made-up ones, of which nothing need be known later.

The installation's windows counted them, and are brought to what is left.
"""

from collections import Counter
from collections.abc import Collection
from typing import Any

from django.apps import apps
from django.db import connection, transaction
from django.db.models import Model, QuerySet

from spend.ledger.window_opening import INSTALLATION, key_of, spent_in_each
from spend.models import Alert, ArchivedSpend, Reservation, ReservationState, Review, Window
from spend.sql import Delete, Sql, Update
from tenants.models import Scope, Tenant


class InFlightError(Exception):
    """Calls of theirs are on their way; nothing was removed."""


def remove_tenants(tenant_ids: Collection[str]) -> int:
    """Remove these tenants with everything of theirs, and return how many calls' attempts went with them.

    Raises InFlightError. The audit trail keeps what was changed of them.
    """
    sql = Sql.on(connection)
    with sql.turn(), transaction.atomic():
        sql.own_books({INSTALLATION, *tenant_ids})
        attempts = Reservation.objects.filter(tenant__in=tenant_ids)
        if attempts.filter(state=ReservationState.PENDING).exists():
            raise InFlightError("Calls of these tenants are in flight. Stop the server, or try again in a moment.")
        counted, count = _counted_for_all(attempts), attempts.count()
        _take_from_archive(tenant_ids)
        _delete_rows(sql, tenant_ids)
        _sum_anew(sql, counted)
    return count


def _counted_for_all(attempts: QuerySet[Reservation]) -> Counter[int]:
    """What of these attempts counted against each window of the installation, in ticks."""
    counted = Counter(dict.fromkeys(Window.objects.filter(tenant_id=INSTALLATION).values_list("pk", flat=True), 0))
    if counted:
        for window_ids, ticks in attempts.values_list("window_ids", "entry__cost_ticks").iterator(2000):
            counted.update(dict.fromkeys(counted.keys() & set(window_ids), ticks or 0))
    return counted


def _take_from_archive(tenant_ids: Collection[str]) -> None:
    if not (whole := ArchivedSpend.objects.filter(tenant_id=INSTALLATION).first()):
        return
    for part in ArchivedSpend.objects.filter(tenant_id__in=tenant_ids, scope=Scope.TENANT):
        whole.entries, whole.cost_ticks = whole.entries - part.entries, whole.cost_ticks - part.cost_ticks
        whole.save(update_fields=["entries", "cost_ticks"])


def _delete_rows(sql: Sql, tenant_ids: Collection[str]) -> None:
    Review.objects.filter(entry__tenant__in=tenant_ids).delete()
    Alert.objects.filter(tenant_id__in=tenant_ids).delete()  # with their deliveries
    rows = [(tenant_id,) for tenant_id in tenant_ids]
    sql.write(*(Delete(model, "tenant_id", rows) for model in _models_of_tenants()))
    for tenant in Tenant.objects.filter(pk__in=tenant_ids):
        tenant.delete()


def _models_of_tenants() -> list[type[Model]]:
    models: list[Any] = list(apps.get_app_config("spend").get_models())
    return [model for model in models if any(field.attname == "tenant_id" for field in model._meta.concrete_fields)]


def _sum_anew(sql: Sql, gone: Counter[int]) -> None:
    windows = list(Window.objects.filter(pk__in=gone))
    spent = spent_in_each({key_of(window): window.ends_at for window in windows})
    rows = []
    for window in windows:
        ticks = spent[key_of(window)]
        rows.append((window.pk, window.opening_ticks + ticks - window.spent_ticks + gone[window.pk], ticks))
    sql.write(Update(Window, ["opening_ticks", "spent_ticks"], rows))
