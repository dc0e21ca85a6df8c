"""What becomes of an answer's body, piece by piece: no sockets, no clock."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable

import pytest

from app import formats
from app.formats.base import Call
from app.proxy.readers import CollectReader, Ending, PlainReader, Progress, RawReader, Reader, StreamReader, choose
from tests import canned
from tests.fake_behaviors import sliced
from tests.proxy.dialects import Dialect
from tests.proxy.stream_cases import CASES, SSE_CASES, WORDS, StreamCase

SIZES = (1, 2, 3, 7, 64 * 1024)
CHAT_CASE = CASES[0]


@pytest.fixture(params=CASES, ids=str)
def case(request: pytest.FixtureRequest) -> StreamCase:
    return request.param


@pytest.fixture(params=SSE_CASES, ids=str)
def sse_case(request: pytest.FixtureRequest) -> StreamCase:
    return request.param


def call_of(dialect: Dialect) -> Call:
    path, _, query = dialect.path.partition("?")
    match = formats.match("POST", path, {}, query)
    return match.format.read(match, {}, query, json.dumps(dialect.request).encode())


def reader_for(
    case: StreamCase, call: Call | None = None, *, strip_usage: bool = False, clean: bytes = b""
) -> StreamReader:
    return StreamReader(
        call or call_of(case.dialect),
        rename=None,
        strip_usage=strip_usage,
        clean=lambda data: data.replace(clean, b"***") if clean else data,
    )


def run(reader: Reader, pieces: Iterable[bytes], *, ends: bool = True) -> Progress:
    """All that the pieces come to, together."""
    whole = Progress()
    for piece in pieces:
        step = reader.feed(piece)
        whole.out += step.out
        whole.ending, whole.failure = step.ending, step.failure
        if step.ending is not Ending.OPEN or step.failure is not None:
            return whole
    if ends:
        step = reader.end()
        whole.out += step.out
        whole.ending, whole.failure = step.ending, step.failure
    return whole


def joined(progress: Progress) -> bytes:
    return b"".join(progress.out)


def assert_same(case: StreamCase, progress: Progress) -> None:
    """Every byte; only white space behind a closed array may be missing, since nobody waits for it."""
    if case.is_array:
        assert joined(progress).rstrip() == case.body.rstrip()
    else:
        assert joined(progress) == case.body


# -- streams: every slicing -------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_f32_a_stream_passes_unchanged_however_it_is_sliced(case: StreamCase, size: int) -> None:
    reader = reader_for(case)

    progress = run(reader, sliced(case.body, size))

    assert progress.ending is Ending.COMPLETE
    assert_same(case, progress)
    assert reader.usage.input_tokens == canned.INPUT_TOKENS
    assert reader.usage.output_tokens == canned.OUTPUT_TOKENS


def test_f32_a_stream_may_be_split_at_any_byte(case: StreamCase) -> None:
    call = call_of(case.dialect)
    for cut in range(1, len(case.body)):
        progress = run(reader_for(case, call), (case.body[:cut], case.body[cut:]))
        assert progress.ending is Ending.COMPLETE, cut
        assert_same(case, progress)


def with_line_end(body: bytes, line_end: bytes) -> bytes:
    return body.replace(b"\r\n", b"\n").replace(b"\n", line_end)


def with_two_data_lines(body: bytes) -> bytes:
    """JSON may be broken after a comma: both halves are lines of one event."""
    return b"\n".join(
        line.replace(b", ", b",\ndata: ", 1) if line.startswith(b"data: {") else line
        for line in body.replace(b"\r\n", b"\n").split(b"\n")
    )


ODD_FORMS = {
    "lf": lambda body: with_line_end(body, b"\n"),
    "crlf": lambda body: with_line_end(body, b"\r\n"),
    "cr": lambda body: with_line_end(body, b"\r"),
    "byte order mark": lambda body: b"\xef\xbb\xbf" + body,
    "no space after the colon": lambda body: body.replace(b"data: ", b"data:").replace(b"event: ", b"event:"),
    "several data lines": with_two_data_lines,
    "comments": lambda body: b": hello\n\n" + body.replace(b"data: ", b": within\ndata: "),
    "a retry line": lambda body: b"retry: 3000\n\n" + body.replace(b"data: ", b"retry: 1\nid: 7\ndata: ", 1),
    "no last blank line": lambda body: body.rstrip(b"\r\n"),
    "one last line end": lambda body: body.rstrip(b"\r\n") + b"\n",
    "blank lines before": lambda body: b"\n\r\n\n" + body,
}


@pytest.mark.parametrize("form", ODD_FORMS)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 4096])
def test_f32_an_oddly_written_stream_means_the_same_for_every_slicing(
    sse_case: StreamCase, form: str, size: int
) -> None:
    body = ODD_FORMS[form](sse_case.body)
    reader = reader_for(sse_case)

    progress = run(reader, sliced(body, size))

    assert progress.ending is Ending.COMPLETE
    # Nothing is taken away; only the blank line that was missing comes at the end.
    assert joined(progress).rstrip(b"\r\n") == body.rstrip(b"\r\n")
    assert sse_case.is_complete(sse_case.read(joined(progress)))
    assert reader.usage.output_tokens == canned.OUTPUT_TOKENS


# -- streams: ends ----------------------------------------------------------------------------------------


def test_f26_a_prologue_alone_is_a_failed_attempt(case: StreamCase) -> None:
    reader = reader_for(case)

    progress = run(reader, case.prologue)

    assert progress.out == []
    assert progress.failure is not None
    assert progress.failure.error == "incomplete"
    assert not reader.committed


def test_f28_an_end_without_a_finish_is_a_cut(case: StreamCase) -> None:
    sent = case.prologue + case.content

    progress = run(reader_for(case), sent)

    assert progress.ending is Ending.CUT
    assert joined(progress) == b"".join(sent)


def test_f27_half_an_event_never_goes_out(case: StreamCase) -> None:
    sent = b"".join(case.prologue + case.content[:1])
    half = case.content[1]

    for size in range(1, len(half.rstrip())):
        progress = run(reader_for(case), (sent + half[:size],))
        assert (joined(progress), progress.ending) == (sent, Ending.CUT), size


def test_f28_a_finish_without_a_terminator_is_completed(sse_case: StreamCase) -> None:
    if sse_case.name == "openai_responses":
        return  # its last event holds the whole answer and can't be made up
    body = sse_case.body.removesuffix(sse_case.terminator)

    progress = run(reader_for(sse_case), (body,))

    assert progress.ending is Ending.COMPLETE
    assert sse_case.is_complete(sse_case.read(joined(progress)))


@pytest.mark.parametrize("half", [b"data: [DO", b'data: {"choices":[],"usage":{"prompt_tok', b"data"])
def test_f28_half_an_event_behind_the_finish_is_dropped(half: bytes) -> None:
    body = b"".join(canned.chat_stream(WORDS, usage=False, done=False))

    progress = run(reader_for(CHAT_CASE), (body + half,))

    assert (joined(progress), progress.ending) == (body + canned.DONE, Ending.COMPLETE)


def test_f35_an_array_that_closes_after_its_finish_is_complete_at_once() -> None:
    reader = reader_for(CASES[4])

    progress = run(reader, (CASES[4].body,), ends=False)

    assert (joined(progress), progress.ending) == (CASES[4].body, Ending.COMPLETE)


def test_f28_an_array_that_closes_before_its_finish_is_a_cut_without_the_bracket() -> None:
    case = CASES[4]
    sent = b"".join(case.prologue + case.content)

    progress = run(reader_for(case), (sent + b"]",))

    assert (joined(progress), progress.ending) == (sent, Ending.CUT)


def test_f28_an_array_that_never_closes_is_a_cut() -> None:
    case = CASES[4]

    progress = run(reader_for(case), case.events[:-1])

    assert progress.ending is Ending.CUT


def test_f34_nothing_follows_the_terminator(case: StreamCase) -> None:
    if not case.terminator:
        return  # Gemini has none

    progress = run(reader_for(case), (case.body + b"".join(case.content) + case.terminator * 2,))

    assert (joined(progress), progress.ending) == (case.body, Ending.COMPLETE)


@pytest.mark.parametrize("first", [True, False], ids=["first", "repeated"])
def test_f34_of_several_usage_chunks_the_last_counts(first: bool) -> None:
    early = canned.CHAT_USAGE.replace(b'"prompt_tokens": 11', b'"prompt_tokens": 3')
    events = [early, *canned.chat_stream(WORDS)] if first else [*canned.chat_stream(WORDS)[:-1], *[canned.CHAT_USAGE]]
    if not first:
        events[-2] = early
        events.append(canned.DONE)
    reader = reader_for(CHAT_CASE)

    progress = run(reader, events)

    assert joined(progress) == b"".join(events)
    assert reader.usage.input_tokens == canned.INPUT_TOKENS


def test_f34_a_usage_chunk_that_only_we_wanted_is_taken_out_wherever_it_stands() -> None:
    wanted = canned.chat_stream(WORDS, usage=False)
    events = [canned.CHAT_USAGE, *wanted[:2], canned.CHAT_USAGE, *wanted[2:-1], canned.CHAT_USAGE, canned.DONE]
    reader = reader_for(CHAT_CASE, strip_usage=True)

    progress = run(reader, events)

    assert joined(progress) == b"".join(wanted)
    assert reader.usage.output_tokens == canned.OUTPUT_TOKENS


def test_f34_a_stream_without_a_usage_chunk_is_complete() -> None:
    events = canned.chat_stream(WORDS, usage=False)
    reader = reader_for(CHAT_CASE, strip_usage=True)

    progress = run(reader, events)

    assert (joined(progress), progress.ending) == (b"".join(events), Ending.COMPLETE)
    assert reader.usage.output_tokens is None


# -- streams: errors ------------------------------------------------------------------------------------------


def test_f29_an_error_before_content_fails_the_attempt(case: StreamCase) -> None:
    in_band = case.in_band.replace(b",\r\n{", b"[{", 1) if case.is_array else case.in_band
    prologue = () if case.is_array else case.prologue

    progress = run(reader_for(case), (*prologue, in_band))

    assert progress.out == []
    assert progress.failure is not None
    assert progress.failure.status == 429


def test_f29_an_error_after_content_goes_out_without_secrets(case: StreamCase) -> None:
    sent = case.prologue + case.content[:1]
    secret = b"sk-secret-in-an-error"
    error = case.in_band.replace(b'"message": "', b'"message": "' + secret, 1)

    progress = run(reader_for(case, clean=secret), (*sent, error))

    assert progress.ending is Ending.UPSTREAM_ERROR
    assert joined(progress).startswith(b"".join(sent))
    assert secret not in joined(progress)
    assert case.read(joined(progress)).error is not None


# -- streams: size ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [CASES[0], CASES[3], CASES[4]], ids=str)
def test_f33_one_event_of_20_megabytes_passes_in_linear_time(case: StreamCase) -> None:
    marked = case.content[1].replace(b"aus ", b"MARK ")
    before, after = marked.split(b"MARK", 1)
    body = b"".join(case.prologue) + before + b"x" * 20_000_000 + after + b"".join(case.tail)
    started = time.monotonic()

    progress = run(reader_for(case), sliced(body, 16 * 1024))

    assert progress.ending is Ending.COMPLETE
    assert joined(progress) == body
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("case", [CASES[0], CASES[3], CASES[4]], ids=str)
def test_f33_a_hundred_thousand_events_take_microseconds_each(case: StreamCase) -> None:
    events = case.prologue + case.content[1:2] * 100_000 + case.tail
    started = time.monotonic()

    progress = run(reader_for(case), sliced(b"".join(events), 64 * 1024))

    assert progress.ending is Ending.COMPLETE
    assert len(joined(progress)) == sum(map(len, events))
    assert time.monotonic() - started < 10


def test_no_white_space_is_offered_inside_an_event_that_goes_out_in_pieces(case: StreamCase) -> None:
    reader = reader_for(case)
    reader._splitter = type(reader._splitter)(100)
    run(reader, case.prologue, ends=False)

    run(reader, (case.content[0].rstrip()[:-4].ljust(400, b"x"),), ends=False)

    assert not reader.between_events


# -- the other readers ----------------------------------------------------------------------------------------


def chosen(dialect: Dialect, content_type: str, *, max_buffered: int = 1 << 20) -> Reader:
    return choose(
        call_of(dialect),
        content_type,
        max_buffered=max_buffered,
        rename=None,
        strip_usage=False,
        clean=lambda data: data,
    )


def test_f36_a_plain_answer_to_a_call_that_wanted_a_stream_becomes_one(case: StreamCase) -> None:
    reader = chosen(case.dialect, "application/json; charset=utf-8")

    progress = run(reader, sliced(json.dumps(case.answer).encode(), 7))

    assert progress.ending is Ending.COMPLETE
    assert reader.streams
    assert case.is_complete(case.read(joined(progress)))
    assert reader.usage.output_tokens == canned.OUTPUT_TOKENS


def test_f36_a_stream_that_nobody_asked_for_becomes_a_plain_answer(sse_case: StreamCase) -> None:
    reader = chosen(sse_case.as_plain(), "text/event-stream")

    progress = run(reader, sliced(sse_case.body, 7))

    assert isinstance(reader, CollectReader)
    assert progress.ending is Ending.COMPLETE
    answer = json.loads(joined(progress))
    assert text_in(answer) == "".join(WORDS)
    assert reader.content_type == "application/json"
    assert reader.usage.output_tokens == canned.OUTPUT_TOKENS


def text_in(answer: object) -> str:
    """Every `text` or `content` string of an answer, joined."""
    if isinstance(answer, dict):
        own = [value for name, value in answer.items() if name in ("text", "content") and isinstance(value, str)]
        return "".join(own) + "".join(text_in(value) for value in answer.values())
    return "".join(map(text_in, answer)) if isinstance(answer, list) else ""


def test_f36_events_for_a_call_that_wanted_an_array_become_one() -> None:
    array, events = CASES[4], CASES[3]
    reader = chosen(array.dialect, "text/event-stream")

    progress = run(reader, (events.body,))

    assert reader.content_type == "application/json"
    assert array.is_complete(array.read(joined(progress)))


def test_f36_a_collected_stream_that_was_cut_fails_the_attempt(sse_case: StreamCase) -> None:
    reader = chosen(sse_case.as_plain(), "text/event-stream")

    progress = run(reader, sse_case.prologue + sse_case.content)

    assert progress.failure is not None
    assert progress.failure.error == "incomplete"


def test_a_collected_stream_is_bounded(sse_case: StreamCase) -> None:
    reader = chosen(sse_case.as_plain(), "text/event-stream", max_buffered=500)

    progress = run(reader, sse_case.events)

    assert progress.failure is not None
    assert progress.failure.error == "too_large"


def test_a_plain_answer_beyond_the_bound_is_passed_on_as_it_comes() -> None:
    reader = chosen(CHAT_CASE.as_plain(), "application/json", max_buffered=100)
    body = json.dumps(canned.chat("x" * 1000)).encode()

    pieces = sliced(body, 90)
    first = [reader.feed(piece) for piece in pieces[:2]]
    assert [b"".join(step.out) for step in first] == [b"", body[:180]]
    assert joined(run(reader, pieces[2:])) == body[180:]
    assert reader.streams


def test_a_plain_answer_is_checked_before_a_byte_of_it_goes_out() -> None:
    reader = chosen(CHAT_CASE.as_plain(), "application/json")

    progress = run(reader, (b'{"choices": []}',))

    assert isinstance(reader, PlainReader)
    assert progress.out == []
    assert progress.failure is not None
    assert progress.failure.error == "no_choices"


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/octet-stream", "text/event-stream; x=y"])
def test_events_are_known_even_where_the_server_misnames_them(sse_case: StreamCase, content_type: str) -> None:
    assert isinstance(chosen(sse_case.dialect, content_type), StreamReader)


def test_files_and_sound_pass_as_they_come() -> None:
    match = formats.match("POST", "/v1/audio/speech", {}, "")
    call = match.format.read(match, {}, "", b'{"model": "tts", "input": "Hi"}')
    reader = choose(
        call, "audio/mpeg", max_buffered=10, rename=None, strip_usage=False, clean=lambda data: data.replace(b"a", b"")
    )

    assert isinstance(reader, RawReader)
    assert joined(run(reader, (b"\x00\xffaa", b"\r\n\r\n"))) == b"\x00\xffaa\r\n\r\n"
