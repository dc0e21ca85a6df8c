"""
The loop driver: runs one exchange on the event loop. It moves bytes and decides nothing, as the thread driver does.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol

from app.edge import Edge, describe
from app.errors import MiddlewareError, Overloaded
from app.proxy.collation import ListExchange
from app.proxy.events import (
    Abort,
    ClientBytes,
    ClientGone,
    ClientHead,
    CloseUpstream,
    Command,
    Drain,
    Event,
    Finish,
    ReadBody,
    Record,
    ReleaseUpstream,
    RequestBody,
    Send,
    Tick,
    UpstreamFailed,
    UpstreamHead,
)
from app.proxy.exchange import Exchange
from app.proxy.link import Begun, Link
from app.proxy.upstream import DialFailed
from app.server.idle import IdleConnections
from app.server.loop import READ, Alarm, Loop
from app.telemetry.metrics import InFlight

log = logging.getLogger(__name__)

#: How long after the connect timeout a dialling thread is given up.
DIAL_SLACK_S = 0.5


#: (head of the upstream's answer, monotonic seconds) -> the first commands
GoOn = Callable[[UpstreamHead, float], list[Command]]


class Client(Protocol):
    """The connection to the caller, as the relay sees it."""

    def want_body(self, max_bytes: int) -> None: ...
    def head(self, command: ClientHead) -> None: ...
    def data(self, data: bytes) -> None: ...
    def finish(self) -> None: ...
    def abort(self) -> None: ...
    def uncork(self) -> None: ...


class LoopRelay:
    """
    Runs until the exchange is done, which may be a moment after the caller has everything.

    in_flight  -- is told what the request is
    over       -- called once, then
    """

    def __init__(
        self,
        loop: Loop,
        edge: Edge,
        idle: IdleConnections,
        exchange: Exchange | ListExchange,
        client: Client,
        in_flight: InFlight,
        over: Callable[[], None],
    ) -> None:
        self.exchange = exchange
        self._loop = loop
        self._edge = edge
        self._idle = idle
        self._client: Client | None = client
        self._in_flight: InFlight | None = in_flight  # until it is known what the request is
        self._over: Callable[[], None] | None = over
        self._link: Link | None = None
        self._descriptor = -1
        self._interest = 0
        self._paused = False
        self._begun: Begun | None = None
        self._began_at: float | None = None
        self._alarm = Alarm(loop, self._due)
        self._dial_alarm = Alarm(loop, self._dialled_too_long)

    # -- for the connection -------------------------------------------------------------------------

    def start(self) -> None:
        self._drive(self.exchange.start)

    def resume(self, start: Callable[[], None], begun: Begun | None, began_at: float) -> None:
        """
        Take over a request whose first attempt somebody else has begun.

        start     -- has the connection to the caller start this relay, and give it the request's body
        began_at  -- monotonic seconds at which the attempt was sent
        """
        self._begun, self._began_at = begun, began_at
        start()
        self._began_at = None
        if begun is None:
            return
        if self._begun is not None:  # the exchange wanted no attempt
            self._begun = None
            self._loop.unregister(begun.connection.descriptor)
            begun.connection.close()
        else:
            self._ready(0)

    def take_over(self, send: Send, begun: Begun, head: bytes, go_on: GoOn) -> None:
        """
        Go on with a stream whose beginning somebody else has passed on to the caller.

        send   -- where it came from
        begun  -- its connection, and what was read from it and not passed on
        head   -- of the upstream's answer, as it came
        go_on  -- (head, now) -> the first commands
        """
        link = self._link = Link(send, self._idle, begun)
        self._watch()
        for answered in link.digest(head)[0]:
            if isinstance(answered, UpstreamHead):
                self._drive(partial(go_on, answered))
        self._ready(0)

    def body(self, data: bytes) -> None:
        self._feed(RequestBody(data))

    def gone(self) -> None:
        """The caller left: nothing more can be told to it."""
        self._client = None
        self._feed(ClientGone())

    def drain(self) -> None:
        self._feed(Drain())

    def refuse(self, error: MiddlewareError) -> None:
        self._run(self.exchange.refuse(error, self._edge.clock.monotonic()))

    def pause(self, paused: bool) -> None:
        """Stop or go on reading from the upstream: the caller reads more slowly than it writes."""
        if self._paused is not paused:
            self._paused = paused
            self._watch()
            if self._link is not None and self._link.has_buffered:  # no poll shows what TLS holds already
                self._loop.call_soon(lambda: self._ready(0))

    # -- the core -----------------------------------------------------------------------------------

    def _feed(self, event: Event) -> None:
        self._drive(lambda now: self.exchange.feed(event, now))

    def _due(self) -> None:
        """The core's deadline. What came while the caller was behind counts before the clock does."""
        deadline = self.exchange.deadline
        if self._link is not None and not self._link.dialling:
            self._ready(READ)
        if not self.exchange.done and self.exchange.deadline == deadline:
            self._feed(Tick())

    def _drive(self, step: Callable[[float], list[Command]]) -> None:
        now = self._edge.clock.monotonic() if self._began_at is None else self._began_at
        try:
            commands = step(now)
        except Exception:  # noqa: BLE001 - the top level: a defect of ours becomes an answer in the caller's dialect
            log.exception("a request failed inside the middleware")
            commands = self.exchange.refuse(MiddlewareError(), now)
        self._run(commands)

    def _run(self, commands: list[Command]) -> None:
        for command in commands:
            _ACTIONS[type(command)](self, command)
        if self._client is not None:
            self._client.uncork()
        if self._in_flight is not None and self.exchange.call is not None:
            describe(self._in_flight, self.exchange.call)
            self._in_flight = None
        if not self.exchange.done:
            self._alarm.move(self.exchange.deadline)
            return
        self._alarm.end()
        self._drop_link()
        self._dial_alarm.end()
        over, self._over = self._over, None
        if over is not None:
            over()

    # -- commands -----------------------------------------------------------------------------------

    def _do_read_body(self, command: ReadBody) -> None:
        if self._client is not None:
            self._client.want_body(command.max_bytes)

    def _do_client_head(self, command: ClientHead) -> None:
        if self._client is not None:
            self._client.head(command)

    def _do_client_bytes(self, command: ClientBytes) -> None:
        if self._client is not None:
            self._client.data(command.data)

    def _do_finish(self, _command: Finish) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.finish()

    def _do_abort(self, _command: Abort) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.abort()

    def _do_record(self, command: Record) -> None:
        self._edge.record(command.record)

    def _do_send(self, command: Send) -> None:
        self._drop_link()
        begun, self._begun = self._begun, None
        try:
            link = self._link = Link(command, self._idle, begun)
        except ValueError:
            log.exception("a request failed inside the middleware")
            self.refuse(MiddlewareError())
            return
        if not link.dialling:
            self._watch()
            return
        self._dial_alarm.move(time.monotonic() + command.connect_timeout_s + DIAL_SLACK_S)
        link.when_dialled(lambda: self._loop.call_soon(lambda: self._dialled(link)))

    def _do_close_upstream(self, _command: CloseUpstream) -> None:
        self._drop_link()

    def _do_release_upstream(self, _command: ReleaseUpstream) -> None:
        link = self._link
        if link is None or not link.reusable:
            self._drop_link()
            return
        # It stays registered: the idle connections take over what it wakes.
        if self._interest != READ:
            self._loop.modify(self._descriptor, READ)
        self._link, self._descriptor, self._interest = None, -1, 0
        link.release()

    # -- the upstream's socket -----------------------------------------------------------------------

    def _dialled(self, link: Link) -> None:
        if self._link is not link or not link.dialling:
            return
        self._dial_alarm.move(None)
        try:
            link.await_dial(0)
        except DialFailed as error:
            self._drop_link()
            if error.code == "exhausted":
                self.refuse(Overloaded("The server is at the limit of its connections.", retry_after_s=1))
            else:
                self._feed(UpstreamFailed(error.code, connected=False, message=str(error)))
        else:
            self._watch()

    def _dialled_too_long(self) -> None:
        if self._link is not None and self._link.dialling:
            self._drop_link()
            self._feed(UpstreamFailed("connect_timeout", connected=False, message="no connection in time"))

    def _watch(self) -> None:
        """Wait for what the link waits for."""
        link = self._link
        if link is None or link.dialling:
            return
        interest = link.interest & ~1 if self._paused else link.interest
        if self._descriptor < 0:
            self._descriptor = link.descriptor
            self._adopt(interest)
        elif interest != self._interest:
            self._loop.modify(self._descriptor, interest)
        self._interest = interest

    def _adopt(self, interest: int) -> None:
        """Listen to a connection that is new, or was idle and is registered already."""
        if not self._loop.is_registered(self._descriptor):
            self._loop.register(self._descriptor, interest, self._ready)
            return
        self._loop.rebind(self._descriptor, self._ready)
        if interest != READ:
            self._loop.modify(self._descriptor, interest)

    def _ready(self, _event: int) -> None:
        link = self._link
        if link is None:
            return
        while self._read(link) and link.has_buffered and not self._paused:
            pass
        if self._link is link:
            self._watch()

    def _read(self, link: Link) -> bool:
        """Read once and tell the exchange; False when this link is over."""
        try:
            data = link.read(self._edge.buffer_bytes())
        except OSError:
            return self._failed(link.was_reset())
        return data is None or self._digest(link, data)

    def _digest(self, link: Link, data: bytes) -> bool:
        """Tell the exchange what these bytes mean; False when this link is over."""
        events, failure = link.digest(data)
        for event in events:
            if self._link is not link:
                return False
            self._feed(event)
        if self._link is not link:
            return False
        return failure is None or self._failed(failure)

    def _failed(self, failure: UpstreamFailed) -> bool:
        self._drop_link()
        self._feed(failure)
        return False

    def _take_link(self) -> Link | None:
        link, self._link = self._link, None
        if self._descriptor >= 0:
            self._loop.unregister(self._descriptor)
            self._descriptor, self._interest = -1, 0
        return link

    def _drop_link(self) -> None:
        self._dial_alarm.move(None)
        link = self._take_link()
        if link is not None:
            link.close()


_ACTIONS: dict[type, Callable[..., None]] = {
    ReadBody: LoopRelay._do_read_body,
    Send: LoopRelay._do_send,
    CloseUpstream: LoopRelay._do_close_upstream,
    ReleaseUpstream: LoopRelay._do_release_upstream,
    ClientHead: LoopRelay._do_client_head,
    ClientBytes: LoopRelay._do_client_bytes,
    Finish: LoopRelay._do_finish,
    Abort: LoopRelay._do_abort,
    Record: LoopRelay._do_record,
}
