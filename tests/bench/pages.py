"""How long each page takes, of the busiest tenant and of a middling one: `python -m tests.bench.history pages`."""

import sys
from collections.abc import Iterator
from datetime import timedelta
from statistics import median
from time import perf_counter

from django.contrib.auth.models import User
from django.db import connection, transaction
from django.db.models import Sum
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from spend.models import Call, DailyRollup
from tenants.models import Tenant

TARGET_MS = 300


def measure(times: int) -> None:
    """Ask for every page again and again; print medians, and exit where one misses the target."""
    busiest, middling = _tenants()
    # The login is undone at the end.
    with transaction.atomic():
        client = _client_of_staff()
        slow = [page for page in _pages(busiest, middling) if _measure(client, *page, times)]
        transaction.set_rollback(True)
    if slow:
        sys.exit(f"{len(slow)} pages took {TARGET_MS} ms or more.")


def _measure(client: Client, label: str, address: str, times: int) -> bool:
    """Print a page's median, its slowest and its queries; whether it misses the target."""
    with CaptureQueriesContext(connection) as queries:
        _ask(client, address)
    asked = len(queries)  # the next request empties the log
    taken = sorted(_ask(client, address) for _ in range(times))
    print(f"{label:<44} {median(taken):7.1f} ms   at most {taken[-1]:7.1f} ms   {asked:3} queries")
    return median(taken) >= TARGET_MS


def _tenants() -> tuple[Tenant, Tenant]:
    by_size = DailyRollup.objects.values_list("tenant").annotate(total=Sum("attempts")).order_by("-total")
    ids = [tenant_id for tenant_id, _ in by_size]
    if not ids:
        sys.exit("There is nothing to show: run `python -m tests.bench.history make` first.")
    return Tenant.objects.get(pk=ids[0]), Tenant.objects.get(pk=ids[len(ids) // 2])


def _client_of_staff() -> Client:
    user = User.objects.create(username="bench-pages", is_staff=True)
    client = Client(SERVER_NAME="localhost", raise_request_exception=True)
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return client


def _ask(client: Client, address: str) -> float:
    started = perf_counter()
    response = client.get(address)
    response.getvalue()
    if response.status_code != 200:
        sys.exit(f"{address} answered {response.status_code}.")
    return (perf_counter() - started) * 1000


def _pages(busiest: Tenant, middling: Tenant) -> Iterator[tuple[str, str]]:
    """What to call a page, and its address."""
    yield "overview", reverse("overview")
    yield "overview, live", reverse("live")
    yield "find", reverse("find") + "?q=nobody"
    for label, tenant in (("busiest", busiest), ("middling", middling)):
        for name, parameters in _of_a_tenant(tenant):
            address = reverse(name, args=[tenant.pk])
            yield f"{label}: {name} {parameters}", f"{address}?{parameters}" if parameters else address
        call = Call.objects.filter(tenant=tenant, outcome="served").order_by("-at").first()
        for kind, name in _subjects(tenant, call):
            yield f"{label}: {kind}", f"{reverse('subject', args=[tenant.pk, kind])}?id={name}"
        if call:
            yield f"{label}: call", reverse("call", args=[tenant.pk, call.pk])


def _subjects(tenant: Tenant, call: Call | None) -> Iterator[tuple[str, str]]:
    named = Call.objects.filter(tenant=tenant).exclude(customer="").exclude(conversation="").order_by("-at").first()
    if named:
        yield "customer", named.customer
        yield "conversation", named.conversation
    if call:
        yield "key", str(call.key_id)


def _of_a_tenant(tenant: Tenant) -> Iterator[tuple[str, str]]:
    for span in ("today", "month", "30", "90"):
        yield "tenant", f"span={span}"
    now = timezone.localdate(timezone=tenant.zone)
    yield "statement", f"month={now:%Y-%m}"
    yield "statement", f"month={now.replace(day=1) - timedelta(days=1):%Y-%m}"
    for parameters in ("", "customer=customer-7", "conversation=nobody", "outcome=refused", "outcome=failed"):
        yield "calls", parameters
    for parameters in ("route=downgrade", "route=fallback", "model=bench-small", "model=nobody"):
        yield "calls", parameters
    yield "calls", f"before={(timezone.now() - timedelta(days=60)).isoformat().replace('+', '%2B')}_{'0' * 32}"
    for parameters in ("outcome=refused&model=bench-small", "outcome=refused&model=nobody"):
        yield "calls", parameters
    for name, parameters in (
        ("days_csv", "span=90"),
        ("savings_csv", "span=90"),
        ("hours_csv", ""),
        ("budgets_csv", ""),
    ):
        yield name, parameters
    yield "calls", "sort=cost"
    yield "tenant", f"first={now - timedelta(days=7)}&last={now - timedelta(days=7)}"
    yield "tenant", f"first={now - timedelta(days=7)}&last={now - timedelta(days=7)}&first_time=09:00&last_time=12:00"
    yield "tenant", f"first={now - timedelta(days=365)}&last={now}"
