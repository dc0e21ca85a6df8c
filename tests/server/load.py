"""Callers and upstreams for the tests of the whole server: one model, two keys, streams that wait for the test."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import urllib3

from tests import canned
from tests.fake_provider import Behavior, FakeProvider, stream, wait_for
from tests.gateway import RawClient
from tests.proxy.stream_cases import CASES, see
from tests.server.server import Server

CHAT = CASES[0]
PATH = "/v1/chat/completions"
STREAMED = CHAT.dialect.request
KEYS = ("sk-process-key-0001", "sk-process-key-0002")
BEFORE = (*CHAT.prologue, CHAT.content[0])
AFTER = (*CHAT.content[1:], *CHAT.tail)


def served_by(provider: FakeProvider, **environ: str) -> dict[str, str]:
    return {"OPENAI_BASE_URL": provider.origin, "OPENAI_API_KEYS": ",".join(KEYS), **environ}


def held(go_on: threading.Event) -> Behavior:
    """A stream that stops after its first word until the test lets it go on."""
    return stream([*BEFORE, wait_for(go_on), *AFTER])


@contextmanager
def streams(server: Server, count: int) -> Iterator[list[RawClient]]:
    """So many callers, each with the first word of its stream."""
    clients = [server.raw() for _ in range(count)]
    try:
        for client in clients:
            client.socket.settimeout(20.0)
            client.post(PATH, STREAMED)
        for client in clients:
            see(client, BEFORE[-1])
            client.head()
        yield clients
    finally:
        for client in clients:
            client.close()


def ask(server: Server) -> int:
    return server.post(PATH, canned.CHAT_REQUEST).status


def key_named(server: Server, key_id: int) -> dict[str, Any]:
    found: dict[str, Any] = server.get(f"/middleware/api/keys/{key_id}").json
    return found


def rests_until(shown: dict[str, Any]) -> Any:
    """When the key serves the one model of these tests again; None while it does."""
    return next((rest["until"] for rest in shown["model_rests"]), shown["disabled_until"])


def rest_first_key(server: Server) -> float:
    """Ask until the first key has met its limit; the Unix second until which it rests."""
    for _ in range(4):
        assert ask(server) == 200
    until = rests_until(key_named(server, 1))
    assert until is not None
    return datetime.fromisoformat(until).timestamp()


def try_to_ask(server: Server) -> int:
    """The status; 0 where there was no answer."""
    try:
        return ask(server)
    except urllib3.exceptions.HTTPError:
        return 0
