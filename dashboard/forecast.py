"""Where spending leads at the pace it has now. Pure, in whole ticks and seconds."""

from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True)
class Pace:
    """What was spent in the last `seconds`."""

    ticks: int
    seconds: int

    def ticks_in(self, seconds: int) -> int:
        return self.ticks * max(0, seconds) // self.seconds if self.seconds > 0 else 0

    def seconds_for(self, ticks: int) -> int | None:
        """How long `ticks` last; None for ever."""
        return ticks * self.seconds // self.ticks if self.ticks > 0 else None


def pace_since(ticks: int, first_spend_at: datetime | None, now: datetime, longest: timedelta) -> Pace:
    """The pace over `longest`, or since the first spend if that is not so long ago, but at least an hour."""
    if first_spend_at is None:
        return Pace(0, 0)
    since_first = max(now - first_spend_at, timedelta(hours=1))
    return Pace(ticks, int(min(since_first, longest).total_seconds()))


@dataclass(frozen=True)
class Forecast:
    """`ticks` at the end of the period, at most the hard cap; `runs_out_at` None if what is left lasts until then."""

    ticks: int
    ends_at: datetime
    runs_out_at: datetime | None = None


def forecast(spent_ticks: int, now: datetime, ends_at: datetime, pace: Pace, hard_ticks: int | None = None) -> Forecast:
    """The end of a period that ends at `ends_at`, and when `hard_ticks` are reached, if they are."""
    ahead_s = int((ends_at - now).total_seconds())
    ticks = spent_ticks + pace.ticks_in(ahead_s)
    if hard_ticks is None or ticks < hard_ticks:
        return Forecast(ticks, ends_at)
    lasts_s = pace.seconds_for(max(0, hard_ticks - spent_ticks)) or 0
    return Forecast(max(hard_ticks, spent_ticks), ends_at, min(now + timedelta(seconds=lasts_s), ends_at))
