"""
HTTP/1.1 as the event-loop worker speaks it, in a real process: for calls that it relays itself and for those that Flask
serves. What the connection alone decides is tested in `test_half_closed`, `test_slow_clients` and `test_http_fuzz`.
"""

from __future__ import annotations

import json
import resource
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import canned
from tests.attacks.dialects import CHAT, DIALECTS, Dialect, right_answer
from tests.attacks.server import Server, read_to_the_end, split_answer
from tests.fake_provider import FakeProvider, hang, stream, wait_for
from tests.gateway import Gateway, RawClient, unchunk
from tests.server.in_process import answers

KEY = "sk-live-0123456789abcdefghij"
HOST = b"Host: localhost\r\n"
ALIVE = b"GET /livez HTTP/1.1\r\n" + HOST + b"\r\n"


@pytest.fixture(scope="module")
def upstream() -> Iterator[FakeProvider]:
    with FakeProvider() as provider:
        yield provider


@pytest.fixture(autouse=True)
def right(upstream: FakeProvider) -> None:
    upstream.default(right_answer)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, upstream: FakeProvider) -> Iterator[Server]:
    names = ("OPENAI", "ANTHROPIC", "GEMINI")
    environ = {f"{name}_API_KEYS": f"{KEY}{name}" for name in names}
    environ |= {f"{name}_BASE_URL": upstream.origin for name in names}
    with Server(tmp_path_factory.mktemp("loop"), DRIVER="loop", THREADS="4", **environ) as running:
        yield running
        assert "a callback failed" not in running.log
        assert "Traceback" not in running.log


@pytest.fixture(params=DIALECTS, ids=str)
def dialect(request: pytest.FixtureRequest) -> Dialect:
    found: Dialect = request.param
    return found


def post(dialect: Dialect, *lines: bytes, body: bytes | None = None) -> bytes:
    data = json.dumps(dialect.body).encode() if body is None else body
    head = [b"POST %s HTTP/1.1" % dialect.path.encode(), b"Host: localhost", b"Content-Type: application/json", *lines]
    if not any(line.startswith((b"Transfer-Encoding", b"Content-Length")) for line in lines):
        head.append(b"Content-Length: %d" % len(data))
    return b"\r\n".join([*head, b"", data])


def talk(server: Server, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=5.0) as client:
        client.sendall(data)
        return read_to_the_end(client)


# -- refusals in the caller's own shape -----------------------------------------------------------------------

BAD_BODIES = {
    "a sign": b"+2\r\n{}\r\n0\r\n\r\n",
    "a prefix": b"0x2\r\n{}\r\n0\r\n\r\n",
    "a size beyond 64 bits": b"fffffffffffffffff\r\n{}\r\n0\r\n\r\n",
    "a blank": b"2 \r\n{}\r\n0\r\n\r\n",
    "bare line feeds": b"2\n{}\n0\n\n",
    "framing without end": b"2;" + b"a" * 200_000,
}


@pytest.mark.parametrize("chunks", BAD_BODIES.values(), ids=list(BAD_BODIES))
def test_a_badly_framed_body_is_refused_in_the_callers_dialect(
    server: Server, upstream: FakeProvider, dialect: Dialect, chunks: bytes
) -> None:
    before = len(upstream.received)
    status, headers, body = split_answer(
        talk(server, post(dialect, b"Transfer-Encoding: chunked", body=chunks) + ALIVE)
    )

    assert (status, headers["connection"]) == (400, "close")
    dialect.check_error(status, headers["content-type"], body[: int(headers["content-length"])])
    assert len(body) == int(headers["content-length"])
    assert len(upstream.received) == before


ODD_TARGETS = (b"http://localhost/v1/models", b"HTTP://evil.example/v1/models?x", b"/v1/models#x", b"/v1/models#/../x")


@pytest.mark.parametrize("target", ODD_TARGETS)
def test_a_target_that_is_none_for_an_origin_is_refused_and_nothing_behind_it_is_served(
    server: Server, upstream: FakeProvider, target: bytes
) -> None:
    before = len(upstream.received)
    status, headers, body = split_answer(talk(server, b"GET " + target + b" HTTP/1.1\r\n" + HOST + b"\r\n" + ALIVE))

    assert (status, headers["connection"]) == (400, "close")
    CHAT.check_error(status, headers["content-type"], body)
    assert len(upstream.received) == before


REFUSED = {
    b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n": (400, 404, 405),
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n": (400,),
    b"GET /livez HTTP/2.0\r\nHost: a\r\n\r\n": (505,),
    b"GET /livez\r\n\r\n": (400,),
    b"GET /livez HTTP/1.1\r\nHost: a b\r\n\r\n": (400,),
    b"GET /livez HTTP/1.1\r\nHost: a/../b\r\n\r\n": (400,),
    b"GET /livez HTTP/1.1\r\nHost: u@a\r\n\r\n": (400,),
    b"POST /v1/messages HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n": (501,),
    b"POST /v1/messages HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n": (400,),
}


@pytest.mark.parametrize("ask", REFUSED, ids=repr)
def test_what_no_parser_may_let_pass_is_refused_and_nothing_behind_it_is_served(server: Server, ask: bytes) -> None:
    status, headers, body = split_answer(talk(server, ask + ALIVE))

    assert status in REFUSED[ask]
    assert headers["connection"] == "close"
    assert b"HTTP/1.1 200" not in body
    assert json.loads(body)["error"]["message"]


def test_requests_before_a_bad_one_are_answered_and_then_it_is_refused(server: Server, upstream: FakeProvider) -> None:
    before = len(upstream.received)
    received = answers(talk(server, post(CHAT) + ALIVE + post(CHAT) + b"GET / HTTP/1.1\r\nHost : a\r\n\r\n" + ALIVE))

    assert [status for status, _, _ in received] == [200, 200, 200, 400]
    assert len(upstream.received) == before + 2


def test_what_follows_a_request_that_closes_is_not_served(server: Server) -> None:
    for last in (
        post(CHAT, b"Connection: close"),
        b"GET /v1/nothing HTTP/1.1\r\nConnection: close\r\n" + HOST + b"\r\n",
    ):
        received = answers(talk(server, last + ALIVE))
        assert len(received) == 1
        assert received[0][1]["connection"] == "close"


# -- trailers, upgrades ------------------------------------------------------------------------------------------


def test_a_trailer_passes_for_no_header(server: Server, upstream: FakeProvider) -> None:
    data = json.dumps(CHAT.body).encode()
    trailers = b"Content-Encoding: gzip\r\nX-Request-ID: evil\r\nX-Api-Key: evil\r\nOpenAI-Beta: evil\r\n\r\n"
    chunked = b"%x\r\n%b\r\n0\r\n" % (len(data), data) + trailers
    before = len(upstream.received)
    received = answers(talk(server, post(CHAT, b"Transfer-Encoding: chunked", b"Connection: close", body=chunked)))

    assert [status for status, _, _ in received] == [200]
    assert "evil" not in str(received)
    assert "evil" not in str(upstream.received[before].header_list)


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_a_call_that_offers_http_2_is_served_with_its_body(
    server: Server, upstream: FakeProvider, dialect: Dialect, framing: str
) -> None:
    """So do Java's client and curl, with the first request of a connection."""
    data = json.dumps(dialect.body).encode()
    offer = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA")
    if framing == "length":
        ask = post(dialect, *offer)
    else:
        chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data)
        ask = post(dialect, *offer, b"Transfer-Encoding: chunked", body=chunked)
    before = len(upstream.received)
    received = answers(talk(server, ask + post(dialect, b"Connection: close")))

    assert [status for status, _, _ in received] == [200, 200]
    assert [request.body for request in upstream.received[before:]] == [data, data]


HANDSHAKE = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==\r\n\r\n"


@pytest.mark.parametrize(
    ("path", "status"), [("/v1/responses", 426), ("/middleware/", 404), ("/livez", 404), ("/nothing/here", 404)]
)
def test_a_websocket_is_answered_and_its_connection_closed(server: Server, path: str, status: int) -> None:
    head = b"GET %s HTTP/1.1\r\n" % path.encode() + HOST + HANDSHAKE
    found, headers, body = split_answer(talk(server, head + b"\x81\x85abcdefghi" + ALIVE))

    assert (found, headers["connection"]) == (status, "close")
    assert len(body) == int(headers["content-length"])


# -- clients that only stop sending -------------------------------------------------------------------------------


def half_closed(server: Server, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=5.0) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        return read_to_the_end(client)


def test_a_call_of_a_client_that_sends_no_more_is_answered(
    server: Server, upstream: FakeProvider, dialect: Dialect
) -> None:
    ((status, _, body),) = answers(half_closed(server, post(dialect)))

    assert status == 200
    assert json.loads(body) == dialect.answer


@pytest.mark.parametrize("prefix", ["", "/openai"])
def test_a_stream_to_a_client_that_sends_no_more_arrives_whole(
    server: Server, upstream: FakeProvider, prefix: str
) -> None:
    events, go_on = canned.chat_stream(), threading.Event()
    upstream.answers(stream([*events[:2], wait_for(go_on), *events[2:]]), stream(events))
    threading.Timer(0.3, go_on.set).start()
    data = json.dumps({**CHAT.body, "stream": True}).encode()
    ask = post(CHAT, body=data).replace(b"POST /v1", b"POST " + prefix.encode() + b"/v1")
    got, expected = (
        unchunk(received[received.index(b"HTTP/1.1 200") :].partition(b"\r\n\r\n")[2])
        for received in (half_closed(server, ask), talk(server, ask.replace(HOST, HOST + b"Connection: close\r\n")))
    )
    assert got == expected
    assert got[1]


@pytest.mark.parametrize("path", ["/", "/middleware/", "/livez", "/metrics", "/middleware/static/css/tokens.css"])
def test_what_flask_serves_reaches_a_client_that_sends_no_more(server: Server, path: str) -> None:
    received = half_closed(server, b"GET %s HTTP/1.1\r\n" % path.encode() + HOST + b"\r\n")

    final = received[received.index(b"HTTP/1.1 ", 1 if b" 100 " in received[:20] else 0) :]
    whole = socket.create_connection(("127.0.0.1", server.port), timeout=5.0)
    with whole:
        whole.sendall(b"GET %s HTTP/1.1\r\nConnection: close\r\n" % path.encode() + HOST + b"\r\n")
        expected = read_to_the_end(whole)
    assert split_answer(final)[0] == split_answer(expected)[0]
    assert abs(len(final) - len(expected)) < 200


@pytest.mark.parametrize("prefix", ["", "/openai"])
@pytest.mark.parametrize("streaming", [False, True], ids=["plain", "stream"])
def test_a_client_that_left_closes_its_upstream(
    server: Server, upstream: FakeProvider, prefix: str, streaming: bool
) -> None:
    before = len(upstream.received)
    upstream.default(stream(canned.chat_stream()[:2], end="hang") if streaming else hang())
    data = json.dumps({**CHAT.body, "stream": streaming}).encode()
    with RawClient(server.port) as client:
        client.send(post(CHAT, body=data).replace(b"POST /v1", b"POST " + prefix.encode() + b"/v1"))
        assert upstream.wait_requests(before + 1, 5)
        if streaming:
            client.until(b"data: ")
    assert upstream.wait_closed(upstream.received[-1].connection_id, 2)


# -- uploads -----------------------------------------------------------------------------------------------------


def test_half_sent_uploads_hold_little_memory_and_arrive_whole(server: Server, upstream: FakeProvider) -> None:
    size, count = 8 * 1024 * 1024, 30
    body = json.dumps({**CHAT.body, "messages": [{"role": "user", "content": "x" * size}]}).encode()
    head, _, data = post(CHAT, body=body).partition(b"\r\n\r\n")
    before, memory = len(upstream.received), server.resident_bytes()
    clients = [RawClient(server.port) for _ in range(count)]
    for client in clients:
        client.send(head + b"\r\n\r\n" + data[:-10])
    with RawClient(server.port) as other:
        other.send(post(CHAT))
        assert other.head()[0] == 200

    assert server.resident_bytes() - memory < 100 * 1024 * 1024 < size * count
    assert len(upstream.received) == before + 1
    clients[0].send(data[-10:])
    assert clients[0].head()[0] == 200
    assert upstream.received[-1].body == body
    for client in clients:
        client.close()


# -- crowds ------------------------------------------------------------------------------------------------------


def test_two_thousand_idle_and_half_sent_connections_cost_no_thread_and_delay_nobody(
    server: Server, upstream: FakeProvider
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2000 + 500
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"this system allows {hard} open files, and {wanted} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    whole = post(CHAT)
    begun = (b"", whole[:-1], whole[:20], b"POST /v1/chat/completions HTTP/1.1\r\n", b"GET /middleware/ HT")
    threads, crowd = server.threads(), []
    try:
        for number in range(2000):
            crowd.append(socket.create_connection(("127.0.0.1", server.port), timeout=5.0))
            crowd[-1].sendall(begun[number % len(begun)])
        took = []
        for ask in (whole, ALIVE, b"GET /middleware/ HTTP/1.1\r\n" + HOST + b"\r\n") * 10:
            started = time.monotonic()
            with RawClient(server.port) as client:
                client.send(ask)
                assert client.head()[0] in (200, 302)
            took.append(time.monotonic() - started)

        assert sorted(took)[-2] < 1.0
        assert server.threads() <= threads + 4 + 8  # the pools of Flask may not have been full before
        crowd[1].sendall(whole[-1:])
        assert crowd[1].recv(12) == b"HTTP/1.1 200"
    finally:
        for connection in crowd:
            connection.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_five_hundred_streams_leave_the_dashboard_quick(server: Server, upstream: FakeProvider) -> None:
    events, go_on = canned.chat_stream(), threading.Event()
    upstream.default(stream([*events[:2], wait_for(go_on), *events[2:]]))
    data = json.dumps({**CHAT.body, "stream": True}).encode()
    clients = [RawClient(server.port) for _ in range(500)]
    for client in clients:
        client.socket.settimeout(20.0)
        client.send(post(CHAT, body=data))
    for client in clients:
        status, _ = client.head()
        assert status == 200, client.rest()
        client.until(b"data: ")
    took = []
    for _ in range(20):
        for path in ("/middleware/", "/middleware/api/keys", "/readyz"):
            started = time.monotonic()
            assert server.request("GET", path).status == 200
            took.append(time.monotonic() - started)
    go_on.set()

    assert sorted(took)[len(took) * 95 // 100] < 1.0
    for client in clients:
        body = client.until(b"0\r\n\r\n")
        assert b"[DONE]" in body
        client.close()


def test_an_upstream_that_never_ends_its_answer_is_left_when_the_server_ends(tmp_path: Path) -> None:
    endless = stream(canned.chat_stream(), end="hang")
    with FakeProvider() as provider:
        provider.default(endless)
        with Gateway(tmp_path, openai=provider.origin, driver="loop") as gateway, RawClient(gateway.port) as client:
            gateway.add_keys("openai")
            client.post("/v1/chat/completions", {**canned.CHAT_REQUEST, "stream": True})
            client.until(b"0\r\n\r\n")
            assert provider.open_connections == 1
        assert provider.wait_closed(0, 1.0)
