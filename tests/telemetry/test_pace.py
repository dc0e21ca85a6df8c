"""Requests a second, from counters that somebody looks at now and then."""

from __future__ import annotations

import pytest

from app.clock import Clock
from app.telemetry.metrics import Metrics
from app.telemetry.pace import Pace, Pacemeter
from tests.usage_cases import a_record


class Bench:
    """A pacemeter whose time and counters a test moves."""

    def __init__(self) -> None:
        self.now, self.on = 1000.0, True
        self.metrics = Metrics(enabled=lambda: self.on)
        self.meter = Pacemeter(self.metrics, Clock(monotonic=lambda: self.now))

    def later(self, seconds: float, requests: int) -> float | None:
        self.now += seconds
        for _ in range(requests):
            self.metrics.observe(a_record())
        return self.meter.look().requests_per_s


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    return Bench()


def test_the_first_look_tells_no_rate(bench: Bench) -> None:
    assert bench.later(0, 5) is None
    assert bench.later(5, 10) == 2


def test_the_rate_is_that_of_the_last_ten_seconds(bench: Bench) -> None:
    bench.later(0, 0)
    assert bench.later(5, 100) == 20
    assert bench.later(5, 0) == 10
    assert bench.later(5, 0) == 0


def test_looks_that_follow_each_other_closely_do_not_crowd_out_older_ones(bench: Bench) -> None:
    bench.later(0, 0)
    for _ in range(100):
        bench.later(0.05, 1)
    assert bench.later(0, 0) == pytest.approx(20)
    assert len(bench.meter._looks) <= 12


def test_a_look_after_a_pause_tells_the_rate_since_the_last_one_but_no_old_news(bench: Bench) -> None:
    bench.later(0, 0)
    assert bench.later(30, 60) == 2
    assert bench.later(61, 60) is None


def test_while_metrics_are_off_nothing_is_known(bench: Bench) -> None:
    bench.later(0, 5)
    bench.on = False
    assert bench.meter.look() == Pace(None, None, None)


def test_requests_and_streams_on_their_way_are_counted(bench: Bench) -> None:
    bench.metrics.begin().describe(dialect="openai_chat", operation="generate", stream=True)
    bench.metrics.running.requests = 3
    assert bench.meter.look() == Pace(None, 4, 1)
