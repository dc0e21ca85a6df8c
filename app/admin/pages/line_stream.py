"""
The live log as an endless answer of server-sent events (WHATWG HTML, "Server-sent events"): a line is an event whose id
is that of its row, so that a browser that comes back goes on where it was.

    id: 7
    data: {"id": 7, "time": "2026-11-20T13:47:05.123Z", "msg": "...", "color": "green"}

`event: missing` has the number of lines that went before they could be shown; `event: end` says that the session has
ended. A class with an idempotent `close`, because closing a generator that never started would run no clean-up.
"""

from __future__ import annotations

import contextlib
import json
import logging
import select
import socket
from collections.abc import Callable, Mapping
from typing import Any, Final

from app.admin.api.logs import shown
from app.auth_store import StorageFailure
from app.clock import Clock
from app.live_feed import Viewer
from app.live_log import Line

log = logging.getLogger(__name__)

#: How long nothing may be sent, how long a session that has ended may go on watching, and how soon all else is noticed.
BEAT_S: Final = 15.0
CHECK_S: Final = 10.0
LOOK_S: Final = 0.5
#: What a browser waits before it comes back.
RETRY: Final = b"retry: 2000\n\n"
BEAT: Final = b": beat\n\n"
END: Final = b"event: end\ndata: session\n\n"


class LineStream:
    """
    The body of one answer.

    allowed   -- whether the session is still open
    stopping  -- whether the server ends
    gone      -- whether the caller has left
    """

    def __init__(
        self,
        viewer: Viewer,
        clock: Clock,
        *,
        allowed: Callable[[], bool],
        stopping: Callable[[], bool],
        gone: Callable[[], bool],
    ) -> None:
        self._viewer, self._clock = viewer, clock
        self._allowed, self._stopping, self._gone = allowed, stopping, gone
        now = clock.monotonic()
        self._beat_at, self._check_at = now + BEAT_S, now + CHECK_S
        self._begun = self._caught_up = self._ended = False

    def __iter__(self) -> LineStream:
        return self

    def __next__(self) -> bytes:
        if not self._begun:
            self._begun = True
            return RETRY
        while not (self._ended or self._stopping() or self._gone()):
            now = self._clock.monotonic()
            if now >= self._check_at:
                self._check_at = now + CHECK_S
                if not self._allowed():
                    self._ended = True
                    return END
            data = self._lines()
            if not data and now >= self._beat_at:
                data = BEAT
            if data:
                self._beat_at = now + BEAT_S
                return data
        raise StopIteration

    def close(self) -> None:
        self._ended = True
        self._viewer.close()

    def _lines(self) -> bytes:
        before = self._viewer.position
        try:
            lines = self._viewer.lines(LOOK_S)
        except StorageFailure:
            return b""
        if not lines:
            return b""
        missing = lines[0].id - before - 1
        told = b"" if self._caught_up or missing <= 0 else b"event: missing\ndata: %d\n\n" % missing
        self._caught_up = True
        return told + b"".join(map(event, lines))


def event(line: Line) -> bytes:
    """JSON has no line breaks, so that a line's text can't begin another field."""
    return b"id: %d\ndata: %s\n\n" % (line.id, json.dumps(shown(line)).encode())


def caller_left(environ: Mapping[str, Any]) -> Callable[[], bool]:
    """Whether the caller of this WSGI request has left, as far as the server shows its socket."""
    flag = environ.get("middleware.client_gone")
    sock = environ.get("gunicorn.socket") or environ.get("werkzeug.socket")

    def left() -> bool:
        if flag is not None:
            return bool(flag.is_set())
        return isinstance(sock, socket.socket) and _has_ended(sock)

    return left


def _has_ended(sock: socket.socket) -> bool:
    poll = select.poll()
    with contextlib.suppress(OSError, ValueError):
        poll.register(sock, select.POLLIN)
        return bool(poll.poll(0)) and sock.recv(1, socket.MSG_PEEK) == b""
    return True
