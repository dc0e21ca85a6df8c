"""What the request path hands over is written, in order, late by little, and lost only when it is counted."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa

from app.storage.database import Connection, Database
from app.storage.schema import daily_stats, events, keys, model_aliases
from app.storage.writer import Writer

from .test_revision import eventually


@pytest.fixture
def writer(database: Database) -> Iterator[Writer]:
    writer = Writer(database)
    yield writer
    writer.close(5)


def alias(name: str) -> Callable[[Connection], None]:
    """A job that inserts one row."""

    def job(connection: Connection) -> None:
        connection.execute(sa.insert(model_aliases).values(alias=name, target="m"))

    return job


def event(message: str) -> dict[str, object]:
    return {"at": 1.0, "message": message}


def aliases(database: Database) -> list[str]:
    with database.read() as connection:
        return list(connection.scalars(sa.select(model_aliases.c.alias).order_by(sa.text("rowid"))))


def messages(database: Database) -> list[str]:
    with database.read() as connection:
        return list(connection.scalars(sa.select(events.c.message).order_by(events.c.id)))


class Locked:
    """Holds the database's write lock from another connection."""

    def __init__(self, database: Database) -> None:
        self._connection = database.dedicated()

    def __enter__(self) -> None:
        self._transaction = self._connection.begin()

    def __exit__(self, *exception: object) -> None:
        self._transaction.rollback()
        self._connection.close()


def test_everything_is_written_by_itself_within_its_time(database, writer):
    started = time.monotonic()
    writer.urgent(alias("urgent"))
    writer.later(alias("later"))
    writer.add_row(events, event("row"))

    assert eventually(lambda: aliases(database) == ["urgent"] or len(aliases(database)) == 2)
    assert eventually(lambda: messages(database) == ["row"])
    assert aliases(database) == ["urgent", "later"]
    assert time.monotonic() - started < 1
    assert writer.healthy
    assert writer.dropped == 0


def test_an_urgent_job_does_not_wait_for_the_batch(database):
    writer = Writer(database, max_delay_s=60)
    writer.later(alias("later"))
    writer.urgent(alias("urgent"))

    assert eventually(lambda: aliases(database) == ["urgent"])
    assert writer.waiting == 1
    assert writer.flush(5)
    assert aliases(database) == ["urgent", "later"]
    writer.close(5)


def test_urgent_jobs_run_before_a_long_queue_of_others(database):
    writer = Writer(database, max_delay_s=60)
    order: list[str] = []
    with Locked(database):
        for number in range(1000):
            writer.later(lambda connection, number=number: order.append(f"later {number}"))
        writer.urgent(lambda connection: order.append("urgent 1"))
        writer.urgent(lambda connection: order.append("urgent 2"))
    assert writer.flush(10)

    assert order[:2] == ["urgent 1", "urgent 2"]
    assert order[2:] == [f"later {number}" for number in range(1000)]
    writer.close(5)


def test_an_urgent_job_overtakes_batches_that_are_still_waiting(database, writer):
    order: list[str] = []
    for number in range(2000):
        writer.later(lambda connection, number=number: order.append("later"))
    writer.later(lambda connection: writer.urgent(lambda connection: order.append("urgent")))
    for number in range(2000):
        writer.later(lambda connection, number=number: order.append("later"))
    assert writer.flush(10)
    assert eventually(lambda: "urgent" in order)

    assert order.index("urgent") < 2000 + 256 + 1


def test_rows_of_several_tables_and_shapes_are_inserted(database, writer):
    writer.urgent(lambda c: c.execute(sa.insert(keys).values(id=7, key_value="x", key_hmac="h")))
    for number in range(600):
        writer.add_row(events, event(f"{number}"))
    writer.add_row(events, {"at": 2.5, "color": "red", "message": "with a colour"})
    writer.add_row(daily_stats, {"key_id": 7, "date": "2026-01-01", "requests": 3})
    assert writer.flush(10)

    assert len(messages(database)) == 601
    assert messages(database)[:600] == [str(number) for number in range(600)]
    with database.read() as connection:
        assert connection.execute(sa.select(daily_stats.c.requests, daily_stats.c.errors)).one() == (3, 0)
        assert connection.execute(sa.select(events.c.color).where(events.c.at == 2.5)).scalar() == "red"


def test_while_the_database_is_locked_everything_waits_and_is_written_afterwards(database, caplog):
    writer = Writer(database, max_delay_s=0.01)
    with Locked(database):
        writer.add_row(events, event("row"))
        writer.later(alias("later"))
        writer.urgent(alias("urgent"))
        assert eventually(lambda: not writer.healthy)
        assert not writer.flush(0.05)
        assert writer.waiting == 3

    assert writer.flush(5)
    assert aliases(database) == ["urgent", "later"]
    assert messages(database) == ["row"]
    assert writer.healthy
    assert writer.dropped == 0
    assert [record.levelno for record in caplog.records] == [logging.ERROR, logging.WARNING]
    writer.close(5)


def test_beyond_the_bound_rows_are_dropped_and_counted_but_urgent_jobs_never(database):
    writer = Writer(database, max_delay_s=0.01, max_waiting=10)
    with Locked(database):
        writer.urgent(alias("first"))
        assert eventually(lambda: not writer.healthy)
        for number in range(25):
            writer.add_row(events, event(str(number)))
        for number in range(25):
            writer.urgent(alias(str(number)))
        assert writer.dropped == 15

    assert writer.flush(5)
    assert messages(database) == [str(number) for number in range(10)]
    assert aliases(database) == ["first", *(str(number) for number in range(25))]
    assert writer.dropped == 15
    writer.close(5)


def test_a_job_that_fails_is_lost_alone(database, writer, caplog):
    def not_sql(connection: Connection) -> None:
        raise KeyError("a mistake in a job")

    writer.later(alias("a"))
    writer.later(alias("a"))
    writer.later(not_sql)
    writer.later(lambda connection: connection.exec_driver_sql("SELECT * FROM nowhere") and None)
    writer.add_row(events, event("one"))
    writer.add_row(daily_stats, {"key_id": 99, "date": "2026-01-01"})
    writer.add_row(events, {"no such column": 1})
    writer.add_row(events, event("two"))
    writer.later(alias("b"))
    assert writer.flush(5)

    assert aliases(database) == ["a", "b"]
    assert messages(database) == ["one", "two"]
    assert writer.dropped == 5
    assert writer.healthy
    assert len(caplog.records) == 5


def test_an_urgent_job_that_fails_is_lost_alone(database, writer):
    for name in ("a", "a", "b"):
        writer.urgent(alias(name))
    assert writer.flush(5)

    assert aliases(database) == ["a", "b"]
    assert writer.dropped == 1


class Told:
    """A job that counts its runs and notes what it is told afterwards, with what is stored then."""

    def __init__(self, database: Database, name: str, error: Exception | None = None) -> None:
        self.runs = 0
        self.told: list[tuple[bool, bool]] = []
        self._database, self._name, self._error = database, name, error

    def __call__(self, connection: Connection) -> None:
        self.runs += 1
        alias(self._name)(connection)
        if self._error is not None:
            raise self._error

    def settled(self, written: bool) -> None:
        self.told.append((written, self._name in aliases(self._database)))


def test_a_job_is_told_once_that_it_is_written_and_that_is_after_the_commit(database, writer):
    jobs = [Told(database, "urgent"), Told(database, "later")]
    writer.urgent(jobs[0])
    writer.later(jobs[1])
    assert writer.flush(5)

    assert [job.told for job in jobs] == [[(True, True)]] * 2


def test_a_job_whose_batch_fails_is_told_once(database, writer):
    good, bad = Told(database, "good"), Told(database, "bad", ValueError("a mistake in a job"))
    last = Told(database, "last")
    with Locked(database):
        for job in (alias("first"), good, bad, last):
            writer.urgent(job)
        assert eventually(lambda: not writer.healthy)
    assert writer.flush(5)

    assert good.runs > 1
    assert (good.told, bad.told, last.told) == ([(True, True)], [(False, False)], [(True, True)])


def test_a_job_is_told_nothing_while_its_commit_fails(database, writer):
    job = Told(database, "late")
    failures = [2]

    def fail(connection: Connection) -> None:
        if failures[0]:
            failures[0] -= 1
            raise sa.exc.OperationalError("COMMIT", {}, sqlite_busy())

    sa.event.listen(sa.Engine, "commit", fail)
    try:
        writer.urgent(job)
        assert writer.flush(5)
    finally:
        sa.event.remove(sa.Engine, "commit", fail)

    assert (job.runs, job.told) == (3, [(True, True)])


def sqlite_busy() -> Exception:
    error = Exception("database is locked")
    error.sqlite_errorcode = 5  # type: ignore[attr-defined]
    return error


def test_a_job_that_fails_when_it_is_told_stops_nobody(database, writer, caplog):
    class Broken(Told):
        def settled(self, written: bool) -> None:
            raise KeyError("a mistake")

    other = Told(database, "other")
    writer.urgent(Broken(database, "broken"))
    writer.urgent(other)
    assert writer.flush(5)

    assert other.told == [(True, True)]
    assert aliases(database) == ["broken", "other"]
    assert "could not be told" in caplog.text


def test_a_job_that_is_given_up_is_told_so(database):
    writer = Writer(database)
    job = Told(database, "lost")
    with Locked(database):
        writer.urgent(job)
        assert not writer.close(0.3)
        assert eventually(lambda: bool(job.told))

    assert job.told == [(False, False)]


def test_what_a_failed_job_wrote_before_is_rolled_back(database, writer):
    def half(connection: Connection) -> None:
        alias("half")(connection)
        raise ValueError

    writer.later(half)
    writer.later(alias("whole"))
    assert writer.flush(5)

    assert aliases(database) == ["whole"]


def test_the_log_tells_a_failure_without_the_values(database, writer, caplog):
    writer.later(lambda c: c.execute(sa.insert(keys).values(id=1, key_value="sk-secret", key_hmac="h")) and None)
    writer.later(lambda c: c.execute(sa.insert(keys).values(id=1, key_value="sk-secret", key_hmac="g")) and None)
    assert writer.flush(5)

    assert "UNIQUE" in caplog.text
    assert "sk-secret" not in caplog.text


def test_flush_waits_for_what_came_before_it_even_under_load(database, writer):
    stop = threading.Event()

    def load() -> None:
        while not stop.is_set():
            writer.add_row(events, event("load"))
            stop.wait(0.0005)

    thread = threading.Thread(target=load)
    thread.start()
    try:
        for number in range(5):
            writer.later(alias(str(number)))
            assert writer.flush(5)
            assert aliases(database)[-1] == str(number)
    finally:
        stop.set()
        thread.join()


def test_flush_of_nothing_returns_at_once(writer):
    assert writer.flush(0)


def test_many_threads_lose_nothing(database, writer):
    barrier = threading.Barrier(8)

    def hand_over(name: int) -> None:
        barrier.wait()
        for number in range(250):
            writer.add_row(events, event(f"{name}"))
            if number % 25 == 0:
                writer.urgent(alias(f"{name} {number}"))

    threads = [threading.Thread(target=hand_over, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert writer.flush(10)

    assert len(messages(database)) == 2000
    assert len(aliases(database)) == 80


def test_closing_writes_what_waits_and_ends_the_thread(database):
    writer = Writer(database, max_delay_s=60)
    writer.later(alias("last"))

    assert writer.close(5)
    assert aliases(database) == ["last"]
    assert "writer" not in {thread.name for thread in threading.enumerate()}
    assert writer.close(5)


def test_after_closing_nothing_raises_and_everything_is_counted(database):
    writer = Writer(database)
    assert writer.close(5)

    writer.later(alias("late"))
    writer.urgent(alias("late"))
    writer.add_row(events, event("late"))

    assert writer.dropped == 3
    assert writer.flush(0)
    assert aliases(database) == []


def test_closing_gives_up_in_time_when_the_database_stays_locked(database, caplog):
    writer = Writer(database)
    with Locked(database):
        writer.urgent(alias("lost"))
        writer.add_row(events, event("lost"))
        started = time.monotonic()
        assert not writer.close(0.3)
        assert time.monotonic() - started < 2
        assert eventually(lambda: "writer" not in {thread.name for thread in threading.enumerate()})

    assert writer.dropped == 2
    assert "2 entries could not be written in time" in caplog.text


def test_a_writer_waits_for_a_database_that_is_not_there_yet(tmp_path):
    database = Database(f"sqlite:///{tmp_path}/later/keys.db")
    writer = Writer(database, max_delay_s=0.01)
    writer.urgent(alias("early"))
    assert eventually(lambda: not writer.healthy)

    database.migrate()

    assert writer.flush(5)
    assert aliases(database) == ["early"]
    writer.close(5)
    database.close()


def test_handing_over_is_cheap(writer):
    row = event("x")
    started = time.thread_time()
    for _ in range(1000):
        writer.add_row(events, row)
    assert (time.thread_time() - started) / 1000 < 0.0001


def test_a_job_with_a_delay_waits_while_others_are_written(database):
    writer = Writer(database, max_delay_s=0.01)
    writer.later(alias("delayed"), delay_s=60)
    writer.later(alias("other"))

    assert eventually(lambda: aliases(database) == ["other"])
    assert eventually(lambda: writer.waiting == 1)
    assert writer.close(5)
    assert aliases(database) == ["other", "delayed"]


def test_a_job_whose_delay_is_over_is_written_by_itself(database, writer):
    writer.later(alias("first"), delay_s=0.05)
    writer.later(alias("last"), delay_s=0.2)

    assert eventually(lambda: aliases(database) == ["first", "last"])
    assert writer.waiting == 0


def test_flush_does_not_wait_for_a_delay(database, writer):
    writer.later(alias("delayed"), delay_s=60)

    assert writer.flush(5)
    assert aliases(database) == ["delayed"]


def test_a_delayed_job_survives_a_locked_database_and_is_counted_when_it_is_lost(database):
    writer = Writer(database, max_delay_s=0.01)
    with Locked(database):
        writer.later(alias("delayed"), delay_s=0.01)
        assert eventually(lambda: not writer.healthy)
        assert not writer.close(0.2)
        assert eventually(lambda: writer.dropped == 1)

    writer.later(alias("too late"), delay_s=1)
    assert writer.dropped == 2
