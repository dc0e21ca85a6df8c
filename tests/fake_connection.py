"""One connection of the fake provider: reads requests as they come and lets the scripted steps write what they like."""

from __future__ import annotations

import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

from tests.fake_behaviors import Behavior, ConnectionGone, head
from tests.fake_tls import Certificates

_CREDENTIAL_HEADERS = ("authorization", "x-api-key", "x-goog-api-key", "api-key")
_POLL_S = 0.005


@dataclass(frozen=True)
class Received:
    """One request, exactly as it came. `header_list` keeps order and spelling, `headers` has lower-case names."""

    method: str
    target: str
    header_list: list[tuple[str, str]]
    headers: dict[str, str]
    body: bytes
    connection_id: int
    at: float = field(default_factory=time.monotonic)

    @property
    def path(self) -> str:
        """The decoded path, without the query."""
        return unquote(urlsplit(self.target).path)

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.target).query, keep_blank_values=True)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def key(self) -> str | None:
        """The credential in the first header that carries one, `Bearer ` removed."""
        found = next((self.headers[name] for name in _CREDENTIAL_HEADERS if name in self.headers), None)
        return found.removeprefix("Bearer ") if found else found


#: A behavior, or a function that chooses one by the request.
Scripted = Behavior | Callable[[Received], Behavior]


class Owner(Protocol):
    """What a connection needs of its provider."""

    tls: Certificates | None
    stopping: threading.Event
    problems: list[str]

    def next_greeting(self) -> Behavior | None: ...
    def keepalive_limit(self) -> tuple[int | None, str]: ...
    def remember(self, request: Received) -> None: ...
    def count_dropped(self) -> None: ...
    def behavior_for(self, request: Received) -> Behavior: ...


class Connection:
    """One accepted socket and its thread. It is the `Exchange` that the steps see."""

    def __init__(self, provider: Owner, number: int, raw: socket.socket) -> None:
        self.provider, self.number, self.raw = provider, number, raw
        self.sock: socket.socket = raw
        self.method = ""
        self.buffer = bytearray()
        self.sent_bytes = 0
        self.answered = 0
        self.closed_by: str | None = None
        self.closed = threading.Event()
        self.thread = threading.Thread(target=self._run, name=f"fake-provider-{number}", daemon=True)

    # -- what the steps use ---------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        if self._peer_gone():
            raise ConnectionGone("client")
        view = memoryview(data)
        while view:
            try:
                written = self.sock.send(view)
            except OSError as error:
                raise ConnectionGone("client") from error
            self.sent_bytes += written
            view = view[written:]

    def pause(self, event: threading.Event | None, longest_s: float) -> None:
        until = time.monotonic() + longest_s
        while time.monotonic() < until:
            if self.provider.stopping.is_set():
                raise ConnectionGone("provider")
            if self._peer_gone():
                raise ConnectionGone("client")
            if event is None:
                self.provider.stopping.wait(min(_POLL_S, max(0.0, until - time.monotonic())))
            elif event.wait(_POLL_S):
                return
        if event is not None:
            self.provider.problems.append(f"connection {self.number}: an event was not set within {longest_s} s")
            raise ConnectionGone("provider")

    def close(self, *, reset: bool) -> None:
        if reset:
            self.raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise ConnectionGone("provider")

    def _peer_gone(self) -> bool:
        """Whether the peer has closed. Over TLS, any byte before the answer's end is a farewell."""
        if self.buffer:
            return False
        try:
            peeked = socket.socket.recv(self.raw, 1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return not peeked or isinstance(self.sock, ssl.SSLSocket)

    # -- the life of a connection ---------------------------------------------------------------------

    def _run(self) -> None:
        by = "provider"
        try:
            self._serve()
        except ConnectionGone as gone:
            by = gone.by
        except (OSError, ValueError):  # ssl.SSLError is an OSError; ValueError: a socket closed under us
            by = "client"
        finally:
            self.closed_by = "provider" if self.provider.stopping.is_set() else by
            self._shut()
            self.closed.set()

    def _shut(self) -> None:
        with suppress(OSError):
            if isinstance(self.sock, ssl.SSLSocket):
                self.raw = socket.socket(fileno=self.sock.detach())
            self.raw.close()

    def _serve(self) -> None:
        greeting = self.provider.next_greeting()
        if greeting is not None:
            greeting(self)
        if self.provider.tls is not None:
            self.raw.settimeout(10)
            self.sock = self.raw = self.provider.tls.server_context().wrap_socket(self.raw, server_side=True)
            self.raw.settimeout(None)
        while True:
            self._drop_if_asked()
            request = self._read_request()
            self.method = request.method
            behavior = self.provider.behavior_for(request)
            behavior(self)
            self.answered += 1
            if request.headers.get("connection", "").lower() == "close":
                raise ConnectionGone("provider")

    def _drop_if_asked(self) -> None:
        limit, when = self.provider.keepalive_limit()
        if limit is None or self.answered < limit:
            return
        if when == "next_request":
            self._read_more()
            self.provider.count_dropped()
        self.close(reset=when == "next_request")

    def _read_more(self) -> None:
        data = self.sock.recv(65536)
        if not data:
            raise ConnectionGone("client")
        self.buffer += data

    def _read_line(self) -> bytes:
        while (end := self.buffer.find(b"\r\n")) < 0:
            self._read_more()
        line = bytes(self.buffer[:end])
        del self.buffer[: end + 2]
        return line

    def _read_exactly(self, count: int) -> bytes:
        while len(self.buffer) < count:
            self._read_more()
        data = bytes(self.buffer[:count])
        del self.buffer[:count]
        return data

    def _read_request(self) -> Received:
        parts = self._read_line().decode("latin-1").split(" ")
        if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
            self.send(head(400, {"Content-Length": "0", "Connection": "close"}))
            raise ConnectionGone("provider")
        header_list: list[tuple[str, str]] = []
        while line := self._read_line():
            name, _, value = line.decode("latin-1").partition(":")
            header_list.append((name, value.strip()))
        headers = {name.lower(): value for name, value in header_list}
        if headers.get("expect", "").lower() == "100-continue":
            self.send(head(100))
        body = self._read_body(headers)
        request = Received(parts[0], parts[1], header_list, headers, body, self.number)
        self.provider.remember(request)
        return request

    def _read_body(self, headers: Mapping[str, str]) -> bytes:
        if "chunked" not in headers.get("transfer-encoding", "").lower():
            return self._read_exactly(int(headers.get("content-length", "0")))
        parts = []
        while size := int(self._read_line().split(b";")[0], 16):
            parts.append(self._read_exactly(size))
            self._read_line()
        while self._read_line():
            pass
        return b"".join(parts)
