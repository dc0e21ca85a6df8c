"""
One client's connection on the loop: requests in order, each to the relay or to Flask, answers in the same order.

A client that sends slowly, reads slowly or does nothing holds no thread: it has deadlines, and its unread answer is
bounded by stopping to read from where the answer comes.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from app.errors import MiddlewareError, Overloaded, RequestTimeout
from app.proxy.events import ClientHead
from app.server.answering import Answering
from app.server.body_wait import BodyWait
from app.server.express import Express
from app.server.framing import CONTINUE, Framing
from app.server.gathering import Gathering
from app.server.handler import Handler
from app.server.loop import GONE, NEVER, READ, WRITE, Loop
from app.server.refusals import refusal_body
from app.server.requests import BadRequestBytes, Request, RequestParser
from app.server.ride import Ride
from app.server.sockets import BROKEN, reset_at_close
from app.server.uploads import EVERYBODY, Uploads, UploadsFull

READ_BYTES = 65536
#: A whole head must come within this, however it trickles.
HEAD_TIMEOUT_S = 30.0
#: How long a connection may wait for its next request.
IDLE_TIMEOUT_S = 75.0
#: After the last answer: time for the client to read it before the connection is gone.
LINGER_S = 2.0
#: What a client may go on sending after its last answer; it can't read that answer while a reset is on its way.
LINGER_BYTES = 16 * 1024 * 1024


class Connection(Answering):
    """
    handler_for  -- (connection, request) -> who serves it; `None` as its body limit means the whole body is wanted
    closed       -- called once, at the very end
    room         -- where bodies wait until they are whole
    express      -- takes the requests that it knows
    """

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        peer: str,
        handler_for: Callable[[Connection, Request], Handler],
        closed: Callable[[Connection], None],
        room: Uploads = EVERYBODY,
        express: Express | None = None,
    ) -> None:
        super().__init__(loop, sock)
        self.peer = peer
        self.peer_key = peer.encode() + b" "
        self.stopping = False  # no further requests: the server ends
        self._handler_for = handler_for
        self._closed = closed
        self._express = express
        self._waits = express is not None  # for the first bytes of a request
        self._gathering: Gathering | None = None
        self._descriptor = sock.fileno()
        self._parser = RequestParser(room)
        self._handler: Handler | None = None
        self._body_wait: BodyWait | None = None  # while the handler waits for the body
        self._body_given = False
        self._head_until: float | None = None
        self._fault: BadRequestBytes | None = None  # what came after the requests that are here
        self._ending = False  # the last answer is out or on its way; what still comes is thrown away
        self._thrown_away = 0
        self._hung_up = False  # the client sends no more; some of what it sent may be unread
        self._half_closed = False  # and everything that it sent is read
        self._probed = self._reset = False
        self._interest = READ | GONE
        loop.register(self._descriptor, self._interest, self._ready, self._leave)
        self._alarm.move(time.monotonic() + HEAD_TIMEOUT_S)

    @property
    def idle(self) -> bool:
        """It waits for a request or for the rest of its head: closing it loses nothing that was asked for."""
        return self._handler is None and not (self._unsent or self._held or self._parser.requests or self._gathering)

    # -- the socket ---------------------------------------------------------------------------------

    def _ready(self, event: int) -> None:
        if event & WRITE:
            self._flush()
        if event & (BROKEN | GONE):
            self._end_ride()
        if event & READ and not self._dead:
            self._read()
        elif event & BROKEN and not self._dead:
            self._leave()
        elif event & GONE and not self._dead:
            self._hung_up = True
            self._probe()
            self._watch()

    def _read(self) -> None:
        try:
            data = self.socket.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self._leave()
            return
        if not data:
            self._end_of_input()
        elif self._waits or self._gathering is not None:
            self._begin(data)
        elif not self._ending:
            self._take(data)
        else:
            self._thrown_away += len(data)
            if self._thrown_away > LINGER_BYTES:
                self._leave()

    def _begin(self, data: bytes) -> None:
        """A request begins, or goes on to: for the shortcut, or for the parser where the answer before it is unread."""
        self._waits = False
        gathering, self._gathering = self._gathering, None
        if self._express is not None and (gathering is not None or not self._unsent):
            self._gathering, data = self._express.board(self, data, gathering)
        if self._gathering is not None:
            self._alarm.move(self._gathering.until)
        elif data:
            self._take(data)

    def _stop_gathering(self) -> None:
        """Have the parser go on with what there is of a request."""
        gathering, self._gathering = self._gathering, None
        if gathering is not None:
            self._take(gathering.end())

    def _take(self, data: bytes) -> None:
        if self._fault is None:
            try:
                self._parser.feed(data)
            except BadRequestBytes as error:
                self._fault = error
        self._advance()
        self._reset_alarm()

    def _end_of_input(self) -> None:
        """
        The client sends no more, and may still read: what it asked for is answered (RFC 9112, 9.6). It is gone where it
        waits for nothing, and where the body that we wait for can't become whole.
        """
        self.send_held()
        self._stop_gathering()
        self._end_ride()
        self._half_closed = True
        queue = self._parser.requests
        if self._fault is None and queue and not queue[-1].complete:
            queue.pop().drop_body()
        waiting = self._handler is not None or bool(queue) or self._fault is not None or bool(self._unsent)
        if self._ending or self._body_wait is not None or not waiting:
            self._leave()
            return
        self._keep = self._keep and bool(queue)
        self._probe()
        self._advance()

    def _probe(self) -> None:
        """
        A client that left looks like one that only stopped sending, until what it gets is answered with a reset. So it
        gets what means nothing: an interim answer, then a leading zero of a chunk's size (RFC 9110, 15.2; 9112, 7.1).
        """
        if self._probed or self._unsent or self._request is None:
            return
        self._probed = True
        framing = self._framing
        if framing is None and self._request.chunks_allowed:
            self._write(CONTINUE)
        elif framing is not None and framing.chunked:
            self._write(b"0")

    def _leave(self) -> None:
        """The connection broke, or its time is over."""
        self._stop_gathering()
        self._end_ride()
        handler, self._handler = self._handler, None
        self.close()
        if handler is not None:
            handler.gone()

    def _refuse(self, error: BadRequestBytes) -> None:
        """Bytes that are no request: say so and close."""
        self._keep = False
        body = refusal_body(error.status, str(error))
        self._send_head(ClientHead(error.status, [("Content-Type", "application/json")], len(body)), None)
        self._write(body)
        self._end()

    # -- requests -----------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Begin the next request once the answers before it are as good as sent; hand on its body."""
        self._hand_on_body()
        queue = self._parser.requests
        while self._handler is None and queue and not self._ending and not self._paused:
            request = self._request = queue.popleft()
            self._keep = request.keep_alive and not self.stopping and not (self._half_closed and not queue)
            self._body_wait = self._framing = self._head_until = None
            self._body_given = False
            handler = self._handler = self._handler_for(self, request)
            handler.start()
            self._hand_on_body()
        if self._handler is None and not queue and not self._ending:
            if self._fault is not None:
                self._refuse(self._fault)
            elif self._half_closed:
                self._end()
        self._watch()

    # -- for the shortcut -----------------------------------------------------------------------------

    def ride(self, ride: Ride) -> None:
        """`ride` serves the request that has just come."""
        self._handler = ride
        self._alarm.postpone(NEVER)  # the shortcut keeps its own deadlines

    def arrived(self, answer: bytes) -> None:
        """The whole answer to it."""
        self._handler = None
        self._write_soon(answer)
        if self._parser.is_clean and not self.stopping:
            self._waits = True
            if not self._unsent:
                self._alarm.postpone(time.monotonic() + IDLE_TIMEOUT_S)
        elif not self._dead:
            self._loop.call_soon(self._end if self.stopping else self._next)

    def hand_over(self, handler: Handler, request: Request) -> None:
        """`handler` serves `request`, which is complete, instead; `start_handler` follows."""
        self._handler, self._request = handler, request
        handler.pause(self._paused)
        self._keep = not self.stopping
        self._body_wait = self._framing = self._head_until = None
        self._body_given = False
        if not self._unsent:
            self._alarm.move(None)

    def flows(self) -> None:
        """The head of a chunked answer went out already, and chunks of it."""
        self._framing = Framing(b"", keep=self._keep, bodiless=False, chunked=True, undelimited=False)

    def start_handler(self) -> None:
        if self._handler is not None:
            self._handler.start()
            self._hand_on_body()

    def _end_ride(self) -> None:
        """What is under way on the shortcut goes on as an exchange, which knows what to do about anything."""
        if isinstance(self._handler, Ride):
            self._handler.hand_over()

    # -- bodies ---------------------------------------------------------------------------------------

    def want_body(self, max_bytes: int, when_whole: Callable[[], None] | None = None) -> None:
        """
        The handler waits for the body, of which more than this is too much. `when_whole`, where given, is called
        instead of its `body`, and the body stays in the request, which is the handler's to drop.
        """
        self._body_wait = BodyWait(max_bytes, when_whole, time.monotonic())
        request = self._request
        if request is not None and request.expects and not request.complete and not request.size:
            self._write(CONTINUE)
        self._hand_on_body()

    def _hand_on_body(self) -> None:
        request, handler, wait = self._request, self._handler, self._body_wait
        if request is None or handler is None or wait is None:
            return
        if request.complete or request.size > wait.limit:
            self._body_wait = None
            if wait.when_whole is not None and request.size <= wait.limit:
                self._body_given = True
                wait.when_whole()
                return
            try:
                body = request.take_body(0 if wait.when_whole is not None else wait.limit + 1)
            except UploadsFull:
                handler.refuse(Overloaded("The body was lost while it was kept.", retry_after_s=1))
            else:
                handler.body(body)
        elif self._fault is not None:
            self._fail_body(self._fault.in_body())

    # -- answers: for the handler ---------------------------------------------------------------------

    def finish(self) -> None:
        """The answer is complete."""
        if self._framing is not None and self._framing.chunked:
            self._write(b"0\r\n\r\n")
        request, self._request, self._handler = self._request, None, None
        self._drop_body(request)
        self.uncork()
        # A body that was not read to its end stands between here and the next request.
        if not self._keep or (request is not None and not request.complete):
            self._end()
        elif not self._dead:
            self._loop.call_soon(self._next)

    def abort(self) -> None:
        """The answer will never be complete: break the connection so that the client can see it."""
        self._drop_body(self._request)
        self._request, self._handler = None, None
        framing = self._framing
        if self._probed and framing is not None and framing.chunked:
            self._write(b"1\r\n")  # the zero of the probe must not pass for the last chunk
        self.uncork()
        self.send_held()
        self._ending = True
        self._reset = framing is not None and framing.undelimited
        if self._unsent:
            self._alarm.move(time.monotonic() + LINGER_S)
            self._watch()
        else:
            self.close()

    def _next(self) -> None:
        if not self._dead and self._handler is None:
            self._advance()
            self._reset_alarm()
            self._waits = self._is_waiting()

    def _is_waiting(self) -> bool:
        """Whether the next bytes begin a request that the shortcut may take."""
        idle = self._handler is None and self._parser.is_clean and self._fault is None
        return idle and self._express is not None and not (self._ending or self._half_closed)

    # -- its way out ------------------------------------------------------------------------------------

    def _all_sent(self) -> None:
        if self._ending and self._handler is None:
            self._end()
        else:
            self._watch()
            self._reset_alarm()

    def _fell_behind(self, paused: bool) -> None:
        if self._handler is not None:
            self._handler.pause(paused)
        elif not paused:
            self._loop.call_soon(self._next)

    def _watch(self) -> None:
        if self._dead:
            return
        behind = not self._ending and (bool(self._parser.requests) or self._fault is not None)
        full = self._body_wait is None and self._request is not None and self._request.size > READ_BYTES
        interest = (WRITE if self._unsent else 0) | (0 if behind or full or self._half_closed else READ)
        if not self._hung_up and not self._half_closed:
            interest |= GONE
        if interest != self._interest:
            self._interest = interest
            self._loop.modify(self._descriptor, interest)

    # -- time and the end -------------------------------------------------------------------------------

    def _reset_alarm(self) -> None:
        if self._dead or self._unsent or self._ending:
            return
        now = time.monotonic()
        if self._body_wait is not None and self._request is not None:
            self._alarm.move(self._body_wait.deadline(self._request.size, now))
        elif self._handler is not None:
            self._alarm.move(None)
        elif self._parser.in_head:
            self._head_until = self._head_until or now + HEAD_TIMEOUT_S
            self._alarm.move(self._head_until)
        else:
            self._alarm.move(now + IDLE_TIMEOUT_S)

    def _too_late(self) -> None:
        if self._unsent and self._still_reads():
            self._more_time()
        elif self._gathering is not None:
            self._stop_gathering()
        elif self._unsent or self._ending:
            self._leave()
        elif self._handler is not None:
            self._fail_body(RequestTimeout("The request's body came too slowly."))
        elif self._parser.in_head:
            self._refuse(BadRequestBytes(408, "The request's head came too slowly."))
        else:
            self._leave()

    def _fail_body(self, error: MiddlewareError) -> None:
        """The body that the handler waits for will not come."""
        if self._handler is not None and self._body_wait is not None:
            self._body_wait = None
            self._handler.refuse(error)

    def _end(self) -> None:
        """Everything is said: let the client read it, then close."""
        self.send_held()
        self._ending = True
        if self._unsent:
            self._watch()
            return
        if self._half_closed or self._reset:
            self.close()
            return
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()
        else:
            self._alarm.move(time.monotonic() + LINGER_S)
            self._watch()

    def drain(self) -> None:
        """The server's grace is over."""
        self.stopping = True
        self.send_held()
        self._stop_gathering()
        self._end_ride()
        self._waits = self._keep = False
        if self._handler is not None:
            self._handler.drain()
        elif self._unsent:
            self._end()
        else:
            self.close()

    def close(self) -> None:
        if self._dead:
            return
        self.send_held()
        self._dead = True
        self._alarm.end()
        self._loop.unregister(self._descriptor)
        if self._reset:
            reset_at_close(self.socket)
        self.socket.close()
        self._drop_body(self._request)
        self._parser.drop()
        self._closed(self)

    def _drop_body(self, request: Request | None) -> None:
        if request is not None and not self._body_given:
            request.drop_body()
