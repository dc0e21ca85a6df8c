"""
One stream on the shortcut: events pass from the upstream to the caller as they come, without an exchange. What an event
is, and whether the stream is a good one, is `app.proxy.passing`.

Whatever else comes is handed to an exchange, before the first output as if it had run there from the beginning, and
after that with what is known of the stream so far: an error, a cut, silence, a client that leaves, the end of the
server.
"""

from __future__ import annotations

import ssl
from dataclasses import replace
from typing import TYPE_CHECKING

from app.formats.base import Call
from app.proxy import deadlines
from app.proxy.answers import CHUNKED, Unusual
from app.proxy.events import Send
from app.proxy.exchange import Exchange
from app.proxy.link import Begun
from app.proxy.passing import LAST_CHUNK, MAX_WAITING_BYTES, Flow, Passing
from app.proxy.shortcut import KnownHead, KnownRoute
from app.proxy.upstream import Connection as UpstreamConnection
from app.server.handed import known_request
from app.server.loop import READ
from app.server.ride import SWEEP_S, Ride

if TYPE_CHECKING:
    from app.server.connection import Connection
    from app.server.express import Express

#: What an answer of events has beside the upstream's headers and ours. As `Incoming.answer_headers` has it.
_STREAM_LINES = b"Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\n"


class StreamRide(Ride):
    """
    In monotonic seconds:

    heard_at  -- when the upstream last sent something
    spoke_at  -- when the caller last got something
    """

    __slots__ = (
        "answer_head",
        "first_at",
        "heard_at",
        "is_behind",
        "is_defective",
        "lines",
        "named",
        "passing",
        "spoke_at",
    )

    def __init__(
        self, express: Express, connection: Connection, known: KnownHead, route: KnownRoute, call: Call, began: float
    ) -> None:
        super().__init__(express, connection, known, route, call, began)
        self.passing: Passing | None = None  # from the answer's head on
        self.answer_head = b""
        self.lines = b""
        self.named = False
        self.first_at = self.heard_at = self.spoke_at = began
        self.is_behind = False  # the caller, with reading
        self.is_defective = False  # what came was lost by a defect of ours

    # -- the way back ---------------------------------------------------------------------------------

    def come(self, data: bytes) -> None:
        passing, connection = self.passing, self.connection
        if passing is None:
            self._answered(data)
        elif not passing.committed:
            self.data += data
            self._begin(passing, data)
        elif connection is not None:
            self.heard_at = self.express.monotonic()
            events = passing.feed(data)
            if events:
                self.spoke_at = self.heard_at
                connection.chunks(events)
            if passing.complete:
                self._complete(passing)
            elif passing.odd:
                self.hand_over()

    def _answered(self, data: bytes) -> None:
        """The answer's head is there."""
        data = self.data = self.data + data if self.data else data
        key = self.key
        try:
            head = self.express.memory.answers.head(data)
        except Unusual:
            self.hand_over()
            return
        if key is None or not head.streams or head.length != CHUNKED:
            self.hand_over()
            return
        self.lines, self.named = head.lines, head.named
        self.answer_head = data[: head.size]
        strips = key.edits is not None and key.edits.include_usage
        passing = self.passing = Passing(self.call, rename=self.call.model if key.renames else None, strip_usage=strips)
        self._begin(passing, data[head.size :])

    def _begin(self, passing: Passing, data: bytes) -> None:
        """Events before the first output. Until then an exchange could still do everything anew."""
        events = passing.feed(data)
        key, lease, connection = self.key, self.lease, self.connection
        if not passing.committed:
            if passing.odd or len(self.data) > MAX_WAITING_BYTES:
                self.hand_over()
            return
        if key is None or lease is None or connection is None:
            raise RuntimeError("a stream begins that was never asked for")
        express, call = self.express, self.call
        now = self.first_at = self.heard_at = self.spoke_at = express.monotonic()
        express.keys.succeeded(lease, now)
        express.flows(self)
        # Of what was asked nothing is needed any more.
        self.data = b""
        self.call = Call(call.match, b"", None, call.model, call.stream, call.hints)
        connection.chunks(
            b"%bTransfer-Encoding: chunked\r\nDate: %b\r\nConnection: keep-alive\r\n\r\n%b"
            % (self.head(key, self.lines + _STREAM_LINES, self.named), express.loop.date_bytes(), events)
        )
        if passing.complete:
            self._complete(passing)
        elif passing.odd:
            self.hand_over()

    def _complete(self, passing: Passing) -> None:
        """The caller has everything, and everything is booked."""
        express, key, upstream, connection = self.express, self.key, self.upstream, self.connection
        if key is None or upstream is None or connection is None:
            raise RuntimeError("a stream ends that was never asked for")
        now = express.monotonic()
        usage = passing.settle()
        self.upstream = None
        express.over(self)
        if self.is_behind:
            express.loop.modify(upstream.descriptor, READ)
        if passing.rest == LAST_CHUNK:
            express.idle.give(upstream)
        elif LAST_CHUNK.startswith(passing.rest):
            express.lingers(upstream, passing.rest, now)
        else:
            express.idle.drop(upstream)
        connection.arrived(passing.tail + LAST_CHUNK)
        self.end(passing.watcher.state.resource_ids, now)
        self.book(key, usage, self.first_at, now, passing.size)

    def is_overdue(self, now: float, silence_s: float, beat_s: float) -> bool:
        """Whether it is silent for nearly as long as it may be, which is another time once it has told its end."""
        if self.is_behind:  # what waits unread at the upstream's side is no silence
            return False
        finished = self.passing is not None and self.passing.watcher.state.finished
        patience_s = deadlines.FINISHED_SILENCE_S if finished else silence_s
        return now + 2 * SWEEP_S >= min(self.heard_at + patience_s, self.spoke_at + beat_s)

    # -- for the connection ---------------------------------------------------------------------------

    def pause(self, paused: bool) -> None:
        """Stop or go on reading from the upstream: the caller reads more slowly than it writes."""
        if self.upstream is not None and paused is not self.is_behind:
            self.is_behind = paused
            self.heard_at = self.express.monotonic()
            self.express.loop.modify(self.upstream.descriptor, 0 if paused else READ)

    # -- everything else ------------------------------------------------------------------------------

    def hand_over(self, is_reset: bool = False) -> None:
        self.pause(False)  # who goes on is told by the connection
        passing, lease, upstream, connection = self.passing, self.lease, self.upstream, self.connection
        if passing is None or not passing.committed or lease is None:
            super().hand_over(is_reset)
            return
        if connection is None or upstream is None:
            return
        express, gateway = self.express, self.express.edge.gateway
        self.connection = self.upstream = None
        express.over(self)
        passing.hand_over()
        flow = Flow(
            call=self.call,
            route=self.route.route,
            lease=lease,
            rename=passing.rename,
            strip_usage=passing.strip_usage,
            watcher=passing.watcher,
            admitted=self.admitted is True,
            began_at=self.began,
            first_at=self.first_at,
            heard_at=self.heard_at,
            spoke_at=self.spoke_at,
            request_bytes=self.request_bytes,
            response_bytes=passing.size,
            part=passing.part,
            is_defective=self.is_defective,
        )
        visitor = replace(self.known.visitor, request_id=self.request_id)
        exchange = Exchange(gateway, self.known.head, now=self.began, wall=self.wall, visitor=visitor)
        relay = express.make_relay(connection, exchange)
        connection.hand_over(relay, known_request(self.known, b""))
        connection.flows()
        relay.take_over(
            Send(upstream.origin, "POST", "/", [], b"", connect_timeout_s=0.0, attempt=1),
            Begun(upstream, received=passing.rest, is_reset=is_reset),
            self.answer_head,
            lambda head, now: exchange.resume(flow, head, now),
        )

    def fail(self) -> None:
        self.is_defective = True
        super().fail()


class Lingering:
    """An upstream connection whose answer the caller has whole, and whose framing has not ended."""

    __slots__ = ("_came", "_express", "_upstream", "until")

    def __init__(self, express: Express, upstream: UpstreamConnection, came: bytes, until: float) -> None:
        self.until = until
        self._express = express
        self._upstream = upstream
        self._came = came

    def ready(self, _event: int) -> None:
        """More has come: the end, or something that nobody asked for."""
        try:
            data = self._upstream.socket.recv(len(LAST_CHUNK) + 1)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except OSError:
            data = b""
        self._came += data
        if not data or not LAST_CHUNK.startswith(self._came):
            self.end()
        elif self._came == LAST_CHUNK:
            del self._express.lingering[self._upstream.descriptor]
            self._express.idle.give(self._upstream)

    def end(self) -> None:
        """It is not worth keeping."""
        del self._express.lingering[self._upstream.descriptor]
        self._express.idle.drop(self._upstream)
