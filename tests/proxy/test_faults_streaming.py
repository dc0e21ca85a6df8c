"""
Faults inside a stream, over real sockets: what reaches the caller byte by byte, whether it can see that something is
missing, and what is recorded. For every way in which an answer can stream.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.proxy import deadlines
from tests import canned
from tests.fake_provider import pieces, reset, sliced, wait_for
from tests.proxy.dialects import Json, Site, site
from tests.proxy.stream_cases import CASES, HEARTBEAT, SSE_CASES, StreamCase, chunks_of, see

pytestmark = pytest.mark.usefixtures("driver")

CHAT_CASE, _, _, GEMINI_CASE, ARRAY_CASE = CASES
CLOSE_WITHIN_S = 2.0


@pytest.fixture(params=CASES, ids=str)
def case(request: pytest.FixtureRequest) -> StreamCase:
    return request.param


@pytest.fixture
def here(case: StreamCase, tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path, case.dialect) as found:
        yield found


def assert_ends(here: Site, outcome: str, code: str = "", attempts: int = 1) -> Json:
    """The row of the one request, which must have ended so; returns it. No key is blamed."""
    record = here.record()
    assert (record["status"], record["outcome"], record["error_code"]) == (200, outcome, code)
    assert len(record["attempts"]) == attempts
    assert len(here.provider.received) == attempts
    assert here.states() == ["Healthy", "Healthy"]
    return record


def assert_cut(here: Site, case: StreamCase, sent: bytes, body: bytes, whole: bool, code: str = "upstream_cut") -> None:
    """The caller has exactly what was sent, an error in its own format, and a body that does not end."""
    assert not whole, "the answer looks complete"
    assert body.startswith(sent)
    read, before = case.read(body), case.read(sent + b"]" if case.is_array else sent)
    assert (read.text, read.finish) == (before.text, "")
    assert read.error is not None
    assert read.error["message"]
    assert here.record()["request_id"].encode() in body
    record = assert_ends(here, "upstream_cut", code)
    assert (record["input_tokens"], record["output_tokens"]) == case.known
    assert record["response_bytes"] == len(body)
    assert record["attempts"][0]["verdict"] in ("PROVIDER", "KEY_REST", "CLIENT")


# -- cuts -------------------------------------------------------------------------------------------------


def test_f26_a_cut_before_any_content_rotates_and_the_caller_does_not_notice(here: Site, case: StreamCase) -> None:
    for end in ("close", "end", "reset"):
        broken = case.streams(*case.prologue, end=end)
        here.provider.by_key({here.keys[0]: broken, here.keys[1]: here.dialect.good})

        answers = [here.ask(), here.ask()]

        for answer in answers:
            here.assert_good(answer)
        assert "2" in [answer.headers["x-middleware-attempts"] for answer in answers], end
        record = next(row for row in here.gateway.records()[-2:] if len(row["attempts"]) == 2)
        verdicts = [(attempt["verdict"], attempt["reason"]) for attempt in record["attempts"]]
        assert verdicts == [("PROVIDER", "incomplete"), ("ok", "")]
        assert here.states() == ["Healthy", "Healthy"]


def test_f26_a_cut_at_every_key_before_any_content_is_one_error_answer(here: Site, case: StreamCase) -> None:
    cut = case.streams(*case.prologue, end="close")
    here.script(cut, cut)

    answer = here.ask()

    assert answer.status == 502
    here.dialect.says_error(answer.body)
    assert here.record()["outcome"] == "upstream_error"
    assert here.states() == ["Healthy", "Healthy"]


@pytest.mark.parametrize("count", [1, 2])
def test_f27_a_cut_after_content_gives_an_error_event_and_a_broken_body(
    here: Site, case: StreamCase, count: int
) -> None:
    sent, seen = (*case.prologue, *case.content[:count]), threading.Event()
    here.script(case.streams(*sent, wait_for(seen), reset()))

    with here.asking() as client:
        assert client.head()[0] == 200
        see(client, sent[-1])
        seen.set()
        body, whole = client.rest()

    assert_cut(here, case, b"".join(sent), body, whole)
    here.assert_serves()


def test_f27_a_cut_in_the_middle_of_an_event_keeps_that_half_back(here: Site, case: StreamCase) -> None:
    sent, seen = (*case.prologue, *case.content[:2]), threading.Event()
    half = case.content[2][: len(case.content[2]) // 2]
    here.script(case.streams(*sent, half, wait_for(seen), reset()))

    with here.asking() as client:
        client.head()
        see(client, sent[-1])
        seen.set()
        body, whole = client.rest()

    assert_cut(here, case, b"".join(sent), body, whole)


@pytest.mark.parametrize("end", ["end", "close"])
def test_f28_a_clean_end_without_a_finish_is_a_cut_and_no_success(here: Site, case: StreamCase, end: str) -> None:
    sent = (*case.prologue, *case.content)
    here.script(case.streams(*sent, end=end))

    with here.asking() as client:
        client.head()
        body, whole = client.rest()

    assert_cut(here, case, b"".join(sent), body, whole)


def test_f28_an_end_behind_the_finish_is_a_success_with_its_terminator(here: Site, case: StreamCase) -> None:
    if case.is_array or case.name == "openai_responses":
        return  # without their last piece these are not finished
    body = case.body.removesuffix(case.terminator)
    here.script(case.streams(body, end="close"))

    answer = here.ask()

    assert case.is_complete(case.read(answer.body))
    assert_ends(here, "success")


# -- errors inside the stream -----------------------------------------------------------------------------


def test_f29_an_error_event_before_content_rotates_by_its_code(here: Site, case: StreamCase) -> None:
    in_band = case.in_band.replace(b",\r\n{", b"[{", 1) if case.is_array else case.in_band
    prologue = () if case.is_array else case.prologue
    here.script(case.streams(*prologue, in_band))

    answer = here.ask()

    here.assert_good(answer)
    assert [verdict for verdict, _ in here.verdicts()] == ["KEY_REST", "ok"]
    assert here.record()["attempts"][0]["status"] == 429
    shown = here.gateway.key(here.keys[0])
    assert shown["status"] == "Resting" or shown["model_rests"]


def test_f29_an_error_event_after_content_passes_and_ends_the_stream(here: Site, case: StreamCase) -> None:
    sent = (*case.prologue, *case.content[:2])
    here.script(case.streams(*sent, case.in_band, *case.tail))

    with here.asking() as client:
        client.head()
        body, whole = client.rest()

    assert not whole
    assert body.startswith(b"".join(sent) + case.in_band)
    read = case.read(body)
    assert read.error is not None
    assert read.finish == ""
    assert_ends(here, "upstream_error", "upstream_error")


# -- silence ----------------------------------------------------------------------------------------------


def test_f30_a_silent_stream_gets_blank_lines_and_goes_on(here: Site, case: StreamCase) -> None:
    here.set(heartbeat_interval=0.05)
    before, after, go_on = case.events[:3], case.events[3:], threading.Event()
    here.script(case.streams(*before, wait_for(go_on), *after))

    with here.asking() as client:
        client.head()
        see(client, before[-1])
        for count in (1, 2, 3):
            see(client, b"4\r\n\r\n\r\n\r\n" * count)
        go_on.set()
        chunks, whole = chunks_of(client)

    assert whole
    assert chunks.count(HEARTBEAT) >= 3
    assert b"".join(chunk for chunk in chunks if chunk != HEARTBEAT) == case.body
    assert case.is_complete(case.read(b"".join(chunks)))
    assert_ends(here, "success")


def test_f30_a_prologue_is_let_go_when_the_caller_would_grow_impatient(here: Site, case: StreamCase) -> None:
    here.set(heartbeat_interval=0.05)
    go_on = threading.Event()
    here.script(case.streams(*case.prologue, wait_for(go_on), *case.content, *case.tail))

    with here.asking() as client:
        client.head()
        see(client, case.prologue[-1])
        see(client, b"4\r\n\r\n\r\n\r\n")
        go_on.set()
        chunks, whole = chunks_of(client)

    assert whole
    assert case.is_complete(case.read(b"".join(chunks)))


def test_f31_silence_for_too_long_is_an_error_event_and_closes_the_upstream(here: Site, case: StreamCase) -> None:
    here.set(streaming_timeout=0.3, heartbeat_interval=0.1)
    sent = (*case.prologue, *case.content[:1])
    here.script(case.streams(*sent, end="hang"))

    with here.asking() as client:
        client.head()
        chunks, whole = chunks_of(client)

    body = b"".join(chunk for chunk in chunks if chunk != HEARTBEAT)
    assert not whole
    assert body.startswith(b"".join(sent))
    read = case.read(b"".join(chunks))
    assert read.error is not None
    record = assert_ends(here, "upstream_cut", "upstream_timeout")
    assert (record["input_tokens"], record["output_tokens"]) == case.known
    assert here.provider.wait_closed(0, CLOSE_WITHIN_S)
    assert here.provider.closed_by(0) == "client"


def test_f31_silence_after_the_prologue_rotates(here: Site, case: StreamCase) -> None:
    here.set(streaming_timeout=0.2, heartbeat_interval=0)
    here.script(case.streams(*case.prologue, end="hang"))

    answer = here.ask()

    here.assert_rotated(answer, "idle_timeout")
    assert here.provider.wait_closed(0, CLOSE_WITHIN_S)


def test_f31_an_error_in_an_array_of_which_nothing_went_out_is_still_an_array(tmp_path: Path) -> None:
    with site(tmp_path, ARRAY_CASE.dialect) as here:
        here.set(streaming_timeout=0.4, heartbeat_interval=0.1)
        here.script(ARRAY_CASE.streams(b" ", end="hang"))

        with here.asking() as client:
            client.head()
            body, whole = client.rest()

    assert not whole
    assert ARRAY_CASE.read(body).error is not None


# -- slicing ----------------------------------------------------------------------------------------------


def test_f32_a_stream_arrives_unchanged_however_the_upstream_slices_it(here: Site, case: StreamCase) -> None:
    for size in (1, 2, 3, 7):
        sent = case.streams(*sliced(case.body, size))
        here.script(sent, sent)

        answer = here.ask()

        assert answer.body.rstrip() == case.body.rstrip(), size
        assert case.is_complete(case.read(answer.body))
        record = here.record()
        assert record["outcome"] == "success"
        assert (record["input_tokens"], record["output_tokens"]) == (canned.INPUT_TOKENS, canned.OUTPUT_TOKENS)
    assert len(here.provider.received) == 4


def test_f32_chunks_of_the_framing_mean_nothing(here: Site, case: StreamCase) -> None:
    """The framing of the upstream is cut into small chunks, and these into odd reads."""
    start = f"HTTP/1.1 200 OK\r\nContent-Type: {case.content_type}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    for chunk_bytes in (1, 5, 1000):
        framed = b"".join(b"%x;x=y\r\n%b\r\n" % (len(part), part) for part in sliced(case.body, chunk_bytes))
        sent = pieces(*sliced(start + framed + b"0\r\nX-Trailer: 1\r\n\r\n", 11))
        here.script(sent, sent)

        answer = here.ask()

        assert answer.body.rstrip() == case.body.rstrip(), chunk_bytes


# -- size -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [CHAT_CASE, ARRAY_CASE], ids=str)
def test_f33_an_event_of_20_megabytes_arrives_whole(tmp_path: Path, case: StreamCase) -> None:
    big = case.content[1].replace(b"aus ", b"aus " + b"x" * 20_000_000)
    body = b"".join((*case.prologue, case.content[0], big, *case.tail))
    with site(tmp_path, case.dialect) as here:
        here.script(case.streams(*sliced(body, 256 * 1024)))

        answer = here.ask()

    assert hashlib.md5(answer.body.rstrip()).digest() == hashlib.md5(body.rstrip()).digest()


@pytest.mark.parametrize("case", [CHAT_CASE, GEMINI_CASE], ids=str)
def test_f33_tiny_events_pass_within_milliseconds_each(tmp_path: Path, case: StreamCase) -> None:
    count = 20_000
    body = b"".join((*case.prologue, *case.content[:1] * count, *case.tail))
    with site(tmp_path, case.dialect) as here:
        here.script(case.streams(*sliced(body, 8 * 1024)))
        started = time.monotonic()

        answer = here.ask()

        assert answer.body == body
        assert time.monotonic() - started < 0.001 * count
        assert_ends(here, "success")


# -- ends -------------------------------------------------------------------------------------------------


def test_f34_events_behind_the_terminator_stay_behind(here: Site, case: StreamCase) -> None:
    if case is GEMINI_CASE:
        return  # nothing ends this stream but its end
    extra = case.terminator + case.content[0] + case.terminator
    here.script(case.streams(case.body + extra, extra))

    answer = here.ask()

    assert answer.body == case.body
    assert_ends(here, "success")


def test_f34_a_usage_chunk_that_the_caller_did_not_ask_for_is_recorded_and_not_shown(tmp_path: Path) -> None:
    dialect = CHAT_CASE.dialect
    asked = {name: value for name, value in dialect.request.items() if name != "stream_options"}
    with site(tmp_path, dialect) as here:
        here.script(CHAT_CASE.streams())
        answer = here.gateway.post(dialect.path, asked)
        sent = here.provider.received[0].json

        assert sent == {**asked, "stream_options": {"include_usage": True}}
        assert answer.body == CHAT_CASE.body.replace(canned.CHAT_USAGE, b"")
        assert here.record()["output_tokens"] == canned.OUTPUT_TOKENS


def test_f35_the_caller_is_not_held_up_by_a_socket_that_stays_open(
    here: Site, case: StreamCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadlines, "FINISHED_SILENCE_S", 0.3)
    here.script(case.streams(end="hang"))
    started = time.monotonic()

    with here.asking() as client:
        client.head()
        body, whole = client.rest()

    assert whole
    assert body.rstrip() == case.body.rstrip()
    assert time.monotonic() - started < 3
    assert here.provider.wait_closed(0, CLOSE_WITHIN_S)
    assert here.provider.closed_by(0) == "client"
    assert_ends(here, "success")


def test_f35_a_connection_whose_answer_ended_serves_again(here: Site, case: StreamCase) -> None:
    here.script(case.streams(end="terminated_hang"))
    kept = case.streams()
    here.provider.by_key({key: kept for key in here.keys})

    for _ in range(3):
        here.assert_good(here.ask())
        here.quiet()  # whoever asks again at once may come before the connection has been put back

    assert here.provider.total_connections == 1


# -- the wrong kind of answer -----------------------------------------------------------------------------


def test_f36_a_plain_answer_to_a_call_that_wanted_a_stream_is_streamed(here: Site, case: StreamCase) -> None:
    here.script(case.plain_reply())

    answer = here.ask()

    assert answer.status == 200
    expected = "application/json" if case.is_array else "text/event-stream"
    assert answer.headers["content-type"].startswith(expected)
    assert case.is_complete(case.read(answer.body))
    record = assert_ends(here, "success")
    assert (record["input_tokens"], record["output_tokens"]) == (canned.INPUT_TOKENS, canned.OUTPUT_TOKENS)


@pytest.mark.parametrize("case", SSE_CASES, ids=str)
def test_f36_a_stream_that_nobody_asked_for_is_put_together(tmp_path: Path, case: StreamCase) -> None:
    with site(tmp_path, case.as_plain()) as here:
        here.script(case.streams(*sliced(case.body, 7)))

        answer = here.ask()

        assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
        assert "".join(case.words) in json.dumps(json.loads(answer.body), ensure_ascii=False).replace("\\u0085", "\x85")
        record = assert_ends(here, "success")
        assert (record["input_tokens"], record["output_tokens"]) == (canned.INPUT_TOKENS, canned.OUTPUT_TOKENS)


def test_f36_events_are_made_an_array_where_an_array_was_asked_for(tmp_path: Path) -> None:
    with site(tmp_path, ARRAY_CASE.dialect) as here:
        here.script(GEMINI_CASE.streams())

        answer = here.ask()

        assert answer.headers["content-type"] == "application/json"
        assert ARRAY_CASE.is_complete(ARRAY_CASE.read(answer.body))


# -- lateness of our own ----------------------------------------------------------------------------------


def test_f31_a_thread_that_was_held_up_looks_at_the_upstream_before_it_calls_it_silent(
    tmp_path: Path,
) -> None:
    """The caller does not read for longer than the allowed silence, while the upstream goes on sending."""
    filler = CHAT_CASE.content[0].replace(b'"content": "', b'"content": "' + b"x" * 50_000)
    body = b"".join((*CHAT_CASE.prologue, *[filler] * 400, *CHAT_CASE.content, *CHAT_CASE.tail))
    with site(tmp_path, CHAT_CASE.dialect) as here:
        here.set(streaming_timeout=30)
        here.script(CHAT_CASE.streams(*sliced(body, 64 * 1024)))
        with here.asking() as client:
            client.head()
            assert standing_still(here, 0)
            here.time.advance(31)
            got, whole = client.rest()

        assert whole
        assert got == body
        assert_ends(here, "success")


def standing_still(here: Site, connection: int) -> bool:
    """Wait until the upstream can send no more: the count of its bytes does not change for a while."""
    last, since, until = -1, time.monotonic(), time.monotonic() + 10
    while time.monotonic() < until:
        sent = here.provider.sent_bytes(connection) if here.provider.total_connections > connection else 0
        if sent != last:
            last, since = sent, time.monotonic()
        elif sent and time.monotonic() - since > 0.5:
            return True
        threading.Event().wait(0.01)
    return False
