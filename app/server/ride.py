"""
One request on the shortcut: from a known head to a good plain answer, without an exchange. It moves the bytes.

Whatever does not go as it mostly goes is handed to an exchange, with the key, the connection and the bytes so far, as
if it had run there from the beginning: another status, a broken connection, a slow answer, a client that leaves, the
end of the server.
"""

from __future__ import annotations

import logging
import ssl
from dataclasses import replace
from socket import socket
from typing import TYPE_CHECKING

from app.errors import MiddlewareError
from app.formats.base import Call, Usage
from app.keys.base import Lease
from app.proxy.answers import Answer, Unusual
from app.proxy.exchange import Exchange
from app.proxy.link import Begun
from app.proxy.shortcut import Good, KnownHead, KnownKey, KnownRoute, judge
from app.proxy.upstream import Connection as UpstreamConnection
from app.server.handed import Handed, known_request
from app.server.loop import READ, Sender

if TYPE_CHECKING:
    from app.server.connection import Connection
    from app.server.express import Express

log = logging.getLogger(__name__)

READ_BYTES = 65536
#: A body that is sent as it is, not joined with its head.
LARGE_BYTES = 16 * 1024
#: How often long waits are looked for.
SWEEP_S = 0.25


class Ride(Sender):
    """A handler of its client's connection."""

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
        "request_bytes",
        "request_id",
        "route",
        "unsent",
        "unsent_body",
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
        self.request_bytes = len(call.body)
        self.began = began
        self.wall = express.wall()
        self.request_id = known.request_id or express.edge.gateway.new_id()
        self.lease: Lease | None = None
        self.key: KnownKey | None = None
        self.upstream: UpstreamConnection | None = None
        self.admitted: bool | None = None
        self.unsent = b""
        self.unsent_body = b""  # apart where it is large, so that it need not be copied
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
        upstream = self._connect(key.origin) if key is not None else None
        if key is None or upstream is None:
            self.hand_over()
            return
        body = call.body if key.edits is None else self.known.format.edit(call, key.edits)
        if len(body) < LARGE_BYTES or upstream.is_tls:
            self.unsent = b"%b%d\r\n\r\n%b" % (key.head, len(body), body)
        else:
            self.unsent, self.unsent_body = b"%b%d\r\n\r\n" % (key.head, len(body)), body
        self.upstream = upstream
        express.under_way(self)
        express.loop.holding.append(self)

    def _connect(self, origin: str) -> UpstreamConnection | None:
        """A connection that listens for this ride; None where there is none at once, or only through a proxy."""
        express = self.express
        upstream = express.idle.take(origin)
        if upstream is None:
            upstream = express.idle.connect_here(origin)
            if upstream is not None:
                express.loop.register(upstream.descriptor, READ, self.ready)
        elif upstream.absolute:
            express.idle.give(upstream)
            return None
        else:
            express.loop.rebind(upstream.descriptor, self.ready)
        return upstream

    def send_held(self) -> None:
        """The request goes out."""
        upstream, request, body = self.upstream, self.unsent, self.unsent_body
        if upstream is None or not request:
            return
        size = len(request) + len(body)
        try:
            sent = upstream.socket.sendmsg((request, body)) if body else upstream.socket.send(request)
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            sent = 0
        except OSError:
            sent = size  # the end of the connection shows when it is read
        self.unsent = b"" if sent == size else (request + body)[sent:]
        self.unsent_body = b""
        if self.unsent:
            self.hand_over()

    # -- the way back ---------------------------------------------------------------------------------

    def ready(self, _event: int) -> None:
        """The upstream has something to read."""
        try:
            data = self.receive()
            if data:
                self.come(data)
        except Exception:  # noqa: BLE001 - the top level: a defect of ours becomes an error, or a visible cut
            log.exception("a request failed inside the middleware")
            self.fail()

    def come(self, data: bytes) -> None:
        """This much more of the answer is there."""
        data = self.data = self.data + data if self.data else data
        try:
            answer = self.express.memory.answers.read(data)
            if answer is not None:
                self.arrive(answer, self.judge(answer.body))
        except Unusual:
            self.hand_over()

    def receive(self) -> bytes:
        """What the upstream has sent; nothing where there is none yet, or where the ride is over."""
        upstream = self.upstream
        if upstream is None:
            return b""
        try:
            data = upstream.socket.recv(self.express.edge.buffer_bytes())
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return b""
        except OSError:
            self.hand_over(is_reset=True)
            return b""
        if not data:
            self.hand_over()  # the exchange reads the same end
        elif upstream.is_tls:
            data += _decrypted(upstream.socket)
        return data

    def judge(self, body: bytes) -> Good:
        """What the caller gets. Raises Unusual for an answer that is not good."""
        key, good = self.key, None
        if key is not None and len(body) <= self.express.edge.gateway.settings().max_buffered_answer:
            good = judge(self.call, body, renames=key.renames)
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
        express.keys.succeeded(lease, now)
        body = good.body
        answer = b"%bContent-Length: %d\r\nDate: %b\r\nConnection: keep-alive\r\n\r\n%b" % (
            self.head(key, came.lines, came.named),
            len(body),
            express.loop.date_bytes(),
            body,
        )
        connection.arrived(answer)
        self.end(good.resource_ids, now)
        self.book(key, good.usage, now, now, len(body))

    def head(self, key: KnownKey, lines: bytes, named: bool) -> bytes:
        """The head of the answer, apart from its framing."""
        own = self.request_id.encode().join(key.own_less if named else key.own)
        return b"HTTP/1.1 200 OK\r\n%b%b" % (lines, own)

    def end(self, resource_ids: list[str], now: float) -> None:
        """The caller has its answer: what it is known by is remembered, and another request may come."""
        express, lease = self.express, self.lease
        if lease is not None and (resource_ids or self.call.hints):
            for hint in [*[hint.key for hint in self.call.hints], *resource_ids]:
                express.keys.remember(lease.provider, hint, lease.key_id, now)
        self.leave()

    def leave(self) -> None:
        """Another request may run in its place."""
        if self.admitted:
            self.admitted = None
            self.express.edge.gateway.limits.leave()

    def book(self, key: KnownKey, usage: Usage, first_at: float, now: float, response_bytes: int) -> None:
        express = self.express
        if key.shape is None:
            key.shape = express.edge.booking.shape(key.record)
        request_id = self.request_id
        if self.known.request_id is not None:
            request_id = express.edge.booking.safe_request_id(request_id)
        express.entries.append(
            (
                key.shape,
                request_id,
                self.wall,
                key.key_id,
                round((now - self.began) * 1000),
                round((first_at - self.began) * 1000),
                self.request_bytes,
                response_bytes,
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

    def fail(self) -> None:
        """A defect of ours. Where nothing is decided yet, an exchange may still do it right, or say what happened."""
        connection = self.connection
        if connection is not None and self.upstream is None:
            self.connection = None
            self.express.over(self)
            self.leave()
            connection.abort()
        else:
            self.hand_over()

    # -- everything else ----------------------------------------------------------------------------------

    def hand_over(self, is_reset: bool = False) -> None:
        """From here on an exchange serves the request, with what there is."""
        express, connection, upstream = self.express, self.connection, self.upstream
        if connection is None:
            return
        self.connection = self.upstream = None
        express.over(self)
        handed = Handed(express.edge.gateway, self.lease, self.admitted)
        gateway = replace(express.edge.gateway, keys=handed.keys, limits=handed.limits, new_id=lambda: self.request_id)
        begun = Begun(upstream, self.unsent + self.unsent_body, self.data, is_reset) if upstream is not None else None
        relay = express.make_relay(connection, Exchange(gateway, self.known.head, now=self.began, wall=self.wall))
        if upstream is not None:
            express.loop.rebind(upstream.descriptor, _nobody)
        connection.hand_over(relay, known_request(self.known, self.call.body))
        relay.resume(connection.start_handler, begun, self.began)
        handed.give_back(self.began)


def _nobody(_event: int) -> None:
    """Until the relay listens."""


def _decrypted(sock: socket) -> bytes:
    """What TLS holds already, which no poll would show."""
    data = b""
    while isinstance(sock, ssl.SSLSocket) and sock.pending():
        try:
            data += sock.recv(READ_BYTES)
        except OSError:  # nothing more yet, or an error that the next read meets again
            break
    return data
