"""Our own limits: three ways to count, and requests at the same time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import Overloaded, RateLimited
from app.limits import ALGORITHMS, Rate, RequestLimiter, fixed_window, sliding_window, token_bucket
from app.settings import Settings
from app.shared import SharedTable, State

NEW: State = (0.0, 0.0, 0.0)
#: The start of a minute.
MINUTE = 1_000_020.0


class Live:
    def __init__(self, **values: object) -> None:
        self.current = replace(Settings(), **values)  # type: ignore[arg-type]


def allowed(algorithm, rate: Rate, instants: list[float], state: State = NEW) -> list[bool]:
    found = []
    for now in instants:
        state, decision = algorithm(state, now, rate)
        found.append(decision.allowed)
    return found


def test_a_fixed_window_counts_per_minute_of_the_clock():
    assert allowed(fixed_window, Rate(2), [MINUTE + 58, MINUTE + 59, MINUTE + 59.5, MINUTE + 60]) == [
        True,
        True,
        False,
        True,
    ]
    state, _ = fixed_window(NEW, MINUTE, Rate(1))
    assert fixed_window(state, MINUTE + 45, Rate(1))[1] == (False, 15.0, 0)


def test_a_sliding_window_remembers_the_last_minute_by_its_share():
    instants = [MINUTE + 59] * 10 + [MINUTE + 61]
    assert allowed(sliding_window, Rate(10), instants) == [True] * 10 + [False]
    assert allowed(sliding_window, Rate(10), [MINUTE + 59] * 10 + [MINUTE + 90] * 6) == [True] * 15 + [False]


def test_a_token_bucket_allows_a_burst_and_then_the_steady_rate():
    rate = Rate(60, burst=3)
    assert allowed(token_bucket, rate, [MINUTE] * 5 + [MINUTE + 1, MINUTE + 1]) == [True] * 4 + [False, True, False]


def test_a_clock_that_is_set_back_does_not_fill_the_bucket():
    rate = Rate(60, burst=1)
    assert allowed(token_bucket, rate, [MINUTE, MINUTE, MINUTE - 500, MINUTE - 500]) == [True, True, False, False]


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(sorted(ALGORITHMS)),
    st.integers(1, 20),
    st.integers(0, 10),
    st.lists(st.floats(0, 30), max_size=60),
)
def test_whoever_waits_as_told_is_allowed_and_nobody_exceeds_twice_the_rate(name, per_minute, burst, waits):
    algorithm, rate, state, now = ALGORITHMS[name], Rate(per_minute, burst), NEW, MINUTE
    taken = []
    for wait_s in waits:
        now += wait_s
        state, decision = algorithm(state, now, rate)
        if decision.allowed:
            taken.append(now)
            assert decision.remaining >= 0
        else:
            assert decision.retry_after_s > 0
            assert algorithm(state, now + decision.retry_after_s + 0.01, rate)[1].allowed
    most = 2 * per_minute + burst + 1
    assert all(sum(1 for at in taken if start <= at < start + 60) <= most for start in taken)


@pytest.fixture
def shared(tmp_path: Path) -> SharedTable:
    return SharedTable(tmp_path / "shared")


@pytest.mark.parametrize("strategy", sorted(ALGORITHMS))
def test_two_workers_allow_together_what_one_would(shared, tmp_path, strategy):
    live = Live(enable_rate_limiting=True, requests_per_minute=3, burst_allowance=2, rate_limiting_strategy=strategy)
    workers = [RequestLimiter(shared, live), RequestLimiter(SharedTable(tmp_path / "shared"), live)]
    for number in range(3):
        assert workers[number % 2].check("client-1", MINUTE).remaining == 2 - number

    with pytest.raises(RateLimited) as refused:
        workers[1].check("client-1", MINUTE)

    assert refused.value.retry_after_s > 0
    assert workers[1].check("client-2", MINUTE).allowed


def test_no_limit_is_applied_when_it_is_off(shared):
    limiter = RequestLimiter(shared, Live(requests_per_minute=1))

    assert [limiter.check("client", MINUTE) for _ in range(5)] == [None] * 5
    assert limiter.enter() is False


def test_too_many_requests_at_once_are_refused_until_one_ends(shared):
    limiter = RequestLimiter(shared, Live(max_concurrent_requests=2))
    assert [limiter.enter(), limiter.enter()] == [True, True]
    with pytest.raises(Overloaded):
        limiter.enter()
    limiter.leave()

    assert limiter.enter()


def test_a_changed_setting_counts_at_once(shared):
    live = Live(enable_rate_limiting=True, requests_per_minute=1, rate_limiting_strategy="fixed_window")
    limiter = RequestLimiter(shared, live)
    limiter.check("client", MINUTE)
    live.current = replace(live.current, requests_per_minute=2)

    assert limiter.check("client", MINUTE).remaining == 0
