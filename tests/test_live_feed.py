from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from app.clock import Clock
from app.live_feed import GAP_S, LiveFeed
from app.live_log import Line
from tests.server.server import wait_until


class Table:
    """Lines as several writers put them there. `now` is what the clock shows."""

    def __init__(self) -> None:
        self.rows: dict[int, Line] = {}
        self.looks = 0
        self.now = 0.0

    def put(self, *ids: int) -> None:
        self.rows |= {number: Line(number, 1.0, "blue", f"n{number}") for number in ids}

    def newest_id(self) -> int:
        self.looks += 1
        return max(self.rows, default=0)

    def after(self, line_id: int, limit: int) -> list[Line]:
        return [self.rows[number] for number in sorted(self.rows) if number > line_id][:limit]


@pytest.fixture
def table() -> Table:
    return Table()


@pytest.fixture
def feed(table: Table) -> Iterator[LiveFeed]:
    feed = LiveFeed(table, Clock(monotonic=lambda: table.now), every_s=0.001)  # type: ignore[arg-type]
    yield feed
    feed.close()


def ids(lines: list[Line]) -> list[int]:
    return [line.id for line in lines]


def looked_again(table: Table) -> bool:
    seen = table.looks
    return wait_until(lambda: table.looks > seen + 2)


def test_one_thread_looks_for_all_and_only_while_somebody_watches(feed: LiveFeed, table: Table) -> None:
    viewers = [feed.watch(None, 9) for _ in range(5)]
    assert [thread.name for thread in threading.enumerate()].count("live-feed") == 1
    for viewer in viewers:
        assert viewer is not None
        viewer.close()
        viewer.close()
    assert wait_until(lambda: "live-feed" not in [thread.name for thread in threading.enumerate()])
    table.put(1, 2)
    late = feed.watch(0, 9)
    assert late is not None
    assert ids(late.lines(5.0)) == [1, 2]


def test_a_line_that_is_committed_late_is_waited_for(feed: LiveFeed, table: Table) -> None:
    """Two workers on PostgreSQL: the one that took its id first may commit last."""
    viewer = feed.watch(None, 9)
    assert viewer is not None
    assert viewer.lines(0.05) == []
    table.put(1, 3)
    assert ids(viewer.lines(5.0)) == [1]
    assert looked_again(table)
    assert viewer.lines(0.0) == []
    table.put(2)
    assert ids(viewer.lines(5.0)) == [2, 3]


def test_an_id_that_nobody_uses_is_passed_over(feed: LiveFeed, table: Table) -> None:
    viewer = feed.watch(None, 9)
    assert viewer is not None
    assert viewer.lines(0.05) == []
    table.put(5)
    assert looked_again(table)
    assert viewer.lines(0.0) == []
    table.now = GAP_S + 1
    assert ids(viewer.lines(5.0)) == [5]


def test_a_table_that_begins_anew_is_followed(feed: LiveFeed, table: Table) -> None:
    table.put(*range(1, 9))
    viewer = feed.watch(None, 9)
    assert viewer is not None
    assert wait_until(lambda: feed._newest == 8)
    table.rows.clear()
    assert wait_until(lambda: feed._newest == 0)
    table.put(1)
    assert ids(viewer.lines(5.0)) == [1]


def test_a_closed_feed_lets_everybody_go(feed: LiveFeed) -> None:
    viewer = feed.watch(None, 9)
    assert viewer is not None
    waited = threading.Thread(target=viewer.lines, args=(60.0,))
    waited.start()
    feed.close()
    waited.join(5.0)
    assert not waited.is_alive()
    assert feed.watch(None, 9) is None
