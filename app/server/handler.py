"""What a client's connection expects of whoever serves a request: a relay, or a thread that runs Flask."""

from __future__ import annotations

from typing import Protocol

from app.errors import MiddlewareError


class Handler(Protocol):
    """
    start   -- begin; ask for the body where there may be one
    body    -- the whole body, or one byte more than was wanted; a handler that reads it from the request gets only
               what is too much, and nothing of it
    gone    -- the client left: nothing can be told to it any more
    drain   -- the server's grace is over
    pause   -- the client is behind with reading, or no longer
    refuse  -- answer with this error: the body will not come
    """

    def start(self) -> None: ...
    def body(self, data: bytes) -> None: ...
    def gone(self) -> None: ...
    def drain(self) -> None: ...
    def pause(self, paused: bool) -> None: ...
    def refuse(self, error: MiddlewareError) -> None: ...
