"""Workers notice changes that anybody made."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from app.storage import revision
from app.storage.database import Database
from app.storage.revision import RevisionPoller


def eventually(condition: Callable[[], bool], timeout_s: float = 5.0) -> bool:
    deadline = time.monotonic() + timeout_s
    tick = threading.Event()
    while not condition():
        if time.monotonic() > deadline:
            return False
        tick.wait(0.005)
    return True


def change(database: Database) -> None:
    with database.transaction() as connection:
        revision.bump(connection)


@pytest.fixture
def poller(database):
    poller = RevisionPoller(database, interval_s=0.02)
    yield poller
    poller.stop()


def test_every_bump_makes_the_number_grow(database):
    with database.read() as connection:
        before = revision.current(connection)
    change(database)
    change(database)
    with database.read() as connection:
        assert revision.current(connection) == before + 2


def test_a_rolled_back_change_is_no_change(database):
    def fail() -> None:
        with database.transaction() as connection:
            revision.bump(connection)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with database.read() as connection:
        assert revision.current(connection) == 0


def test_subscribers_are_called_once_at_the_start_and_after_each_change(database, poller):
    calls: list[str] = []
    threads: set[str] = set()
    polls = count_polls(database, poller)
    poller.subscribe(lambda: calls.append("first"))
    poller.subscribe(lambda: (calls.append("second"), threads.add(threading.current_thread().name)))
    poller.start()
    poller.start()

    assert eventually(lambda: len(calls) == 2)
    assert eventually(lambda: polls() > 3)
    assert calls == ["first", "second"]

    change(database)
    assert eventually(lambda: len(calls) == 4)
    assert threads == {"revision-poller"}


def count_polls(database: Database, poller: RevisionPoller) -> Callable[[], int]:
    """How often the poller has read the number."""
    seen = [0]
    number = database.number

    def counting(statement):
        seen[0] += 1
        return number(statement)

    database.number = counting  # type: ignore[method-assign]
    return lambda: seen[0]


def test_a_change_by_another_process_is_seen_within_a_quarter_second(database):
    seen = threading.Event()
    poller = RevisionPoller(database)
    poller.subscribe(seen.set)
    poller.start()
    elsewhere = Database(f"sqlite:///{database.path}")
    delays_s: list[float] = []
    for _ in range(5):
        assert seen.wait(5)
        seen.clear()
        started = time.monotonic()
        change(elsewhere)
        assert seen.wait(5)
        delays_s.append(time.monotonic() - started)
        seen.set()
    poller.stop()
    elsewhere.close()

    # The best of several, because the machine may be busy with something else.
    assert min(delays_s) < 0.25


def test_a_poke_polls_at_once(database):
    calls: list[int] = []
    poller = RevisionPoller(database, interval_s=60)
    poller.subscribe(lambda: calls.append(1))
    poller.start()
    assert eventually(lambda: len(calls) == 1)

    change(database)
    poller.poke()

    assert eventually(lambda: len(calls) == 2)
    poller.stop()


def test_a_failing_subscriber_is_called_again_and_does_not_stop_the_others(database, poller, caplog):
    failures = [ValueError(), ValueError()]
    calls: list[int] = []

    def fails_twice() -> None:
        if failures:
            raise failures.pop()
        calls.append(1)

    others: list[int] = []
    poller.subscribe(fails_twice)
    poller.subscribe(lambda: others.append(1))
    poller.start()

    assert eventually(lambda: calls == [1])
    assert len(others) == 3


def test_a_database_that_is_away_for_a_while_is_read_again(tmp_path):
    database = Database(f"sqlite:///{tmp_path}/data/keys.db")
    calls: list[int] = []
    poller = RevisionPoller(database, interval_s=0.02)
    poller.subscribe(lambda: calls.append(1))
    poller.start()
    poller.poke()
    database.migrate()

    assert eventually(lambda: calls == [1])
    poller.stop()
    database.close()


def test_stopping_ends_the_thread_and_starting_again_works(database, poller):
    calls: list[int] = []
    poller.subscribe(lambda: calls.append(1))
    poller.stop()
    poller.start()
    assert eventually(lambda: bool(calls))
    poller.stop()
    assert "revision-poller" not in {thread.name for thread in threading.enumerate()}

    poller.start()
    change(database)
    assert eventually(lambda: len(calls) == 2)
