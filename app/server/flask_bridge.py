"""
Runs the Flask application for one request on a thread of the pool: a complete request in, an answer out through a
queue from which the loop feeds the client as fast as that reads. The thread waits for a slow client only before it
makes more than `QUEUE_BYTES`: an answer that is there as a whole holds no thread, so that clients who do not read can't
take all of them.

Source: PEP 3333.
"""

from __future__ import annotations

import logging
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import unquote_to_bytes

from app.errors import MiddlewareError, Overloaded, RequestTooLarge
from app.formats import json_body
from app.proxy.events import ClientHead
from app.server.connection import Connection
from app.server.loop import Loop
from app.server.requests import Request

log = logging.getLogger(__name__)

#: Each route has a smaller limit of its own.
MAX_FLASK_BODY_BYTES = 64 * 1024 * 1024
#: How long a thread waits for a client that does not read.
STALLED_S = 60.0
#: What of an answer may wait for its client before the thread makes more of it, and what is sent at once.
QUEUE_BYTES = 256 * 1024
PIECE_BYTES = 64 * 1024

_BODILESS = frozenset({204, 304})


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
        self._head_sent = False
        self._left: int | None = None  # of the length that the head names
        self._gone = threading.Event()
        self._line: socket.socket | None = None
        self._moved = threading.Condition()
        self._queued = 0
        # On the loop: what waits for the client, and what is to be done when all of it is sent.
        self._parts: deque[memoryview] = deque()
        self._paused = False
        self._whole_answer = False

    # -- on the loop ----------------------------------------------------------------------------------

    def start(self) -> None:
        if int(self._request.header("content-length") or 0) > MAX_FLASK_BODY_BYTES:
            self.refuse(RequestTooLarge("The body is too large."))
        else:
            self._connection.want_body(MAX_FLASK_BODY_BYTES, self._whole)

    def body(self, data: bytes) -> None:  # noqa: ARG002 - only what is too large comes this way
        self.refuse(RequestTooLarge("The body is too large."))

    def _whole(self) -> None:
        try:
            self._pool.submit(self._run)
        except RuntimeError:  # the pool is shut down
            self._request.drop_body()
            self.refuse(Overloaded("The server is shutting down.", code="shutting_down"))

    def gone(self) -> None:
        with self._moved:
            self._gone.set()
            self._moved.notify_all()
        self._parts.clear()
        if self._line is not None:
            self._line.close()

    def drain(self) -> None:
        """Admin calls are short; a relay inside Flask watches the drain by itself."""

    def pause(self, paused: bool) -> None:
        self._paused = paused
        if not paused:
            self._loop.call_soon(self._feed)

    def refuse(self, error: MiddlewareError) -> None:
        body = json_body.dumps({"success": False, "error": str(error), "code": error.code})
        self._connection.head(ClientHead(error.status, [("Content-Type", "application/json")], len(body)))
        self._connection.data(body)
        self._connection.finish()

    def _take(self, part: bytes) -> None:
        self._parts.append(memoryview(part))
        self._feed()

    def _take_end(self) -> None:
        self._whole_answer = True
        self._feed()

    def _feed(self) -> None:
        """Send what waits, as long as the client reads."""
        while self._parts and not self._paused and not self._gone.is_set():
            part = self._parts.popleft()
            piece, rest = part[:PIECE_BYTES], part[PIECE_BYTES:]
            if rest:
                self._parts.appendleft(rest)
            self._connection.data_now(bytes(piece))
            with self._moved:
                self._queued -= len(piece)
                self._moved.notify_all()
        if self._whole_answer and not self._parts and not self._gone.is_set():
            self._whole_answer = False
            self._connection.finish()

    # -- on the thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        answer: Iterable[bytes] = ()
        watched: socket.socket | None = None
        try:
            if not self._gone.is_set():
                watched = self._watch()
                answer = self._application(self._environ(watched), self._start_response)
                self._relay(answer)
        except ConnectionError:
            self._tell(self._connection.abort)
        except Exception:  # noqa: BLE001 - the top level: whatever it was, the client sees a broken answer
            log.exception("the application failed")
            self._tell(self._broke)
        finally:
            close = getattr(answer, "close", None)
            if close is not None:
                close()
            for line in (watched, self._line):
                if line is not None:
                    line.close()
            self._loop.call_soon(self._request.drop_body)

    def _relay(self, answer: Iterable[bytes]) -> None:
        for part in answer:
            if part:
                self._send(part)
        self._send_head()
        if self._left:
            raise ValueError("the answer is shorter than its Content-Length")
        self._tell(self._take_end)

    def _broke(self) -> None:
        if self._head_sent:
            self._connection.abort()
        else:
            self.refuse(MiddlewareError())

    def _watch(self) -> socket.socket | None:
        """
        A socket that ends when the client leaves: the loop closes the client's own at any time, and a thread that
        polled it would then poll somebody else's. None where there is no descriptor for it.
        """
        try:
            self._line, watched = socket.socketpair()
        except OSError:
            return None
        if self._gone.is_set():
            self._line.close()
        return watched

    def _start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        if exc_info is not None and self._head_sent:
            raise exc_info[1].with_traceback(exc_info[2])
        length = next((value for name, value in headers if name.lower() == "content-length"), None)
        kept = [(name, value) for name, value in headers if name.lower() not in ("content-length", "connection")]
        code = int(status.split(" ", 1)[0])
        self._head = ClientHead(code, kept, int(length) if length is not None else None)
        self._left = None if code in _BODILESS or self._request.method == "HEAD" else self._head.length
        return self._send

    def _send_head(self) -> None:
        head = self._head
        if self._head_sent:
            return
        if head is None:
            raise ValueError("the application did not begin its answer")
        self._head_sent = True
        self._tell(lambda: self._connection.head(head))

    def _send(self, part: bytes) -> None:
        """Raises ConnectionResetError when the client left, or does not read for too long."""
        self._send_head()
        if self._left is not None:
            self._left -= len(part)
            if self._left < 0:
                raise ValueError("the answer is longer than its Content-Length")
        with self._moved:
            if not self._moved.wait_for(self._may_send, STALLED_S) or self._gone.is_set():
                raise ConnectionResetError("the client left")
            self._queued += len(part)
        self._tell(lambda: self._take(part))

    def _may_send(self) -> bool:
        return self._gone.is_set() or self._queued < QUEUE_BYTES

    def _tell(self, call: Callable[[], object]) -> None:
        def unless_gone() -> None:
            if not self._gone.is_set():
                call()

        self._loop.call_soon(unless_gone)

    def _environ(self, watched: socket.socket | None) -> dict[str, Any]:
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
            "SERVER_PROTOCOL": f"HTTP/{request.version}",
            "REMOTE_ADDR": self._connection.peer,
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": request.open_body(),
            "wsgi.input_terminated": True,
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
            "middleware.client_gone": self._gone,
        }
        if watched is not None:
            environ["gunicorn.socket"] = watched
        for name, value in request.headers:
            self._add_header(environ, name, value)
        if "HTTP_TRANSFER_ENCODING" in environ:
            # The body is here as a whole, its chunks undone.
            del environ["HTTP_TRANSFER_ENCODING"]
            environ["CONTENT_LENGTH"] = str(request.size)
        return environ

    @staticmethod
    def _add_header(environ: dict[str, Any], name: str, value: str) -> None:
        if "_" in name:
            return  # it would pass for the header that has a hyphen there
        key = name.upper().replace("-", "_")
        key = key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"
        joint = "; " if key == "HTTP_COOKIE" else ","
        environ[key] = f"{environ[key]}{joint}{value}" if key in environ else value
