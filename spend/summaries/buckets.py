"""The quarter of an hour in which rollups count. Pure."""

from datetime import datetime

BUCKET_MINUTES = 15
"""Every zone's midnight falls on a quarter of an hour UTC, so that any tenant's day is whole buckets."""


def bucket_of(at: datetime) -> datetime:
    """The bucket that `at`, which is in UTC, falls into: the instant at which it begins."""
    return at.replace(minute=at.minute // BUCKET_MINUTES * BUCKET_MINUTES, second=0, microsecond=0)


def begins_a_bucket(at: datetime) -> bool:
    """Whether `at`, in any zone, is the first instant of a bucket."""
    return at.timestamp() % (BUCKET_MINUTES * 60) == 0
