"""
Faults of the machine: a database that is locked, full, gone or damaged, clocks that jump, threads and files that run
out, addresses that lead nowhere. Against `python main.py` under gunicorn where the process matters.
"""

from __future__ import annotations

import os
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pysqlite3 import dbapi2 as sqlite

from app.clock import Clock
from tests import canned
from tests.canned_errors import OPENAI_RATE_LIMIT
from tests.fake_provider import FakeProvider, json_reply
from tests.gateway import Gateway, RawClient
from tests.server.load import (
    CHAT,
    PATH,
    STREAMED,
    ask,
    held,
    rests_until,
    served_by,
    streams,
    try_to_ask,
)
from tests.server.server import Server, run_main, wait_until

pytestmark = pytest.mark.usefixtures("driver")

# -- F44, F45: the database -------------------------------------------------------------------------------


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another program holds the write lock."""
    connection = sqlite.connect(str(path), isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")
    finally:
        connection.close()


def test_f44_a_locked_database_stops_no_request_and_the_rows_come_later(tmp_path: Path, provider: FakeProvider) -> None:
    with Server(tmp_path, environ=served_by(provider)) as server:
        assert ask(server) == 200
        assert wait_until(lambda: len(server.outcomes()) == 1)
        with locked(server.database_path):
            blocked: list[tuple[int, dict[str, Any]]] = []
            write = threading.Thread(target=lambda: blocked.append(try_to_add(server)))
            write.start()
            took = []
            while write.is_alive():
                started = time.monotonic()
                assert ask(server) == 200
                took.append(time.monotonic() - started)
                assert server.get("/middleware/api/keys").status == 200
                assert server.get("/livez").status == 200
            write.join()

        # The change of a person waits five seconds for the lock, then says so.
        assert blocked[0][0] == 503
        assert blocked[0][1]["code"] == "database_unavailable"
        assert sorted(took)[len(took) * 95 // 100] < 1.0
        assert wait_until(lambda: len(server.outcomes()) == 1 + len(took), 15)
        assert try_to_add(server)[0] == 201
        assert wait_until(lambda: server.get("/healthz").json["components"]["writer"]["status"] == "ok")
        assert server.terminate() == 0


def try_to_add(server: Server) -> tuple[int, dict[str, Any]]:
    answer = server.post("/middleware/api/keys", {"key": "sk-late-key-000001", "provider": "openai"})
    return answer.status, answer.json


def test_f45_a_database_that_takes_no_writes_stops_no_request_and_recovers(
    tmp_path: Path, provider: FakeProvider
) -> None:
    """A full disk, as far as the worker can see: no file of it may grow any more."""
    with Server(tmp_path, environ=served_by(provider)) as server:
        assert ask(server) == 200
        assert wait_until(lambda: len(server.outcomes()) == 1)
        (worker,) = server.workers
        soft, hard = resource.prlimit(worker, resource.RLIMIT_FSIZE)
        resource.prlimit(worker, resource.RLIMIT_FSIZE, (1, hard))
        try:
            status, told = try_to_add(server)
            assert (status, told["code"]) == (503, "database_unavailable")
            assert {ask(server) for _ in range(20)} == {200}
            assert wait_until(lambda: server.get("/healthz").status == 503)
            assert server.get("/middleware/api/keys").status == 200
            assert server.get("/livez").status == 200
            alarms = [line for line in server.log().splitlines() if "cannot be written to" in line]
            assert len(alarms) == 1
        finally:
            resource.prlimit(worker, resource.RLIMIT_FSIZE, (soft, hard))

        assert wait_until(lambda: len(server.outcomes()) == 21, 15)
        assert try_to_add(server)[0] == 201
        assert server.query("PRAGMA integrity_check") == [("ok",)]
        assert server.terminate() == 0


@pytest.mark.parametrize("fault", ["deleted", "garbage"])
def test_f45_a_database_that_is_gone_or_damaged_stops_no_request(
    tmp_path: Path, provider: FakeProvider, fault: str
) -> None:
    with Server(tmp_path, environ=served_by(provider)) as server:
        assert ask(server) == 200
        assert wait_until(lambda: len(server.outcomes()) == 1)
        for path in tmp_path.glob("keys.db*"):
            if fault == "deleted":
                path.unlink()
            else:
                path.write_bytes(b"garbage!" * (path.stat().st_size // 8))

        assert {ask(server) for _ in range(30)} == {200}
        for path in ("/middleware/api/keys", "/middleware/api/settings", "/middleware/api/requests", "/readyz"):
            assert server.get(path).status in (200, 503), path
        # A change to a file that nobody will find again is not acknowledged.
        assert try_to_add(server)[0] in ((503,) if fault == "deleted" else (201, 503))
        assert fault != "deleted" or wait_until(lambda: server.get("/readyz").status == 503)
        assert server.get("/livez").status == 200
        assert {ask(server) for _ in range(5)} == {200}


def garbage(path: Path) -> None:
    path.write_bytes(b"this was a database once\n" * 400)


def broken_pages(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[100:] = os.urandom(len(data) - 100)
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [garbage, broken_pages], ids=["header", "pages"])
def test_f45_a_damaged_database_is_refused_at_the_start_and_left_as_it_is(
    tmp_path: Path, provider: FakeProvider, damage: Callable[[Path], None]
) -> None:
    with Server(tmp_path, environ=served_by(provider)) as server:
        assert server.terminate() == 0
    path = tmp_path / "keys.db"
    damage(path)
    before = path.read_bytes()

    done = run_main(tmp_path, served_by(provider))

    assert done.returncode == 2
    assert "The middleware can't start." in done.stderr
    assert str(path) in done.stderr
    assert "Traceback" not in done.stderr
    assert path.read_bytes() == before


# -- F46: the clock ---------------------------------------------------------------------------------------


class JumpingClock:
    """A wall clock that jumps, and a monotonic one that a test puts forward."""

    def __init__(self) -> None:
        self.wall_jump_s = 0.0
        self.passed_s = 0.0
        self.clock = Clock(
            monotonic=lambda: time.monotonic() + self.passed_s,
            wall=lambda: time.time() + self.passed_s + self.wall_jump_s,
        )


JUMPS = {"a day ahead": 86400.0, "a day back": -86400.0}


@pytest.mark.parametrize(
    ("jump", "rest_s"),
    [
        ("a day ahead", 60),
        ("a day back", 60),
        ("a day ahead", 3600),
        ("a day back", 3600),
    ],
)
def test_f46_a_key_rests_for_its_time_whatever_the_wall_clock_does(
    tmp_path: Path, provider: FakeProvider, jump: str, rest_s: int
) -> None:
    time_line = JumpingClock()
    with Gateway(tmp_path, openai=provider.origin, clock=time_line.clock) as gateway:
        first, second = gateway.add_keys("openai", 2)
        if rest_s == 60:
            provider.by_key({first: json_reply(OPENAI_RATE_LIMIT, 429, {"Retry-After": "60"})})
            for _ in range(3):
                assert gateway.post(PATH, canned.CHAT_REQUEST).status == 200
        else:
            gateway.services.keys.bulk([gateway.key(first)["id"]], "Resting")
        assert rests_until(gateway.key(first)) is not None
        gateway.settle()

        time_line.wall_jump_s = JUMPS[jump]
        gateway.services.keys.refresh()
        provider.by_key({first: json_reply(canned.chat())})
        before = len(provider.received)
        for _ in range(4):
            assert gateway.post(PATH, canned.CHAT_REQUEST).status == 200
        assert set(provider.keys[before:]) == {second}
        assert rests_until(gateway.key(first)) - time_line.clock.wall() == pytest.approx(rest_s, abs=5)

        time_line.passed_s += rest_s + 1
        assert wait_until(lambda: rests_until(gateway.key(first)) is None)
        before = len(provider.received)
        for _ in range(4):
            assert gateway.post(PATH, canned.CHAT_REQUEST).status == 200
        assert first in provider.keys[before:]
        assert all(row["duration_ms"] >= 0 for row in gateway.records())
        assert {row["outcome"] for row in gateway.records()} == {"success"}


@pytest.mark.parametrize("jump_s", JUMPS.values(), ids=JUMPS)
def test_f46_limits_and_waits_stay_sane_when_the_wall_clock_jumps(
    tmp_path: Path, provider: FakeProvider, jump_s: float
) -> None:
    time_line = JumpingClock()
    limits = {"enable_rate_limiting": True, "requests_per_minute": 3, "burst_allowance": 0}
    with Gateway(tmp_path, openai=provider.origin, clock=time_line.clock, settings=limits) as gateway:
        (only,) = gateway.add_keys("openai", 1)
        statuses = [gateway.post(PATH, canned.CHAT_REQUEST) for _ in range(4)]
        assert [answer.status for answer in statuses] == [200, 200, 200, 429]
        time_line.wall_jump_s = jump_s

        answer = gateway.post(PATH, canned.CHAT_REQUEST)

        if answer.status == 429:
            assert 1 <= int(answer.headers["retry-after"]) <= 60
            time_line.passed_s += 61
            assert gateway.post(PATH, canned.CHAT_REQUEST).status == 200
        assert gateway.get("/middleware/api/global-stats").status == 200
        assert gateway.get("/readyz").status == 200


def test_f46_a_retry_after_in_the_past_is_no_rest_for_years(tmp_path: Path, provider: FakeProvider) -> None:
    past = json_reply(OPENAI_RATE_LIMIT, 429, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"})
    with Gateway(tmp_path, openai=provider.origin) as gateway:
        (only,) = gateway.add_keys("openai", 1)
        provider.by_key({only: past})

        answer = gateway.post(PATH, canned.CHAT_REQUEST)

        assert answer.status == 429
        assert 1 <= int(answer.headers["retry-after"]) <= 60


# -- F40, F47: threads, files, addresses ------------------------------------------------------------------


@pytest.mark.parametrize("driver", ["threads"], indirect=True)  # on the loop a stream holds no thread
def test_f40_streams_leave_threads_for_the_dashboard(tmp_path: Path, provider: FakeProvider) -> None:
    go_on = threading.Event()
    provider.default(held(go_on))
    environ = served_by(provider, THREADS="16")
    with Server(tmp_path, environ=environ) as server, streams(server, 12) as clients:
        took = []
        for _ in range(40):
            started = time.monotonic()
            assert server.get("/middleware/api/keys").status == 200
            assert server.get("/readyz").status == 200
            took.append(time.monotonic() - started)
        refused = [server.post(PATH, STREAMED) for _ in range(3)]
        go_on.set()
        ends = [client.rest() for client in clients]

        assert sorted(took)[37] < 1.0
        assert [(answer.status, answer.json["error"]["code"]) for answer in refused] == [(503, "overloaded")] * 3
        assert all(complete and CHAT.is_complete(CHAT.read(body)) for body, complete in ends)
        provider.default(json_reply(canned.chat()))
        assert wait_until(lambda: ask(server) == 200)
        assert wait_until(lambda: len(server.outcomes()) >= 16)
        assert sorted(set(server.outcomes())) == ["refused", "success"]


def test_f47_beyond_its_connections_the_server_refuses_and_recovers(tmp_path: Path, provider: FakeProvider) -> None:
    go_on = threading.Event()
    provider.default(held(go_on))
    with Server(tmp_path, environ=served_by(provider), open_files=160) as server:
        (worker,) = server.workers
        with streams(server, 18) as clients:
            crowd = [server.raw() for _ in range(30)]
            for client in crowd:
                client.post(PATH, STREAMED)
            answers = [status_of(client) for client in crowd]
            assert answers.count(503) >= 20
            for client in crowd:
                client.close()
            go_on.set()
            assert all(complete for _, complete in (client.rest() for client in clients))

        provider.default(json_reply(canned.chat()))
        assert wait_until(lambda: try_to_ask(server) == 200)
        assert {ask(server) for _ in range(10)} == {200}
        assert server.workers == [worker]
        assert "Traceback" not in server.log()


@pytest.mark.parametrize("driver", ["loop"], indirect=True)
def test_f40_many_streams_leave_the_dashboard_quick(tmp_path: Path, provider: FakeProvider) -> None:
    go_on = threading.Event()
    provider.default(held(go_on))
    with Server(tmp_path, environ=served_by(provider, THREADS="4")) as server, streams(server, 250) as clients:
        took = []
        for _ in range(40):
            started = time.monotonic()
            assert server.get("/middleware/api/keys").status == 200
            took.append(time.monotonic() - started)
        go_on.set()
        ends = [client.rest() for client in clients]

    assert sorted(took)[37] < 1.0
    assert all(complete and CHAT.is_complete(CHAT.read(body)) for body, complete in ends)


@pytest.mark.parametrize("driver", ["loop"], indirect=True)
def test_f47_idle_connections_make_room_for_new_ones(tmp_path: Path, provider: FakeProvider) -> None:
    with Server(tmp_path, environ=served_by(provider), open_files=160) as server:
        idle = [server.raw() for _ in range(20)]
        threading.Event().wait(1.1)  # before that they might be about to ask
        idle += [server.raw() for _ in range(10)]
        assert wait_until(lambda: try_to_ask(server) == 200)
        idle[0].socket.settimeout(5.0)
        assert idle[0].socket.recv(1) == b""
        for client in idle:
            client.close()


def test_f47_without_a_free_descriptor_the_server_refuses_and_recovers(tmp_path: Path, provider: FakeProvider) -> None:
    with Server(tmp_path, environ=served_by(provider)) as server:
        (worker,) = server.workers
        assert ask(server) == 200
        soft, hard = resource.prlimit(worker, resource.RLIMIT_NOFILE)
        used = len(os.listdir(f"/proc/{worker}/fd"))
        resource.prlimit(worker, resource.RLIMIT_NOFILE, (used + 4, hard))
        crowd = [server.raw() for _ in range(20)]
        for client in crowd:
            client.post(PATH, STREAMED)
        answers = [status_of(client) for client in crowd]
        resource.prlimit(worker, resource.RLIMIT_NOFILE, (soft, hard))
        for client in crowd:
            client.close()

        assert set(answers) <= {200, 503, 0}
        assert answers.count(503) >= 1
        assert wait_until(lambda: try_to_ask(server) == 200)
        assert {ask(server) for _ in range(10)} == {200}
        assert server.workers == [worker]
        assert [row["status"] for row in server.get("/middleware/api/keys").json[:2]] == ["Healthy", "Healthy"]


def status_of(client: RawClient) -> int:
    """The status of the answer; 0 where the connection was closed without one, or nothing came."""
    client.socket.settimeout(3.0)
    try:
        return client.head()[0]
    except (EOFError, ConnectionError, TimeoutError):
        return 0


UNREACHABLE_IPV6 = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("2001:db8::1", 443, 0, 0))


def test_f47_an_unreachable_ipv6_address_gives_way_to_ipv4(
    tmp_path: Path, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = socket.getaddrinfo

    def both(host: str, port: int, *more: Any, **named: Any) -> list[Any]:
        if host != "two-families.test":
            return found(host, port, *more, **named)
        return [UNREACHABLE_IPV6, (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    origin = provider.origin.replace("127.0.0.1", "two-families.test")
    with Gateway(tmp_path, openai=origin) as gateway:
        gateway.add_keys("openai", 1)

        answer = gateway.post(PATH, canned.CHAT_REQUEST)

        assert answer.status == 200
        assert answer.headers["x-middleware-attempts"] == "1"


def test_f47_an_address_that_changes_is_looked_up_again(
    tmp_path: Path, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, ports = socket.getaddrinfo, [provider.port]

    def moving(host: str, port: int, *more: Any, **named: Any) -> list[Any]:
        if host != "moving.test":
            return found(host, port, *more, **named)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", ports[-1]))]

    monkeypatch.setattr(socket, "getaddrinfo", moving)
    with FakeProvider() as second, Gateway(tmp_path, openai="http://moving.test:8080") as gateway:
        second.default(json_reply(canned.chat()))
        gateway.add_keys("openai", 2)
        assert gateway.post(PATH, canned.CHAT_REQUEST).status == 200
        ports.append(second.port)
        provider.stop()

        assert gateway.post(PATH, canned.CHAT_REQUEST).status == 200
        assert len(second.received) == 1
