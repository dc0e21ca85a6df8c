"""
Idle upstream connections that stay registered with the loop. Whatever arrives on one, an end or bytes that nobody asked
for, takes it out at once: taking one needs no look at its socket, and giving it back no change of registration.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future

from app.proxy.upstream import Connection, PoolLimits, Upstreams
from app.server.loop import Alarm, Loop

#: How often connections that have been idle too long are looked for.
SWEEP_S = 5.0


class IdleConnections:
    """
    What a link asks of `Upstreams`, for links on the loop: all dialling is theirs, all keeping is done here.

    limits  -- read at each use, so that a changed setting counts from the next request on
    """

    def __init__(self, loop: Loop, upstreams: Upstreams, limits: Callable[[], PoolLimits]) -> None:
        self._loop = loop
        self._upstreams = upstreams
        self._limits = limits
        #: By origin, oldest first; the newest is taken first. Origins in the order of their first use.
        self._idle: dict[str, list[Connection]] = {}
        self._sweeper = Alarm(loop, self._sweep)
        self._sweeping = False

    def take(self, origin: str) -> Connection | None:
        """The newest idle connection, still registered, or None."""
        kept = self._idle.get(origin)
        if not kept:
            return None
        limits = self._limits()
        connection = kept.pop()
        if limits.pooling and time.monotonic() - connection.idle_since <= limits.idle_s:
            connection.reused = True
            self._loop.first.discard(connection.descriptor)
            return connection
        # All others are older still.
        for expired in (connection, *kept):
            self.drop(expired)
        kept.clear()
        return None

    def give(self, connection: Connection) -> None:
        """Keep a connection whose answer was read to its end. It must be registered, waiting to be read."""
        limits = self._limits()
        now = connection.idle_since = time.monotonic()
        kept = self._idle.get(connection.origin)
        if kept is None:
            kept = self._add_origin(connection.origin, limits.max_origins)
        kept.append(connection)
        ended = connection.when_idle
        if ended is None:
            ended = connection.when_idle = lambda _event: self._ended(connection)
        self._loop.rebind(connection.descriptor, ended)
        # What ends it must be seen before a request that comes at the same time could take it.
        self._loop.first.add(connection.descriptor)
        if not limits.pooling or len(kept) > limits.max_idle_per_origin:
            self.drop(kept.pop(0))
        if not self._sweeping:
            self._sweeping = True
            self._sweeper.move(now + SWEEP_S)

    def connect_here(self, origin: str) -> Connection | None:
        return self._upstreams.connect_here(origin)

    def dial(self, origin: str, timeout_s: float) -> Future[Connection]:
        return self._upstreams.dial(origin, timeout_s)

    def forget(self, pending: Future[Connection]) -> None:
        self._upstreams.forget(pending)

    def count(self, origin: str) -> int:
        return len(self._idle.get(origin, ()))

    def close(self) -> None:
        for kept in self._idle.values():
            for connection in kept:
                self.drop(connection)
        self._idle.clear()
        self._sweeper.move(None)

    def _add_origin(self, origin: str, max_origins: int) -> list[Connection]:
        while self._idle and len(self._idle) >= max_origins:
            oldest = next((found for found, kept in self._idle.items() if not kept), next(iter(self._idle)))
            for dropped in self._idle.pop(oldest):
                self.drop(dropped)
        return self._idle.setdefault(origin, [])

    def _ended(self, connection: Connection) -> None:
        kept = self._idle.get(connection.origin)
        if kept and connection in kept:
            kept.remove(connection)
            self.drop(connection)

    def drop(self, connection: Connection) -> None:
        """Close a connection that is registered."""
        self._loop.unregister(connection.descriptor)
        connection.close()

    def _sweep(self) -> None:
        limits, now = self._limits(), time.monotonic()
        for kept in self._idle.values():
            while kept and now - kept[0].idle_since > limits.idle_s:
                self.drop(kept.pop(0))
        self._sweeping = any(self._idle.values())
        if self._sweeping:
            self._sweeper.move(now + SWEEP_S)
