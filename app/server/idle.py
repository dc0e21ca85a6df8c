"""
Idle upstream connections that stay registered with the loop. Whatever arrives on one, an end or bytes that nobody asked
for, takes it out at once: taking one needs no look at its socket, and giving it back no change of registration.
"""

from __future__ import annotations

import time
from collections import OrderedDict
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
        #: By origin, oldest first; the newest is taken first.
        self._idle: OrderedDict[str, OrderedDict[int, Connection]] = OrderedDict()
        self._sweeper = Alarm(loop, self._sweep)

    def take(self, origin: str) -> Connection | None:
        """The newest idle connection, still registered, or None."""
        kept = self._idle.get(origin)
        if not kept:
            return None
        limits = self._limits()
        while kept:
            _, connection = kept.popitem()
            if limits.pooling and time.monotonic() - connection.idle_since <= limits.idle_s:
                connection.reused = True
                return connection
            self._drop(connection)
        return None

    def give(self, connection: Connection) -> None:
        """Keep a connection whose answer was read to its end. It must be registered, waiting to be read."""
        limits = self._limits()
        connection.idle_since = time.monotonic()
        descriptor = connection.socket.fileno()
        kept = self._idle.setdefault(connection.origin, OrderedDict())
        self._idle.move_to_end(connection.origin)
        kept[descriptor] = connection
        self._loop.rebind(descriptor, lambda _event: self._ended(connection.origin, descriptor))
        while kept and (not limits.pooling or len(kept) > limits.max_idle_per_origin):
            self._drop(kept.popitem(last=False)[1])
        while len(self._idle) > limits.max_origins:
            for dropped in self._idle.popitem(last=False)[1].values():
                self._drop(dropped)
        self._sweeper.move(connection.idle_since + SWEEP_S)

    def dial(self, origin: str, timeout_s: float) -> Future[Connection]:
        return self._upstreams.dial(origin, timeout_s)

    def forget(self, pending: Future[Connection]) -> None:
        self._upstreams.forget(pending)

    def count(self, origin: str) -> int:
        return len(self._idle.get(origin, ()))

    def close(self) -> None:
        for kept in self._idle.values():
            for connection in kept.values():
                self._drop(connection)
        self._idle.clear()
        self._sweeper.move(None)

    def _ended(self, origin: str, descriptor: int) -> None:
        connection = self._idle.get(origin, OrderedDict()).pop(descriptor, None)
        if connection is not None:
            self._drop(connection)

    def _drop(self, connection: Connection) -> None:
        self._loop.unregister(connection.socket.fileno())
        connection.close()

    def _sweep(self) -> None:
        limits, now = self._limits(), time.monotonic()
        for kept in self._idle.values():
            for connection in [found for found in kept.values() if now - found.idle_since > limits.idle_s]:
                del kept[connection.socket.fileno()]
                self._drop(connection)
        if any(self._idle.values()):
            self._sweeper.move(now + SWEEP_S)
