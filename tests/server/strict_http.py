"""
A strict reader of HTTP/1.1 requests, to compare the server's own with: regular expressions on whole bytes, slow and
plain. It refuses whatever RFC 9112 lets a server refuse, with the exceptions that are named where they are made.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

Lines = list[tuple[str, str]]

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
#: Several blanks between the parts: section 3 lets a reader take them for one.
REQUEST_LINE = re.compile(rb"(" + TOKEN + rb") +([\x21-\x7e]+) +HTTP/([0-9])\.([0-9])")
FIELD = re.compile(rb"(" + TOKEN + rb"):[ \t]*([\t\x20-\x7e\x80-\xff]*?)[ \t]*")
#: For the origin, for the server as a whole, or absolute: section 3.2. Nobody connects through this server.
TARGET = re.compile(rb"/.*|\*|[A-Za-z]+://[^/?#@]+(?:[/?].*)?")
QUOTED = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*"'
#: An extension may have an empty value, which section 7.1.1 does not know: nothing is decided by extensions.
CHUNK = re.compile(rb"([0-9A-Fa-f]+)((?:;" + TOKEN + rb"(?:=(?:" + TOKEN + rb"|" + QUOTED + rb")?)?)*)")
HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})*)(?::[0-9]*)?")
METHODS = frozenset(b"GET HEAD POST PUT PATCH DELETE OPTIONS".split())
#: Fields that say how a message is framed: section 6.5.1 of RFC 9110 forbids them in trailers.
FRAMING = frozenset({b"content-length", b"transfer-encoding", b"connection"})
MAX_SIZE = 1 << 64


@dataclass(frozen=True)
class Ask:
    """One request. `keep`: another one may follow."""

    method: str
    target: str
    headers: Lines
    body: bytes
    keep: bool


@dataclass(frozen=True)
class Reading:
    """The requests that are here whole, and why there are no more: `end`, `incomplete` or `refused`."""

    asked: list[Ask]
    ended: str


class Refused(Exception):
    pass


class Incomplete(Exception):
    pass


def read(data: bytes) -> Reading:
    """Everything that one connection sent, from its first to its last byte."""
    asked: list[Ask] = []
    try:
        while True:
            # Empty lines before a request are skipped, bare ends of lines too: section 2.2.
            data = data.lstrip(b"\r\n")
            if not data:
                return Reading(asked, "end")
            ask, data = _request(data)
            asked.append(ask)
            if not ask.keep:
                return Reading(asked, "end")
    except Refused:
        return Reading(asked, "refused")
    except Incomplete:
        return Reading(asked, "incomplete")


def _request(data: bytes) -> tuple[Ask, bytes]:
    line, data = _line(data)
    parts = REQUEST_LINE.fullmatch(line)
    if parts is None or parts[1] not in METHODS or TARGET.fullmatch(parts[2]) is None:
        raise Refused
    if parts[2] == b"*" and parts[1] != b"OPTIONS":
        raise Refused
    version = (int(parts[3]), int(parts[4]))
    if version not in ((1, 0), (1, 1)):
        raise Refused
    headers, data = _fields(data)
    _check_host(headers, version)
    body, data = _body(headers, version, data)
    lines = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
    keep = _keeps(headers, version) and _is_plain(parts[2], headers)
    return Ask(parts[1].decode(), parts[2].decode(), lines, body, keep), data


def _line(data: bytes) -> tuple[bytes, bytes]:
    """One line and what follows it. Only CRLF ends a line; a CR or LF by itself is refused."""
    end = data.find(b"\r\n")
    line = data if end < 0 else data[:end]
    if b"\n" in line or b"\r" in line.removesuffix(b"\r" if end < 0 else b""):
        raise Refused
    if end < 0:
        raise Incomplete
    return line, data[end + 2 :]


def _fields(data: bytes) -> tuple[list[tuple[bytes, bytes]], bytes]:
    found = []
    while True:
        line, data = _line(data)
        if not line:
            return found, data
        field = FIELD.fullmatch(line)  # a folded line begins with a blank, which no name does
        if field is None:
            raise Refused
        found.append((field[1], field[2]))


def _values(headers: list[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    return [value for found, value in headers if found.lower() == name]


def _check_host(headers: list[tuple[bytes, bytes]], version: tuple[int, int]) -> None:
    hosts = _values(headers, b"host")
    if len(hosts) > 1 or (not hosts and version == (1, 1)) or not all(map(HOST.fullmatch, hosts)):
        raise Refused


def _body(headers: list[tuple[bytes, bytes]], version: tuple[int, int], data: bytes) -> tuple[bytes, bytes]:
    lengths, codings = _values(headers, b"content-length"), _values(headers, b"transfer-encoding")
    if any(value.lower() != b"100-continue" for value in _values(headers, b"expect")):
        raise Refused
    if codings:
        if lengths or version == (1, 0) or [value.lower() for value in codings] != [b"chunked"]:
            raise Refused
        return _chunks(data)
    if not lengths:
        return b"", data
    if len(lengths) > 1 or re.fullmatch(rb"[0-9]+", lengths[0]) is None or int(lengths[0]) >= MAX_SIZE:
        raise Refused
    size = int(lengths[0])
    if len(data) < size:
        raise Incomplete
    return data[:size], data[size:]


def _chunks(data: bytes) -> tuple[bytes, bytes]:
    body = b""
    while True:
        line, data = _line(data)
        chunk = CHUNK.fullmatch(line)
        if chunk is None or int(chunk[1], 16) >= MAX_SIZE:
            raise Refused
        size = int(chunk[1], 16)
        if size == 0:
            break
        if len(data) < size + 2:
            raise Incomplete
        if data[size : size + 2] != b"\r\n":
            raise Refused
        body, data = body + data[:size], data[size + 2 :]
    trailers, data = _fields(data)
    if any(name.lower() in FRAMING for name, _ in trailers):
        raise Refused
    return body, data


def _keeps(headers: list[tuple[bytes, bytes]], version: tuple[int, int]) -> bool:
    options = {
        option.strip(b" \t").lower() for value in _values(headers, b"connection") for option in value.split(b",")
    }
    return b"close" not in options and (version == (1, 1) or b"keep-alive" in options)


def _is_plain(target: bytes, headers: list[tuple[bytes, bytes]]) -> bool:
    """
    Whether the server goes on after this request. It closes after a target that is none for an origin, and after a
    WebSocket's handshake, which it refuses.
    """
    options = {
        option.strip(b" \t").lower() for value in _values(headers, b"connection") for option in value.split(b",")
    }
    upgrades = b",".join(_values(headers, b"upgrade")).lower()
    websocket = b"upgrade" in options and b"websocket" in upgrades
    return target.startswith(b"/") and b"#" not in target and not websocket
