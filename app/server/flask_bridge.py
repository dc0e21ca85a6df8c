"""
Runs the Flask application for one request on a thread of the pool: a complete request in, an answer out through a
bounded queue, so that a slow client stops the thread's writing and nothing else.
"""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import unquote_to_bytes

from app.errors import MiddlewareError
from app.proxy.events import ClientHead
from app.server.connection import MAX_FLASK_BODY_BYTES, Connection
from app.server.loop import Loop
from app.server.requests import Request

#: How long a thread waits for a client that does not read.
STALLED_S = 60.0


class FlaskCall:
    """One request of `connection`, served by `application` on `pool`."""

    def __init__(
        self,
        loop: Loop,
        connection: Connection,
        request: Request,
        application: Callable[..., Iterable[bytes]],
        pool: ThreadPoolExecutor,
        address: tuple[str, int],
    ) -> None:
        self._loop = loop
        self._connection = connection
        self._request = request
        self._application = application
        self._pool = pool
        self._address = address
        self._head: ClientHead | None = None
        self._gone = threading.Event()
        self._room = threading.Event()
        self._room.set()

    # -- on the loop ----------------------------------------------------------------------------------

    def start(self) -> None:
        self._connection.want_body(MAX_FLASK_BODY_BYTES)

    def body(self, data: bytes) -> None:
        if len(data) > MAX_FLASK_BODY_BYTES:
            self._answer(413, b'{"success": false, "error": "The body is too large.", "code": "request_too_large"}')
            return
        try:
            self._pool.submit(self._run, data)
        except RuntimeError:  # the pool is shut down
            self._answer(503, b'{"success": false, "error": "The server is shutting down.", "code": "overloaded"}')

    def gone(self) -> None:
        self._gone.set()
        self._room.set()

    def drain(self) -> None:
        """Admin calls are short; a relay inside Flask watches the drain by itself."""

    def pause(self, paused: bool) -> None:
        if paused:
            self._room.clear()
        else:
            self._room.set()

    def refuse(self, error: MiddlewareError) -> None:
        body = b'{"success": false, "error": "%b", "code": "%b"}' % (str(error).encode(), error.code.encode())
        self._answer(error.status, body)

    def _answer(self, status: int, body: bytes) -> None:
        self._connection.head(ClientHead(status, [("Content-Type", "application/json")], len(body)))
        self._connection.data(body)
        self._connection.finish()

    # -- on the thread --------------------------------------------------------------------------------

    def _run(self, body: bytes) -> None:
        answer: Iterable[bytes] = ()
        try:
            answer = self._application(self._environ(body), self._start_response)
            for part in answer:
                if part:
                    self._send(part)
            self._tell(self._connection.finish)
        except Exception:  # noqa: BLE001 - the top level: whatever it was, the client sees a broken answer
            self._tell(self._connection.abort)
        finally:
            close = getattr(answer, "close", None)
            if close is not None:
                close()

    def _start_response(self, status: str, headers: list[tuple[str, str]], _exc_info: Any = None) -> Any:
        length = next((value for name, value in headers if name.lower() == "content-length"), None)
        kept = [(name, value) for name, value in headers if name.lower() not in ("content-length", "connection")]
        self._head = ClientHead(int(status.split(" ", 1)[0]), kept, int(length) if length is not None else None)
        head = self._head
        self._tell(lambda: self._connection.head(head))
        return self._send

    def _send(self, part: bytes) -> None:
        if not self._room.wait(STALLED_S) or self._gone.is_set():
            raise ConnectionResetError("the client left")
        self._tell(lambda: self._connection.data_now(part))

    def _tell(self, call: Callable[[], object]) -> None:
        def unless_gone() -> None:
            if not self._gone.is_set():
                call()

        self._loop.call_soon(unless_gone)

    def _environ(self, body: bytes) -> dict[str, Any]:
        request = self._request
        path, _, query = request.target.partition("?")
        environ: dict[str, Any] = {
            "REQUEST_METHOD": request.method,
            "SCRIPT_NAME": "",
            "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
            "QUERY_STRING": query,
            "RAW_URI": request.target,
            "REQUEST_URI": request.target,
            "SERVER_NAME": self._address[0],
            "SERVER_PORT": str(self._address[1]),
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": self._connection.peer,
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(body),
            "wsgi.input_terminated": True,
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
            "gunicorn.socket": self._connection.socket,
            "middleware.client_gone": self._gone,
        }
        for name, value in request.headers:
            self._add_header(environ, name, value)
        if "HTTP_TRANSFER_ENCODING" in environ:
            # The body is here as a whole, its chunks undone.
            del environ["HTTP_TRANSFER_ENCODING"]
            environ["CONTENT_LENGTH"] = str(len(body))
        return environ

    @staticmethod
    def _add_header(environ: dict[str, Any], name: str, value: str) -> None:
        if "_" in name:
            return  # it would pass for the header that has a hyphen there
        key = name.upper().replace("-", "_")
        key = key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"
        joint = "; " if key == "HTTP_COOKIE" else ","
        environ[key] = f"{environ[key]}{joint}{value}" if key in environ else value
