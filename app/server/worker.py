"""
The gunicorn worker: threads, with three repairs that slow and departing clients make necessary.

- A connection is closed on a thread of its own: gunicorn's worker lingers up to two seconds on the thread that accepts.
- Reading from and writing to a client have a time limit; a half-sent request would otherwise hold a thread for ever.
- SIGTERM announces the end first: readiness says no, running streams get their grace, then an error and an honest end.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from weakref import WeakSet

from gunicorn.workers.gthread import TConn
from gunicorn.workers.gthread import ThreadWorker as GunicornThreadWorker

from app.lifecycle import Lifecycle

#: The longest silence while a client sends its request.
READ_TIMEOUT_S = 30
#: The longest time that a client may leave its answer unread.
WRITE_TIMEOUT_S = 60
CLOSING_THREADS = 16
MAX_CLOSING = 256
#: What is left, after the grace, for the last error events and rows.
LAST_WORDS_S = 3.0


class ThreadWorker(GunicornThreadWorker):
    """For `worker_class`. The application must be a Flask application made by `create_app`."""

    def init_process(self) -> None:
        self._closers = ThreadPoolExecutor(CLOSING_THREADS, thread_name_prefix="close")
        self._prepared: WeakSet[TConn] = WeakSet()
        self._ending = False
        super().init_process()

    def enqueue_req(self, conn: TConn) -> None:
        if conn not in self._prepared:
            self._prepared.add(conn)
            close_at_once = conn.close
            conn.close = lambda graceful=False: self._close(close_at_once, graceful)  # type: ignore[method-assign]
            conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(READ_TIMEOUT_S))
            conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(WRITE_TIMEOUT_S))
            conn.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().enqueue_req(conn)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """The first SIGTERM begins the end; a second one does not wait any longer."""
        lifecycle = self._lifecycle()
        if lifecycle is None or self._ending:
            if lifecycle is not None:
                lifecycle.draining.begin()
            super().handle_exit(sig, frame)
            return
        self._ending = True
        lifecycle.announce()
        threading.Thread(target=self._drain, args=(lifecycle, sig, frame), name="drain", daemon=True).start()

    def run(self) -> None:
        try:
            super().run()
        finally:
            self._closers.shutdown(wait=False)
            lifecycle = self._lifecycle()
            if lifecycle is not None:
                lifecycle.stop()

    def _drain(self, lifecycle: Lifecycle, sig: int, frame: Any) -> None:
        grace_s = max(0.0, self.cfg.graceful_timeout - 2 * LAST_WORDS_S)
        if not lifecycle.wait_idle(grace_s):
            lifecycle.draining.begin()
            lifecycle.wait_idle(LAST_WORDS_S)
        super().handle_exit(sig, frame)

    def _lifecycle(self) -> Lifecycle | None:
        extensions = getattr(getattr(self, "wsgi", None), "extensions", {})
        found: Lifecycle | None = extensions.get("middleware_lifecycle")
        return found

    def _close(self, close_at_once: Callable[..., None], graceful: bool) -> None:
        waiting = self._closers._work_queue.qsize()  # there is no public count
        if graceful and waiting < MAX_CLOSING:
            self._closers.submit(close_at_once, True)
        else:
            close_at_once(False)


def _timeval(seconds: int) -> bytes:
    return struct.pack("ll", seconds, 0)
