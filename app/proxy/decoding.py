"""
Content encodings, undone with a limit. We ask every upstream for `identity`; some compress all the same. Pure.
"""

from __future__ import annotations

import math
import zlib
from typing import Final, Protocol

#: So much output is allowed whatever the input.
FREE_BYTES: Final = 1 << 20
_ANY_WRAPPER: Final = zlib.MAX_WBITS | 32  # gzip or zlib


class DecodingFailed(Exception):
    """The data is not what its `Content-Encoding` says, or it grows beyond the limit."""


class Decoder(Protocol):
    def feed(self, data: bytes) -> bytes:
        """The decoded bytes. Raises DecodingFailed."""
        ...

    def end(self) -> None:
        """Raises DecodingFailed if the data stopped in the middle."""
        ...


class Identity:
    def feed(self, data: bytes) -> bytes:
        return data

    def end(self) -> None:
        return None


class Zlib:
    """
    gzip and deflate (zlib-wrapped or raw).

    max_bytes  -- of output altogether
    max_ratio  -- output for each byte of input, beyond the first `FREE_BYTES`: no text shrinks as a bomb does
    """

    def __init__(self, max_bytes: int, max_ratio: float) -> None:
        self._max_bytes = max_bytes
        self._max_ratio = max_ratio
        self._bytes_in = 0
        self._bytes_out = 0
        self._start: bytes | None = b""
        self._inflate = zlib.decompressobj(_ANY_WRAPPER)

    def feed(self, data: bytes) -> bytes:
        self._bytes_in += len(data)
        try:
            decoded = self._decompress(data) if self._start is None else self._first(self._start + data)
            while self._inflate.eof and self._inflate.unused_data:
                # RFC 1952 section 2.2: a gzip file is a series of members.
                rest = self._inflate.unused_data
                self._inflate = zlib.decompressobj(_ANY_WRAPPER)
                decoded += self._decompress(rest)
        except zlib.error as error:
            raise DecodingFailed("the compressed data is damaged") from error
        return decoded

    def _decompress(self, data: bytes) -> bytes:
        if self._inflate.eof and data:
            self._inflate = zlib.decompressobj(_ANY_WRAPPER)
        may_be = min(self._max_bytes, max(FREE_BYTES, self._bytes_in * self._max_ratio))
        left = int(may_be) - self._bytes_out
        decoded = self._inflate.decompress(data, left + 1)
        self._bytes_out += len(decoded)
        if len(decoded) > left or self._inflate.unconsumed_tail:
            raise DecodingFailed("the data grows beyond the limit when decompressed")
        return decoded

    def _first(self, data: bytes) -> bytes:
        if len(data) < 2:
            self._start = data  # two bytes tell whether there is a wrapper
            return b""
        self._start = None
        try:
            return self._decompress(data)
        except zlib.error:
            # "deflate" without the zlib wrapper: many servers send it so.
            self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)
            return self._decompress(data)

    def end(self) -> None:
        # No data at all is no damage: some servers name an encoding for an empty body.
        if self._bytes_in and not self._inflate.eof:
            raise DecodingFailed("the compressed data ends too early")


def decoder(encoding: str, max_bytes: int, max_ratio: float = math.inf) -> Decoder:
    """The decoder for a `Content-Encoding` value, limited as `Zlib` says. Raises DecodingFailed for an unknown one."""
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return Identity()
    if encoding in ("gzip", "x-gzip", "deflate"):
        return Zlib(max_bytes, max_ratio)
    raise DecodingFailed(f"the content encoding {encoding[:40]!r} is not supported")
