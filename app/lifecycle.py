"""
What runs beside the requests of one process, and how it ends: threads are started, a shutdown is announced, the last
rows are written. Knows no Flask and no server.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from app.proxy.relay import Draining

#: How long the last rows may take.
FLUSH_S = 5.0
#: How long answers that end with an error may take to say so.
LAST_ANSWERS_S = 2.0
#: How long a request that finds all places taken waits for one that is being left.
LEAVING_S = 0.1
#: How many may watch something at once: each holds a thread for as long as it likes.
MOST_WATCHING = 16


class Lifecycle:
    """
    starters, stoppers  -- called in order; a stopper must bear being called without its starter
    draining            -- raised when the grace of running streams is over
    most_running        -- requests at once beyond which new ones are refused; None where the server sets no bound
    most_watching       -- viewers of endless answers at once, which end by themselves when `stopping` is set
    """

    def __init__(self, draining: Draining) -> None:
        self.draining = draining
        self.starters: list[Callable[[], object]] = []
        self.stoppers: list[Callable[[], object]] = []
        self.stopping = False
        self.most_running: int | None = None
        self.most_watching = MOST_WATCHING
        self._lock = threading.Lock()
        self._running = 0
        self._started = False
        self._idle = threading.Condition(self._lock)

    def start(self) -> None:
        with self._lock:
            if self._started:
                return
            self._started = True
        for step in self.starters:
            step()

    def accepting(self) -> bool:
        return not self.stopping

    def enter(self) -> None:
        """A request has begun. `leave` is owed, also when it is one too many."""
        with self._lock:
            self._running += 1

    def is_overfull(self) -> bool:
        """
        Whether more requests run than may: the last one to enter has to go. A request that has its answer may not have
        left yet when its client sends the next one, so that a full house is looked at twice.
        """
        most = self.most_running
        if most is None or self._running <= most:
            return False
        with self._idle:
            return not self._idle.wait_for(lambda: self._running <= most, LEAVING_S)

    def leave(self) -> None:
        with self._idle:
            self._running -= 1
            self._idle.notify_all()

    def announce(self) -> None:
        """From now on readiness says no and new requests are refused; running ones go on."""
        self.stopping = True

    def wait_idle(self, timeout_s: float) -> bool:
        """Wait for the running requests; True when none is left."""
        with self._idle:
            return self._idle.wait_for(lambda: self._running == 0, timeout_s)

    def stop(self) -> None:
        """End everything: answers that are still under way break off with an error. Harmless when called again."""
        self.announce()
        self.draining.begin()
        self.wait_idle(LAST_ANSWERS_S)
        with self._lock:
            stoppers, self.stoppers = self.stoppers, []
        for step in stoppers:
            step()
