"""
The gunicorn worker whose event loop owns every client connection. Calls to providers are relayed on the loop itself;
everything else goes to Flask on a pool of threads.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from gunicorn.workers.base import Worker

from app.booking import FLUSH_EVERY_S
from app.edge import Edge
from app.lifecycle import Lifecycle
from app.proxy.collation import open_exchange
from app.proxy.events import RequestHead
from app.server.connection import Connection, Handler
from app.server.flask_bridge import FlaskCall
from app.server.idle import IdleConnections
from app.server.loop import READ, Loop
from app.server.relay import LoopRelay
from app.server.requests import Request
from app.server.worker import AFTER_GRACE_S, LAST_WORDS_S

#: Threads that only administration uses, so that relayed streams can't lock the operator out.
ADMIN_THREADS = 8
ACCEPT_AT_ONCE = 64
#: How long to wait with accepting when descriptors have run out.
EXHAUSTED_S = 0.1
#: Addresses that are relayed on the loop; all others are Flask's.
RELAYED = ("/v1/", "/v1beta/")
NOT_RELAYED = ("/v1/health",)
ADMIN = ("/middleware", "/api/", "/livez", "/readyz", "/healthz", "/health", "/metrics", "/v1/health")


class LoopWorker(Worker):
    """For `worker_class`. The application must be one made by `create_app`."""

    def init_process(self) -> None:
        self._loop = Loop()
        self._connections: set[Connection] = set()
        self._relays: set[LoopRelay] = set()
        self._ending = False
        self._flush_ordered = False
        self._work = ThreadPoolExecutor(self.cfg.threads, thread_name_prefix="flask")
        self._admin = ThreadPoolExecutor(ADMIN_THREADS, thread_name_prefix="admin")
        super().init_process()

    def run(self) -> None:
        application: Any = self.wsgi
        self._application: Callable[..., Iterable[bytes]] = application
        self._lifecycle: Lifecycle = application.extensions["middleware_lifecycle"]
        self._edge: Edge = application.extensions["middleware_edge"]
        self._idle = IdleConnections(self._loop, self._edge.upstreams, self._edge.upstreams.limits)
        sockets: list[Any] = self.sockets
        self._listeners: list[socket.socket] = [listener.sock for listener in sockets]
        self._address = self._listeners[0].getsockname()[:2]
        for listener in self._listeners:
            listener.setblocking(False)
        self._booking = self._edge.booking
        self._booking.start()
        self._accept(True)
        notified = 0.0
        try:
            while self.alive:
                self._loop.turn()
                self._book()
                now = time.monotonic()
                if now - notified >= 1.0:
                    notified = now
                    self.notify()
                    if not self._ending and self.ppid != os.getppid():
                        self._end(0.0)  # without its master a worker has to go: it holds the port of the next one
        finally:
            self._stop()

    # -- accepting ----------------------------------------------------------------------------------

    def _accept(self, accepting: bool) -> None:
        for listener in self._listeners:
            if accepting:
                ready = self._acceptor(listener)
                self._loop.register(listener.fileno(), READ, ready)
            else:
                self._loop.unregister(listener.fileno())

    def _acceptor(self, listener: socket.socket) -> Callable[[int], None]:
        def ready(_event: int) -> None:
            for _ in range(ACCEPT_AT_ONCE):
                try:
                    sock, address = listener.accept()
                except OSError as error:
                    if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                        self._rest()
                    return
                sock.setblocking(False)
                if sock.family != socket.AF_UNIX:
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                peer = str(address[0]) if isinstance(address, tuple) else ""
                self._connections.add(Connection(self._loop, sock, peer, self._handler_for, self._connections.discard))

        return ready

    def _rest(self) -> None:
        """Descriptors have run out: stop accepting for a moment."""
        self._accept(False)
        self._loop.at(time.monotonic() + EXHAUSTED_S, lambda: self._accept(True))

    # -- requests -----------------------------------------------------------------------------------

    def _handler_for(self, connection: Connection, request: Request) -> Handler:
        path = request.target.partition("?")[0]
        if path.startswith(RELAYED) and path not in NOT_RELAYED:
            return self._relay(connection, request)
        pool = self._admin if path == "/" or path.startswith(ADMIN) else self._work
        return FlaskCall(self._loop, connection, request, self._application, pool, self._address)

    def _relay(self, connection: Connection, request: Request) -> LoopRelay:
        edge, lifecycle = self._edge, self._lifecycle
        clock = edge.clock
        in_flight = edge.metrics.begin()
        lifecycle.enter()
        headers = [(name, value) for name, value in request.headers if "_" not in name]
        head = RequestHead(request.method, request.target, headers, connection.peer)
        exchange = open_exchange(edge.gateway, head, now=clock.monotonic(), wall=clock.wall())

        def over() -> None:
            self._relays.discard(relay)
            in_flight.end()
            lifecycle.leave()

        relay = LoopRelay(self._loop, edge, self._idle, exchange, connection, over)
        self._relays.add(relay)
        return relay

    def _book(self) -> None:
        """After each turn: flush what has been booked, when it is enough or has waited long enough."""
        count = len(self._booking.entries)
        if count >= self._booking.batch:
            self._loop.call_soon(self._booking.flush)
        elif count and not self._flush_ordered:
            self._flush_ordered = True
            self._loop.at(time.monotonic() + FLUSH_EVERY_S, self._flush)

    def _flush(self) -> None:
        self._flush_ordered = False
        self._booking.flush()

    # -- the end ------------------------------------------------------------------------------------

    def handle_exit(self, sig: int, frame: Any) -> None:  # noqa: ARG002
        """SIGTERM. A handler may interrupt any line, so that all it does is to leave word for the loop."""
        grace_s = max(0.0, self.cfg.graceful_timeout - AFTER_GRACE_S)
        self._loop.call_from_signal(lambda: self._end(grace_s))

    def handle_quit(self, sig: int, frame: Any) -> None:  # noqa: ARG002
        """SIGINT and SIGQUIT: the same without grace."""
        self._loop.call_from_signal(lambda: self._end(0.0))

    def _end(self, grace_s: float) -> None:
        """On the loop. The first call begins the end, each further one ends the grace."""
        if self._ending:
            self._lifecycle.draining.begin()
            self._drain_connections()
            return
        self._ending = True
        self._lifecycle.announce()
        threading.Thread(target=self._drain, args=(grace_s,), name="drain", daemon=True).start()

    def _drain(self, grace_s: float) -> None:
        lifecycle = self._lifecycle
        if not lifecycle.wait_idle(grace_s):
            lifecycle.draining.begin()
            self._loop.call_soon(self._drain_connections)
            lifecycle.wait_idle(LAST_WORDS_S)
        self._loop.call_soon(self._end_loop)

    def _drain_connections(self) -> None:
        for connection in list(self._connections):
            connection.drain()

    def _end_loop(self) -> None:
        self.alive = False

    def _stop(self) -> None:
        until = time.monotonic() + LAST_WORDS_S
        self._accept(False)
        for connection in list(self._connections):
            connection.drain()
        while self._connections and time.monotonic() < until:
            self._loop.turn()
        for connection in list(self._connections):
            connection.close()
        self._idle.close()
        self._work.shutdown(wait=False, cancel_futures=True)
        self._admin.shutdown(wait=False, cancel_futures=True)
        self._lifecycle.stop()
