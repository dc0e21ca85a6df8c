"""
Clients that send no more: one that only shut down its sending side gets its whole answer, one that left is noticed.
Before it gets something, nothing tells the one from the other.
"""

from __future__ import annotations

import http.client
import io
import socket
import struct
import threading
from collections.abc import Callable, Iterator

import pytest

from app.proxy.events import ClientHead
from tests.gateway import unchunk
from tests.server.in_process import WAIT_S, Echo, LoopServer, Serving, answers, read_all, talk
from tests.server.server import wait_until

ASK = b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n"
ASK_1_0 = b"GET / HTTP/1.0\r\n\r\n"
UPLOAD = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n"
NOTICED_WITHIN_S = 2.0
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@pytest.fixture
def server() -> Iterator[LoopServer]:
    """Its handlers wait for the test."""
    with LoopServer(Serving) as server:
        yield server


def asks(server: LoopServer, data: bytes) -> tuple[socket.socket, Serving]:
    """A client whose request is being served, and who serves it."""
    client = server.connect()
    client.sendall(data)
    assert wait_until(lambda: bool(server.handlers), WAIT_S)
    handler = server.handlers[-1]
    assert isinstance(handler, Serving)
    return client, handler


def on_loop(server: LoopServer, *calls: Callable[[], object]) -> None:
    """Run these on the loop's thread, and wait until it is done."""
    done = threading.Event()

    def run() -> None:
        for call in calls:
            call()
        done.set()

    server.loop.call_soon(run)
    assert done.wait(WAIT_S)


def half_close(server: LoopServer, client: socket.socket) -> None:
    """The client's last byte is out, and the server knows it."""
    client.shutdown(socket.SHUT_WR)
    assert wait_until(lambda: all(connection._half_closed for connection in server.connections), WAIT_S)


def begin(handler: Serving, length: int | None = None) -> Callable[[], None]:
    return lambda: (handler.connection.head(ClientHead(200, [], length)), handler.connection.uncork())[0]


# -- who still reads --------------------------------------------------------------------------------------


@pytest.mark.parametrize("ask", [ASK % 1, ASK_1_0], ids=["1.1", "1.0"])
def test_a_client_that_sends_no_more_gets_the_answer_that_it_waits_for(server: LoopServer, ask: bytes) -> None:
    client, handler = asks(server, ask)
    with client:
        half_close(server, client)
        on_loop(server, lambda: handler.answer(b"the answer"))

        (answer,) = answers(read_all(client))

    assert (answer[0], answer[2]) == (200, b"the answer")
    assert answer[1]["connection"] == "close"
    assert not handler.is_gone.is_set()
    assert wait_until(lambda: not server.connections)


def test_a_client_that_sends_no_more_gets_the_whole_of_a_stream(server: LoopServer) -> None:
    client, handler = asks(server, ASK % 1)
    with client:
        on_loop(server, begin(handler), lambda: handler.connection.data_now(b"first"))
        half_close(server, client)
        on_loop(server, lambda: handler.connection.data_now(b"second" * 10), handler.connection.finish)

        _, _, body = read_all(client).partition(b"\r\n\r\n")

    assert unchunk(body) == (b"first" + b"second" * 10, True)


def test_all_that_was_asked_ahead_is_answered_in_order() -> None:
    with LoopServer(Echo) as server:
        received = answers(talk(server, [b"".join(ASK % number for number in range(20))]))

    assert [b'"target": "/%d"' % number in body for number, (_, _, body) in enumerate(received)] == [True] * 20


def test_what_was_asked_before_an_unfinished_request_is_answered() -> None:
    with LoopServer(Echo) as server:
        for rest in (b"GET / HT", UPLOAD + b"12345"):
            assert len(answers(talk(server, [ASK % 1 + ASK % 2 + rest]))) == 2
        assert wait_until(lambda: not server.connections)


def turns_during(server: LoopServer, seconds: float) -> int:
    """How often the loop woke up in this time."""
    turns = []
    turn = server.loop.turn

    def counted() -> None:
        turns.append(1)
        turn()

    server.loop.turn = counted  # type: ignore[method-assign]
    threading.Event().wait(seconds)
    return len(turns)


def test_an_unread_half_does_not_spin_the_loop(server: LoopServer) -> None:
    client, handler = asks(server, ASK % 1)
    with client:
        client.sendall(b"".join(ASK % number for number in range(2, 50)))
        client.shutdown(socket.SHUT_WR)

        assert turns_during(server, 0.3) < 20
        while len(server.handlers) < 49 or not handler.connection._dead:
            on_loop(server, lambda: server.handlers[-1].answer(b""))  # type: ignore[attr-defined]
        assert len(answers(read_all(client))) == 49


class Much(Serving):
    def start(self) -> None:
        self.answer(b"x" * (8 << 20))


def test_an_answer_that_nobody_reads_yet_does_not_spin_the_loop() -> None:
    with LoopServer(Much) as server, server.connect(rcvbuf=65536) as client:
        client.sendall(ASK % 1 + ASK % 2)
        client.shutdown(socket.SHUT_WR)
        assert wait_until(lambda: any(connection._hung_up for connection in server.connections), WAIT_S)

        assert turns_during(server, 0.3) < 20
        assert len(answers(read_all(client))) == 2


# -- who left ---------------------------------------------------------------------------------------------


def test_a_client_that_left_before_the_head_is_noticed_at_once(server: LoopServer) -> None:
    client, handler = asks(server, ASK % 1)
    client.close()

    assert handler.is_gone.wait(NOTICED_WITHIN_S)
    assert wait_until(lambda: not server.connections)


def test_a_client_that_left_a_silent_stream_is_noticed_at_once(server: LoopServer) -> None:
    client, handler = asks(server, ASK % 1)
    on_loop(server, begin(handler), lambda: handler.connection.data_now(b"first"))
    assert client.recv(65536)
    client.close()

    assert handler.is_gone.wait(NOTICED_WITHIN_S)


def test_a_client_that_left_with_more_requests_ahead_is_noticed(server: LoopServer) -> None:
    client, handler = asks(server, ASK % 1)
    client.sendall(ASK % 2 + ASK % 3)
    client.close()

    assert handler.is_gone.wait(NOTICED_WITHIN_S)


def test_a_client_that_resets_is_noticed_at_once(server: LoopServer) -> None:
    client, handler = asks(server, ASK_1_0)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()

    assert handler.is_gone.wait(NOTICED_WITHIN_S)


@pytest.mark.parametrize("length", [None, 1 << 30], ids=["1.0", "with a length"])
def test_where_nothing_can_be_sent_the_next_bytes_tell(server: LoopServer, length: int | None) -> None:
    client, handler = asks(server, ASK_1_0 if length is None else ASK % 1)
    on_loop(server, begin(handler, length))
    assert client.recv(65536)
    client.close()

    for _ in range(20):
        on_loop(server, lambda: handler.connection.data_now(b"x" * 1000))

    assert handler.is_gone.wait(NOTICED_WITHIN_S)


def test_a_client_whose_body_can_not_become_whole_is_gone() -> None:
    with LoopServer(Echo) as server:
        assert talk(server, [UPLOAD + b"12345"]) == b""
        (handler,) = server.handlers
        assert isinstance(handler, Echo)
        assert handler.is_gone.wait(NOTICED_WITHIN_S)


def test_an_idle_client_that_sends_no_more_is_closed() -> None:
    with LoopServer(Echo) as server:
        assert talk(server, []) == b""
        assert talk(server, [b"GET /"]) == b""
        assert wait_until(lambda: not server.connections)


# -- a cut stream is never a clean end ----------------------------------------------------------------------


def read_with_http_client(received: bytes) -> bytes:
    class Wire:
        def makefile(self, *_: object) -> io.BytesIO:
            return io.BytesIO(received)

    answer = http.client.HTTPResponse(Wire())  # type: ignore[arg-type]
    answer.begin()
    return answer.read()


def test_a_stream_that_is_cut_after_the_probe_does_not_look_complete(server: LoopServer) -> None:
    client, handler = asks(server, ASK % 1)
    with client:
        on_loop(server, begin(handler), lambda: handler.connection.data_now(b"first"))
        half_close(server, client)
        on_loop(server, handler.connection.abort)

        received = read_all(client)

    assert not unchunk(received.partition(b"\r\n\r\n")[2])[1]
    with pytest.raises(http.client.IncompleteRead):
        read_with_http_client(received)


def test_a_stream_without_framing_that_is_cut_ends_with_a_reset(server: LoopServer) -> None:
    client, handler = asks(server, ASK_1_0)
    with client:
        on_loop(server, begin(handler), lambda: handler.connection.data_now(b"first"))
        assert client.recv(65536)
        on_loop(server, handler.connection.abort)

        with pytest.raises(ConnectionResetError):
            client.recv(65536)


def test_the_probe_is_nothing_to_a_reader(server: LoopServer) -> None:
    client, handler = asks(server, ASK % 1)
    with client:
        half_close(server, client)
        on_loop(server, begin(handler), lambda: handler.connection.data_now(b"x" * 16), handler.connection.finish)
        received = read_all(client)

    assert received.startswith(CONTINUE)
    assert read_with_http_client(received) == b"x" * 16
