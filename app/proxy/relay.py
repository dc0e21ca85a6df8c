"""
The thread driver: one request on one thread, under any WSGI server. It moves bytes between the sockets and the core
and decides nothing.

`Relay` is the body that the WSGI server iterates. It is a class with an idempotent `close`, because closing a generator
that never started would run no clean-up.
"""

from __future__ import annotations

import errno
import select
import socket
from collections import deque
from collections.abc import Callable, Iterator

from app.clock import Clock
from app.errors import BadRequest, MiddlewareError, Overloaded, RequestTimeout
from app.proxy.collation import ListExchange
from app.proxy.events import (
    Abort,
    ClientBytes,
    ClientGone,
    ClientHead,
    CloseUpstream,
    Command,
    Drain,
    Finish,
    ReadBody,
    Record,
    ReleaseUpstream,
    RequestBody,
    Send,
    Tick,
    UpstreamFailed,
)
from app.proxy.exchange import Exchange
from app.proxy.link import Link
from app.proxy.upstream import DialFailed, Upstreams
from app.records import RequestRecord

#: How often a thread that waits for a dialling one looks after its caller.
DIAL_CHECK_S = 0.1
#: A cap on every wait, so that a driver never depends on one wake-up alone.
LONGEST_WAIT_MS = 30_000


class AnswerCut(ConnectionResetError):
    """
    Raised to the WSGI server in place of further bytes: it then closes the connection without ending the body, and the
    caller sees that the answer is incomplete. An OSError with ECONNRESET is what servers take quietly.
    """

    def __init__(self) -> None:
        super().__init__(errno.ECONNRESET, "the answer was cut")


class Draining:
    """A flag that threads can poll: raised once, when the server's grace is over."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self.raised = False

    def fileno(self) -> int:
        return self._reader.fileno()

    def begin(self) -> None:
        if not self.raised:
            self.raised = True
            self._writer.send(b"!")

    def close(self) -> None:
        self._reader.close()
        self._writer.close()


class Relay:
    """
    Runs one exchange.

    read_body    -- reads at most so many bytes of the request's body and returns them; raises OSError when it breaks,
                    EOFError when the caller left
    client       -- the caller's socket where the server shows it, to see at once when the caller leaves
    record       -- takes the record of the request
    """

    def __init__(
        self,
        exchange: Exchange | ListExchange,
        upstreams: Upstreams,
        draining: Draining,
        clock: Clock,
        read_body: Callable[[int], bytes],
        record: Callable[[RequestRecord], None],
        client: socket.socket | None = None,
        buffer_bytes: int = 65536,
    ) -> None:
        self.head: ClientHead | None = None
        self._exchange = exchange
        self._upstreams = upstreams
        self._draining = draining
        self._clock = clock
        self._read_body = read_body
        self._record = record
        self._client = client
        self._buffer_bytes = buffer_bytes
        self._commands: deque[Command] = deque()
        self._out: deque[bytes] = deque()
        self._finished = False
        self._aborted = False
        self._drained = False
        self._looked = False
        self._link: Link | None = None

    # -- for the route ----------------------------------------------------------------------------

    def open(self) -> ClientHead:
        """Run until the answer's head is there."""
        self._commands.extend(self._exchange.start(self._clock.monotonic()))
        while self.head is None:
            self._step()
        return self.head

    def refuse(self, error: MiddlewareError) -> ClientHead:
        """Give up before the head: answer with this error."""
        self._commands.clear()
        self._commands.extend(self._exchange.refuse(error, self._clock.monotonic()))
        while self.head is None:
            self._step()
        return self.head

    # -- for the WSGI server ------------------------------------------------------------------------

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        while not self._out:
            if self._aborted:
                # At once: not every server calls `close` on a body whose connection is broken.
                self.close()
                raise AnswerCut
            if self._finished:
                raise StopIteration
            self._step()
        # What has gathered goes out in one write.
        data = b"".join(self._out)
        self._out.clear()
        return data

    def close(self) -> None:
        """Whatever happened: nothing stays open, and the record is written. May be called again."""
        if not self._finished and not self._aborted:
            self._feed(ClientGone())
        self._run_commands()
        while not self._exchange.done:
            self._step()
        if self._link is not None:
            self._link.close()
            self._link = None

    # -- the loop -----------------------------------------------------------------------------------

    def _step(self) -> None:
        """Carry out the next commands, or wait for the next event."""
        if self._commands:
            self._run_commands()
        else:
            self._wait()

    def _run_commands(self) -> None:
        while self._commands:
            command = self._commands.popleft()
            _ACTIONS[type(command)](self, command)

    def _feed(self, event: object) -> None:
        self._commands.extend(self._exchange.feed(event, self._clock.monotonic()))  # type: ignore[arg-type]

    def _wait(self) -> None:
        now = self._clock.monotonic()
        deadline = self._exchange.deadline
        overdue = deadline is not None and now >= deadline
        link = self._link
        # A caller that reads slowly holds this thread: what came meanwhile counts before the clock does, but only once.
        if overdue and (link is None or link.dialling or self._looked):
            self._looked = False
            self._feed(Tick())
            return
        self._looked = overdue
        until = LONGEST_WAIT_MS if deadline is None else int((deadline - now) * 1000) + 1
        wait_ms = max(0, min(LONGEST_WAIT_MS, until))
        if link is not None and link.dialling:
            self._wait_for_dial(link, min(wait_ms / 1000, DIAL_CHECK_S))
            return
        if link is not None and link.has_buffered:
            wait_ms = 0
        ready = self._poll(link, wait_ms)
        if link is not None and (link.has_buffered or link.descriptor in ready):
            self._from_upstream(link)

    def _wait_for_dial(self, link: Link, timeout_s: float) -> None:
        self._poll(None, 0)
        if self._commands:
            return
        try:
            link.await_dial(timeout_s)
        except DialFailed as error:
            link.close()
            self._link = None
            if error.code == "exhausted":
                self._give_up(Overloaded("The server is at the limit of its connections.", retry_after_s=1))
            else:
                self._feed(UpstreamFailed(error.code, connected=False, message=str(error)))

    def _poll(self, link: Link | None, wait_ms: int) -> set[int]:
        """Wait for sockets; feeds ClientGone and Drain itself, returns the descriptors that are ready."""
        if self._draining.raised and not self._drained:
            self._drained = True
            self._feed(Drain())
            return set()
        poller = select.poll()
        if link is not None:
            poller.register(link.descriptor, link.interest)
        if not self._drained:
            poller.register(self._draining.fileno(), select.POLLIN)
        client = -1 if self._client is None or self._finished else self._client.fileno()
        if client >= 0:
            poller.register(client, select.POLLRDHUP | select.POLLHUP | select.POLLERR)
        ready = {descriptor for descriptor, _ in poller.poll(wait_ms)}
        if client in ready:
            self._gone()
        elif self._draining.fileno() in ready and not self._drained:
            self._drained = True
            self._feed(Drain())
        return ready

    def _from_upstream(self, link: Link) -> None:
        """Hand what the upstream sent to the core, event by event, as long as the core stays with this attempt."""
        events, failure = link.receive(self._buffer_bytes)
        for event in events:
            self._feed(event)
            self._run_commands()
            if self._link is not link:
                return
        if failure is not None:
            link.close()
            self._link = None
            self._feed(failure)

    # -- carrying out commands ------------------------------------------------------------------------

    def _do_read_body(self, command: ReadBody) -> None:
        try:
            data = self._read_body(command.max_bytes + 1)
        except EOFError:
            self._gone()
        except TimeoutError:
            self._give_up(RequestTimeout("The request's body came too slowly."))
        except OSError as error:
            late = error.errno in (errno.EAGAIN, errno.EWOULDBLOCK)
            slow = RequestTimeout("The request's body came too slowly.")
            self._give_up(slow if late else BadRequest("The request's body is not framed as HTTP/1.1 asks."))
        else:
            self._feed(RequestBody(data))

    def _gone(self) -> None:
        """The caller left. The WSGI server still wants a head; nobody will read it."""
        self._feed(ClientGone())
        self._aborted = True
        self.head = self.head or ClientHead(499, [], 0)

    def _give_up(self, error: MiddlewareError) -> None:
        self._commands.extend(self._exchange.refuse(error, self._clock.monotonic()))

    def _do_send(self, command: Send) -> None:
        if self._link is not None:
            self._link.close()
        self._link = Link(command, self._upstreams)

    def _do_close_upstream(self, _command: CloseUpstream) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None

    def _do_release_upstream(self, _command: ReleaseUpstream) -> None:
        if self._link is not None:
            self._link.release()
            self._link = None

    def _do_client_head(self, command: ClientHead) -> None:
        self.head = command

    def _do_client_bytes(self, command: ClientBytes) -> None:
        self._out.append(command.data)

    def _do_finish(self, _command: Finish) -> None:
        self._finished = True

    def _do_abort(self, _command: Abort) -> None:
        self._aborted = True

    def _do_record(self, command: Record) -> None:
        self._record(command.record)


_ACTIONS: dict[type, Callable[..., None]] = {
    ReadBody: Relay._do_read_body,
    Send: Relay._do_send,
    CloseUpstream: Relay._do_close_upstream,
    ReleaseUpstream: Relay._do_release_upstream,
    ClientHead: Relay._do_client_head,
    ClientBytes: Relay._do_client_bytes,
    Finish: Relay._do_finish,
    Abort: Relay._do_abort,
    Record: Relay._do_record,
}
