"""
Limits of our own: requests per minute of one client, and requests at the same time.

The three algorithms are pure functions of a state, an instant and the settings; the state of a client lives in the
table that all workers share, so that N workers allow what one would.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

from .errors import Overloaded, RateLimited
from .settings import Settings
from .shared import SharedTable, State

WINDOW_S = 60.0
_MIN_RETRY_S = 0.001


class Decision(NamedTuple):
    """
    retry_after_s -- 0.0 when allowed
    remaining     -- requests that would be allowed now, after this one
    """

    allowed: bool
    retry_after_s: float
    remaining: int


class Rate(NamedTuple):
    """What is allowed: `per_minute` at a steady rate, `burst` more at once (token bucket only)."""

    per_minute: int
    burst: int = 0


Algorithm = Callable[[State, float, Rate], tuple[State, Decision]]


def fixed_window(state: State, now: float, rate: Rate) -> tuple[State, Decision]:
    """Count per minute of the clock. State: number of the minute, requests in it."""
    minute = now // WINDOW_S
    count = state[1] if state[0] == minute else 0.0
    if count >= rate.per_minute:
        return (minute, count, 0.0), Decision(False, _wait((minute + 1) * WINDOW_S - now), 0)
    return (minute, count + 1, 0.0), Decision(True, 0.0, int(rate.per_minute - count - 1))


def sliding_window(state: State, now: float, rate: Rate) -> tuple[State, Decision]:
    """
    Count over the last 60 seconds: this minute's requests, and the last minute's by the part of it that still lies in
    the window. State: number of the minute, requests in it, requests in the one before.
    """
    minute = now // WINDOW_S
    current, previous = _shift(state, minute)
    passed = now / WINDOW_S - minute
    used = current + previous * (1.0 - passed)
    if used + 1 <= rate.per_minute:
        return (minute, current + 1, previous), Decision(True, 0.0, int(rate.per_minute - used - 1))
    return (minute, current, previous), Decision(False, _sliding_wait(current, previous, passed, rate.per_minute), 0)


def _shift(state: State, minute: float) -> tuple[float, float]:
    if state[0] == minute:
        return state[1], state[2]
    return 0.0, state[1] if state[0] == minute - 1 else 0.0


def _sliding_wait(current: float, previous: float, passed: float, limit: int) -> float:
    """Seconds until one more request fits."""
    room = limit - 1 - current
    if room >= 0:  # then it is the last minute's share that is too big, so `previous` > 0
        return _wait((1.0 - room / previous - passed) * WINDOW_S)
    return _wait((1.0 - passed + max(0.0, 1.0 - (limit - 1) / current)) * WINDOW_S)


def token_bucket(state: State, now: float, rate: Rate) -> tuple[State, Decision]:
    """
    A bucket of 1 + burst tokens that refills at the steady rate; each request takes one.
    State: tokens, instant of the last change (0.0 = full).
    """
    per_second = rate.per_minute / WINDOW_S
    capacity = 1.0 + rate.burst
    tokens, changed_at = (state[0], state[1]) if state[1] else (capacity, now)
    tokens = min(capacity, tokens + max(0.0, now - changed_at) * per_second)
    if tokens >= 1.0:
        return (tokens - 1.0, now, 0.0), Decision(True, 0.0, int(tokens - 1.0))
    return (tokens, now, 0.0), Decision(False, _wait((1.0 - tokens) / per_second), 0)


def _wait(seconds: float) -> float:
    return max(_MIN_RETRY_S, seconds)


ALGORITHMS: dict[str, Algorithm] = {
    "fixed_window": fixed_window,
    "sliding_window": sliding_window,
    "token_bucket": token_bucket,
}


class HasSettings(Protocol):
    """Where the live settings are read."""

    @property
    def current(self) -> Settings: ...


class RequestLimiter:
    """Applies the live settings to the requests of all workers."""

    def __init__(self, shared: SharedTable, live_settings: HasSettings) -> None:
        self._shared = shared
        self._live_settings = live_settings

    def check(self, name: str, now_wall: float) -> Decision | None:
        """Count one request of `name` (a client); None when no limit is set. Raises RateLimited beyond the limit."""
        settings = self._live_settings.current
        if not settings.enable_rate_limiting:
            return None
        strategy = settings.rate_limiting_strategy
        algorithm = ALGORITHMS[strategy]
        rate = Rate(settings.requests_per_minute, settings.burst_allowance)
        refill_s = WINDOW_S * (1 + rate.burst) / rate.per_minute
        decision = self._shared.update(
            f"{strategy}:{name}",
            lambda state: algorithm(state, now_wall, rate),
            max(2 * WINDOW_S, refill_s),
            now_wall,
        )
        if not decision.allowed:
            raise RateLimited(
                f"More than {rate.per_minute} requests per minute. Ask again in {math.ceil(decision.retry_after_s)} s.",
                retry_after_s=decision.retry_after_s,
            )
        return decision

    def enter(self) -> bool:
        """
        Count one request in flight; True when it was counted, and `leave` is owed then.
        Raises Overloaded when all workers together serve `max_concurrent_requests` already.
        """
        most = self._live_settings.current.max_concurrent_requests
        if not most:
            return False
        if not self._shared.enter(most):
            raise Overloaded(f"{most} requests are being served already. Ask again in a moment.", retry_after_s=1.0)
        return True

    def leave(self) -> None:
        """One counted request has ended."""
        self._shared.leave()
