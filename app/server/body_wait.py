"""
Waiting for a request's body: how much is too much, and by when more of it must be here. Pure.
"""

from __future__ import annotations

from collections.abc import Callable

#: The longest silence inside a body, and the bytes a second at which it must come on the whole.
BODY_TIMEOUT_S = 30.0
SLOWEST_BODY_BYTES_S = 256


class BodyWait:
    """
    limit       -- of which more is too much
    when_whole  -- called in place of the handler's `body`; the body then stays in the request
    """

    __slots__ = ("_since", "_size", "_until", "limit", "when_whole")

    def __init__(self, limit: int, when_whole: Callable[[], None] | None, now: float) -> None:
        self.limit = limit
        self.when_whole = when_whole
        self._since = now
        self._until = now + BODY_TIMEOUT_S
        self._size = 0

    def deadline(self, size: int, now: float) -> float:
        """With so much of the body here. Framing is no progress, and trickling is none for long."""
        if size > self._size:
            self._size, self._until = size, now + BODY_TIMEOUT_S
        return min(self._until, self._since + BODY_TIMEOUT_S + size / SLOWEST_BODY_BYTES_S)
