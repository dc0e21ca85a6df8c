"""The table that the workers of one master share."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from app.shared import SharedTable, State

NOW = 1_000_000.0
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "shared"


def add_one(state: State) -> tuple[State, float]:
    return (state[0] + 1, 0.0, 0.0), state[0] + 1


def run(script: str, path: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", f"from app.shared import SharedTable\n{script}", str(path)],
        cwd=ROOT,
    )


def test_a_lease_is_held_by_one_until_it_is_given_back_or_ends(path):
    first, second = SharedTable(path), SharedTable(path)

    assert first.try_lease("probe", 60.0, NOW)
    assert not second.try_lease("probe", 60.0, NOW + 59.0)
    assert second.try_lease("another", 60.0, NOW)
    first.release_lease("probe")
    assert second.try_lease("probe", 60.0, NOW + 59.0)
    assert first.try_lease("probe", 60.0, NOW + 120.0)


def test_a_lease_that_another_worker_took_over_is_not_given_back(path):
    first, second = SharedTable(path), SharedTable(path)
    first.try_lease("probe", 60.0, NOW)
    second.try_lease("probe", 60.0, NOW + 61.0)

    first.release_lease("probe")

    assert not first.try_lease("probe", 60.0, NOW + 62.0)


def test_a_lease_from_before_the_clock_was_set_back_does_not_last_for_ever(path):
    table = SharedTable(path)
    table.try_lease("probe", 60.0, NOW + 86400.0)

    assert table.try_lease("probe", 60.0, NOW)


def test_a_lease_ends_although_its_holder_was_killed(path):
    table = SharedTable(path)
    script = "import os,sys\nSharedTable(sys.argv[1]).try_lease('probe', 60.0, 1000000.0)\nos.kill(os.getpid(), 9)"
    assert run(script, path).wait() == -signal.SIGKILL

    assert not table.try_lease("probe", 60.0, NOW + 1.0)
    assert table.try_lease("probe", 60.0, NOW + 60.0)


def test_counters_are_exact_among_threads_and_processes(path):
    table = SharedTable(path)
    script = (
        "import sys\ntable = SharedTable(sys.argv[1])\n"
        "for _ in range(500): table.update('n', lambda s: ((s[0] + 1, 0.0, 0.0), None), 60.0, 1000000.0)"
    )
    others = [run(script, path) for _ in range(2)]
    threads = [
        threading.Thread(target=lambda: [table.update("n", add_one, 60.0, NOW) for _ in range(250)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [other.wait() for other in others] == [0, 0]

    assert table.update("n", add_one, 60.0, NOW) == 2001.0


def test_a_counter_is_forgotten_when_its_time_is_over(path):
    table = SharedTable(path)
    table.update("n", add_one, 60.0, NOW)

    assert table.update("n", add_one, 60.0, NOW + 59.0) == 2.0
    assert table.update("n", add_one, 60.0, NOW + 119.5) == 1.0


def test_counters_survive_when_the_file_is_opened_again(path):
    table = SharedTable(path)
    table.update("n", add_one, 60.0, NOW)
    table.close()

    assert SharedTable(path).update("n", add_one, 60.0, NOW) == 2.0
    assert path.stat().st_mode & 0o777 == 0o600


def test_more_names_than_places_push_out_the_ones_that_end_first(path):
    table = SharedTable(path)
    for number in range(20_000):
        table.update(f"client-{number}", add_one, 60.0, NOW + number / 1000)

    assert table.update("client-19999", add_one, 60.0, NOW + 20.0) == 2.0


def test_a_file_of_something_else_is_made_anew(path):
    path.parent.mkdir()
    path.write_bytes(b"nonsense" * 1000)

    assert SharedTable(path).update("n", add_one, 60.0, NOW) == 1.0


def test_requests_in_flight_are_limited_over_all_workers(path):
    first, second = SharedTable(path), SharedTable(path)

    assert [first.enter(3), second.enter(3), first.enter(3), second.enter(3)] == [True, True, True, False]
    first.leave()
    assert second.enter(3)
    assert first.in_flight() == 3


def test_requests_of_a_killed_worker_are_not_counted_for_ever(path):
    table = SharedTable(path)
    script = (
        "import os,sys\ntable = SharedTable(sys.argv[1])\nfor _ in range(3): table.enter(3)\nos.kill(os.getpid(), 9)"
    )
    worker = run(script, path)
    worker.wait()

    assert table.enter(3)
    assert table.in_flight() == 1


def test_a_forked_worker_has_a_lock_and_a_place_of_its_own(path):
    table = SharedTable(path)
    table.enter(10)
    child = os.fork()
    if child == 0:
        entered = table.enter(10)
        for _ in range(300):
            table.update("n", add_one, 60.0, NOW)
        os._exit(0 if entered and table.in_flight() == 2 else 1)
    for _ in range(300):
        table.update("n", add_one, 60.0, NOW)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    assert table.update("n", add_one, 60.0, NOW) == 601.0
    assert table.in_flight() == 1
