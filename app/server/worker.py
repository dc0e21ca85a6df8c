"""
The gunicorn worker: threads, with the repairs that slow and departing clients, full tables and a shutdown make
necessary.

- A connection is closed on a thread of its own: gunicorn's worker lingers up to two seconds on the thread that accepts.
- Reading from and writing to a client have a time limit; a half-sent request would otherwise hold a thread for ever.
- Relayed requests may not take all threads: some are kept for the administration and for health.
- Beyond its connections, and without a free file descriptor, the worker drops idle connections and refuses new ones;
  gunicorn's own would end with an exception.
- SIGTERM announces the end first: readiness says no, running streams get their grace, then an error and an honest end.
  A second signal, SIGINT and SIGQUIT cut the grace short; nothing that was recorded is lost.
"""

from __future__ import annotations

import contextlib
import math
import socket
import struct
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from weakref import WeakSet

from gunicorn.http.errors import (
    ChunkMissingTerminator,
    ExpectationFailed,
    InvalidChunkSize,
    LimitRequestHeaders,
    LimitRequestLine,
    ParseException,
    UnsupportedTransferCoding,
)
from gunicorn.workers.gthread import TConn
from gunicorn.workers.gthread import ThreadWorker as GunicornThreadWorker

from app.lifecycle import Lifecycle
from app.server.crowding import EXHAUSTED, Doorkeeper
from app.server.grace import AFTER_GRACE_S, LAST_WORDS_S
from app.server.refusals import refusal

#: The longest silence while a client sends its request.
READ_TIMEOUT_S = 30
#: The longest time that a client may leave its answer unread.
WRITE_TIMEOUT_S = 60
CLOSING_THREADS = 16
MAX_CLOSING = 256
#: Threads that relayed requests leave to others, at most; of few threads it is a quarter.
RESERVED_THREADS = 8

_WITHOUT_LIMIT = 1 << 30

#: What gunicorn's parser raises, the narrowest first.
_CLIENT_FAULTS: tuple[tuple[type[BaseException], int, str], ...] = (
    (LimitRequestLine, 414, "The request's address is too long."),
    (LimitRequestHeaders, 431, "The request's head is too large."),
    (ExpectationFailed, 417, "Only 'Expect: 100-continue' is known."),
    (UnsupportedTransferCoding, 501, "The request's transfer coding is not known."),
    (ParseException, 400, "The request is not well-formed HTTP/1.1."),
    (InvalidChunkSize, 400, "The request's body is not framed as HTTP/1.1 asks."),
    (ChunkMissingTerminator, 400, "The request's body is not framed as HTTP/1.1 asks."),
)


class ThreadWorker(GunicornThreadWorker):
    """For `worker_class`. The application must be a Flask application made by `create_app`."""

    def init_process(self) -> None:
        self._closers = ThreadPoolExecutor(CLOSING_THREADS, thread_name_prefix="close")
        self._prepared: WeakSet[TConn] = WeakSet()
        self._ending = False
        self._doorkeeper = Doorkeeper()
        # This class keeps the limit itself: gunicorn's would leave callers waiting unheard.
        self._most_connections, self.worker_connections = self.worker_connections, _WITHOUT_LIMIT
        super().init_process()

    def load_wsgi(self) -> None:
        super().load_wsgi()
        lifecycle = self._lifecycle()
        if lifecycle is not None:
            threads: int = self.cfg.threads
            reserved = min(RESERVED_THREADS, threads // 4)
            lifecycle.most_running = threads - reserved
            lifecycle.most_watching = min(lifecycle.most_watching, reserved // 2)

    # -- connections ------------------------------------------------------------------------------

    def accept(self, listener: Any) -> None:
        if self.nr_conns >= self._most_connections and not self._drop_idle():
            self._doorkeeper.turn_away(listener)
            return
        try:
            super().accept(listener)
        except OSError as error:
            if error.errno not in EXHAUSTED:
                raise
            self._drop_idle()
            self._doorkeeper.turn_away(listener)

    def _drop_idle(self) -> bool:
        """Close the connection that has waited longest for a request; False when all are at work."""
        for waiting in (self.keepalived_conns, self.pending_conns):
            if waiting:
                conn = waiting.popleft()
                with contextlib.suppress(OSError, KeyError, ValueError):
                    self.poller.unregister(conn.sock)
                self.nr_conns -= 1
                conn.close()
                return True
        return False

    def enqueue_req(self, conn: TConn) -> None:
        if conn not in self._prepared:
            self._prepared.add(conn)
            close_at_once = conn.close
            conn.close = lambda graceful=False: self._close(close_at_once, graceful)  # type: ignore[method-assign]
            conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(READ_TIMEOUT_S))
            conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(WRITE_TIMEOUT_S))
            conn.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().enqueue_req(conn)

    def _close(self, close_at_once: Callable[..., None], graceful: bool) -> None:
        waiting = self._closers._work_queue.qsize()  # there is no public count
        if graceful and waiting < MAX_CLOSING:
            self._closers.submit(close_at_once, True)
        else:
            close_at_once(False)

    # -- the end ----------------------------------------------------------------------------------

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: BaseException) -> None:
        """What never became a request is refused in JSON, as every other refusal is."""
        fault = next(((status, said) for kind, status, said in _CLIENT_FAULTS if isinstance(exc, kind)), None)
        if fault is None:
            super().handle_error(req, client, addr, exc)
            return
        self.log.warning("Refused bytes that are no request: %s", type(exc).__name__)
        with contextlib.suppress(OSError):
            client.sendall(refusal(*fault))

    def handle_exit(self, sig: int, frame: Any) -> None:
        """SIGTERM. A handler may interrupt any line, so that all it does is to leave word for the loop."""
        self.method_queue.defer(self._end, max(0.0, self.cfg.graceful_timeout - AFTER_GRACE_S), sig, frame)

    def handle_quit(self, sig: int, frame: Any) -> None:
        """SIGINT and SIGQUIT: the same without grace."""
        self.method_queue.defer(self._end, 0.0, sig, frame)

    def is_parent_alive(self) -> bool:
        """Without its master a worker has to go soon: it holds the port that the next master wants."""
        if not self._ending and not super().is_parent_alive():
            self._end(0.0, 0, None)
        return True

    def run(self) -> None:
        try:
            super().run()
        finally:
            lifecycle = self._lifecycle()
            if lifecycle is not None:
                lifecycle.stop()
            self._closers.shutdown(wait=False)

    def _end(self, grace_s: float, sig: int, frame: Any) -> None:
        """On the loop. The first call begins the end, each further one ends the grace."""
        lifecycle = self._lifecycle()
        if lifecycle is None:
            super().handle_exit(sig, frame)
        elif self._ending:
            lifecycle.draining.begin()
        else:
            self._ending = True
            lifecycle.announce()
            drain = (lifecycle, grace_s, sig, frame)
            threading.Thread(target=self._drain, args=drain, name="drain", daemon=True).start()

    def _drain(self, lifecycle: Lifecycle, grace_s: float, sig: int, frame: Any) -> None:
        if not lifecycle.wait_idle(grace_s):
            lifecycle.draining.begin()
            if not lifecycle.wait_idle(LAST_WORDS_S):
                self.method_queue.defer(self._hang_up)
                lifecycle.wait_idle(LAST_WORDS_S)
        self.cfg.set("graceful_timeout", math.ceil(LAST_WORDS_S))
        self.method_queue.defer(self._hurry_idle)
        super().handle_exit(sig, frame)

    def _hang_up(self) -> None:
        """Whoever neither reads nor sends holds a thread: shut all connections, so that the last rows get written."""
        for conn in list(self._prepared):
            with contextlib.suppress(OSError):
                conn.sock.shutdown(socket.SHUT_RDWR)

    def _hurry_idle(self) -> None:
        """Don't wait for requests on connections that never carried one; gunicorn does, for the keep-alive time."""
        for conn in list(self._prepared):
            if not conn.initialized:
                with contextlib.suppress(OSError):
                    conn.sock.shutdown(socket.SHUT_RDWR)

    def _lifecycle(self) -> Lifecycle | None:
        extensions = getattr(getattr(self, "wsgi", None), "extensions", {})
        found: Lifecycle | None = extensions.get("middleware_lifecycle")
        return found


def _timeval(seconds: int) -> bytes:
    return struct.pack("ll", seconds, 0)
