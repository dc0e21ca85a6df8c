"""
The event loop of a worker: readiness of sockets, timers, and calls from other threads. One thread runs it.

Bare epoll rather than asyncio: it takes the TLS sockets that urllib3 opens as they are, and costs less for each event.
"""

from __future__ import annotations

import heapq
import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from itertools import count

log = logging.getLogger(__name__)

Ready = Callable[[int], None]

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
GONE = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
#: A cap on every wait, so that the loop never depends on one wake-up alone.
LONGEST_WAIT_S = 1.0
MAX_EVENTS = 512


class Loop:
    """
    `register` a descriptor with what it waits for and whom to tell; `at` a time; `call_soon` from anywhere.

    Callbacks run one after the other and must not wait.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Ready] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()
        self._calls: deque[Callable[[], None]] = deque()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread: int | None = None
        self.register(self._wake, READ, self._woken)

    def register(self, descriptor: int, interest: int, ready: Ready) -> None:
        self._handlers[descriptor] = ready
        self._epoll.register(descriptor, interest)

    def modify(self, descriptor: int, interest: int) -> None:
        self._epoll.modify(descriptor, interest)

    def unregister(self, descriptor: int) -> None:
        if self._handlers.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def at(self, instant: float, call: Callable[[], None]) -> None:
        """Call at this instant of the monotonic clock. It can't be taken back: what has become idle does nothing."""
        heapq.heappush(self._timers, (instant, next(self._numbers), call))

    def call_soon(self, call: Callable[[], None]) -> None:
        """Call on the loop's own thread. May be used by any thread."""
        self._calls.append(call)
        if threading.get_ident() != self._thread:
            os.eventfd_write(self._wake, 1)

    def call_from_signal(self, call: Callable[[], None]) -> None:
        """The same for a signal handler, which may interrupt the wait of the loop's own thread."""
        self._calls.append(call)
        os.eventfd_write(self._wake, 1)

    def turn(self) -> None:
        """Wait for what is ready, at most `LONGEST_WAIT_S`, and tell whom it concerns."""
        self._thread = threading.get_ident()
        for descriptor, event in self._epoll.poll(self._patience_s(), MAX_EVENTS):
            ready = self._handlers.get(descriptor)
            if ready is not None:
                try:
                    ready(event)
                except Exception:  # noqa: BLE001 - as in `_guard`, without its cost
                    log.exception("a callback failed on the event loop")
                    self.unregister(descriptor)
        self._run_due()
        for _ in range(len(self._calls)):
            self._guard(self._calls.popleft())

    def close(self) -> None:
        self._epoll.close()
        os.close(self._wake)

    def _patience_s(self) -> float:
        if self._calls:
            return 0.0
        if not self._timers:
            return LONGEST_WAIT_S
        return min(LONGEST_WAIT_S, max(0.0, self._timers[0][0] - time.monotonic()))

    def _run_due(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            self._guard(heapq.heappop(self._timers)[2])

    @staticmethod
    def _guard(call: Callable[[], None]) -> None:
        try:
            call()
        except Exception:  # noqa: BLE001 - the top level: a defect in one callback must not end all service
            log.exception("a callback failed on the event loop")

    def _woken(self, _event: int) -> None:
        os.eventfd_read(self._wake)


class Alarm:
    """
    One moving deadline. Cheap to move later, which is what deadlines mostly do: the timer that is set looks at the
    deadline when it rings, and sets itself again.
    """

    def __init__(self, loop: Loop, ring: Callable[[], None]) -> None:
        self._loop = loop
        self._ring = ring
        self._deadline: float | None = None
        self._set_for: float | None = None

    def move(self, deadline: float | None) -> None:
        """Ring at this instant; None = not at all."""
        self._deadline = deadline
        if deadline is not None and (self._set_for is None or deadline < self._set_for):
            self._set_for = deadline
            self._loop.at(deadline, self._due)

    def _due(self) -> None:
        self._set_for = None
        deadline = self._deadline
        if deadline is None:
            return
        if deadline > time.monotonic():
            self.move(deadline)
            return
        self._deadline = None
        self._ring()
