"""Server-sent events: any split of the same bytes gives the same events, and nothing is too odd to be told."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.sse import DONE, MOST_BYTES, Event, Splitter, encode, parse_event

LINE_ENDS = [b"\n", b"\r\n", b"\r"]

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
chunks = st.dictionaries(texts, st.one_of(texts, st.integers(-(2**53), 2**53), st.none(), st.lists(texts)), max_size=4)
fragments = st.one_of(
    st.sampled_from(
        [b"data: ", b"data:", b"[DONE]", b": ping", b"event: x", b"id: 1", b"\n", b"\r", b"\r\n", b"{}", b"["]
    ),
    st.binary(max_size=6),
)


def split(stream: bytes, cuts: list[int]) -> list[Event]:
    """The events of `stream`, fed in pieces cut at `cuts`."""
    splitter, events, start = Splitter(), [], 0
    for cut in [*sorted(min(cut, len(stream)) for cut in cuts), len(stream)]:
        events += splitter.feed(stream[start:cut])
        start = cut
    return events + splitter.end()


@given(st.lists(fragments).map(b"".join), st.lists(st.integers(0, 200)))
def test_any_split_of_any_bytes_gives_the_same_events(stream: bytes, cuts: list[int]) -> None:
    assert split(stream, cuts) == split(stream, [])


@given(st.lists(chunks), st.sampled_from(LINE_ENDS), st.lists(st.integers(0, 2000)))
def test_what_is_encoded_comes_out_however_it_is_cut(
    sent: list[dict[str, object]], end: bytes, cuts: list[int]
) -> None:
    stream = (b"".join(map(encode, sent)) + DONE).replace(b"\n", end)
    *events, last = split(stream, cuts)
    assert [event.chunk for event in events] == sent
    assert last.is_done
    assert not any(event.is_garbage for event in events)


def test_events_come_as_soon_as_they_are_whole() -> None:
    splitter = Splitter()
    assert splitter.feed(b'data: {"a": 1}\n') == []
    assert [event.chunk for event in splitter.feed(b'\ndata: {"b": 2}\r\n\r\ndata: {"c"')] == [{"a": 1}, {"b": 2}]
    assert splitter.feed(b": 3}") == []
    assert [event.chunk for event in splitter.end()] == [{"c": 3}]


def test_an_event_may_span_lines_and_have_other_fields() -> None:
    assert parse_event(b'event: x\ndata: {"a":\nid: 7\ndata: 1}').chunk == {"a": 1}


@pytest.mark.parametrize("raw", [b": keep-alive", b":", b"event: ping", b"retry: 3000", b"id: 1\n: ping", b"data:"])
def test_what_only_keeps_a_connection_alive_is_no_garbage(raw: bytes) -> None:
    event = parse_event(raw)
    assert (event.raw, event.chunk, event.is_done, event.is_garbage) == (raw, None, False, False)


@pytest.mark.parametrize(
    "raw", [b"data: {", b"data: [1]", b"data: null", b'data: "text"', b"<html>", b"data: \xff", b'data: {"a": NaN}']
)
def test_garbage_is_told_apart_and_what_came_before_it_is_kept(raw: bytes) -> None:
    before, garbage = Splitter().feed(encode({"a": 1}) + raw + b"\n\n")
    assert before.chunk == {"a": 1}
    assert garbage.is_garbage
    assert garbage.chunk is None


def test_an_event_without_an_end_is_garbage_before_it_fills_the_memory() -> None:
    splitter = Splitter()
    assert splitter.feed(b"data: " + b"x" * (MOST_BYTES - 6)) == []
    (event,) = splitter.feed(b"x")
    assert event.is_garbage


@pytest.mark.parametrize(
    ("chunk", "is_error"),
    [({"error": {"message": "m"}}, True), ({"error": "m"}, True), ({"error": None}, False), ({}, False)],
)
def test_errors_are_told_apart(chunk: dict[str, object], is_error: bool) -> None:
    assert parse_event(b"data: " + orjson.dumps(chunk)).is_error is is_error
