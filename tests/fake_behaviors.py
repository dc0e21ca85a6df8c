"""
What the fake provider can do with one request: each behavior is a tuple of small steps on the raw connection.

    reply(200, {"x": "1"}, b"body")                       one whole answer
    stream([b"data: 1\n\n", wait_for(go), b"data: 2\n\n"])  chunks, with a pause that the test ends
    early_hints_then(json_reply({}))                      behaviors are made of behaviors
    Behavior((send(b"HTTP/1.1 200 OK\r\n"), reset()))     or of steps, byte by byte

Pauses end by a `threading.Event` or by the peer's leaving, never by chance.
"""

from __future__ import annotations

import gzip
import json
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Protocol

#: A pause that nobody ends is over after this long, so that a failing test does not hang.
LONGEST_PAUSE_S = 30.0


class Exchange(Protocol):
    """One request on one connection, as the steps see it."""

    method: str

    def send(self, data: bytes) -> None:
        """Write all of it. Raises ConnectionGone when the peer has left."""

    def pause(self, event: threading.Event | None, longest_s: float) -> None:
        """Wait for the event. Raises ConnectionGone when the peer leaves or the provider stops meanwhile."""

    def close(self, *, reset: bool) -> None:
        """End the connection (raises ConnectionGone): with FIN, or with RST."""


Step = Callable[[Exchange], None]
HeaderList = Mapping[str, str] | Iterable[tuple[str, str]]
Piece = bytes | str | Step


class ConnectionGone(Exception):
    """This connection is over. `by` says who ended it: `client` or `provider`."""

    def __init__(self, by: str) -> None:
        super().__init__(by)
        self.by = by


@dataclass(frozen=True)
class Behavior:
    """Steps to run for one request. After the last one the connection is kept alive, unless a step ended it."""

    steps: tuple[Step, ...]

    def __call__(self, exchange: Exchange) -> None:
        for step in self.steps:
            step(exchange)

    def then(self, *more: Piece | Behavior) -> Behavior:
        """This behavior, and then these steps."""
        return Behavior(self.steps + _steps(more))


# -- steps --------------------------------------------------------------------------------------------


def send(data: bytes) -> Step:
    """Write raw bytes."""
    return lambda exchange: exchange.send(data)


def wait_for(event: threading.Event, longest_s: float = LONGEST_PAUSE_S) -> Step:
    """Go on when the event is set."""
    return lambda exchange: exchange.pause(event, longest_s)


def delay(seconds: float) -> Step:
    """Go on after this long; for faults that are about time itself."""
    return lambda exchange: exchange.pause(None, seconds)


def signal(event: threading.Event) -> Step:
    """Tell the test that this point was reached."""
    return lambda exchange: event.set()


def silence() -> Step:
    """Say nothing until the peer leaves or the provider stops."""
    return lambda exchange: exchange.pause(None, float("inf"))


def close() -> Step:
    """End the connection cleanly (FIN)."""
    return lambda exchange: exchange.close(reset=False)


def reset() -> Step:
    """End the connection with RST."""
    return lambda exchange: exchange.close(reset=True)


def pieces(*parts: Piece) -> Behavior:
    """Raw bytes and steps, in order; nothing is added."""
    return Behavior(_steps(parts))


def _steps(parts: Iterable[Piece | Behavior]) -> tuple[Step, ...]:
    found: list[Step] = []
    for part in parts:
        if isinstance(part, Behavior):
            found.extend(part.steps)
        elif isinstance(part, str):
            found.append(send(part.encode()))
        elif isinstance(part, bytes):
            found.append(send(part))
        else:
            found.append(part)
    return tuple(found)


# -- whole answers ------------------------------------------------------------------------------------


def head(status: int, headers: HeaderList = (), reason: str | None = None) -> bytes:
    """Return the status line and the headers, blank line included; nothing is added."""
    if reason is None:
        reason = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "Custom"
    listed = headers.items() if isinstance(headers, Mapping) else headers
    lines = "".join(f"{name}: {value}\r\n" for name, value in listed)
    return f"HTTP/1.1 {status} {reason}\r\n{lines}\r\n".encode("latin-1")


def reply(status: int = 200, headers: HeaderList = (), body: bytes | str = b"", reason: str | None = None) -> Behavior:
    """A whole answer with Content-Length (none for 204 and 304; no body for HEAD)."""
    data = body.encode() if isinstance(body, str) else body
    listed = list(headers.items() if isinstance(headers, Mapping) else headers)
    if status not in (204, 304):
        listed.append(("Content-Length", str(len(data))))
    start = head(status, listed, reason)
    return Behavior((lambda exchange: exchange.send(start if exchange.method == "HEAD" else start + data),))


def json_reply(obj: Any, status: int = 200, headers: HeaderList = ()) -> Behavior:
    """A whole JSON answer."""
    listed = list(headers.items() if isinstance(headers, Mapping) else headers)
    return reply(status, [("Content-Type", "application/json"), *listed], json.dumps(obj).encode())


def stream(
    chunks: Iterable[Piece],
    delay_s: float = 0.0,
    *,
    chunked: bool = True,
    headers: HeaderList = (),
    content_type: str = "text/event-stream",
    status: int = 200,
    end: str = "end",
) -> Behavior:
    """
    A streamed answer. Each element is one write (bytes or text) or a step such as `wait_for(event)` or `reset()`.

    delay_s  -- pause between two writes
    chunked  -- False: no framing, the closing of the connection is the end
    end      -- after the last element: `end` (as the framing says), `close` (FIN without the final chunk),
                `reset` (RST), `hang` (nothing more, socket open), `terminated_hang` (final chunk, then nothing)
    """
    framing = ("Transfer-Encoding", "chunked") if chunked else ("Connection", "close")
    listed = list(headers.items() if isinstance(headers, Mapping) else headers)
    steps: list[Step] = [send(head(status, [("Content-Type", content_type), framing, *listed]))]
    for number, part in enumerate(chunks):
        if delay_s and number:
            steps.append(delay(delay_s))
        if callable(part):
            steps.append(part)
        else:
            data = part.encode() if isinstance(part, str) else part
            steps.append(send(chunk(data) if chunked else data))
    return Behavior(tuple(steps) + _ending(end, chunked))


def chunk(data: bytes) -> bytes:
    """`data` as one chunk of RFC 9112, section 7.1."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def _ending(end: str, chunked: bool) -> tuple[Step, ...]:
    last = (send(b"0\r\n\r\n"),) if chunked else (close(),)
    endings: dict[str, tuple[Step, ...]] = {
        "end": last,
        "close": (close(),),
        "reset": (reset(),),
        "hang": (silence(),),
        "terminated_hang": (*last, silence()),
    }
    return endings[end]


def sliced(data: bytes, size: int = 1) -> list[bytes]:
    """`data` cut into writes of `size` bytes, so that every boundary is met."""
    return [data[start : start + size] for start in range(0, len(data), size)]


def redirect(url: str, status: int = 307) -> Behavior:
    """A redirect to `url`."""
    return reply(status, {"Location": url})


def early_hints_then(behavior: Behavior, *, status: int = 103, times: int = 1) -> Behavior:
    """1xx answers, then the behavior."""
    hint = head(status, {"Link": "</style.css>; rel=preload"} if status == 103 else {})
    return pieces(*[hint] * times).then(behavior)


# -- faults before the first byte ---------------------------------------------------------------------


def hang() -> Behavior:
    """Read the request, never answer."""
    return Behavior((silence(),))


def reset_before_status() -> Behavior:
    """Read the request, then RST."""
    return Behavior((reset(),))


def close_without_answer() -> Behavior:
    """Read the request, then FIN without one byte."""
    return Behavior((close(),))


def reset_after(data: bytes) -> Behavior:
    """Raw bytes, then RST."""
    return Behavior((send(data), reset()))


def garbage_status_line() -> Behavior:
    """Something that is not HTTP."""
    return pieces(b"ICY 200 \x00\xff not http at all\r\n\r\n", close())


def switching_protocols() -> Behavior:
    """101 to a request that never asked for an upgrade."""
    return pieces(head(101, {"Upgrade": "websocket", "Connection": "Upgrade"}), close())


def huge_header(size: int = 70_000, body: bytes = b"{}") -> Behavior:
    """A valid answer with one header of `size` bytes."""
    return reply(200, {"Content-Type": "application/json", "X-Huge": "h" * size}, body)


def many_headers(count: int = 1000, body: bytes = b"{}") -> Behavior:
    """A valid answer with `count` headers."""
    return reply(200, [("Content-Type", "application/json"), *((f"X-Many-{n}", "m") for n in range(count))], body)


# -- faults in the body -------------------------------------------------------------------------------


def short_content_length(body: bytes = b'{"half":', declared: int | None = None, *, rst: bool = False) -> Behavior:
    """Content-Length promises more than is sent (default: ten bytes more), then FIN or RST."""
    promised = len(body) + 10 if declared is None else declared
    start = head(200, {"Content-Type": "application/json", "Content-Length": str(promised)})
    return pieces(start + body, reset() if rst else close())


def chunked_without_end(chunks: Iterable[Piece] = (b'{"half":',), *, rst: bool = False) -> Behavior:
    """A chunked JSON answer without its final chunk, then FIN or RST."""
    return stream(chunks, content_type="application/json", end="reset" if rst else "close")


def encoded_body(encoding: str, body: bytes, content_type: str = "application/json") -> Behavior:
    """`body` as it is, declared as `encoding`: for codings made elsewhere, and for declarations that lie."""
    return reply(200, {"Content-Type": content_type, "Content-Encoding": encoding}, body)


def gzip_body(body: bytes, content_type: str = "application/json") -> Behavior:
    """`body` in gzip."""
    return encoded_body("gzip", gzip.compress(body, mtime=0), content_type)


def deflate_body(body: bytes, content_type: str = "application/json") -> Behavior:
    """`body` in deflate (zlib wrapping)."""
    return encoded_body("deflate", zlib.compress(body), content_type)


def truncated_gzip(body: bytes, keep: int = -12) -> Behavior:
    """gzip whose last bytes are missing although Content-Length is right."""
    return encoded_body("gzip", gzip.compress(body, mtime=0)[:keep])


def gzip_bomb(decoded_bytes: int = 64 * 1024 * 1024) -> Behavior:
    """A small gzip body that decodes to `decoded_bytes` zeros. It is made once, a megabyte at a time."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    block = bytes(1024 * 1024)
    parts = [packer.compress(block) for _ in range(decoded_bytes // len(block))]
    return encoded_body("gzip", b"".join(parts) + packer.flush())


def big_body(total_bytes: int, *, block: bytes = b" " * 65536, before: bytes = b"", after: bytes = b"") -> Behavior:
    """A long answer of known length: `before`, filler, `after`; never whole in memory."""
    filler = total_bytes - len(before) - len(after)
    start = head(200, {"Content-Type": "application/json", "Content-Length": str(total_bytes)})

    def write(exchange: Exchange) -> None:
        exchange.send(start + before)
        for _ in range(filler // len(block)):
            exchange.send(block)
        exchange.send(block[: filler % len(block)] + after)

    return Behavior((write,))


def timed(record: list[float]) -> Step:
    """Append the monotonic instant at which this step ran."""
    return lambda exchange: record.append(time.monotonic())
