"""The fake provider does what its scripts say: the other tests stand on it."""

import http.client
import socket
import ssl
import threading
import time

import pytest
import urllib3

from tests import canned
from tests.fake_provider import (
    FakeProvider,
    black_hole,
    chunked_without_end,
    close,
    close_without_answer,
    closed_port,
    early_hints_then,
    garbage_status_line,
    gzip_body,
    gzip_bomb,
    hang,
    huge_header,
    json_reply,
    many_headers,
    pieces,
    redirect,
    reply,
    reset_after,
    reset_before_status,
    short_content_length,
    signal,
    sliced,
    stream,
    truncated_gzip,
    wait_for,
)


@pytest.fixture
def provider():
    with FakeProvider() as running:
        yield running


@pytest.fixture
def pool():
    with urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(5)) as manager:
        yield manager


def raw_exchange(provider, request=b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", timeout=5.0):
    """All bytes that the provider sends until it closes."""
    with socket.create_connection(("127.0.0.1", provider.port), timeout=timeout) as sock:
        sock.sendall(request)
        parts = []
        while data := sock.recv(65536):
            parts.append(data)
    return b"".join(parts)


def test_a_request_is_remembered_exactly_as_it_came(provider, pool):
    provider.default(json_reply(canned.chat()))

    answer = pool.request(
        "POST",
        f"{provider.origin}/v1/chat%2Fx?a=1&a=2",
        headers={"X-Case": "Kept", "x-api-key": "sk-1"},
        body=b'{"a":1}',
    )

    assert answer.json() == canned.chat()
    (request,) = provider.received
    assert (request.method, request.target, request.body) == ("POST", "/v1/chat%2Fx?a=1&a=2", b'{"a":1}')
    assert ("X-Case", "Kept") in request.header_list
    assert (request.path, request.query, request.json, request.key) == (
        "/v1/chat/x",
        {"a": ["1", "2"]},
        {"a": 1},
        "sk-1",
    )


def test_a_chunked_request_body_is_put_together(provider, pool):
    provider.default(json_reply({}))

    pool.request("POST", provider.origin, body=iter([b"one ", b"two"]))

    assert provider.received[0].body == b"one two"


def test_the_key_then_the_queue_then_the_default_choose_the_behavior(provider, pool):
    provider.by_key({"sk-1": [reply(429), reply(200)]}).answers(reply(202)).default(lambda request: reply(418))

    def status(key):
        return pool.request("GET", provider.origin, headers={"Authorization": f"Bearer {key}"}).status

    assert [status("sk-1"), status("sk-1"), status("sk-1"), status("sk-2"), status("sk-2")] == [429, 200, 200, 202, 418]
    assert provider.requests_by_key == {"sk-1": 3, "sk-2": 2}


def test_what_was_not_scripted_is_a_500_and_is_remembered(provider, pool):
    assert pool.request("GET", provider.origin).status == 500
    assert len(provider.unscripted) == 1


def test_one_connection_serves_many_requests(provider, pool):
    provider.default(stream(canned.chat_stream()))

    bodies = {pool.request("GET", provider.origin).data for _ in range(5)}

    assert bodies == {b"".join(canned.chat_stream())}
    assert (provider.total_connections, provider.open_connections) == (1, 1)


def test_a_stream_waits_for_the_test(provider, pool):
    go, reached = threading.Event(), threading.Event()
    provider.default(stream([b"one", signal(reached), wait_for(go), b"two"]))

    answer = pool.request("GET", provider.origin, preload_content=False)
    chunks = answer.stream()

    assert next(chunks) == b"one"
    assert reached.wait(5)
    go.set()
    assert list(chunks) == [b"two"]
    assert provider.problems == []


def test_a_pooled_connection_can_die_between_requests(provider):
    provider.default(json_reply({})).close_keepalive_after(1, when="next_request")
    connection = http.client.HTTPConnection("127.0.0.1", provider.port, timeout=5)
    connection.request("GET", "/")
    connection.getresponse().read()

    connection.request("GET", "/")
    with pytest.raises(ConnectionError):
        connection.getresponse()
    connection.close()

    assert provider.wait_closed(0)
    assert (len(provider.received), provider.dropped_requests) == (1, 1)


@pytest.mark.parametrize(
    "behavior",
    [hang(), stream([b"data: 1\n\n"], end="hang"), stream([b"x"], end="terminated_hang")],
    ids=["before the head", "in the body", "after the end"],
)
def test_it_notices_that_the_client_left_while_it_is_silent(provider, behavior):
    provider.default(behavior)
    with socket.create_connection(("127.0.0.1", provider.port)) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert provider.wait_requests(1)
        assert not provider.wait_closed(0, 0.05)

    assert provider.wait_closed(0, 2)
    assert provider.closed_by(0) == "client"
    assert provider.open_connections == 0


@pytest.mark.parametrize("behavior", [reset_before_status(), reset_after(b"HTTP/1.1 200 OK\r\nContent-Le")])
def test_a_reset_is_a_reset(provider, behavior):
    provider.default(behavior)
    with pytest.raises(ConnectionResetError):
        raw_exchange(provider)


@pytest.mark.parametrize(
    ("behavior", "expected"),
    [
        (close_without_answer(), b""),
        (chunked_without_end([b"ab"]), b"\r\n\r\n2\r\nab\r\n"),
        (short_content_length(b"ab", 9), b"Content-Length: 9\r\n\r\nab"),
        (stream(["ab"], chunked=False), b"Connection: close\r\n\r\nab"),
        (pieces(b"HTTP/1.1 200 OK\r\n", "\r\n", close()), b"HTTP/1.1 200 OK\r\n\r\n"),
        (garbage_status_line(), b"not http at all\r\n\r\n"),
    ],
)
def test_broken_answers_are_broken_as_told(provider, behavior, expected):
    provider.default(behavior)
    assert raw_exchange(provider).endswith(expected)


def test_early_hints_huge_and_many_headers_and_redirects(provider):
    close_after = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    provider.answers(early_hints_then(json_reply({})), huge_header(70_000), many_headers(1000), redirect("http://x/y"))

    hinted, huge, many, moved = (raw_exchange(provider, close_after) for _ in range(4))

    assert hinted.startswith(b"HTTP/1.1 103 Early Hints\r\n")
    assert b"\r\n\r\nHTTP/1.1 200 OK\r\n" in hinted
    assert len(huge) > 70_000
    assert many.count(b"X-Many-") == 1000
    assert moved.startswith(b"HTTP/1.1 307 Temporary Redirect\r\nLocation: http://x/y\r\n")


def test_compressed_bodies_are_whole_cut_or_far_too_big(provider, pool):
    provider.answers(gzip_body(b"{}"), truncated_gzip(b'{"long": "enough to be cut"}'), gzip_bomb(8 * 1024 * 1024))

    assert pool.request("GET", provider.origin).data == b"{}"
    cut = pool.request("GET", provider.origin, decode_content=False)
    bomb = pool.request("GET", provider.origin, decode_content=False)
    assert int(cut.headers["Content-Length"]) == len(cut.data)
    assert len(bomb.data) < 64 * 1024


def test_sliced_bytes_arrive_whole(provider, pool):
    data = b"".join(canned.gemini_stream())
    provider.default(stream(sliced(data, 7)))
    assert pool.request("GET", provider.origin).data == data


def test_a_connection_can_be_closed_before_anything_is_read(provider):
    provider.on_connect(pieces(close()))
    with pytest.raises((ConnectionError, AssertionError)):
        assert raw_exchange(provider)
    assert provider.received == []


def test_a_head_request_gets_no_body(provider):
    provider.default(reply(200, {}, b"body"))
    assert raw_exchange(provider, b"HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").endswith(b": 4\r\n\r\n")


def test_the_valid_certificate_is_accepted_and_the_others_are_not():
    def status(kind):
        with FakeProvider(tls=kind) as provider, urllib3.PoolManager(ca_certs=provider.ca_file, retries=False) as pool:
            provider.default(json_reply({}))
            return pool.request("GET", provider.origin, timeout=5).status

    assert status("valid") == 200
    for kind, why in (("expired", "expired"), ("wrong_host", "mismatch|doesn't match|not valid for")):
        with pytest.raises(urllib3.exceptions.SSLError, match=why):
            status(kind)


def test_a_client_that_leaves_is_noticed_over_tls():
    with FakeProvider(tls="valid") as provider:
        provider.default(hang())
        context = ssl.create_default_context(cafile=provider.ca_file)
        with (
            socket.create_connection(("127.0.0.1", provider.port)) as raw,
            context.wrap_socket(raw, server_hostname="localhost") as sock,
        ):
            sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert provider.wait_requests(1)
        assert provider.wait_closed(0, 2)


def test_closed_ports_refuse_and_black_holes_say_nothing():
    refused = urllib3.util.parse_url(closed_port())
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((refused.host, refused.port), timeout=1)
    with black_hole() as origin:
        hole = urllib3.util.parse_url(origin)
        with pytest.raises(TimeoutError):
            socket.create_connection((hole.host, hole.port), timeout=0.2)


def test_stopping_ends_hanging_answers_at_once():
    begun = time.monotonic()
    with FakeProvider() as provider:
        provider.default(hang())
        with socket.create_connection(("127.0.0.1", provider.port)) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert provider.wait_requests(1)
            provider.stop()
    assert time.monotonic() - begun < 3
    assert provider.closed_by(0) == "provider"
