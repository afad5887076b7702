"""Alerts: what is told once, and found out beside the calls, never by them.

Two passes.  `look_at_changed` runs every other second over the windows whose spend has risen since it
last looked, by an index that has only those.  `look_at_all` runs every minute over the windows of
tenants and of the installation: limits change without a spend, time passes, calls are refused.

Two passes may run at once, here and elsewhere, and see the same.  What is told is decided by one row
that is inserted or, if it stands already, ignored (`tell`); never by reading first.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import connection, transaction
from django.db.models import F, Min, Q, Sum

from spend.ledger import WindowKey
from spend.models import Alert, AlertKind, Call, Delivery, Outcome, Rollup, Window
from spend.posting import bucket_of
from spend.sql import Sql, Update
from tenants.budgets import EffectiveBudget, effective_budgets, installation_budgets
from tenants.models import AlertChannel, Budget, Scope, Tenant, TopUp
from tenants.money import TICKS_PER_USD
from tenants.periods import Period, bounds

BATCH = 500
REFUSED_WITHIN = timedelta(minutes=2)
FORECAST_AFTER = 8
"""A forecast is made once this fraction of the period (one eighth) is over: before, one call decides it."""

SPIKE_PERCENT = 300
SPIKE_COMPARED_WITH = timedelta(days=7)
SPIKE_NEEDS = timedelta(days=1)
SMALLEST_SPIKE_TICKS = TICKS_PER_USD // 10

Budgets = Mapping[tuple[str, str, str], EffectiveBudget]
"""By tenant, scope and period."""


@dataclass(frozen=True)
class Looked:
    """A window with the budget that bounds it, and whether it refused a call just now."""

    window: Window
    budget: EffectiveBudget
    is_refusing: bool = False


def look_at_changed(now: datetime) -> list[Alert]:
    """Tell of thresholds that spend has crossed. Returns what is new."""
    told: list[Alert] = []
    while True:
        rising = Window.objects.filter(spent_ticks__gt=F("looked_ticks")).order_by("id")
        windows = list(rising[:BATCH])
        budgets = budgets_of({window.tenant_id for window in windows}, now)
        told += tell([alert for looked in _bounded(windows, budgets) for alert in crossed(looked, now)])
        _mark_looked(windows)
        if len(windows) < BATCH:
            return told


def look_at_all(now: datetime) -> list[Alert]:
    """Tell of thresholds, forecasts and spikes of tenants and of the installation. Returns what is new."""
    alerts: list[Alert] = []
    windows = Window.objects.filter(Q(ends_at__gt=now) | Q(ends_at=None), scope__in=[Scope.TENANT, Scope.INSTALLATION])
    for some in _in_batches(windows.filter(starts_at__lte=now).order_by("id").iterator(BATCH)):
        budgets = budgets_of({window.tenant_id for window in some}, now)
        for looked in _with_refusals(list(_bounded(some, budgets)), now):
            alerts += [*crossed(looked, now), *running_out(looked, now)]
    return tell([*alerts, *spikes(now)])


def tell(alerts: Iterable[Alert]) -> list[Alert]:
    """Record the alerts that nobody recorded yet, and owe each to its channels, in one transaction."""
    # In one order everywhere: two passes that insert the same rows wait for each other, but don't deadlock.
    rows = sorted(_untold(list(alerts)), key=_key)
    if not rows:
        return []
    with transaction.atomic():
        Alert.objects.bulk_create(rows, ignore_conflicts=True)
        # Ids are made here, so the rows that carry ours are those that we inserted.
        new = list(Alert.objects.filter(pk__in=[row.pk for row in rows]))
        Delivery.objects.bulk_create(_deliveries(new))
    return new


def _untold(alerts: Sequence[Alert]) -> list[Alert]:
    """Those that no row is seen of; only spares needless inserts, and decides nothing."""
    tenants = {alert.tenant_id for alert in alerts}
    starts = {alert.starts_at for alert in alerts}
    told = {_key(alert) for alert in Alert.objects.filter(tenant_id__in=tenants, starts_at__in=starts)}
    return [alert for alert in alerts if _key(alert) not in told]


def _key(alert: Alert) -> tuple[str, ...]:
    parts = (alert.tenant_id, alert.scope, alert.subject, alert.period, alert.starts_at.isoformat(), alert.kind)
    return (*map(str, parts), str(alert.percent), str(alert.limit_ticks))


def _deliveries(alerts: Sequence[Alert]) -> Iterator[Delivery]:
    of_tenants = Q(tenant__isnull=True) | Q(tenant__in={alert.tenant_id for alert in alerts})
    channels = list(AlertChannel.objects.filter(of_tenants, is_active=True))
    for alert in alerts:
        for channel in channels:
            if channel.tenant_id in (None, alert.tenant_id):
                yield Delivery(alert=alert, channel=channel, due_at=alert.at)


def crossed(looked: Looked, now: datetime) -> Iterator[Alert]:
    """An alert for each of the budget's percents that the window has reached.

    A budget that refuses calls, or has reached its hard cap, has no more to give: it has reached all.
    """
    window, budget = looked.window, looked.budget
    is_over = looked.is_refusing or window.spent_ticks >= budget.hard_ticks
    for percent in budget.alert_percents:
        if is_over or window.spent_ticks * 100 >= budget.limit_ticks * percent:
            yield _alert_of(looked, AlertKind.THRESHOLD, now, percent)


def running_out(looked: Looked, now: datetime) -> Iterator[Alert]:
    """An alert where the window's spend so far, at this rate, passes the hard cap before the period ends."""
    window, hard_ticks = looked.window, looked.budget.hard_ticks
    if window.ends_at is None or window.spent_ticks >= hard_ticks:
        return
    whole_s = int((window.ends_at - window.starts_at).total_seconds())
    elapsed_s = int((now - window.starts_at).total_seconds())
    if elapsed_s * FORECAST_AFTER >= whole_s and window.spent_ticks * whole_s > hard_ticks * elapsed_s:
        yield _alert_of(looked, AlertKind.FORECAST, now)


def _alert_of(looked: Looked, kind: AlertKind, now: datetime, percent: int = 0) -> Alert:
    window = looked.window
    return Alert(
        **{name: getattr(window, name) for name in WindowKey._fields},
        ends_at=window.ends_at,
        kind=kind,
        percent=percent,
        limit_ticks=looked.budget.limit_ticks,
        spent_ticks=window.spent_ticks,
        at=now,
    )


def spikes(now: datetime) -> Iterator[Alert]:
    """An alert a day for each tenant whose spend in this hour is over three times its usual hour."""
    hour = now.replace(minute=0, second=0, microsecond=0)
    this_hour = {tenant: ticks for tenant, ticks in _spent_since(hour) if ticks >= SMALLEST_SPIKE_TICKS}
    before = Rollup.objects.filter(tenant__in=this_hour, bucket__gte=hour - SPIKE_COMPARED_WITH, bucket__lt=hour)
    usual = before.order_by().values_list("tenant_id").annotate(Sum("cost_ticks"), Min("bucket"))
    zones = {tenant.id: tenant.zone for tenant in Tenant.objects.filter(pk__in=this_hour)}
    for tenant_id, ticks, first in usual:
        hours = int((hour - first).total_seconds()) // 3600
        if hour - first >= SPIKE_NEEDS and this_hour[tenant_id] * hours * 100 > ticks * SPIKE_PERCENT:
            day = bounds(Period.DAY, zones[tenant_id], now)
            yield Alert(
                tenant_id=tenant_id,
                scope=Scope.TENANT,
                period=Period.DAY,
                starts_at=day.starts_at,
                ends_at=day.ends_at,
                kind=AlertKind.SPIKE,
                percent=SPIKE_PERCENT,
                spent_ticks=this_hour[tenant_id],
                at=now,
            )


def _spent_since(start: datetime) -> Iterable[tuple[str, int]]:
    spent = Rollup.objects.filter(bucket__gte=start).order_by()
    return spent.values_list("tenant_id").annotate(Sum("cost_ticks"))


def budgets_of(tenant_ids: Collection[str], now: datetime) -> Budgets:
    """The budgets in force of these tenants ("" is the installation), by a few queries for all."""
    tenants = list(Tenant.objects.filter(pk__in=tenant_ids))
    rows = list(Budget.objects.filter(Q(tenant__in=tenants) | Q(tenant__isnull=True)))
    running = TopUp.objects.running_at(now).filter(tenant__in=tenants).order_by()
    top_ups = dict(running.values_list("tenant_id").annotate(Sum("amount_ticks")))
    whole = installation_budgets(row for row in rows if row.tenant_id is None)
    found = {("", budget.scope, budget.period): budget for budget in whole}
    for tenant in tenants:
        own = [row for row in rows if row.tenant_id == tenant.id]
        for budget in effective_budgets(tenant, own, top_ups.get(tenant.id, 0)):
            found[tenant.id, budget.scope, budget.period] = budget
    return found


def _bounded(windows: Iterable[Window], budgets: Budgets) -> Iterator[Looked]:
    """The windows that a budget still bounds. One of nothing is no threshold to cross."""
    for window in windows:
        budget = budgets.get((window.tenant_id, window.scope, window.period))
        if budget and budget.limit_ticks:
            yield Looked(window, budget)


def _with_refusals(looked: Sequence[Looked], now: datetime) -> Iterator[Looked]:
    """Marks, of each tenant that was refused just now for its budget, the window nearest its hard cap.

    A budget refuses what does not fit any more, and so may never be spent to its last tick.
    """
    refused = _refused_tenants({each.window.tenant_id for each in looked}, now)
    fullest: dict[str, Looked] = {}
    for each in looked:
        other = fullest.setdefault(each.window.tenant_id, each)
        if _left(each) < _left(other):
            fullest[each.window.tenant_id] = each
    for each in looked:
        is_refusing = each.window.tenant_id in refused and fullest[each.window.tenant_id] is each
        yield Looked(each.window, each.budget, is_refusing)


def _left(looked: Looked) -> int:
    left_ticks: int = looked.budget.hard_ticks - looked.window.spent_ticks
    return left_ticks


def _refused_tenants(tenant_ids: Collection[str], now: datetime) -> set[str]:
    recent = Rollup.objects.filter(tenant__in=tenant_ids, bucket__gte=bucket_of(now - REFUSED_WITHIN), refused__gt=0)
    suspects = set(recent.order_by().values_list("tenant_id", flat=True).distinct())
    refused = Call.objects.filter(outcome=Outcome.REFUSED, code="budget_exceeded", at__gte=now - REFUSED_WITHIN)
    return {tenant_id for tenant_id in suspects if refused.filter(tenant=tenant_id).exists()}


def _mark_looked(windows: Sequence[Window]) -> None:
    sql = Sql.on(connection)
    with transaction.atomic():
        # The ledger's order of locks, or the two could wait for each other for ever.
        sql.lock(Window, ["id"], [window.id for window in windows])
        sql.write(Update(Window, ["looked_ticks"], [(window.id, window.spent_ticks) for window in windows]))


def _in_batches(windows: Iterator[Window]) -> Iterator[list[Window]]:
    some: list[Window] = []
    for window in windows:
        some.append(window)
        if len(some) == BATCH:
            yield some
            some = []
    if some:
        yield some
