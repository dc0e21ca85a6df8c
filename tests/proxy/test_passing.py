"""Events that pass without an exchange: the caller gets what the reader of the exchange would have given it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.proxy.passing import LAST_CHUNK, MAX_WAITING_BYTES, Passing
from app.proxy.readers import Ending, Progress, StreamReader
from tests import canned
from tests.fake_behaviors import chunk, sliced
from tests.gateway import unchunk
from tests.proxy.stream_cases import CASES, SSE_CASES, StreamCase
from tests.proxy.test_readers import call_of, run

CHAT = CASES[0]
COMMENT = b": the provider is busy\n\n"


def framed(chunks: Sequence[bytes]) -> bytes:
    return b"".join(chunk(data) for data in chunks if data)


def passed(case: StreamCase, wire: Sequence[bytes], **how: object) -> tuple[bytes, bool, Passing]:
    """The body that a caller gets of an answer that came like this, and whether it ended well."""
    call = call_of(case.dialect)
    options = {"rename": None, "strip_usage": False} | how
    passing = Passing(call, **options)  # type: ignore[arg-type]
    out = came = b""
    for piece in wire:
        out += passing.feed(piece)
        came += piece
        if passing.odd or passing.complete:
            break
    if passing.complete:
        return unchunk(out + passing.tail + LAST_CHUNK)[0], True, passing
    if not passing.committed:
        assert not out
        return b"", False, passing
    body = unchunk(out)[0]
    assert passing.size == len(body)
    passing.hand_over()
    reader = StreamReader(call, clean=bytes, **options)  # type: ignore[arg-type]
    reader.resume(passing.watcher)
    progress = run(reader, [passing.part, unchunk(passing.rest + b"".join(wire)[len(came) :])[0]])
    return body + b"".join(progress.out), progress.ending is Ending.COMPLETE, passing


def read(case: StreamCase, body: bytes, **how: object) -> Progress:
    options = {"rename": None, "strip_usage": False} | how
    return run(StreamReader(call_of(case.dialect), clean=bytes, **options), [body])  # type: ignore[arg-type]


def cuts(size: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, size), max_size=12).map(sorted)


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    borders = [0, *places, len(data)]
    return [data[start:end] for start, end in zip(borders, borders[1:], strict=False)]


@pytest.mark.parametrize("case", SSE_CASES, ids=str)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 50, 64 * 1024])
def test_a_stream_passes_as_it_came_however_it_is_sliced(case: StreamCase, size: int) -> None:
    wire = sliced(framed(case.events) + LAST_CHUNK, size)
    body, complete, passing = passed(case, wire)
    assert body == case.body
    assert complete
    assert passing.complete
    assert passing.settle() == _usage(case)


def _usage(case: StreamCase) -> object:
    reader = StreamReader(call_of(case.dialect), rename=None, strip_usage=False, clean=bytes)
    run(reader, case.events)
    return reader.usage


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_however_chunks_and_reads_lie_the_caller_gets_what_the_reader_gives(data: st.DataObject) -> None:
    case = data.draw(st.sampled_from(SSE_CASES))
    odd = [case.in_band, COMMENT, b"\n", b"\r\n\r\n", case.content[0].replace(b"\n", b"\r\n"), b"data: no json\n\n"]
    events = list(case.events)
    for place, event in data.draw(st.lists(st.tuples(st.integers(0, 8), st.sampled_from(odd)), max_size=2)):
        events.insert(place, event)
    body = b"".join(events)[: data.draw(st.sampled_from([None, None, -1, -2, -40]))]
    chunks = events if body == b"".join(events) and data.draw(st.booleans()) else cut(body, data.draw(cuts(len(body))))
    wire = framed(chunks) + LAST_CHUNK
    how = {"rename": data.draw(st.sampled_from([None, "another"])), "strip_usage": data.draw(st.booleans())}

    came, complete, passing = passed(case, cut(wire, data.draw(cuts(len(wire)))), **how)

    expected = read(case, body, **how)
    if not passing.committed:
        assert expected.failure is not None or passing.odd
        return
    assert came == b"".join(expected.out)
    assert complete is (expected.ending is Ending.COMPLETE)


@pytest.mark.parametrize("case", SSE_CASES, ids=str)
def test_nothing_goes_out_before_the_first_output(case: StreamCase) -> None:
    passing = Passing(call_of(case.dialect), rename=None, strip_usage=False)
    assert passing.feed(framed(case.prologue)) == b""
    assert not passing.committed
    assert passing.feed(framed(case.content[:1])) == framed((*case.prologue, case.content[0]))
    assert passing.committed


@pytest.mark.parametrize("case", SSE_CASES, ids=str)
@pytest.mark.parametrize(
    "what", [b"0;name=value\r\n", b"0\r\nTrailer: x\r\n\r\n", b"zz\r\n", b"5;a=b\r\nhello\r\n", b"1\r\nab\r\n", b"\r\n"]
)
def test_framing_that_is_not_ordinary_is_left_to_the_exchange(case: StreamCase, what: bytes) -> None:
    passing = Passing(call_of(case.dialect), rename=None, strip_usage=False)
    good = framed(case.events[:-1])
    assert passing.feed(good + what) == good
    assert passing.odd
    assert passing.rest == what


def test_an_error_is_left_to_the_exchange_with_all_that_follows() -> None:
    passing = Passing(call_of(CHAT.dialect), rename=None, strip_usage=False)
    before, after = CHAT.prologue + CHAT.content, CHAT.tail
    together = CHAT.in_band + b"".join(after)
    assert passing.feed(framed([*before, together])) == framed(before)
    assert passing.odd
    assert passing.part == together
    assert passing.rest == b""


def test_what_follows_the_terminator_stays_behind() -> None:
    passing = Passing(call_of(CHAT.dialect), rename=None, strip_usage=False)
    passing.feed(framed(CHAT.events))
    assert passing.complete
    assert passing.rest == b""
    passing = Passing(call_of(CHAT.dialect), rename=None, strip_usage=False)
    more = framed([canned.DONE]) + LAST_CHUNK
    assert passing.feed(framed(CHAT.events) + more) == framed(CHAT.events)
    assert passing.rest == more


def test_a_stream_that_only_lacks_its_terminator_gets_one() -> None:
    body, complete, passing = passed(CHAT, [framed(CHAT.events[:-1]) + LAST_CHUNK])
    assert complete
    assert passing.complete
    assert body == CHAT.body


@pytest.mark.parametrize("chunked", [False, True], ids=["in one chunk", "in many"])
def test_an_event_that_is_too_long_to_wait_is_left_to_the_exchange(chunked: bool) -> None:
    passing = Passing(call_of(CHAT.dialect), rename=None, strip_usage=False)
    passing.feed(framed(CHAT.prologue + CHAT.content))
    long = canned.data_event({"choices": [{"index": 0, "delta": {"content": "x" * 4 * MAX_WAITING_BYTES}}]})
    wire = framed(sliced(long, 4096)) if chunked else framed([long])
    assert passing.feed(wire[: 2 * MAX_WAITING_BYTES]) == b""
    assert passing.odd
    passing.hand_over()
    assert len(passing.part) + len(passing.rest) > MAX_WAITING_BYTES


def test_chunks_that_never_end_with_an_event_pass_however_many_there_are() -> None:
    passing = Passing(call_of(CHAT.dialect), rename=None, strip_usage=False)
    event = canned.data_event({"choices": [{"index": 0, "delta": {"content": "x" * 300}, "finish_reason": None}]})
    body = b"".join(CHAT.prologue + CHAT.content) + event * (3 * MAX_WAITING_BYTES // len(event))
    out = b"".join(passing.feed(framed([part])) for part in sliced(body, 1000))
    assert not passing.odd
    passed_on = unchunk(out)[0]
    assert body.startswith(passed_on)
    assert len(body) - len(passed_on) < len(event)


def test_usage_that_was_our_wish_and_foreign_names_of_models_do_not_reach_the_caller() -> None:
    body, complete, _ = passed(CHAT, [framed(CHAT.events) + LAST_CHUNK], rename="mine", strip_usage=True)
    assert complete
    assert b'"usage":{' not in body
    assert b'"gpt-test"' not in body
    assert b'"mine"' in body
