"""Rows that were handed over are written once, whatever becomes of the process that writes them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from app.storage import row_link
from app.storage.database import Database, sqlite_library
from app.storage.row_link import Batch, RowLink
from app.storage.row_writer import ROW_COLUMNS
from app.storage.schema import meta, request_shapes, requests
from app.storage.writer import Writer

from .test_revision import eventually
from .test_writer import Locked

ROOT = Path(__file__).parents[2]
PROGRESS = sa.select(meta.c.name).where(meta.c.name.startswith("rows written"))


@dataclass(frozen=True, eq=False)
class AShape:
    id: int
    access: tuple[str, ...] = ('","head":"', '","status":', ',"answer":1', ',"caller":1,"in":', "}")

    def columns(self, seen_at: float) -> tuple[Any, ...]:
        return (self.id, "POST", "/v1", "", "", "m", None, None, None, False, 200, "success", "", "", "", seen_at)


SHAPES = [AShape(2**62 + number) for number in range(20)]


def a_batch(first: int, count: int = 10, *, shown: str = "", at: float = 1000.0) -> Batch:
    """Rows whose ids are the numbers from `first` on."""
    values: dict[str, Any] = dict.fromkeys(ROW_COLUMNS, (0,) * count)
    values |= {"request_id": tuple(f"r{first + number}" for number in range(count)), "key_id": (None,) * count}
    shapes = [SHAPES[(first + number) % len(SHAPES)] for number in range(count)]
    return Batch(shapes, [values[name] for name in ROW_COLUMNS], at, shown)


def ids(first: int, count: int) -> list[str]:
    return [f"r{number}" for number in range(first, first + count)]


def written(database: Database) -> list[str]:
    with database.read() as connection:
        return list(connection.scalars(sa.select(requests.c.request_id).order_by(requests.c.id)))


def no_fallback(batch: Batch) -> None:
    raise AssertionError("the row writer was there")


@pytest.fixture
def make(database: Database) -> Iterator[Callable[..., RowLink]]:
    made: list[RowLink] = []

    def make(fallback: Callable[[Batch], None] = no_fallback, **options: Any) -> RowLink:
        assert database.path is not None
        made.append(RowLink(database.path, fallback, **options))
        made[-1].start()
        return made[-1]

    yield make
    for link in made:
        if link.process_id is not None:
            os.kill(link.process_id, signal.SIGCONT)
        link.close(10)


def process_of(link: RowLink) -> int:
    assert eventually(lambda: link.process_id is not None)
    assert link.process_id is not None
    return link.process_id


# -- the usual ---------------------------------------------------------------------------------------


def test_rows_are_written_in_order_with_their_shapes(database, make):
    link = make()
    for first in range(0, 3000, 10):
        link.send(a_batch(first))

    assert link.flush(20)
    assert written(database) == ids(0, 3000)
    assert (link.waiting, link.dropped, link.healthy) == (0, 0, True)
    with database.read() as connection:
        shapes = connection.execute(sa.select(request_shapes.c.id, request_shapes.c.seen_at)).all()
        found = connection.execute(sa.select(requests.c.request_id, requests.c.shape_id)).all()
    assert sorted(shapes) == [(shape.id, 1000.0) for shape in SHAPES]
    assert all(shape_id == SHAPES[int(name[1:]) % len(SHAPES)].id for name, shape_id in found)


def test_what_is_sent_before_the_process_runs_is_not_lost(database, make):
    link = make()
    link.send(a_batch(0))

    assert link.flush(20)
    assert written(database) == ids(0, 10)


def test_a_shape_is_told_again_when_its_time_is_over(database, make):
    link = make(seen_every_s=100)
    for at in (1000.0, 1050.0, 1101.0):
        link.send(a_batch(0, at=at))
    assert link.flush(20)

    with database.read() as connection:
        assert set(connection.scalars(sa.select(request_shapes.c.seen_at))) == {1101.0}


def test_more_shapes_than_a_process_remembers_are_told_anew(database, make, monkeypatch):
    monkeypatch.setattr(row_link, "_MOST_TOLD", 7)
    link = make()
    for first in range(0, 100, 5):
        link.send(a_batch(first, 5))

    assert link.flush(20)
    assert written(database) == ids(0, 100)
    with database.read() as connection:
        joined = sa.select(sa.func.count()).select_from(
            requests.join(request_shapes, request_shapes.c.id == requests.c.shape_id)
        )
        assert connection.scalar(joined) == 100


def test_the_process_is_small_and_gives_way(make):
    link = make()
    link.send(a_batch(0))
    assert link.flush(20)

    process = process_of(link)
    sizes = Path(f"/proc/{process}/smaps_rollup").read_text()
    [share_kib] = [int(line.split()[1]) for line in sizes.splitlines() if line.startswith("Pss:")]
    assert share_kib < 15 * 1024
    assert os.getpriority(os.PRIO_PROCESS, process) > os.getpriority(os.PRIO_PROCESS, 0)


def test_the_process_is_given_no_secrets(make, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEYS", "sk-live-secret")
    process = process_of(make())

    assert b"sk-live-secret" not in Path(f"/proc/{process}/environ").read_bytes()


def test_the_end_leaves_no_process_and_no_notes(database, make):
    link = make()
    link.send(a_batch(0))
    process = process_of(link)

    assert link.close(20)

    assert not Path(f"/proc/{process}").exists()
    with database.read() as connection:
        assert connection.scalars(PROGRESS).all() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_signals_are_for_the_worker(database, make, number):
    link = make()
    link.send(a_batch(0))
    assert link.flush(20)

    process = process_of(link)
    os.kill(process, number)
    link.send(a_batch(10))

    assert link.flush(20)
    assert written(database) == ids(0, 20)
    assert link.process_id == process


# -- access lines ------------------------------------------------------------------------------------


def test_access_lines_come_once_although_the_process_dies(database, make, capfd):
    link = make()
    for first in range(0, 400, 10):
        link.send(a_batch(first, shown="NOW"))
        if first == 200:
            assert link.flush(20)
            os.kill(process_of(link), signal.SIGKILL)
    assert link.flush(20)

    lines = capfd.readouterr().err.splitlines()
    assert lines[0] == '{"time":"NOW","head":"r0","status":0,"first_byte_ms":0,"answer":1,"caller":1,"in":0,' + (
        '"response_bytes":0,"input_tokens":0,"output_tokens":0}'
    )
    assert [line.split('"head":"')[1].split('"')[0] for line in lines if "head" in line] == ids(0, 400)


# -- death -------------------------------------------------------------------------------------------


def test_nothing_is_lost_or_written_twice_when_the_process_is_killed_again_and_again(database, make):
    link = make()
    first = 0
    for _ in range(4):
        killed = process_of(link)
        for _ in range(60):
            link.send(a_batch(first))
            first += 10
        os.kill(killed, signal.SIGKILL)
        for _ in range(20):
            link.send(a_batch(first))
            first += 10
        assert eventually(lambda: link.process_id not in (None, killed))  # noqa: B023 - used at once

    assert link.flush(20)
    assert written(database) == ids(0, first)
    assert link.dropped == 0


def test_a_batch_that_was_committed_but_not_acknowledged_is_not_written_again(database, make):
    """The moment between the commit and its acknowledgement: the notes say how far the predecessor came."""
    link = make()
    link.send(a_batch(0))
    assert link.flush(20)
    os.kill(process_of(link), signal.SIGSTOP)
    link.send(a_batch(10))
    link.send(a_batch(20))
    # As if the process had written the first of the two.
    with database.transaction() as connection:
        for name in ids(10, 10):
            row = {"shape_id": SHAPES[0].id, "request_id": name, "started_at": 0}
            connection.execute(sa.insert(requests).values(row))
        connection.execute(
            sa.update(meta).where(meta.c.name.startswith("rows written")).values(value=bytes(7) + b"\2" + bytes(8))
        )
    os.kill(process_of(link), signal.SIGKILL)

    assert link.flush(20)
    assert written(database) == ids(0, 30)


def test_what_was_handed_over_is_written_although_the_worker_is_killed(tmp_path, database):
    program = (
        "import os, sys, signal; from pathlib import Path; from app.storage.row_link import RowLink;"
        "from tests.storage.test_row_link import a_batch, process_of;"
        "link = RowLink(Path(sys.argv[1]), print); link.start(); print(process_of(link), flush=True);"
        "[link.send(a_batch(first)) for first in range(0, 500, 10)];"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    worker = subprocess.run(
        [sys.executable, "-c", program, str(database.path)], cwd=ROOT, stdout=subprocess.PIPE, timeout=30, check=False
    )

    process = int(worker.stdout.split()[0])
    assert worker.returncode == -signal.SIGKILL
    assert eventually(lambda: not Path(f"/proc/{process}").exists(), 20)
    assert written(database) == ids(0, 500)


# -- trouble -----------------------------------------------------------------------------------------


def test_a_locked_database_is_waited_for_and_told(database, make):
    link = make()
    link.send(a_batch(0))
    assert link.flush(20)

    with Locked(database):
        link.send(a_batch(10))
        assert eventually(lambda: not link.healthy, 10)
        assert not link.flush(0.05)
        assert link.waiting == 10

    assert link.flush(20)
    assert eventually(lambda: link.healthy)
    assert written(database) == ids(0, 20)


def test_sending_never_waits_for_a_process_that_does_not_read_and_the_newest_rows_go_beyond_the_bound(database, make):
    link = make(max_waiting=30_000)
    os.kill(process_of(link), signal.SIGSTOP)
    done = threading.Event()

    def send() -> None:
        for first in range(0, 40_000, 100):
            link.send(a_batch(first, 100))
        done.set()

    threading.Thread(target=send, daemon=True).start()
    assert done.wait(20)
    assert (link.waiting, link.dropped) == (30_000, 10_000)

    os.kill(process_of(link), signal.SIGCONT)
    assert link.flush(30)
    assert written(database) == ids(0, 30_000)
    assert link.waiting == 0


def test_crowding_grows_from_half_of_the_bound_to_the_bound_and_is_not_for_a_locked_database(database, make):
    link = make(max_waiting=1000)
    link.send(a_batch(0))
    assert link.flush(20)
    os.kill(process_of(link), signal.SIGSTOP)
    seen = []
    for first in range(0, 1000, 250):
        link.send(a_batch(first, 250))
        seen.append(link.crowding)
    assert seen == [0, 0, 0.5, 1]

    with Locked(database):
        os.kill(process_of(link), signal.SIGCONT)
        assert eventually(lambda: not link.healthy, 10)
        assert link.crowding == 0
    assert link.flush(20)


def test_a_row_that_the_database_refuses_is_counted_and_the_others_are_written(database, make):
    link = make()
    good = a_batch(0)
    names = tuple(None if number == 4 else name for number, name in enumerate(good.columns[0]))
    link.send(good._replace(columns=[names, *good.columns[1:]]))

    assert link.flush(20)
    assert written(database) == [name for name in ids(0, 10) if name != "r4"]
    assert eventually(lambda: link.dropped == 1)


@pytest.mark.parametrize("program", [("/nonexistent/python",), (sys.executable, "-c", "raise SystemExit(3)")])
def test_without_a_process_the_rows_go_another_way_in_order(make, monkeypatch, program):
    monkeypatch.setattr(row_link, "_FIRST_PAUSE_S", 0.001)
    taken: list[str] = []
    link = make(lambda batch: taken.extend(batch.columns[0]), program=program)
    link.send(a_batch(0))

    assert link.flush(20)
    assert not link.usable
    link.send(a_batch(10))
    assert taken == ids(0, 20)
    assert (link.healthy, link.waiting, link.dropped) == (True, 0, 0)


def test_a_close_that_may_not_wait_says_so_and_the_process_goes_on_alone(database, make):
    link = make()
    link.send(a_batch(0))
    assert link.flush(20)
    process = process_of(link)

    with Locked(database):
        link.send(a_batch(10))
        assert not link.close(0.2)
        assert Path(f"/proc/{process}").exists()

    assert eventually(lambda: written(database) == ids(0, 20), 20)
    assert eventually(lambda: not Path(f"/proc/{process}").exists(), 20)


def test_other_writers_get_their_turn_while_rows_pour_in(database, make):
    link = make(max_waiting=10**6)
    connection = sqlite_library().connect(database.path, timeout=1.0, isolation_level=None)
    stop = threading.Event()

    def pour() -> None:
        first = 0
        while not stop.is_set():
            if link.waiting < 50_000:
                link.send(a_batch(first, 1000))
                first += 1000
            stop.wait(0.001)

    thread = threading.Thread(target=pour)
    thread.start()
    try:
        assert eventually(lambda: link.waiting > 10_000, 20)
        for _ in range(10):
            connection.execute("BEGIN IMMEDIATE")  # raises when the lock was held for all of that time
            connection.execute("COMMIT")
    finally:
        stop.set()
        thread.join(10)
        connection.close()


# -- together with the writer ------------------------------------------------------------------------


def test_the_writer_speaks_for_both(database, make):
    link = make()
    writer = Writer(database)
    writer.accompany(link)
    os.kill(process_of(link), signal.SIGSTOP)
    link.send(a_batch(0))

    assert writer.waiting == 10
    assert not writer.flush(0.05)
    os.kill(process_of(link), signal.SIGCONT)
    assert writer.flush(20)

    with Locked(database):
        link.send(a_batch(10))
        assert eventually(lambda: not writer.healthy, 10)
    assert writer.flush(20)
    assert writer.close(20)
    assert (writer.waiting, writer.dropped) == (0, 0)
    assert written(database) == ids(0, 20)
