"""
A scripted upstream on real loopback sockets: it answers each request with the behavior that the test chose.

    with FakeProvider() as provider:
        provider.by_key({"sk-1": json_reply({}, 429, {"Retry-After": "7"}), "sk-2": json_reply(canned.chat())})
        ... send requests to provider.origin ...
        assert [request.key for request in provider.received] == ["sk-1", "sk-2"]

The behavior of a request is the first that applies: `by_key`, then the queue of `answers`, then `default`.
Raw sockets and threads, no HTTP library: it can break every rule of RFC 9112 on purpose.
"""

from __future__ import annotations

import socket
import threading
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Self

from tests.fake_behaviors import (
    Behavior,
    Piece,
    Step,
    big_body,
    chunk,
    chunked_without_end,
    close,
    close_without_answer,
    deflate_body,
    delay,
    early_hints_then,
    encoded_body,
    garbage_status_line,
    gzip_body,
    gzip_bomb,
    hang,
    head,
    huge_header,
    json_reply,
    many_headers,
    pieces,
    redirect,
    reply,
    reset,
    reset_after,
    reset_before_status,
    send,
    short_content_length,
    signal,
    silence,
    sliced,
    stream,
    switching_protocols,
    timed,
    truncated_gzip,
    wait_for,
)
from tests.fake_connection import Connection, Received, Scripted
from tests.fake_tls import Certificates, certificates

__all__ = [
    "Behavior",
    "FakeProvider",
    "Piece",
    "Received",
    "Scripted",
    "Step",
    "big_body",
    "black_hole",
    "chunk",
    "chunked_without_end",
    "close",
    "close_without_answer",
    "closed_port",
    "deflate_body",
    "delay",
    "early_hints_then",
    "encoded_body",
    "garbage_status_line",
    "gzip_body",
    "gzip_bomb",
    "hang",
    "head",
    "huge_header",
    "json_reply",
    "many_headers",
    "pieces",
    "redirect",
    "reply",
    "reset",
    "reset_after",
    "reset_before_status",
    "send",
    "short_content_length",
    "signal",
    "silence",
    "sliced",
    "stream",
    "switching_protocols",
    "timed",
    "truncated_gzip",
    "wait_for",
]


class FakeProvider:
    """
    A scripted server. Use it as a context manager; `stop()` closes every socket and joins every thread.

    tls -- None, or `valid`, `expired`, `wrong_host`: the certificate it shows; `ca_file` is the CA to trust
    """

    def __init__(self, tls: str | None = None, address: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        self.tls: Certificates | None = certificates(tls) if tls else None
        self.received: list[Received] = []
        #: Requests for which nothing was scripted; they get a 500.
        self.unscripted: list[Received] = []
        #: Pauses that no test ended: should be empty.
        self.problems: list[str] = []
        #: Requests thrown away on a connection that `close_keepalive_after` had declared dead.
        self.dropped_requests = 0
        self.stopping = threading.Event()
        self._connections: list[Connection] = []
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._queue: deque[Scripted] = deque()
        self._by_key: dict[str, deque[Scripted]] = {}
        self._default: Scripted | None = None
        self._greetings: deque[Behavior | None] = deque()
        self._keepalive_limit: tuple[int | None, str] = (None, "idle")
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._listener = socket.create_server(address, family=family, backlog=1024)
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, name="fake-provider", daemon=True)

    # -- life -----------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def origin(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def ca_file(self) -> str:
        """Path of the CA certificate (PEM) that signed the shown one."""
        assert self.tls is not None, "this provider speaks plain HTTP"
        return self.tls.ca_file

    def stop(self) -> None:
        """Close everything. Safe to call twice."""
        self.stopping.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        if self._thread.is_alive():
            self._thread.join(5)
        self._listener.close()
        for connection in list(self._connections):
            with suppress(OSError, ValueError):
                socket.socket.shutdown(connection.raw, socket.SHUT_RDWR)
        for connection in list(self._connections):
            connection.thread.join(5)

    # -- the script -----------------------------------------------------------------------------------

    def answers(self, *behaviors: Scripted) -> Self:
        """Add to the queue: each behavior serves one request."""
        with self._lock:
            self._queue.extend(behaviors)
        return self

    def by_key(self, behaviors: Mapping[str, Scripted | Sequence[Scripted]]) -> Self:
        """Choose by the credential. Of a list, each serves one request and the last one all that follow."""
        with self._lock:
            for key, value in behaviors.items():
                self._by_key[key] = deque([value] if callable(value) else value)
        return self

    def default(self, behavior: Scripted) -> Self:
        """Serve what neither `by_key` nor the queue serves."""
        self._default = behavior
        return self

    def on_connect(self, *behaviors: Behavior | None) -> Self:
        """Run one of these on each new connection before anything is read; None and afterwards: nothing special."""
        with self._lock:
            self._greetings.extend(behaviors)
        return self

    def close_keepalive_after(self, requests: int, when: str = "idle") -> Self:
        """
        Kill each connection after so many answers.

        when -- `idle`: FIN right after the answer; `next_request`: RST as soon as the next request arrives, unanswered
        """
        self._keepalive_limit = (requests, when)
        return self

    # -- what happened --------------------------------------------------------------------------------

    @property
    def keys(self) -> list[str | None]:
        """The credential of each request, in order."""
        return [request.key for request in list(self.received)]

    @property
    def requests_by_key(self) -> Counter[str | None]:
        return Counter(self.keys)

    @property
    def open_connections(self) -> int:
        return sum(not connection.closed.is_set() for connection in list(self._connections))

    @property
    def total_connections(self) -> int:
        return len(self._connections)

    def wait_closed(self, connection_id: int, timeout: float = 5.0) -> bool:
        """Whether that connection was closed within `timeout` seconds, by either side."""
        return self._connections[connection_id].closed.wait(timeout)

    def closed_by(self, connection_id: int) -> str | None:
        """`client`, `provider`, or None while it is open."""
        return self._connections[connection_id].closed_by

    def sent_bytes(self, connection_id: int) -> int:
        """Bytes that the kernel has taken on this connection: stands still when the peer stops reading."""
        return self._connections[connection_id].sent_bytes

    def wait_requests(self, count: int, timeout: float = 5.0) -> bool:
        """Whether at least `count` requests came within `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self.received) >= count, timeout)

    # -- used by the connections ----------------------------------------------------------------------

    def _accept(self) -> None:
        while not self.stopping.is_set():
            try:
                raw, _ = self._listener.accept()
            except OSError:
                return
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(self, len(self._connections), raw)
            self._connections.append(connection)
            connection.thread.start()

    def remember(self, request: Received) -> None:
        with self._changed:
            self.received.append(request)
            self._changed.notify_all()

    def count_dropped(self) -> None:
        with self._lock:
            self.dropped_requests += 1

    def keepalive_limit(self) -> tuple[int | None, str]:
        return self._keepalive_limit

    def next_greeting(self) -> Behavior | None:
        with self._lock:
            return self._greetings.popleft() if self._greetings else None

    def behavior_for(self, request: Received) -> Behavior:
        with self._lock:
            scripted = self._scripted_for(request)
        if scripted is None:
            self.unscripted.append(request)
            return json_reply({"error": {"message": "The fake provider has no answer scripted."}}, 500)
        return scripted if isinstance(scripted, Behavior) else scripted(request)

    def _scripted_for(self, request: Received) -> Scripted | None:
        own = self._by_key.get(request.key or "")
        if own:
            return own.popleft() if len(own) > 1 else own[0]
        return self._queue.popleft() if self._queue else self._default


def closed_port() -> str:
    """An origin on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def black_hole() -> Iterator[str]:
    """An origin that neither accepts nor refuses: its queue is full, so that the SYN gets no answer."""
    fillers: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        try:
            for _ in range(4):
                filler = socket.socket()
                filler.setblocking(False)
                fillers.append(filler)
                filler.connect_ex(address)
            yield f"http://127.0.0.1:{address[1]}"
        finally:
            for filler in fillers:
                filler.close()
