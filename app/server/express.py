"""
The worker's side of the shortcut: which requests take it, and the clock for those that are under way. One request on
it is a `Ride`; what is known, and how answers are judged, is `app.proxy.shortcut`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from app.edge import Edge
from app.errors import MiddlewareError
from app.formats.base import Call, Framing
from app.proxy.deadlines import LINGER_S
from app.proxy.events import RequestHead, Send
from app.proxy.exchange import Exchange
from app.proxy.link import Begun
from app.proxy.shortcut import KnownHead, Memory, split_length
from app.proxy.upstream import Connection as UpstreamConnection
from app.server.gathering import Gathering, parse_head
from app.server.handler import Handler
from app.server.idle import IdleConnections
from app.server.loop import Alarm, Loop
from app.server.relay import GoOn
from app.server.requests import Request
from app.server.ride import SWEEP_S, Ride
from app.server.stream_ride import Lingering, StreamRide
from app.settings import Settings

if TYPE_CHECKING:
    from app.server.connection import Connection

#: A known request that is larger is left to the parser, which keeps large bodies on the disk.
MAX_GATHERED_BYTES = 256 * 1024
#: The same when so much is gathered for all clients.
MAX_ALL_GATHERED_BYTES = 32 * 1024 * 1024
#: And when it takes longer.
GATHERING_S = 5.0
#: Heartbeats more frequent than this are an exchange's to give.
SHORTEST_BEAT_S = 8 * SWEEP_S

#: (request, address of the client) -> the head as the core takes it; None where the core is not asked
MakeHead = Callable[[Request, str], RequestHead | None]
#: (client connection, exchange) -> what serves the request
MakeRelay = Callable[["Connection", Exchange], "Resumable"]


class Resumable(Handler, Protocol):
    """A relay, as far as this module needs one."""

    def resume(self, start: Callable[[], None], begun: Begun | None, began_at: float) -> None: ...
    def take_over(self, send: Send, begun: Begun, head: bytes, go_on: GoOn) -> None: ...


class Express:
    """One for each worker."""

    def __init__(
        self,
        loop: Loop,
        edge: Edge,
        idle: IdleConnections,
        booked: Callable[[], None],
        make_head: MakeHead,
        make_relay: MakeRelay,
    ) -> None:
        self.loop = loop
        self.edge = edge
        self.idle = idle
        self.make_head = make_head
        self.make_relay = make_relay
        self.memory = Memory(edge.gateway)
        self.keys = edge.gateway.keys
        self.monotonic = edge.clock.monotonic
        self.wall = edge.clock.wall
        #: Under way, the oldest first.
        self.rides: dict[Ride, None] = {}
        #: Whose answers flow.
        self.streams: dict[StreamRide, None] = {}
        self.lingering: dict[int, Lingering] = {}
        self.entries = edge.booking.entries
        self.booked = booked
        self.running = edge.booking.running
        self.gathered_bytes = 0
        self._turn = -1
        self._open = True
        self._sweeper = Alarm(loop, self._sweep)
        self._sweeping = False

    def board(self, connection: Connection, data: bytes, gathering: Gathering | None) -> tuple[Gathering | None, bytes]:
        """What is gathered of the request that these bytes begin or go on with, or else the bytes for the parser."""
        data, more = (gathering.end(), data) if gathering is not None else (data, b"")
        came = len(data) + len(more)
        size = self.take(connection, data, more)
        if size == came:
            return None, b""
        data += more
        return (self.gather(data, size, gathering), data) if size > came else (None, data)

    def take(self, connection: Connection, data: bytes, more: bytes) -> int:
        """
        Serve the request that `data` begins with, on a connection that waits for one; what follows it is `more`.
        0 = not here, else how many bytes of request were understood; more than came means that the body is not
        complete, and nothing was done.
        """
        end = data.find(b"\r\n\r\n")
        if end < 0 or not self._is_open():
            return 0
        split = split_length(data[: end + 2])
        if split is None:
            return 0
        key, length = split
        key = connection.peer_key + key
        now = self.monotonic()
        known = self.memory.find(key, now)
        if known is None:
            known = self._learn(connection, key, data[: end + 4], now)
            if known is None:
                return 0
        size = end + 4 + length
        came = len(data) + len(more)
        if length > known.max_bytes or came > size:
            return 0
        if came == size and not self._ride(connection, known, _tail(data, end + 4, more), now):
            return 0
        return size

    def gather(self, data: bytes, size: int, before: Gathering | None) -> Gathering | None:
        """Keep the beginning of a known request of `size` bytes; None where the parser should."""
        if size > MAX_GATHERED_BYTES or self.gathered_bytes + size > MAX_ALL_GATHERED_BYTES:
            return None
        return Gathering(self, data, size, before.until if before is not None else time.monotonic() + GATHERING_S)

    def _is_open(self) -> bool:
        if self._turn != self.loop.turns:
            self._turn = self.loop.turns
            self._open = self.memory.refresh()
        return self._open

    def _learn(self, connection: Connection, key: bytes, head: bytes, now: float) -> KnownHead | None:
        if not self.memory.is_worth_learning(key):
            return None
        request = parse_head(head)
        if request is None or not request.keep_alive or not request.chunks_allowed:
            return None
        made = self.make_head(request, connection.peer)
        return None if made is None else self.memory.learn(key, made, now, self.wall())

    def _ride(self, connection: Connection, known: KnownHead, body: bytes, now: float) -> bool:
        form = known.format
        try:
            call = form.read(known.match, known.visitor.headers, known.visitor.query, body)
        except MiddlewareError:
            return False  # the exchange finds the same, and says it
        if call.stream and not self._takes_stream(call):
            return False
        route = self.memory.route(known, call)
        if route is None:
            return False
        ride = (StreamRide if call.stream else Ride)(self, connection, known, route, call, now)
        connection.ride(ride)
        ride.depart()
        return True

    def _takes_stream(self, call: Call) -> bool:
        """Whether its events come one by one, and the sweeper is not too slow for its silences."""
        beat_s = self.edge.gateway.settings().heartbeat_interval
        return call.match.endpoint.framing is Framing.SSE and not 0 < beat_s < SHORTEST_BEAT_S

    # -- time ---------------------------------------------------------------------------------------

    def under_way(self, ride: Ride) -> None:
        self.rides[ride] = None
        self._count(ride, 1)
        self._sweep_soon()

    def flows(self, ride: StreamRide) -> None:
        """Its answer is a stream that has begun: from now on only silence counts."""
        del self.rides[ride]
        self.streams[ride] = None

    def over(self, ride: Ride) -> None:
        """It has arrived, or goes on as an exchange."""
        if ride in self.rides:
            del self.rides[ride]
        elif ride in self.streams:
            del self.streams[ride]
        else:
            return
        self._count(ride, -1)

    def lingers(self, upstream: UpstreamConnection, came: bytes, now: float) -> None:
        """The caller has everything, and the upstream's framing has not ended yet."""
        lingering = self.lingering[upstream.descriptor] = Lingering(self, upstream, came, now + LINGER_S)
        self.loop.rebind(upstream.descriptor, lingering.ready)
        self._sweep_soon()

    def _count(self, ride: Ride, change: int) -> None:
        running = self.running
        running.requests += change
        if ride.known.is_chat:
            running.chats += change
        if ride.call.stream:
            running.streams += change

    def _sweep_soon(self) -> None:
        if not self._sweeping:
            self._sweeping = True
            self._sweeper.move(time.monotonic() + SWEEP_S)

    def _sweep(self) -> None:
        """Requests that have waited nearly as long as any deadline allows go on as exchanges, which keep them."""
        try:
            self._look_for_waits(self.edge.gateway.settings(), self.monotonic())
        finally:
            self._sweeping = bool(self.rides or self.streams or self.lingering)
            if self._sweeping:
                self._sweeper.move(time.monotonic() + SWEEP_S)

    def _look_for_waits(self, settings: Settings, now: float) -> None:
        silence_s = settings.streaming_timeout
        beat_s = settings.heartbeat_interval or silence_s
        patience_s = min(settings.read_timeout, settings.request_timeout, beat_s) - 2 * SWEEP_S
        for ride in list(self.rides):
            if now - ride.began < patience_s:
                break
            ride.hand_over()
        for stream in [stream for stream in self.streams if stream.is_overdue(now, silence_s, beat_s)]:
            stream.hand_over()
        for lingering in list(self.lingering.values()):
            if now >= lingering.until:
                lingering.end()

    def close(self) -> None:
        """From now on everything is an exchange, also what is under way."""
        for ride in [*self.rides, *self.streams]:
            ride.hand_over()
        for lingering in list(self.lingering.values()):
            lingering.end()


def _tail(data: bytes, start: int, more: bytes) -> bytes:
    """What follows `start`, copied once."""
    return b"".join((memoryview(data)[start:], more)) if more else data[start:]
