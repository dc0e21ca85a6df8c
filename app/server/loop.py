"""
The event loop of a worker: readiness of sockets, timers, and calls from other threads. One thread runs it.

Bare epoll rather than asyncio: it takes the TLS sockets that urllib3 opens as they are, and costs less for each event.
"""

from __future__ import annotations

import heapq
import logging
import math
import os
import select
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from email.utils import formatdate
from itertools import count
from typing import Any

log = logging.getLogger(__name__)

Ready = Callable[[int], None]
#: (instant, number, call); the call is None once the timer was cancelled. A list, so that it can be.
Timer = list[Any]

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
GONE = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
#: A cap on every wait, so that the loop never depends on one wake-up alone.
LONGEST_WAIT_S = 1.0
MAX_EVENTS = 512
#: A deadline that never comes, for `Alarm.postpone`.
NEVER = math.inf
#: So many cancelled timers are not worth clearing out.
FEW_TIMERS = 64


class Sender(ABC):
    """Holds bytes until the end of a turn of the loop."""

    __slots__ = ()

    @abstractmethod
    def send_held(self) -> None:
        """Send them now. Does nothing where they are sent already."""


class Loop:
    """
    `register` a descriptor with what it waits for and whom to tell; `at` a time; `call_soon` from anywhere.

    Callbacks run one after the other and must not wait.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Ready] = {}
        self._owners: dict[int, Callable[[], None]] = {}
        self._new: set[int] = set()  # registered since the last wait
        #: Of what has come at the same time, these descriptors are served before all others.
        self.first: set[int] = set()
        self._timers: list[Timer] = []
        self._cancelled = 0
        self._dated, self._date = 0, b""
        #: Have something to send when all that came in this turn has been read. Bytes that go out close together wake
        #: whoever waits for them once, and sending them is cheaper than between other work.
        self.holding: list[Sender] = []
        #: How often there was something to do.
        self.turns = 0
        self._numbers = count()
        self._calls: deque[Callable[[], None]] = deque()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._runs_on: int | None = None
        self.register(self._wake, READ, self._woken)

    def register(self, descriptor: int, interest: int, ready: Ready, failed: Callable[[], None] | None = None) -> None:
        """`failed` is called where `ready` raised: nobody listens to the descriptor any more."""
        self._handlers[descriptor] = ready
        if failed is not None:
            self._owners[descriptor] = failed
        self._new.add(descriptor)
        self._epoll.register(descriptor, interest)

    def modify(self, descriptor: int, interest: int) -> None:
        self._epoll.modify(descriptor, interest)

    def rebind(self, descriptor: int, ready: Ready) -> None:
        """From now on tell somebody else; what the descriptor waits for stays."""
        self._handlers[descriptor] = ready

    def is_registered(self, descriptor: int) -> bool:
        return descriptor in self._handlers

    def unregister(self, descriptor: int) -> None:
        self.first.discard(descriptor)
        if self._handlers.pop(descriptor, None) is not None:
            self._owners.pop(descriptor, None)
            self._epoll.unregister(descriptor)

    def at(self, instant: float, call: Callable[[], None]) -> Timer:
        """Call at this instant of the monotonic clock; what is returned can be given to `cancel`."""
        timer = [instant, next(self._numbers), call]
        heapq.heappush(self._timers, timer)
        return timer

    def cancel(self, timer: Timer) -> None:
        """The call will not happen, and nothing that it refers to is kept."""
        if timer[2] is None:
            return
        timer[2] = None
        self._cancelled += 1
        # Most deadlines never come: without this, every request would stay in the heap for minutes.
        if self._cancelled > FEW_TIMERS and self._cancelled > len(self._timers) // 2:
            self._timers = [kept for kept in self._timers if kept[2] is not None]
            heapq.heapify(self._timers)
            self._cancelled = 0

    def call_soon(self, call: Callable[[], None]) -> None:
        """Call on the loop's own thread. May be used by any thread."""
        self._calls.append(call)
        if threading.get_ident() != self._runs_on:
            os.eventfd_write(self._wake, 1)

    def call_from_signal(self, call: Callable[[], None]) -> None:
        """The same for a signal handler, which may interrupt the wait of the loop's own thread."""
        self._calls.append(call)
        os.eventfd_write(self._wake, 1)

    def turn(self) -> None:
        """Wait for what is ready, at most `LONGEST_WAIT_S`, and tell whom it concerns."""
        if self._runs_on is None:
            self._runs_on = threading.get_ident()
        self.turns += 1
        self._new.clear()
        events = self._epoll.poll(self._patience_s(), MAX_EVENTS)
        if len(events) > 1 and self.first:
            events.sort(key=self._is_later)
        self._tell(events)
        if self._timers:
            self._run_due()
        if self._calls:
            for _ in range(len(self._calls)):
                self._guard(self._calls.popleft())
        if self.holding:
            holding, self.holding = self.holding, []
            for sender in holding:
                self._guard(sender.send_held)

    def _tell(self, events: list[tuple[int, int]]) -> None:
        handlers, new = self._handlers, self._new
        for descriptor, event in events:
            ready = handlers.get(descriptor)
            # What came for a closed descriptor is not for the next one that has its number.
            if ready is not None and descriptor not in new:
                try:
                    ready(event)
                except Exception:  # noqa: BLE001 - as in `_guard`, without its cost
                    log.exception("a callback failed on the event loop")
                    failed = self._owners.get(descriptor)
                    self.unregister(descriptor)
                    if failed is not None:
                        self._guard(failed)

    def _is_later(self, event: tuple[int, int]) -> bool:
        return event[0] not in self.first

    def date_bytes(self) -> bytes:
        """The value of a Date header, made once a second."""
        second = int(time.time())
        if second != self._dated:
            self._dated, self._date = second, formatdate(second, usegmt=True).encode()
        return self._date

    def close(self) -> None:
        self._epoll.close()
        os.close(self._wake)

    def _patience_s(self) -> float:
        if self._calls:
            return 0.0
        if not self._timers:
            return LONGEST_WAIT_S
        left_s: float = self._timers[0][0] - time.monotonic()
        if left_s >= LONGEST_WAIT_S:
            return LONGEST_WAIT_S
        return left_s if left_s > 0.0 else 0.0

    def _run_due(self) -> None:
        now = time.monotonic()
        # What is ordered meanwhile has its turn after the sockets, even when it is due already.
        for _ in range(len(self._timers)):
            if not self._timers or self._timers[0][0] > now:
                return
            timer = heapq.heappop(self._timers)
            call, timer[2] = timer[2], None
            if call is None:
                self._cancelled -= 1
            else:
                self._guard(call)

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
        self._timer: Timer | None = None

    def move(self, deadline: float | None) -> None:
        """Ring at this instant; None = not at all."""
        self._deadline = deadline
        timer = self._timer
        if deadline is None:
            self._timer = None
            if timer is not None:
                self._loop.cancel(timer)
        elif timer is None or deadline < timer[0]:
            if timer is not None:
                self._loop.cancel(timer)
            self._timer = self._loop.at(deadline, self._due)

    def postpone(self, deadline: float) -> None:
        """The same where the deadline is mostly later than the one before: then it is nothing but an assignment."""
        self._deadline = deadline
        if deadline < NEVER and (self._timer is None or deadline < self._timer[0]):
            self.move(deadline)

    def end(self) -> None:
        """Never ring again, and hold nobody who would hold this alarm."""
        self.move(None)
        self._ring = _nothing

    def _due(self) -> None:
        self._timer = None
        deadline = self._deadline
        if deadline is not None and deadline > time.monotonic():
            self.move(deadline if deadline < NEVER else None)
        elif deadline is not None:
            self._deadline = None
            self._ring()


def _nothing() -> None:
    """What an alarm calls that was ended."""
