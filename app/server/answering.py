"""
An answer on its way to the client: its head, its bytes in the framing that the head named.
"""

from __future__ import annotations

import socket

from app.proxy.events import ClientHead
from app.server.framing import Framing, frame
from app.server.loop import Loop
from app.server.outgoing import LOW_WATER_BYTES, Outgoing
from app.server.requests import Request


class Answering(Outgoing):
    """For the handlers of a connection, one answer at a time."""

    def __init__(self, loop: Loop, sock: socket.socket) -> None:
        super().__init__(loop, sock)
        self._request: Request | None = None  # what is answered
        self._framing: Framing | None = None  # of the answer, once its head is out
        self._keep = True

    def head(self, command: ClientHead) -> None:
        request = self._request
        self._corked = self._corked if self._corked is not None else []
        self._send_head(command, request)

    def data(self, data: bytes) -> None:
        framing = self._framing
        if self._dead or not data or framing is None or framing.bodiless:
            return
        self._write(b"%x\r\n%b\r\n" % (len(data), data) if framing.chunked else data)
        if self._corked is not None and sum(map(len, self._corked)) > LOW_WATER_BYTES:
            self.uncork()

    def chunks(self, data: bytes) -> None:
        """What is framed already, head or chunks."""
        self._write_soon(data)

    def data_now(self, data: bytes) -> None:
        """The same, and what has gathered goes out in one write."""
        self.data(data)
        self.uncork()

    def _send_head(self, command: ClientHead, request: Request | None) -> None:
        framing = self._framing = frame(command, request, self._keep, self._loop.date_bytes().decode())
        self._keep = framing.keep
        self._write(framing.head)
