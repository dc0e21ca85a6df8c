"""
Known requests before they are whole: the beginning of one, and the parser's word on a head.
"""

from __future__ import annotations

from typing import Protocol

from app.server.requests import BadRequestBytes, Request, RequestParser


class Sum(Protocol):
    """Who keeps the sum of what is gathered for all clients."""

    gathered_bytes: int


class Gathering:
    """The beginning of a known request whose body is not complete."""

    def __init__(self, total: Sum, data: bytes, size: int, until: float) -> None:
        self._total = total
        self._data = data
        self._size = size
        self.until = until
        total.gathered_bytes += size

    def end(self) -> bytes:
        """What there is; it is no longer gathered."""
        self._total.gathered_bytes -= self._size
        return self._data


def parse_head(head: bytes) -> Request | None:
    """The request of a whole head; None where the parser refuses it, or where more than one begins there."""
    parser = RequestParser()
    try:
        parser.feed(head)
        return parser.requests.popleft() if len(parser.requests) == 1 else None
    except BadRequestBytes:
        return None
    finally:
        parser.drop()
