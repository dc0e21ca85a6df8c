"""
Calls a WSGI application in this process, without a server: what it says, and whether its body ended as it should.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

from app.proxy.relay import AnswerCut

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class Said(NamedTuple):
    """An answer. `whole`: its body did not break off."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    whole: bool


def call(application: Application, request: bytes) -> Said:
    """The answer to a request that is given as the bytes of HTTP/1.1."""
    told: list[tuple[int, list[tuple[str, str]]]] = []

    def start_response(status: str, headers: list[tuple[str, str]], _exc_info: Any = None) -> None:
        told.append((int(status.split()[0]), headers))

    answer = application(environ_of(request), start_response)
    parts: list[bytes] = []
    whole = True
    try:
        parts.extend(part for part in answer)
    except AnswerCut:
        whole = False
    finally:
        close = getattr(answer, "close", None)
        if close is not None:
            close()
    status, headers = told[-1]
    return Said(status, headers, b"".join(parts), whole)


def environ_of(request: bytes) -> dict[str, Any]:
    """What a WSGI server makes of the request."""
    head, _, body = request.partition(b"\r\n\r\n")
    line, *fields = head.decode("latin-1").split("\r\n")
    method, target, _ = line.split(" ")
    path, _, query = target.partition("?")
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "QUERY_STRING": query,
        "RAW_URI": target,
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
    }
    for field in fields:
        name, _, value = field.partition(": ")
        key = name.upper().replace("-", "_")
        key = key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"
        environ[key] = f"{environ[key]},{value}" if key in environ else value
    if environ.get("HTTP_TRANSFER_ENCODING") == "chunked":
        body = _unchunked(body)
    environ["wsgi.input"] = io.BytesIO(body)
    return environ


def _unchunked(data: bytes) -> bytes:
    body = b""
    while size := int(data.partition(b"\r\n")[0], 16):
        data = data.partition(b"\r\n")[2]
        body, data = body + data[:size], data[size + 2 :]
    return body
