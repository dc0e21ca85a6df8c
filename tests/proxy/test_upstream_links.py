"""Upstream connections through the whole middleware, with each driver: proxies, IPv6, endings, storms and restarts."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.server import idle
from tests import canned
from tests.fake_provider import FakeProvider, closed_port, json_reply, reset_before_status
from tests.gateway import Gateway
from tests.proxy.dialects import BOTH_WAYS, CHAT, MESSAGES, Dialect, site, streamed
from tests.proxy.test_upstream import Proxy

pytestmark = pytest.mark.usefixtures("driver")

CALLERS, CALLS = 8, 12


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


# -- ways there -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", BOTH_WAYS, ids=str)
def test_a_whole_request_passes_through_a_tunnel(tmp_path: Path, way: Dialect, monkeypatch: pytest.MonkeyPatch) -> None:
    secure = FakeProvider(tls="valid")
    with Proxy(secure.port) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://us%40er:secret@{proxy.address}")
        origin = f"https://localhost:{secure.port}"
        with site(tmp_path, way, provider=secure, origin=origin, verify_with=secure.ca_file) as here:
            for _ in range(3):
                here.assert_serves()

            assert len(proxy.heads) == 1  # the tunnel is kept
            assert proxy.heads[0].startswith(b"CONNECT localhost:%d " % secure.port)
            assert b"proxy-authorization: basic" in proxy.heads[0].lower()
            assert "proxy-authorization" not in secure.received[0].headers


def test_a_wrong_certificate_behind_a_tunnel_gets_no_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeProvider(tls="wrong_host") as bad, Proxy(bad.port) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy.address}")
        with site(tmp_path, CHAT, origin=f"https://localhost:{bad.port}", verify_with=bad.ca_file) as here:
            assert here.ask().status == 502
            assert {reason for _, reason in here.verdicts()} == {"tls"}
            assert bad.received == []


def test_no_proxy_leads_straight_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", closed_port())
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with site(tmp_path, CHAT) as here:
        here.assert_serves()


@pytest.mark.parametrize("host", ["[::1]", "six.test"])
def test_an_ipv6_upstream_serves_by_its_address_and_by_a_name(
    tmp_path: Path, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = socket.getaddrinfo

    def resolve(name: Any, port: Any, *more: Any, **named: Any) -> Any:
        return found("::1" if name in ("six.test", b"six.test") else name, port, *more, **named)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    six = FakeProvider(address=("::1", 0))
    with site(tmp_path, streamed(MESSAGES), provider=six, origin=f"http://{host}:{six.port}") as here:
        for _ in range(2):
            here.assert_serves()
        assert six.received[0].headers["host"] == f"{host}:{six.port}"
        assert six.total_connections == 1


# -- endings of connections --------------------------------------------------------------------------------


@pytest.mark.parametrize("way", BOTH_WAYS, ids=str)
def test_an_upstream_that_closes_after_each_answer_serves_every_request_at_its_first_attempt(
    tmp_path: Path, way: Dialect
) -> None:
    with site(tmp_path, way) as here:
        here.provider.close_keepalive_after(1)
        for _ in range(10):
            here.assert_serves()
            assert here.record()["attempts"][0]["verdict"] == "ok"
        assert here.provider.total_connections == 10
        assert len(here.provider.received) == 10


def test_an_answer_that_announces_its_closing_is_the_last_of_its_connection(tmp_path: Path) -> None:
    with site(tmp_path, CHAT) as here:
        here.script(*[json_reply(canned.chat(), 200, {"Connection": "close"})] * 2)
        here.assert_good(here.ask())
        here.quiet()
        assert here.provider.wait_closed(0)
        assert here.provider.closed_by(0) == "client"


@pytest.mark.parametrize("driver", ["loop"], indirect=True)  # without a loop nobody looks until the next request
def test_an_idle_connection_is_closed_when_its_time_has_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idle, "SWEEP_S", 0.2)
    with site(tmp_path, CHAT) as here:
        here.set(keepalive_timeout=0.1)
        here.assert_serves()

        assert here.provider.wait_closed(0)

        assert here.provider.closed_by(0) == "client"
        here.assert_serves()
        assert here.provider.total_connections == 2


def test_a_request_on_a_dead_connection_is_sent_again_only_once(tmp_path: Path) -> None:
    with site(tmp_path, CHAT, keys=1) as here:
        here.assert_serves()
        here.provider.default(json_reply(canned.chat()))
        here.provider.by_key({here.keys[0]: [reset_before_status(), reset_before_status(), CHAT.good]})

        here.assert_good(here.ask())

        # The stale one costs no attempt, the fresh one that is reset does.
        assert here.verdicts() == [("PROVIDER", "reset"), ("ok", "")]
        assert len(here.provider.received) == 4


# -- storms ------------------------------------------------------------------------------------------------


def at_once(work: Callable[[int], None]) -> None:
    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(40)
    assert not any(thread.is_alive() for thread in threads)


def statuses_of(gateway: Gateway, way: Dialect) -> Counter[int]:
    told: Counter[int] = Counter()
    lock = threading.Lock()

    def work(_number: int) -> None:
        for _ in range(CALLS):
            status = gateway.request("POST", way.path, json_body=way.request).status
            with lock:
                told[status] += 1

    at_once(work)
    return told


@pytest.mark.parametrize("way", [CHAT, streamed(MESSAGES)], ids=str)
def test_in_a_storm_of_rate_limits_each_key_is_left_alone_and_every_call_is_recorded(
    tmp_path: Path, way: Dialect
) -> None:
    with site(tmp_path, way, keys=6, pool_brake_threshold=0) as here:
        limited = json_reply(way.errors["rate_limit"], 429, {"Retry-After": "60"})
        here.provider.by_key({key: [way.good] * 5 + [limited] for key in here.keys})

        told = statuses_of(here.gateway, way)

        assert set(told) == {200, 429}
        assert told[200] == 30
        assert told.total() == CALLERS * CALLS
        # A key that was just told to rest may still carry what was sent before.
        assert len(here.provider.received) <= 30 + 6 * CALLERS
        here.quiet()
        assert Counter(row["status"] for row in here.gateway.records()) == told
        assert here.gateway.services.shared.in_flight() == 0


def test_an_upstream_that_restarts_under_load_is_found_again(tmp_path: Path) -> None:
    first = FakeProvider()
    first.default(CHAT.good)
    with site(tmp_path, CHAT, keys=4, provider=first, pool_brake_threshold=0, max_concurrent_requests=0) as here:
        successors: list[FakeProvider] = []
        told: Counter[int] = Counter()
        lock = threading.Lock()

        def restart() -> None:
            first.stop()
            second = FakeProvider(address=("127.0.0.1", first.port))
            second.default(CHAT.good)
            successors.append(second.__enter__())

        def work(number: int) -> None:
            for turn in range(CALLS * 2):
                if (number, turn) == (0, CALLS):
                    restart()
                status = here.ask().status
                with lock:
                    told[status] += 1

        try:
            at_once(work)
            assert set(told) <= {200, 502, 503}
            assert told[200] > CALLERS * CALLS
            assert [here.ask().status for _ in range(5)] == [200] * 5
            here.quiet()
            assert len(here.gateway.records()) == told.total() + 5
            assert here.states() == ["Healthy"] * 4
        finally:
            for second in successors:
                second.stop()
