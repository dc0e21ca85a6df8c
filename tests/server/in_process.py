"""The event loop with real client connections, on a thread of this process; the test chooses who serves requests."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterable
from types import TracebackType

from app.errors import MiddlewareError
from app.proxy.events import ClientHead
from app.server.connection import Connection
from app.server.handler import Handler
from app.server.loop import READ, Loop
from app.server.requests import Request
from app.server.uploads import Uploads

WAIT_S = 20.0
ECHO_LIMIT_BYTES = 64 * 1024 * 1024


class Serving:
    """What all handlers of these tests have in common: they answer whole, and note what they are told."""

    def __init__(self, connection: Connection, request: Request) -> None:
        self.connection = connection
        self.request = request
        self.is_gone = threading.Event()
        self.is_paused = threading.Event()
        self.started = threading.Event()

    def start(self) -> None:
        self.started.set()

    def body(self, data: bytes) -> None:
        raise AssertionError("nobody asked for it")

    def gone(self) -> None:
        self.is_gone.set()

    def drain(self) -> None:
        """Nothing runs here for long."""

    def pause(self, paused: bool) -> None:
        if paused:
            self.is_paused.set()
        else:
            self.is_paused.clear()

    def refuse(self, error: MiddlewareError) -> None:
        self.answer(error.code.encode(), error.status)

    def answer(self, body: bytes, status: int = 200) -> None:
        self.connection.head(ClientHead(status, [], len(body)))
        self.connection.data(body)
        self.connection.finish()


class Echo(Serving):
    """Says what it was asked, as JSON."""

    def start(self) -> None:
        super().start()
        self.connection.want_body(ECHO_LIMIT_BYTES)

    def body(self, data: bytes) -> None:
        self.data = data
        request = self.request
        said = {"target": request.target, "headers": request.headers, "body": data.decode("latin-1")}
        self.answer(json.dumps({"method": request.method, **said}).encode())


class LoopServer:
    """`with LoopServer(Echo) as server:`; `handlers` are those that have been made, in order."""

    def __init__(self, serve: Callable[[Connection, Request], Handler], room: Uploads | None = None) -> None:
        self.loop = Loop()
        self.room = room or Uploads()
        self.connections: set[Connection] = set()
        self.handlers: list[Handler] = []
        self._serve = serve
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="loop", daemon=True)
        self.loop.register(self._listener.fileno(), READ, self._accept)

    def __enter__(self) -> LoopServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.loop.call_soon(self._end)
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()
        self._listener.close()
        self.loop.close()

    def connect(self, **options: int) -> socket.socket:
        """A client's socket; `rcvbuf` sets the size of its buffer."""
        client = socket.socket()
        if "rcvbuf" in options:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, options["rcvbuf"])
        client.settimeout(WAIT_S)
        client.connect(("127.0.0.1", self.port))
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return client

    def _accept(self, _event: int) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(self.loop, sock, "127.0.0.1", self._handler, self.connections.discard, self.room)
            self.connections.add(connection)

    def _handler(self, connection: Connection, request: Request) -> Handler:
        handler = self._serve(connection, request)
        self.handlers.append(handler)
        return handler

    def _run(self) -> None:
        while not self._ended:
            self.loop.turn()

    def _end(self) -> None:
        for connection in list(self.connections):
            connection.close()
        self._ended = True


def read_all(client: socket.socket) -> bytes:
    """Everything until the server closes. Raises TimeoutError where it does not; a reset is an end too."""
    received = b""
    try:
        while part := client.recv(65536):
            received += part
    except ConnectionResetError:
        pass
    return received


def talk(server: LoopServer, pieces: list[bytes], *, half_close: bool = True) -> bytes:
    """Send these, say that nothing more comes, and read to the end."""
    with server.connect() as client:
        try:
            for piece in pieces:
                client.sendall(piece)
            if half_close:
                client.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError, OSError):
            pass  # it was refused before its end
        return read_all(client)


def answers(received: bytes, methods: Iterable[str] = ()) -> list[tuple[int, dict[str, str], bytes]]:
    """(status, headers, body) of all final answers that have a length, given the methods that were asked with."""
    found = []
    asked = iter(methods)
    while received:
        head, mark, received = received.partition(b"\r\n\r\n")
        assert mark, head
        first, *lines = head.decode("latin-1").split("\r\n")
        status = int(first.split(" ")[1])
        if status < 200:
            continue
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        size = 0 if next(asked, "") == "HEAD" else int(headers["content-length"])
        assert len(received) >= size
        found.append((status, headers, received[:size]))
        received = received[size:]
    return found
