"""
Callers that leave, that do not read, and that send too much: the upstream is let go at once, memory stays bounded, and
nothing of it is a key's fault.
"""

from __future__ import annotations

import gzip
import json
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import canned
from tests.fake_provider import (
    Behavior,
    FakeProvider,
    black_hole,
    hang,
    json_reply,
    pieces,
    signal,
    sliced,
    stream,
    wait_for,
)
from tests.gateway import RawClient
from tests.proxy.dialects import CHAT, GEMINI, MESSAGES, Dialect, Json, Site, site
from tests.proxy.stream_cases import CASES, StreamCase, see

pytestmark = pytest.mark.usefixtures("driver")

GONE_WITHIN_S = 2.0
BOUND_S = 10.0
CHAT_CASE = CASES[0]
LIMIT = 4096


@pytest.fixture(params=CASES, ids=str)
def case(request: pytest.FixtureRequest) -> StreamCase:
    return request.param


@pytest.fixture
def here(case: StreamCase, tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path, case.dialect, max_concurrent_requests=50) as found:
        yield found


def wait_until(found: Callable[[], bool], within_s: float = BOUND_S) -> bool:
    until = time.monotonic() + within_s
    while not found():
        if time.monotonic() > until:
            return False
        threading.Event().wait(0.01)
    return True


def assert_let_go(here: Site, status: int, connection: int = 0) -> Json:
    """The upstream was closed by us in time, and the row says why; returns it. The slot is free, the keys are well."""
    assert here.provider.wait_closed(connection, GONE_WITHIN_S)
    assert here.provider.closed_by(connection) == "client"
    record = assert_recorded_as_gone(here, status)
    assert len(here.provider.received) == 1
    return record


def assert_recorded_as_gone(here: Site, status: int) -> Json:
    assert wait_until(lambda: bool(here.gateway.records()))
    record = here.record()
    assert (record["status"], record["outcome"], record["error_code"]) == (status, "client_gone", "")
    assert here.states() == ["Healthy"] * len(here.keys)
    assert all(here.gateway.key(key)["model_rests"] == [] for key in here.keys)
    assert wait_until(lambda: here.gateway.services.shared.in_flight() == 0)
    return record


# -- callers that leave -----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "reset"])
def test_f37_a_caller_who_leaves_while_the_upstream_is_silent_closes_it(here: Site, case: StreamCase, how: str) -> None:
    here.set(heartbeat_interval=0)
    here.script(case.streams(*case.prologue, *case.content, end="hang"))

    with here.asking() as client:
        client.head()
        see(client, case.content[-1])
        leave(client, how)

        record = assert_let_go(here, 200)

    assert record["attempts"][0]["verdict"] == "ok"
    assert (record["input_tokens"], record["output_tokens"]) == case.known
    here.assert_serves()


def leave(client: RawClient, how: str) -> None:
    if how == "reset":
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()


def test_f37_a_caller_who_leaves_while_events_flow_closes_the_upstream(here: Site, case: StreamCase) -> None:
    here.script(endless(case, event_bytes=100))

    with here.asking() as client:
        client.head()
        see(client, case.content[0])
        client.close()

        assert_let_go(here, 200)


def test_f37_a_caller_who_leaves_before_the_head_of_its_stream_closes_the_upstream(here: Site) -> None:
    here.script(hang())

    with here.asking() as client:
        assert here.provider.wait_requests(1)
        client.close()

        record = assert_let_go(here, 499)

    assert record["attempts"][0]["verdict"] == "client_gone"
    assert record["attempts"][0]["status"] == 0


def test_f37_a_caller_who_leaves_while_the_prologue_is_held_closes_the_upstream(here: Site, case: StreamCase) -> None:
    held = threading.Event()
    here.script(case.streams(*case.prologue, signal(held), end="hang"))

    with here.asking() as client:
        assert held.wait(BOUND_S)
        client.close()

        assert_let_go(here, 499)


@pytest.mark.parametrize("dialect", [CHAT, MESSAGES, GEMINI], ids=str)
@pytest.mark.parametrize(
    "behavior",
    [hang(), pieces(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{").then(hang())],
    ids=["before the head", "in the body"],
)
def test_f37_a_caller_who_leaves_a_plain_call_closes_the_upstream(
    tmp_path: Path, dialect: Dialect, behavior: Behavior
) -> None:
    with site(tmp_path, dialect, max_concurrent_requests=50) as here:
        here.script(behavior)
        with here.asking() as client:
            assert here.provider.wait_requests(1)
            client.close()

            assert_let_go(here, 499)
        here.assert_serves()


def test_f37_a_caller_who_leaves_while_we_dial_is_noticed(tmp_path: Path) -> None:
    with black_hole() as origin, site(tmp_path, CHAT, origin=origin) as here:
        started = time.monotonic()
        with here.asking() as client:
            assert wait_until(lambda: here.gateway.services.metrics.as_json() != {})
            client.close()

            assert_recorded_as_gone(here, 499)
        assert time.monotonic() - started < 5


def test_f37_a_caller_who_leaves_between_two_attempts_is_noticed(tmp_path: Path) -> None:
    with site(tmp_path, CHAT) as here:
        here.set(retry_backoff_factor=5.0)
        broken = json_reply({"error": {"message": "It failed.", "type": "server_error"}}, 500)
        here.script(broken, broken)
        with here.asking() as client:
            assert here.provider.wait_requests(1)
            client.close()

            assert_recorded_as_gone(here, 499)
        assert len(here.provider.received) == 1


def test_f37_many_callers_leave_at_once_and_nothing_stays_open(here: Site, case: StreamCase) -> None:
    behavior = case.streams(*case.prologue, *case.content, end="hang")
    here.script(behavior, behavior)
    clients = [here.gateway.raw() for _ in range(30)]
    for client in clients:
        client.post(here.dialect.path, here.dialect.request)
    for client in clients:
        see(client, case.content[-1])

    for client in clients:
        client.close()

    assert wait_until(lambda: here.provider.open_connections == 0, GONE_WITHIN_S + 3)
    assert wait_until(lambda: len(here.gateway.records()) == 30)
    assert {row["outcome"] for row in here.gateway.records()} == {"client_gone"}
    assert wait_until(lambda: here.gateway.services.shared.in_flight() == 0)
    here.assert_serves()


# -- callers that do not read -----------------------------------------------------------------------------


def endless(case: StreamCase, event_bytes: int = 16_000) -> Behavior:
    """An upstream that never runs out of events."""
    marked = case.content[1].replace(b"aus ", b"aus " + b"x" * event_bytes)

    def write(exchange: object) -> None:
        for _ in range(10_000):
            exchange.send(b"%x\r\n%b\r\n" % (len(marked), marked))  # type: ignore[attr-defined]

    return stream([*case.prologue, case.content[0], write], content_type=case.content_type)


def sent_at_rest(provider: FakeProvider, connection: int = 0) -> int:
    """Bytes that the upstream could send until it could send no more."""
    last, since = -1, time.monotonic()
    until = since + BOUND_S
    while time.monotonic() < until:
        sent = provider.sent_bytes(connection) if provider.total_connections > connection else 0
        if sent != last:
            last, since = sent, time.monotonic()
        elif sent and time.monotonic() - since > 0.5:
            return sent
        threading.Event().wait(0.01)
    raise AssertionError("the upstream was never held back")


def test_f38_a_caller_who_never_reads_holds_the_upstream_back_instead_of_filling_memory(tmp_path: Path) -> None:
    with site(tmp_path, CHAT_CASE.dialect) as here:
        here.script(endless(CHAT_CASE))
        with here.asking() as client:
            client.head()

            # What lies between two sockets: the buffers of the kernel, and no more than one read of ours.
            assert sent_at_rest(here.provider) < 32 * 1024 * 1024

            here.provider.by_key({key: here.dialect.good for key in here.keys})
            for _ in range(5):
                here.assert_good(here.ask())

            client.close()
            assert here.provider.wait_closed(0, GONE_WITHIN_S)
        assert wait_until(lambda: len(here.gateway.records()) == 6)
        assert sorted(row["outcome"] for row in here.gateway.records())[0] == "client_gone"


def test_f38_a_slow_reader_gets_every_byte(tmp_path: Path) -> None:
    body = b"".join((*CHAT_CASE.prologue, *CHAT_CASE.content[:1] * 40_000, *CHAT_CASE.tail))
    with site(tmp_path, CHAT_CASE.dialect) as here:
        here.script(CHAT_CASE.streams(*sliced(body, 50_000)))
        with here.asking() as client:
            client.head()
            for _ in range(100):
                client._buffer += client.socket.recv(1024)
                threading.Event().wait(0.005)
            got, whole = client.rest()

        assert whole
        assert got == body
        assert here.record()["outcome"] == "success"


def test_f38_a_caller_who_pauses_longer_than_an_upstream_may_be_silent_gets_every_byte(tmp_path: Path) -> None:
    """What waits unread at the upstream's side is no silence of the upstream."""
    case, block = CHAT_CASE, 64 * 1024
    words = case.content[1].replace(b"aus ", b"aus " + b"x" * block)
    with site(tmp_path, case.dialect) as here:
        here.set(streaming_timeout=1, heartbeat_interval=0)
        here.script(case.streams(*case.prologue, case.content[0], *[words] * 160, *case.tail))
        with here.asking() as client:
            client.head()
            see(client, case.content[0])
            threading.Event().wait(2.5)
            got, whole = client.rest()

        assert whole
        assert len(got) > 160 * block
        assert here.record()["outcome"] == "success"


# -- bodies -----------------------------------------------------------------------------------------------


@pytest.fixture(params=[CHAT, MESSAGES, GEMINI], ids=str)
def limited(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path, request.param, max_request_size=LIMIT) as found:
        found.script()
        yield found


def request_of(here: Site, size: int) -> bytes:
    """The dialect's request, padded with white space to `size` bytes."""
    return json.dumps(here.dialect.request).encode().ljust(size)


def assert_refused(here: Site, status: int, code: str, answered: tuple[int, bytes]) -> None:
    assert answered[0] == status
    error = here.dialect.says_error(answered[1])
    assert error.get("code") in (code, status)
    record = here.record()
    assert (record["status"], record["error_code"]) == (status, code)
    assert here.provider.received == []
    assert here.states() == ["Healthy", "Healthy"]


def plainly(here: Site, body: bytes, **headers: str) -> tuple[int, bytes]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = here.gateway.request("POST", here.dialect.path, body=body, headers=named)
    return answer.status, answer.body


def test_f39_a_body_of_exactly_the_limit_is_served(limited: Site) -> None:
    answer = plainly(limited, request_of(limited, LIMIT))

    assert answer[0] == 200
    assert limited.provider.received[0].body == request_of(limited, LIMIT)
    assert limited.record()["request_bytes"] == LIMIT


def test_f39_a_body_over_the_limit_is_refused_by_its_named_length(limited: Site) -> None:
    assert_refused(limited, 413, "request_too_large", plainly(limited, request_of(limited, LIMIT + 1)))


def test_f39_a_named_length_over_the_limit_is_refused_before_the_body_comes(limited: Site) -> None:
    with limited.gateway.raw() as client:
        client.send(head_for(limited, f"Content-Length: {10**12}"))

        assert_refused(limited, 413, "request_too_large", whole_answer(client))


def head_for(here: Site, framing: str) -> bytes:
    """The head of the dialect's request up to its body."""
    lines = [f"POST {here.dialect.path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", framing, "", ""]
    return "\r\n".join(lines).encode()


def whole_answer(client: RawClient) -> tuple[int, bytes]:
    """Status and body of an answer with a named length."""
    status, headers = client.head()
    while len(client._buffer) < int(headers["content-length"]):
        client._buffer += client.socket.recv(65536)
    return status, client._buffer


def test_f39_a_chunked_body_over_the_limit_is_refused(limited: Site) -> None:
    with limited.gateway.raw() as client:
        client.send(head_for(limited, "Transfer-Encoding: chunked"))
        client.send((b"400\r\n" + b" " * 1024 + b"\r\n") * 5 + b"0\r\n\r\n")

        assert_refused(limited, 413, "request_too_large", whole_answer(client))


def test_f39_a_compressed_body_is_read_and_goes_on_plain(limited: Site) -> None:
    body = request_of(limited, LIMIT)

    for encoding, packed in (
        ("gzip", gzip.compress(body)),
        ("deflate", zlib.compress(body)),
        ("x-gzip", gzip.compress(body)),
    ):
        assert plainly(limited, packed, Content_Encoding=encoding)[0] == 200

        received = limited.provider.received[-1]
        assert received.body == body
        assert "content-encoding" not in received.headers


def test_f39_a_compressed_body_that_grows_beyond_the_limit_is_refused(limited: Site) -> None:
    bomb = gzip.compress(b" " * 3_000_000)
    assert len(bomb) < LIMIT

    assert_refused(limited, 413, "request_too_large", plainly(limited, bomb, Content_Encoding="gzip"))


@pytest.mark.parametrize("damage", ["truncated", "garbage", "tail"])
def test_f39_a_damaged_compressed_body_is_refused(limited: Site, damage: str) -> None:
    packed = gzip.compress(request_of(limited, 1000))
    sent = {"truncated": packed[:-9], "garbage": b"no gzip at all", "tail": packed + b"tail"}[damage]

    assert_refused(limited, 400, "invalid_body", plainly(limited, sent, Content_Encoding="gzip"))


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "\xe9"])
def test_f39_an_unknown_content_encoding_is_refused(limited: Site, encoding: str) -> None:
    assert_refused(
        limited, 415, "unsupported_encoding", plainly(limited, request_of(limited, 100), Content_Encoding=encoding)
    )


def test_f39_an_upload_that_breaks_off_reaches_no_provider(limited: Site) -> None:
    with limited.gateway.raw() as client:
        client.send(head_for(limited, "Content-Length: 1000") + request_of(limited, 500))

    assert_recorded_as_gone(limited, 499)
    assert limited.provider.received == []


def test_f39_nothing_goes_upstream_before_the_body_is_there(limited: Site) -> None:
    body = request_of(limited, 1000)
    with limited.gateway.raw() as client:
        client.send(head_for(limited, "Content-Length: 1000") + body[:999])
        limited.assert_good(limited.ask())
        assert len(limited.provider.received) == 1
        client.send(body[999:])
        assert client.head()[0] == 200

    assert limited.provider.received[1].body == body


# -- one slow upstream and the others ---------------------------------------------------------------------


def test_f40_others_are_served_while_many_streams_wait(tmp_path: Path) -> None:
    go_on = threading.Event()
    held = stream([canned.CHAT_ROLE, CHAT_CASE.content[0], wait_for(go_on), *CHAT_CASE.content[1:], *CHAT_CASE.tail])
    with site(tmp_path, CHAT_CASE.dialect) as here:
        here.script(held, held)
        clients = [here.gateway.raw() for _ in range(60)]
        for client in clients:
            client.post(here.dialect.path, here.dialect.request)
        for client in clients:
            see(client, CHAT_CASE.content[0])
        here.provider.by_key({key: here.dialect.good for key in here.keys})

        took = []
        for _ in range(20):
            started = time.monotonic()
            here.assert_good(here.ask())
            took.append(time.monotonic() - started)
        assert sorted(took)[18] < 1.0

        go_on.set()
        for client in clients:
            client.head()
            body, whole = client.rest()
            assert whole
            assert CHAT_CASE.is_complete(CHAT_CASE.read(body))
            client.close()
        assert {row["outcome"] for row in here.gateway.records()} == {"success"}
