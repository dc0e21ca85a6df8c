"""
The gunicorn worker whose event loop owns every client connection. Calls to providers are relayed on the loop itself;
everything else goes to Flask on a pool of threads.
"""

from __future__ import annotations

import gc
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import unquote

from gunicorn.workers.base import Worker

from app.edge import Edge
from app.lifecycle import MOST_WATCHING, Lifecycle
from app.proxy.collation import ListExchange, open_exchange
from app.proxy.events import RequestHead
from app.proxy.exchange import Exchange
from app.proxy.routes import other_paths
from app.server.connection import Connection
from app.server.crowding import EXHAUSTED, Doorkeeper
from app.server.express import Express
from app.server.flask_bridge import FlaskCall
from app.server.flushing import Flushing
from app.server.forwarded import believed
from app.server.grace import AFTER_GRACE_S, LAST_WORDS_S
from app.server.handler import Handler
from app.server.idle import IdleConnections
from app.server.loop import READ, Loop
from app.server.relay import LoopRelay
from app.server.requests import Request
from app.server.uploads import Uploads

#: Threads that only administration uses, so that relayed streams can't lock the operator out.
ADMIN_THREADS = 8
#: Threads for endless answers, beside one for each that may watch: they tell the others that all places are taken.
SPARE_THREADS = 2
ACCEPT_AT_ONCE = 64
REPORT_S = 1.0
#: Objects of each generation before the collector looks for cycles, of which requests leave next to none.
COLLECT_AFTER = (20_000, 20, 50)
#: How long a new connection has to begin its first request before it may be closed in favour of another one.
ARRIVING_S = 1.0
STREAMS = ("/middleware/logs/stream",)
ADMIN = ("/middleware", "/api/", "/livez", "/readyz", "/healthz", "/health", "/metrics", "/v1/health")


class LoopWorker(Worker):
    """For `worker_class`. The application must be one made by `create_app`."""

    def init_process(self) -> None:
        self._loop = Loop()
        self._connections: dict[Connection, float] = {}  # and when they came, oldest first
        self._doorkeeper = Doorkeeper()
        self._relays: set[LoopRelay] = set()
        self._ending = False
        self._work = ThreadPoolExecutor(self.cfg.threads, thread_name_prefix="flask")
        self._admin = ThreadPoolExecutor(ADMIN_THREADS, thread_name_prefix="admin")
        self._watching = ThreadPoolExecutor(MOST_WATCHING + SPARE_THREADS, thread_name_prefix="watching")
        super().init_process()

    def run(self) -> None:
        application: Any = self.wsgi
        self._application: Callable[..., Iterable[bytes]] = application
        self._lifecycle: Lifecycle = application.extensions["middleware_lifecycle"]
        self._edge: Edge = application.extensions["middleware_edge"]
        self._room = Uploads(application.extensions["middleware"].config.run_dir)
        self._hops: int = application.extensions["middleware"].config.trusted_proxies
        self._own = other_paths(application)
        self._idle = IdleConnections(self._loop, self._edge.upstreams, self._edge.upstreams.limits)
        self._booking = self._edge.booking
        flushing = Flushing(self._loop, self._booking)
        self._booking.noticed = flushing.booked_elsewhere
        ways = (self._known_head, self._run)
        self._express = Express(self._loop, self._edge, self._idle, flushing.booked, *ways)
        sockets: list[Any] = self.sockets
        self._listeners: list[socket.socket] = [listener.sock for listener in sockets]
        self._address = self._listeners[0].getsockname()[:2]
        for listener in self._listeners:
            listener.setblocking(False)
        self._booking.start()
        self._accept(True)
        self._report()
        self._tune_collector()
        try:
            while self.alive:
                self._loop.turn()
        finally:
            self._stop()

    def _tune_collector(self) -> None:
        """What has been made so far stays: looking at it again and again would cost each request."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(*COLLECT_AFTER)

    def _report(self) -> None:
        """Once a second: tell the master that this worker lives, and see whether there is a master."""
        self.notify()
        if not self._ending and self.ppid != os.getppid():
            self._end(0.0)  # without its master a worker has to go: it holds the port of the next one
        self._loop.at(time.monotonic() + REPORT_S, self._report)

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
                if len(self._connections) >= self.cfg.worker_connections and not self._drop_idle():
                    self._doorkeeper.turn_away(listener)
                    return
                try:
                    sock, address = listener.accept()
                except OSError as error:
                    if error.errno in EXHAUSTED and not self._drop_idle():
                        self._doorkeeper.turn_away(listener)
                    return
                sock.setblocking(False)
                if sock.family != socket.AF_UNIX:
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                peer = str(address[0]) if isinstance(address, tuple) else ""
                shared = (self._room, self._express)
                connection = Connection(self._loop, sock, peer, self._handler_for, self._closed, *shared)
                self._connections[connection] = time.monotonic()

        return ready

    def _closed(self, connection: Connection) -> None:
        del self._connections[connection]

    def _drop_idle(self) -> bool:
        """Close the oldest connection that waits for a request; False when all are at work, or have only just come."""
        latest = time.monotonic() - ARRIVING_S
        idle = next((found for found, came in self._connections.items() if found.idle and came < latest), None)
        if idle is not None:
            idle.close()
        return idle is not None

    # -- requests -----------------------------------------------------------------------------------

    def _handler_for(self, connection: Connection, request: Request) -> Handler:
        path = request.target.partition("?")[0]
        if self._is_relayed(path):
            return self._relay(connection, request)
        return FlaskCall(self._loop, connection, request, self._application, self._pool(path), self._address)

    def _pool(self, path: str) -> ThreadPoolExecutor:
        if path == "/" or path.startswith(ADMIN):
            return self._watching if unquote(path) in STREAMS else self._admin
        return self._work

    def _is_relayed(self, path: str) -> bool:
        """Whether no other route of the application can be meant. What looks odd is left to its router."""
        exact, below = self._own
        first = path[1:].partition("/")[0]
        return path[:1] == "/" and "%" not in first and first not in below and path not in exact

    def _relay(self, connection: Connection, request: Request) -> LoopRelay:
        head, clock = self._head(request, connection.peer), self._edge.clock
        exchange = open_exchange(self._edge.gateway, head, now=clock.monotonic(), wall=clock.wall())
        return self._run(connection, exchange)

    def _head(self, request: Request, peer: str) -> RequestHead:
        """As the core takes it. A header with an underscore could pass for another one at a WSGI server."""
        headers = [(name, value) for name, value in request.headers if "_" not in name]
        if self._hops:
            headers, peer = believed(headers, peer, self._hops)
        return RequestHead(request.method, request.target, headers, peer)

    def _known_head(self, request: Request, peer: str) -> RequestHead | None:
        """For the shortcut: the head of a request that is relayed, else None."""
        path = request.target.partition("?")[0]
        return self._head(request, peer) if self._is_relayed(path) else None

    def _run(self, connection: Connection, exchange: Exchange | ListExchange) -> LoopRelay:
        edge, lifecycle = self._edge, self._lifecycle
        in_flight = edge.metrics.begin()
        lifecycle.enter()

        def over() -> None:
            self._relays.discard(relay)
            in_flight.end()
            self._lifecycle.leave()

        relay = LoopRelay(self._loop, self._edge, self._idle, exchange, connection, in_flight, over)
        self._relays.add(relay)
        return relay

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
        self._express.close()
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
        self._express.close()
        for relay in list(self._relays):  # those whose callers have everything, but whose upstreams have not ended
            relay.drain()
        self._idle.close()
        self._work.shutdown(wait=False, cancel_futures=True)
        self._admin.shutdown(wait=False, cancel_futures=True)
        self._watching.shutdown(wait=False, cancel_futures=True)
        self._lifecycle.stop()
