"""
How a worker turns a new connection away when it has no room for it: with an answer, not with silence.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time

_PAUSE_S = 0.02
_REFUSAL_BODY = (
    b'{"error":{"message":"The server is at the limit of its connections. Try again in a moment.",'
    b'"type":"server_error","code":"overloaded","param":null}}'
)
_REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(_REFUSAL_BODY), _REFUSAL_BODY)
)

#: A new connection failed with one of these: descriptors or memory have run out.
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Doorkeeper:
    """Keeps one descriptor in reserve, which makes room for a connection where there is no other."""

    def __init__(self) -> None:
        self._spare = _spare_descriptor()

    def turn_away(self, listener: socket.socket) -> None:
        """Answer the next new connection with 503."""
        if self._spare is not None:
            os.close(self._spare)
        try:
            client, _ = listener.accept()
            with client:
                client.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    client.recv(65536)  # unread input would make the close a reset, and the answer would be lost
                client.send(_REFUSAL)
                client.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            pass  # there was nobody
        except OSError:
            # Nothing can be done for the caller; without a pause this thread would spin on it.
            time.sleep(_PAUSE_S)
        self._spare = _spare_descriptor()


def _spare_descriptor() -> int | None:
    try:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
