"""
What the clock can bring to an exchange, and when. Pure: all instants are monotonic seconds that are passed in.
"""

from __future__ import annotations

from enum import Enum

from app.formats.base import Operation
from app.settings import Settings

#: How long to wait, after the last byte for the caller, for the end of the upstream's framing.
LINGER_S = 0.25


class State(Enum):
    NEW = "new"
    BODY = "body"  # reading the request's body
    WAIT = "wait"  # before the next attempt
    HEAD = "head"  # an attempt is under way, no answer yet
    ERROR = "error"  # reading an upstream's error body
    ANSWER = "answer"  # reading a 2xx answer
    LINGER = "linger"  # the caller has everything; the upstream's framing has not ended yet
    OVER = "over"


class Due(Enum):
    """In the order in which they count when several are due."""

    LINGERED = "lingered"
    EXPIRED = "expired"  # the time for the whole request
    RETRY = "retry"
    NO_FIRST_BYTE = "no_first_byte"
    SILENCE = "silence"
    BEAT = "beat"


class Deadlines:
    """
    One for each exchange.

    The limit on the whole request holds until the first byte of an answer; from then on only silence ends it, so that
    a long answer that keeps coming is never cut.
    """

    def __init__(self, settings: Settings, now: float) -> None:
        self.operation = Operation.OTHER
        self.retry_at = now
        self._settings = settings
        self._expires = now + settings.request_timeout
        self._heard_at = now
        self._spoke_at = now
        self._lingers_until = now

    def heard(self, now: float) -> None:
        """The upstream gave a sign of life, or was just asked."""
        self._heard_at = now

    def spoke(self, now: float) -> None:
        """The caller got a byte."""
        self._spoke_at = now

    def linger(self, now: float) -> None:
        self._lingers_until = now + LINGER_S

    def next(self, state: State, *, started: bool, beats: bool) -> float | None:
        """The earliest instant at which something is due, None when nothing can be."""
        return min((at for _, at in self._instants(state, started, beats)), default=None)

    def due(self, state: State, now: float, *, started: bool, beats: bool) -> Due | None:
        """What is due now, the most important first."""
        ripe = [due for due, at in self._instants(state, started, beats) if at <= now]
        return next((due for due in Due if due in ripe), None)

    def _instants(self, state: State, started: bool, beats: bool) -> list[tuple[Due, float]]:
        if state is State.LINGER:
            return [(Due.LINGERED, self._lingers_until)]
        found = [] if started else [(Due.EXPIRED, self._expires)]
        if state is State.WAIT:
            found.append((Due.RETRY, self.retry_at))
        elif state in (State.HEAD, State.ERROR):
            found.append((Due.NO_FIRST_BYTE, self._heard_at + self._patience_s()))
        elif state is State.ANSWER:
            found.append((Due.SILENCE, self._heard_at + self._settings.streaming_timeout))
            if beats and self._settings.heartbeat_interval > 0:
                since = self._spoke_at if started else self._heard_at
                found.append((Due.BEAT, since + self._settings.heartbeat_interval))
        return found

    def _patience_s(self) -> float:
        """How long an attempt may take to begin its answer."""
        if self.operation is Operation.MODELS:
            return self._settings.model_cache_timeout
        return self._settings.read_timeout
