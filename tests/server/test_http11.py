"""What HTTP/1.1 and HTTP/1.0 clients may count on, connection by connection."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from app.proxy.events import ClientHead
from tests.server.in_process import Echo, LoopServer, Serving, answers, read_all, talk
from tests.server.server import wait_until

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
ASK = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture
def echo() -> Iterator[LoopServer]:
    with LoopServer(Echo) as server:
        yield server


def test_http_1_0_keeps_its_connection_only_where_it_says_so(echo: LoopServer) -> None:
    plain, kept = b"GET / HTTP/1.0\r\n\r\n", b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"

    received = answers(talk(echo, [kept, kept, plain, plain], half_close=False))

    assert [headers["connection"] for _, headers, _ in received] == ["keep-alive", "keep-alive", "close"]


class Streaming(Serving):
    """Answers without a length."""

    def start(self) -> None:
        self.connection.head(ClientHead(200, [], None))
        self.connection.data(b"first")
        self.connection.data_now(b"second")
        self.connection.finish()


def test_without_chunks_an_answer_of_unknown_length_ends_with_its_connection() -> None:
    with LoopServer(Streaming) as server:
        received = talk(server, [b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"], half_close=False)
        head, _, body = received.partition(b"\r\n\r\n")

    assert b"Connection: close" in head
    assert b"Transfer-Encoding" not in head
    assert body == b"firstsecond"


def test_the_answer_to_head_has_no_body_and_no_end_of_one() -> None:
    with LoopServer(Streaming) as server:
        received = talk(
            server, [ASK.replace(b"GET", b"HEAD"), ASK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")]
        )

    assert received.partition(b"\r\n\r\n")[2].startswith(b"HTTP/1.1 200 OK\r\n")
    assert received.count(b"firstsecond") == 0
    assert received.endswith(b"5\r\nfirst\r\n6\r\nsecond\r\n0\r\n\r\n")


EXPECTING = b"POST / HTTP/%b\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 2\r\n\r\n"


@pytest.mark.parametrize(
    ("version", "early", "asked"),
    [(b"1.1", b"", True), (b"1.1", b"h", False), (b"1.1", b"hi", False), (b"1.0", b"", False)],
)
def test_who_waits_to_be_asked_for_the_body_is_asked_and_nobody_else(
    echo: LoopServer, version: bytes, early: bytes, asked: bool
) -> None:
    with echo.connect() as client:
        client.sendall(EXPECTING % version + early)
        if asked:
            assert client.recv(len(CONTINUE)) == CONTINUE
        client.sendall(b"hi"[len(early) :] + ASK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        received = read_all(client)

    assert CONTINUE not in received
    assert [status for status, _, _ in answers(received)] == [200] * (2 if version == b"1.1" else 1)


class Refusing(Serving):
    """Wants no body."""

    def start(self) -> None:
        self.answer(b"no", 403)


@pytest.mark.parametrize("rest", [b"", b"h", b"hi" + ASK])
def test_a_refusal_before_the_body_closes_unless_the_body_is_here(rest: bytes) -> None:
    with LoopServer(Refusing) as server, server.connect() as client:
        client.sendall(EXPECTING % b"1.1" + rest)
        if rest.endswith(ASK):
            client.sendall(ASK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        received = answers(read_all(client))

    whole = rest.startswith(b"hi")
    assert [status for status, _, _ in received] == [403] * (3 if whole else 1)
    assert received[0][1]["connection"] == ("keep-alive" if whole else "close")


def test_the_answer_to_an_upload_that_goes_on_is_not_lost() -> None:
    """A close with input unread is a reset, and a reset takes the answer away that lies unread at the client."""
    with LoopServer(Refusing) as server, server.connect() as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000\r\n\r\n")
        for _ in range(40):
            client.sendall(b"x" * 100_000)

        assert [status for status, _, _ in answers(read_all(client))] == [403]


class Defective(Serving):
    """Fails at once."""

    def start(self) -> None:
        raise ValueError("a defect")


def test_a_defect_closes_the_connection_instead_of_leaving_it_open(caplog: pytest.LogCaptureFixture) -> None:
    with LoopServer(Defective) as server:
        assert talk(server, [ASK], half_close=False) == b""
        assert wait_until(lambda: not server.connections)
        (handler,) = server.handlers
        assert isinstance(handler, Defective)
        assert handler.is_gone.is_set()
    assert [record.message for record in caplog.records] == ["a callback failed on the event loop"]


def test_requests_come_split_anywhere_and_ahead_of_their_answers(echo: LoopServer) -> None:
    asks = b"".join(b"PUT /%d HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc" % number for number in range(30))

    received = answers(talk(echo, [asks[at : at + 7] for at in range(0, len(asks), 7)]))

    assert [b'"/%d"' % number in body for number, (_, _, body) in enumerate(received)] == [True] * 30
