"""The parser of upstream answers: the same events for every slicing, limits, and when a connection may serve again."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.proxy.events import Send, UpstreamBytes, UpstreamEnd, UpstreamHead
from app.proxy.http1 import MAX_HEAD_BYTES, MAX_HEADERS, AnswerEvent, AnswerParser, BadAnswer, request_bytes

LENGTH = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;name=value\r\nllo\r\n0\r\nX-After: 1\r\n\r\n"
)
INTERIM = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
CLOSING = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello"
EMPTY = b"HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n"


def parse(*pieces: bytes, head_only: bool = False, closed: bool = False) -> tuple[AnswerParser, list[AnswerEvent]]:
    """Feed the pieces, then the end of the connection if told so."""
    parser = AnswerParser(head_only=head_only)
    events: list[AnswerEvent] = []
    for piece in filter(None, pieces):
        events += parser.feed(piece)
    return parser, events + (parser.closed() if closed else [])


def feed_all(parser: AnswerParser, pieces: Iterable[bytes]) -> None:
    for piece in pieces:
        parser.feed(piece)


def joined(events: Iterable[AnswerEvent]) -> tuple[UpstreamHead | None, bytes, int]:
    """The one head, the body, and how many ends there were; their order is checked."""
    kinds = [kind for kind, _ in itertools.groupby(type(event) for event in events)]
    assert kinds == [kind for kind in (UpstreamHead, UpstreamBytes, UpstreamEnd) if kind in kinds]
    heads = [event for event in events if isinstance(event, UpstreamHead)]
    assert len(heads) <= 1
    body = b"".join(event.data for event in events if isinstance(event, UpstreamBytes))
    return (heads[0] if heads else None), body, kinds.count(UpstreamEnd)


# -- slicing ------------------------------------------------------------------------------------------

_WHOLE = {"length": LENGTH, "chunked": CHUNKED, "interim": INTERIM + CHUNKED, "no body": EMPTY}


@pytest.mark.parametrize("data", _WHOLE.values(), ids=_WHOLE.keys())
def test_an_answer_is_the_same_wherever_it_is_cut_in_two(data: bytes) -> None:
    expected = joined(parse(data)[1])
    assert expected[2] == 1

    for cut in range(1, len(data)):
        parser, events = parse(data[:cut], data[cut:])
        assert joined(events) == expected
        assert parser.reusable


@pytest.mark.parametrize("data", _WHOLE.values(), ids=_WHOLE.keys())
def test_an_answer_is_the_same_byte_by_byte(data: bytes) -> None:
    parser, events = parse(*(data[at : at + 1] for at in range(len(data))))

    assert joined(events) == joined(parse(data)[1])
    assert parser.reusable


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, len(INTERIM + CHUNKED) - 1), max_size=12), st.sampled_from(list(_WHOLE.values())))
def test_an_answer_is_the_same_for_any_slicing(cuts: list[int], data: bytes) -> None:
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})

    _, events = parse(*(data[start:end] for start, end in itertools.pairwise(edges)))

    assert joined(events) == joined(parse(data)[1])


# -- what comes out -------------------------------------------------------------------------------------


def test_status_headers_and_body_come_out_as_they_came() -> None:
    _, events = parse(LENGTH)

    assert events == [
        UpstreamHead(200, [("Content-Type", "text/plain"), ("Content-Length", "5")]),
        UpstreamBytes(b"hello"),
        UpstreamEnd(),
    ]


def test_chunk_framing_extensions_and_trailers_are_removed() -> None:
    head, body, _ = joined(parse(CHUNKED)[1])

    assert head == UpstreamHead(200, [("Transfer-Encoding", "chunked")])
    assert body == b"hello"


def test_interim_answers_and_their_headers_are_swallowed() -> None:
    head, body, ends = joined(parse(INTERIM + LENGTH)[1])

    assert head is not None
    assert [name for name, _ in head.headers] == ["Content-Type", "Content-Length"]
    assert (head.status, body, ends) == (200, b"hello", 1)


def test_header_bytes_beyond_ascii_are_kept() -> None:
    _, events = parse(b"HTTP/1.1 200 OK\r\nX-Name: caf\xe9\r\nContent-Length: 0\r\n\r\n")

    assert events[0] == UpstreamHead(200, [("X-Name", "café"), ("Content-Length", "0")])


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_without_a_body_by_its_status_ends_at_once(status: int) -> None:
    parser, events = parse(b"HTTP/1.1 %d Custom\r\nContent-Type: a/b\r\n\r\n" % status)

    assert joined(events)[1:] == (b"", 1)
    assert parser.reusable


@pytest.mark.parametrize("framing", [b"Content-Length: 500\r\n", b"Transfer-Encoding: chunked\r\n", b""])
def test_an_answer_to_head_ends_with_its_head_whatever_it_announces(framing: bytes) -> None:
    _, events = parse(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n", head_only=True)

    assert joined(events)[1:] == (b"", 1)


def test_a_body_sent_in_answer_to_head_is_dropped_with_its_connection() -> None:
    parser, events = parse(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", b"{}", head_only=True)

    assert joined(events)[1:] == (b"", 1)
    assert parser.closed() == []
    assert not parser.reusable


# -- the end of the connection ----------------------------------------------------------------------------


def test_an_answer_without_framing_ends_with_its_connection() -> None:
    parser, events = parse(CLOSING, closed=True)

    assert joined(events)[1:] == (b"hello", 1)
    assert events[-1] == UpstreamEnd(closed=True)
    assert not parser.reusable


def test_a_transfer_encoding_that_is_not_chunked_ends_with_its_connection() -> None:
    _, events = parse(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nhello", closed=True)

    assert joined(events)[1:] == (b"hello", 1)


@pytest.mark.parametrize("data", [LENGTH, CHUNKED, INTERIM + LENGTH], ids=["length", "chunked", "interim"])
def test_a_connection_closed_before_the_end_is_an_error_wherever_it_happens(data: bytes) -> None:
    for cut in range(len(data)):
        parser, events = parse(data[:cut])
        assert joined(events)[2] == 0
        with pytest.raises(BadAnswer):
            parser.closed()
        assert parser.begun == (cut > 0)
        assert not parser.reusable


def test_a_connection_closed_after_the_end_is_no_news() -> None:
    parser, _ = parse(LENGTH)

    assert parser.closed() == []
    assert not parser.reusable


@pytest.mark.parametrize(
    ("data", "reusable"),
    [
        (LENGTH, True),
        (CHUNKED, True),
        (LENGTH.replace(b"Content-Type: text/plain", b"Connection: close"), False),
        (LENGTH.replace(b"HTTP/1.1", b"HTTP/1.0"), False),
        (LENGTH.replace(b"HTTP/1.1 200 OK", b"HTTP/1.0 200 OK\r\nConnection: keep-alive"), True),
        (LENGTH + b"HTTP/1.1 200 OK\r\n\r\n", False),
        (LENGTH + b"x", False),
        (CHUNKED + b"\r\n", True),
    ],
)
def test_a_connection_may_serve_again_only_after_an_answer_that_says_so(data: bytes, reusable: bool) -> None:
    parser, events = parse(data)

    assert joined(events)[1:] == (b"hello", 1)
    assert parser.reusable is reusable


def test_a_second_answer_that_nobody_asked_for_is_never_seen() -> None:
    parser, events = parse(LENGTH, b"HTTP/1.1 500 Oh\r\nX-Evil: 1\r\nContent-Length: 3\r\n\r\nbad")

    head, body, ends = joined(events)
    assert head is not None
    assert (head.status, body, ends) == (200, b"hello", 1)
    assert not parser.reusable


# -- what is refused --------------------------------------------------------------------------------------

_BAD = {
    "garbage": b"ICY 200 OK\r\n\r\n",
    "a status that is no number": b"HTTP/1.1 abc OK\r\n\r\n",
    "a switch of protocols": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    "length and chunked": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "a length that is no number": b"HTTP/1.1 200 OK\r\nContent-Length: +4\r\n\r\nabcd",
    "a negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -4\r\n\r\nabcd",
    "a length without end": b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 40 + b"\r\n\r\n",
    "a bad chunk size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    "a chunk size without end": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 40 + b"\r\n",
    "a chunk longer than it says": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabcd\r\n",
    "a NUL in a header": b"HTTP/1.1 200 OK\r\nX-A: a\0b\r\n\r\n",
    "a space before the colon": b"HTTP/1.1 200 OK\r\nX-A : b\r\n\r\n",
    "another protocol": b"SSH-2.0-OpenSSH_9.6\r\n",
    "TLS": b"\x15\x03\x03\x00\x02\x02\x28",
}


@pytest.mark.parametrize("data", _BAD.values(), ids=_BAD.keys())
def test_what_is_no_well_formed_http_is_refused_in_one_piece_and_in_single_bytes(data: bytes) -> None:
    for pieces in ([data], [data[at : at + 1] for at in range(len(data))]):
        with pytest.raises(BadAnswer) as refusal:
            parse(*pieces, closed=True)
        assert "OpenSSH" not in str(refusal.value)


def test_what_was_well_formed_before_the_fault_comes_with_the_refusal() -> None:
    with pytest.raises(BadAnswer) as refusal:
        parse(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n")

    assert joined(refusal.value.events) == (UpstreamHead(200, [("Transfer-Encoding", "chunked")]), b"hello", 0)


@pytest.mark.parametrize("piece", [1000, 65536, 1 << 22])
def test_a_head_beyond_the_limit_is_refused_however_it_is_cut(piece: int) -> None:
    data = b"HTTP/1.1 200 OK\r\nX-Huge: " + b"h" * MAX_HEAD_BYTES + b"\r\nContent-Length: 0\r\n\r\n"

    with pytest.raises(BadAnswer):
        parse(*(data[at : at + piece] for at in range(0, len(data), piece)))


def test_a_head_of_many_headers_beyond_the_limit_is_refused_in_one_piece() -> None:
    lines = b"".join(b"X-%d: %s\r\n" % (number, b"v" * 1000) for number in range(100))

    with pytest.raises(BadAnswer):
        parse(b"HTTP/1.1 200 OK\r\n" + lines + b"\r\n")


def test_a_head_within_the_limits_passes() -> None:
    lines = b"".join(b"X-%d: %s\r\n" % (number, b"v" * 200) for number in range(MAX_HEADERS - 1))

    head, _, ends = joined(parse(b"HTTP/1.1 200 OK\r\n" + lines + b"Content-Length: 0\r\n\r\n")[1])

    assert head is not None
    assert (len(head.headers), ends) == (MAX_HEADERS, 1)


def test_too_many_headers_are_refused() -> None:
    lines = b"".join(b"X-%d: v\r\n" % number for number in range(MAX_HEADERS + 1))

    with pytest.raises(BadAnswer):
        parse(b"HTTP/1.1 200 OK\r\n" + lines + b"\r\n")


@pytest.mark.parametrize(
    "endless",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"X-A: b\r\n",
        b"x",
    ],
)
def test_a_head_that_never_ends_is_refused_after_a_while(endless: bytes) -> None:
    parser = AnswerParser(head_only=False)
    start = b"" if endless.startswith(b"HTTP") else b"HTTP/1.1 200 OK\r\n"
    parser.feed(start + endless)

    with pytest.raises(BadAnswer):
        feed_all(parser, [endless] * (2 * MAX_HEAD_BYTES))


@pytest.mark.parametrize(
    ("start", "endless"),
    [(b"5;", b"extension"), (b"0\r\nX-Trailer: ", b"value"), (b"0\r\n", b"X-T: v\r\n")],
    ids=["a chunk extension", "a trailer", "trailers"],
)
def test_framing_that_never_ends_and_brings_no_data_is_refused_after_a_while(start: bytes, endless: bytes) -> None:
    parser = AnswerParser(head_only=False)
    parser.feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + start)

    with pytest.raises(BadAnswer):
        feed_all(parser, [endless] * (2 * MAX_HEAD_BYTES))


def test_a_long_body_in_small_chunks_is_no_framing_without_data() -> None:
    parser = AnswerParser(head_only=False)
    parser.feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")

    size = sum(len(joined(parser.feed(b"1\r\nx\r\n"))[1]) for _ in range(MAX_HEAD_BYTES))

    assert size == MAX_HEAD_BYTES


# -- requests -------------------------------------------------------------------------------------------


def send(headers: list[tuple[str, str]], target: str = "/v1/models?x=1") -> Send:
    return Send("http://h", "GET", target, headers, b"", 1.0)


def test_a_request_is_written_as_it_was_ordered() -> None:
    assert request_bytes(send([("Host", "h"), ("X-Name", "café")])) == (
        b"GET /v1/models?x=1 HTTP/1.1\r\nHost: h\r\nX-Name: caf\xe9\r\n\r\n"
    )


@pytest.mark.parametrize("header", [("X-A", "b\r\nEvil: 1"), ("X\n", "b"), ("X-A", "b\0"), ("X\r", "")])
def test_a_header_that_would_break_the_framing_is_refused(header: tuple[str, str]) -> None:
    with pytest.raises(ValueError):
        request_bytes(send([header]))


@pytest.mark.parametrize("target", ["/a b", "/a\r\nX: 1", "/a\0", "/é\n"])
def test_a_target_that_would_break_the_framing_is_refused(target: str) -> None:
    with pytest.raises(ValueError):
        request_bytes(send([], target))
