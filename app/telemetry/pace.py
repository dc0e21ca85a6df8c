"""How busy the middleware is just now: requests a second, and what is on its way, of all workers together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from app.clock import Clock
from app.shared import SharedTable, State
from app.telemetry.metrics import Metrics

#: A rate is that of the last 5 to 10 s where somebody looks all the time.
STEP_S: Final = 5.0
#: A rate over a longer time is no news, and one over a shorter time is chance.
_OLDEST_S: Final = 60.0
_SHORTEST_S: Final = 0.5

_NEVER: Final[State] = (0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Pace:
    """
    requests_per_s  -- None at the first look for a while, or while metrics are not collected
    in_flight       -- requests on their way; None while metrics are not collected
    streams         -- those of them that are streamed; None while metrics are not collected
    """

    requests_per_s: float | None
    in_flight: int | None
    streams: int | None


class Pacemeter:
    """
    Remembers two looks, which all workers share: whoever answers the next one knows what was seen before. Each is
    (Unix seconds, requests answered so far, nothing). Every method may be called from any thread.
    """

    def __init__(self, metrics: Metrics, shared: SharedTable, clock: Clock) -> None:
        self._metrics, self._shared, self._clock = metrics, shared, clock

    def look(self) -> Pace:
        """The pace since an earlier look."""
        if not self._metrics.enabled():
            return Pace(None, None, None)
        answered, in_flight, streams = self._metrics.under_way()
        return Pace(self._rate(answered), max(0, in_flight), max(0, streams))

    def _rate(self, answered: int) -> float | None:
        now = self._clock.wall()
        since_at, since_answered, _ = self._earlier_look(now, answered)
        passed_s = now - since_at
        if not since_at or not _SHORTEST_S <= passed_s <= _OLDEST_S:
            return None
        return max(0.0, answered - since_answered) / passed_s

    def _earlier_look(self, now: float, answered: int) -> State:
        """The look to compare with; this one is remembered when the last one has become old enough."""

        def remember(last: State) -> tuple[State, State]:
            is_recent = last[0] and 0 <= now - last[0] < STEP_S
            return (last if is_recent else (now, float(answered), 0.0)), last

        last = self._shared.update("pace: last look", remember, _OLDEST_S, now)
        if last[0] and 0 <= now - last[0] < STEP_S:
            before: State = self._shared.update("pace: the one before", lambda state: (state, state), _OLDEST_S, now)
            return before if before != _NEVER else last
        if last != _NEVER:
            self._shared.update("pace: the one before", lambda _: (last, None), _OLDEST_S, now)
        return last
