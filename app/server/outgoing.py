"""
The way out of a client's connection: bytes that wait to be sent, bounded by telling their source, and the client's time
to read them.
"""

from __future__ import annotations

import socket
import time
from abc import abstractmethod

from app.server.loop import Alarm, Loop, Sender
from app.server.sockets import unread_bytes

#: How long a client may leave its answer unread.
WRITE_TIMEOUT_S = 60.0
#: Unsent bytes at which the source is stopped, and at which it may go on.
HIGH_WATER_BYTES = 256 * 1024
LOW_WATER_BYTES = 64 * 1024


class Outgoing(Sender):
    """What a connection sends. Whoever derives from it knows what is to be sent."""

    def __init__(self, loop: Loop, sock: socket.socket) -> None:
        self.socket = sock
        self._loop = loop
        self._unsent = bytearray()
        self._held = b""  # goes out at the end of this turn
        self._corked: list[bytes] | None = None  # what gathers for one write
        self._paused = False
        self._dead = False
        self._unread: int | None = None
        self._alarm = Alarm(loop, self._too_late)

    @abstractmethod
    def _too_late(self) -> None:
        """The alarm rings."""

    @abstractmethod
    def _watch(self) -> None:
        """There is something to send, or nothing any more."""

    @abstractmethod
    def _all_sent(self) -> None:
        """Nothing waits any more."""

    @abstractmethod
    def _fell_behind(self, paused: bool) -> None:
        """The client is behind with reading, or no longer."""

    @abstractmethod
    def _leave(self) -> None:
        """The connection broke."""

    def _write(self, data: bytes) -> None:
        if self._dead:
            return
        if self._held:
            self.send_held()
        if self._corked is not None:
            self._corked.append(data)
            return
        if not self._unsent:
            data = data[self._try_send(data) :]
        if data and not self._dead:
            if not self._unsent:  # what is added to what lies here already gives the client no more time
                self._gave()
            self._unsent += data
            self._watch()
            self._throttle()

    def _write_soon(self, data: bytes) -> None:
        """The same at the end of this turn, or when something else has to be sent."""
        if self._dead or self._unsent or self._corked is not None:
            self._write(data)
            return
        if not self._held:
            self._loop.holding.append(self)
        self._held += data

    def send_held(self) -> None:
        held, self._held = self._held, b""
        if held:
            self._write(held)

    def uncork(self) -> None:
        """What has gathered goes out in one write."""
        corked, self._corked = self._corked, None
        if corked:
            self._write(b"".join(corked))

    def _try_send(self, data: bytes | bytearray) -> int:
        try:
            return self.socket.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            self._loop.call_soon(self._leave)
            return len(data)

    def _flush(self) -> None:
        sent = self._try_send(self._unsent)
        del self._unsent[:sent]
        if self._unsent:
            if sent:
                self._gave()
            self._throttle()
            return
        self._throttle()
        self._all_sent()

    def _gave(self) -> None:
        """From now on the client has its time to read."""
        self._unread = None
        self._more_time()

    def _more_time(self) -> None:
        self._alarm.move(time.monotonic() + WRITE_TIMEOUT_S)

    def _throttle(self) -> None:
        paused = len(self._unsent) > (LOW_WATER_BYTES if self._paused else HIGH_WATER_BYTES)
        if paused is not self._paused:
            self._paused = paused
            self._fell_behind(paused)

    def _still_reads(self) -> bool:
        """
        Whether the client has read since it was last asked about; the first time counts as if it had. What the system
        holds can take a slow reader minutes, in which nothing can be written.
        """
        before, self._unread = self._unread, unread_bytes(self.socket)
        return before is None or self._unread < before
