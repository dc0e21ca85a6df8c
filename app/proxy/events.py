"""
What a driver tells the core, and what the core orders a driver to do. Both drivers speak exactly this.

    driver                                  core
    RequestHead            ->
                           <-               ReadBody, or an answer at once
    RequestBody            ->
                           <-               Send
    UpstreamHead, UpstreamBytes..., UpstreamEnd | UpstreamFailed   ->
                           <-               ClientHead, ClientBytes..., Finish | Abort, Record

Between events the driver keeps `exchange.deadline`: when it passes, it feeds Tick.
All instants are seconds of a monotonic clock that the driver passes in with each event.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from app.records import RequestRecord

Headers = list[tuple[str, str]]


# -- events: driver -> core ---------------------------------------------------------------------------


class RequestHead(NamedTuple):
    """
    method   -- upper case
    target   -- path and query exactly as they came, still percent-encoded
    headers  -- in order, names as they came
    peer     -- the client's address
    """

    method: str
    target: str
    headers: Headers
    peer: str


class RequestBody(NamedTuple):
    """The whole body, chunked framing removed, content encoding still on."""

    data: bytes


class UpstreamHead(NamedTuple):
    """The final status line and headers (1xx answers are swallowed by the driver)."""

    status: int
    headers: Headers


class UpstreamBytes(NamedTuple):
    """Body bytes, transfer framing removed, content encoding still on."""

    data: bytes


class UpstreamEnd(NamedTuple):
    """The body ended as its framing said. `closed` = the connection's end was the end of the body."""

    closed: bool = False


class UpstreamFailed(NamedTuple):
    """
    The attempt broke below HTTP.

    error      -- dns, refused, connect_timeout, tls, reset, protocol, incomplete
    connected  -- False when there never was a connection
    reused     -- the connection came from the pool, and not one byte of an answer was read on it
    message    -- for the log; holds no secret
    """

    error: str
    connected: bool
    reused: bool = False
    message: str = ""


class ClientGone(NamedTuple):
    """The caller closed its connection, or a write to it failed."""


class Tick(NamedTuple):
    """`exchange.deadline` has passed."""


class Drain(NamedTuple):
    """The server's grace is over: end the stream now, in-band and honestly."""


Event = (
    RequestHead | RequestBody | UpstreamHead | UpstreamBytes | UpstreamEnd | UpstreamFailed | ClientGone | Tick | Drain
)


# -- commands: core -> driver -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReadBody:
    """Read the request body, at most `max_bytes` of it; feed RequestBody, or answer 413 through `body_too_large`."""

    max_bytes: int


@dataclass(frozen=True, slots=True)
class Send:
    """
    Send this request to `origin` on a pooled or new connection and relay what comes back.
    Anything still open from an earlier Send of this exchange is closed first.

    origin     -- scheme://host[:port]
    target     -- path and query, percent-encoded
    headers    -- complete, Host and Content-Length included
    fresh      -- do not use a pooled connection
    attempt    -- number of this attempt, from 1; the free re-send on a stale connection keeps its number
    """

    origin: str
    method: str
    target: str
    headers: Headers
    body: bytes
    connect_timeout_s: float
    fresh: bool = False
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class CloseUpstream:
    """Close the upstream connection now: it can't be used again."""


@dataclass(frozen=True, slots=True)
class ReleaseUpstream:
    """The answer was read to its end: the connection may serve again if HTTP allows."""


@dataclass(frozen=True, slots=True)
class ClientHead:
    """The answer's status and headers. `length` is None for a stream: the driver then frames it as chunked."""

    status: int
    headers: Headers
    length: int | None


@dataclass(frozen=True, slots=True)
class ClientBytes:
    data: bytes


@dataclass(frozen=True, slots=True)
class Finish:
    """The answer is complete."""


@dataclass(frozen=True, slots=True)
class Abort:
    """Break the connection so that the caller can see that the answer is not complete: no final chunk."""


@dataclass(frozen=True, slots=True)
class Record:
    """Book the outcome. Issued exactly once for every request."""

    record: RequestRecord


Command = ReadBody | Send | CloseUpstream | ReleaseUpstream | ClientHead | ClientBytes | Finish | Abort | Record
