"""
The events of one stream on their way from the upstream to the caller, without an exchange: cut, watched and judged by
the same functions that `readers.StreamReader` uses, and passed on as they came. Pure.

Most chunks hold one whole event of mere output and go out untouched. Whatever is not part of a good stream ends that:
`odd` says that an exchange has to go on, and `part` and `rest` hold what it has not been told.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from app.formats.base import Call, Format, Mark, StreamWatcher, Usage
from app.formats.sse import Splitter
from app.keys.base import Lease
from app.proxy.readers import PATIENT
from app.proxy.routing import Route

#: The line before a chunk as it is mostly written: RFC 9112 section 7.1, without extensions and needless zeros.
_CHUNK = re.compile(rb"([1-9A-Fa-f][0-9A-Fa-f]{0,6})\r\n")
_SIZE_BEGUN = re.compile(rb"[1-9A-Fa-f][0-9A-Fa-f]{0,6}\r?")
#: How a chunked body ends that has no trailers.
LAST_CHUNK = b"0\r\n\r\n"
#: What may wait for the end of its chunk, of its event or of the prologue.
MAX_WAITING_BYTES = 64 * 1024


class Passing:
    """
    call         -- what the stream answers
    rename       -- the model name that the caller asked for, where another one was sent
    strip_usage  -- the usage chunk was our wish, not the caller's

    committed  -- the stream has told something: what `feed` returns may go out
    complete   -- it has come to its good end: `tail` is what the caller gets after that, `rest` what came behind it
    odd        -- it does not go on here
    size       -- bytes of events that went out
    part       -- the beginning of an event, or an event that is odd: out of its chunk already
    rest       -- bytes that came and were not understood
    """

    __slots__ = (
        "_format",
        "_held",
        "_splitter",
        "_terminator",
        "committed",
        "complete",
        "odd",
        "part",
        "rename",
        "rest",
        "size",
        "strip_usage",
        "tail",
        "watcher",
    )

    def __init__(self, call: Call, *, rename: str | None, strip_usage: bool) -> None:
        self.watcher: StreamWatcher = call.match.format.watcher(call)
        self.committed = self.complete = self.odd = False
        self.size = 0
        self.part = self.rest = self.tail = b""
        self._format: Format = call.match.format
        self._terminator = call.match.format.terminator(call)
        self.rename = rename
        self.strip_usage = strip_usage
        self._held = b""
        self._splitter: Splitter | None = None  # from the first chunk on that is not one whole event

    def feed(self, came: bytes) -> bytes:
        """The chunks that go to the caller now that these bytes have come."""
        data = self.rest + came if self.rest else came
        out: list[bytes] = []
        at = passed = 0  # understood so far, and handed on so far
        while not (self.odd or self.complete):
            chunk = _CHUNK.match(data, at)
            if chunk is None:
                break
            begin = chunk.end()
            end = begin + int(chunk[1], 16)
            if end + 2 > len(data):
                break
            if data[end : end + 2] != b"\r\n":
                self.odd = True
                break
            body = data[begin:end]
            kept = self._judge(body)
            if kept is not body:
                out.append(data[passed:at])
                out.append(_chunk(kept))
                passed = end + 2
            self.size += len(kept)
            at = end + 2
        self.rest = data[at:]
        if self.rest and not (self.odd or self.complete):
            self._look_at_rest()
        out.append(data[passed:at])
        return self._ready(b"".join(out) if passed else out[0])

    def settle(self) -> Usage:
        """Take stock at the end."""
        return self.watcher.settle()

    def _ready(self, ready: bytes) -> bytes:
        if not self.committed:
            self._held += ready
            self.odd = self.odd or len(self._held) > MAX_WAITING_BYTES
            return b""
        if self._held:
            ready, self._held = self._held + ready, b""
        return ready

    def _judge(self, body: bytes) -> bytes:
        """What goes out of the body of a chunk. `body` itself where that is all."""
        if self._splitter is not None or not _is_one_event(body):
            return self._cut(body)
        mark = self.watcher.watch(body)
        if mark is Mark.OUTPUT and self.committed and self.rename is None:
            return body
        return self._place(body, mark)

    def _place(self, event: bytes, mark: Mark) -> bytes:
        """What goes out of a whole event."""
        if mark is Mark.ERROR:
            self.odd, self.part = True, event
            return b""
        if mark is Mark.USAGE_ONLY and self.strip_usage:
            return b""
        if mark is Mark.TERMINATOR:
            # A stream that has told nothing may be an empty answer: that is not for us to judge.
            self.odd, self.complete = not self.committed, self.committed
        elif mark not in PATIENT and not self.watcher.state.empty:
            self.committed = True
        return event if self.rename is None else self._format.rename_model(event, self.rename)

    def _cut(self, body: bytes) -> bytes:
        """The same where the borders of chunks are not those of events."""
        if self._splitter is None:
            self._splitter = Splitter()
        splitter, kept = self._splitter, b""
        whole = splitter.is_empty
        events = splitter.feed(body)
        for number, event in enumerate(events):
            kept += self._place(event, self.watcher.watch(event))
            if self.complete:
                return kept
            if self.odd:
                self.part += b"".join(events[number + 1 :])
                break
        self.odd = self.odd or splitter.waiting_bytes > MAX_WAITING_BYTES
        return body if whole and kept == body else kept

    def _look_at_rest(self) -> None:
        """What is left is the end, or the beginning of a chunk, or odd."""
        rest = self.rest
        if rest == LAST_CHUNK:
            self._end()
        elif not LAST_CHUNK.startswith(rest) and (len(rest) > MAX_WAITING_BYTES or not _is_begun(rest)):
            self.odd = True

    def _end(self) -> None:
        """The upstream ended the body without a terminator, which some formats do not have."""
        between_events = self._splitter is None or self._splitter.is_empty
        if not (self.committed and self.watcher.state.finished and between_events):
            self.odd = True
            return
        self.complete = True
        if not self.watcher.state.terminated:
            last = self._terminator
            self.size += len(last)
            self.tail = _chunk(last)

    def hand_over(self) -> None:
        """Nothing more is fed: what waits here of an event goes to `part`."""
        if self._splitter is not None:
            self.part += self._splitter.rest()
        self.odd = True


def _chunk(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body) if body else b""


def _is_one_event(body: bytes) -> bool:
    """Whether the body of a chunk is one whole event that ends like most do."""
    size = len(body)
    return size > 2 and body.find(b"\n\n") == size - 2 and b"\r" not in body


def _is_begun(data: bytes) -> bool:
    """Whether these bytes are the beginning of one chunk, written as most are."""
    chunk = _CHUNK.match(data)
    if chunk is None:
        return _SIZE_BEGUN.fullmatch(data) is not None
    return len(data) < chunk.end() + int(chunk[1], 16) + 2


@dataclass(frozen=True, slots=True)
class Flow:
    """
    A stream that was passed on so far, for the exchange that goes on with it. Instants are monotonic seconds.

    call           -- without its body, of which nothing is needed any more
    rename, strip_usage -- as for Passing
    admitted       -- a place among the running requests is held
    began_at       -- when the request was sent
    first_at       -- when the caller got its first byte
    heard_at       -- when the last bytes came
    spoke_at       -- when the caller got its last bytes
    request_bytes  -- of the caller's body
    part           -- of the answer's body, not passed on
    is_defective   -- something was lost by a defect of ours: the stream can't go on
    """

    call: Call
    route: Route
    lease: Lease
    rename: str | None
    strip_usage: bool
    watcher: StreamWatcher
    admitted: bool
    began_at: float
    first_at: float
    heard_at: float
    spoke_at: float
    request_bytes: int
    response_bytes: int
    part: bytes
    is_defective: bool
