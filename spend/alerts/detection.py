"""Alerts: what is told once, and found out beside the calls, never by them.

Two passes.  `look_at_changed` runs every other second over the windows whose spend has risen since it
last looked, by an index that has only those.  `look_at_all` runs every minute over the windows of
tenants and of the installation: limits change without a spend, time passes, calls are refused.

Two passes may run at once, here and elsewhere, and see the same.  What is told is decided by one row
that is inserted or, if it stands already, ignored (`tell`); never by reading first.
"""

from collections import defaultdict
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.db import connection, transaction
from django.db.models import F, OuterRef, Q, QuerySet, Subquery, Sum

from spend.budgets.refusing import OVER_BUDGET
from spend.codes import StepCode
from spend.ledger.rules import WindowKey
from spend.ledger.window_opening import spent_in
from spend.models import Alert, AlertKind, Call, Delivery, Outcome, Rollup, Window
from spend.sql import Sql, Update
from spend.summaries.buckets import bucket_of
from tenants.budgets import EffectiveBudget, budgets_in_force
from tenants.models import AlertChannel, Scope, Tenant
from tenants.money import TICKS_PER_USD
from tenants.periods import Period, bounds

BATCH = 500
UNSERVED = (Outcome.REFUSED, Outcome.HANDED_OFF)
REFUSED_WITHIN = timedelta(minutes=2)
MOST_REFUSALS = 1000
"""Of a tenant in that time, the newest: a budget that refuses goes on refusing."""

WHOLE = 100
FORECAST_AFTER = 8
"""A forecast is made once this fraction of the period (one eighth) is over: before, one call decides it."""

SPIKE_PERCENT = 300
SPIKE_COMPARED_WITH = timedelta(days=7)
SPIKE_NEEDS = timedelta(days=1)
SMALLEST_SPIKE_TICKS = TICKS_PER_USD // 10

Budgets = Mapping[tuple[str, str, str], EffectiveBudget]
"""By tenant, scope and period."""


@dataclass(frozen=True)
class BoundedWindow:
    """A window with the budget that bounds it, and whether it is nearly spent and so refused a call just now."""

    window: Window
    budget: EffectiveBudget
    is_refusing: bool = False


class Refusal(NamedTuple):
    """A window that refused a call, and the bounds under which it did."""

    tenant_id: str
    scope: str
    period: str
    starts_at: datetime
    limit_ticks: int
    hard_ticks: int


def look_at_changed(now: datetime) -> list[Alert]:
    """Tell of thresholds that spend has crossed. Returns what is new."""
    told: list[Alert] = []
    while True:
        rising = Window.objects.filter(spent_ticks__gt=F("looked_ticks")).order_by("id")
        windows = list(rising[:BATCH])
        if not windows:
            return told
        bounded = _bounded(windows, now)
        bounded = list(_armed(bounded, now))
        told += tell([alert for each in bounded for alert in crossed(each, now)])
        overtaken = {each.window.id for each in bounded} - {each.window.id for each in bounded}
        _mark_checked([window for window in windows if window.id not in overtaken])
        if overtaken or len(windows) < BATCH:
            return told


def look_at_all(now: datetime) -> list[Alert]:
    """Tell of thresholds, forecasts and spikes of tenants and of the installation. Returns what is new."""
    alerts: list[Alert] = []
    refusals = _refusals(now)
    windows = Window.objects.filter(Q(ends_at__gt=now) | Q(ends_at=None), scope__in=[Scope.TENANT, Scope.INSTALLATION])
    for some in _in_batches(windows.filter(starts_at__lte=now).order_by("id")):
        for bounded in _with_refusals(_armed(_bounded(some, now), now), refusals):
            alerts += [*crossed(bounded, now), *running_out(bounded, now)]
    return tell([*alerts, *spikes(now)])


def tell(alerts: Iterable[Alert]) -> list[Alert]:
    """Record the alerts that nobody recorded yet, and owe each to its channels, in one transaction."""
    # In one order everywhere: two passes that insert the same rows wait for each other, but don't deadlock.
    rows = sorted(_untold(list(alerts)), key=_key)
    return _record(rows) if rows else []


def _record(rows: Sequence[Alert]) -> list[Alert]:
    with transaction.atomic():
        Alert.objects.bulk_create(rows, ignore_conflicts=True)
        # Ids are made here, so the rows that carry ours are those that we inserted.
        new = list(Alert.objects.filter(pk__in=[row.pk for row in rows]))
        Delivery.objects.bulk_create(_deliveries(new))
    return new


def tell_handed_off(window: WindowKey, ends_at: datetime | None, now: datetime) -> list[Alert]:
    """Tell, once, that calls of this conversation, customer or tenant are handed off in the window's period.

    Told by the call itself and not found out later: a person is waiting. No amount is in it.
    """
    facts = window._asdict()
    return _record([Alert(**facts, ends_at=ends_at, kind=AlertKind.HANDED_OFF, spent_ticks=0, at=now)])


def _untold(alerts: Sequence[Alert]) -> list[Alert]:
    """Those that no row is seen of, which only spares needless inserts, and that say something new."""
    tenants = {alert.tenant_id for alert in alerts}
    starts = {alert.starts_at for alert in alerts}
    found = Alert.objects.filter(tenant_id__in=tenants, starts_at__in=starts, kind__in={each.kind for each in alerts})
    told = set(map(_key, found))
    untold = [alert for alert in alerts if _key(alert) not in told]
    before = _told_in_another_zone(untold)
    return [alert for alert in untold if not any(_is_same_money(alert, each) for each in before[_subject_of(alert)])]


def _told_in_another_zone(alerts: Sequence[Alert]) -> Mapping[tuple[str, ...], list[Alert]]:
    """What was told since the periods of `alerts` began, by `_subject_of`: `_is_same_money` picks of it."""
    found = defaultdict[tuple[str, ...], list[Alert]](list)
    dated = [alert for alert in alerts if alert.ends_at]
    if dated:
        since = min(alert.starts_at for alert in dated)
        for alert in _alerts_since(since, dated):
            found[_subject_of(alert)].append(alert)
    return found


def _alerts_since(since: datetime, alike: Sequence[Alert]) -> QuerySet[Alert]:
    """Of the same tenants and kinds as `alike`."""
    kinds, tenants = {alert.kind for alert in alike}, {alert.tenant_id for alert in alike}
    return Alert.objects.filter(tenant_id__in=tenants, kind__in=kinds, at__gte=since)


def _subject_of(alert: Alert) -> tuple[str, ...]:
    """What an alert is about, but for when the period began and its bounds were set."""
    parts = (alert.tenant_id, alert.scope, alert.subject, alert.period, alert.kind, alert.percent, alert.limit_ticks)
    return tuple(map(str, parts))


def _is_same_money(alert: Alert, before: Alert) -> bool:
    """Whether `before`, told while the tenant had another time zone, has told what `alert` would.

    It has if it was told in this period, and what it told of had been spent in this period by then. Of the
    same zone only alerts of this very period were told in it.
    """
    if before.starts_at == alert.starts_at or before.at < max(alert.starts_at, alert.armed_at):
        return False
    if alert.kind != AlertKind.THRESHOLD:
        return True
    key = WindowKey(**{name: getattr(alert, name) for name in WindowKey._fields})
    spent_ticks = spent_in(key, before.at)
    return bool(spent_ticks >= min(before.spent_ticks, alert.limit_ticks * alert.percent // WHOLE))


def _key(alert: Alert) -> tuple[str, ...]:
    parts = (alert.tenant_id, alert.scope, alert.subject, alert.period, alert.starts_at.isoformat(), alert.kind)
    return (*map(str, parts), str(alert.percent), str(alert.limit_ticks), alert.armed_at.isoformat())


def _deliveries(alerts: Sequence[Alert]) -> Iterator[Delivery]:
    of_tenants = Q(tenant__isnull=True) | Q(tenant__in={alert.tenant_id for alert in alerts})
    channels = list(AlertChannel.objects.filter(of_tenants, is_active=True))
    for alert in alerts:
        for channel in channels:
            if channel.tenant_id in (None, alert.tenant_id):
                yield Delivery(alert=alert, channel=channel, due_at=alert.at)


def crossed(bounded: BoundedWindow, now: datetime) -> Iterator[Alert]:
    """An alert for each of the budget's percents that the window has reached.

    A budget that has reached its hard cap has no more to give: it has reached all. One that refuses has
    reached the last of them, and of the others those that it has spent.
    """
    window, budget = bounded.window, bounded.budget
    is_over = window.spent_ticks >= budget.hard_ticks
    for percent in budget.alert_percents:
        is_reached = is_over or (bounded.is_refusing and percent == WHOLE)
        if is_reached or window.spent_ticks * 100 >= budget.limit_ticks * percent:
            yield _alert_of(bounded, AlertKind.THRESHOLD, now, percent)


def running_out(bounded: BoundedWindow, now: datetime) -> Iterator[Alert]:
    """An alert where the window's spend so far, at this rate, passes the hard cap before the period ends."""
    window, hard_ticks = bounded.window, bounded.budget.hard_ticks
    if window.ends_at is None or window.spent_ticks >= hard_ticks:
        return
    whole_s = int((window.ends_at - window.starts_at).total_seconds())
    elapsed_s = int((now - window.starts_at).total_seconds())
    if elapsed_s * FORECAST_AFTER >= whole_s and window.spent_ticks * whole_s > hard_ticks * elapsed_s:
        yield _alert_of(bounded, AlertKind.FORECAST, now)


def _alert_of(bounded: BoundedWindow, kind: AlertKind, now: datetime, percent: int = 0) -> Alert:
    window = bounded.window
    return Alert(
        **{name: getattr(window, name) for name in WindowKey._fields},
        ends_at=window.ends_at,
        kind=kind,
        percent=percent,
        limit_ticks=bounded.budget.limit_ticks,
        armed_at=window.armed_at,
        spent_ticks=window.spent_ticks,
        at=now,
    )


def spikes(now: datetime) -> Iterator[Alert]:
    """An alert a day for each tenant whose spend in this hour is over three times its usual hour.

    Usual is the average of the last seven days, or of those since its first call; it may be nothing.
    """
    hour = now.replace(minute=0, second=0, microsecond=0)
    this_hour = {tenant: ticks for tenant, ticks in _spent(hour, now) if ticks >= SMALLEST_SPIKE_TICKS}
    before = dict(_spent(hour - SPIKE_COMPARED_WITH, hour, this_hour))
    first = Rollup.objects.filter(tenant=OuterRef("pk")).order_by("bucket").values("bucket")[:1]
    for tenant in Tenant.objects.filter(pk__in=this_hour).annotate(first=Subquery(first)):
        known = min(hour - tenant.first, SPIKE_COMPARED_WITH)
        hours = int(known.total_seconds()) // 3600
        if known >= SPIKE_NEEDS and this_hour[tenant.id] * hours * 100 > before.get(tenant.id, 0) * SPIKE_PERCENT:
            yield _spike_of(tenant, this_hour[tenant.id], now)


def _spike_of(tenant: Tenant, spent_ticks: int, now: datetime) -> Alert:
    day = bounds(Period.DAY, tenant.zone, now)
    return Alert(
        tenant_id=tenant.id,
        scope=Scope.TENANT,
        period=Period.DAY,
        starts_at=day.starts_at,
        ends_at=day.ends_at,
        kind=AlertKind.SPIKE,
        percent=SPIKE_PERCENT,
        spent_ticks=spent_ticks,
        at=now,
    )


def _spent(start: datetime, end: datetime, tenant_ids: Collection[str] | None = None) -> Iterable[tuple[str, int]]:
    rollups = Rollup.objects.filter(bucket__gte=start, bucket__lt=end).order_by()
    rollups = rollups if tenant_ids is None else rollups.filter(tenant__in=tenant_ids)
    return rollups.values_list("tenant_id").annotate(Sum("cost_ticks"))


def budgets_of(tenant_ids: Collection[str], now: datetime) -> Budgets:
    """The budgets in force of these tenants ("" is the installation), by a few queries for all."""
    in_force = budgets_in_force(now, list(Tenant.objects.filter(pk__in=tenant_ids)))
    of_all = {"": in_force.of_installation, **in_force.of_tenants}
    return {(owner, budget.scope, budget.period): budget for owner, budgets in of_all.items() for budget in budgets}


def _bounded(windows: Sequence[Window], now: datetime) -> list[BoundedWindow]:
    """The windows that a budget still bounds. One of nothing is no threshold to cross.

    The budgets are read after the windows, and so are never older than what a window says of them.
    """
    budgets = budgets_of({window.tenant_id for window in windows}, now)
    of_windows = [(window, budgets.get((window.tenant_id, window.scope, window.period))) for window in windows]
    return [BoundedWindow(window, budget) for window, budget in of_windows if budget and budget.limit_ticks]


def _armed(bounded: Iterable[BoundedWindow], now: datetime) -> Iterator[BoundedWindow]:
    """The windows, armed again where their limit or hard cap is another than when alerts last looked.

    Those that another pass armed meanwhile are left to it.
    """
    for each in bounded:
        window, budget = each.window, each.budget
        bounds = (budget.limit_ticks, budget.hard_ticks)
        if bounds == (window.looked_limit_ticks, window.looked_hard_ticks) or _arm(window, bounds, now):
            yield each


def _arm(window: Window, bounds: tuple[int, int], now: datetime) -> bool:
    """Note the new bounds, unless another pass has seen others since; the first that are seen only are noted."""
    seen = {"looked_limit_ticks": window.looked_limit_ticks, "looked_hard_ticks": window.looked_hard_ticks}
    unchanged = Window.objects.filter(pk=window.pk, armed_at=window.armed_at, **seen)
    # A pass whose clock is behind may see a top-up that is over, or not begun, for the others.
    if now <= window.armed_at:
        return False
    window.armed_at = now if window.looked_limit_ticks else window.armed_at
    window.looked_limit_ticks, window.looked_hard_ticks = bounds
    noted = {name: getattr(window, name) for name in (*seen, "armed_at")}
    return bool(unchanged.update(**noted))


def _with_refusals(bounded: Iterable[BoundedWindow], refusals: Container[Refusal]) -> Iterator[BoundedWindow]:
    """Marks the windows that refused a call just now, and would today: under the very bounds they have now.

    A budget refuses what does not fit any more, and so may never be spent to its last tick. Before the
    soft cap a refusal says only that the call was large.
    """
    for each in bounded:
        window, budget = each.window, each.budget
        refusal = Refusal(
            window.tenant_id, window.scope, window.period, window.starts_at, budget.limit_ticks, budget.hard_ticks
        )
        is_refusing = window.spent_ticks >= budget.soft_ticks and refusal in refusals
        yield BoundedWindow(window, budget, is_refusing)


def _refusals(now: datetime) -> set[Refusal]:
    """The windows of tenants and of the installation that refused a call just now, as `guard.chat.flow` noted it."""
    since = now - REFUSED_WITHIN
    some = Q(refused__gt=0) | Q(handoff__gt=0)
    suspects = Rollup.objects.filter(some, bucket__gte=bucket_of(since)).order_by()
    refused = Call.objects.filter(outcome__in=UNSERVED, code=OVER_BUDGET, at__gte=since).order_by("-at")
    found: set[Refusal] = set()
    for tenant_id in set(suspects.values_list("tenant_id", flat=True)):
        stories = refused.filter(tenant=tenant_id).values_list("steps", flat=True)
        found.update(refusal for steps in stories[:MOST_REFUSALS] for refusal in _noted(tenant_id, steps))
    return found


def _noted(tenant_id: str, steps: Iterable[Mapping[str, Any]]) -> Iterator[Refusal]:
    owners = {Scope.TENANT.value: tenant_id, Scope.INSTALLATION.value: ""}
    for step in steps:
        if step.get("decision") in {StepCode.REFUSED, StepCode.HANDED_OFF} and step.get("scope") in owners:
            starts_at = datetime.fromisoformat(step["starts_at"])
            bounds = (step["limit_ticks"], step["hard_ticks"])
            yield Refusal(owners[step["scope"]], step["scope"], step["period"], starts_at, *bounds)


def _mark_checked(windows: Sequence[Window]) -> None:
    sql = Sql.on(connection)
    with transaction.atomic():
        # The ledger's order of locks, or the two could wait for each other for ever.
        sql.lock(Window, ["id"], [window.id for window in windows])
        sql.write(Update(Window, ["looked_ticks"], [(window.id, window.spent_ticks) for window in windows]))


def _in_batches(windows: QuerySet[Window]) -> Iterator[list[Window]]:
    """By id, each by a query of its own: on SQLite an open cursor would bar this connection from writing."""
    last = 0
    while some := list(windows.filter(pk__gt=last)[:BATCH]):
        last = some[-1].pk
        yield some
