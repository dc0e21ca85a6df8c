"""
The two clocks. Countdowns use the monotonic one, so that a jump of the wall clock neither frees nor holds a key;
what is stored or shown uses the wall clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Clock:
    """Replaced as a whole in tests. Both return seconds."""

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
