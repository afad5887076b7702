"""`GET /metrics`: the guard in numbers, as Prometheus text.

Read from the database at each scrape, so it says the same whichever worker answers, and a counter
neither restarts with a process nor misses another's calls.  Amounts are in ticks (1e-10 USD).
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import timedelta
from hmac import compare_digest

from django.conf import settings
from django.db.models import Count, F, Model, Q
from django.http import Http404, HttpRequest, HttpResponse
from django.utils import timezone
from django.views.decorators.http import require_safe
from django_tasks_db.models import DBTaskResult
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from guard.http.authentication import bearer_of
from spend import breakers
from spend.budgets.attention import installation_uses, uses_of
from spend.budgets.usage import Use
from spend.models import Breaker, Call, DailyRollup, Delivery, Outcome, Reservation, ReservationState, Rollup
from spend.summaries.measures import MEASURES, OUTCOMES, sums_of
from tenants.models import Tenant

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LABELS = ("tenant", "model", "route")
CIRCUITS = {
    breakers.State.OPEN: "open, so that it is spared",
    breakers.State.HALF_OPEN: "half-open, so that it is being tried again",
}
STATES = ("active", "warned", "degraded", "stopped")

Sums = dict[tuple[str, ...], dict[str, int]]


@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """404 where METRICS_TOKEN is not set, 401 without it."""
    if not settings.METRICS_TOKEN:
        raise Http404
    given = bearer_of(request.headers) or ""
    if not compare_digest(given.encode(), settings.METRICS_TOKEN.encode()):
        return HttpResponse("A token is needed.\n", "text/plain", 401, headers={"WWW-Authenticate": "Bearer"})
    registry = CollectorRegistry()
    registry.register(GuardCollector())
    return HttpResponse(generate_latest(registry), content_type=CONTENT_TYPE)


class GuardCollector(Collector):
    def describe(self) -> Iterable[Metric]:
        """Nothing: the registry would collect everything once more to find the names."""
        return []

    def collect(self) -> Iterator[Metric]:
        yield from _counters(sums_so_far())
        yield from _budgets()
        yield _gauge(
            "guard_refusals_last_hour",
            "Calls refused or failed in the last hour, by the error's code.",
            ["tenant", "code"],
            _refusals(),
        )
        for state, meaning in CIRCUITS.items():
            name = f"guard_breaker_{state.name.lower()}"
            yield _gauge(name, f"Whether the model's circuit is {meaning}.", ["model"], _breakers(state))
        yield _gauge("guard_holds_pending", "Holds of calls in flight.", [], [((), _pending_holds())])
        yield _gauge("guard_deliveries", "Alerts on their way, by state.", ["state"], _by(Delivery, "state"))
        yield _gauge("guard_tasks", "Background tasks, by status.", ["status"], _by(DBTaskResult, "status"))


def sums_so_far() -> Sums:
    """All that ever happened, by tenant, model and route: finished days, and what came after them.

    In one statement, so that no day is summed twice or not at all while it moves from one to the other.
    """
    after = Q(tenant__rollup_mark=None) | Q(bucket__gte=F("tenant__rollup_mark__through"))
    days, rest = (
        rows.order_by().values_list("tenant_id", "model", "route").annotate(**sums_of(MEASURES))
        for rows in (DailyRollup.objects.all(), Rollup.objects.filter(after))
    )
    sums: Sums = defaultdict(lambda: dict.fromkeys(MEASURES, 0))
    for tenant, model, route, *values in days.union(rest, all=True):
        total = sums[tenant, model, route]
        for name, value in zip(MEASURES, values, strict=True):
            total[name] += int(value)
    return sums


def _counters(sums: Sums) -> Iterator[Metric]:
    calls = CounterMetricFamily("guard_calls", "Calls, by how they ended.", labels=[*LABELS, "outcome"])
    tokens = CounterMetricFamily("guard_tokens", "Tokens that were billed.", labels=[*LABELS, "type"])
    attempts = CounterMetricFamily("guard_attempts", "Attempts that could have been billed.", labels=LABELS)
    cost = CounterMetricFamily("guard_cost_ticks", "What attempts cost, in ticks of 1e-10 USD.", labels=LABELS)
    for key, total in sorted(sums.items()):
        for outcome in OUTCOMES:
            calls.add_metric([*key, outcome], total[outcome])
        for kind in ("input", "cached_input", "output"):
            tokens.add_metric([*key, kind], total[f"{kind}_tokens"])
        attempts.add_metric(key, total["attempts"])
        cost.add_metric(key, total["cost_ticks"])
    yield from (calls, tokens, attempts, cost)


def _budgets() -> Iterator[Metric]:
    """The budgets of tenants and of the installation; those of customers and the like are too many."""
    now, labels = timezone.now(), ["tenant", "period"]
    spent = GaugeMetricFamily("guard_budget_spent_ticks", "Spent in the current period.", labels=labels)
    held = GaugeMetricFamily("guard_budget_held_ticks", "Held by calls in flight.", labels=labels)
    limit = GaugeMetricFamily("guard_budget_limit_ticks", "The limit, with top-ups.", labels=labels)
    state = GaugeMetricFamily("guard_budget_state", "1 for the state it is in.", labels=[*labels, "state"])
    tenants = Tenant.objects.prefetch_related("route_steps", "downgrade_rules")
    uses: list[Use] = [use for _, some in uses_of(list(tenants), now) for use in some]
    for use in [*installation_uses(now), *uses]:
        key = [use.window.tenant_id, str(use.budget.period)]
        spent.add_metric(key, use.window.spent_ticks)
        held.add_metric(key, use.window.held_ticks)
        limit.add_metric(key, use.budget.limit_ticks)
        for name in STATES:
            state.add_metric([*key, name], int(use.state == name))
    yield from (spent, held, limit, state)


def _refusals() -> Iterator[tuple[tuple[str, ...], int]]:
    """A gauge and no counter: calls go when they are old, and the sums that stay know no codes.

    Every column of the index on such calls is given, so that only the hour's are read.
    """
    tenants = list(Tenant.objects.order_by().values_list("pk", flat=True))
    calls = Call.objects.exclude(outcome=Outcome.SERVED).filter(
        tenant__in=tenants, outcome__in=[Outcome.REFUSED, Outcome.FAILED], at__gte=timezone.now() - timedelta(hours=1)
    )
    for tenant, code, count in calls.order_by("tenant", "code").values_list("tenant", "code").annotate(Count("pk")):
        yield (tenant, code), count


def _breakers(state: breakers.State) -> Iterator[tuple[tuple[str, ...], int]]:
    now = timezone.now()
    for row in Breaker.objects.order_by("model_id"):
        yield (row.model_id,), int(breakers.state_of(row, now) is state)


def _pending_holds() -> int:
    return Reservation.objects.filter(state=ReservationState.PENDING).count()


def _by(model: type[Model], field: str) -> Iterator[tuple[tuple[str, ...], int]]:
    for value, count in model._default_manager.order_by(field).values_list(field).annotate(Count("pk")):
        yield (str(value),), count


def _gauge(name: str, text: str, labels: list[str], values: Iterable[tuple[tuple[str, ...], int]]) -> Metric:
    gauge = GaugeMetricFamily(name, text, labels=labels)
    for key, value in values:
        gauge.add_metric(key, value)
    return gauge
