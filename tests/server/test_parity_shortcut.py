"""
The shortcut treats every call as the thread driver does: the cases of both drivers once more, on kept connections whose
heads are known and with an upstream connection at hand, so that whatever may take the shortcut takes it.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from app.clock import Clock
from app.proxy.exchange import Exchange
from app.proxy.shortcut import Memory
from app.server.express import Express
from app.server.ride import Ride
from tests import canned
from tests.attacks.server import split_answer
from tests.fake_provider import FakeProvider, json_reply
from tests.gateway import Gateway, unchunk
from tests.server.parity_cases import CASES, CHAT, Case, post
from tests.server.test_parity_core import OTHER, WALL, Said, Side, by_threads, keep_alive

WARM_UP = post(CHAT, canned.CHAT_REQUEST, request_id=OTHER)


def by_shortcut(gateway: Gateway, request: bytes) -> Said:
    """One answer on a connection that stays open."""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10.0) as connection:
        connection.sendall(keep_alive(request))
        received = b""
        while True:
            part = connection.recv(65536)
            received += part
            said = said_so_far(received, request)
            if said is not None and (said.whole or not part):
                return said
            assert part, "the connection ended before an answer"


def said_so_far(received: bytes, request: bytes) -> Said | None:
    if b"\r\n\r\n" not in received:
        return None
    status, headers, body = split_answer(received)
    whole = True
    if headers.get("transfer-encoding") == "chunked":
        body, whole = unchunk(body)
    elif "content-length" in headers and not request.startswith(b"HEAD "):
        whole = len(body) == int(headers["content-length"])
    return Said(status, list(headers.items()), body, whole)


class WarmSide(Side):
    """A side whose gateway has just served another call, which left a connection to the upstream."""

    def _talk(self, upstream: FakeProvider, case: Case) -> list[Said]:
        upstream.answers(json_reply(canned.chat()))
        self._ask(self._gateway, WARM_UP)
        del upstream.received[:]
        return super()._talk(upstream, case)


@pytest.fixture(scope="module")
def taken() -> Iterator[Counter[str]]:
    """How often the shortcut was taken, and how often it led to an exchange."""
    counts: Counter[str] = Counter()
    patched = pytest.MonkeyPatch()
    patched.setattr(Memory, "is_worth_learning", lambda *_: True)
    ways = ((Express, "under_way"), (Express, "flows"), (Ride, "arrive"), (Ride, "hand_over"), (Exchange, "resume"))
    for owner, name in ways:
        patched.setattr(owner, name, counted(counts, owner, name))
    yield counts
    patched.undo()


def counted(counts: Counter[str], owner: type, name: str) -> Any:
    original = getattr(owner, name)

    def count(*args: Any, **more: Any) -> Any:
        counts[name] += 1
        return original(*args, **more)

    return count


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory, taken: Counter[str]) -> Iterator[tuple[Side, Side]]:
    environ = {"POOL_BRAKE_THRESHOLD": "0", "FAILOVER_STRATEGY": "priority"}
    made = [
        Gateway(tmp_path_factory.mktemp(driver), environ=environ, driver=driver, clock=Clock(wall=lambda: WALL))
        for driver in ("threads", "loop")
    ]
    with made[0], made[1]:
        yield WarmSide(made[0], by_threads), WarmSide(made[1], by_shortcut)


def fits(case: Case) -> bool:
    """The warm-up is a request too: it would count against a limit."""
    return not case.crowded and "enable_rate_limiting" not in case.settings


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if fits(case)])
def test_the_shortcut_treats_calls_as_threads_do(name: str, sides: tuple[Side, Side]) -> None:
    threads, shortcut = sides
    expected = threads.play(CASES[name])
    assert shortcut.play(CASES[name]) == expected


def test_limits_count_requests_on_the_shortcut(sides: tuple[Side, Side]) -> None:
    case = CASES["rate limited"]
    said = sides[1].play(replace(case, upstream=(json_reply(canned.chat()),)))["said"]
    assert [status for status, *_ in said] == [429, 429, 429]  # the warm-up was the one that is allowed


def test_the_cases_took_the_shortcut_and_every_way_off_it(taken: Counter[str], sides: tuple[Side, Side]) -> None:
    good = Case(post(CHAT, canned.CHAT_REQUEST), (json_reply(canned.chat()),))
    bad = Case(post(CHAT, canned.CHAT_REQUEST), (json_reply({"error": {"message": "no"}}, 400),))
    for case in (good, bad, CASES["openai_chat streamed"], CASES["openai_chat cut after content by reset"]):
        sides[1].play(case)
    assert taken["under_way"] >= 4
    assert taken["flows"] >= 2
    assert taken["resume"] >= 1
    assert taken["arrive"] >= 1
    assert taken["hand_over"] >= 1
