"""Counts and sums speak of the same calls, those that their worker never ended too; and so they do after an upgrade."""

from collections.abc import Callable
from csv import DictReader
from dataclasses import replace
from datetime import timedelta

import pytest
from django.http import StreamingHttpResponse
from django.test import Client
from django.utils import timezone

from spend.ledger.audit import audit
from spend.ledger.leases import expire_reservations
from spend.ledger.posting import Posting
from spend.ledger.rules import Held, Record, Reserved
from spend.models import Call, DailyRollup, Outcome, Rollup, RollupMark
from spend.summaries.daily import catch_up, misfits
from spend.summaries.reports import GroupBy, Selection, report
from tests.factories import TenantFactory, UserFactory
from tests.guard.telemetry.test_prometheus import TOKEN, scrape
from tests.support.agents import audit as audit_of
from tests.support.books import assert_the_books_balance
from tests.support.commands import NOON, caller_of, record_of, reserve_of, settle_of
from tests.support.server import GuardServer

db = pytest.mark.django_db
many = pytest.mark.django_db(transaction=True)


def hold(ticks: int, customer: str) -> Reserved:
    (held,) = Posting().post([reserve_of([], ticks, NOON, caller=caller_of(customer=customer, conversation=customer))])
    assert isinstance(held, Held)
    return held.reserved


def make_calls() -> None:
    """One that was served, one that a worker died of, one that may have been billed and failed; one refused."""
    served, failed = hold(100, "served"), hold(100, "failed")
    hold(100, "interrupted")
    Posting().post([settle_of(served, 100), record_of(served, 100), settle_of(failed, None)])
    record = replace(record_of(failed, 100), outcome=Outcome.FAILED, code="all_models_failed")
    Posting().post([record])
    Posting().post([Record(caller_of(customer="refused"), Outcome.REFUSED, NOON, code="budget_exceeded")])
    expire_reservations()


@db
@pytest.mark.parametrize("is_summed", [False, True])
def test_whatever_is_charged_is_counted_everywhere(client: Client, settings: object, is_summed: bool) -> None:
    settings.METRICS_TOKEN = TOKEN  # type: ignore[attr-defined]
    tenant = TenantFactory.create(id="acme", time_zone="UTC")
    make_calls()
    if is_summed:
        catch_up(timezone.now())
        assert misfits() == []
    for selection in (Selection("acme"), Selection("acme", ends_at=NOON + timedelta(seconds=1))):  # rollups, and calls
        found = report(selection)
        assert (found.totals.calls, found.totals.cost_ticks, found.calls_by_model) == (3, 300, {"model": 3})
    for by in (GroupBy.CUSTOMER, GroupBy.CONVERSATION, GroupBy.DAY):
        groups = report(Selection("acme"), by).groups.values()
        assert sum(sums.calls for sums in groups) == 3
        assert all(sums.cost_ticks == 100 * sums.calls for sums in groups)
    counters = scrape(client)
    labels = (("model", "model"), ("route", "primary"), ("tenant", "acme"))
    assert counters["guard_cost_ticks_total", labels] == 300
    calls = {
        key[1]: value for key, value in counters.items() if key[0] == "guard_calls_total" and set(labels) < set(key[1])
    }
    assert sum(calls.values()) == 3
    client.force_login(UserFactory.create(is_staff=True, is_superuser=True))
    answer = client.get(f"/tenants/{tenant.id}/days.csv?month={NOON:%Y-%m}")
    assert isinstance(answer, StreamingHttpResponse)
    lines = answer.getvalue().decode().removeprefix("\ufeff").splitlines()
    (row,) = [row for row in DictReader(lines) if row["model"]]
    assert [row[name] for name in ("served", "refused", "failed")] == ["1", "0", "2"]


@many
def test_the_migration_counts_what_was_charged_before(guard_server: Callable[..., GuardServer]) -> None:
    server = guard_server(start=False)
    with server.database():
        TenantFactory.create(id="acme", time_zone="Asia/Kathmandu")
        make_calls()
        # As it was: of an interrupted call there was no record, and one that failed named no model.
        Call.objects.filter(code="interrupted").delete()
        Call.objects.filter(code="all_models_failed").update(model="", route="")
        Rollup.objects.filter(model="model").update(failed=0)
        Rollup.objects.filter(model="").update(failed=1)
        catch_up(timezone.now())
        assert any("is not recorded" in line for line in audit().discrepancies)
        assert report(Selection("acme")).totals.calls == 1
    server.command("migrate", "spend", "0012")
    server.command("migrate", "spend")
    with server.database():
        assert report(Selection("acme")).totals.calls == 3
        assert report(Selection("acme"), GroupBy.CUSTOMER).totals.calls == 3
        call = Call.objects.get(customer="interrupted")
        assert (call.outcome, call.code, call.at, call.model, call.cost_ticks) == (
            "failed",
            "interrupted",
            NOON,
            "model",
            100,
        )
        assert RollupMark.objects.get().through > NOON
        assert DailyRollup.objects.values_list("served", "failed").get(model="model") == (1, 2)
        assert misfits() == []
        assert_the_books_balance()
    audit_of(server)
