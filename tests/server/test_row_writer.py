"""The event-loop worker has a row writer beside it, which comes, works and goes with it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests import canned
from tests.fake_provider import FakeProvider, json_reply
from tests.server.server import Server, wait_until

PATH = "/v1/chat/completions"


@pytest.fixture
def environ(provider: FakeProvider, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    provider.default(json_reply(canned.chat()))
    return {"OPENAI_BASE_URL": provider.origin, "OPENAI_API_KEYS": "sk-the-only-openai-key", "DRIVER": "loop"}


def children(process: int) -> list[int]:
    tasks = Path(f"/proc/{process}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def row_writers(server: Server) -> list[int]:
    return [child for worker in server.workers for child in children(worker)]


def ask(server: Server, count: int) -> None:
    for _ in range(count):
        assert server.request("POST", PATH, json_body=canned.CHAT_REQUEST).status == 200


def rows(server: Server) -> int:
    return int(server.query("SELECT count(*) FROM requests")[0][0])


def test_rows_come_by_themselves_and_the_end_leaves_no_process(tmp_path: Path, environ: dict[str, str]) -> None:
    with Server(tmp_path, environ=environ) as server:
        ask(server, 60)
        assert wait_until(lambda: rows(server) == 60, 5)
        [writer] = row_writers(server)

        assert server.terminate() == 0

        assert wait_until(lambda: not Path(f"/proc/{writer}").exists(), 5)
        assert server.outcomes() == ["success"] * 60
        lines = [line for line in server.log().splitlines() if '"logger":"access"' in line]
        assert len(lines) == 60


def test_a_row_writer_that_is_killed_is_replaced(tmp_path: Path, environ: dict[str, str]) -> None:
    with Server(tmp_path, environ=environ) as server:
        ask(server, 20)
        [killed] = row_writers(server)
        os.kill(killed, signal.SIGKILL)
        ask(server, 20)

        assert wait_until(lambda: row_writers(server) not in ([], [killed]), 10)
        assert wait_until(lambda: rows(server) == 40, 10)


def test_each_worker_has_one_and_a_killed_worker_takes_its_own_along(tmp_path: Path, environ: dict[str, str]) -> None:
    with Server(tmp_path, environ=environ | {"WEB_CONCURRENCY": "2"}) as server:
        assert wait_until(lambda: len(row_writers(server)) == 2, 10)
        worker = server.workers[0]
        [writer] = children(worker)

        os.kill(worker, signal.SIGKILL)

        assert wait_until(lambda: not Path(f"/proc/{writer}").exists(), 10)
        assert wait_until(lambda: len(row_writers(server)) == 2, 20)
        ask(server, 20)
        assert wait_until(lambda: rows(server) == 20, 10)


def test_the_thread_worker_does_without(tmp_path: Path, environ: dict[str, str]) -> None:
    with Server(tmp_path, environ=environ | {"DRIVER": "threads"}) as server:
        ask(server, 5)
        assert wait_until(lambda: rows(server) == 5, 5)
        assert row_writers(server) == []
