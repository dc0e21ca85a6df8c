"""Server-sent events are cut at blank lines and nowhere else, however the network slices them."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.formats import sse


def split(stream: bytes, sizes: list[int] | None = None, limit: int = 1 << 20) -> list[bytes]:
    """All events of a stream that is fed in slices of these sizes; the unfinished rest is the last element."""
    splitter = sse.Splitter(limit)
    events, position = [], 0
    for size in sizes or []:
        events += splitter.feed(stream[position : position + size])
        position += size
    events += splitter.feed(stream[position:])
    return [*events, splitter.rest()]


stream_bytes = st.lists(
    st.sampled_from(
        [b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"\n\n", b"data: x", b"event: y", b":", b"\xef\xbb\xbf", b"\xe2\x80\xa8"]
    ),
    max_size=30,
).map(b"".join)


@settings(deadline=None)
@given(stream_bytes, st.lists(st.integers(0, 5), max_size=40))
def test_any_slicing_gives_the_same_events_and_loses_no_byte(stream, sizes):
    whole = split(stream)

    assert b"".join(whole) == stream
    assert split(stream, sizes) == whole
    assert split(stream, [1] * len(stream)) == whole


@settings(deadline=None)
@given(stream_bytes, st.lists(st.integers(0, 9), max_size=40))
def test_an_event_beyond_the_limit_loses_no_byte(stream, sizes):
    assert b"".join(split(stream, sizes, limit=4)) == stream


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_events_come_out_exactly_as_they_came(end):
    first = b"event: a" + end + b"data: 1" + end + end
    second = b": comment" + end + b"data:2" + end + end

    assert split(first + second + b"data: unfinished") == [first, second, b"data: unfinished"]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_an_event_is_complete_with_its_last_byte(end):
    splitter = sse.Splitter()

    assert splitter.feed(b"data: 1" + end + end) == [b"data: 1" + end + end]


def test_a_crlf_that_is_split_over_two_reads_is_one_line_end():
    splitter = sse.Splitter()

    assert splitter.feed(b"data: 1\r\n\r") == []
    assert splitter.feed(b"\ndata: 2\r") == [b"data: 1\r\n\r\n"]
    assert splitter.feed(b"\n\r\n") == [b"data: 2\r\n\r\n"]


def test_a_blank_line_alone_passes_at_once():
    splitter = sse.Splitter()

    assert splitter.feed(b"\n") == [b"\n"]
    assert splitter.feed(b"\r\n\n") == [b"\r\n", b"\n"]


def test_a_byte_order_mark_stays_in_the_first_event():
    events = split(b"\xef\xbb\xbfdata: 1\n\ndata: 2\n\n")

    assert events[0] == b"\xef\xbb\xbfdata: 1\n\n"
    assert sse.data_of(events[0]) == b"1"


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\u0085", "\x0b", "\x0c", "\x1c"])
def test_other_line_separators_are_text(character):
    event = f"data: a{character}{character}b\n\n".encode()

    assert split(event) == [event, b""]
    assert sse.data_of(event) == f"a{character}{character}b".encode()


def test_an_oversized_event_is_passed_on_in_pieces_and_flagged():
    splitter = sse.Splitter(max_event_bytes=1000)
    event = b"data: " + b"x" * 5000 + b"\n\n"
    pieces = []
    for position in range(0, len(event), 100):
        pieces += splitter.feed(event[position : position + 100])

    assert b"".join(pieces) == event
    assert len(pieces) > 1
    assert splitter.oversized
    assert splitter.feed(b"data: next\n\n") == [b"data: next\n\n"]


def test_splitting_is_linear_in_the_input():
    tiny = b'data: {"a":1}\n\n' * 100_000
    huge = b"data: " + b"x" * 20_000_000 + b"\r\n\r\n"

    started = time.perf_counter()
    events = split(tiny, [16384] * (len(tiny) // 16384))
    one_read = split(tiny)
    large = split(huge, [16384] * (len(huge) // 16384), limit=1 << 25)

    assert time.perf_counter() - started < 10
    assert len(events) == len(one_read) == 100_001
    assert large == [huge, b""]


@pytest.mark.parametrize(
    ("event", "data", "name"),
    [
        (b"data: a\n\n", b"a", b""),
        (b"data:a\r\n\r\n", b"a", b""),
        (b"data:  a \n\n", b" a ", b""),
        (b"event: ping\ndata: {}\n\n", b"{}", b"ping"),
        (b"data: {}\revent:ping\r\r", b"{}", b"ping"),
        (b"data: a\ndata: b\ndata\n\n", b"a\nb\n", b""),
        (b": data: a\nid: 1\nretry: 5\n\n", b"", b""),
        (b"datax: a\nevents: b\n\n", b"", b""),
        (b"event: a\nevent: b\n\n", b"", b"b"),
        (b"data: last without blank line", b"last without blank line", b""),
        (b"\n", b"", b""),
    ],
)
def test_the_fields_of_an_event_are_read_as_the_standard_says(event, data, name):
    assert sse.data_of(event) == data
    assert sse.name_of(event) == name


@settings(deadline=None)
@given(st.binary(max_size=50), st.none() | st.sampled_from(["ping", "error"]))
def test_what_is_encoded_reads_back(data, name):
    event = sse.encode(data, name)

    assert split(event) == [event, b""]
    assert sse.data_of(event) == data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    assert sse.name_of(event) == (name or "").encode()
