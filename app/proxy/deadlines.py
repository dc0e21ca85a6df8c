"""
What the clock can bring to an exchange, and when. Pure: all instants are monotonic seconds that are passed in.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from app.formats.base import Operation
from app.settings import Settings

#: How long to wait, after the last byte for the caller, for the end of the upstream's framing.
LINGER_S = 0.25
#: How long a stream whose answer is complete may stay silent: only its terminator or its usage can be missing.
FINISHED_SILENCE_S = 5.0


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


@dataclass(frozen=True, slots=True)
class Pace:
    """
    started   -- the caller got the head of an answer
    beats     -- white space may be sent between its events
    finished  -- a stream that has told its end already
    """

    started: bool
    beats: bool = False
    finished: bool = False


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
        self._answered_at = now
        self._spoke_at = now
        self._lingers_until = now

    def heard(self, now: float) -> None:
        """The upstream gave a sign of life, or was just asked."""
        self._heard_at = now

    def answered(self, now: float) -> None:
        """The upstream's answer has begun."""
        self._heard_at = self._answered_at = now

    def spoke(self, now: float) -> None:
        """The caller got a byte."""
        self._spoke_at = now

    def resume(self, heard_at: float, spoke_at: float) -> None:
        """An answer that began elsewhere goes on."""
        self._heard_at, self._spoke_at = heard_at, spoke_at

    def linger(self, now: float) -> None:
        self._lingers_until = now + LINGER_S

    def next(self, state: State, pace: Pace) -> float | None:
        """The earliest instant at which something is due, None when nothing can be."""
        return min((at for _, at in self._instants(state, pace)), default=None)

    def due(self, state: State, now: float, pace: Pace) -> Due | None:
        """What is due now, the most important first."""
        ripe = [due for due, at in self._instants(state, pace) if at <= now]
        return next((due for due in Due if due in ripe), None)

    def _instants(self, state: State, pace: Pace) -> list[tuple[Due, float]]:
        if state is State.LINGER:
            return [(Due.LINGERED, self._lingers_until)]
        found = [] if pace.started else [(Due.EXPIRED, self._expires)]
        if state is State.WAIT:
            found.append((Due.RETRY, self.retry_at))
        elif state in (State.HEAD, State.ERROR):
            found.append((Due.NO_FIRST_BYTE, self._heard_at + self._patience_s()))
        elif state is State.ANSWER:
            patience_s = FINISHED_SILENCE_S if pace.finished else self._settings.streaming_timeout
            found.append((Due.SILENCE, self._heard_at + patience_s))
            if pace.beats and self._settings.heartbeat_interval > 0:
                since = self._spoke_at if pace.started else self._answered_at
                found.append((Due.BEAT, since + self._settings.heartbeat_interval))
        return found

    def _patience_s(self) -> float:
        """How long an attempt may take to begin its answer."""
        if self.operation is Operation.MODELS:
            return self._settings.model_cache_timeout
        return self._settings.read_timeout
