"""
One client's connection on the loop: requests in order, each to the relay or to Flask, answers in the same order.

A client that sends slowly, reads slowly or does nothing holds no thread: it has deadlines, and its unread answer is
bounded by stopping to read from where the answer comes.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Protocol

from app.errors import BadRequest, MiddlewareError, RequestTimeout
from app.proxy.events import ClientHead, Headers
from app.server.loop import GONE, READ, WRITE, Alarm, Loop
from app.server.refusals import refusal_body
from app.server.requests import BadRequestBytes, Request, RequestParser

READ_BYTES = 65536
#: A whole head must come within this, however it trickles.
HEAD_TIMEOUT_S = 30.0
#: The longest silence inside a body.
BODY_TIMEOUT_S = 30.0
#: How long a connection may wait for its next request.
IDLE_TIMEOUT_S = 75.0
#: How long a client may leave its answer unread.
WRITE_TIMEOUT_S = 60.0
#: After the last answer: time for the client to read it before the connection is gone.
LINGER_S = 2.0
#: What a client may go on sending after its last answer; it can't read that answer while a reset is on its way.
LINGER_BYTES = 16 * 1024 * 1024
#: Unsent bytes at which the source is stopped, and at which it may go on.
HIGH_WATER_BYTES = 256 * 1024
LOW_WATER_BYTES = 64 * 1024
#: A body for Flask; each of its routes has a smaller limit of its own.
MAX_FLASK_BODY_BYTES = 64 * 1024 * 1024

_REASONS = {status.value: status.phrase for status in HTTPStatus}
_BODILESS = frozenset({204, 304})
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Handler(Protocol):
    """What serves one request: a relay, or a thread that runs Flask."""

    def start(self) -> None: ...
    def body(self, data: bytes) -> None: ...
    def gone(self) -> None: ...
    def drain(self) -> None: ...
    def pause(self, paused: bool) -> None: ...
    def refuse(self, error: MiddlewareError) -> None: ...


class Connection:
    """
    handler_for  -- (connection, request) -> who serves it; `None` as its body limit means the whole body is wanted
    closed       -- called once, at the very end
    """

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        peer: str,
        handler_for: Callable[[Connection, Request], Handler],
        closed: Callable[[Connection], None],
    ) -> None:
        self.socket = sock
        self.peer = peer
        self.stopping = False  # no further requests: the server ends
        self._loop = loop
        self._handler_for = handler_for
        self._closed = closed
        self._descriptor = sock.fileno()
        self._parser = RequestParser()
        self._request: Request | None = None
        self._handler: Handler | None = None
        self._body_limit: int | None = None  # set while the handler waits for the body
        self._chunked = False
        self._bodiless = False
        self._keep = True
        self._unsent = bytearray()
        self._corked: list[bytes] | None = None
        self._paused = False
        self._ending = False  # the last answer is out or on its way; what still comes is thrown away
        self._thrown_away = 0
        self._dead = False
        self._interest = READ | GONE
        self._alarm = Alarm(loop, self._too_late)
        loop.register(self._descriptor, self._interest, self._ready)
        self._alarm.move(time.monotonic() + HEAD_TIMEOUT_S)

    @property
    def idle(self) -> bool:
        return self._handler is None and not self._parser.in_head

    # -- the socket ---------------------------------------------------------------------------------

    def _ready(self, event: int) -> None:
        if event & WRITE:
            self._flush()
        if event & READ and not self._dead:
            self._read()
        elif event & GONE and not self._dead:
            self._leave()

    def _read(self) -> None:
        try:
            data = self.socket.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._leave()
        elif not self._ending:
            self._take(data)
        else:
            self._thrown_away += len(data)
            if self._thrown_away > LINGER_BYTES:
                self._leave()

    def _take(self, data: bytes) -> None:
        try:
            self._parser.feed(data)
        except BadRequestBytes as error:
            self._corked = self._corked or []
            self._advance()
            self._uncork()
            self._refuse(error)
            return
        self._advance()
        self._reset_alarm()

    def _leave(self) -> None:
        """The client closed its side, or the connection broke."""
        handler, self._handler = self._handler, None
        self.close()
        if handler is not None:
            handler.gone()

    def _refuse(self, error: BadRequestBytes) -> None:
        """Bytes that are no request: say so, unless an answer to an earlier one is still on its way, and close."""
        self._keep = False
        if self._handler is not None:
            # The answer to an earlier request is on its way, or the fault is in the body of the current one.
            self._fail_body(BadRequest("The request's body is not framed as HTTP/1.1 asks."))
            self._ending = True
            return
        body = refusal_body(error.status, str(error))
        self._send_head(ClientHead(error.status, [("Content-Type", "application/json")], len(body)), None)
        self._write(body)
        self._end()

    # -- requests -----------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Begin the next request if none is being served; hand on its body."""
        self._hand_on_body()
        while self._handler is None and self._parser.requests and not self._ending:
            request = self._request = self._parser.requests.popleft()
            self._keep = request.keep_alive and not self.stopping
            self._chunked = self._bodiless = False
            handler = self._handler = self._handler_for(self, request)
            self._body_limit = None
            handler.start()
            self._hand_on_body()
        self._watch()

    def want_body(self, max_bytes: int) -> None:
        """The handler waits for the body, of which more than this is too much."""
        self._body_limit = max_bytes
        request = self._request
        if request is not None and request.expects and not request.complete and not request.body:
            self._write(CONTINUE)
        self._hand_on_body()

    def _hand_on_body(self) -> None:
        request, handler, limit = self._request, self._handler, self._body_limit
        if request is None or handler is None or limit is None:
            return
        if request.complete or len(request.body) > limit:
            self._body_limit = None
            body = bytes(memoryview(request.body)[: limit + 1])
            request.body = bytearray()
            handler.body(body)

    # -- answers: for the handler ---------------------------------------------------------------------

    def head(self, command: ClientHead) -> None:
        request = self._request
        self._corked = self._corked if self._corked is not None else []
        self._send_head(command, request)

    def data(self, data: bytes) -> None:
        if self._bodiless or self._dead or not data:
            return
        self._write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)
        if self._corked is not None and sum(map(len, self._corked)) > LOW_WATER_BYTES:
            self._uncork()

    def finish(self) -> None:
        """The answer is complete."""
        if self._chunked and not self._bodiless:
            self._write(b"0\r\n\r\n")
        request, self._request, self._handler = self._request, None, None
        self._uncork()
        # A body that was not read to its end stands between here and the next request.
        if not self._keep or (request is not None and not request.complete):
            self._end()
        elif not self._dead:
            self._loop.call_soon(self._next)

    def abort(self) -> None:
        """The answer will never be complete: break the connection so that the client can see it."""
        self._request, self._handler = None, None
        self._uncork()
        self._ending = True
        if self._unsent:
            self._alarm.move(time.monotonic() + LINGER_S)
            self._watch()
        else:
            self.close()

    def uncork(self) -> None:
        """What has gathered goes out in one write."""
        self._uncork()

    def data_now(self, data: bytes) -> None:
        """The same, and what has gathered goes out in one write."""
        self.data(data)
        self._uncork()

    @property
    def crowded(self) -> bool:
        """Whether the client is behind with reading."""
        return len(self._unsent) > HIGH_WATER_BYTES

    def _next(self) -> None:
        if not self._dead and self._handler is None:
            self._advance()
            self._reset_alarm()

    def _send_head(self, command: ClientHead, request: Request | None) -> None:
        status, length = command.status, command.length
        headers: Headers = list(command.headers)
        names = {name.lower() for name, _ in headers}
        self._bodiless = status in _BODILESS or (request is not None and request.method == "HEAD")
        if length is not None and status not in _BODILESS:
            headers.append(("Content-Length", str(length)))
        elif not self._bodiless and "content-length" not in names:
            self._chunked = request is None or request.chunks_allowed
            if self._chunked:
                headers.append(("Transfer-Encoding", "chunked"))
            else:
                self._keep = False
        if "date" not in names:
            headers.append(("Date", self._loop.date()))
        headers.append(("Connection", "keep-alive" if self._keep else "close"))
        lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Unknown')}"]
        lines += [f"{name}: {_safe(value)}" for name, value in headers]
        self._write("\r\n".join([*lines, "", ""]).encode("latin-1", "replace"))

    # -- writing --------------------------------------------------------------------------------------

    def _write(self, data: bytes) -> None:
        if self._dead:
            return
        if self._corked is not None:
            self._corked.append(data)
            return
        if not self._unsent:
            data = data[self._try_send(data) :]
        if data and not self._dead:
            self._unsent += data
            self._alarm.move(time.monotonic() + WRITE_TIMEOUT_S)
            self._watch()
            self._throttle()

    def _uncork(self) -> None:
        corked, self._corked = self._corked, None
        if corked:
            self._write(b"".join(corked))

    def _try_send(self, data: bytes | bytearray) -> int:
        try:
            return self.socket.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            self._loop.call_soon(self._leave_if_alive)
            return len(data)

    def _leave_if_alive(self) -> None:
        if not self._dead:
            self._leave()

    def _flush(self) -> None:
        sent = self._try_send(self._unsent)
        del self._unsent[:sent]
        if self._unsent:
            if sent:
                self._alarm.move(time.monotonic() + WRITE_TIMEOUT_S)
            self._throttle()
            return
        self._throttle()
        if self._ending and self._handler is None:
            self._end()
        else:
            self._watch()
            self._reset_alarm()

    def _throttle(self) -> None:
        paused = len(self._unsent) > (LOW_WATER_BYTES if self._paused else HIGH_WATER_BYTES)
        if paused is not self._paused:
            self._paused = paused
            if self._handler is not None:
                self._handler.pause(paused)

    def _watch(self) -> None:
        if self._dead:
            return
        behind = self._handler is not None and bool(self._parser.requests)
        full = self._body_limit is None and self._request is not None and len(self._request.body) > READ_BYTES
        interest = GONE | (WRITE if self._unsent else 0) | (0 if behind or full else READ)
        if interest != self._interest:
            self._interest = interest
            self._loop.modify(self._descriptor, interest)

    # -- time and the end -------------------------------------------------------------------------------

    def _reset_alarm(self) -> None:
        if self._dead or self._unsent or self._ending:
            return
        now = time.monotonic()
        if self._body_limit is not None:
            self._alarm.move(now + BODY_TIMEOUT_S)
        elif self._handler is not None:
            self._alarm.move(None)
        elif not self._parser.in_head:
            self._alarm.move(now + IDLE_TIMEOUT_S)

    def _too_late(self) -> None:
        handler = self._handler
        if handler is None or self._unsent or self._ending:
            self._leave()
        else:
            self._keep = False
            self._fail_body(RequestTimeout("The request's body came too slowly."))

    def _fail_body(self, error: MiddlewareError) -> None:
        """The body that the handler waits for will not come."""
        if self._handler is not None and self._body_limit is not None:
            self._body_limit = None
            self._handler.refuse(error)

    def _end(self) -> None:
        """Everything is said: let the client read it, then close."""
        self._ending = True
        if self._unsent:
            self._watch()
            return
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()
            return
        self._alarm.move(time.monotonic() + LINGER_S)

    def drain(self) -> None:
        """The server's grace is over."""
        self.stopping = True
        self._keep = False
        if self._handler is not None:
            self._handler.drain()
        elif not self._unsent:
            self.close()

    def close(self) -> None:
        if self._dead:
            return
        self._dead = True
        self._alarm.move(None)
        self._loop.unregister(self._descriptor)
        self.socket.close()
        self._closed(self)


def _safe(value: str) -> str:
    """A header value that can't break the head, whoever made it."""
    return value.replace("\r", " ").replace("\n", " ")
