"""A WSGI application behind the loop: what it is told, and what becomes of its answer, whoever reads it or does not."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from app.server import flask_bridge, uploads
from app.server.connection import Connection
from app.server.flask_bridge import FlaskCall
from app.server.requests import Request
from app.server.uploads import KIB, MIB, Uploads
from tests.gateway import unchunk
from tests.server.in_process import WAIT_S, LoopServer, answers, read_all, talk
from tests.server.server import wait_until

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]

ASK = b"GET /x?y=z HTTP/1.1\r\nHost: a\r\n\r\n"
HEAD = b"POST /x HTTP/1.1\r\nHost: a\r\n"


class Site:
    """The application of one test, and what it was asked."""

    def __init__(self) -> None:
        self.environs: list[Environ] = []
        self.bodies: list[bytes] = []
        self.application: Application = plain
        self.pool = ThreadPoolExecutor(2)

    def __call__(self, environ: Environ, start: StartResponse) -> Iterable[bytes]:
        self.environs.append(environ)
        return self.application(environ, start)

    def serve(self, connection: Connection, request: Request) -> FlaskCall:
        return FlaskCall(connection._loop, connection, request, self, self.pool, ("127.0.0.1", 80))


def plain(environ: Environ, start: StartResponse) -> Iterable[bytes]:
    body = environ["wsgi.input"].read()
    start("200 OK", [("Content-Length", str(len(body)))])
    return [body]


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.pool.shutdown(wait=True)


@pytest.fixture
def server(site: Site, tmp_path: Path) -> Iterator[LoopServer]:
    with LoopServer(site.serve, Uploads(tmp_path)) as server:
        yield server


# -- the request --------------------------------------------------------------------------------------------


def test_the_environ_says_what_was_asked(server: LoopServer, site: Site) -> None:
    lines = b"X-A: b \r\nX-A: c\r\nX_A: evil\r\nCookie: d\r\nCookie: e\r\nContent-Length: 2\r\n"
    ask = b"PUT /a%2Fb/%C3%A4?c=%20d HTTP/1.0\r\n" + lines + b"\r\nhi"
    ((status, _, body),) = answers(talk(server, [ask]))

    (environ,) = site.environs
    assert (status, body) == (200, b"hi")
    expected = {
        "REQUEST_METHOD": "PUT",
        "PATH_INFO": "/a/b/\xc3\xa4",
        "QUERY_STRING": "c=%20d",
        "RAW_URI": "/a%2Fb/%C3%A4?c=%20d",
        "SERVER_PROTOCOL": "HTTP/1.0",
        "REMOTE_ADDR": "127.0.0.1",
        "CONTENT_LENGTH": "2",
        "HTTP_X_A": "b,c",
        "HTTP_COOKIE": "d; e",
    }
    assert {name: environ[name] for name in expected} == expected


def test_a_chunked_body_arrives_whole_and_its_trailers_do_not(server: LoopServer, site: Site) -> None:
    chunked = b"Transfer-Encoding: chunked\r\n\r\n2;a=b\r\nhe\r\n3\r\nllo\r\n0\r\nAuthorization: evil\r\nX-T: y\r\n\r\n"
    ((_, _, body),) = answers(talk(server, [HEAD + chunked]))

    (environ,) = site.environs
    assert body == b"hello"
    assert environ["CONTENT_LENGTH"] == "5"
    assert {"HTTP_AUTHORIZATION", "HTTP_X_T", "HTTP_TRANSFER_ENCODING"} & set(environ) == set()


@pytest.mark.parametrize("size", [10 * KIB, 3 * MIB], ids=["small", "large"])
def test_a_body_is_read_from_where_it_waits_and_leaves_nothing(server: LoopServer, site: Site, size: int) -> None:
    data = bytes(range(256)) * (size // 256)
    ((_, _, body),) = answers(talk(server, [HEAD + b"Content-Length: %d\r\n\r\n" % len(data) + data]))

    assert body == data
    assert wait_until(lambda: (server.room.memory_bytes, server.room.disk_bytes) == (0, 0))


@pytest.mark.parametrize("expect", [b"", b"Expect: 100-continue\r\n"], ids=["plain", "expecting"])
def test_a_body_that_is_announced_as_too_large_is_refused_before_it_comes(
    server: LoopServer, site: Site, expect: bytes
) -> None:
    with server.connect() as client:
        client.sendall(HEAD + expect + b"Content-Length: 1000000000\r\n\r\n")
        received = read_all(client)

    ((status, headers, _),) = answers(received)
    assert b"100 Continue" not in received
    assert (status, headers["connection"]) == (413, "close")
    assert site.environs == []


def test_a_body_that_becomes_too_large_is_refused(
    server: LoopServer, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flask_bridge, "MAX_FLASK_BODY_BYTES", 100)
    chunked = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + (b"40\r\n" + b"x" * 64 + b"\r\n") * 2
    with server.connect() as client:
        client.sendall(chunked)
        ((status, headers, _),) = answers(read_all(client))

    assert (status, headers["connection"]) == (413, "close")
    assert site.environs == []


def test_an_upload_without_room_is_refused(server: LoopServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "MOST_DISK_BYTES", 0)
    with server.connect() as client:
        client.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % (2 * MIB) + b"x" * (2 * MIB))
        ((status, _, body),) = answers(read_all(client))

    assert status == 503
    assert b'"overloaded"' in body


@pytest.mark.parametrize("upgrade", ["websocket", "WebSocket, h2c", "h2c"])
def test_an_upgrade_reaches_the_application_and_is_answered(server: LoopServer, site: Site, upgrade: str) -> None:
    head = b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Key: eA==\r\n"
    with server.connect() as client:
        client.sendall(head + b"Upgrade: " + upgrade.encode() + b"\r\n\r\n")
        if upgrade == "h2c":
            client.sendall(ASK)
            client.shutdown(socket.SHUT_WR)
        else:
            client.sendall(b"\x81\x85....frames that nobody asked for")
        received = answers(read_all(client))

    assert [status for status, _, _ in received] == [200] * (2 if upgrade == "h2c" else 1)
    if upgrade != "h2c":  # here it is a matter of time whether the client's end is seen before its answer is written
        assert received[-1][1]["connection"] == "close"
    environ = site.environs[0]
    assert (environ["HTTP_UPGRADE"], environ["HTTP_SEC_WEBSOCKET_KEY"]) == (upgrade, "eA==")
    assert environ["HTTP_CONNECTION"] == "keep-alive, Upgrade"


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 5\r\n\r\nhello", b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"]
)
def test_the_body_of_an_offered_upgrade_is_read(server: LoopServer, framing: bytes) -> None:
    """Java's client and curl offer HTTP/2 with the first request of every connection."""
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    received = answers(talk(server, [HEAD + offer + framing, HEAD + framing]))

    assert [(status, body) for status, _, body in received] == [(200, b"hello")] * 2


# -- the answer ---------------------------------------------------------------------------------------------


def failing(_environ: Environ, _start: StartResponse) -> Iterable[bytes]:
    raise ValueError("a defect")


def silent(_environ: Environ, _start: StartResponse) -> Iterable[bytes]:
    return []


def failing_later(_environ: Environ, start: StartResponse) -> Iterable[bytes]:
    start("200 OK", [])
    yield b"first"
    raise ValueError("a defect")


def too_short(_environ: Environ, start: StartResponse) -> Iterable[bytes]:
    start("200 OK", [("Content-Length", "10")])
    return [b"12345"]


def too_long(_environ: Environ, start: StartResponse) -> Iterable[bytes]:
    start("200 OK", [("Content-Length", "5")])
    return [b"12345", b"HTTP/1.1 200 OK\r\n\r\n"]


@pytest.mark.parametrize("application", [failing, silent])
def test_a_defect_before_the_head_is_a_500(
    server: LoopServer, site: Site, caplog: pytest.LogCaptureFixture, application: Application
) -> None:
    site.application = application
    ((status, _, body),) = answers(talk(server, [ASK]))

    assert status == 500
    assert b"internal_error" in body
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


@pytest.mark.parametrize("application", [failing_later, too_short, too_long])
def test_a_defect_after_the_head_breaks_the_answer(server: LoopServer, site: Site, application: Application) -> None:
    site.application = application
    received = talk(server, [ASK, ASK]).replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")
    _, _, body = received.partition(b"\r\n\r\n")

    if application is failing_later:
        assert unchunk(body) == (b"first", False)
    else:
        assert body == b"12345"
    assert len(site.environs) == 1


def test_head_and_304_have_no_body(server: LoopServer, site: Site) -> None:
    def unchanged(_environ: Environ, start: StartResponse) -> Iterable[bytes]:
        start("304 Not Modified", [("ETag", "x")])
        return [b"a body that is none"]

    ask = ASK.replace(b"GET", b"HEAD")
    assert talk(server, [ask]).endswith(b"\r\n\r\n")
    site.application = unchanged
    assert talk(server, [ASK]).endswith(b"\r\n\r\n")


def test_a_client_that_does_not_read_holds_its_thread_back_and_not_the_others(server: LoopServer, site: Site) -> None:
    made = []

    def endless(_environ: Environ, start: StartResponse) -> Iterable[bytes]:
        start("200 OK", [])
        for _ in range(1000):
            made.append(1)
            yield b"x" * (64 * KIB)

    site.application = endless
    with server.connect(rcvbuf=64 * KIB) as client:
        client.sendall(ASK)
        assert wait_until(lambda: any(connection._paused for connection in server.connections))
        threading.Event().wait(0.1)
        assert len(made) * 64 * KIB < 12 * MIB
        (busy,) = server.connections
        assert len(busy._unsent) < MIB

        site.application = plain
        assert [status for status, _, _ in answers(talk(server, [HEAD + b"Content-Length: 2\r\n\r\nhi"]))] == [200]


def test_one_huge_part_is_handed_over_in_pieces(server: LoopServer, site: Site) -> None:
    def huge(_environ: Environ, start: StartResponse) -> Iterable[bytes]:
        start("200 OK", [])
        return [b"x" * (24 * MIB)]

    site.application = huge
    with server.connect(rcvbuf=64 * KIB) as client:
        client.sendall(ASK)
        assert wait_until(lambda: any(connection._paused for connection in server.connections))
        (busy,) = server.connections
        assert len(busy._unsent) < MIB
        client.shutdown(socket.SHUT_WR)
        body, whole = unchunk(read_all(client).partition(b"\r\n\r\n")[2])
    assert whole
    assert len(body) == 24 * MIB


def test_an_answer_that_is_there_as_a_whole_holds_no_thread(server: LoopServer, site: Site) -> None:
    def whole(_environ: Environ, start: StartResponse) -> Iterable[bytes]:
        start("200 OK", [("Content-Length", str(24 * MIB))])
        return [b"x" * (24 * MIB)]

    site.application = whole
    idle = [server.connect(rcvbuf=64 * KIB) for _ in range(5)]  # more than there are threads
    for client in idle:
        client.sendall(ASK)
    assert wait_until(lambda: sum(connection._paused for connection in server.connections) == len(idle))
    site.application = plain
    assert [status for status, _, _ in answers(talk(server, [HEAD + b"Content-Length: 2\r\n\r\nhi"]))] == [200]
    for client in idle:
        client.shutdown(socket.SHUT_WR)
        assert len(read_all(client).partition(b"\r\n\r\n")[2]) == 24 * MIB
        client.close()


def test_a_client_that_left_frees_the_thread_and_closes_the_answer(server: LoopServer, site: Site) -> None:
    closed, watched = threading.Event(), []

    class Answer:
        def __iter__(self) -> Iterator[bytes]:
            while True:
                yield b"x" * KIB

        def close(self) -> None:
            closed.set()

    def endless(environ: Environ, start: StartResponse) -> Iterable[bytes]:
        watched.append(environ["gunicorn.socket"])
        start("200 OK", [])
        return Answer()

    site.application = endless
    with server.connect() as client:
        client.sendall(ASK)
        assert client.recv(100)
    assert closed.wait(WAIT_S)
    assert wait_until(lambda: watched[0].fileno() == -1)


def test_a_thread_that_waits_for_something_else_can_watch_for_its_client(server: LoopServer, site: Site) -> None:
    noticed = threading.Event()

    def waiting(environ: Environ, start: StartResponse) -> Iterable[bytes]:
        environ["gunicorn.socket"].settimeout(WAIT_S)
        assert environ["gunicorn.socket"].recv(1) == b""
        noticed.set()
        return plain(environ, start)

    site.application = waiting
    with server.connect() as client:
        client.sendall(ASK)
        assert wait_until(lambda: bool(site.environs))
    assert noticed.wait(2.0)


def test_a_request_whose_client_left_in_the_queue_is_not_run(server: LoopServer, site: Site) -> None:
    go_on = threading.Event()

    def held(environ: Environ, start: StartResponse) -> Iterable[bytes]:
        go_on.wait(WAIT_S)
        return plain(environ, start)

    site.application = held
    stay = [server.connect() for _ in range(2)]
    for client in stay:
        client.sendall(ASK)
    assert wait_until(lambda: len(site.environs) == 2)
    leave = [server.connect() for _ in range(20)]
    for client in leave:
        client.sendall(ASK)
    assert wait_until(lambda: len(server.handlers) == 22)
    for client in leave:
        client.close()
    assert wait_until(lambda: len(server.connections) == 2)
    go_on.set()

    for client in stay:
        client.shutdown(socket.SHUT_WR)
        assert [status for status, _, _ in answers(read_all(client))] == [200]
        client.close()
    assert len(site.environs) == 2
