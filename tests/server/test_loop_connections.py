"""Client connections of the event-loop worker: all of HTTP/1.1, and clients that are slow, absent or hostile."""

import json
import socket
import threading
import time

import pytest

from tests import canned
from tests.attacks.server import Server
from tests.fake_provider import FakeProvider, hang, json_reply, reply, stream, wait_for
from tests.gateway import RawClient, unchunk

BODY = json.dumps({"model": "gpt-test", "messages": [{"role": "user", "content": "hi"}]}).encode()
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
REQUEST = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
ALIVE = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def provider():
    with FakeProvider() as provider:
        yield provider


@pytest.fixture(scope="module")
def server(tmp_path_factory, provider):
    folder = tmp_path_factory.mktemp("loop")
    with Server(folder, DRIVER="loop", OPENAI_BASE_URL=provider.origin, OPENAI_API_KEYS="sk-loop-000001") as server:
        yield server
        assert "a callback failed" not in server.log
        assert "Traceback" not in server.log


@pytest.fixture(autouse=True)
def chat(provider):
    provider.default(json_reply(canned.chat()))


@pytest.fixture
def client(server):
    with RawClient(server.port) as client:
        yield client


def answer(client):
    """(status, headers, body) of the next answer on this connection."""
    status, headers = client.head()
    length = int(headers.get("content-length", 0))
    body = b""
    while len(body) < length:
        body += client.take(length - len(body))
    return status, headers, body


def test_a_connection_serves_many_requests(client):
    for _ in range(3):
        client.send(REQUEST)
        status, headers, body = answer(client)
        assert (status, headers["connection"]) == (200, "keep-alive")
        assert json.loads(body) == canned.chat()


def test_requests_sent_ahead_are_answered_in_their_order(client):
    client.send(REQUEST + ALIVE + REQUEST + ALIVE)
    bodies = [answer(client)[2] for _ in range(4)]
    assert [b"chat.completion" in body for body in bodies] == [True, False, True, False]


def test_a_request_may_come_byte_by_byte(client):
    for byte in REQUEST:
        client.send(bytes([byte]))
    assert answer(client)[0] == 200


def test_a_chunked_body_is_read_and_forwarded_whole(client, provider):
    chunks = b"".join(b"5\r\n%b\r\n" % BODY[at : at + 5] for at in range(0, len(BODY) - 5, 5))
    rest = BODY[(len(BODY) - 1) // 5 * 5 :]
    client.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"%x\r\n%b\r\n0\r\n\r\n" % (len(rest), rest))
    assert answer(client)[0] == 200
    assert provider.received[-1].body == BODY


def test_a_client_that_expects_100_continue_gets_it_before_it_sends_its_body(client):
    client.send(HEAD + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(BODY))
    assert client.head()[0] == 100
    client.send(BODY)
    assert answer(client)[0] == 200


def test_a_refused_request_gets_no_100_continue(client):
    client.send(b"POST /v1/nothing HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\n")
    status, headers, _ = answer(client)
    assert (status, headers["connection"]) == (404, "close")


def test_head_has_a_length_and_no_body(client):
    client.send(b"HEAD /livez HTTP/1.1\r\nHost: localhost\r\n\r\n" + ALIVE)
    status, headers = client.head()
    assert (status, headers["content-length"]) == (200, "16")
    assert answer(client)[2] == b'{"status":"ok"}\n'


def test_an_http_1_0_client_gets_a_plain_stream_that_ends_with_the_connection(server, provider):
    provider.answers(stream(canned.chat_stream()))
    data = json.dumps({**json.loads(BODY), "stream": True}).encode()
    status, headers, body = server.raw(
        b"POST /v1/chat/completions HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        % len(data)
        + data
    )
    assert status == 200
    assert "transfer-encoding" not in headers
    assert body.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize(
    "head",
    [
        b"POST /v1/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /v1/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
        b"POST /v1/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: +1\r\n\r\na",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: xchunked\r\n\r\n",
        b"POST /v1/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked, identity\r\n\r\n",
        b"POST /v1/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding : chunked\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX: a\r\n b\r\n\r\n",
        b"GET /v1/models HTTP/1.1\nHost: localhost\n\n",
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX: a\x00b\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nHost: b\r\n\r\n",
        b"GET http://evil.example/v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"FOO /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_what_smuggles_or_is_no_request_is_refused_and_the_connection_closed(server, provider, head):
    before = len(provider.received)
    status, headers, _ = server.raw(head)
    assert status in (400, 501)
    assert headers["connection"] == "close"
    assert len(provider.received) == before


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /v1/" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 414),
        (b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", 431),
        (b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 300 + b"\r\n", 431),
        (b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 17_000 + b"\r\n\r\n", 431),
        (b"GET * HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (HEAD + b"Expect: tea\r\nContent-Length: 2\r\n\r\n", 417),
    ],
)
def test_a_head_beyond_the_limits_is_refused(server, head, status):
    assert server.raw(head)[0] == status


def test_a_body_over_the_limit_is_refused_before_it_is_read(client):
    client.send(HEAD + b"Content-Length: 999999999999\r\n\r\n")
    status, headers, body = answer(client)
    assert (status, headers["connection"]) == (413, "close")
    assert json.loads(body)["error"]["code"] == "request_too_large"


def test_a_client_that_leaves_closes_the_upstream(client, provider):
    before = len(provider.received)
    provider.answers(hang())
    client.send(REQUEST)
    assert provider.wait_requests(before + 1, 5)
    client.close()
    assert provider.wait_closed(provider.received[-1].connection_id, 2)


def test_idle_and_half_sent_connections_hold_no_thread(server):
    idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(300)]
    for number, connection in enumerate(idle):
        connection.sendall((b"", b"POST /v1/chat", HEAD, REQUEST[:-5], b"GET /middleware/ HT")[number % 5])
    try:
        with RawClient(server.port) as client:
            client.send(REQUEST + ALIVE)
            assert [answer(client)[0] for _ in range(2)] == [200, 200]
        assert server.request("GET", "/middleware/").status == 200
    finally:
        for connection in idle:
            connection.close()


def test_a_client_that_does_not_read_bounds_memory_and_holds_up_nobody(server, provider):
    size = 64 * 1024 * 1024
    provider.answers(reply(200, {"Content-Type": "application/octet-stream"}, b"x" * size))
    before = server.resident_bytes()
    with RawClient(server.port) as slow:
        slow.send(b"GET /v1/files/file-1/content HTTP/1.1\r\nHost: localhost\r\n\r\n")
        slow.head()
        with RawClient(server.port) as other:
            for _ in range(20):
                other.send(ALIVE)
                assert answer(other)[0] == 200
        assert server.resident_bytes() - before < 16 * 1024 * 1024
        got = len(slow.take(1))
        while got < size:
            got += len(slow.take(size - got))
    assert got == size


def test_many_streams_at_once_are_all_complete(server, provider):
    events = canned.chat_stream()
    provider.default(stream(events, delay_s=0.01))
    data = json.dumps({**json.loads(BODY), "stream": True}).encode()
    whole = []

    def read():
        with RawClient(server.port) as client:
            client.send(HEAD + b"Content-Length: %d\r\n\r\n" % len(data) + data)
            assert client.head()[0] == 200
            body, ended = client.rest()
            whole.append(ended and body.endswith(b"data: [DONE]\n\n"))

    threads = [threading.Thread(target=read, daemon=True) for _ in range(60)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 30
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    assert whole == [True] * 60


def test_a_flask_answer_comes_chunked_where_it_has_no_length(server):
    status, headers, body = server.raw(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert status == 200
    if headers.get("transfer-encoding") == "chunked":
        body, whole = unchunk(body)
        assert whole
    assert b"middleware_requests_total" in body


def test_streams_below_a_providers_own_prefix_hold_no_thread(server, provider):
    """More than the 16 threads of this server at once."""
    go_on = threading.Event()
    provider.default(stream([canned.CHAT_ROLE, canned.chat_stream()[1], wait_for(go_on), *canned.chat_stream()[2:]]))
    data = json.dumps({**json.loads(BODY), "stream": True}).encode()
    head = HEAD.replace(b"/v1/", b"/openai/v1/")
    clients = [RawClient(server.port) for _ in range(40)]
    try:
        for client in clients:
            client.send(head + b"Content-Length: %d\r\n\r\n" % len(data) + data)
        assert [client.head()[0] for client in clients] == [200] * 40
        go_on.set()
        assert all(client.rest()[1] for client in clients)
    finally:
        for client in clients:
            client.close()
