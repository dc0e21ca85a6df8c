"""The shortcut with callers that read slowly or leave at a bad moment, and with defects of ours."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from app.proxy.passing import Passing
from app.proxy.shortcut import Memory
from app.server import express, outgoing, ride, stream_ride
from app.server.connection import Connection
from app.server.outgoing import HIGH_WATER_BYTES
from app.server.relay import LoopRelay
from app.server.stream_ride import StreamRide
from tests import canned
from tests.fake_behaviors import Behavior, chunk, delay, head, silence
from tests.fake_provider import FakeProvider, json_reply, pieces, stream, wait_for
from tests.gateway import Gateway, RawClient
from tests.proxy.stream_cases import CASES, HEARTBEAT, see
from tests.server.in_process import read_all
from tests.server.test_streams import ASK, PATH, begun, gateway, provider, shortcut_of, until

__all__ = ["gateway", "provider"]  # fixtures

CHAT = CASES[0]
START = head(200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"})
LONG = canned.data_event({"choices": [{"index": 0, "delta": {"content": "x" * 4000}, "finish_reason": None}]})
#: More than a socket on loopback takes while nobody reads.
LARGE = canned.chat("y" * 4_150_000)
NEVER = threading.Event()


@pytest.fixture(params=["by an exchange", "on the shortcut"])
def way(request: pytest.FixtureRequest, gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> str:  # noqa: ARG001
    """Both ways must do the same."""
    learns = request.param == "on the shortcut"
    monkeypatch.setattr(Memory, "is_worth_learning", lambda *_: learns)
    return str(request.param)


@pytest.fixture
def slow(gateway: Gateway) -> Iterator[RawClient]:
    """A client whose buffer is small."""
    client = gateway.raw()
    client.close()
    client.socket = socket.socket()
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.socket.settimeout(10.0)
    client.socket.connect(("127.0.0.1", gateway.port))
    yield client
    client.close()


def flood(*last: Any, count: int = 400) -> Behavior:
    """A stream of so many times 64 KB that begins well."""

    def run(exchange: Any) -> None:
        exchange.send(START + b"".join(map(chunk, (*CHAT.prologue, CHAT.content[0]))))
        for _ in range(count):
            exchange.send(chunk(LONG) * 16)

    return Behavior((run,)).then(*last)


def connection_of(gateway: Gateway) -> Connection | None:
    server: Any = gateway._server
    return next(iter(server._worker._connections), None)


def unsent_bytes(gateway: Gateway) -> int:
    connection = connection_of(gateway)
    return len(connection._unsent) if connection is not None else 0


def assert_closed(gateway: Gateway) -> None:
    until(lambda: connection_of(gateway) is None)


# -- answers that nobody reads ---------------------------------------------------------------------------


@pytest.mark.usefixtures("way")
def test_a_stream_behind_an_unread_answer_fills_no_memory(
    gateway: Gateway, provider: FakeProvider, slow: RawClient
) -> None:
    provider.answers(json_reply(LARGE), flood())
    slow.post(PATH, canned.CHAT_REQUEST)
    until(lambda: unsent_bytes(gateway) > HIGH_WATER_BYTES)
    before = unsent_bytes(gateway)
    slow.post(PATH, ASK)
    threading.Event().wait(0.5)
    assert unsent_bytes(gateway) <= before + 2 * HIGH_WATER_BYTES


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("streamed", [True, False], ids=["stream", "plain"])
def test_an_answer_that_nobody_reads_ends_the_connection_although_another_request_came(
    gateway: Gateway, provider: FakeProvider, slow: RawClient, monkeypatch: pytest.MonkeyPatch, streamed: bool
) -> None:
    monkeypatch.setattr(outgoing, "WRITE_TIMEOUT_S", 0.5)
    provider.answers(json_reply(LARGE), stream(CHAT.events) if streamed else json_reply(canned.chat()))
    slow.post(PATH, canned.CHAT_REQUEST)
    until(lambda: unsent_bytes(gateway) > HIGH_WATER_BYTES)
    slow.post(PATH, ASK if streamed else canned.CHAT_REQUEST)
    assert_closed(gateway)


@pytest.mark.parametrize("handed_over", [True, False])
def test_a_stream_that_nobody_reads_ends_the_connection(
    gateway: Gateway, provider: FakeProvider, slow: RawClient, monkeypatch: pytest.MonkeyPatch, handed_over: bool
) -> None:
    monkeypatch.setattr(outgoing, "WRITE_TIMEOUT_S", 0.5)
    provider.answers(flood(wait_for(NEVER)))
    slow.post(PATH, ASK)
    until(lambda: unsent_bytes(gateway) > HIGH_WATER_BYTES)
    if handed_over:
        shortcut = shortcut_of(gateway)
        for flowing in list(shortcut.streams):
            shortcut.loop.call_soon(flowing.hand_over)
        until(lambda: not shortcut.streams)
    assert_closed(gateway)


@pytest.mark.usefixtures("way")
def test_a_client_that_stops_sending_in_the_turn_of_its_answer_gets_all_of_it(
    gateway: Gateway, provider: FakeProvider, slow: RawClient
) -> None:
    data = json.dumps(LARGE).encode()
    go_on = threading.Event()
    start = head(200, {"Content-Type": "application/json", "Content-Length": str(len(data))})
    provider.answers(pieces(start + data[:-100], wait_for(go_on), data[-100:]))
    slow.post(PATH, canned.CHAT_REQUEST)
    until(lambda: provider.received)
    threading.Event().wait(0.3)
    shortcut = shortcut_of(gateway)
    held, released = threading.Event(), threading.Event()
    shortcut.loop.call_soon(lambda: (held.set(), released.wait(10)))
    assert held.wait(10)
    go_on.set()
    slow.socket.shutdown(socket.SHUT_WR)
    threading.Event().wait(0.2)  # both are there when the loop goes on
    released.set()
    assert read_all(slow.socket).endswith(data)


@pytest.mark.parametrize("what", ["drop_idle", "drain"])
def test_an_answer_that_goes_out_is_not_cut_by_what_closes_idle_connections(
    gateway: Gateway, provider: FakeProvider, slow: RawClient, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    original = Connection.arrived

    def arrived(connection: Connection, answer: bytes) -> None:
        original(connection, answer)
        if what == "drain":
            connection._loop.call_soon(connection.drain)
        else:
            connection._loop.call_soon(lambda: connection.close() if connection.idle else None)

    monkeypatch.setattr(Connection, "arrived", arrived)
    provider.answers(json_reply(LARGE))
    slow.post(PATH, canned.CHAT_REQUEST)
    until(lambda: unsent_bytes(gateway))
    status, headers = slow.head()
    assert status == 200
    assert json.loads(slow.exactly(int(headers["content-length"]))) == LARGE


@pytest.mark.parametrize("handed_over", [True, False])
def test_a_stream_that_began_in_the_turn_of_a_large_answer_waits_until_that_is_read(
    gateway: Gateway, provider: FakeProvider, slow: RawClient, monkeypatch: pytest.MonkeyPatch, handed_over: bool
) -> None:
    """The answer is held when the stream is asked for, and fills the socket only at the end of the turn."""
    data = json.dumps(ASK).encode()
    ahead = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data
    original = Connection.arrived
    asked = threading.Event()

    def arrived(connection: Connection, answer: bytes) -> None:
        original(connection, answer)
        if len(answer) > HIGH_WATER_BYTES:
            connection._begin(ahead)
            asked.set()

    monkeypatch.setattr(Connection, "arrived", arrived)
    go_on = threading.Event()
    provider.answers(json_reply(LARGE), pieces(wait_for(go_on)).then(stream(CHAT.events)))
    slow.post(PATH, canned.CHAT_REQUEST)
    assert asked.wait(10)
    until(lambda: unsent_bytes(gateway) > HIGH_WATER_BYTES)
    shortcut = shortcut_of(gateway)
    assert shortcut.rides
    if handed_over:
        for flowing in list(shortcut.rides):
            shortcut.loop.call_soon(flowing.hand_over)
        until(lambda: not shortcut.rides)
    go_on.set()
    _, headers = slow.head()
    slow.exactly(int(headers["content-length"]))
    slow.head()
    assert slow.rest() == (CHAT.body, True)


# -- events in pieces --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("way")
def test_a_caller_hears_something_while_one_event_drips(
    gateway: Gateway, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (ride, express, stream_ride):
        monkeypatch.setattr(module, "SWEEP_S", 0.02)
    monkeypatch.setattr(express, "SHORTEST_BEAT_S", 0.1)
    gateway.set(heartbeat_interval=0.2)
    long, drip = chunk(LONG), []
    for at in range(0, 1000, 50):
        drip += [long[at : at + 50], delay(0.05)]
    before, after = (*CHAT.prologue, CHAT.content[0]), (*CHAT.content[1:], *CHAT.tail)
    rest = long[1000:] + b"".join(map(chunk, after)) + b"0\r\n\r\n"
    provider.answers(pieces(START + b"".join(map(chunk, before)), *drip, rest))
    with gateway.raw() as client:
        client.post(PATH, ASK)
        client.head()
        body, whole = client.rest()
    assert whole
    assert body.count(HEARTBEAT) >= 2
    assert body.replace(HEARTBEAT, b"") == b"".join((*before, LONG, *after))


def test_tls_that_holds_bytes_shows_them_when_the_caller_reads_again(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, paused = LoopRelay._read, threading.Event()

    def reading(relay: LoopRelay, link: Any) -> bool:
        going_on = read(relay, link)
        if link.has_buffered and not paused.is_set():
            paused.set()
            relay.pause(True)
            relay._loop.at(time.monotonic() + 0.05, lambda: relay.pause(False))
        return going_on

    monkeypatch.setattr(LoopRelay, "_read", reading)
    with FakeProvider(tls="valid") as provider:
        provider.answers(pieces(START + b"".join(map(chunk, (*CHAT.prologue, LONG, *CHAT.content))), wait_for(NEVER)))
        with Gateway(tmp_path, openai=provider.origin, driver="loop", verify_with=provider.ca_file) as gateway:
            gateway.add_keys("openai", 1)
            gateway.set(buffer_size=1024, heartbeat_interval=0)
            with gateway.raw() as client:
                client.post(PATH, ASK)
                client.head()
                see(client, CHAT.content[-1])
    assert paused.is_set()


# -- defects of ours -----------------------------------------------------------------------------------------


def failing_once(original: Callable[..., Any], when: Callable[..., bool]) -> Callable[..., Any]:
    failed = threading.Event()

    def call(*args: Any) -> Any:
        if not failed.is_set() and when(*args):
            failed.set()
            raise RuntimeError("a defect")
        return original(*args)

    return call


def test_a_defect_while_events_pass_cuts_the_answer_visibly(
    gateway: Gateway, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Passing, "feed", failing_once(Passing.feed, lambda _, came: CHAT.content[1] in came))
    go_on = threading.Event()
    provider.answers(stream([*CHAT.prologue, CHAT.content[0], wait_for(go_on), *CHAT.content[1:], *CHAT.tail]))
    with begun(gateway) as client:
        go_on.set()
        body, whole = client.rest()
    assert not whole
    assert b"internal_error" in body
    assert CHAT.content[2] not in body
    (row,) = gateway.records()
    assert (row["outcome"], row["error_code"]) == ("internal_error", "internal_error")


def test_a_defect_before_anything_went_out_is_made_good_by_an_exchange(
    gateway: Gateway, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Passing, "feed", failing_once(Passing.feed, lambda *_: True))
    monkeypatch.setattr(ride.Ride, "judge", failing_once(ride.Ride.judge, lambda *_: True))
    provider.answers(stream(CHAT.events), json_reply(canned.chat()))
    with gateway.raw() as client:
        client.post(PATH, ASK)
        client.head()
        assert client.rest() == (CHAT.body, True)
    assert gateway.post(PATH, canned.CHAT_REQUEST).json == canned.chat()
    assert [row["outcome"] for row in gateway.records()] == ["success"] * 2
    assert len(provider.received) == 2


def test_a_defect_while_an_answer_arrives_breaks_the_connection(
    gateway: Gateway, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Connection, "arrived", failing_once(Connection.arrived, lambda *_: True))
    provider.answers(json_reply(canned.chat()))
    with gateway.raw() as client:
        client.post(PATH, canned.CHAT_REQUEST)
        assert read_all(client.socket) == b""
    assert len(provider.received) == 1


def test_a_defect_of_the_sweeper_does_not_end_its_work(
    gateway: Gateway, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[StreamRide] = []
    original = failing_once(StreamRide.is_overdue, lambda *_: True)
    monkeypatch.setattr(express, "SWEEP_S", 0.02)
    monkeypatch.setattr(
        StreamRide, "is_overdue", lambda flowing, *args: (looks.append(flowing), original(flowing, *args))[1]
    )
    provider.answers(stream([*CHAT.prologue, CHAT.content[0], silence()]))
    with begun(gateway):
        until(lambda: len(looks) > 3)
