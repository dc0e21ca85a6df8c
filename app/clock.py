"""
The two clocks, and the days and hours that things are counted by. Countdowns use the monotonic clock, so that a jump of
the wall clock neither frees nor holds a key; what is stored or shown uses the wall clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

DAY_S: Final = 86400
HOUR_S: Final = 3600


@dataclass(frozen=True, slots=True)
class Clock:
    """Replaced as a whole in tests. Both return seconds."""

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time


def utc_date(at: float) -> str:
    """The day of an instant in UTC, `YYYY-MM-DD`."""
    return utc_hour(at)[:10]


def utc_hour(at: float) -> str:
    """The hour of an instant in UTC, `YYYY-MM-DDTHH`."""
    return _hour(int(at // HOUR_S))


@lru_cache(maxsize=64)
def _hour(number: int) -> str:
    return datetime.fromtimestamp(number * HOUR_S, UTC).strftime("%Y-%m-%dT%H")
