"""The parser of requests, against a strict reader that was written from the RFC alone."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.server.requests import MAX_HEADER_BYTES, MAX_TARGET_BYTES, BadRequestBytes, RequestParser
from tests.server import strict_http
from tests.server.generated import connections, split
from tests.server.strict_http import Ask

EXAMPLES = settings(
    max_examples=800,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def parse(pieces: list[bytes]) -> tuple[list[Ask], bool]:
    """The complete requests, and whether the rest was refused."""
    parser, refused = RequestParser(), False
    for piece in pieces:
        try:
            parser.feed(piece)
        except BadRequestBytes:
            refused = True
            break
    asked = []
    for request in parser.requests:
        body, complete = request.take_body(1 << 20), request.complete
        if complete:
            asked.append(Ask(request.method, request.target, request.headers, body, request.keep_alive))
    return asked, refused


@EXAMPLES
@given(connections(), st.lists(st.integers(0, 1 << 16), max_size=6))
def test_what_is_read_is_what_the_rfc_says_wherever_it_is_split(data: bytes, at: list[int]) -> None:
    expected = strict_http.read(data)

    for pieces in ([data], split(data, at), split(data, list(range(len(data))))):
        asked, refused = parse(pieces)

        assert asked == expected.asked
        assert refused <= (expected.ended != "end")


# -- limits -----------------------------------------------------------------------------------------------

LINE = b"GET /%b HTTP/1.1\r\n"
HOST = b"Host: a\r\n"


def refusal(data: bytes) -> int:
    """The status that is to be answered; 0 where the request is read."""
    parser = RequestParser()
    for piece in split(data, list(range(0, len(data), 1000))):
        try:
            parser.feed(piece)
        except BadRequestBytes as error:
            return error.status
    assert parser.requests[0].complete
    return 0


def header(size: int) -> bytes:
    """One whose name and value have so many bytes."""
    return b"X: " + b"y" * (size - 1) + b"\r\n"


LIMITS = {
    "a target": (LINE % (b"t" * (MAX_TARGET_BYTES - 1)) + HOST, LINE % (b"t" * MAX_TARGET_BYTES) + HOST, 414),
    "the number of headers": (LINE % b"" + HOST + b"X: y\r\n" * 199, LINE % b"" + HOST + b"X: y\r\n" * 200, 431),
    "a header": (LINE % b"" + HOST + header(MAX_HEADER_BYTES), LINE % b"" + HOST + header(MAX_HEADER_BYTES + 1), 431),
    "the head": (LINE % b"" + HOST + header(16_000) * 4, LINE % b"" + HOST + header(16_000) * 5, 431),
}


@pytest.mark.parametrize(("within", "beyond", "status"), LIMITS.values(), ids=list(LIMITS))
def test_a_head_may_be_as_large_as_its_limits_and_no_larger(within: bytes, beyond: bytes, status: int) -> None:
    assert refusal(within + b"\r\n") == 0
    assert refusal(beyond + b"\r\n") == status


@pytest.mark.parametrize("endless", [LINE[:5] + b"x" * 70_000, LINE % b"" + b"X" * 70_000, b"\r\n" * 40_000])
def test_a_head_without_end_is_refused_while_it_comes(endless: bytes) -> None:
    assert refusal(endless) in (400, 414, 431)


HEADS = {
    "a version that is none": (b"GET / HTTP/2.0\r\n" + HOST, 505),
    "HTTP/0.9": (b"GET /\r\n", 400),
    "no host": (b"GET / HTTP/1.1\r\n", 400),
    "two hosts": (b"GET / HTTP/1.1\r\n" + HOST + HOST, 400),
    "a host with a blank": (b"GET / HTTP/1.1\r\nHost: a b\r\n", 400),
    "a host with a path": (b"GET / HTTP/1.1\r\nHost: a/b\r\n", 400),
    "a host with a user": (b"GET / HTTP/1.1\r\nHost: u@b\r\n", 400),
    "an unknown coding": (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip, chunked\r\n", 501),
    "codings in HTTP/1.0": (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n", 400),
    "an unknown expectation": (b"POST / HTTP/1.1\r\n" + HOST + b"Expect: 200-ok\r\n", 417),
    "an asterisk to be got": (b"GET * HTTP/1.1\r\n" + HOST, 400),
    "more than an asterisk": (b"OPTIONS *x HTTP/1.1\r\n" + HOST, 400),
}


@pytest.mark.parametrize(("head", "status"), HEADS.values(), ids=list(HEADS))
def test_a_head_that_llhttp_lets_pass_is_refused(head: bytes, status: int) -> None:
    assert refusal(head + b"\r\n") == status


def test_blanks_around_a_value_are_no_part_of_it() -> None:
    (ask,), _ = parse([b"GET / HTTP/1.1\r\nHost: \ta \t\r\nX:\r\nY:  \r\n\r\n"])
    assert ask.headers == [("Host", "a"), ("X", ""), ("Y", "")]


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
@pytest.mark.parametrize("options", [b"close\r\nConnection: keep-alive", b"keep-alive, Close", b"x,close ,y"])
def test_whoever_says_close_once_means_it(version: bytes, options: bytes) -> None:
    (ask,), _ = parse([b"GET / HTTP/" + version + b"\r\nHost: a\r\nConnection: " + options + b"\r\n\r\n"])
    assert not ask.keep
