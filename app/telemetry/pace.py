"""How busy the middleware is just now: requests a second, and what is on its way, of all workers together."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import Final

from app.clock import Clock
from app.telemetry.metrics import Metrics

#: The rate is that of so many seconds, or of the time since the last look where nobody looked so lately.
WINDOW_S: Final = 10.0
#: Looks that follow each other more closely count as one.
_CLOSEST_S: Final = 0.5
#: A rate over a longer time is no news.
_OLDEST_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Pace:
    """
    requests_per_s  -- None at the first look, or while metrics are not collected
    in_flight       -- requests on their way; None while metrics are not collected
    streams         -- those of them that are streamed; None while metrics are not collected
    """

    requests_per_s: float | None
    in_flight: int | None
    streams: int | None


class Pacemeter:
    """Remembers what it saw at the last looks. Every method may be called from any thread."""

    def __init__(self, metrics: Metrics, clock: Clock) -> None:
        self._metrics, self._clock = metrics, clock
        self._lock = threading.Lock()
        #: (monotonic seconds, requests answered so far)
        self._looks: deque[tuple[float, int]] = deque(maxlen=int(_OLDEST_S / _CLOSEST_S))

    def look(self) -> Pace:
        """The pace since an earlier look."""
        if not self._metrics.enabled():
            with self._lock:
                self._looks.clear()
            return Pace(None, None, None)
        answered, in_flight, streams = self._metrics.under_way()
        return Pace(self._rate(answered), max(0, in_flight), max(0, streams))

    def _rate(self, answered: int) -> float | None:
        now = self._clock.monotonic()
        with self._lock:
            while self._looks and now - self._looks[0][0] > _OLDEST_S:
                self._looks.popleft()
            begin = self._begin(now)
            if not self._looks or now - self._looks[-1][0] >= _CLOSEST_S:
                self._looks.append((now, answered))
        return None if begin is None else max(0, answered - begin[1]) / (now - begin[0])

    def _begin(self, now: float) -> tuple[float, int] | None:
        """The oldest look within the window, else the newest one before it."""
        within = [look for look in self._looks if _CLOSEST_S <= now - look[0] <= WINDOW_S]
        before = [look for look in self._looks if now - look[0] > WINDOW_S]
        found = within[:1] or before[-1:]
        return found[0] if found else None
