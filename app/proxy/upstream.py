"""
Connections to upstreams: dialled by urllib3 (names, addresses, proxies, TLS with verification), kept and reused here.

Nothing in this module retries or reads an answer; it hands out sockets. Foreign exceptions end here: they come out as
DialFailed with one of the short codes of `UpstreamFailed.error`.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import select
import socket
import ssl
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from http.client import HTTPException
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    LocationParseError,
    NameResolutionError,
    NewConnectionError,
    ProxyError,
    SSLError,
)
from urllib3.util import create_urllib3_context, make_headers

from app.proxy.events import Headers

#: For each origin.
DIAL_THREADS = 32
_DEFAULT_PORTS = {"http": 80, "https": 443}

#: Cloud metadata services: a provider's URL never has a reason to lead there.
_METADATA = frozenset({"169.254.169.254", "fd00:ec2::254", "100.100.100.200"})


class DialFailed(Exception):
    """
    No connection. `code` is one of dns, refused, connect_timeout, tls, or `exhausted` where this process lacks the
    means to make one; the message holds no secret.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(slots=True, eq=False)
class Connection:
    """
    One open, non-blocking upstream socket.

    absolute  -- it leads to an HTTP proxy: targets must be absolute, and `headers` go with each request
    """

    origin: str
    socket: socket.socket
    reused: bool = False
    absolute: bool = False
    headers: Headers = field(default_factory=list, repr=False)
    idle_since: float = 0.0
    #: What an event on it means while it is idle.
    when_idle: Callable[[int], None] | None = field(default=None, repr=False)
    descriptor: int = field(init=False)
    is_tls: bool = field(init=False)
    _owner: HTTPConnection | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.descriptor = self.socket.fileno()
        self.is_tls = isinstance(self.socket, ssl.SSLSocket)

    def close(self) -> None:
        self.when_idle = None
        # urllib3's object holds the same socket; closing it closes both.
        if self._owner is not None:
            self._owner.close()
        self.socket.close()

    def is_dead(self) -> bool:
        """Whether the other side closed it, or sent bytes that nobody asked for."""
        poller = select.poll()
        poller.register(self.socket, select.POLLIN | select.POLLHUP | select.POLLERR)
        return bool(poller.poll(0))


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """pooling: off closes every connection after one answer. Sizes and times as the live settings say."""

    pooling: bool = True
    max_origins: int = 20
    max_idle_per_origin: int = 100
    idle_s: float = 30.0


class Upstreams:
    """
    Dials and keeps idle connections, newest first, for each origin. Thread-safe.

    limits  -- read at each use, so that a changed setting counts from the next request on
    """

    def __init__(self, limits: Callable[[], PoolLimits], *, verify_with: str | None = None) -> None:
        self.limits = limits
        self._lock = threading.Lock()
        self._idle: OrderedDict[str, deque[Connection]] = OrderedDict()
        # One context for all: a context for each connection costs 0.8 MiB.
        self._tls = create_urllib3_context()
        self._tls.load_default_certs()
        if verify_with is not None:
            self._tls.load_verify_locations(verify_with)
        # Threads of its own for each origin: a name server that hangs for one holds up no other.
        self._dialers: dict[str, ThreadPoolExecutor] = {}

    def take(self, origin: str) -> Connection | None:
        """An idle connection that seems alive, or None."""
        limits = self.limits()
        while True:
            with self._lock:
                kept = self._idle.get(origin)
                connection = kept.pop() if kept else None
            if connection is None:
                return None
            expired = time.monotonic() - connection.idle_since > limits.idle_s
            if limits.pooling and not expired and not connection.is_dead():
                connection.reused = True
                return connection
            connection.close()

    def give(self, connection: Connection) -> None:
        """Keep a connection whose last answer was read to its end."""
        limits = self.limits()
        connection.idle_since = time.monotonic()
        dropped: list[Connection] = []
        with self._lock:
            kept = self._idle.setdefault(connection.origin, deque())
            self._idle.move_to_end(connection.origin)
            kept.append(connection)
            while kept and (not limits.pooling or len(kept) > limits.max_idle_per_origin or _expired(kept[0], limits)):
                dropped.append(kept.popleft())
            while len(self._idle) > limits.max_origins:
                dropped.extend(self._idle.popitem(last=False)[1])
        for connection in dropped:
            connection.close()

    def dial(self, origin: str, timeout_s: float) -> Future[Connection]:
        """
        A new connection, made on a thread of its own: names are looked up there too, so that a hanging resolver holds
        nobody. The future raises DialFailed. Whoever stops waiting calls `forget`.
        """
        with self._lock:
            dialers = self._dialers.get(origin)
            if dialers is None:
                dialers = self._dialers[origin] = ThreadPoolExecutor(DIAL_THREADS, thread_name_prefix="dial")
        return dialers.submit(self._connect, origin, timeout_s)

    @staticmethod
    def connect_here(origin: str) -> Connection | None:
        """
        A connection to a server on this machine, which is there at once or not at all: that takes no thread. None for
        all else, and where it is not there at once.
        """
        address = _loopback(origin)
        if address is None or _has_proxy(origin, tuple(map(os.environ.get, _PROXY_VARIABLES))):
            return None
        try:
            sock = socket.socket(address[0], socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        except OSError:  # no descriptor is left: the usual way says so
            return None
        try:
            failed = sock.connect_ex(address[1])
            if failed == errno.EINPROGRESS:  # asked once more, it says how it went
                failed = sock.connect_ex(address[1])
        except OSError:
            failed = errno.EBADF
        # One that was there and is reset by now is an attempt that failed: to try again is not for us to decide.
        if failed and failed != errno.ECONNRESET:
            sock.close()
            return None
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return Connection(origin, sock)

    @staticmethod
    def forget(pending: Future[Connection]) -> None:
        """The caller does not want this connection any more: close it when it comes."""
        if not pending.cancel():
            pending.add_done_callback(_close_late)

    def idle_count(self, origin: str) -> int:
        with self._lock:
            return len(self._idle.get(origin, ()))

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, OrderedDict()
            dialers, self._dialers = self._dialers, {}
        for kept in idle.values():
            for connection in kept:
                connection.close()
        for executor in dialers.values():
            executor.shutdown(wait=False, cancel_futures=True)

    def _connect(self, origin: str, timeout_s: float) -> Connection:
        url = urlsplit(origin)
        refuse_address(url.hostname or "")
        proxy = _proxy_for(url)
        dialled = self._prepare(url, proxy, timeout_s)
        try:
            dialled.connect()
            sock = dialled.sock
            if sock is None:
                raise DialFailed("refused", "no connection was made")
            if proxy is None:
                refuse_address(sock.getpeername()[0])
        except DialFailed:
            dialled.close()
            raise
        except (HTTPError, HTTPException, OSError) as error:
            dialled.close()
            raise _as_dial_failed(error) from error
        sock.setblocking(False)
        if proxy is None or url.scheme == "https":
            return Connection(origin, sock, _owner=dialled)
        return Connection(origin, sock, absolute=True, headers=list(_proxy_login(proxy).items()), _owner=dialled)

    def _prepare(self, url: SplitResult, proxy: SplitResult | None, timeout_s: float) -> HTTPConnection:
        host, port = url.hostname or "", url.port or _DEFAULT_PORTS.get(url.scheme, 0)
        target = proxy if proxy is not None else url
        at_host, at_port = target.hostname or "", target.port or _DEFAULT_PORTS.get(target.scheme, 0)
        if url.scheme == "http":
            return HTTPConnection(at_host, at_port, timeout=timeout_s)
        dialled = HTTPSConnection(at_host, at_port, timeout=timeout_s, ssl_context=self._tls, server_hostname=host)
        if proxy is not None:
            dialled.set_tunnel(host, port, _proxy_login(proxy))
        return dialled


_PROXY_VARIABLES = ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY", "REQUEST_METHOD")


@lru_cache(maxsize=64)
def _has_proxy(origin: str, _environment: tuple[str | None, ...]) -> bool:
    """Whether a proxy stands before this plain origin. What decides it is part of the question: it may change."""
    try:
        return _proxy_for(urlsplit(origin)) is not None
    except DialFailed:  # whoever dials finds the same, and says it
        return True


@lru_cache(maxsize=64)
def _loopback(origin: str) -> tuple[int, tuple[str, int]] | None:
    """Family and address of a plain origin that is a loopback address."""
    url = urlsplit(origin)
    try:
        address = ipaddress.ip_address(url.hostname or "")
    except ValueError:
        return None
    if url.scheme != "http" or not address.is_loopback:
        return None
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    return family, (str(address), url.port or _DEFAULT_PORTS["http"])


def _close_late(pending: Future[Connection]) -> None:
    if not pending.cancelled() and pending.exception() is None:
        pending.result().close()


def _expired(connection: Connection, limits: PoolLimits) -> bool:
    return time.monotonic() - connection.idle_since > limits.idle_s


def _proxy_for(url: SplitResult) -> SplitResult | None:
    """What HTTP_PROXY, HTTPS_PROXY and NO_PROXY say about this origin. Raises DialFailed for another kind of proxy."""
    port = url.port or _DEFAULT_PORTS.get(url.scheme, 0)
    if not url.hostname or proxy_bypass(f"{url.hostname}:{port}"):
        return None
    address = getproxies().get(url.scheme)
    if not address:
        return None
    proxy = urlsplit(address if "://" in address else f"http://{address}")
    if proxy.scheme != "http" or not proxy.hostname:
        raise DialFailed("refused", "only a proxy with an http:// address can be used")
    return proxy


def _proxy_login(proxy: SplitResult) -> dict[str, str]:
    """The header for a proxy whose address has a user and a password."""
    if proxy.username is None:
        return {}
    return make_headers(proxy_basic_auth=f"{unquote(proxy.username)}:{unquote(proxy.password or '')}")


def refuse_address(host: str) -> None:
    """Raises DialFailed for an address that is no upstream's. A name passes: what it led to is looked at later."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return
    mapped = getattr(address, "ipv4_mapped", None) or address
    if str(mapped) in _METADATA or mapped.is_link_local or mapped.is_multicast or mapped.is_unspecified:
        raise DialFailed("refused", "the address is not allowed for an upstream")


class _CheckedPlain(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        return _checked(super()._new_conn())


class _CheckedTls(HTTPSConnection):
    def _new_conn(self) -> socket.socket:
        return _checked(super()._new_conn())


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _CheckedPlain


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _CheckedTls


#: For a pool manager of urllib3: connections that look where a name has led to, before anything is sent there.
CHECKED_POOLS: Mapping[str, type[HTTPConnectionPool]] = {"http": _PlainPool, "https": _TlsPool}


def _checked(sock: socket.socket) -> socket.socket:
    try:
        refuse_address(sock.getpeername()[0])
    except (DialFailed, OSError):
        sock.close()
        raise
    return sock


def _as_dial_failed(error: Exception) -> DialFailed:
    # urllib3 keeps the system's own error as the cause.
    if {getattr(error, "errno", None), getattr(error.__cause__, "errno", None)} & _EXHAUSTED:
        return DialFailed("exhausted", "this process has no file descriptor or memory left for a connection")
    for kinds, code, sentence in _CODES:
        if isinstance(error, kinds):
            return DialFailed(code, sentence)
    return DialFailed("refused", "the connection was refused or broke off")


_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_CODES: tuple[tuple[tuple[type[BaseException], ...], str, str], ...] = (
    ((NameResolutionError, LocationParseError, socket.gaierror), "dns", "the host name does not resolve"),
    # urllib3 derives its error of a refused connection from the one of a late connection: the order counts.
    ((ProxyError, NewConnectionError), "refused", "the connection was refused"),
    ((ConnectTimeoutError, TimeoutError), "connect_timeout", "no connection within connect_timeout"),
    ((SSLError, ssl.SSLError, ssl.CertificateError), "tls", "TLS failed: the certificate or the protocol is not right"),
)
