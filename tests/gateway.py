"""
The whole middleware on a loopback port, in this process: the real application, the real stores on a temporary SQLite
file, over real HTTP. Its three built-in providers point at scripted upstreams.
"""

from __future__ import annotations

import dataclasses
import json
import socket
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import urllib3
from werkzeug.serving import WSGIRequestHandler, make_server

from app import create_app
from app.clock import Clock
from app.config import Config
from app.context import Services
from app.lifecycle import Lifecycle
from app.vault import mask
from tests.loop_server import LoopServer

WAIT_S = 5.0
#: What serves where a test says nothing else: `threads`, the WSGI application under a plain server, or `loop`.
DRIVER = "loop"

KEYS = {"openai": "sk-test-openai-key-%04d", "anthropic": "sk-ant-test-key-%04d", "gemini": "AIza-test-gemini-key-%04d"}


class _Calm:
    """A file of a socket for which a reset is the end."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def read(self, size: int = -1) -> bytes:
        try:
            return bytes(self._file.read(size))
        except ConnectionError:
            return b""


class _Handler(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        # Where a caller resets its connection, werkzeug would never close the answer's body.
        self.rfile = _Calm(self.rfile)  # type: ignore[assignment]

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        return None

    def log_error(self, format: str, *args: Any) -> None:
        return None


class _ThreadServer:
    """The WSGI application under werkzeug's server, a thread for each connection."""

    def __init__(self, application: Any) -> None:
        self._server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=_Handler)
        self.port = self._server.server_port
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, name="test-server", daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    def settle(self) -> None:
        """Nothing to wait for: a request is recorded before its last byte goes out."""

    def quiet(self) -> None:
        """Nothing to wait for: all that runs is counted."""

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(WAIT_S)


class Answer:
    """A complete answer."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status = status
        self.headers = {name.lower(): value for name, value in headers.items()}
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Gateway:
    """`with Gateway(tmp_path, openai=provider.origin) as gateway:`"""

    def __init__(
        self,
        folder: Path,
        *,
        openai: str = "",
        anthropic: str = "",
        gemini: str = "",
        environ: Mapping[str, str] | None = None,
        settings: Mapping[str, Any] | None = None,
        verify_with: str | None = None,
        clock: Clock | None = None,
        driver: str | None = None,
    ) -> None:
        given = {
            "DB_PATH": str(folder / "keys.db"),
            "ENCRYPTION_KEY": "a passphrase that only tests use",
            "SECRET_KEY": "a secret that only tests use",
            "OPENAI_BASE_URL": openai or "http://127.0.0.1:9",
            "ANTHROPIC_BASE_URL": anthropic or "http://127.0.0.1:9",
            "GEMINI_BASE_URL": gemini or "http://127.0.0.1:9",
            "RETRY_BACKOFF_FACTOR": "0",
            **(environ or {}),
        }
        self.config = Config.from_env(given)
        self.app = create_app(self.config, clock=clock, verify_with=verify_with)
        self.services: Services = self.app.extensions["middleware"]
        self.lifecycle: Lifecycle = self.app.extensions["middleware_lifecycle"]
        if settings:
            self.services.live_settings.update(dict(settings))
        self._server = {"threads": _ThreadServer, "loop": LoopServer}[driver or DRIVER](self.app)
        self.port = self._server.port
        self.origin = f"http://127.0.0.1:{self.port}"
        self._pool = urllib3.PoolManager(retries=False, maxsize=64)

    def __enter__(self) -> Gateway:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.clear()
        self._server.stop()
        self.lifecycle.stop()

    # -- keys -------------------------------------------------------------------------------------

    def add_keys(self, provider: str, count: int = 1, **fields: Any) -> list[str]:
        """Add so many keys; returns their values, in the order of their ids."""
        pattern = KEYS.get(provider, provider + "-test-key-%04d")
        values = [pattern % number for number in range(1, count + 1)]
        for value in values:
            self.services.keys.add(value, provider=provider, name=value[-4:], **fields)
        return values

    def key(self, value: str) -> dict[str, Any]:
        """The state of the key with this value, as the admin API shows it."""
        for row in self.services.keys.list_keys():
            if row["key_value"] == mask(value):
                return row
        raise AssertionError(f"no key {value}")

    def set(self, **settings: Any) -> None:
        """Defaults for this process, also beyond the ranges that people may set."""
        live = self.services.live_settings
        live._base = dataclasses.replace(live._base, **settings)
        live.refresh()

    def settle(self) -> None:
        """Wait until what has been decided is in the database."""
        self._server.settle()
        assert self.services.writer.flush(WAIT_S)

    def records(self) -> list[dict[str, Any]]:
        """All request rows, oldest first, attempts decoded."""
        self.settle()
        from app.usage_queries import RequestFilter

        page = self.services.usage_queries.list_requests(RequestFilter(limit=500))
        # Successes and the rest reach the table by two ways.
        return sorted(page["requests"], key=lambda row: (row["started_at"], row["id"]))

    def quiet(self) -> None:
        """Wait until nothing runs any more, so that upstream connections are back in the pool or closed."""
        assert self.lifecycle.wait_idle(5)
        self._server.quiet()

    # -- requests ---------------------------------------------------------------------------------

    def request(
        self, method: str, path: str, *, json_body: Any = None, body: bytes | None = None, headers: Any = None
    ) -> Answer:
        sent = dict(headers or {})
        if json_body is not None:
            body = json.dumps(json_body).encode()
        if body is not None:
            sent.setdefault("Content-Type", "application/json")
        answer = self._pool.request(method, self.origin + path, body=body, headers=sent, timeout=20.0)
        return Answer(answer.status, dict(answer.headers), answer.data)

    def post(self, path: str, json_body: Any, **headers: str) -> Answer:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.request("POST", path, json_body=json_body, headers=sent)

    def get(self, path: str, **headers: str) -> Answer:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.request("GET", path, headers=sent)

    def raw(self) -> RawClient:
        """A plain socket, for what no HTTP library would send or bear."""
        return RawClient(self.port)


class RawClient:
    """A client on a socket. `rest()` reads to the end, and tells whether the chunked body ended as it should."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=WAIT_S)
        self._buffer = b""

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def post(self, path: str, body: Any, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = [
            f"POST {path} HTTP/1.1",
            "Host: localhost",
            "Content-Type: application/json",
            f"Content-Length: {len(data)}",
        ]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.send("\r\n".join([*lines, "", ""]).encode() + data)

    def until(self, mark: bytes) -> bytes:
        """Everything up to and including `mark`."""
        while mark not in self._buffer:
            data = self.socket.recv(65536)
            if not data:
                raise EOFError(self._buffer)
            self._buffer += data
        end = self._buffer.index(mark) + len(mark)
        found, self._buffer = self._buffer[:end], self._buffer[end:]
        return found

    def take(self, most: int) -> bytes:
        """At least one of the next bytes, at most so many. Raises EOFError at the end."""
        if not self._buffer:
            self._buffer = self.socket.recv(65536)
            if not self._buffer:
                raise EOFError
        found, self._buffer = self._buffer[:most], self._buffer[most:]
        return found

    def exactly(self, size: int) -> bytes:
        """So many bytes."""
        while len(self._buffer) < size:
            data = self.socket.recv(65536)
            if not data:
                raise EOFError(self._buffer)
            self._buffer += data
        found, self._buffer = self._buffer[:size], self._buffer[size:]
        return found

    def head(self) -> tuple[int, dict[str, str]]:
        """The status and the headers."""
        lines = self.until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:] if line)
        return int(lines[0].split()[1]), {name.lower(): value for name, value in headers.items()}

    def rest(self) -> tuple[bytes, bool]:
        """(the chunked body that is still to come, whether it ended with its final chunk)."""
        data, self._buffer = self._buffer, b""
        try:
            while not data.endswith(b"0\r\n\r\n") and (part := self.socket.recv(65536)):
                data += part
        except ConnectionResetError:
            pass
        return unchunk(data)


def unchunk(data: bytes) -> tuple[bytes, bool]:
    """The bytes of a chunked body, and whether the final chunk is there."""
    body = b""
    while data:
        line, found, data = data.partition(b"\r\n")
        if not found:
            return body, False
        size = int(line, 16)
        if size == 0:
            return body, True
        body += data[:size]
        data = data[size + 2 :]
    return body, False
