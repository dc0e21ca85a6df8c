"""
Faults of the process, against `python main.py` under gunicorn: signals with streams under way, kill -9 under load, one
of several workers that dies.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import urllib3
from pysqlite3 import dbapi2 as sqlite

from tests import canned
from tests.canned_errors import OPENAI_RATE_LIMIT
from tests.fake_provider import Behavior, FakeProvider, Received, json_reply, stream
from tests.server.load import (
    CHAT,
    KEYS,
    PATH,
    STREAMED,
    ask,
    held,
    key_named,
    rest_first_key,
    rests_until,
    served_by,
    streams,
    try_to_ask,
)
from tests.server.server import Server, wait_until

pytestmark = pytest.mark.usefixtures("driver")

# -- F41: the end -----------------------------------------------------------------------------------------


def test_f41_term_lets_streams_finish_ends_the_others_with_an_error_and_records_all(
    tmp_path: Path, provider: FakeProvider
) -> None:
    soon, never = threading.Event(), threading.Event()
    provider.answers(*[held(soon)] * 10, *[held(never)] * 10)
    with Server(tmp_path, environ=served_by(provider, GRACEFUL_TIMEOUT="2")) as server, streams(server, 20) as clients:
        started = time.monotonic()
        server.process.send_signal(signal.SIGTERM)

        assert wait_until(lambda: server.get("/readyz").status == 503)
        assert server.get("/readyz").json["draining"] is True
        assert server.get("/livez").status == 200
        refused = server.post(PATH, canned.CHAT_REQUEST)
        assert (refused.status, refused.json["error"]["code"]) == (503, "shutting_down")
        assert refused.headers["retry-after"] == "1"
        soon.set()
        ends = [client.rest() for client in clients]
        status = server.wait()

        whole = [CHAT.read(body) for body, complete in ends if complete]
        cut = [CHAT.read(body) for body, complete in ends if not complete]
        assert (len(whole), len(cut)) == (10, 10)
        assert all(CHAT.is_complete(read) for read in whole)
        assert all(read.error is not None and read.error["code"] == "shutting_down" for read in cut)
        assert all(read.finish == "" for read in cut)
        assert status == 0
        assert time.monotonic() - started < 2 + 8
        assert sorted(server.outcomes()) == sorted(["success"] * 10 + ["drained"] * 11)
        assert "Traceback" not in server.log()
    assert wait_until(lambda: provider.open_connections == 0)


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT], ids=["term", "int"])
def test_f41_a_second_signal_does_not_wait_for_the_grace(
    tmp_path: Path, provider: FakeProvider, second: signal.Signals
) -> None:
    provider.default(held(threading.Event()))
    with Server(tmp_path, environ=served_by(provider, GRACEFUL_TIMEOUT="60")) as server, streams(server, 3) as clients:
        server.process.send_signal(signal.SIGTERM)
        assert wait_until(lambda: server.get("/readyz").status == 503)
        assert server.process.poll() is None
        started = time.monotonic()

        assert server.terminate(second) == 0

        assert time.monotonic() - started < 8
        for client in clients:
            body, complete = client.rest()
            assert not complete
            assert CHAT.read(body).error is not None
        assert server.outcomes() == ["drained"] * 3


def test_f41_an_interrupt_ends_at_once_with_everything_recorded(tmp_path: Path, provider: FakeProvider) -> None:
    """Control-C: the terminal sends SIGINT to master and workers alike."""
    provider.default(held(threading.Event()))
    with Server(tmp_path, environ=served_by(provider, GRACEFUL_TIMEOUT="60")) as server, streams(server, 3):
        started = time.monotonic()
        os.killpg(server.process.pid, signal.SIGINT)

        assert server.wait() == 0

        assert time.monotonic() - started < 8
        assert server.outcomes() == ["drained"] * 3


def test_f41_callers_who_say_nothing_or_do_not_read_do_not_hold_up_the_end(
    tmp_path: Path, provider: FakeProvider
) -> None:
    big = CHAT.content[0].replace(b'"content": "', b'"content": "' + b"x" * 60_000)
    provider.default(stream([*CHAT.prologue, *[big] * 1000]))
    with Server(tmp_path, environ=served_by(provider, GRACEFUL_TIMEOUT="1")) as server:
        with server.raw(), server.raw() as half, server.raw() as deaf:
            half.send(b"POST / HTTP/1.1\r\nHost: local")
            deaf.post(PATH, STREAMED)
            deaf.head()
            assert wait_until(lambda: sent_at_rest(provider))
            started = time.monotonic()

            assert server.terminate() == 0

            assert time.monotonic() - started < 15
        assert len(server.outcomes()) == 1
        assert server.outcomes()[0] in ("drained", "client_gone")


def sent_at_rest(provider: FakeProvider) -> bool:
    sent = provider.sent_bytes(0)
    threading.Event().wait(0.3)
    return sent > 0 and provider.sent_bytes(0) == sent


# -- F42: kill -9 -----------------------------------------------------------------------------------------


def test_f42_kill_9_under_load_loses_nothing_that_was_acknowledged(tmp_path: Path, provider: FakeProvider) -> None:
    provider.by_key({KEYS[0]: json_reply(OPENAI_RATE_LIMIT, 429, {"Retry-After": "900"})})
    environ = served_by(provider)
    added: dict[int, str] = {}
    settings: list[int] = []
    stop = threading.Event()

    with Server(tmp_path, environ=environ) as server:
        until = rest_first_key(server)
        jobs = (
            lambda number: add_key(server, number, added),
            lambda number: change_setting(server, number, settings),
            lambda number: ask(server),
            lambda number: ask(server),
        )
        threads = [threading.Thread(target=repeat, args=(job, stop)) for job in jobs]
        for thread in threads:
            thread.start()
        assert wait_until(lambda: len(added) > 20 and len(settings) > 20, 20)
        server.kill()
        stop.set()
        for thread in threads:
            thread.join(10)

    recorded = len(outcomes_of(tmp_path))
    with Server(tmp_path, environ=environ) as server:
        assert server.query("PRAGMA integrity_check") == [("ok",)]
        names = dict(server.query("SELECT id, name FROM keys"))
        assert {key_id: names.get(key_id) for key_id in added} == added
        kept = server.get("/middleware/api/settings").json
        assert json.dumps(kept).find(str(settings[-1])) >= 0 or json.dumps(kept).find(str(settings[-1] + 1)) >= 0
        shown = rests_until(key_named(server, 1))
        assert datetime.fromisoformat(shown).timestamp() == pytest.approx(until, abs=2)
        assert "" not in server.outcomes()
        assert recorded > 0
        before = len(provider.received)
        assert [ask(server) for _ in range(5)] == [200] * 5
        assert KEYS[0] not in provider.keys[before:]


def repeat(job: Callable[[int], object], stop: threading.Event) -> None:
    number = 0
    with suppress(urllib3.exceptions.HTTPError, ConnectionError, json.JSONDecodeError):
        while not stop.is_set():
            number += 1
            job(number)


def add_key(server: Server, number: int, added: dict[int, str]) -> None:
    name = f"added {number}"
    answer = server.post(
        "/middleware/api/keys", {"key": f"sk-added-key-{number:06}", "name": name, "provider": "openai"}
    )
    assert answer.status == 201, answer.body
    added[answer.json["id"]] = name


def change_setting(server: Server, number: int, settings: list[int]) -> None:
    value = 1_000_000 + number
    answer = server.post("/middleware/api/settings", {"max_request_size": value})
    assert answer.status == 200, answer.body
    settings.append(value)


def outcomes_of(folder: Path) -> list[tuple[Any, ...]]:
    connection = sqlite.connect(str(folder / "keys.db"))
    try:
        return list(
            connection.execute(
                "SELECT outcome FROM requests JOIN request_shapes AS shape ON shape.id = shape_id"
            ).fetchall()
        )
    finally:
        connection.close()


def test_f42_a_worker_whose_master_was_killed_gives_the_port_free(tmp_path: Path, provider: FakeProvider) -> None:
    provider.default(held(threading.Event()))
    with Server(tmp_path, environ=served_by(provider, GRACEFUL_TIMEOUT="60")) as server, streams(server, 2) as clients:
        server.process.kill()

        for client in clients:
            body, complete = client.rest()
            assert not complete
            assert CHAT.read(body).error is not None
        assert wait_until(lambda: is_free(server.port), 10)
        assert server.outcomes() == ["drained"] * 2


def is_free(port: int) -> bool:
    try:
        with socket.create_server(("127.0.0.1", port)):
            return True
    except OSError:
        return False


# -- F43: several workers ---------------------------------------------------------------------------------


def connection_to(server: Server, worker: int) -> http.client.HTTPConnection:
    """A kept-alive connection that this worker serves: the others are stopped while it is accepted."""
    others = [pid for pid in server.workers if pid != worker]
    for pid in others:
        os.kill(pid, signal.SIGSTOP)
    try:
        # A signal takes a moment, in which it could still accept; and the one that is left may only just start.
        assert wait_until(lambda: all(is_stopped(pid) for pid in others))
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=25)
        assert over(connection, "GET", "/livez")[0] == 200
    finally:
        for pid in others:
            os.kill(pid, signal.SIGCONT)
    return connection


def is_stopped(pid: int) -> bool:
    threads = Path(f"/proc/{pid}/task").iterdir()
    return all((thread / "stat").read_text().rpartition(")")[2].split()[0] == "T" for thread in threads)


def over(connection: http.client.HTTPConnection, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
    data = None if body is None else json.dumps(body)
    connection.request(method, path, data, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_f43_a_key_that_one_worker_rests_rests_at_the_other_within_a_quarter_of_a_second(
    tmp_path: Path, provider: FakeProvider
) -> None:
    values = [f"sk-shared-key-{number:04}" for number in range(6)]
    limited: set[str] = set()

    def answer(request: Received) -> Behavior:
        if request.key in limited:
            return json_reply(OPENAI_RATE_LIMIT, 429, {"Retry-After": "900"})
        return json_reply(canned.chat())

    provider.default(answer)
    environ = served_by(provider, OPENAI_API_KEYS=",".join(values), WEB_CONCURRENCY="2", POOL_BRAKE_THRESHOLD="0")
    with Server(tmp_path, environ=environ) as server:
        one, other = (connection_to(server, worker) for worker in server.workers)
        delays = []
        for number, value in enumerate(values[:5], 1):
            limited.add(value)
            before = len(provider.received)
            while value not in provider.keys[before:]:
                assert over(one, "POST", PATH, canned.CHAT_REQUEST)[0] == 200
            rested_at = time.monotonic()
            while not rests_until(json.loads(over(other, "GET", f"/middleware/api/keys/{number}")[1])):
                assert time.monotonic() - rested_at < 2
            delays.append(time.monotonic() - rested_at)

            before = len(provider.received)
            assert {over(other, "POST", PATH, canned.CHAT_REQUEST)[0] for _ in range(6)} == {200}
            assert not limited & set(provider.keys[before:])
        one.close()
        other.close()

    # Two cores and other programs: one late reading is no fault.
    assert sorted(delays)[3] < 0.25


def test_f43_a_killed_worker_is_replaced_and_the_service_goes_on(tmp_path: Path, provider: FakeProvider) -> None:
    provider.by_key({KEYS[0]: json_reply(OPENAI_RATE_LIMIT, 429, {"Retry-After": "900"})})
    environ = served_by(provider, WEB_CONCURRENCY="2", MAX_CONCURRENT_REQUESTS="4")
    go_on = threading.Event()
    with Server(tmp_path, environ=environ) as server:
        rest_first_key(server)
        victim, survivor = server.workers
        provider.by_key({KEYS[1]: held(go_on)})
        kept = connection_to(server, survivor)
        broken = connection_to(server, victim)
        broken.request("POST", PATH, json.dumps(STREAMED), {"Content-Type": "application/json"})
        answer = broken.getresponse()
        os.kill(victim, signal.SIGKILL)

        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            answer.read()
        provider.by_key({KEYS[1]: json_reply(canned.chat())})
        assert over(kept, "POST", PATH, canned.CHAT_REQUEST)[0] == 200
        assert wait_until(lambda: len(server.workers) == 2 and victim not in server.workers)
        replacement = next(pid for pid in server.workers if pid != survivor)
        fresh = connection_to(server, replacement)

        assert rests_until(json.loads(over(fresh, "GET", "/middleware/api/keys/1")[1]))
        before = len(provider.received)
        # The slot of the request that died with its worker is free again: four fit, one after the other ten.
        assert {over(fresh, "POST", PATH, canned.CHAT_REQUEST)[0] for _ in range(10)} == {200}
        assert KEYS[0] not in provider.keys[before:]
        for connection in (kept, broken, fresh):
            connection.close()
        assert server.terminate() == 0


def test_f43_when_the_only_worker_is_killed_its_streams_are_cut_and_the_next_one_serves(
    tmp_path: Path, provider: FakeProvider
) -> None:
    provider.default(held(threading.Event()))
    with Server(tmp_path, environ=served_by(provider)) as server, streams(server, 5) as clients:
        (victim,) = server.workers
        os.kill(victim, signal.SIGKILL)

        assert [client.rest()[1] for client in clients] == [False] * 5
        assert wait_until(lambda: provider.open_connections == 0)
        provider.default(json_reply(canned.chat()))
        assert wait_until(lambda: try_to_ask(server) == 200)
        assert victim not in server.workers
        assert len(server.workers) == 1
        assert server.terminate() == 0
