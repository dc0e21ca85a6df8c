"""
Server-sent events as bytes: cut into events, read, written.

Events come out exactly as they came in, blank line included, so that a relay can pass them on unchanged. Lines end
with LF, CRLF or CR and nothing else: U+2028 and U+0085 are text. Truth: the WHATWG HTML standard, section
"Server-sent events".
"""

from __future__ import annotations

import re

MIB = 1024 * 1024

_CR, _LF = 13, 10

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LINE_END = re.compile(rb"\r\n|\n|\r")
# A line end and a blank line. A CR after a lone CR is complete: in such a stream no LF is coming.
_EVENT_END = re.compile(rb"\r\n(?>\r\n|\n|\r)|\n(?>\r\n|\n|\r)|\r\r")
# At most this many bytes at the end of unfinished data can belong to the end of an event.
_OVERLAP_BYTES = 2


class Splitter:
    """
    Cuts a byte stream into events. The events do not depend on how the stream was sliced into reads.

    A blank line with nothing before it is an event of its own, so that an upstream's heartbeats pass at once.
    An event longer than `max_event_bytes` comes out in pieces as it arrives, and `oversized` is set.
    """

    def __init__(self, max_event_bytes: int = 32 * MIB) -> None:
        self.oversized = False
        self._max_event_bytes = max_event_bytes
        self._buffer = bytearray()
        self._scanned = 0
        self._inside = False  # the beginning of the current event has been handed out already

    @property
    def is_empty(self) -> bool:
        """Whether the last event was complete and nothing has come since."""
        return not self._buffer and not self._inside

    @property
    def waiting_bytes(self) -> int:
        """How much there is of an event that is not complete."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """Return the events that are complete now."""
        source: bytes | bytearray = data
        if self._buffer:
            self._buffer += data
            source = self._buffer
        events, start = self._cut(source)
        if source is data:
            self._buffer += data[start:]
        else:
            del self._buffer[:start]
        self._scanned = max(0, self._scanned - start)
        if self._inside or len(self._buffer) > self._max_event_bytes:
            events += self._flush()
        return events

    def rest(self) -> bytes:
        """Return what is left of an event whose blank line never came, and forget it."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        self._scanned, self._inside = 0, False
        return rest

    def _cut(self, source: bytes | bytearray) -> tuple[list[bytes], int]:
        """Return the complete events and where the unfinished one starts; note how far that one was searched."""
        events: list[bytes] = []
        start, search_from, size = 0, self._scanned, len(source)
        find_end = self._end_between_crs if source.find(b"\r", search_from) >= 0 else self._end_between_lfs
        while start < size:
            end, search_from = find_end(source, start, search_from)
            if end == 0:
                break
            events.append(bytes(source[start:end]))
            start = search_from = end
            self._inside = False
        self._scanned = search_from
        return events, start

    def _end_between_lfs(self, source: bytes | bytearray, start: int, search_from: int) -> tuple[int, int]:
        """The quick way, for data without a CR. Return as `_end_between_crs` does."""
        if source[start] == _LF and not self._inside:
            return start + 1, start
        found = source.find(b"\n\n", search_from)
        return (found + 2, found) if found >= 0 else (0, max(start, len(source) - _OVERLAP_BYTES))

    def _end_between_crs(self, source: bytes | bytearray, start: int, search_from: int) -> tuple[int, int]:
        """Return where the event ends, 0 while that is unknown, and from where to search on in that case."""
        end = None if self._inside else _LINE_END.match(source, start)
        if end is None:
            end = _EVENT_END.search(source, search_from)
        if end is None:
            return 0, max(start, len(source) - _OVERLAP_BYTES)
        if end.end() == len(source) and source[-1] == _CR and source[end.start() : end.end()] != b"\r\r":
            return 0, end.start()  # an LF may still follow this CR
        return end.end(), end.start()

    def _flush(self) -> list[bytes]:
        """Hand out the beginning of an event that is too long, except what could belong to its end."""
        self.oversized = self._inside = True
        size = min(len(self._buffer) - _OVERLAP_BYTES, self._scanned)
        if size <= 0:
            return []
        piece = bytes(self._buffer[:size])
        del self._buffer[:size]
        self._scanned -= size
        return [piece]


def data_of(event: bytes) -> bytes:
    """Return the event's `data` lines, joined by LF; b"" where it has none."""
    values = _values(event, b"data")
    return values[0] if len(values) == 1 else b"\n".join(values)


def name_of(event: bytes) -> bytes:
    """Return the value of the event's last `event` line; b"" where it has none."""
    values = _values(event, b"event")
    return values[-1] if values else b""


def encode(data: bytes, event: str | None = None) -> bytes:
    """Return one event with its blank line. Each line of `data` becomes a `data:` line."""
    head = b"" if event is None else b"event: " + event.encode() + b"\n"
    if b"\n" not in data and b"\r" not in data:
        return head + b"data: " + data + b"\n\n"
    return head + b"".join(b"data: " + line + b"\n" for line in _LINE_END.split(data)) + b"\n"


def _values(event: bytes, field: bytes) -> list[bytes]:
    if field not in event:
        return []
    values = []
    for line in _LINE_END.split(event.removeprefix(_BYTE_ORDER_MARK)):
        name, _, value = line.partition(b":")
        if name == field:
            values.append(value.removeprefix(b" "))
    return values
