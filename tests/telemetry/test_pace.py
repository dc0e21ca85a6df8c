"""Requests a second, from counters that somebody looks at now and then."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.clock import Clock
from app.shared import SharedTable
from app.telemetry.metrics import Metrics
from app.telemetry.pace import Pace, Pacemeter
from tests.usage_cases import a_record


class Bench:
    """Two workers whose time and counters a test moves; both see the same counters."""

    def __init__(self, file: Path) -> None:
        self.now, self.on = 1_795_000_000.0, True
        self.metrics = Metrics(enabled=lambda: self.on)
        self.tables = [SharedTable(file), SharedTable(file)]
        clock = Clock(wall=lambda: self.now)
        self.workers = [Pacemeter(self.metrics, table, clock) for table in self.tables]

    def later(self, seconds: float, requests: int, worker: int = 0) -> float | None:
        self.now += seconds
        for _ in range(requests):
            self.metrics.observe(a_record())
        return self.workers[worker].look().requests_per_s


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    bench = Bench(tmp_path / "shared")
    yield bench
    for table in bench.tables:
        table.close()


def test_the_first_look_tells_no_rate(bench: Bench) -> None:
    assert bench.later(0, 5) is None
    assert bench.later(0.1, 5) is None
    assert bench.later(4.9, 20) == 5


def test_the_rate_is_that_of_the_last_seconds(bench: Bench) -> None:
    bench.later(0, 0)
    assert bench.later(5, 100) == 20
    assert bench.later(5, 0) == 0
    assert bench.later(5, 10) == 2


def test_any_worker_goes_on_from_what_another_one_saw(bench: Bench) -> None:
    bench.later(0, 0)
    assert bench.later(5, 100, worker=1) == 20
    assert bench.later(5, 50, worker=0) == 10


def test_looks_that_follow_each_other_closely_tell_the_rate_of_five_to_ten_seconds(bench: Bench) -> None:
    bench.later(0, 0)
    rates = [bench.later(0.25, 3) for _ in range(200)]
    assert rates[0] is None
    assert all(rate == pytest.approx(12) for rate in rates[1:])


def test_a_look_after_a_pause_tells_the_rate_since_the_last_one_but_no_old_news(bench: Bench) -> None:
    bench.later(0, 0)
    assert bench.later(30, 60) == 2
    assert bench.later(61, 60) is None
    assert bench.later(5, 10) == 2


def test_a_clock_that_is_set_back_tells_nothing_once(bench: Bench) -> None:
    bench.later(0, 0)
    assert bench.later(-100, 10) is None
    assert bench.later(5, 10) == 2


def test_while_metrics_are_off_nothing_is_known(bench: Bench) -> None:
    bench.later(0, 5)
    bench.on = False
    assert bench.workers[0].look() == Pace(None, None, None)


def test_requests_and_streams_on_their_way_are_counted(bench: Bench) -> None:
    bench.metrics.begin().describe(dialect="openai_chat", operation="generate", stream=True)
    bench.metrics.running.requests = 3
    assert bench.workers[0].look() == Pace(None, 4, 1)
