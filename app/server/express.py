"""
Plain calls that take the shortcut: from one known head to one good answer, without an exchange. Moves the bytes; what
it knows and how it judges is `app.proxy.shortcut`.

Whatever does not go as it mostly goes is handed to an exchange, with the key, the connection and the bytes so far, as
if it had run there from the beginning: another status, a broken connection, a stream, a slow answer, a client that
leaves, the end of the server.
"""

from __future__ import annotations

import re
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from app.edge import Edge
from app.errors import MiddlewareError
from app.formats.base import Call
from app.formats.json_body import FEW_BYTES
from app.keys.base import Lease
from app.proxy.events import RequestHead
from app.proxy.exchange import Exchange
from app.proxy.link import Begun
from app.proxy.shortcut import (
    Answer,
    Good,
    KnownHead,
    KnownKey,
    KnownRoute,
    Memory,
    Unusual,
    judge,
    split_length,
)
from app.proxy.upstream import Connection as UpstreamConnection
from app.server.gathering import Gathering, parse_head
from app.server.handed import Handed, known_request
from app.server.handler import Handler
from app.server.idle import IdleConnections
from app.server.loop import Alarm, Loop, Sender
from app.server.requests import Request

if TYPE_CHECKING:
    from app.server.connection import Connection

READ_BYTES = 65536
#: A known request that is larger is left to the parser, which keeps large bodies on the disk.
MAX_GATHERED_BYTES = 256 * 1024
#: The same when so much is gathered for all clients.
MAX_ALL_GATHERED_BYTES = 32 * 1024 * 1024
#: And when it takes longer.
GATHERING_S = 5.0
#: A small body that asks for a stream; one that is large or asks in other words is found when it is read.
_STREAMS = re.compile(rb'"stream"[ \t\r\n]*:[ \t\r\n]*true')
#: How often long waits are looked for.
SWEEP_S = 0.25

#: (request, address of the client) -> the head as the core takes it; None where the core is not asked
MakeHead = Callable[[Request, str], RequestHead | None]
#: (client connection, exchange) -> what serves the request
MakeRelay = Callable[["Connection", Exchange], "Resumable"]


class Resumable(Handler, Protocol):
    """A relay, as far as this module needs one."""

    def resume(self, start: Callable[[], None], begun: Begun | None, began_at: float) -> None: ...


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
        self.entries = edge.booking.entries
        self.booked = booked
        self.running = edge.booking.running
        self.gathered_bytes = 0
        self._turn = -1
        self._open = True
        self._sweeper = Alarm(loop, self._sweep)
        self._sweeping = False

    def take(self, connection: Connection, data: bytes) -> int:
        """
        Serve the request that `data` begins with, on a connection that waits for one: 0 = not here, else how many
        bytes of request were understood; more than `data` has means that the body is not complete, and nothing was
        done.
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
        if length > known.max_bytes or len(data) > size:
            return 0
        if len(data) == size and not self._ride(connection, known, data[end + 4 :], now):
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
        if len(body) < FEW_BYTES and b'"stream"' in body and _STREAMS.search(body) is not None:
            self._stream(connection, known, body, now)
            return True
        form = known.format
        try:
            call = form.read(known.match, known.visitor.headers, known.visitor.query, body)
        except MiddlewareError:
            return False  # the exchange finds the same, and says it
        if call.stream:
            self._stream(connection, known, body, now)
            return True
        route = self.memory.route(known, call)
        if route is None:
            return False
        ride = Ride(self, connection, known, route, call, now)
        connection.ride(ride)
        ride.depart()
        return True

    def _stream(self, connection: Connection, known: KnownHead, body: bytes, now: float) -> None:
        """An exchange serves it, which need not look at the head again."""
        gateway = self.edge.gateway
        visitor = replace(known.visitor, request_id=known.request_id or gateway.new_id())
        exchange = Exchange(gateway, known.head, now=now, wall=self.wall(), visitor=visitor)
        connection.hand_over(self.make_relay(connection, exchange), known_request(known, body))
        connection.start_handler()

    # -- time ---------------------------------------------------------------------------------------

    def under_way(self, ride: Ride) -> None:
        self.rides[ride] = None
        self.running.requests += 1
        self.running.chats += ride.known.is_chat
        if not self._sweeping:
            self._sweeping = True
            self._sweeper.move(time.monotonic() + SWEEP_S)

    def over(self, ride: Ride) -> None:
        """It has arrived, or goes on as an exchange."""
        if ride in self.rides:
            del self.rides[ride]
            self.running.requests -= 1
            self.running.chats -= ride.known.is_chat

    def _sweep(self) -> None:
        """Requests that have waited nearly as long as any deadline allows go on as exchanges, which keep them."""
        settings = self.edge.gateway.settings()
        patience_s = min(settings.read_timeout, settings.request_timeout) - 2 * SWEEP_S
        now = self.monotonic()
        for ride in list(self.rides):
            if now - ride.began < patience_s:
                break
            ride.hand_over()
        self._sweeping = bool(self.rides)
        if self._sweeping:
            self._sweeper.move(time.monotonic() + SWEEP_S)

    def close(self) -> None:
        """From now on everything is an exchange, also what is under way."""
        for ride in list(self.rides):
            ride.hand_over()


class Ride(Sender):
    """One request on the shortcut. A handler of its client's connection."""

    __slots__ = (
        "admitted",
        "began",
        "call",
        "connection",
        "data",
        "express",
        "key",
        "known",
        "lease",
        "request_id",
        "route",
        "unsent",
        "upstream",
        "wall",
    )

    def __init__(
        self, express: Express, connection: Connection, known: KnownHead, route: KnownRoute, call: Call, began: float
    ) -> None:
        self.express = express
        self.connection: Connection | None = connection
        self.known = known
        self.route = route
        self.call = call
        self.began = began
        self.wall = express.wall()
        self.request_id = known.request_id or express.edge.gateway.new_id()
        self.lease: Lease | None = None
        self.key: KnownKey | None = None
        self.upstream: UpstreamConnection | None = None
        self.admitted: bool | None = None
        self.unsent = b""
        self.data = b""

    # -- the way there --------------------------------------------------------------------------------

    def depart(self) -> None:
        """Send the request, or hand it over."""
        express, route, call = self.express, self.route, self.call
        wanted = route.wanted
        try:
            if self.known.limited:
                self.admitted = express.edge.gateway.limits.admit(self.wall)
            if call.hints:
                owner = express.keys.owner(wanted.providers, [hint.key for hint in call.hints], self.began)
                wanted = replace(wanted, preferred=owner)
            lease = self.lease = express.keys.acquire(wanted, self.began)
        except MiddlewareError:
            self.hand_over()
            return
        key = self.key = express.memory.key(self.known, route, call, lease)
        upstream = express.idle.take(key.origin) if key is not None else None
        if key is None or upstream is None or upstream.absolute:
            if upstream is not None:
                express.idle.give(upstream)
            self.hand_over()
            return
        body = call.body if key.edits is None else self.known.format.edit(call, key.edits)
        self.unsent = b"%b%d\r\n\r\n%b" % (key.head, len(body), body)
        self.upstream = upstream
        express.loop.rebind(upstream.descriptor, self.ready)
        express.under_way(self)
        express.loop.holding.append(self)

    def send_held(self) -> None:
        """The request goes out."""
        upstream, request = self.upstream, self.unsent
        if upstream is None or not request:
            return
        try:
            sent = upstream.socket.send(request)
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            sent = 0
        except OSError:
            sent = len(request)  # the end of the connection shows when it is read
        self.unsent = request[sent:]
        if self.unsent:
            self.hand_over()

    # -- the way back ---------------------------------------------------------------------------------

    def ready(self, _event: int) -> None:
        """The upstream has something to read."""
        upstream = self.upstream
        if upstream is None:
            return
        try:
            data = upstream.socket.recv(READ_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except OSError as error:
            self.hand_over(error=error)
            return
        if not data:
            self.hand_over()  # the exchange reads the same end
            return
        if upstream.is_tls:
            data += _decrypted(upstream.socket)
        data = self.data = self.data + data if self.data else data
        try:
            answer = self.express.memory.answers.read(data)
            if answer is not None:
                self.arrive(answer, self.judge(answer.body))
        except Unusual:
            self.hand_over()

    def judge(self, body: bytes) -> Good:
        """What the caller gets. Raises Unusual for an answer that is not good."""
        key, good = self.key, None
        if key is not None and len(body) <= self.express.edge.gateway.settings().max_buffered_answer:
            good = judge(self.call, body, key.edits)
        if good is None:
            raise Unusual
        return good

    def arrive(self, came: Answer, good: Good) -> None:
        """The answer is good: the caller gets it, and everything is booked."""
        express, lease, key = self.express, self.lease, self.key
        upstream, connection = self.upstream, self.connection
        if lease is None or key is None or upstream is None or connection is None:
            raise RuntimeError("a ride arrives that never departed")
        now = express.monotonic()
        self.upstream = None
        express.over(self)
        express.idle.give(upstream)
        keys = express.keys
        keys.succeeded(lease, now)
        for hint in [*[hint.key for hint in self.call.hints], *good.resource_ids]:
            keys.remember(lease.provider, hint, lease.key_id, now)
        body = good.body
        own = self.request_id.encode().join(key.own_less if came.named else key.own)
        answer = b"HTTP/1.1 200 OK\r\n%b%bContent-Length: %d\r\nDate: %b\r\nConnection: keep-alive\r\n\r\n%b" % (
            came.lines,
            own,
            len(body),
            express.loop.date_bytes(),
            body,
        )
        connection.arrived(answer)
        if self.admitted:
            express.edge.gateway.limits.leave()
        self.book(key, good, now)

    def book(self, key: KnownKey, good: Good, now: float) -> None:
        express, usage = self.express, good.usage
        if key.shape is None:
            key.shape = express.edge.booking.shape(key.record)
        request_id = self.request_id
        if self.known.request_id is not None:
            request_id = express.edge.booking.safe_request_id(request_id)
        duration_ms = round((now - self.began) * 1000)
        express.entries.append(
            (
                key.shape,
                request_id,
                self.wall,
                key.key_id,
                duration_ms,
                duration_ms,
                len(self.call.body),
                len(good.body),
                usage.input_tokens,
                usage.output_tokens,
                usage.cached_tokens,
                usage.cache_write_tokens,
                usage.reasoning_tokens,
            )
        )
        express.booked()

    # -- for the connection -----------------------------------------------------------------------------

    def start(self) -> None:
        """It departs when it is made."""

    def body(self, data: bytes) -> None:
        """Complete from the beginning."""

    def gone(self) -> None:
        """The connection hands it over before it tells of that."""

    def drain(self) -> None:
        """The same."""

    def pause(self, paused: bool) -> None:
        """Nothing flows before the whole answer is here."""

    def refuse(self, error: MiddlewareError) -> None:
        """Nothing that its connection could meet: the request is complete."""

    # -- everything else ----------------------------------------------------------------------------------

    def hand_over(self, error: OSError | None = None) -> None:
        """From here on an exchange serves the request, with what there is."""
        express, connection, upstream = self.express, self.connection, self.upstream
        if connection is None:
            return
        self.connection = self.upstream = None
        express.over(self)
        handed = Handed(express.edge.gateway, self.lease, self.admitted)
        gateway = replace(express.edge.gateway, keys=handed.keys, limits=handed.limits, new_id=lambda: self.request_id)
        begun = Begun(upstream, self.unsent, self.data, error) if upstream is not None else None
        relay = express.make_relay(connection, Exchange(gateway, self.known.head, now=self.began, wall=self.wall))
        if upstream is not None:
            express.loop.rebind(upstream.descriptor, _nobody)
        connection.hand_over(relay, known_request(self.known, self.call.body))
        relay.resume(connection.start_handler, begun, self.began)
        handed.give_back(self.began)


def _nobody(_event: int) -> None:
    """Until the relay listens."""


def _decrypted(sock: socket.socket) -> bytes:
    """What TLS holds already, which no poll would show."""
    data = b""
    while isinstance(sock, ssl.SSLSocket) and sock.pending():
        try:
            data += sock.recv(READ_BYTES)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            break
    return data
