"""
The request's body as the WSGI server hands it out. Each server has exceptions of its own for a body that is not framed
as HTTP/1.1 asks (RFC 9112, section 7); here all of them become OSError, which every reader of a body expects.
"""

from __future__ import annotations

import errno
from typing import Any


class FramedBody:
    """Put around `wsgi.input`. Reads what the server reads, and raises nothing but OSError."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def read(self, size: int = -1) -> bytes:
        try:
            return bytes(self._stream.read(size) if size >= 0 else self._stream.read())
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001 - the server's own kinds have no base that all servers share
            raise OSError(errno.EPROTO, "the request's body is not framed as HTTP/1.1 asks") from error


def read_body(environ: dict[str, Any], max_bytes: int) -> bytes:
    """At most `max_bytes` of the body. Raises EOFError when the caller left in the middle, OSError for bad framing."""
    length = environ.get("CONTENT_LENGTH")
    if not length and not environ.get("wsgi.input_terminated"):
        return b""
    stream = FramedBody(environ["wsgi.input"])
    wanted = min(int(length), max_bytes) if length else max_bytes
    parts: list[bytes] = []
    while wanted > 0:
        part = stream.read(min(wanted, 1 << 20))
        if not part:
            break
        parts.append(part)
        wanted -= len(part)
    if wanted > 0 and length:
        raise EOFError
    return b"".join(parts)
