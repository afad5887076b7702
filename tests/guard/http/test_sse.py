"""Server-sent events: any split of the same bytes gives the same events, and nothing is too odd to be told."""

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.http.sse import BOM, DONE, MOST_BYTES, Event, Splitter, encode, parse_event, to_json
from guard.providers.failures import is_error

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


@pytest.mark.parametrize(
    "raw", [b": keep-alive", b":", b"event: ping", b"retry: 3000", b"id: 1\n: ping", b"data:", b"data"]
)
def test_what_only_keeps_a_connection_alive_is_no_garbage(raw: bytes) -> None:
    event = parse_event(raw)
    assert (event.raw, event.chunk, event.is_done, event.is_garbage) == (raw, None, False, False)


@pytest.mark.parametrize(
    "raw", [b"data: {", b"data: [1]", b"data: null", b'data: "text"', b"data: \xff", b"data: NaN", b"data:{'a': 1}"]
)
def test_garbage_is_told_apart_and_what_came_before_it_is_kept(raw: bytes) -> None:
    before, garbage = Splitter().feed(encode({"a": 1}) + raw + b"\n\n")
    assert before.chunk == {"a": 1}
    assert garbage.is_garbage
    assert garbage.chunk is None


@pytest.mark.parametrize("ignored", [b"<html>", b"database: x", b"foo: bar", b" : x", b"\xef\xbb\xbfdata: {}"])
def test_lines_of_no_known_field_are_ignored(ignored: bytes) -> None:
    """As readers of events do; the mark of UTF-8 is one, but at the very beginning."""
    sent = encode({"a": 1}) + ignored + b"\n\n" + b"data: {\n" + ignored + b'\ndata: "b": 2}\n\n'
    assert [event.chunk for event in split(sent, [])] == [{"a": 1}, {"b": 2}]


@pytest.mark.parametrize("cut", range(6))
def test_the_mark_of_utf_8_at_the_beginning_is_ignored(cut: int) -> None:
    assert [event.chunk for event in split(BOM + encode({"a": 1}), [cut])] == [{"a": 1}]


@pytest.mark.parametrize(
    ("data", "chunk"),
    [
        (r'{"a": "\ud83d"}', {"a": "\ufffd"}),
        (r'{"\ude00": ["\ud83d\ude00"]}', {"\ufffd": ["\U0001f600"]}),
        ('{"a": -Infinity, "b": [NaN, 1e999]}', {"a": None, "b": [None, None]}),
    ],
)
def test_what_strict_json_cannot_say_is_passed_on_and_read_as_far_as_it_can_be(data: str, chunk: object) -> None:
    (event,) = split(f"data: {data}\n\n".encode(), [])
    assert event.chunk == chunk
    if "ud83d" in data:
        assert json.loads(encode(event.odd)[6:]) == json.loads(data)
    assert not event.is_garbage


def test_what_is_nested_deeper_than_orjson_writes_is_written() -> None:
    deep = orjson.loads(b"[" * 600 + b"]" * 600)
    assert json.loads(to_json(deep)) == deep


def test_an_event_without_an_end_is_garbage_before_it_fills_the_memory() -> None:
    splitter = Splitter()
    assert splitter.feed(b"data: " + b"x" * (MOST_BYTES - 6)) == []
    (event,) = splitter.feed(b"x")
    assert event.is_garbage


@pytest.mark.parametrize(
    ("chunk", "is_one"),
    [({"error": {"message": "m"}}, True), ({"error": "m"}, True), ({"error": None}, False), ({}, False)],
)
def test_errors_are_told_apart(chunk: dict[str, object], is_one: bool) -> None:
    assert is_error(parse_event(b"data: " + orjson.dumps(chunk)).chunk) is is_one
