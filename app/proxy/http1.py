"""
An upstream's HTTP/1.1 answer, from bytes to events. No I/O; the parser is llhttp.

1xx answers are swallowed. Anything that is not a well-formed answer within the limits raises BadAnswer.
Source: RFC 9112, sections 6 and 7.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import httptools

from app.proxy.events import Headers, Send, UpstreamBytes, UpstreamEnd, UpstreamHead

#: Status line and headers together, 1xx answers included; and, in the body, framing that brings no data.
MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 256
_NO_TARGET = re.compile(r"[\x00-\x20\x7f]")

AnswerEvent = UpstreamHead | UpstreamBytes | UpstreamEnd


class BadAnswer(Exception):
    """
    The upstream does not speak HTTP/1.1 as it should. The message holds nothing that it sent.

    events  -- what was well-formed before the fault
    """

    def __init__(self, message: str, events: list[AnswerEvent] | None = None) -> None:
        super().__init__(message)
        self.events = events or []


class AnswerParser:
    """
    Parses one answer. `reusable` tells, once UpstreamEnd came, whether the connection may serve another request.

    head_only -- the request was HEAD: the answer has no body whatever its headers say
    """

    def __init__(self, *, head_only: bool) -> None:
        self.begun = False  # at least one byte of the answer was read
        self.reusable = False
        self._parser: Any = httptools.HttpResponseParser(self)
        self._head_only = head_only
        self._events: list[AnswerEvent] = []
        self._headers: Headers = []
        self._status = 0
        #: Bytes fed since the last body data: of the head, of chunk extensions, of trailers.
        self._dataless_bytes = 0
        self._header_bytes = 0
        self._head_done = False
        self._framed = False
        self._over = False
        self._extra = False

    def feed(self, data: bytes) -> list[AnswerEvent]:
        """Events of these bytes, in order. Raises BadAnswer."""
        self.begun = True
        self._events = []
        self._dataless_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            # With HEAD, llhttp takes what follows the head for a body: that end is ours to see.
            if not self._over:
                raise BadAnswer("it is not well-formed HTTP/1.1", self._events) from error
            self._extra = True
        if self._dataless_bytes > MAX_HEAD_BYTES and not self._over:
            raise BadAnswer("its head or its framing is too large", self._events)
        if self._extra:
            self.reusable = False
        return self._events

    def closed(self) -> list[AnswerEvent]:
        """The connection was closed. Raises BadAnswer if that is not where the answer ends."""
        self.reusable = False
        if self._over:
            return []
        if not self._head_done:
            raise BadAnswer("the connection was closed before an answer")
        if self._framed:
            raise BadAnswer("the connection was closed before the end of the answer")
        self._over = True
        return [UpstreamEnd(closed=True)]

    def drop(self) -> None:
        """Nothing more is fed. llhttp refers to this object, which would wait for the collector of such circles."""
        self._parser = None

    # -- llhttp calls these -------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._over:
            self._extra = True
        self._headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._over:
            return
        # A head that comes in one piece is measured here: names, values and four bytes of framing.
        self._header_bytes += len(name) + len(value) + 4
        if len(self._headers) >= MAX_HEADERS or self._header_bytes > MAX_HEAD_BYTES:
            raise BadAnswer("it has too many headers")
        self._headers.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()
        if self._over:
            return
        if self._status == 101:
            raise BadAnswer("it switches to a protocol that nobody asked for")
        if self._status < 200:
            return
        self._head_done = True
        self._dataless_bytes = 0
        self._framed = self._is_framed()
        # Trailers are added to the parser's own list: they reach nobody.
        self._events.append(UpstreamHead(self._status, list(self._headers)))
        if self._head_only:
            self._end()

    def _is_framed(self) -> bool:
        """Whether the answer says where it ends; without that, the connection's end is its end."""
        framing = {name.lower(): value.lower() for name, value in self._headers}
        has_length = "content-length" in framing or "chunked" in framing.get("transfer-encoding", "")
        return has_length or self._status in (204, 304)

    def on_body(self, data: bytes) -> None:
        self._dataless_bytes = 0
        if not self._over:
            self._events.append(UpstreamBytes(data))

    def on_message_complete(self) -> None:
        if self._head_done and not self._over:
            self._end()

    def _end(self) -> None:
        self._over = True
        self.reusable = self._parser.should_keep_alive()
        self._events.append(UpstreamEnd())


def request_bytes(send: Send) -> bytes:
    """The head of a request, ready to write. Raises ValueError for a target or a header that would break its lines."""
    if _NO_TARGET.search(send.target):
        raise ValueError("the target holds a space or a control character")
    lines = [f"{send.method} {send.target} HTTP/1.1", *_header_lines(send.headers), "", ""]
    return "\r\n".join(lines).encode("latin-1")


def _header_lines(headers: Headers) -> Iterable[str]:
    for name, value in headers:
        if any(character in name or character in value for character in "\r\n\0"):
            raise ValueError(f"the header {name[:40]!r} holds a line break")
        yield f"{name}: {value}"
