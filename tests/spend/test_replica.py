"""Which database the figures of a page are read from; with a real replica: `tests/cluster/test_replica.py`."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User

from spend import replica
from spend.models import Call
from spend.replica import ALIAS, PRIMARY, ReportsRouter, Source
from tenants.models import Tenant

NOW = datetime(2026, 12, 1, 14, 3, 12, tzinfo=UTC)
REVISION = 7


@pytest.mark.parametrize(
    ("answer", "source"),
    [
        ((7, True, True, None), Source(ALIAS, NOW)),
        ((7, True, True, NOW - timedelta(days=1)), Source(ALIAS, NOW)),  # the primary has had nothing to do since
        ((7, True, False, NOW - timedelta(seconds=2)), Source(ALIAS, NOW - timedelta(seconds=2), timedelta(seconds=2))),
        ((7, True, False, None), PRIMARY),
        ((6, True, False, NOW), PRIMARY),
        ((7, False, None, None), PRIMARY),
    ],
    ids=["as far", "idle", "behind", "by an unknown time", "has not heard of a change", "promoted"],
)
def test_what_a_replica_says_of_itself(answer: tuple[Any, ...], source: Source) -> None:
    assert replica._source_of(answer, REVISION, NOW) == source


def test_figures_that_are_a_moment_old_need_no_notice() -> None:
    assert not Source(ALIAS, NOW, timedelta(milliseconds=300)).is_noticeably_behind
    assert Source(ALIAS, NOW, timedelta(seconds=2)).is_noticeably_behind
    assert Source(ALIAS, NOW).headers == {"X-Guard-As-Of": "2026-12-01T14:03:12.000+00:00"}
    assert PRIMARY.headers == {}


def test_only_what_a_report_reads_of_ours_is_read_there() -> None:
    router = ReportsRouter()
    assert {router.db_for_read(model) for model in (Call, Tenant, User)} == {"default"}
    with replica._reading_from(Source(ALIAS, NOW)):
        assert [router.db_for_read(model) for model in (Call, Tenant, User)] == [ALIAS, ALIAS, "default"]
        assert router.db_for_write(Call, instance=Call()) == "default"
        with replica.on_primary():
            assert router.db_for_read(Tenant) == "default"
    assert router.db_for_read(Call) == "default"
    assert not router.allow_migrate(ALIAS, "spend")


def test_without_a_replica_nothing_is_asked() -> None:
    """No database may be used in this test."""
    assert replica.read(replica.source) == PRIMARY
