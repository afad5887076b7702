"""The quarter of an hour in which rollups count."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

import pytest

from spend.summaries.buckets import begins_a_bucket, bucket_of
from tenants.periods import Period, bounds

pytestmark = pytest.mark.pure


def test_a_bucket_begins_at_or_before_what_falls_into_it() -> None:
    for minute in range(60):
        at = datetime(2026, 7, 1, 23, minute, 59, 999_999, tzinfo=UTC)
        bucket = bucket_of(at)
        assert begins_a_bucket(bucket)
        assert timedelta(0) <= at - bucket < timedelta(minutes=15)
        assert not begins_a_bucket(at)


def test_every_zones_days_are_whole_buckets() -> None:
    """Those of the year in which the clocks change and those in which they don't, whatever the offset is."""
    for name in sorted(available_timezones()):
        for month in (1, 4, 7, 10):
            day = bounds(Period.DAY, ZoneInfo(name), datetime(2026, month, 5, 12, tzinfo=UTC))
            assert begins_a_bucket(day.starts_at), name
