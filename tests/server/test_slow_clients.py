"""
Clients that are slow: each has its time and its room, on real sockets with the real loop. Times are shortened by the
constants that hold them.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.proxy.events import ClientHead
from app.server import body_wait, connection, outgoing, uploads
from app.server.uploads import KIB, MIB, Uploads
from tests.server.in_process import WAIT_S, Echo, LoopServer, Serving, answers, read_all
from tests.server.server import wait_until

HEAD = b"POST / HTTP/1.1\r\nHost: a\r\n"
ASK = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
SOON_S = 0.2
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
def echo(tmp_path: Path) -> Iterator[LoopServer]:
    with LoopServer(Echo, Uploads(tmp_path)) as server:
        yield server


def upload(size: int) -> bytes:
    return HEAD + b"Content-Length: %d\r\n\r\n" % size


def keep_sending(client: socket.socket, data: bytes, every_s: float) -> threading.Event:
    """Send this again and again until the server has enough; the event says that it has."""
    refused = threading.Event()

    def send() -> None:
        until = time.monotonic() + WAIT_S
        try:
            while time.monotonic() < until:
                client.sendall(data)
                threading.Event().wait(every_s)
        except OSError:
            refused.set()

    threading.Thread(target=send, daemon=True).start()
    return refused


# -- time -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [b"", ASK], ids=["the first", "a later"])
def test_a_head_must_come_in_time(echo: LoopServer, monkeypatch: pytest.MonkeyPatch, before: bytes) -> None:
    monkeypatch.setattr(connection, "HEAD_TIMEOUT_S", SOON_S)
    with echo.connect() as client:
        client.sendall(before + b"GET /")
        keep_sending(client, b"x", 0.01)

        statuses = [status for status, _, _ in answers(read_all(client))]

    assert statuses == [200] * bool(before) + [408]


def test_a_head_that_was_begun_while_another_request_was_served_must_come_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "HEAD_TIMEOUT_S", SOON_S)
    with LoopServer(Serving) as server, server.connect() as client:
        client.sendall(ASK + b"GET / HT")
        assert wait_until(lambda: bool(server.handlers))
        (handler,) = server.handlers
        assert isinstance(handler, Serving)
        server.loop.call_soon(lambda: handler.answer(b""))

        assert [status for status, _, _ in answers(read_all(client))] == [200, 408]


def test_an_idle_connection_is_closed_in_time_and_without_a_word(
    echo: LoopServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "IDLE_TIMEOUT_S", SOON_S)
    with echo.connect() as client:
        client.sendall(ASK)

        assert [status for status, _, _ in answers(read_all(client))] == [200]


SLOW_BODIES = {
    "silence": (upload(10) + b"12345", b""),
    "silence in chunks": (CHUNKED + b"5\r\n12", b""),
    "a chunk size without end": (CHUNKED, b"0"),
    "a chunk extension without end": (CHUNKED + b"5;a", b"b"),
    "a trailer without end": (CHUNKED + b"1\r\nx\r\n0\r\nX: ", b"y"),
}


@pytest.mark.parametrize(("begin", "more"), SLOW_BODIES.values(), ids=list(SLOW_BODIES))
def test_a_body_in_which_nothing_comes_is_given_up(
    echo: LoopServer, monkeypatch: pytest.MonkeyPatch, begin: bytes, more: bytes
) -> None:
    monkeypatch.setattr(body_wait, "BODY_TIMEOUT_S", SOON_S)
    with echo.connect() as client:
        client.sendall(begin)
        if more:
            keep_sending(client, more, 0.01)

        ((status, headers, body),) = answers(read_all(client))

    assert (status, headers["connection"], body) == (408, "close", b"request_timeout")


def test_a_body_that_only_trickles_is_given_up(echo: LoopServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_wait, "BODY_TIMEOUT_S", SOON_S)
    with echo.connect() as client:
        client.sendall(upload(1000))
        keep_sending(client, b"x", SOON_S / 10)

        assert [status for status, _, _ in answers(read_all(client))] == [408]


def test_a_slow_body_that_comes_is_read(echo: LoopServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_wait, "BODY_TIMEOUT_S", SOON_S)
    with echo.connect() as client:
        client.sendall(upload(1000))
        for _ in range(10):
            threading.Event().wait(SOON_S / 4)
            client.sendall(b"x" * 100)
        client.shutdown(socket.SHUT_WR)

        assert [status for status, _, _ in answers(read_all(client))] == [200]


@pytest.mark.parametrize(
    "framing",
    [b"5;" + b"a" * 200_000, b"0" * 200_000, b"1\r\nx\r\n0\r\n" + b"X: y\r\n" * 40_000, b"0\r\nX: " + b"y" * 200_000],
)
def test_a_body_that_is_almost_nothing_but_framing_is_refused(echo: LoopServer, framing: bytes) -> None:
    with echo.connect() as client:
        client.sendall(CHUNKED + framing)
        client.shutdown(socket.SHUT_WR)

        assert [status for status, _, _ in answers(read_all(client))] == [400]


# -- room -------------------------------------------------------------------------------------------------


def test_a_large_body_waits_in_a_file_and_arrives_whole(echo: LoopServer, tmp_path: Path) -> None:
    data = bytes(range(256)) * (12 * KIB)
    with echo.connect() as client:
        client.sendall(upload(len(data)) + data[:-1])
        assert wait_until(lambda: echo.room.disk_bytes == len(data) - 1)
        assert echo.room.memory_bytes == 0
        assert list(tmp_path.iterdir()) == []  # it has no name
        client.sendall(data[-1:])
        client.shutdown(socket.SHUT_WR)
        ((status, _, _),) = answers(read_all(client))
        (handler,) = echo.handlers

    assert status == 200
    assert handler.data == data  # type: ignore[attr-defined]
    assert wait_until(lambda: (echo.room.memory_bytes, echo.room.disk_bytes) == (0, 0))


def test_thousands_of_half_sent_bodies_hold_a_bounded_part_of_memory(
    echo: LoopServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "MOST_MEMORY_BYTES", MIB)
    part = b"x" * (200 * KIB)
    clients = [echo.connect() for _ in range(20)]
    for client in clients:
        client.sendall(upload(MIB) + part)

    assert wait_until(lambda: echo.room.memory_bytes + echo.room.disk_bytes == 20 * len(part))
    assert echo.room.memory_bytes <= MIB
    for client in clients:
        client.close()
    assert wait_until(lambda: (echo.room.memory_bytes, echo.room.disk_bytes) == (0, 0))


@pytest.mark.parametrize("full", ["no room", "no folder"])
def test_where_there_is_no_room_an_upload_is_refused_and_others_are_served(
    echo: LoopServer, monkeypatch: pytest.MonkeyPatch, full: str
) -> None:
    if full == "no room":
        monkeypatch.setattr(uploads, "MOST_DISK_BYTES", 3 * MIB)
    else:
        monkeypatch.setattr(echo.room, "folder", Path("/nowhere/at/all"))
    with echo.connect() as client:
        keep_sending(client, upload(10 * MIB) + b"x" * (4 * MIB), 1.0)
        ((status, headers, body),) = answers(read_all(client))
    assert (status, headers["connection"], body) == (503, "close", b"overloaded")
    with echo.connect() as client:
        client.sendall(upload(MIB) + b"x" * MIB)
        client.shutdown(socket.SHUT_WR)
        assert [status for status, _, _ in answers(read_all(client))] == [200]
    assert wait_until(lambda: (echo.room.memory_bytes, echo.room.disk_bytes) == (0, 0))


# -- reading ----------------------------------------------------------------------------------------------


class Flood(Serving):
    """Answers with more than any buffer holds, as fast as it may."""

    size = 24 * MIB
    piece = b"x" * (64 * KIB)

    def start(self) -> None:
        super().start()
        self.sent = 0
        self.connection.head(ClientHead(200, [], self.size))
        self.connection.uncork()
        self.pump()

    def pause(self, paused: bool) -> None:
        super().pause(paused)
        if not paused:
            self.connection._loop.call_soon(self.pump)

    def pump(self) -> None:
        while self.sent < self.size and not self.is_paused.is_set() and not self.is_gone.is_set():
            self.connection.data_now(self.piece)
            self.sent += len(self.piece)
        if self.sent >= self.size:
            self.connection.finish()
            self.sent = -(1 << 40)


def test_a_client_that_does_not_read_stops_its_source() -> None:
    with LoopServer(Flood) as server, server.connect(rcvbuf=64 * KIB) as client:
        client.sendall(ASK)
        assert wait_until(lambda: bool(server.handlers) and server.handlers[0].is_paused.is_set())  # type: ignore[attr-defined]
        (busy,) = server.connections

        assert len(busy._unsent) < outgoing.HIGH_WATER_BYTES + 2 * len(Flood.piece)
        assert server.handlers[0].sent < 12 * MIB  # type: ignore[attr-defined]
        client.shutdown(socket.SHUT_WR)
        assert len(read_all(client)) > Flood.size


class Chunk(Serving):
    """Answers with a little more than stops a source, at once."""

    def start(self) -> None:
        super().start()
        self.answer(b"x" * (outgoing.HIGH_WATER_BYTES + 1))


def test_answers_that_nobody_reads_stop_the_requests_behind_them() -> None:
    with LoopServer(Chunk) as server, server.connect(rcvbuf=64 * KIB) as client:
        client.sendall(ASK * 60)
        assert wait_until(lambda: bool(server.connections) and any(busy._paused for busy in server.connections))
        (busy,) = server.connections
        served = len(server.handlers)

        assert served < 60
        assert len(busy._unsent) < 2 * outgoing.HIGH_WATER_BYTES + 64 * KIB
        client.shutdown(socket.SHUT_WR)
        assert len(answers(read_all(client))) == 60


def test_a_client_that_never_reads_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "WRITE_TIMEOUT_S", SOON_S)
    with LoopServer(Flood) as server, server.connect(rcvbuf=64 * KIB) as client:
        client.sendall(ASK)
        assert wait_until(lambda: bool(server.handlers))
        assert server.handlers[0].is_gone.wait(WAIT_S)  # type: ignore[attr-defined]
        assert wait_until(lambda: not server.connections)


class Beating(Serving):
    """More than any buffer holds, and then a little again and again."""

    def start(self) -> None:
        self.connection.head(ClientHead(200, [], None))
        self.connection.data_now(b"x" * (16 * MIB))
        self.beat()

    def beat(self) -> None:
        if not self.is_gone.is_set():
            self.connection.data_now(b"\r\n")
            self.connection._loop.at(time.monotonic() + SOON_S / 4, self.beat)


def test_a_client_that_never_reads_is_given_up_whatever_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "WRITE_TIMEOUT_S", SOON_S)
    with LoopServer(Beating) as server, server.connect(rcvbuf=64 * KIB) as client:
        client.sendall(ASK)
        assert wait_until(lambda: bool(server.handlers))
        assert server.handlers[0].is_gone.wait(WAIT_S)  # type: ignore[attr-defined]


def slowly(client: socket.socket, size: int, each: int) -> bytes:
    """Read so much, in small sips."""
    received = b""
    while len(received) < size:
        received += client.recv(each)
        threading.Event().wait(0.002)
    return received


def test_a_client_that_reads_slowly_is_not_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "WRITE_TIMEOUT_S", 0.4)
    with LoopServer(Flood) as server, server.connect(rcvbuf=256 * KIB) as client:
        client.sendall(ASK)
        slowly(client, 2 * MIB, 2 * KIB)
        client.shutdown(socket.SHUT_WR)
        assert len(read_all(client)) > Flood.size - 2 * MIB - 64 * KIB


# -- pipelining beyond measure ------------------------------------------------------------------------------


def test_more_requests_ahead_than_are_kept_are_left_to_be_sent_again(echo: LoopServer) -> None:
    with echo.connect() as client:
        client.sendall(ASK * 500)
        client.shutdown(socket.SHUT_WR)
        received = answers(read_all(client))

    assert {status for status, _, _ in received} == {200}
    assert 0 < len(received) < 500
    assert received[-1][1]["connection"] == "close"
    assert {headers["connection"] for _, headers, _ in received[:-1]} <= {"keep-alive"}
