"""
One attempt's connection: dialled or taken from the pool, written to, read from, never blocking.
"""

from __future__ import annotations

import select
import ssl
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, replace
from typing import Protocol

from app.proxy.events import Send, UpstreamFailed
from app.proxy.http1 import AnswerEvent, AnswerParser, BadAnswer, request_bytes
from app.proxy.upstream import Connection, DialFailed


class Connections(Protocol):
    """Where a link gets its connection and leaves it. See Upstreams."""

    def take(self, origin: str) -> Connection | None: ...
    def give(self, connection: Connection) -> None: ...
    def connect_here(self, origin: str) -> Connection | None: ...
    def dial(self, origin: str, timeout_s: float) -> Future[Connection]: ...
    def forget(self, pending: Future[Connection]) -> None: ...


@dataclass(frozen=True, slots=True)
class Begun:
    """
    An attempt that somebody else has begun.

    unsent    -- what the connection has not taken of the request yet
    received  -- what has come of the answer
    is_reset  -- that was followed by a reset
    """

    connection: Connection
    unsent: bytes = b""
    received: bytes = b""
    is_reset: bool = False


class Link:
    """
    One attempt's connection: dialling, then writing the request, then reading the answer.

    Raises ValueError, before there is any connection, for a request that must not be written.
    """

    def __init__(self, send: Send, upstreams: Connections, begun: Begun | None = None) -> None:
        self._send = send
        self._head = request_bytes(send)
        self._upstreams = upstreams
        self._parser = AnswerParser(head_only=send.method == "HEAD")
        self._pending: Future[Connection] | None = None
        self._connection: Connection | None = None
        self._unsent = memoryview(b"")
        self._wants_write = False
        self._spent_s = 0.0
        self._begun = begun
        if begun is not None:
            self._connection = begun.connection
            self._unsent = memoryview(begun.unsent)
            return
        connection = None if send.fresh else upstreams.take(send.origin)
        if connection is None:
            connection = upstreams.connect_here(send.origin)
        if connection is not None:
            self._connected(connection)
        else:
            self._pending = upstreams.dial(send.origin, send.connect_timeout_s)

    @property
    def dialling(self) -> bool:
        return self._connection is None

    @property
    def descriptor(self) -> int:
        return -1 if self._connection is None else self._connection.socket.fileno()

    @property
    def interest(self) -> int:
        writing = bool(self._unsent) or self._wants_write
        return select.POLLIN | select.POLLOUT if writing else select.POLLIN

    @property
    def has_buffered(self) -> bool:
        """Whether TLS holds decrypted bytes that no poll would show."""
        sock = self._connection.socket if self._connection is not None else None
        return isinstance(sock, ssl.SSLSocket) and sock.pending() > 0

    def when_dialled(self, call: Callable[[], None]) -> None:
        """Have `call` called, by whatever thread, when the dialling has ended, well or badly."""
        if self._pending is not None:
            self._pending.add_done_callback(lambda _: call())

    def await_dial(self, timeout_s: float) -> None:
        """Wait a while for the connection. Raises DialFailed."""
        if self._pending is None:
            return
        try:
            connection = self._pending.result(timeout_s)
        except FutureTimeout:
            self._spent_s += timeout_s
            if self._spent_s > self._send.connect_timeout_s:
                raise DialFailed("connect_timeout", "no connection within connect_timeout") from None
            return
        self._pending = None
        self._connected(connection)

    def _connected(self, connection: Connection) -> None:
        send, head = self._send, self._head
        self._connection = connection
        if connection.absolute:
            target, headers = send.origin + send.target, [*send.headers, *connection.headers]
            head = request_bytes(replace(send, target=target, headers=headers))
        self._unsent = memoryview(head + send.body)
        self._write()

    def receive(self, buffer_bytes: int) -> tuple[list[AnswerEvent], UpstreamFailed | None]:
        """What has come since, and the failure that ended it, if any."""
        try:
            data = self.read(buffer_bytes)
        except OSError:
            return [], self.was_reset()
        return ([], None) if data is None else self.digest(data)

    def read(self, buffer_bytes: int) -> bytes | None:
        """The bytes that have come since, b"" for the end, None for nothing yet. Raises OSError for a reset."""
        if self._unsent or self._wants_write:
            self._write()
        connection = self._connection
        if connection is None:
            return None
        try:
            return connection.socket.recv(buffer_bytes) if self._begun is None else self._take_begun(self._begun)
        except (BlockingIOError, ssl.SSLWantReadError):
            return None
        except ssl.SSLWantWriteError:
            self._wants_write = True
            return None

    def was_reset(self) -> UpstreamFailed:
        """The failure that an OSError of `read` means."""
        return self._failed("reset", "the connection was reset")

    def digest(self, data: bytes) -> tuple[list[AnswerEvent], UpstreamFailed | None]:
        """What these bytes mean, and the failure that they are, if any."""
        try:
            return (self._parser.feed(data) if data else self._parser.closed()), None
        except BadAnswer as error:
            return error.events, self._failed("protocol" if data else "incomplete", str(error))

    def _take_begun(self, begun: Begun) -> bytes:
        """What had come when this link took over: first the bytes, then the reset, then nothing yet."""
        if begun.received:
            self._begun = replace(begun, received=b"") if begun.is_reset else None
            return begun.received
        self._begun = None
        raise ConnectionResetError if begun.is_reset else BlockingIOError

    def _write(self) -> None:
        """Write as much of the request as the socket takes. A broken pipe shows when the answer is read."""
        self._wants_write = False
        connection = self._connection
        while self._unsent and connection is not None:
            try:
                sent = connection.socket.send(self._unsent[:262144])
            except (BlockingIOError, ssl.SSLWantWriteError):
                return
            except ssl.SSLWantReadError:
                return
            except OSError:
                self._unsent = memoryview(b"")
                return
            self._unsent = self._unsent[sent:]

    def _failed(self, code: str, message: str) -> UpstreamFailed:
        reused = self._connection is not None and self._connection.reused and not self._parser.begun
        return UpstreamFailed(code, connected=True, reused=reused, message=message)

    @property
    def reusable(self) -> bool:
        """Whether the connection may serve another request."""
        return self._connection is not None and self._parser.reusable and not self._unsent

    def release(self) -> None:
        reusable = self.reusable
        self._parser.drop()
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if reusable:
            self._upstreams.give(connection)
        else:
            connection.close()

    def close(self) -> None:
        self._parser.drop()
        if self._pending is not None:
            self._upstreams.forget(self._pending)
            self._pending = None
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
