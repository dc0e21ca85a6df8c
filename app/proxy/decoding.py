"""
Content encodings, undone with a limit. We ask every upstream for `identity`; some compress all the same. Pure.
"""

from __future__ import annotations

import zlib
from typing import Protocol


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
    """gzip and deflate (zlib-wrapped or raw), at most `max_bytes` of output altogether."""

    def __init__(self, max_bytes: int) -> None:
        self._left = max_bytes
        self._inflate = zlib.decompressobj(zlib.MAX_WBITS | 32)
        self._started = False

    def feed(self, data: bytes) -> bytes:
        try:
            decoded = self._first(data) if not self._started else self._inflate.decompress(data, self._left + 1)
        except zlib.error as error:
            raise DecodingFailed("the compressed data is damaged") from error
        self._started = self._started or bool(data)
        self._left -= len(decoded)
        if self._left < 0 or self._inflate.unconsumed_tail:
            raise DecodingFailed("the data grows beyond the limit when decompressed")
        return decoded

    def _first(self, data: bytes) -> bytes:
        try:
            return self._inflate.decompress(data, self._left + 1)
        except zlib.error:
            # "deflate" without the zlib wrapper: many servers send it so.
            self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)
            return self._inflate.decompress(data, self._left + 1)

    def end(self) -> None:
        if not self._inflate.eof:
            raise DecodingFailed("the compressed data ends too early")


def decoder(encoding: str, max_bytes: int) -> Decoder:
    """The decoder for a `Content-Encoding` value. Raises DecodingFailed for one that is not known."""
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return Identity()
    if encoding in ("gzip", "x-gzip", "deflate"):
        return Zlib(max_bytes)
    raise DecodingFailed(f"the content encoding {encoding[:40]!r} is not supported")
