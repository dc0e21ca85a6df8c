"""
Ordinary answers as the shortcut reads them: status 200, one Content-Length or one chunked coding, each header once.
Stricter than the parser that the exchange uses, so that nothing passes here that would not pass there. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from app.proxy.headers import ANSWER_ALLOWED, for_client, header_lines

# What becomes of one line of an answer's head.
_DROP, _PASS, _FRAMING, _EVENTS, _UNUSUAL = range(5)
#: In the place of a length: the body comes in chunks.
CHUNKED = -1
#: Lines of heads that are remembered.
MAX_LINES = 4096
#: What an answer may grow to before an exchange takes it over.
MAX_ANSWER_BYTES = 4 * 1024 * 1024
#: The same for a chunked one, whose end has to be looked for each time.
MAX_CHUNKED_BYTES = 256 * 1024
_STATUS = re.compile(rb"HTTP/1\.1 200(?: [\t\x20-\x7e]*)?")
_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([\t\x20-\x7e]*?)[ \t]*")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})\r\n")
_KEEP_ALIVE = "keep-alive"
#: Answer headers that only the exchange understands.
_UNUSUAL_ANSWER = frozenset({"content-encoding", "trailer", "upgrade", "content-range"})


class Unusual(Exception):
    """This answer is for the exchange."""


class AnswerHead:
    """
    lines    -- the headers that the caller gets, rendered
    named    -- the upstream names the request itself
    length   -- of the body, or CHUNKED
    streams  -- the body is a stream of events
    size     -- of the head as it came
    """

    __slots__ = ("length", "lines", "named", "size", "streams")

    def __init__(self, lines: bytes, named: bool, length: int, streams: bool, size: int) -> None:
        self.lines = lines
        self.named = named
        self.length = length
        self.streams = streams
        self.size = size


class Answer(NamedTuple):
    """
    lines  -- the headers that the caller gets, rendered
    named  -- the upstream names the request itself
    body   -- whole, without framing
    """

    lines: bytes
    named: bool
    body: bytes


class AnswerReader:
    """
    Reads ordinary answers: status 200, one Content-Length or one chunked coding, each header once. Stricter than the
    parser that the exchange uses, so that nothing passes here that would not pass there.

    clean  -- takes secrets out; a header that holds one makes the answer unusual
    """

    def __init__(self, clean: Callable[[bytes], bytes]) -> None:
        self._clean = clean
        self._known: dict[bytes, tuple[int, bytes | int, str]] = {}

    def read(self, data: bytes) -> Answer | None:
        """The plain answer that `data` is, None while it is not complete. Raises Unusual."""
        head = self.head(data)
        if head.streams:
            raise Unusual
        body = _sized(data, head.size, head.length) if head.length >= 0 else _chunked(data, head.size)
        return None if body is None else Answer(head.lines, head.named, body)

    def head(self, data: bytes) -> AnswerHead:
        """The head that `data` begins with. Raises Unusual, also where it is not complete."""
        end = data.find(b"\r\n\r\n")
        if end < 0:
            raise Unusual
        status, *lines = data[:end].split(b"\r\n")
        if status != b"HTTP/1.1 200 OK" and _STATUS.fullmatch(status) is None:
            raise Unusual
        known = self._known
        passed: list[Any] = []
        names: list[str] = []
        framing: list[Any] = []
        streams = False
        for line in lines:
            kind, value, name = known.get(line) or self._learn(line)
            if kind in (_PASS, _EVENTS):
                passed.append(value)
                names.append(name)
                streams = streams or kind == _EVENTS
            elif kind == _FRAMING:
                framing.append(value)
            elif kind == _UNUSUAL:
                raise Unusual
        if len(framing) != 1 or (len(names) > 1 and len(set(names)) != len(names)):
            raise Unusual
        return AnswerHead(b"".join(passed), "request-id" in names, framing[0], streams, end + 4)

    def _learn(self, line: bytes) -> tuple[int, bytes | int, str]:
        found = self._judge(line)
        if len(self._known) >= MAX_LINES:
            self._known.clear()
        self._known[line] = found
        return found

    def _judge(self, line: bytes) -> tuple[int, bytes | int, str]:
        match = _LINE.fullmatch(line)
        if match is None:
            return _UNUSUAL, b"", ""
        name, value = match[1].decode().lower(), match[2].decode()
        if name == "content-length":
            return (_FRAMING, int(value), name) if re.fullmatch("[0-9]{1,9}", value) else (_UNUSUAL, b"", name)
        if name == "transfer-encoding":
            return (_FRAMING if value.lower() == "chunked" else _UNUSUAL), CHUNKED, name
        if name == "connection":
            return (_DROP if value.lower() == _KEEP_ALIVE else _UNUSUAL), b"", name
        if name in _UNUSUAL_ANSWER or name.startswith("x-goog-upload"):
            return _UNUSUAL, b"", name
        if name not in ANSWER_ALLOWED:
            return _DROP, b"", name
        if self._clean(value.encode()) != value.encode():
            return _UNUSUAL, b"", name
        events = name == "content-type" and value.partition(";")[0].strip().lower() == "text/event-stream"
        return (_EVENTS if events else _PASS), header_lines(for_client({name: value})), name


def _sized(data: bytes, start: int, length: int) -> bytes | None:
    """The body of an answer with a length."""
    missing = start + length - len(data)
    if missing < 0 or length > MAX_ANSWER_BYTES:
        raise Unusual
    return None if missing else data[start:]


def _chunked(data: bytes, start: int) -> bytes | None:
    """The body of a chunked answer without extensions and trailers. Grammar: RFC 9112 section 7.1."""
    if not data.endswith(b"\r\n0\r\n\r\n"):
        if len(data) > MAX_CHUNKED_BYTES:
            raise Unusual
        return None
    parts: list[bytes] = []
    at, end = start, len(data) - 5
    while at < end:
        size = _CHUNK_SIZE.match(data, at)
        if size is None:
            raise Unusual
        begin = size.end()
        at = begin + int(size[1], 16)
        if at == begin or data[at : at + 2] != b"\r\n":
            raise Unusual
        parts.append(data[begin:at])
        at += 2
    if at != end:
        raise Unusual
    return b"".join(parts)
