"""
When what the loop has booked is flushed: when it is enough, or has waited long enough.
"""

from __future__ import annotations

import time

from app.booking import FLUSH_EVERY_S, Booking
from app.server.loop import Loop


class Flushing:
    """Flushes `booking` on the loop's own thread."""

    def __init__(self, loop: Loop, booking: Booking) -> None:
        self._loop = loop
        self._flush = booking.flush
        self._entries = booking.entries
        self._batch: int = booking.batch
        self._soon = False
        self._ordered = False

    def booked(self) -> None:
        """An entry was added. On the loop's thread."""
        if len(self._entries) >= self._batch:
            if not self._soon:
                self._soon = True
                self._loop.call_soon(self._now)
        elif not self._ordered:
            self._ordered = True
            self._loop.at(time.monotonic() + FLUSH_EVERY_S, self._later)

    def booked_elsewhere(self) -> None:
        """The same from any thread."""
        self._loop.call_soon(self.booked)

    def _now(self) -> None:
        self._soon = False
        self._flush()

    def _later(self) -> None:
        self._ordered = False
        self._flush()
