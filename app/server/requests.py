"""
A client's HTTP/1.1 requests, from bytes to heads and bodies. No I/O; the parser is llhttp, which refuses what smuggles:
two lengths, a length beside chunks, folded headers, bare line feeds, bad chunk sizes, control characters.

Source: RFC 9112, sections 2, 3, 5, 6, 7 and 11.
"""

from __future__ import annotations

from collections import deque

import httptools

from app.proxy.events import Headers

MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 200
MAX_HEADER_BYTES = 16 * 1024
MAX_TARGET_BYTES = 8190
#: Requests that a client may send ahead of their answers.
MAX_AHEAD = 64


class BadRequestBytes(Exception):
    """These bytes are not a request. `status` is what to answer before closing."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Request:
    """
    One request. `body` grows until `complete`.

    target      -- path and query as they came
    headers     -- in order, names as they came
    keep_alive  -- whether the client can send another one on this connection
    expects     -- it waits for 100 Continue before it sends the body
    """

    __slots__ = ("body", "chunks_allowed", "complete", "expects", "headers", "keep_alive", "method", "target")

    def __init__(self) -> None:
        self.method = ""
        self.target = ""
        self.headers: Headers = []
        self.body = bytearray()
        self.complete = False
        self.keep_alive = True
        self.expects = False
        self.chunks_allowed = True  # HTTP/1.0 clients can't read chunks


class RequestParser:
    """Feed it; take whole heads from `requests`, whose bodies may still be growing."""

    def __init__(self) -> None:
        self.requests: deque[Request] = deque()
        #: Bytes of a head that has begun are here: the client must finish it in time.
        self.in_head = False
        self._parser = httptools.HttpRequestParser(self)
        self._current = Request()
        self._target = bytearray()
        self._head_bytes = 0  # of an unfinished head, as they were read
        self._header_bytes = 0
        self._hosts = 0
        self._body_of: Request | None = None

    def feed(self, data: bytes) -> None:
        """Raises BadRequestBytes; what came complete before the fault is in `requests`."""
        if self._body_of is None:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # Whatever follows is not HTTP/1.1 any more; an answer to the upgrade ends the connection.
            self.requests[-1].keep_alive = False
        except httptools.HttpParserError as error:
            cause = error.__context__
            if isinstance(cause, BadRequestBytes):
                raise cause from error
            raise BadRequestBytes(400, "The request is not well-formed HTTP/1.1.") from error
        if self._body_of is None and self._head_bytes > MAX_HEAD_BYTES:
            raise BadRequestBytes(431, "The request's head is too large.")

    # -- llhttp calls these -------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._current = Request()
        self._target = bytearray()
        self._hosts = self._header_bytes = 0
        self.in_head = True

    def on_url(self, part: bytes) -> None:
        self._target += part
        if len(self._target) > MAX_TARGET_BYTES:
            raise BadRequestBytes(414, "The request's address is too long.")

    def on_header(self, name: bytes, value: bytes) -> None:
        headers = self._current.headers
        if len(headers) >= MAX_HEADERS:
            raise BadRequestBytes(431, "The request has too many headers.")
        lower = name.lower()
        if lower == b"host":
            self._hosts += 1
        elif lower == b"expect":
            if value.lower() != b"100-continue":
                raise BadRequestBytes(417, "Only 'Expect: 100-continue' is known.")
            self._current.expects = True
        size = len(name) + len(value)
        self._header_bytes += size
        if size > MAX_HEADER_BYTES or self._header_bytes > MAX_HEAD_BYTES:
            raise BadRequestBytes(431, "The request's head is too large.")
        headers.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        request, parser = self._current, self._parser
        if self._hosts > 1 or (self._hosts == 0 and parser.get_http_version() != "1.0"):
            raise BadRequestBytes(400, "A request has exactly one Host header.")
        request.method = parser.get_method().decode("ascii")
        request.target = self._target.decode("latin-1")
        if request.target == "*" and request.method != "OPTIONS":
            raise BadRequestBytes(400, "Only OPTIONS can ask the server as a whole.")
        request.keep_alive = parser.should_keep_alive()
        request.chunks_allowed = parser.get_http_version() != "1.0"
        self.in_head = False
        self._head_bytes = 0
        self._body_of = request
        if len(self.requests) >= MAX_AHEAD:
            raise BadRequestBytes(400, "Too many requests were sent ahead of their answers.")
        self.requests.append(request)

    def on_body(self, data: bytes) -> None:
        if self._body_of is not None:
            self._body_of.body += data

    def on_message_complete(self) -> None:
        if self._body_of is not None:
            self._body_of.complete = True
            self._body_of = None
