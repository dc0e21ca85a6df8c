"""Streams on the shortcut: what they leave behind, and how each kind of trouble in the middle reaches the caller."""

from __future__ import annotations

import gc
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.proxy import deadlines
from app.proxy.exchange import Exchange
from app.proxy.shortcut import Memory
from app.server import express, ride, stream_ride
from app.server.express import Express
from tests import canned
from tests.fake_behaviors import Behavior, Piece, chunk, head
from tests.fake_provider import FakeProvider, json_reply, pieces, stream, wait_for
from tests.gateway import Gateway, RawClient
from tests.proxy.stream_cases import CASES, HEARTBEAT, see

PATH = "/v1/chat/completions"
ASK = canned.CHAT_REQUEST | {"stream": True, "stream_options": {"include_usage": True}}
CHAT = CASES[0]
FIRST = b"".join(CHAT.prologue + CHAT.content[:1])
WAIT_S = 10.0


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider() as provider:
        yield provider


@pytest.fixture
def resumed(monkeypatch: pytest.MonkeyPatch) -> list[Exchange]:
    """The exchanges that went on with a stream."""
    found: list[Exchange] = []
    original = Exchange.resume

    def resume(exchange: Exchange, *args: Any) -> Any:
        found.append(exchange)
        return original(exchange, *args)

    monkeypatch.setattr(Exchange, "resume", resume)
    return found


@pytest.fixture
def gateway(tmp_path: Path, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    monkeypatch.setattr(Memory, "is_worth_learning", lambda *_: True)
    with Gateway(tmp_path, openai=provider.origin, driver="loop") as gateway:
        gateway.add_keys("openai", 2)
        yield gateway
        until(lambda: not gateway.services.shared.in_flight())
        shortcut = shortcut_of(gateway)
        until(lambda: not (shortcut.rides or shortcut.streams or shortcut.lingering))
        running = shortcut.running
        assert (running.requests, running.streams, running.chats) == (0, 0, 0)


def shortcut_of(gateway: Gateway) -> Express:
    server: Any = gateway._server
    found: Express = server._worker._express
    return found


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, "it never happened"
        threading.Event().wait(0.005)


def ended(*last: Piece) -> Behavior:
    """A good stream whose body ends with these."""
    chunks = [chunk(event) for event in CHAT.events]
    start = head(200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"})
    return pieces(start, *chunks, *last)


def ask(gateway: Gateway) -> tuple[bytes, bool]:
    with gateway.raw() as client:
        client.post(PATH, ASK)
        assert client.head()[0] == 200
        return client.rest()


def begun(gateway: Gateway) -> RawClient:
    """A client that has got the first output of its stream, which flows on the shortcut."""
    client = gateway.raw()
    client.post(PATH, ASK)
    client.head()
    see(client, CHAT.content[0])
    until(lambda: shortcut_of(gateway).streams)
    return client


def test_a_stream_passes_without_an_exchange_and_is_booked(
    gateway: Gateway, provider: FakeProvider, resumed: list[Exchange]
) -> None:
    provider.default(stream(CHAT.events))
    for _ in range(3):
        assert ask(gateway) == (CHAT.body, True)
        until(lambda: not shortcut_of(gateway).lingering)
    rows = gateway.records()
    assert [(row["status"], row["outcome"], row["stream"], row["output_tokens"]) for row in rows] == [
        (200, "success", 1, 5)
    ] * 3
    assert [len(row["attempts"]) for row in rows] == [1] * 3
    assert {row["response_bytes"] for row in rows} == {len(CHAT.body)}
    assert all(row["first_byte_ms"] <= row["duration_ms"] for row in rows)
    assert not resumed
    assert provider.total_connections == 1


def test_streams_are_counted_while_they_flow_also_those_that_an_exchange_goes_on_with(
    gateway: Gateway, provider: FakeProvider
) -> None:
    go_on = threading.Event()
    held = stream([*CHAT.prologue, CHAT.content[0], wait_for(go_on), *CHAT.content[1:], *CHAT.tail])
    provider.answers(held, held)
    with begun(gateway) as first:
        until(lambda: "middleware_streams_in_flight 1.0" in gateway.get("/metrics").body.decode())
        shortcut = shortcut_of(gateway)
        (flowing,) = shortcut.streams
        shortcut.loop.call_soon(flowing.hand_over)
        until(lambda: not shortcut.streams)
        with begun(gateway) as second:
            until(lambda: "middleware_streams_in_flight 2.0" in gateway.get("/metrics").body.decode())
            assert "chat_completions_active_requests 2.0" in gateway.get("/metrics").body.decode()
            go_on.set()
            assert [client.rest() for client in (first, second)] == [(CHAT.body, True)] * 2
    until(lambda: "middleware_streams_in_flight 0.0" in gateway.get("/metrics").body.decode())


@pytest.mark.parametrize("place", range(len(CHAT.content) + len(CHAT.tail)))
def test_an_exchange_can_go_on_anywhere_in_a_stream(gateway: Gateway, provider: FakeProvider, place: int) -> None:
    go_on = threading.Event()
    later = [*CHAT.content[1:], *CHAT.tail]
    provider.answers(stream([*CHAT.prologue, CHAT.content[0], *later[:place], wait_for(go_on), *later[place:]]))
    with gateway.raw() as client:
        client.post(PATH, ASK)
        client.head()
        see(client, (CHAT.content[0], *later)[place])
        shortcut = shortcut_of(gateway)
        for flowing in list(shortcut.streams):
            shortcut.loop.call_soon(flowing.hand_over)
        until(lambda: not shortcut.streams)
        go_on.set()
        assert client.rest() == (CHAT.body, True)
    (row,) = gateway.records()
    assert (row["outcome"], row["output_tokens"], row["response_bytes"]) == ("success", 5, len(CHAT.body))
    assert [attempt["verdict"] for attempt in row["attempts"]] == ["ok"]


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_an_exchange_can_go_on_inside_a_chunk(gateway: Gateway, provider: FakeProvider, cut: int) -> None:
    go_on = threading.Event()
    split = chunk(CHAT.content[1])
    rest = [chunk(event) for event in (*CHAT.content[2:], *CHAT.tail)]
    start = head(200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"})
    before = [chunk(event) for event in (*CHAT.prologue, CHAT.content[0])]
    provider.answers(pieces(start, *before, split[:cut], wait_for(go_on), split[cut:], *rest, b"0\r\n\r\n"))
    with begun(gateway) as client:
        shortcut = shortcut_of(gateway)
        (flowing,) = shortcut.streams
        until(lambda: flowing.passing is not None and flowing.passing.rest)
        shortcut.loop.call_soon(flowing.hand_over)
        until(lambda: not shortcut.streams)
        go_on.set()
        assert client.rest() == (CHAT.body, True)


def test_an_error_in_the_middle_counts_against_the_key(
    gateway: Gateway, provider: FakeProvider, resumed: list[Exchange]
) -> None:
    provider.answers(stream([*CHAT.prologue, CHAT.content[0], CHAT.in_band]))
    body, whole = ask(gateway)
    assert body.startswith(FIRST)
    assert b"rate_limit" in body[len(FIRST) :]
    assert not whole
    (row,) = gateway.records()
    assert (row["outcome"], row["attempts"][0]["verdict"]) == ("upstream_error", "KEY_REST")
    assert len(resumed) == 1


def test_a_route_that_is_gone_by_now_still_serves_the_streams_that_it_began(
    gateway: Gateway, provider: FakeProvider, resumed: list[Exchange]
) -> None:
    go_on = threading.Event()
    provider.answers(stream([*CHAT.prologue, CHAT.content[0], wait_for(go_on)], end="reset"))
    with begun(gateway) as client:
        for row in gateway.services.keys.list_keys():
            gateway.services.keys.delete(row["id"])
        go_on.set()
        body, whole = client.rest()
    assert body.startswith(FIRST)
    assert b"upstream_cut" in body
    assert not whole
    assert len(resumed) == 1


def test_a_caller_who_leaves_ends_the_upstream_too(gateway: Gateway, provider: FakeProvider) -> None:
    provider.answers(stream([*CHAT.prologue, CHAT.content[0], wait_for(threading.Event())]))
    begun(gateway).close()
    assert provider.wait_closed(0)
    assert provider.closed_by(0) == "client"
    (row,) = gateway.records()
    assert (row["outcome"], row["attempts"][0]["verdict"]) == ("client_gone", "ok")


def test_a_caller_who_sends_ahead_while_a_stream_flows_gets_both_answers(
    gateway: Gateway, provider: FakeProvider
) -> None:
    go_on = threading.Event()
    provider.answers(
        stream([*CHAT.prologue, CHAT.content[0], wait_for(go_on), *CHAT.content[1:], *CHAT.tail]), stream(CHAT.events)
    )
    with begun(gateway) as client:
        client.post(PATH, ASK)
        go_on.set()
        body = b""
        while not body.endswith(canned.DONE):
            size = int(client.until(b"\r\n"), 16)
            body += client.exactly(size)
            client.until(b"\r\n")
        assert body == CHAT.body
        client.until(b"0\r\n\r\n")
        assert client.head()[0] == 200
        assert client.rest() == (CHAT.body, True)


@pytest.mark.parametrize("learning", [True, False], ids=["on the shortcut", "by an exchange"])
@pytest.mark.parametrize("streamed", [True, False], ids=["stream", "plain"])
@pytest.mark.parametrize("handed_over", [True, False], ids=["handed over", "not handed over"])
def test_what_a_connection_leaves_needs_no_collector(
    gateway: Gateway,
    provider: FakeProvider,
    monkeypatch: pytest.MonkeyPatch,
    learning: bool,
    streamed: bool,
    handed_over: bool,
) -> None:
    """Circles of objects that have grown old would stay for hours."""
    monkeypatch.setattr(Memory, "is_worth_learning", lambda *_: learning)
    cut = stream([*CHAT.prologue, *CHAT.content], end="reset") if streamed else json_reply({"error": {}}, 400)
    good = stream(CHAT.events) if streamed else json_reply(canned.chat())
    provider.default(cut if handed_over else good)
    body = ASK if streamed else canned.CHAT_REQUEST

    def call() -> None:
        with gateway.raw() as client:
            client.post(PATH, body)
            client.head()
            client.until(b"upstream_cut" if handed_over and streamed else canned.DONE if streamed else b"}")

    server: Any = gateway._server
    call()
    until(lambda: not server._worker._connections)
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for _ in range(30):
            call()
        until(lambda: not server._worker._connections)
        server.settle()
        gc.collect()
        left = Counter(kind for found in gc.garbage if (kind := type(found)).__module__.startswith(("app.", "http")))
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    # The last connection may still be on its way out of a frame.
    assert max(left.values(), default=0) <= 1, left


# -- silence -----------------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweeper that looks often enough for waits of a test."""
    for module in (express, ride, stream_ride):
        if hasattr(module, "SWEEP_S"):
            monkeypatch.setattr(module, "SWEEP_S", 0.02)
    monkeypatch.setattr(express, "SHORTEST_BEAT_S", 0.1)


@pytest.mark.usefixtures("quick")
def test_a_silent_stream_gets_heartbeats_and_goes_on(
    gateway: Gateway, provider: FakeProvider, resumed: list[Exchange]
) -> None:
    gateway.set(heartbeat_interval=0.2)
    go_on = threading.Event()
    provider.answers(stream([*CHAT.prologue, CHAT.content[0], wait_for(go_on), *CHAT.content[1:], *CHAT.tail]))
    with begun(gateway) as client:
        see(client, HEARTBEAT + b"\r\n4\r\n" + HEARTBEAT)
        go_on.set()
        body, whole = client.rest()
    assert body.replace(HEARTBEAT, b"") == CHAT.body
    assert whole
    assert len(resumed) == 1
    assert gateway.records()[0]["outcome"] == "success"


@pytest.mark.usefixtures("quick")
def test_a_silent_prologue_is_shown_before_the_caller_loses_its_patience(
    gateway: Gateway, provider: FakeProvider
) -> None:
    gateway.set(heartbeat_interval=0.2)
    go_on = threading.Event()
    provider.answers(stream([*CHAT.prologue, wait_for(go_on), *CHAT.content, *CHAT.tail]))
    with gateway.raw() as client:
        client.post(PATH, ASK)
        client.head()
        see(client, CHAT.prologue[0])
        go_on.set()
        body, whole = client.rest()
    assert body.replace(HEARTBEAT, b"") == CHAT.body
    assert whole


def test_frequent_heartbeats_are_an_exchanges_to_give(gateway: Gateway, provider: FakeProvider) -> None:
    gateway.set(heartbeat_interval=0.1)
    go_on = threading.Event()
    provider.answers(stream([*CHAT.prologue, CHAT.content[0], wait_for(go_on), *CHAT.content[1:], *CHAT.tail]))
    with gateway.raw() as client:
        client.post(PATH, ASK)
        client.head()
        see(client, HEARTBEAT + b"\r\n4\r\n" + HEARTBEAT)
        assert not shortcut_of(gateway).streams
        go_on.set()
        assert client.rest()[1]


@pytest.mark.usefixtures("quick")
def test_a_stream_that_told_its_end_is_not_waited_for_long(
    gateway: Gateway, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadlines, "FINISHED_SILENCE_S", 0.2)
    provider.answers(stream([*CHAT.prologue, *CHAT.content, *CHAT.tail[:-1]], end="hang"))
    began = time.monotonic()
    assert ask(gateway) == (CHAT.body, True)
    assert time.monotonic() - began < 5.0
    assert gateway.records()[0]["outcome"] == "success"


# -- the end of the upstream's framing -----------------------------------------------------------------------


def test_a_last_chunk_that_comes_later_leaves_a_connection_that_serves_again(
    gateway: Gateway, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(express, "LINGER_S", WAIT_S)
    go_on = threading.Event()
    provider.answers(ended(wait_for(go_on), b"0\r\n", b"\r\n"), stream(CHAT.events))
    assert ask(gateway) == (CHAT.body, True)
    shortcut = shortcut_of(gateway)
    assert shortcut.lingering
    go_on.set()
    until(lambda: not shortcut.lingering)
    assert ask(gateway) == (CHAT.body, True)
    assert provider.total_connections == 1


@pytest.mark.parametrize("late", [False, True], ids=["at once", "later"])
@pytest.mark.parametrize("last", [b"5\r\nhello\r\n", b"0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", b"nonsense"], ids=repr)
def test_what_follows_the_end_closes_the_connection(
    gateway: Gateway, provider: FakeProvider, last: bytes, late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(express, "LINGER_S", WAIT_S)
    go_on = threading.Event()
    if late:
        provider.answers(ended(wait_for(go_on), last), stream(CHAT.events))
    else:
        events = b"".join(chunk(event) for event in CHAT.events[1:])
        start = head(200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"})
        first = chunk(CHAT.events[0])
        provider.answers(pieces(start + first + events + last), stream(CHAT.events))
    assert ask(gateway) == (CHAT.body, True)
    go_on.set()
    assert provider.wait_closed(0)
    assert ask(gateway) == (CHAT.body, True)
    assert provider.total_connections == 2


def test_an_end_that_never_comes_is_not_waited_for(gateway: Gateway, provider: FakeProvider) -> None:
    provider.answers(ended(wait_for(threading.Event())), stream(CHAT.events))
    assert ask(gateway) == (CHAT.body, True)
    assert provider.wait_closed(0)
    assert provider.closed_by(0) == "client"
    assert ask(gateway) == (CHAT.body, True)


def test_the_end_of_the_server_closes_what_lingers_and_ends_what_flows(
    tmp_path: Path, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Memory, "is_worth_learning", lambda *_: True)
    monkeypatch.setattr(express, "LINGER_S", 10 * WAIT_S)
    never = threading.Event()
    provider.answers(ended(wait_for(never)), stream([*CHAT.prologue, CHAT.content[0], wait_for(never)]))
    with Gateway(tmp_path, openai=provider.origin, driver="loop") as gateway:
        gateway.add_keys("openai", 1)
        assert ask(gateway) == (CHAT.body, True)
        client = begun(gateway)
    body, whole = client.rest()
    client.close()
    assert body.startswith(FIRST)
    assert b"shutting_down" in body
    assert not whole
    assert provider.wait_closed(0)
    assert provider.wait_closed(1)


def test_a_plain_answer_to_a_stream_is_made_one(gateway: Gateway, provider: FakeProvider) -> None:
    provider.answers(json_reply(canned.chat()))
    body, whole = ask(gateway)
    assert whole
    assert body.endswith(canned.DONE)
