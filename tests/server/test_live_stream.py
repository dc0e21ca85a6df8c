"""The live log as server-sent events, over real sockets and with each driver."""

from __future__ import annotations

import http.client
import json
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from app.admin.pages import line_stream
from app.live_log import MAX_SHOWN
from app.storage.schema import events
from tests import gateway as gateways
from tests.browser.people import PASSWORD
from tests.fake_provider import FakeProvider
from tests.gateway import Gateway
from tests.server.server import Server, wait_until

STREAM = "/middleware/logs/stream"
WAIT_S = 5.0
MESSAGE = {"model": "gpt-test", "messages": [{"role": "user", "content": "hi"}]}


class Viewer:
    """A browser that watches. `lines` and `other` collect what has been read so far."""

    def __init__(self, port: int, path: str = STREAM, headers: Mapping[str, str] | None = None) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
        self.connection.request("GET", path, headers=dict(headers or {}))
        self.socket = self.connection.sock
        self.answer = self.connection.getresponse()
        self.status = self.answer.status
        self.lines: list[dict[str, Any]] = []
        self.ids: list[int] = []
        self.other: list[str] = []
        self._name = ""

    def __enter__(self) -> Viewer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.answer.close()
        self.connection.close()

    def read(self) -> bool:
        """One line of the answer; False at its end."""
        raw = self.answer.readline()
        name, _, value = raw.decode().rstrip("\n").partition(": ")
        if raw.startswith(b":"):
            self.other.append(raw.decode().strip())
        elif name == "id":
            self.ids.append(int(value))
        elif name == "data" and not self._name:
            self.lines.append(json.loads(value))
        elif name:
            self.other.append(raw.decode().strip())
        self._name = value if name == "event" else self._name if name else ""
        return bool(raw)

    def until(self, text: str) -> dict[str, Any]:
        """Read up to a line of the log with this text."""
        while not (self.lines and text in self.lines[-1]["msg"]):
            assert self.read(), f"the stream ended before {text!r}"
        return self.lines[-1]

    def to_the_end(self) -> None:
        while self.read():
            pass

    @property
    def last_id(self) -> str:
        return str(self.lines[-1]["id"])


@pytest.fixture(params=["threads", "loop"])
def gateway(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    monkeypatch.setattr(gateways, "DRIVER", request.param)
    with Gateway(tmp_path) as running:
        yield running


def tell(gateway: Gateway, *messages: str) -> None:
    """Write lines, and wait until they are in the table."""
    for message in messages:
        gateway.services.usage.live_log.add(message, "green")
    gateway.settle()


def nobody_watches(gateway: Gateway) -> bool:
    return wait_until(lambda: gateway.services.live_feed.viewers == 0, WAIT_S)


def test_lines_come_as_events_whose_ids_are_those_of_their_rows(gateway: Gateway) -> None:
    with Viewer(gateway.port) as viewer:
        assert viewer.answer.headers["Content-Type"].startswith("text/event-stream")
        assert viewer.answer.headers["Cache-Control"] == "no-store"
        tell(gateway, "first", 'second\ndata: {"injected"}\n\nid: 99999\r\n')
        line = viewer.until("second")
        assert [row["msg"] for row in viewer.lines[-2:-1]] == ["first"]
        assert set(line) == {"id", "time", "msg", "color"}
        assert viewer.ids == [row["id"] for row in viewer.lines]
        assert 99999 not in viewer.ids


def test_whoever_comes_back_misses_nothing_and_sees_nothing_twice(gateway: Gateway) -> None:
    with Viewer(gateway.port) as viewer:
        tell(gateway, "one", "two")
        viewer.until("two")
        last_id = viewer.last_id
    tell(gateway, "three", "four")
    with Viewer(gateway.port, headers={"Last-Event-ID": last_id}) as viewer:
        viewer.until("four")
        assert [row["msg"] for row in viewer.lines] == ["three", "four"]
        tell(gateway, "five")
        viewer.until("five")
        assert [row["msg"] for row in viewer.lines] == ["three", "four", "five"]
    # A page that was rendered before says in its address where it ends; the header counts for more.
    with Viewer(gateway.port, f"{STREAM}?after={last_id}") as viewer:
        viewer.until("five")
        assert [row["msg"] for row in viewer.lines] == ["three", "four", "five"]


def test_lines_that_are_gone_are_told(gateway: Gateway) -> None:
    tell(gateway, "old")
    with gateway.services.database.transaction() as connection:
        connection.execute(
            events.insert(), [{"at": 1.0, "color": "blue", "message": f"n{number}"} for number in range(10)]
        )
        connection.execute(events.delete().where(events.c.id <= 6))
    with Viewer(gateway.port, f"{STREAM}?after=1") as viewer:
        viewer.until("n9")
        assert viewer.ids == [7, 8, 9, 10, 11]
        assert [text for text in viewer.other if not text.startswith("retry")] == ["event: missing", "data: 5"]


def test_more_lines_than_are_kept_at_once_come_in_order(gateway: Gateway) -> None:
    with gateway.services.database.transaction() as connection:
        rows = [{"at": 1.0, "color": "blue", "message": f"n{number}"} for number in range(MAX_SHOWN + 100)]
        connection.execute(events.insert(), rows)
    with Viewer(gateway.port, f"{STREAM}?after=0") as viewer:
        viewer.until(f"n{MAX_SHOWN + 99}")
        assert viewer.ids == list(range(1, MAX_SHOWN + 101))


@pytest.mark.parametrize("after", ["99999999", "abc", "-1", "9" * 40, ""])
def test_a_place_that_does_not_exist_means_from_now_on(gateway: Gateway, after: str) -> None:
    tell(gateway, "before")
    with Viewer(gateway.port, f"{STREAM}?after={after}") as viewer:
        tell(gateway, "after")
        viewer.until("after")
        assert [row["msg"] for row in viewer.lines] == ["after"]


def test_a_silent_log_beats(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_stream, "BEAT_S", 0.05)
    with Viewer(gateway.port) as viewer:
        while ": beat" not in viewer.other:
            assert viewer.read()


@pytest.mark.parametrize("reset", [False, True])
def test_whoever_leaves_leaves_the_place(gateway: Gateway, reset: bool) -> None:
    viewer = Viewer(gateway.port)
    assert wait_until(lambda: gateway.services.live_feed.viewers == 1)
    if reset:
        linger = struct.pack("ii", 1, 0)
        viewer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    viewer.close()
    assert nobody_watches(gateway)
    assert wait_until(lambda: gateway.services.live_feed._thread is None), "nobody watches, but somebody looks"


def test_too_many_viewers_are_told_to_ask_instead_and_hold_nobody_up(gateway: Gateway) -> None:
    most = gateway.lifecycle.most_watching
    viewers = [Viewer(gateway.port) for _ in range(most)]
    try:
        assert {viewer.status for viewer in viewers} == {200}
        for _ in range(3):
            with Viewer(gateway.port) as refused:
                assert refused.status == 503
                assert refused.answer.headers["Retry-After"]
                assert json.loads(refused.answer.read())["code"] == "too_many_viewers"
        assert gateway.get("/middleware/api/logs?after_id=0").status == 200
        assert gateway.get("/middleware/logs").status == 200
        tell(gateway, "for all")
        for viewer in viewers:
            viewer.until("for all")
        viewers.pop().close()
        assert wait_until(lambda: gateway.services.live_feed.viewers == most - 1)
        with Viewer(gateway.port) as late:
            assert late.status == 200
    finally:
        for viewer in viewers:
            viewer.close()


def test_other_spellings_of_the_address_take_no_thread_of_the_administration(tmp_path: Path) -> None:
    with Gateway(tmp_path, driver="loop") as gateway:
        viewers = [Viewer(gateway.port, "/middleware/logs/strea%6D") for _ in range(gateway.lifecycle.most_watching)]
        try:
            assert gateway.get("/middleware/api/logs").status == 200
        finally:
            for viewer in viewers:
                viewer.close()


def test_asking_for_the_head_takes_no_place(gateway: Gateway) -> None:
    answer = gateway.request("HEAD", STREAM)
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert gateway.services.live_feed.viewers == 0


def test_the_end_of_the_session_ends_the_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_stream, "CHECK_S", 0.05)
    with Gateway(tmp_path, environ={"MIDDLEWARE_PASSWORD": PASSWORD}) as gateway:
        assert gateway.get(STREAM).status in (302, 303)
        token = gateway.post("/middleware/api/login", {"password": PASSWORD}).json["token"]
        headers = {"Authorization": f"Bearer {token}"}
        with Viewer(gateway.port, headers=headers) as viewer:
            assert viewer.status == 200
            tell(gateway, "while logged in")
            viewer.until("while logged in")
            assert gateway.request("POST", "/middleware/api/logout", headers=headers).status == 200
            viewer.to_the_end()
            assert viewer.other[-2:] == ["event: end", "data: session"]
        assert nobody_watches(gateway)


def test_a_failing_database_does_not_end_the_stream(gateway: Gateway) -> None:
    with Viewer(gateway.port) as viewer:
        tell(gateway, "before")
        viewer.until("before")
        with gateway.services.database.transaction() as connection:
            connection.exec_driver_sql("ALTER TABLE events RENAME TO elsewhere")
        assert wait_until(lambda: gateway.get("/middleware/api/logs").status == 503)
        with gateway.services.database.transaction() as connection:
            connection.exec_driver_sql("ALTER TABLE elsewhere RENAME TO events")
        tell(gateway, "after")
        viewer.until("after")


# -- as deployed -------------------------------------------------------------------------------------


def test_a_stopping_server_does_not_wait_for_viewers(tmp_path: Path, driver: str) -> None:
    with Server(tmp_path, environ={"GRACEFUL_TIMEOUT": "20"}) as server, Viewer(server.port) as viewer:
        assert viewer.read()
        began = time.monotonic()
        assert server.terminate() == 0
        assert time.monotonic() - began < 8
        viewer.to_the_end()


def test_few_threads_are_not_given_to_viewers(tmp_path: Path) -> None:
    environ = {"DRIVER": "threads", "THREADS": "8"}
    with Server(tmp_path, environ=environ) as server, Viewer(server.port) as first, Viewer(server.port) as second:
        assert (first.status, second.status) == (200, 503)


def test_the_lines_of_all_workers_are_seen_wherever_one_watches(tmp_path: Path, provider: FakeProvider) -> None:
    environ = {"WEB_CONCURRENCY": "2", "OPENAI_BASE_URL": provider.origin, "OPENAI_API_KEYS": "sk-test-openai-key-0001"}
    with Server(tmp_path, environ=environ) as server:
        # New connections go to either worker.
        viewers = [Viewer(server.port) for _ in range(4)]
        headers = {"Content-Type": "application/json", "Connection": "close"}
        ids = [f"request-{number:04d}" for number in range(12)]
        for request_id in ids:
            answer = server.request(
                "POST", "/v1/chat/completions", json_body=MESSAGE, headers={**headers, "X-Request-ID": request_id}
            )
            assert answer.status == 200, answer.body
        for viewer in viewers:
            while {f"({request_id})" for request_id in ids} - {row["msg"].split()[-1] for row in viewer.lines}:
                assert viewer.read()
            assert viewer.ids == sorted(set(viewer.ids))
            viewer.close()
