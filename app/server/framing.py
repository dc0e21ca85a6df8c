"""
How an answer is framed: its head as bytes, and where its body ends. Pure.

Source: RFC 9112, sections 6 and 9; RFC 9110, sections 8.6 and 9.3.2.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import NamedTuple

from app.proxy.events import ClientHead, Headers
from app.proxy.headers import header_lines
from app.server.requests import Request

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_REASONS = {status.value: status.phrase for status in HTTPStatus}
_BODILESS = frozenset({204, 304})


class Framing(NamedTuple):
    """
    head         -- to send
    keep         -- the connection can serve another request
    bodiless     -- no body follows, whatever is written
    chunked      -- the body goes in chunks
    undelimited  -- the body ends where the connection does
    """

    head: bytes
    keep: bool
    bodiless: bool
    chunked: bool
    undelimited: bool


def frame(command: ClientHead, request: Request | None, keep: bool, date: str) -> Framing:
    """
    The framing of the answer to `request`; None = to bytes that were no request.

    keep  -- what the client and the server would like
    """
    status, length = command.status, command.length
    headers: Headers = list(command.headers)
    names = {name.lower() for name, _ in headers}
    bodiless = status in _BODILESS or (request is not None and request.method == "HEAD")
    chunked = undelimited = False
    if length is not None and status not in _BODILESS:
        headers.append(("Content-Length", str(length)))
    elif not bodiless and "content-length" not in names:
        chunked = request is None or request.chunks_allowed
        undelimited = not chunked
        if chunked:
            headers.append(("Transfer-Encoding", "chunked"))
    # Nobody will read the rest of a body that is not here by now.
    keep = keep and not undelimited and (request is None or request.complete)
    if "date" not in names:
        headers.append(("Date", date))
    headers.append(("Connection", "keep-alive" if keep else "close"))
    line = f"HTTP/1.1 {status} {_REASONS.get(status, 'Unknown')}\r\n".encode()
    head = b"%b%b\r\n" % (line, header_lines(headers))
    return Framing(head, keep, bodiless, chunked, undelimited)
