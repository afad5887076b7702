"""What a worker remembers of conversations."""

from datetime import UTC, datetime, timedelta

from guard.policy import last_served
from guard.policy.last_served import CACHED_FOR, Conversations, LastServed
from spend.models import Route
from tests.support.calls import chat_call

NOW = datetime(2026, 6, 15, 12, tzinfo=UTC)
LAST = LastServed("grok-4.3", Route.PRIMARY, 2_000, NOW)


def test_a_prefix_is_cached_while_it_is_fresh_and_long_enough() -> None:
    assert LAST.cached_tokens(NOW + CACHED_FOR) == 2_000
    assert LAST.cached_tokens(NOW + CACHED_FOR + timedelta(seconds=1)) == 0


def test_the_latest_are_remembered_and_no_more_than_so_many() -> None:
    known = Conversations()
    callers = [chat_call(conversation=f"c-{number}").caller for number in range(3)]
    known.note(chat_call().caller, LAST)
    assert not known.known
    for caller in callers:
        known.note(caller, LAST)
    known.note(callers[0], LAST)
    while len(known.known) < last_served.MOST_CONVERSATIONS:
        known.known[("other", str(len(known.known)))] = LAST
    known.note(chat_call(conversation="new").caller, LAST)
    assert known.get(callers[1]) is None
    assert known.get(callers[0]) is LAST
