"""Faults of the connect phase: nothing of an answer is there, the next key serves, no key is blamed."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import canned
from tests.fake_provider import FakeProvider, black_hole, close, closed_port, json_reply, pieces, reset
from tests.proxy.dialects import BOTH_WAYS, CHAT, MESSAGES, Dialect, Site, site, streamed

pytestmark = pytest.mark.usefixtures("driver")

SECOND = "second"


@pytest.fixture(params=BOTH_WAYS, ids=str)
def dialect(request: pytest.FixtureRequest) -> Dialect:
    return request.param


def add_second(here: Site) -> str:
    """A second entry of the same kind, less preferred, that leads to the healthy provider; returns its key."""
    models = [here.dialect.model]
    here.gateway.services.providers.create(
        {"name": SECOND, "kind": here.dialect.provider, "base_url": here.provider.origin, "models": models}
    )
    value = "second-provider-key-0001"
    here.gateway.services.keys.add(value, provider=SECOND)
    here.provider.default(here.dialect.good)
    return value


def assert_moved_on(here: Site, reason: str) -> None:
    """The first provider can't be reached: the request goes on to the second, and no key pays for it."""
    second = add_second(here)

    answer = here.ask()

    here.assert_good(answer)
    assert answer.headers["x-middleware-provider"] == SECOND
    assert here.provider.keys == [second]
    verdicts = here.verdicts()
    assert verdicts[-1] == ("ok", "")
    assert set(verdicts[:-1]) == {("PROVIDER", reason)}
    assert here.states() == ["Healthy"] * len(here.keys)
    assert here.record()["outcome"] == "success"
    here.assert_good(here.ask())


def assert_unreachable(here: Site, reason: str) -> None:
    """No other provider: a 502 in the caller's dialect that names the reason, and healthy keys."""
    answer = here.ask()

    assert (answer.status, answer.headers["content-type"]) == (502, "application/json")
    error = here.dialect.says_error(answer.body)
    assert reason in error["message"]
    assert set(here.verdicts()) == {("PROVIDER", reason)}
    assert here.states() == ["Healthy"] * len(here.keys)
    record = here.record()
    assert (record["status"], record["outcome"], record["error_code"]) == (
        502,
        "upstream_error",
        "upstream_unreachable",
    )


# -- F1 -----------------------------------------------------------------------------------------------


def test_f1_a_closed_port_sends_the_request_on_and_leaves_the_keys_healthy(tmp_path: Path, dialect: Dialect) -> None:
    with site(tmp_path, dialect, origin=closed_port()) as here:
        assert_moved_on(here, "refused")


def test_f1_a_closed_port_with_nowhere_else_to_go_is_a_502(tmp_path: Path, dialect: Dialect) -> None:
    with site(tmp_path, dialect, origin=closed_port()) as here:
        assert_unreachable(here, "refused")
        assert len(here.record()["attempts"]) == 2


def test_f1_a_closed_port_opens_the_circuit_of_its_provider(tmp_path: Path) -> None:
    settings = {"enable_circuit_breaker": True, "circuit_breaker_threshold": 2, "circuit_breaker_cooldown": 30}
    with site(tmp_path, CHAT, origin=closed_port(), **settings) as here:
        first, second = here.ask(), here.ask()

        assert first.status == 502
        assert (second.status, here.record()["attempts"]) == (429, [])
        assert here.states() == ["Healthy", "Healthy"]
        here.time.advance(31)
        assert here.ask().status == 502


def test_f1_connection_failures_are_limited_by_their_own_setting(tmp_path: Path) -> None:
    with site(tmp_path, CHAT, origin=closed_port(), keys=6, retry_total=2) as here:
        assert_unreachable(here, "refused")
        assert len(here.record()["attempts"]) == 3


# -- F2 -----------------------------------------------------------------------------------------------


class Resolver:
    """Stands before the system's resolver for names below `.test`: they don't resolve, or hang until `release`."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self._real = socket.getaddrinfo

    def __call__(self, host: Any, *args: Any, **more: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else str(host)
        if not name.endswith(".test"):
            return self._real(host, *args, **more)
        if name.startswith("hanging"):
            self.release.wait(30)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    stand_in = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", stand_in)
    yield stand_in
    stand_in.release.set()


def test_f2_a_name_that_does_not_resolve_sends_the_request_on(
    tmp_path: Path, dialect: Dialect, resolver: Resolver
) -> None:
    with site(tmp_path, dialect, origin="http://unknown.test") as here:
        assert_moved_on(here, "dns")


def test_f2_a_name_that_does_not_resolve_is_a_502_that_says_so(
    tmp_path: Path, dialect: Dialect, resolver: Resolver
) -> None:
    with site(tmp_path, dialect, origin="http://unknown.test") as here:
        assert_unreachable(here, "dns")
        assert "does not resolve" in here.record()["attempts"][0]["message"]


def test_f2_a_resolver_that_hangs_costs_no_more_than_the_connect_timeout(
    tmp_path: Path, dialect: Dialect, resolver: Resolver
) -> None:
    with site(tmp_path, dialect, origin="http://hanging.test", keys=1) as here:
        here.set(connect_timeout=0.2, retry_total=0)
        began = time.monotonic()

        assert_unreachable(here, "connect_timeout")

        assert time.monotonic() - began < 2
        resolver.release.set()


def test_f2_a_resolver_that_hangs_holds_up_no_other_provider(tmp_path: Path, resolver: Resolver) -> None:
    with FakeProvider() as healthy, site(tmp_path, CHAT, origin="http://hanging.test") as here:
        here.gateway.services.providers.update("anthropic", {"base_url": healthy.origin})
        here.gateway.add_keys("anthropic")
        healthy.default(json_reply(canned.message()))
        stuck = [here.gateway.raw() for _ in range(40)]
        try:
            for client in stuck:
                client.post(CHAT.path, CHAT.request)

            answer = here.gateway.post(MESSAGES.path, MESSAGES.request)

            assert answer.status == 200
        finally:
            resolver.release.set()
            assert [client.head()[0] for client in stuck] == [502] * len(stuck)
            for client in stuck:
                client.close()


# -- F3 -----------------------------------------------------------------------------------------------


def test_f3_an_address_that_never_answers_sends_the_request_on_after_the_connect_timeout(
    tmp_path: Path, dialect: Dialect
) -> None:
    with black_hole() as origin, site(tmp_path, dialect, origin=origin, keys=1) as here:
        here.set(connect_timeout=0.2)
        assert_moved_on(here, "connect_timeout")


def test_f3_an_address_that_never_answers_is_a_502(tmp_path: Path) -> None:
    with black_hole() as origin, site(tmp_path, CHAT, origin=origin) as here:
        here.set(connect_timeout=0.2)
        assert_unreachable(here, "connect_timeout")


# -- F4 -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("certificate", ["expired", "wrong_host"])
def test_f4_a_certificate_that_is_not_right_sends_the_request_on_and_gets_no_credentials(
    tmp_path: Path, dialect: Dialect, certificate: str
) -> None:
    with (
        FakeProvider(tls=certificate) as bad,
        site(tmp_path, dialect, origin=bad.origin, verify_with=bad.ca_file) as at,
    ):
        assert_moved_on(at, "tls")
        assert bad.received == []


def test_f4_an_unknown_authority_is_not_trusted(tmp_path: Path) -> None:
    with FakeProvider(tls="valid") as unknown, site(tmp_path, CHAT, origin=unknown.origin) as here:
        assert_unreachable(here, "tls")
        assert unknown.received == []
        message = here.record()["attempts"][0]["message"]
        assert "certificate" in message


def test_f4_plain_http_on_an_https_port_is_refused(tmp_path: Path, dialect: Dialect) -> None:
    greeting = pieces(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", close())
    with FakeProvider() as plain, site(tmp_path, dialect, origin=plain.origin.replace("http:", "https:")) as here:
        plain.on_connect(*[greeting] * 8)
        assert_moved_on(here, "tls")
        assert plain.received == []


def test_f4_a_right_certificate_serves_and_its_connection_is_kept(tmp_path: Path, dialect: Dialect) -> None:
    provider = FakeProvider(tls="valid")
    with site(tmp_path, dialect, provider=provider, verify_with=provider.ca_file) as here:
        for _ in range(3):
            here.assert_serves()
        assert provider.total_connections == 1


# -- F5 -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [close(), reset()], ids=["closed", "reset"])
def test_f5_a_connection_closed_right_after_it_was_accepted_makes_one_rotation(
    tmp_path: Path, dialect: Dialect, ending: Any
) -> None:
    with site(tmp_path, dialect) as here:
        here.provider.on_connect(pieces(ending))
        here.script()

        answer = here.ask()

        here.assert_good(answer)
        assert here.provider.keys == [here.keys[1]]
        assert [verdict for verdict, _ in here.verdicts()] == ["PROVIDER", "ok"]
        assert here.states() == ["Healthy", "Healthy"]
        here.assert_serves()


def test_f5_one_key_alone_is_tried_again(tmp_path: Path) -> None:
    with site(tmp_path, CHAT, keys=1) as here:
        here.provider.on_connect(pieces(close()))
        here.script()

        here.assert_good(here.ask())

        assert [verdict for verdict, _ in here.verdicts()] == ["PROVIDER", "ok"]


# -- F6 -----------------------------------------------------------------------------------------------


def test_f6_a_kept_connection_that_the_upstream_closed_meanwhile_is_replaced_unseen(
    tmp_path: Path, dialect: Dialect
) -> None:
    with site(tmp_path, dialect, keys=1) as here:
        here.provider.close_keepalive_after(1)
        here.script()
        here.assert_good(here.ask())
        assert here.provider.wait_closed(0)

        answer = here.ask()

        here.assert_good(answer)
        assert answer.headers["x-middleware-attempts"] == "1"
        assert here.verdicts() == [("ok", "")]
        assert here.provider.total_connections == 2


def test_f6_a_kept_connection_that_dies_under_the_request_is_replaced_and_no_failure(
    tmp_path: Path, dialect: Dialect
) -> None:
    with site(tmp_path, dialect, keys=1, pool_brake_threshold=1) as here:
        here.provider.close_keepalive_after(1, when="next_request")
        here.assert_serves()

        answer = here.ask()

        here.assert_good(answer)
        assert answer.headers["x-middleware-attempts"] == "1"
        assert here.verdicts() == [("ok", "")]
        assert (here.provider.dropped_requests, len(here.provider.received)) == (1, 2)
        assert here.states() == ["Healthy"]


def test_f6_each_attempt_may_replace_a_dead_connection(tmp_path: Path) -> None:
    with site(tmp_path, CHAT) as here:
        here.provider.close_keepalive_after(1, when="next_request")
        release = threading.Event()
        slow = pieces(lambda exchange: exchange.pause(release, 5)).then(CHAT.good)
        here.script(slow, slow)
        with here.asking() as one, here.asking() as other:
            assert here.provider.wait_requests(2)
            release.set()
            assert (one.head()[0], other.head()[0]) == (200, 200)
        here.quiet()
        server = json_reply(CHAT.errors["server"], 500)
        here.provider.by_key({here.keys[0]: server, here.keys[1]: CHAT.good})

        answer = here.ask()

        here.assert_rotated(answer, "server_error")
        assert here.provider.dropped_requests == 2


def test_f6_a_request_that_was_begun_to_be_answered_is_not_sent_again(tmp_path: Path) -> None:
    with site(tmp_path, CHAT, keys=1) as here:
        here.script()
        here.assert_good(here.ask())
        here.provider.by_key({here.keys[0]: [pieces(b"HTTP/1.1 2", reset()), CHAT.good]})

        here.assert_good(here.ask())

        assert here.verdicts() == [("PROVIDER", "reset"), ("ok", "")]


def test_f6_a_caller_that_leaves_while_a_connection_is_made_is_noticed(tmp_path: Path, resolver: Resolver) -> None:
    with site(tmp_path, streamed(CHAT), origin="http://hanging.test") as here:
        with here.asking():
            pass
        rows: list[Any] = []
        deadline = time.monotonic() + 5
        while not rows and time.monotonic() < deadline:
            rows = here.gateway.records()
        assert [row["outcome"] for row in rows] == ["client_gone"]
        assert here.states() == ["Healthy", "Healthy"]


def test_f1_the_wait_after_a_failed_connection_takes_no_processor_time(tmp_path: Path) -> None:
    with site(tmp_path, CHAT, origin=closed_port(), keys=2, retry_backoff_factor=0.6) as here:
        before = time.process_time()

        assert here.ask().status == 502

        assert time.process_time() - before < 0.3
        assert here.record()["attempts"][1]["wait_ms"] == 600
