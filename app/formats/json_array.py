"""
A JSON array that arrives piece by piece, cut into its objects: Gemini's `streamGenerateContent` without `alt=sse`.

The pieces are the bytes as they came, separators included, so that joining them gives the input back. Nothing is
decoded, and brackets are only counted: what is not JSON comes out as it is. Grammar: RFC 8259.
"""

from __future__ import annotations

import re

MIB = 1024 * 1024

_STRUCTURE = re.compile(rb'["{}\[\]]')
# The inside of a string up to its closing quote, to a backslash that ends the data, or to the end of the data.
_STRING_REST = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_MAX_TAIL_BYTES = 64 * 1024
_SEPARATORS = b"[, \t\r\n"


def object_of(piece: bytes) -> bytes:
    """Return the object in a piece, without the separators before it; b"" where there is none."""
    return piece.lstrip(_SEPARATORS)


class Splitter:
    """
    Cuts a byte stream into pieces. A piece is one object with whatever stands before it. The closing bracket is no
    piece: it sets `closed` and is given back by `rest`, so that an array which closes before its answer was complete
    can still be continued with an error. The pieces do not depend on how the stream was sliced into reads, and the
    work is linear in its length.

    An object longer than `max_object_bytes` comes out in parts as it arrives, and `oversized` is set. An object that
    is not inside an array is a piece too; `closed` then stays False.
    """

    def __init__(self, max_object_bytes: int = 32 * MIB) -> None:
        #: The final bracket was seen.
        self.closed = False
        self.oversized = False
        self._max_object_bytes = max_object_bytes
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._depth = 0
        self._base = 0  # depth between the objects: 1 inside an array
        self._in_string = False
        self._escaped = False  # the data so far ended with a backslash inside a string

    def feed(self, data: bytes) -> list[bytes]:
        """Return the pieces that are complete now. Bytes long after the end of the array are dropped."""
        if self.closed and self._pending_bytes > _MAX_TAIL_BYTES:
            return []
        pieces: list[bytes] = []
        start = position = 0
        while not self.closed:
            position, complete = self._advance(data, position)
            if not complete or self.closed:
                break
            pieces.append(self._take(data[start:position]))
            start = position
        if start < len(data):
            self._pending.append(data[start:])
            self._pending_bytes += len(data) - start
        if self._pending_bytes > self._max_object_bytes and not self.closed:
            self.oversized = True
            pieces.append(self._take(b""))
        return pieces

    def rest(self) -> bytes:
        """Return the end of the array, or what is left of one that was cut, and forget it."""
        return self._take(b"")

    def _take(self, last: bytes) -> bytes:
        piece = b"".join((*self._pending, last))
        self._pending, self._pending_bytes = [], 0
        return piece

    def _advance(self, data: bytes, position: int) -> tuple[int, bool]:
        """Read on until a piece is complete (its end, True) or the data is used up (its length, False)."""
        while position < len(data):
            if self._in_string:
                position = self._skip_string(data, position)
                continue
            match = _STRUCTURE.search(data, position)
            if match is None:
                break
            position = match.end()
            if match[0] == b'"':
                self._in_string = True
            elif self._ends_piece(match[0]):
                return position, True
        return len(data), False

    def _skip_string(self, data: bytes, position: int) -> int:
        if self._escaped:
            self._escaped = False
            position += 1
        match = _STRING_REST.match(data, position)
        position = match.end() if match else len(data)
        if position >= len(data):
            return position
        self._in_string = data[position : position + 1] != b'"'
        self._escaped = self._in_string  # only a backslash that ends the data stops short of the quote
        return position + 1

    def _ends_piece(self, bracket: bytes) -> bool:
        if bracket in (b"{", b"["):
            self._depth += 1
            if bracket == b"[" and self._depth == 1 and not self._base:
                self._base = 1
            return False
        if self._depth == 1 and self._base and bracket == b"]":
            self.closed = True
            return True
        self._depth = max(self._base, self._depth - 1)
        return self._depth == self._base
