"""
A client's HTTP/1.1 requests, from bytes to heads and bodies. The parser is llhttp, which refuses most of what smuggles:
two lengths, a length beside chunks, folded headers, bare line feeds, bad chunk sizes, control characters. What it lets
pass although RFC 9112 does not is refused here: other versions, other codings, bad hosts, endless chunk extensions.

Source: RFC 9112, sections 2, 3, 5, 6, 7 and 11; RFC 9110, sections 5.5, 6.5, 7.2, 7.8 and 10.1.1.
"""

from __future__ import annotations

import io
import re
from collections import deque
from functools import lru_cache
from typing import Any, BinaryIO

import httptools

from app.errors import BadRequest, MiddlewareError, Overloaded
from app.proxy.events import Headers
from app.server.uploads import EVERYBODY, SMALL_BYTES, Upload, Uploads, UploadsFull

MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 200
MAX_HEADER_BYTES = 16 * 1024
MAX_TARGET_BYTES = 8190
#: Requests that a client may send ahead of their answers.
MAX_AHEAD = 64
#: Chunk sizes, extensions and trailers of one body: so many bytes, and so many more for each byte of content.
MAX_FRAMING_BYTES = 128 * 1024
MAX_FRAMING_RATIO = 16

_VERSIONS = ("1.1", "1.0")
_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)(:[0-9]*)?")
_FRAMING = frozenset({"content-length", "transfer-encoding"})


class BadRequestBytes(Exception):
    """These bytes are not a request. `status` is what to answer before closing."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status

    def in_body(self) -> MiddlewareError:
        """What to answer where the head was a request and its body is at fault."""
        if self.status == 503:
            return Overloaded(str(self), retry_after_s=1)
        return BadRequest("The request's body is not framed as HTTP/1.1 asks.")


class _Over(Exception):
    """What follows on this connection is no further request."""


class Request:
    """
    One request. Its body grows until `complete`; `size` is how much of it has come.

    target      -- path and query as they came
    version     -- 1.0 or 1.1
    headers     -- in order, names as they came, without trailers
    keep_alive  -- whether another request on this connection will be served
    expects     -- it waits for 100 Continue before it sends the body
    """

    __slots__ = (
        "_body",
        "_upload",
        "complete",
        "expects",
        "headers",
        "keep_alive",
        "method",
        "size",
        "target",
        "version",
    )

    def __init__(self) -> None:
        self.method = ""
        self.target = ""
        self.version = "1.1"
        self.headers: Headers = []
        self.size = 0
        self.complete = False
        self.keep_alive = True
        self.expects = False
        self._body = bytearray()
        self._upload: Upload | None = None

    @property
    def chunks_allowed(self) -> bool:
        """HTTP/1.0 clients can't read chunks."""
        return self.version != "1.0"

    def header(self, name: str) -> str | None:
        """The first header of this lower-case name."""
        return next((value for found, value in self.headers if found.lower() == name), None)

    def append(self, data: bytes, room: Uploads) -> None:
        """More of the body. Raises UploadsFull."""
        self.size += len(data)
        if self._upload is None:
            if self.size <= SMALL_BYTES:
                self._body += data
                return
            self._upload = Upload(room)
            self._upload.append(self._body)
            self._body = bytearray()
        self._upload.append(data)

    def take_body(self, most: int) -> bytes:
        """The first `most` bytes of what has come; nothing is kept. Raises UploadsFull."""
        if self._upload is None:
            body = bytes(self._body) if self.size <= most else bytes(self._body[:most])
            self._body = bytearray()
            return body
        try:
            return self._upload.take(most)
        finally:
            self.drop_body()

    def open_body(self) -> BinaryIO:
        """The same to read from, without taking memory for it. Good until `drop_body`."""
        return io.BytesIO(self._body) if self._upload is None else self._upload.open()

    def drop_body(self) -> None:
        """Nothing of the body is needed any more."""
        self._body = bytearray()
        upload, self._upload = self._upload, None
        if upload is not None:
            upload.close()


class RequestParser:
    """
    Feed it; take whole heads from `requests`, whose bodies may still be growing.

    over  -- the last request has come: further bytes mean nothing
    """

    def __init__(self, room: Uploads = EVERYBODY) -> None:
        self.requests: deque[Request] = deque()
        #: Bytes of a head that has begun are here: the client must finish it in time.
        self.in_head = False
        self.over = False
        self._room = room
        self._parser: Any = httptools.HttpRequestParser(self)
        self._current = Request()
        self._target = bytearray()
        self._codings: list[bytes] = []
        self._closes = False
        self._head_bytes = 0  # of an unfinished head, as they were read
        self._body_bytes = 0  # of an unfinished body, as they were read
        self._header_bytes = 0
        self._hosts: list[bytes] = []
        self._body_of: Request | None = None
        self._switching = False  # llhttp takes what follows for another protocol
        self._priming = False

    @property
    def is_clean(self) -> bool:
        """Whether the next byte begins a request, and none is waiting."""
        return not (self._head_bytes or self.in_head or self.requests or self._body_of is not None)

    def feed(self, data: bytes) -> None:
        """Raises BadRequestBytes; what came complete before the fault is in `requests`."""
        if self.over:
            return
        if self._body_of is None:
            self._head_bytes += len(data)
        try:
            self._execute(data)
        except httptools.HttpParserError as error:
            if self.over:
                return
            cause = error.__context__
            if isinstance(cause, BadRequestBytes):
                raise cause from error
            raise BadRequestBytes(400, "The request is not well-formed HTTP/1.1.") from error
        if self._body_of is not None:
            self._check_framing(len(data), self._body_of.size)
        elif self._head_bytes > MAX_HEAD_BYTES:
            raise BadRequestBytes(431, "The request's head is too large.")

    def _execute(self, data: bytes) -> None:
        while data and not self.over:
            try:
                self._parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as switched:
                data = data[switched.args[0] :]
                self._stay_with_http()

    def _stay_with_http(self) -> None:
        """
        No upgrade is ever granted, so that what follows is the body and the next request all the same (RFC 9110, 7.8).
        llhttp can't be told: another one takes over, which is given a head with the same framing.
        """
        self._parser = httptools.HttpRequestParser(self)
        request = self._body_of
        if request is None:
            return
        lines = [f"{name}: {value}\r\n" for name, value in request.headers if name.lower() in _FRAMING]
        head = "".join(["POST / HTTP/1.1\r\nHost: localhost\r\n", *lines, "\r\n"])
        self._switching, self._priming = False, True
        try:
            self._parser.feed_data(head.encode("latin-1"))
        finally:
            self._priming = False

    def _check_framing(self, fed: int, size: int) -> None:
        """Chunk extensions and trailers have no end of their own."""
        self._body_bytes += fed
        if self._body_bytes > MAX_FRAMING_BYTES + MAX_FRAMING_RATIO * size:
            raise BadRequestBytes(400, "The request's body is almost nothing but framing.")

    def drop(self) -> None:
        """Nobody will take what is here."""
        for request in self.requests:
            request.drop_body()
        self.requests.clear()
        # It refers to this object, which would wait for the collector of such circles.
        self.over, self._parser = True, None

    # -- llhttp calls these -------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._priming:
            return
        if len(self.requests) >= MAX_AHEAD:
            # A client that sends ahead must be ready to send again what was not answered (RFC 9112, 9.3.2).
            self.requests[-1].keep_alive = False
            self.over = True
        if self.over:
            raise _Over
        self._current = Request()
        self._target = bytearray()
        self._hosts, self._codings, self._closes = [], [], False
        self._header_bytes = 0
        self.in_head = True

    def on_url(self, part: bytes) -> None:
        self._target += part
        if len(self._target) > MAX_TARGET_BYTES:
            raise BadRequestBytes(414, "The request's address is too long.")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._body_of is not None:
            return  # a trailer: it could pass for a header that was checked, and nothing here needs one
        headers = self._current.headers
        if len(headers) >= MAX_HEADERS:
            raise BadRequestBytes(431, "The request has too many headers.")
        size = len(name) + len(value)
        self._header_bytes += size
        if size > MAX_HEADER_BYTES or self._header_bytes > MAX_HEAD_BYTES:
            raise BadRequestBytes(431, "The request's head is too large.")
        value = value.rstrip(b" \t")
        lower = name.lower()
        if lower == b"host":
            self._hosts.append(value)
        elif lower == b"transfer-encoding":
            self._codings.append(value)
        elif lower == b"connection":
            # To llhttp the last of several is right; whoever says `close` once means it.
            self._closes |= b"close" in [option.strip(b" \t").lower() for option in value.split(b",")]
        elif lower == b"expect":
            self._expect(value)
        headers.append((name.decode("latin-1"), value.decode("latin-1")))

    def _expect(self, value: bytes) -> None:
        if value.lower() == b"100-continue":
            self._current.expects = True
        else:
            raise BadRequestBytes(417, "Only 'Expect: 100-continue' is known.")

    def on_headers_complete(self) -> None:
        if self._priming:
            return
        request, parser = self._current, self._parser
        version = parser.get_http_version()
        self._check_head(version)
        request.method = parser.get_method().decode("ascii")
        request.target = self._target.decode("latin-1")
        request.version = version
        request.keep_alive = parser.should_keep_alive() and not self._closes
        request.expects = request.expects and version != "1.0"
        if parser.should_upgrade():
            self._meet_upgrade(request)
        if request.target[0] == "*" and (request.target, request.method) != ("*", "OPTIONS"):
            raise BadRequestBytes(400, "Only OPTIONS can ask the server as a whole, by '*'.")
        if request.target[0] != "/" or "#" in request.target:
            # Not a target for an origin: whoever serves it will refuse it, and nobody knows what the client believes.
            request.keep_alive = False
        self.in_head = False
        self._head_bytes = self._body_bytes = 0
        self._body_of = request
        self.requests.append(request)

    def _check_head(self, version: str) -> None:
        if version == "0.9":
            raise BadRequestBytes(400, "The request does not say that it is HTTP/1.1.")
        if version not in _VERSIONS:
            raise BadRequestBytes(505, "Only HTTP/1.1 and HTTP/1.0 are spoken here.")
        hosts = self._hosts
        if len(hosts) != 1 and (hosts or version != "1.0"):
            raise BadRequestBytes(400, "A request has exactly one Host header.")
        if hosts and not _is_host(hosts[0]):
            raise BadRequestBytes(400, "The header Host does not name a host.")
        if self._codings and version == "1.0":
            raise BadRequestBytes(400, "HTTP/1.0 has no transfer codings.")
        if self._codings and (len(self._codings) > 1 or self._codings[0].lower() != b"chunked"):
            raise BadRequestBytes(501, "Only the transfer coding 'chunked' is known.")

    def _meet_upgrade(self, request: Request) -> None:
        if request.method == "CONNECT":
            request.keep_alive = False  # a tunnel is what would follow, and never a body
            return
        self._switching = True
        if any(name.lower() == "upgrade" and "websocket" in value.lower() for name, value in request.headers):
            request.keep_alive = False

    def on_body(self, data: bytes) -> None:
        if self._body_of is not None:
            try:
                self._body_of.append(data, self._room)
            except UploadsFull as error:
                raise BadRequestBytes(503, "The server holds as many uploads as it can.") from error

    def on_message_complete(self) -> None:
        request = self._body_of
        if self._switching or request is None:
            return
        request.complete = True
        self._body_of = None
        if not request.keep_alive:
            self.over = True


@lru_cache(maxsize=256)
def _is_host(value: bytes) -> bool:
    """Source: RFC 3986, section 3.2.2, without the IPvFuture that never came."""
    return _HOST.fullmatch(value) is not None
